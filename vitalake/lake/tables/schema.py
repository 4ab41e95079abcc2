"""Schema evolution: compares a table's columns with the dataset's, and brings the table to the dataset in one commit.

A nullable column is added, or a type widened, while the table is in use: the commit changes only metadata and no file,
and a concurrent append looks again once. Files written before lack the column or hold the narrower type; they are read
with nulls and casts. Every other change is refused, because it would change the meaning of existing rows.

The table records how it was made: the dataset's revision is a Delta transaction of the commit that brought the table to
it, and each column's metadata hold its data class, its place in the key, and the revision that added it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from vitalake.causes import unavailable
from vitalake.errors import InputError, ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.tables.entry_digests import is_contradicted
from vitalake.lake.tables.log import explained
from vitalake.lake.tables.log_files import has_lost_its_log, is_empty, is_hidden, list_log
from vitalake.lake.tables.storage import Storage

APP = "schema"
"""Application id of the Delta transaction whose version is the dataset's revision that the table was brought to."""

ATTEMPTS = 50

WIDER: dict[pa.DataType, tuple[pa.DataType, ...]] = {
    pa.int16(): (pa.int32(), pa.int64()),
    pa.int32(): (pa.int64(),),
}
"""Type → wider types that hold all its values. Not date → timestamp: Delta widens a date only to a timestamp without a
time zone, and a day is no moment without the zone in which it began."""

_CLASS, _SINCE, _KEY, _DAY = b"vitalake.class", b"vitalake.since", b"vitalake.key", b"vitalake.day"
_WIDENED = b"vitalake.widened"


@dataclass(frozen=True, slots=True)
class Change:
    """A change that ``apply`` makes to a table.

    Attributes:
        kind: to add a column, to widen its type, or (``record``) only to write its metadata, for a table of an earlier
            release that has none.
        column: the column's name.
        detail: its type, or its old and new type.
    """

    kind: Literal["add", "widen", "record"]
    column: str
    detail: str


@dataclass(frozen=True, slots=True)
class SchemaState:
    """A table's columns, compared with the dataset's.

    Attributes:
        revision: the dataset's revision to which the table was brought; 1 if nothing is recorded.
        columns: the columns with which rows are read: the dataset's, with the wider type of both, then columns that
            only a newer release knows.
        target: the table's schema once the changes are applied, with metadata and partition column.
        pending: changes that are not applied yet.
        republish: columns whose rows were published under another data class.
        optional: columns that older files may lack.
        refused: why the table cannot be used; empty: it can.
    """

    revision: int
    columns: pa.Schema
    target: pa.Schema
    pending: tuple[Change, ...]
    republish: tuple[str, ...]
    optional: frozenset[str]
    refused: tuple[str, ...]

    @property
    def differ(self) -> bool:
        """Return whether older files may lack a column or hold a narrower type."""
        return bool(self.optional) or any(_recorded(field, _WIDENED) for field in self.target)


def new_schema(dataset: Dataset) -> pa.Schema:
    """Return the schema of a new table, with its metadata."""
    fields = [_described(dataset, field, since=None) for field in dataset.schema]
    return pa.schema(fields + list(dataset.table_schema)[len(fields) :])


def open_delta(storage: Storage) -> DeltaTable:
    """Open the Delta table of a folder.

    Raises:
        TableNotFoundError: there is no table.
        Damaged: its log cannot be read.
        ServiceUnavailable: storage cannot be reached.
    """
    if is_contradicted(storage):  # asked first: delta-rs panics over some damaged checkpoints
        raise explained(storage, DeltaError())
    try:
        delta = _opened(storage)
    except TableNotFoundError:
        raise
    except (OSError, DeltaError) as error:
        raise explained(storage, error) from None
    if is_empty(storage, delta.version()) or is_hidden(storage, delta.version()):
        raise explained(storage, DeltaError())
    return delta


