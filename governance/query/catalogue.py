"""The relations that queries can read: datasets, the columns that the rules publish, and the tables' current files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.dataset import dataset

from governance.policy.masking import DECIDING, MaskPlan, compile_masks, describe_unclear
from governance.policy.rules import load_policy
from governance.query.fetched import fetch_folder
from governance.query.relations import (
    VERSION,
    Relation,
    as_known_at_name,
    identified_name,
    versions_name,
)
from governance.vault.sealed_rows import IDENTIFIERS
from vitalake.errors import InputError, LakeError, PrivacyError, SettingsError
from vitalake.keys import KeyRing
from vitalake.lake.commits.format import check_readable
from vitalake.lake.datasets.dataset import (
    DEVICE_KEY,
    IDENTIFYING,
    SUBJECT,
    UNFIT_KEY,
    Dataset,
    holds_codes,
    table_form,
)
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.lake.maintenance.damage import checked_snapshot
from vitalake.lake.tables.buckets import files_for
from vitalake.lake.tables.digests import Marks, check_content
from vitalake.lake.tables.log_files import has_lost_entries
from vitalake.lake.tables.storage import Storage, open_storage
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

_TYPES = {
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
    pa.float64(): "DOUBLE",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.string(): "VARCHAR",
    pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
}


_RECORD = "record-identifier"

FOUND_GOOD = ".found-good.json"
"""A cache in the home: which of the lake's files were verified within a day, so that not each command verifies all."""


class _Rows(NamedTuple):
    """What a relation reads: the rows of a dataset in one zone."""

    dataset: str
    zone: Literal["published", "restricted"]


