"""Schema over time: what a table's columns are, what the dataset wants them to be, and the one commit between them.

A column that may be null is added and a type widened online: one commit of metadata, no file is touched, and whoever
appends meanwhile looks again once. Files written before lack the column or hold the narrower type; they are read with
nulls and casts. Everything else is refused, for rows that are there would change their meaning.

The table itself knows under what it was made: the dataset's revision is a Delta transaction of the commit that brought
it there, and each column's metadata hold its data class, its place in the key, and since which revision it is there.
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
from vitalake.lake.tables.log import explained, is_contradicted, is_empty, is_hidden, is_torn_off, list_log
from vitalake.lake.tables.storage import Storage

APP = "schema"
"""The Delta transaction that says which revision of the dataset a table was brought to."""

ATTEMPTS = 50

WIDER: dict[pa.DataType, tuple[pa.DataType, ...]] = {
    pa.int16(): (pa.int32(), pa.int64()),
    pa.int32(): (pa.int64(),),
}
"""Type → those that hold all its values. Not date → timestamp: Delta widens it to one without a zone only, and a day
has no moment until somebody says in which zone it began."""

_CLASS, _SINCE, _KEY, _DAY = b"vitalake.class", b"vitalake.since", b"vitalake.key", b"vitalake.day"
_WIDENED = b"vitalake.widened"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that ``apply`` does to a table.

    Attributes:
        kind: ``record`` only writes down what the table was made under, for one of before that was done.
        column: which.
        detail: its type, or the two of them.
    """

    kind: Literal["add", "widen", "record"]
    column: str
    detail: str


@dataclass(frozen=True, slots=True)
class SchemaState:
    """A table's columns against the dataset's.

    Attributes:
        revision: of the dataset, to which the table was brought; 1 where nothing is recorded.
        columns: with which its rows are read: the dataset's, of the wider type, then those only a newer release knows.
        target: the table's schema once the changes are applied, metadata and partition column included.
        pending: what is not applied yet.
        republish: columns whose rows were published under another data class.
        optional: columns that files of before may lack.
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
        """Return whether files of before lack a column, or hold a narrower type."""
        return bool(self.optional) or any(_recorded(field, _WIDENED) for field in self.target)


def new_schema(dataset: Dataset) -> pa.Schema:
    """Return the schema of a table that is made now, with what it is made under."""
    fields = [_described(dataset, field, since=None) for field in dataset.schema]
    return pa.schema(fields + list(dataset.table_schema)[len(fields) :])


def open_delta(storage: Storage) -> DeltaTable:
    """Return the Delta table of a folder, as it is there.

    Raises:
        TableNotFoundError: there is none.
        Damaged: its log cannot be read.
        ServiceUnavailable: storage cannot be reached.
    """
    try:
        delta = _opened(storage)
    except TableNotFoundError:
        raise
    except (OSError, DeltaError) as error:
        raise explained(storage, error) from None
    if is_empty(storage, delta.version()) or is_hidden(storage, delta.version()) or is_contradicted(storage):
        raise explained(storage, DeltaError())
    return delta


def _opened(storage: Storage) -> DeltaTable:
    options = storage.options or None
    try:
        return DeltaTable(storage.uri, storage_options=options)
    except TableNotFoundError:
        torn_off = is_torn_off(storage)  # asked first: of a table that is being made the log comes before the files
        if not (torn_off or list_log(storage).entries):
            raise
    try:
        return DeltaTable(storage.uri, storage_options=options)  # another process may have made it since
    except TableNotFoundError as error:
        raise explained(storage, error) from None


def read_state(dataset: Dataset, delta: DeltaTable) -> SchemaState:
    """Return how a table's columns stand to the dataset's, on the object as it is."""
    found = pa.schema(delta.schema().to_arrow())
    return compare(dataset, found, delta.metadata().partition_columns, delta.transaction_version(APP) or 1)


def compare(dataset: Dataset, found: pa.Schema, partition: Sequence[str], revision: int) -> SchemaState:
    """Return how columns that are there stand to the dataset's."""
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
        refused.append(f"{', '.join(there)} is not of the dataset")
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
    """Return where key and partition, as they are recorded, are not the dataset's."""
    wrong = []
    if list(partition) != (["day"] if dataset.day_of else []):
        wrong.append("its partition is another")
    places = {place: name for name, field in there.items() if (place := _recorded(field, _KEY))}
    if places and tuple(places[place] for place in sorted(places)) != dataset.key:
        wrong.append("its key is another")
    days = [name for name, field in there.items() if _recorded(field, _DAY)]
    if days and days != [dataset.day_of]:
        wrong.append("its day is another column's")
    return wrong