def _opened(storage: Storage) -> DeltaTable:
    options = storage.options or None
    try:
        return DeltaTable(storage.uri, storage_options=options)
    except TableNotFoundError:
        log_is_lost = has_lost_its_log(storage)  # asked first: a new table gets its log before its files
        if not (log_is_lost or list_log(storage).entries):
            raise
    try:
        return DeltaTable(storage.uri, storage_options=options)  # another process may have made it since
    except TableNotFoundError as error:
        raise explained(storage, error) from None


def read_state(dataset: Dataset, delta: DeltaTable) -> SchemaState:
    """Compare the columns of a table, as last refreshed, with the dataset's."""
    found = pa.schema(delta.schema().to_arrow())
    return compare(dataset, found, delta.metadata().partition_columns, delta.transaction_version(APP) or 1)


def compare(dataset: Dataset, found: pa.Schema, partition: Sequence[str], revision: int) -> SchemaState:
    """Compare the columns of an existing table (``found``) with the dataset's."""
    there = {field.name: field for field in found if field.name not in partition}
    newer = revision > dataset.revision
    refused = _contradictions(dataset, there, partition)
    pending: list[Change] = []
    target: list[pa.Field] = []
    for field in dataset.schema:
        old = there.pop(field.name, None)
        kind = field.type if old is None else _wider(old.type, field.type)
        if old is None:
            pending.append(Change("add", field.name, str(field.type)))
            target.append(_described(dataset, field, since=dataset.revision))
            continue
        if kind is None or (kind != field.type and not newer):
            refused.append(f"{field.name} is {old.type} and not {field.type}")
        elif kind != old.type:
            pending.append(Change("widen", field.name, f"{old.type} to {kind}"))
            old = old.with_metadata({**(old.metadata or {}), _WIDENED: str(dataset.revision).encode()})
        if _CLASS not in (old.metadata or {}):
            pending.append(Change("record", field.name, dataset.column(field.name).data_class or "no class"))
            old = _described(dataset, old, since=None)
        target.append(old.with_type(kind or old.type))
    if there and not newer:
        refused.append(f"{', '.join(there)} is not a column of the dataset")
    target += there.values()
    return SchemaState(
        revision=revision,
        columns=pa.schema([pa.field(field.name, field.type) for field in target]),
        target=pa.schema(target + [field for field in found if field.name in partition]),
        pending=tuple(pending),
        republish=tuple(f.name for f in target if f.name not in there and _recorded(f, _CLASS) != _class(dataset, f)),
        optional=frozenset(field.name for field in target if _recorded(field, _SINCE)),
        refused=tuple(refused),
    )


def _contradictions(dataset: Dataset, there: dict[str, pa.Field], partition: Sequence[str]) -> list[str]:
    """Return in which points the recorded key, partition and day column differ from the dataset's."""
    wrong = []
    if list(partition) != (["day"] if dataset.day_of else []):
        wrong.append("its partition column differs")
    places = {place: name for name, field in there.items() if (place := _recorded(field, _KEY))}
    if places and tuple(places[place] for place in sorted(places)) != dataset.key:
        wrong.append("its key differs")
    days = [name for name, field in there.items() if _recorded(field, _DAY)]
    if days and days != [dataset.day_of]:
        wrong.append("its day comes from another column")
    return wrong