class Catalogue:
    """The relations of a home, by the rules as they were when the catalogue was made."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        """Read the rules.

        Raises:
            RuleError: they are not valid; nothing can be read.
            SettingsError: two relations have one name.
        """
        policy = load_policy(settings.path(settings.governance))
        self._settings = settings
        self.rules = policy.version
        self._marks = Marks(settings.path(FOUND_GOOD))
        self._plans = {name: compile_masks(policy, load_dataset(name), keys) for name in published_datasets()}
        restricted = [name for name in self._plans if load_dataset(name).restricted]
        self._relations = _named(
            [
                *((name, _Rows(name, "published")) for name in self._plans),
                *((identified_name(name), _Rows(name, "restricted")) for name in restricted),
            ]
        )
        self._restricted = {name: rows.dataset for name, rows in self._relations.items() if rows.zone == "restricted"}

    @property
    def names(self) -> list[str]:
        """Return the names of the published datasets."""
        return list(self._plans)

    @property
    def identified_names(self) -> list[str]:
        """Return the names of the relations of identified rows: as they came, with identifying values sealed."""
        return list(self._restricted)

    def columns(self, name: str) -> dict[str, str]:
        """Return the columns of a relation that may be queried, identified rows among them, with their DuckDB types.

        Raises:
            InputError: there is no such relation; the name is not echoed.
        """
        if name in self._restricted:
            return {column.name: _TYPES[column.type] for column in self._form(name).columns}
        return self.published_columns(name)

    def published_columns(self, name: str) -> dict[str, str]:
        """Return the columns that the rules publish of a dataset, with their DuckDB types.

        Raises:
            InputError: no dataset of this name is published, such as that of identified rows; the name is not echoed.
        """
        return {plan.column.name: _TYPES[plan.column.type] for plan in self._plan(name).columns if plan.published}

    def columns_read(self, name: str, names: Collection[str] | None = None) -> dict[str, str]:
        """Return the columns of a dataset that a query reads, with their data classes.

        Args:
            name: of the dataset, or of its identified rows.
            names: all names in the query; None: it may read columns that it does not name.
        """
        columns = self.columns(name)
        classes = {column.name: column.data_class or "none" for column in self._form(name).columns}
        return {column: classes[column] for column in columns if names is None or column in names}

    def sealed(self, name: str) -> dict[str, pa.DataType]:
        """Return the columns of identified rows whose values are sealed, with the types of the opened values."""
        dataset = load_dataset(self._restricted[name])
        return {column.name: column.type for column in dataset.columns if column.data_class in IDENTIFYING}

    def randomised(self, name: str) -> list[str]:
        """Return the sealed columns of identified rows of which equal values are sealed differently each time."""
        dataset = load_dataset(self._restricted[name])
        return [column.name for column in dataset.columns if column.data_class in IDENTIFYING - {*IDENTIFIERS}]

    def partly_sealed(self, name: str) -> dict[str, pa.DataType]:
        """Return the columns of identified rows with codes in clear and other words sealed, and their types."""
        dataset = load_dataset(self._restricted[name])
        return {column.name: column.type for column in dataset.columns if holds_codes(dataset, column)}

    def identifying(self, name: str) -> dict[str, bool]:
        """Return the columns of a dataset that say whom a row is about, or which record it is.

        Args:
            name: of the dataset, or of its identified rows.

        Returns:
            Name → whether the patient can be looked up by a value of the column.
        """
        kinds = IDENTIFYING | {SUBJECT.data_class, _RECORD}
        classes = {column.name: column.data_class for column in self._form(name).columns if column.data_class in kinds}
        looked_up = ("patient-identifier", _RECORD)
        return {column: column == SUBJECT.name or kind in looked_up for column, kind in classes.items()}

    def record_ids(self, name: str) -> list[str]:
        """Return the columns of a dataset that hold record ids."""
        return [column.name for column in self._form(name).columns if column.data_class == _RECORD]

    def dataset_of(self, name: str) -> str:
        """Return the dataset whose identified rows have this name."""
        return self._restricted[name]

    def _plan(self, dataset: str) -> MaskPlan:
        if dataset not in self._plans:
            raise InputError(
                "No such dataset is published", where="dataset", remedy=f"There are: {', '.join(self._plans)}."
            )
        return self._plans[dataset]

    def _form(self, name: str) -> Dataset:
        """Return the dataset declaration that the table behind a name has."""
        if name in self._restricted:
            return table_form(load_dataset(self._restricted[name]), "restricted")
        return self._plan(name).dataset

    @contextmanager
    def relations(
        self,
        names: Iterable[str],
        *,
        current: Collection[str] | None = None,
        identified: bool = False,
        subject: bytes | None = None,
    ) -> Iterator[list[Relation]]:
        """Yield relations, each of one version of its table; fetched files stay until the end.

        Args:
            names: of published datasets, or of their identified rows.
            current: those among them whose current rows are read, and not only all rows; None: all of them.
            identified: whether identified rows may be among them. The caller has checked who asks.
            subject: if given, identified rows are of this patient only.

        Raises:
            InputError: there is no such dataset, its rows are identified and may not be, or its table has other
                columns.
            PrivacyError: the rules do not publish clearly which rows are current.
            Damaged: a file is gone or its content has changed; its table is not read.
            LakeError: a later release has written the lake, or a published table is being made again.
        """
        names = list(names)
        if not identified:
            for name in names:
                self._plan(name)
        storage, marks = open_storage(self._settings.lake_uri, self._settings.storage_options), self._marks
        check_readable(storage)
        with fetch_folder() as folder:
            try:
                relations = [self._relation(name, storage, folder / name, subject) for name in names]
                for relation in relations:
                    if current is None or relation.name in current:
                        _refuse_unclear(relation)
            finally:
                marks.save()
            yield relations

    def definition(self, name: str) -> Relation:
        """Return the relation of a published dataset without its files: no file is looked at.

        Raises:
            InputError: there is no such published dataset, or its table has other columns.
            PrivacyError: the rules do not publish clearly which rows are current.
        """
        form = self._plan(name).dataset
        storage = open_storage(self._settings.lake_uri, self._settings.storage_options)
        check_readable(storage)
        table = Table(form, storage, zone="published") if storage.holds_table(f"published/{form.name}") else None
        key = tuple(column for column in form.published_key if column != VERSION)
        columns = self._readable_columns(name, table)
        relation = Relation(name, columns, key=key, paths=(), unclear=self._unclear(name, columns))
        _refuse_unclear(relation)
        return relation

    def _readable_columns(self, name: str, table: Table | None) -> dict[str, str]:
        columns = self.columns(name)
        if table is None:
            return columns
        # A column whose data class has changed is hidden until its rows are published again.
        return {column: kind for column, kind in columns.items() if column not in table.state.republish}

    def _unclear(self, name: str, columns: Collection[str]) -> str:
        """Return which columns tell no longer which row of a record counts, and why; empty: all do."""
        if name in self._restricted:
            return ""
        plan = self._plan(name)
        why = {each.column.name: describe_unclear(each) for each in plan.unclear}
        needed = {*plan.dataset.published_key, *DECIDING} & set(plan.dataset.schema.names)
        hidden = dict.fromkeys(needed - {*columns}, "not published, or to be published again")
        return "; ".join(f"{column}: {reason}" for column, reason in sorted((hidden | why).items()))

    def _relation(self, name: str, storage: Storage, folder: Path, subject: bytes | None) -> Relation:
        form = self._form(name)
        zone = self._relations[name].zone
        only = subject if zone == "restricted" else None
        if zone == "published" and form.restricted:
            _refuse_half(form.name, storage)
        table = Table(form, storage, zone=zone) if storage.holds_table(f"{zone}/{form.name}") else None
        columns = self._readable_columns(name, table)
        paths, others = ((), ()) if table is None else _files(table, folder, only, self._marks)
        return Relation(
            name,
            columns,
            key=tuple(column for column in form.published_key if column != VERSION),
            paths=paths,
            others=others,
            differ=table is not None and table.state.differ,
            subject=only.hex() if only else "",
            sealed=tuple(self.sealed(name)) if zone == "restricted" else (),
            unclear=self._unclear(name, columns) or _without_unfit_key(form, columns, paths),
            identifying=(SUBJECT.name, DEVICE_KEY.name, *(c.name for c in form.columns if c.data_class in IDENTIFYING)),
        )


def _refuse_half(dataset: str, lake: Storage) -> None:
    """Raise an error if a published table is gone or has lost entries of its log, until it is made again.

    It lacks rows, or has those that a lost entry had removed: of expired days, by earlier rules, of somebody erased.
    """
    storage = lake.child(f"published/{dataset}")
    if has_lost_entries(storage):
        raise LakeError(
            "Published table has lost rows or entries of its log, and is to be made again first",
            where=storage.name,
            remedy="If 'vitalake lake rebuild' or 'repair' is running, wait until it has ended. Otherwise run "
            "'vitalake lake repair', and do what it says.",
        )
    if not lake.holds_table(storage.name) and lake.child(f"restricted/{dataset}").files():
        raise LakeError(
            "Published table is gone",
            where=storage.name,
            remedy=f"Run 'vitalake lake rebuild published --dataset {dataset}': it makes it again from the restricted "
            "zone.",
        )


def _without_unfit_key(form: Dataset, columns: Collection[str], paths: Sequence[str]) -> str:
    """Return that rows of a table have a key that is not whole and no ``unfit_key``; empty: none has.

    An earlier release published them: whether a later row replaces one of them cannot be told.
    """
    if UNFIT_KEY.name not in columns or not paths:
        return ""
    null = [pc.is_null(pc.field(name)) for name in form.key]
    rows = dataset(list(paths), schema=form.schema, format="parquet")
    if not rows.head(1, columns=[], filter=reduce(or_, null) & pc.is_null(pc.field(UNFIT_KEY.name))).num_rows:
        return ""
    return f"{UNFIT_KEY.name}: rows of an earlier release lack it; run 'vitalake lake rewrite --republish {form.name}'"


def _refuse_unclear(relation: Relation) -> None:
    if relation.unclear:
        raise PrivacyError(
            "The rules do not publish clearly which rows are current",
            where=f"{relation.name} ({relation.unclear})",
            remedy=f"Read {versions_name(relation.name)}, which has every row; or let the rules keep these columns.",
        )


def _named(relations: Iterable[tuple[str, _Rows]]) -> dict[str, _Rows]:
    """Return relations by their names.

    Raises:
        SettingsError: two of them, or of the views and functions that each has, would have one name: a query for one
            could then read the other, in another zone.
    """
    found: dict[str, _Rows] = {}
    whose: dict[str, _Rows] = {}
    for name, rows in relations:
        for each in (name, versions_name(name), as_known_at_name(name)):
            if each in whose:
                raise SettingsError(
                    "Two relations have one name",
                    where=f"{each}, of the datasets {whose[each].dataset} and {rows.dataset}",
                    remedy="Give the dataset that the home declares another name.",
                )
            whose[each] = rows
        found[name] = rows
    return found


def _files(table: Table, folder: Path, subject: bytes | None, marks: Marks) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the local paths of the files with a table's rows, or one patient's; for a patient also those of all files.

    One damaged file stops the query: without it the answer would show an older version of a record as the current one.
    """
    snapshot = checked_snapshot(table, marks=marks) if table.storage.local else table.snapshot()
    local = {path: _local(table.storage, path, folder) for path in sorted(snapshot.files)}
    if subject is None:
        return tuple(local.values()), ()
    of_subject = {file.path for file in files_for(snapshot, subject)}
    return tuple(copy for path, copy in local.items() if path in of_subject), tuple(local.values())


def _local(storage: Storage, path: str, folder: Path) -> str:
    """Return a file's path on this machine, fetched if need be: the sandbox has no network and no credentials."""
    if storage.local:
        return f"{storage.root}/{path}"
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        check_content(storage, path, copy=out)
    return str(target)
