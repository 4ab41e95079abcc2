"""Finds all numbers of one person: numbers that admissions have merged are erased together.

The merge of number 11 into 13 is a row of the associations: it belongs to patient 13 and names the device
``patient:11``, sealed with the key of 13.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from governance.vault import Vault
from governance.vault.sealed_rows import device_key, open_value
from pipelines.attribution.associations import TABLE
from pipelines.formats.shared.records import MERGED
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.commits.lake import Lake
from vitalake.lake.datasets.dataset import DEVICE_KEY, SUBJECT
from vitalake.settings import Settings

_CONTEXT = b"device_association.device_id"
_FORM = pa.schema(
    [
        *((name, pa.binary()) for name in (SUBJECT.name, DEVICE_KEY.name, "device_id", "association_id")),
        ("version", pa.int64()),
        ("status", pa.string()),
    ]
)


def linked_ids_of(settings: Settings, keys: KeyRing, vault: Vault) -> LinkedIds:
    """Return the merged numbers in a home's lake as it is now."""
    lake = Home(settings).lake()
    return LinkedIds(lake, vault, keys.current("vault").secret)


class LinkedIds:
    """The merged numbers in a lake; the rows are read once, and their values are opened when they are needed."""

    def __init__(self, lake: Lake, vault: Vault, secret: bytes) -> None:
        """Prepare.

        Args:
            lake: of the associations.
            vault: of the home.
            secret: of the key ``vault``, for device_key.
        """
        self._vault, self._secret = vault, secret
        self._table = lake.present().get(TABLE)
        self._rows: pa.Table | None = None

    def of(self, patient: str) -> list[str]:
        """Return the ids of all numbers of one person that are not erased; the given one first, erased or not."""
        numbers = [patient]
        for number in numbers:  # the list grows while it is read
            numbers += sorted((self._after(number) | self._before(number)) - set(numbers))
        others = [number for number in numbers[1:] if self._vault.tombstone(self._vault.subject_of(number)) is None]
        return [patient, *others]

    def key_of(self, patient: str) -> bytes:
        """Return the keyed hash that finds the rows in which a number was merged into another."""
        return device_key(self._secret, f"{MERGED}{patient}")

    def forgotten(self) -> list[bytes]:
        """Return the keyed hashes of other patients' rows that name an erased number; opens every association."""
        rows = self._read()
        names = _merged(rows, self._vault.secrets(set(rows[SUBJECT.name].to_pylist()) - {None}))
        erased = [name for name in names if self._vault.tombstone(self._vault.subject_of(name)) is not None]
        return sorted(map(self.key_of, erased))

    def _after(self, patient: str) -> set[str]:
        rows = _without_errors(self._read())
        merges = rows.filter(pc.equal(rows[DEVICE_KEY.name], pa.scalar(self.key_of(patient), pa.binary())))
        return set(self._vault.patient_ids(set(merges[SUBJECT.name].to_pylist()) - {None}).values())

    def _before(self, patient: str) -> set[str]:
        rows, subject = _without_errors(self._read()), self._vault.subject_of(patient)
        mine = rows.filter(pc.equal(rows[SUBJECT.name], pa.scalar(subject, pa.binary())))
        return _merged(mine, self._vault.secrets([subject]))

    def _read(self) -> pa.Table:
        if self._rows is None:
            if self._table is None:
                self._rows = _FORM.empty_table()
            else:
                self._table.refresh()
                self._rows = self._table.scan(columns=_FORM.names).cast(_FORM)
        return self._rows


def _without_errors(rows: pa.Table) -> pa.Table:
    """Return the associations without those whose last version is ``entered-in-error``."""
    doubted = rows.filter(pc.equal(rows["status"], "entered-in-error"))["association_id"].unique()
    if not len(doubted):
        return rows
    last: dict[bytes, tuple[int, str]] = {}
    names = ("association_id", "version", "status")
    for row in rows.filter(pc.is_in(rows["association_id"], value_set=doubted)).select(names).to_pylist():
        version = (row["version"] or 0, row["status"] or "")
        last[row["association_id"]] = max(last.get(row["association_id"], version), version)
    wrong = [name for name, (_, status) in last.items() if status == "entered-in-error"]
    return rows.filter(pc.invert(pc.is_in(rows["association_id"], value_set=pa.array(wrong, pa.binary()))))


def _merged(rows: pa.Table, secrets: dict[bytes, bytes]) -> set[str]:
    """Return the numbers that associations name as their device."""
    sealed = [value for value in rows["device_id"].to_pylist() if value is not None]
    opened = {open_value(value, secrets, context=_CONTEXT) or b"" for value in sealed}
    return {value.decode().removeprefix(MERGED) for value in opened if value.startswith(MERGED.encode())}
