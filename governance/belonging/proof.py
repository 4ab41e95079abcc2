"""Proves by its rows that a home wrote a lake without fingerprints: only this home can read them."""

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
"""Files that are read of each table; a few suffice, because all rows of a lake come from one home."""

_DOMAIN = "patient-identifier"


def prove(storage: Storage, keys: KeyRing, vault: Vault) -> bool:
    """Check that this home wrote the lake; a lake without rows that could show it is taken for the home's own.

    In every dataset, at least one published pseudonym must be made by a version of the home's key, and at least one
    sealed patient id must open with a key of its vault and match the row's subject. Erased patients do not count.

    Returns:
        False: a table cannot be read, so it is not certain yet. This is no error, so that the lake can be repaired.

    Raises:
        PrivacyError: another home wrote the lake.
        KeyRevoked, ServiceUnavailable: the key service does not give the keys, so nobody can tell.
    """
    is_certain = True
    for name in published_datasets():
        try:
            if storage.holds_table(published_name(name)):
                _prove_published(load_dataset(name), storage, keys)
            if storage.holds_table(restricted_name(name)):
                _prove_restricted(load_dataset(name), storage, vault)
        except LakeError:
            is_certain = False
    return is_certain


def refuse_other_pseudonyms(storage: Storage, keys: KeyRing) -> None:
    """Check that this home's keys made the pseudonyms of the published rows, as far as these can be read.

    Raises:
        PrivacyError: other keys made them.
    """
    for name in published_datasets():
        with suppress(LakeError):
            if storage.holds_table(published_name(name)):
                _prove_published(load_dataset(name), storage, keys)


def refused(what: str, where: str, remedy: str) -> PrivacyError:
    """Return the error of a home that does not belong to the lake."""
    return PrivacyError(what, where=where, remedy=f"{remedy} Or give this home a lake of its own (lake.uri).")


def _prove_published(dataset: Dataset, storage: Storage, keys: KeyRing) -> None:
    column = next((c.name for c in dataset.columns if c.data_class == _DOMAIN), None)
    has_foreign = False
    for values in _columns(Table(dataset, storage, zone="published"), column) if column else ():
        tokens = [text for text in values.to_pylist() if text and looks_like_token(text)]
        if any(is_token(text, keys, _DOMAIN) for text in tokens):
            return
        has_foreign = has_foreign or bool(tokens)
    if has_foreign:
        raise refused(
            "Pseudonyms in the lake are not made with this home's keys",
            published_name(dataset.name),
            "Restore the key file (settings.keys) of the home that wrote them.",
        )


def _prove_restricted(dataset: Dataset, storage: Storage, vault: Vault) -> None:
    column = next(c.name for c in dataset.columns if c.data_class == _DOMAIN)
    table, has_foreign = Table(restricted_form(dataset), storage, zone="restricted"), False
    for values in _columns(table, column):
        sealed = {subject_of_value(value): value for value in values.to_pylist() if value}
        secrets = vault.secrets(sealed)
        for subject in secrets:
            opened = open_value(sealed[subject], secrets, context=f"{dataset.name}.{column}".encode())
            if opened is not None and vault.subject_of(opened.decode()) == subject:
                return
        has_foreign = has_foreign or any(vault.tombstone(subject) is None for subject in sealed)
    if has_foreign:
        raise refused(
            "Rows in the lake are sealed by another vault",
            restricted_name(dataset.name),
            "Restore vault and key file (settings.vault, settings.keys) of the home that wrote them.",
        )


def _columns(table: Table, column: str) -> Iterator[pa.Array]:
    """Yield the distinct values of a column, file by file, for the first ``_FILES`` files."""
    for file in list(table.snapshot().files.values())[:_FILES]:
        try:
            read = table.storage.read_parquet(file.path, [column])
        except (Damaged, OSError, pa.ArrowException):  # 'lake verify' reports damaged files
            continue
        if column in read.schema.names and read.num_rows:
            values = read[column].combine_chunks()
            yield (values if pa.types.is_dictionary(values.type) else values.dictionary_encode()).dictionary
