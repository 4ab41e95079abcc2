"""A patient's identifiers besides the id, from the identified rows: stays, and current and former record numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from governance.vault import Vault
from governance.vault.sealed_rows import open_value
from vitalake.home import Home
from vitalake.lake.datasets.dataset import SUBJECT
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.deletion import has_value
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.tables.buckets import may_hold
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

CLASSES = ("encounter-identifier", "medical-record-number")


def identifiers_of(settings: Settings, vault: Vault, subject: bytes) -> Mapping[str, set[str]]:
    """Return a patient's identifiers by data class, from the restricted rows.

    The values are sealed with the patient's key, so call this before the key is destroyed.

    Raises:
        KeyRevoked: the key service does not give the patients' keys.
        PrivacyError: a value was changed.
    """
    found: dict[str, set[str]] = defaultdict(set)
    secrets = vault.secrets([subject])
    if not secrets:
        return found
    for name, table in Home(settings).lake().present().items():
        zone, _, dataset = name.rpartition("/")
        classes = {c.name: str(c.data_class) for c in load_dataset(dataset).columns if str(c.data_class) in CLASSES}
        if zone != "restricted" or not classes:
            continue
        for column, values in _sealed(table, subject, list(classes)).items():
            opened = (open_value(sealed, secrets, context=f"{dataset}.{column}".encode()) for sealed in values)
            found[classes[column]] |= {text.decode() for text in opened if text is not None}
    return found


def _sealed(table: Table, subject: bytes, columns: list[str]) -> dict[str, set[bytes]]:
    """Return the distinct sealed values of a patient's rows, by column."""
    table.refresh()
    found: dict[str, set[bytes]] = {column: set() for column in columns}
    for file in table.snapshot().files.values():
        if not may_hold(file.path, subject):
            continue
        for part in read_file(table, file, columns=[SUBJECT.name, *columns]):
            mine = part.filter(has_value(part[SUBJECT.name].combine_chunks(), {subject}))
            for column in columns:
                found[column] |= set(mine[column].unique().to_pylist()) - {None}
    return found