def _wider(old: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    """Return the one of two types that can hold the values of both; None: neither can."""
    if old == new or new in WIDER.get(old, ()):
        return new
    return old if old in WIDER.get(new, ()) else None


def _class(dataset: Dataset, field: pa.Field) -> str:
    return dataset.column(field.name).data_class or ""


def _recorded(field: pa.Field, what: bytes) -> str | None:
    value = (field.metadata or {}).get(what)
    return None if value is None else value.decode()


def _described(dataset: Dataset, field: pa.Field, *, since: int | None) -> pa.Field:
    """Return a field with its metadata: class, place in the key, whether it is the day, and since which revision."""
    metadata = {_CLASS: _class(dataset, field).encode()}
    if field.name in dataset.key:
        metadata[_KEY] = str(dataset.key.index(field.name)).encode()
    if field.name == dataset.day_of:
        metadata[_DAY] = b"true"
    if since is not None:
        metadata[_SINCE] = str(since).encode()
    return field.with_metadata({**(field.metadata or {}), **metadata})


# -- changing a table --------------------------------------------------------------------------------------------


def check(state: SchemaState, *, where: str) -> None:
    """Return if the table can be used with the dataset.

    Raises:
        InputError: it cannot be used; nothing was written.
    """
    if state.refused:
        raise InputError(
            f"Existing table does not have the dataset's columns ({'; '.join(state.refused)})",
            where=where,
            remedy="Only nullable columns can be added and integers widened in place. Keep the existing columns and "
            "add one of another name, or declare a dataset of another name and load it from the start; "
            "see docs/how-to/versions-and-schema.md. Nothing was written.",
        )


def apply(dataset: Dataset, delta: DeltaTable, *, where: str, republished: bool = False) -> tuple[Change, ...]:
    """Bring a table to the dataset in one commit; return the changes that this call made.

    A concurrent append has to look again once. If two processes apply changes at once, one of them finds them made.

    Args:
        dataset: the dataset as it is declared now.
        delta: an object of the caller's own: it moves to the newest version.
        where: the table's name.
        republished: whether all rows are published under the dataset's classes now; the classes are then recorded.

    Raises:
        InputError: the table needs a change that cannot be made in place.
        ServiceUnavailable: storage cannot be reached, or other commits always came first.
    """
    for _ in range(ATTEMPTS):
        try:
            delta.update_incremental()
            state = read_state(dataset, delta)
            check(state, where=where)
            target = _republished(dataset, state) if republished else state.target
            if not state.pending and target is state.target:
                return ()
            failpoint("schema")
            _commit(delta, target, max(state.revision, dataset.revision))
            failpoint("schema-applied")
        except CommitFailedError:
            continue
        except (OSError, DeltaError) as error:
            raise unavailable(
                error,
                "Table's schema cannot be changed",
                where=where,
                remedy="Check space and connection of the lake's storage, then try again; nothing was changed.",
            ) from None
        return state.pending
    raise ServiceUnavailable(
        "Other commits to the table always come first", where=where, remedy="Try again in a quieter minute."
    )


def _republished(dataset: Dataset, state: SchemaState) -> pa.Schema:
    """Return the target with the dataset's classes; the same object if they are recorded already."""
    if not state.republish:
        return state.target
    return pa.schema([_described(dataset, f, since=None) if f.name in state.republish else f for f in state.target])


def _commit(delta: DeltaTable, target: pa.Schema, revision: int) -> None:
    """Commit new metadata only. An overwrite of no rows by no rows is the only way in delta-rs to widen a type."""
    write_deltalake(
        delta,
        target.empty_table(),
        mode="overwrite",
        schema_mode="overwrite",
        predicate="false",
        commit_properties=CommitProperties(app_transactions=[Transaction(APP, revision)], max_commit_retries=0),
    )


# -- reading older files -----------------------------------------------------------------------------------------


def fits(state: SchemaState, schema: pa.Schema) -> bool:
    """Return whether a file of this schema fits the table, as it is now or as it was before a change."""
    found = {field.name: field.type for field in schema}
    if not found.keys() <= set(state.columns.names):
        return False
    return all(
        _wider(found[field.name], field.type) == field.type if field.name in found else field.name in state.optional
        for field in state.columns
    )


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with these columns: a missing one is null, a narrower one is cast; dictionaries stay."""
    names = set(rows.schema.names)
    return pa.table(
        {
            field.name: _cast(rows[field.name], field.type) if field.name in names else pa.nulls(len(rows), field.type)
            for field in schema
        }
    )


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return column if plain == kind else column.cast(kind)
