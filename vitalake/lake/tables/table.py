"""One Delta table: stages files beside it and commits them with transactions, always on a checked version."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from vitalake import clock
from vitalake.causes import cause_of
from vitalake.errors import LakeError, ServiceUnavailable, VitaLakeError
from vitalake.lake.datasets.dataset import IDENTIFYING, SUBJECT, Column, Dataset
from vitalake.lake.tables.dictionaries import without_unused
from vitalake.lake.tables.digests import Damaged, damaged
from vitalake.lake.tables.entry_digests import recorded_in_commit
from vitalake.lake.tables.last_transactions import LastTransactions
from vitalake.lake.tables.log import explained
from vitalake.lake.tables.log_files import LOG, entry_name, is_empty, is_hidden, mark_of_repairs, newest_checkpoint
from vitalake.lake.tables.schema import APP, SchemaState, apply, check, conform, new_schema, open_delta, read_state
from vitalake.lake.tables.sorting import in_no_order
from vitalake.lake.tables.storage import Storage

REOPEN_AFTER = 2_000
"""Commits and refreshes after which the table is opened again: DeltaTable objects grow over days."""

COMMIT_ATTEMPTS = 50
"""A commit that loses this many races in a row is not just unlucky: it gives up."""

LOG_RETENTION = "interval 2 hours"
"""How long the log keeps single commits; positions and tombstones live on in its checkpoints. Every commit and refresh
lists all of them, at 1 µs each: with Delta's default of 30 days, at three commits a second, that would be seconds. A
process with an older version can still read it, but has to refresh before it commits."""

CLEAN_UP_EVERY = 100
"""Commits between clean-ups of expired ones: a clean-up costs 25 ms with an hour of commits, one a second."""

NO_DAY = "__HIVE_DEFAULT_PARTITION__"
"""Partition folder of rows without a date, as Hive, Spark, DuckDB and delta-rs name it."""


class StagedFile(msgspec.Struct, frozen=True):
    """A data file of a table: staged beside it, or part of a version."""

    table: str
    path: str
    size: int
    rows: int
    day: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one version of a table, by path."""

    version: int
    files: dict[str, StagedFile]


def _repeats(column: Column) -> bool:
    """Return whether a binary column has few values for many rows: keyed hashes of patients, and sealed values."""
    return column.type == pa.binary() and column.data_class in IDENTIFYING | {SUBJECT.data_class}


def refuse_new(dataset: Dataset, storage: Storage) -> None:
    """Raise an error if there is no table of a dataset yet, and none may be made.

    Raises:
        SettingsError: its declaration is not one that a new table may have.
    """
    if dataset.refused_if_new is not None and not storage.holds_table(f"published/{dataset.name}"):
        raise dataset.refused_if_new