def _wider(old: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    """Return the one of two types that holds the values of both; None: neither does."""
    if old == new or new in WIDER.get(old, ()):
        return new
    return old if old in WIDER.get(new, ()) else None


def _class(dataset: Dataset, field: pa.Field) -> str:
    return dataset.column(field.name).data_class or ""


def _recorded(field: pa.Field, what: bytes) -> str | None:
    value = (field.metadata or {}).get(what)
    return None if value is None else value.decode()


def _described(dataset: Dataset, field: pa.Field, *, since: int | None) -> pa.Field:
    """Return a field with what its rows are made under."""
    metadata = {_CLASS: _class(dataset, field).encode()}
    if field.name in dataset.key:
        metadata[_KEY] = str(dataset.key.index(field.name)).encode()
    if field.name == dataset.day_of:
        metadata[_DAY] = b"true"
    if since is not None:
        metadata[_SINCE] = str(since).encode()
    return field.with_metadata({**(field.metadata or {}), **metadata})


# -- changing it -------------------------------------------------------------------------------------------------


def check(state: SchemaState, *, where: str) -> None:
    """Return if the table can be used with the dataset.

    Raises:
        InputError: it cannot; nothing was written.
    """
    if state.refused:
        raise InputError(
            f"Existing table does not have the dataset's columns ({'; '.join(state.refused)})",
            where=where,
            remedy="Only nullable columns are added and integers widened in place. Leave what is there as it is and "
            "add a column of another name, or declare a dataset of another name and load it anew; "
            "see docs/how-to/versions-and-schema.md. Nothing was written.",
        )


def apply(dataset: Dataset, delta: DeltaTable, *, where: str, republished: bool = False) -> tuple[Change, ...]:
    """Bring a table to the dataset in one commit; return what was changed, also by nobody but somebody else.

    Appends of others beside it have to look again once; of two that apply at once one finds it done.

    Args:
        dataset: what the table is to be.
        delta: an object of its own, for it moves to the newest version.
        where: the table's name.
        republished: whether all rows are under the dataset's classes now; they are then recorded.

    Raises:
        InputError: only what cannot be done online would bring it there.
        ServiceUnavailable: storage cannot be reached, or others always came first.
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
    raise ServiceUnavailable("Table is contended", where=where, remedy="Try again in a quieter minute.")


def _republished(dataset: Dataset, state: SchemaState) -> pa.Schema:
    """Return the target with the dataset's classes; the very same one where they are recorded already."""
    if not state.republish:
        return state.target
    return pa.schema([_described(dataset, f, since=None) if f.name in state.republish else f for f in state.target])


def _commit(delta: DeltaTable, target: pa.Schema, revision: int) -> None:
    """Commit new metadata and nothing else: an overwrite of no row by no row, the one way delta-rs has for a type."""
    write_deltalake(
        delta,
        target.empty_table(),
        mode="overwrite",
        schema_mode="overwrite",
        predicate="false",
        commit_properties=CommitProperties(app_transactions=[Transaction(APP, revision)], max_commit_retries=0),
    )


# -- reading files of before -------------------------------------------------------------------------------------


def fits(state: SchemaState, schema: pa.Schema) -> bool:
    """Return whether a file of this schema is one of the table's, of now or of before."""
    found = {field.name: field.type for field in schema}
    if not found.keys() <= set(state.columns.names):
        return False
    return all(
        _wider(found[field.name], field.type) == field.type if field.name in found else field.name in state.optional
        for field in state.columns
    )


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows in these columns: null where they lack one, cast where theirs is narrower; dictionaries stay."""
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
