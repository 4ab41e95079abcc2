"""Proof that a home wrote a lake which has no fingerprints: rows of it that only this home can read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa

from governance.vault import Vault
from governance.vault.sealed_rows import open_value, subject_of_value
from vitalake.errors import LakeError, PrivacyError
from vitalake.keys import KeyRing
from vitalake.lake.commits.lake import published_name, restricted_name
from vitalake.lake.datasets.dataset import Dataset, restricted_form
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import Table
from vitalake.pseudonyms import is_token, looks_like_token

_FILES = 20
"""Files looked into of each table: a lake of one home has no rows of another's in any."""

_DOMAIN = "patient-identifier"


def prove(storage: Storage, keys: KeyRing, vault: Vault) -> bool:
    """Return if this home has written the lake; a lake without rows that could tell is taken for its own.

    False: some table cannot be read, so that nobody can be sure yet; whoever repairs it is not kept out.

    Of every dataset some published pseudonym must be one that a version of the home's key makes, and some sealed
    patient must open with a key of its vault and be who the row says, unless all who could tell are forgotten.

    Raises:
        PrivacyError: it has not.
        KeyRevoked, ServiceUnavailable: nobody can say.
    """
    sure = True
    for name in published_datasets():
        try:
            if storage.holds_table(published_name(name)):
                _prove_published(load_dataset(name), storage, keys)
            if storage.holds_table(restricted_name(name)):
                _prove_restricted(load_dataset(name), storage, vault)
        except LakeError:
            sure = False
    return sure


def refuse_other_pseudonyms(storage: Storage, keys: KeyRing) -> None:
    """Return if the published rows, as far as they can be read, are this home's.

    Raises:
        PrivacyError: pseudonyms in them are made with other keys.
    """
    for name in published_datasets():
        with suppress(LakeError):
            if storage.holds_table(published_name(name)):
                _prove_published(load_dataset(name), storage, keys)


def refused(what: str, where: str, remedy: str) -> PrivacyError:
    """Return the error of a home that is not the lake's."""
    return PrivacyError(what, where=where, remedy=f"{remedy} Or give this home a lake of its own (lake.uri).")


def _prove_published(dataset: Dataset, storage: Storage, keys: KeyRing) -> None:
    column = next((c.name for c in dataset.columns if c.data_class == _DOMAIN), None)
    strange = False
    for values in _columns(Table(dataset, storage, zone="published"), column) if column else ():
        tokens = [text for text in values.to_pylist() if text and looks_like_token(text)]
        if any(is_token(text, keys, _DOMAIN) for text in tokens):
            return
        strange = strange or bool(tokens)
    if strange:
        raise refused(
            "Pseudonyms in the lake are not made with this home's keys",
            published_name(dataset.name),
            "Restore the key file (settings.keys) of the home that wrote them.",
        )


def _prove_restricted(dataset: Dataset, storage: Storage, vault: Vault) -> None:
    column = next(c.name for c in dataset.columns if c.data_class == _DOMAIN)
    table, strange = Table(restricted_form(dataset), storage, zone="restricted"), False
    for values in _columns(table, column):
        sealed = {subject_of_value(value): value for value in values.to_pylist() if value}
        secrets = vault.secrets(sealed)
        for subject in secrets:
            opened = open_value(sealed[subject], secrets, context=f"{dataset.name}.{column}".encode())
            if opened is not None and vault.subject_of(opened.decode()) == subject:
                return
        strange = strange or any(vault.tombstone(subject) is None for subject in sealed)
    if strange:
        raise refused(
            "Rows in the lake are sealed by another vault",
            restricted_name(dataset.name),
            "Restore vault and key file (settings.vault, settings.keys) of the home that wrote them.",
        )


def _columns(table: Table, column: str) -> Iterator[pa.Array]:
    """Yield the distinct values of a column, file by file; of as many files as are looked into."""
    for file in list(table.snapshot().files.values())[:_FILES]:
        try:
            read = table.storage.read_parquet(file.path, [column])
        except (Damaged, OSError, pa.ArrowException):  # that is for 'lake verify' to find
            continue
        if column in read.schema.names and read.num_rows:
            values = read[column].combine_chunks()
            yield (values if pa.types.is_dictionary(values.type) else values.dictionary_encode()).dictionary