class Table:
    """A Delta table of a dataset; not to be shared between threads."""

    def __init__(self, dataset: Dataset, storage: Storage, *, zone: str) -> None:
        """Open the table, or make it.

        Raises:
            InputError: the existing table's columns are not those of the dataset, in this or another release.
            SettingsError: there is no table, and the dataset is declared in a way that no new one may have.
        """
        self.dataset = dataset
        self.name = f"{zone}/{dataset.name}" if zone else dataset.name
        self.storage = storage.child(self.name)
        self._commits = 0
        self._own_entry: tuple[int, int, int] | None = None
        self._recorded_checkpoint = -1  # the newest of which an entry of this object has the digest
        self._state: SchemaState | None = None
        self._last_state: tuple[str, SchemaState] | None = None
        self._repairs = mark_of_repairs(self.storage)
        self.delta = self._open()
        self._refreshed()
        self._last_transactions = LastTransactions(self.storage)
        check(self.state, where=self.name)

    def _open(self) -> DeltaTable:
        try:
            return open_delta(self.storage)
        except TableNotFoundError:
            return self._create()

    def _create(self) -> DeltaTable:
        if self.dataset.refused_if_new is not None:
            raise self.dataset.refused_if_new
        try:
            return DeltaTable.create(
                self.storage.uri,
                schema=Schema.from_arrow(new_schema(self.dataset)),
                partition_by=["day"] if self.dataset.day_of else None,
                mode="ignore",
                description=self._note(),
                # No statistics: patient columns must leave no min/max in the log.
                configuration={"delta.dataSkippingNumIndexedCols": "0", "delta.logRetentionDuration": LOG_RETENTION},
                commit_properties=CommitProperties(app_transactions=[Transaction(APP, self.dataset.revision)]),
                storage_options=self.storage.options or None,
            )
        except CommitFailedError:  # another process made it at the same moment
            return open_delta(self.storage)
        except (OSError, DeltaError) as error:
            raise LakeError(
                f"Table cannot be made ({cause_of(error)})",
                where=self.name,
                remedy="Check that lake.uri is writable; nothing was written.",
            ) from None

    def _note(self) -> str | None:
        """Return the table's description, for people who open it without this project."""
        if self.name.rpartition("/")[0] not in ("published", "restricted"):
            return None
        return (
            "Holds every version of each row, also corrected and withdrawn ones. For the query of the current rows run "
            f"'vitalake lake view {self.dataset.name}'."
        )

    # -- reading -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring the object to the table's newest version; for a local folder first check by file name for a newer one.

        delta-rs lists the log in forty threads that live for ten seconds; with a refresh every second they never ended.

        Raises:
            Damaged: the log cannot be read.
            ServiceUnavailable: storage cannot be reached.
        """
        entry, replaced = self._entry(), self._is_replaced()
        if entry is not None and not replaced and self._is_newest():
            self._own_entry, self._transactions_at = entry, self.delta.version()
            return
        self._commits += 1
        self._state = None
        if replaced or self._commits % REOPEN_AFTER == 0:
            self._open_again()
            return
        try:
            self.delta.update_incremental()
        except (OSError, DeltaError) as error:
            if entry is not None or not self.storage.local:
                raise explained(self.storage, error) from None
            self._open_again()  # the log may have been replaced by a shorter one
        self._refreshed()
        if is_empty(self.storage, self.delta.version()) or is_hidden(self.storage, self.delta.version()):
            raise explained(self.storage, DeltaError())

    def _open_again(self) -> None:
        self._repairs, self._recorded_checkpoint = mark_of_repairs(self.storage), -1
        self._last_transactions = LastTransactions(self.storage)
        self.delta = open_delta(self.storage)
        self._refreshed()

    def _refreshed(self) -> None:
        self._own_entry = self._entry()
        self._transactions_at = self.delta.version()
        self._transactions: dict[str, int | None] = {}

    def _entry(self) -> tuple[int, int, int] | None:
        """Return this version and what tells its entry's file from another one; None: it has expired, or is remote."""
        version = self.delta.version()
        try:
            found = os.stat(f"{self.storage.root}/{LOG}/{entry_name(version)}") if self.storage.local else None
        except OSError:
            return None
        return found and (version, found.st_ino, found.st_mtime_ns)

    def _is_replaced(self) -> bool:
        """Return whether this version has other entries now: by a repair, or by a log restored from a back-up.

        What is known of the ones before must not be mixed with later entries.
        """
        entry, own = self._entry(), self._own_entry
        another = entry is not None and own is not None and entry[0] == own[0] and entry != own
        return another or mark_of_repairs(self.storage) != self._repairs

    def _is_newest(self) -> bool:
        """Return whether the log has no next version; versions have no gaps."""
        return not os.path.lexists(f"{self.storage.root}/{LOG}/{entry_name(self.delta.version() + 1)}")

    def transaction(self, app_id: str) -> int | None:
        """Return the version of an application's last transaction, as last refreshed; None: it never committed one."""
        if self.storage.local:
            return self.all_transactions().get(app_id)
        if app_id not in self._transactions:  # of a remote log each entry is a request
            try:
                self._transactions[app_id] = self.delta.transaction_version(app_id)
            except (OSError, DeltaError) as error:
                raise explained(self.storage, error) from None
        return self._transactions[app_id]

    def all_transactions(self) -> Mapping[str, int]:
        """Return the version of every application's last transaction, as last refreshed.

        Raises:
            VitaLakeError: the log cannot be read.
        """
        return self._last_transactions.at(self._transactions_at)

    def snapshot(self) -> Snapshot:
        """Return the files of the version that was last refreshed to."""
        actions = pa.table(self.delta.get_add_actions())
        days = (
            [str(part["day"]) if part["day"] else None for part in actions["partition"].to_pylist()]
            if self.dataset.day_of
            else [None] * actions.num_rows
        )
        files = {
            path: StagedFile(self.name, path, size, rows, day)
            for path, size, rows, day in zip(
                actions["path"].to_pylist(),
                actions["size_bytes"].to_pylist(),
                actions["num_records"].to_pylist(),
                days,
                strict=True,
            )
        }
        return Snapshot(self.delta.version(), files)

    def scan(self, *, days: Sequence[str] | None = None, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of some days, or of all; for small tables only."""
        files = [f for f in self.snapshot().files.values() if days is None or f.day in days]
        schema = pa.schema([self.state.columns.field(name) for name in columns or self.dataset.schema.names])
        try:
            parts = [conform(self.storage.read_parquet(f.path, columns=schema.names), schema) for f in files]
        except FileNotFoundError as error:
            raise self.lost_file() or error from None
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def newest(self) -> Table:
        """Return another object of the table at its newest version; this one stays at its version.

        Raises:
            LakeError, ServiceUnavailable: the log cannot be read.
        """
        other = copy(self)
        other._commits, other._state = 0, None  # noqa: SLF001 - of this class
        other._open_again()  # noqa: SLF001
        return other

    def lost_file(self) -> Damaged | None:
        """Return the error if a file of the newest version is missing; None: all are there. Refreshes the object.

        Called when a file was not found: a reader of an older version may only have met a file that was replaced.

        Raises:
            LakeError, ServiceUnavailable: the log cannot be read.
        """
        self.refresh()
        missing = [file for file in self.snapshot().files.values() if not self.storage.exists(file.path)]
        return self.damaged(missing[0], "is gone") if missing else None

    def damaged(self, file: StagedFile, how: str = "does not hold what was written to it") -> Damaged:
        """Return the error for a damaged file, with its number of rows."""
        error = damaged(self.storage, file.path, how)
        return Damaged(error.what, where=f"{error.where} ({file.rows:,} rows)", remedy=error.remedy)

    # -- the schema ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> SchemaState:
        """The table's columns compared with the dataset's, as last refreshed."""
        if self._state is None:
            text = self.delta.schema().to_json()  # the revision changes only together with it
            if self._last_state is None or self._last_state[0] != text:
                self._last_state = text, read_state(self.dataset, self.delta)
            self._state = self._last_state[1]
        return self._state

    def prepare(self, *, republished: bool = False) -> None:
        """Bring the table to the dataset: add columns, widen types, record classes. ``stage`` does this first.

        The object stays at its version; a commit that was planned on it has to refresh first.

        Args:
            republished: whether all rows are published under the dataset's data classes now.

        Raises:
            InputError: the existing table cannot be brought to the dataset.
            ServiceUnavailable: storage cannot be reached.
        """
        if self.state.pending or (republished and self.state.republish):
            own = open_delta(self.storage)
            apply(self.dataset, own, where=self.name, republished=republished)
            self._state = read_state(self.dataset, own)

    # -- writing -------------------------------------------------------------------------------------------------

    def stage(self, rows: pa.Table, *, stem: str, suffix: str = "", ordered: bool = False) -> list[StagedFile]:
        """Write rows beside the table, one file a day, synced to disk; only a commit makes them visible.

        Neither the order of published rows nor that of a file's dictionaries tells in which order they came.

        Args:
            rows: rows with the dataset's columns.
            stem: beginning of the files' names, unique to the span or rewrite.
            suffix: suffix of the names; see buckets.py.
            ordered: whether to keep the rows' order, because they were read from the table or are sorted for it.

        Raises:
            OSError: storage refuses.
        """
        self.prepare()
        published = self.name.startswith("published/")
        if published and not ordered:
            rows = in_no_order(rows, self.dataset)
        staged = []
        for number, (day, part) in enumerate(self._by_day(rows)):
            folder = f"day={day or NO_DAY}/" if self.dataset.day_of else ""
            content = without_unused(part, in_order=published)
            path, size = self.storage.write_parquet(
                f"{folder}{stem}-{number}", content, suffix=suffix, **self._parquet_options()
            )
            staged.append(StagedFile(self.name, path, size, part.num_rows, day))
        return staged

    def _by_day(self, rows: pa.Table) -> list[tuple[str | None, pa.Table]]:
        if rows.num_rows == 0:
            return []
        if not self.dataset.day_of:
            return [(None, rows)]
        days = pc.cast(rows[self.dataset.day_of], pa.date32())
        if days.null_count:  # a rule may mask dates: rows without one have a partition of their own
            undated = pc.is_null(days)
            return [*self._by_day(rows.filter(pc.invert(undated))), (None, rows.filter(undated))]
        bounds = pc.min_max(days).as_py()
        if bounds["min"] == bounds["max"]:
            return [(str(bounds["min"]), rows)]
        numbers = days.cast(pa.int32()).to_numpy()
        return [
            (str(np.datetime64(int(day), "D")), rows.filter(pa.array(numbers == day))) for day in np.unique(numbers)
        ]

    def _parquet_options(self) -> dict[str, Any]:
        columns = self.dataset.columns
        return {
            "compression": "zstd",
            "compression_level": 1,
            "use_dictionary": [c.name for c in columns if c.type in (pa.string(), pa.int16()) or _repeats(c)],
            "write_statistics": [c.name for c in columns if c.statistics],
            "store_schema": False,
        }

    def commit(
        self,
        *,
        add: Sequence[StagedFile] = (),
        remove: Sequence[StagedFile] = (),
        transactions: Mapping[str, int],
        data_change: bool = True,
        retries: int | None = None,
    ) -> None:
        """Commit on the version that was last refreshed to, which must be the one that the commit was planned on.

        Raises:
            CommitFailedError: another commit conflicts, or the object is stale: refresh and plan again.
        """
        if self._is_replaced():
            raise CommitFailedError("The log was replaced")
        milliseconds, version = clock.now_us() // 1000, self.delta.version()
        checkpoint = newest_checkpoint(self.storage)
        adds = [
            (
                *(file.path, file.size, self._partition_of(file), milliseconds, data_change),
                msgspec.json.encode({"numRecords": file.rows}).decode(),
            )
            for file in add
        ]
        removes = [(file.path, file.size, self._partition_of(file), milliseconds, data_change) for file in remove]
        self.delta.create_write_transaction(
            [
                *(AddAction(*fields) for fields in adds),
                *(RemoveAction(path, change, at, size, partition) for path, size, partition, at, change in removes),
            ],
            "append",
            self.delta.schema(),
            ["day"] if self.dataset.day_of else [],
            commit_properties=CommitProperties(
                app_transactions=[Transaction(app, number) for app, number in transactions.items()],
                max_commit_retries=retries,
                custom_metadata=recorded_in_commit(
                    self.storage,
                    version,
                    add=adds,
                    remove=removes,
                    txn=transactions.items(),
                    checkpoint=checkpoint if checkpoint > self._recorded_checkpoint else -1,
                ),
            ),
            post_commithook_properties=PostCommitHookProperties(
                create_checkpoint=True, cleanup_expired_logs=version % CLEAN_UP_EVERY == 0
            ),
        )
        self._recorded_checkpoint = checkpoint
        if newest_checkpoint(self.storage) > checkpoint:
            self.record_checkpoint()

    def record_checkpoint(self) -> None:
        """Commit an empty entry after a checkpoint: until an entry has its digest, nobody notices that it is damaged.

        A failure is that of no commit: the next one of any process records the digest.
        """
        with suppress(CommitFailedError, OSError, DeltaError, VitaLakeError):
            self.refresh()
            self.commit(transactions={})

    def _partition_of(self, file: StagedFile) -> dict[str, str | None]:
        return {"day": file.day} if self.dataset.day_of else {}

    def commit_when(
        self,
        ready: Callable[[], Literal["commit", "done"]],
        *,
        add: Sequence[StagedFile] = (),
        transactions: Mapping[str, int],
    ) -> bool:
        """Append once ``ready`` returns "commit"; return False if it returns "done".

        ``ready`` is called after every refresh. Other commits may come between it and this one, but none of the same
        transactions: then it is called again. What it relies on must be among them, or whoever changes that must commit
        one of them too. It raises an error to give up. If the reply to a commit is lost, the next call finds it done.

        Raises:
            ServiceUnavailable: storage cannot be reached.
        """
        for _ in range(COMMIT_ATTEMPTS):
            try:
                self.refresh()
                if ready() == "done":
                    return False
                self.commit(add=add, transactions=transactions)
            except CommitFailedError:
                continue  # refresh: lost race, lost reply or stale object
            except (OSError, DeltaError) as error:
                raise explained(self.storage, error, "Table cannot be committed") from None
            return True
        raise ServiceUnavailable(
            "Other commits to the table always come first",
            where=self.name,
            remedy="Use fewer workers, or longer spans.",
        )
