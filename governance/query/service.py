"""The query service: people and training read published data here; each access is recorded before it is answered."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from governance.access.principal import MissingPermission, Permission, Principal, require
from governance.audit import Action, AuditEvent, AuditSink, is_code, open_audit
from governance.belonging import refuse_restored_lake
from governance.query.catalogue import Catalogue
from governance.query.engine import connect
from governance.query.errors import QueryRefused, ended, failure
from governance.query.relations import AVAILABLE, as_known_at_name, quoted, text
from governance.query.slots import slot
from governance.query.worker import Request
from vitalake.errors import InputError
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.settings import Settings

if TYPE_CHECKING:
    from governance.query.sql import Query
    from governance.query.tracked_run import Run

log = logging.getLogger(__name__)

ROWS = 1_000
"""Rows of an answer by default; the answer says whether there are more."""

MOST_ROWS = 100_000
MEMORY_MB = 1_024
SECONDS = 60
SIZE = 64 << 20
"""The most bytes of an answer."""

BATCH_ROWS = 65_536
MOST_COLUMN_CHARACTERS = 600
"""Of the names of columns in an audit record; a detail has room for 1,000. Beyond that the longest list is ``all``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of an answer, and whether these are all.

    Attributes:
        rows: in the query's order.
        complete: False: there are more rows than the limit.
        datasets: the datasets that the query read.
    """

    rows: pa.Table
    complete: bool
    datasets: tuple[str, ...]


class QueryService:
    """Answers queries over published data; not to be shared between threads."""

    def __init__(self, settings: Settings, keys: KeyRing | None = None, *, audit: AuditSink | None = None) -> None:
        """Open the query service with the rules as they are now.

        Args:
            settings: the home's settings.
            keys: default: the home's keys.
            audit: where queries are recorded; default: the audit chain ``door``.
        """
        self._settings = settings
        self._keys = keys or Home(settings).keys
        self._audit = audit or open_audit(settings, self._keys, writer="door")
        self.catalogue = Catalogue(settings, self._keys)

    # -- training ------------------------------------------------------------------------------------------------

    def read(
        self,
        dataset: str,
        *,
        columns: Sequence[str],
        principal: Principal,
        purpose: str,
        where: Mapping[str, Sequence[str | int | float]] | None = None,
        as_known_at: datetime | None = None,
        action: Action = "train",
    ) -> Iterator[pa.RecordBatch]:
        """Return the current rows of a published dataset in batches, in no order; the first batch is empty.

        Each record appears once, in its highest version, whichever lane brought it. Records that were withdrawn are
        left out.

        Args:
            dataset: its name.
            columns: names of published columns.
            principal: who reads; needs ``sql:query``.
            purpose: a code such as ``train-mortality``, for the record.
            where: column → values; only rows with one of these values in each of these columns.
            as_known_at: a moment with a time zone: the rows that were current by what was known then. None: now.
            action: the name of this access in the audit.

        Raises:
            MissingPermission: the role does not allow it.
            InputError: no such dataset or column, ``purpose`` is no code, or a value of ``where`` does not fit.
            PrivacyError: the lake was put back to a day before an erasure.
            VitaLakeError: the audit cannot be written; nothing was read.
        """
        self._require(principal)
        # Copies: the audit record stays true if the caller changes the lists before the rows are read.
        columns, published = tuple(columns), self.catalogue.published_columns(dataset)
        if any(isinstance(choices, str) for choices in (where or {}).values()):
            raise InputError(
                "The values of 'where' must be a list, not a text", where="where", remedy="Write {column: [value]}."
            )
        filters = {name: tuple(choices) for name, choices in (where or {}).items()}
        if not columns or not {*columns, *filters} <= published.keys():
            raise InputError("No such column is published", where=dataset, remedy=f"There are: {', '.join(published)}.")
        if as_known_at is not None and (AVAILABLE not in published or as_known_at.tzinfo is None):
            raise InputError(
                "Rows as known at this moment cannot be read",
                where=dataset,
                remedy=f"Give the moment with its time zone; the rules must publish {AVAILABLE}.",
            )
        if not purpose or not is_code(purpose):
            raise InputError(
                "Purpose is not a code",
                where="purpose",
                remedy="Use letters without accents, digits, - and ., as in 'audit-2026'; no pseudonym.",
            )
        detail = {"dataset": dataset, "columns": _listed(columns), "purpose": purpose, "where": _listed(filters)}
        classes = self.catalogue.columns_read(dataset, {*columns, *filters}).values()
        detail |= {"classes": ",".join(sorted(set(classes))), "rules": self.catalogue.rules}
        if as_known_at is not None:
            detail["as_known_at"] = as_known_at.astimezone(UTC).isoformat()
        self._record(action, principal, detail)
        return self._batches(dataset, columns, filters, as_known_at)

    def _batches(
        self,
        dataset: str,
        columns: Sequence[str],
        where: Mapping[str, Sequence[str | int | float]],
        moment: datetime | None,
    ) -> Iterator[pa.RecordBatch]:
        conditions: list[str] = ["true"]
        source = quoted(dataset)
        if moment is not None:
            source = f"{quoted(as_known_at_name(dataset))}({text(moment.astimezone(UTC).isoformat())})"
        values: list[str | int | float] = []
        kinds = self.catalogue.published_columns(dataset)
        for name, choices in where.items():
            # Cast, for else DuckDB may convert the column instead, and quote a value of it where that fails.
            given = ", ".join([f"CAST(? AS {kinds[name]})"] * len(choices))
            conditions.append(f"{quoted(name)} IN ({given})" if choices else "false")
            values += choices
        names = ", ".join(map(quoted, columns))
        select = f"SELECT {names} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608
        with self.catalogue.relations([dataset]) as relations:
            if missing := sorted({*columns, *where} - relations[0].columns.keys()):
                raise InputError(
                    "Rows of a column were published under another data class",
                    where=f"{dataset}: {', '.join(missing)}",
                    remedy=f"Run 'vitalake lake rewrite --republish {dataset}' first.",
                )
            connection = connect(relations, memory_mb=MEMORY_MB)
            try:
                for name, choices in where.items():
                    _refuse_unfit(connection, name, kinds[name], choices)
                reader = connection.sql(select, params=values).to_arrow_reader(BATCH_ROWS)
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)  # carries the schema if there are no rows
                yield from reader
            finally:
                connection.close()

    # -- queries -------------------------------------------------------------------------------------------------

    def query(self, sql: str, *, principal: Principal, rows: int = ROWS, seconds: int = SECONDS) -> Answer:
        """Return the answer of a query over published data.

        Args:
            sql: one SELECT; ``<dataset>`` is its current rows, ``<dataset>_versions`` all of them.
            principal: who asks; needs ``sql:query``.
            rows: the most rows of the answer; the answer says whether there are more.
            seconds: how long the query may run.

        Raises:
            MissingPermission: the role does not allow it.
            PrivacyError: the lake was restored to a day before an erasure.
            QueryRefused: the query uses something that is not on the list.
            QueryFailed: the query cannot be answered within its limits.
            ServiceUnavailable: all query slots were in use while this query waited.
            VitaLakeError: the audit cannot be written; the answer is withheld.
        """
        from governance.query.sql import check

        self._require(principal)
        try:
            query = check(sql, self.catalogue.names)
        except QueryRefused:
            self._record("denied", principal, {"permission": "sql:query", "reason": "query"})
            raise
        with self._sandbox(query, principal, seconds=seconds) as run:
            head, table = run(query.sql, min(rows, MOST_ROWS))
        self._record_query(query, principal, rows=head.rows, outcome=head.failed or "answered")
        if table is None:
            raise failure(head.failed or "failed", remedy=self._available(query) if head.failed == "names" else "")
        return Answer(table, not head.more, query.datasets)

    @contextmanager
    def _sandbox(
        self,
        query: Query,
        principal: Principal,
        *,
        seconds: int,
        identified: bool = False,
        subject: bytes | None = None,
    ) -> Iterator[Run]:
        """Yield a function that runs SQL in the sandbox, each time on the same versions of the query's tables.

        Args:
            query: checked.
            principal: who asks.
            seconds: how long each run may take.
            identified: whether the query may read identified rows.
            subject: if given, identified rows are of this patient only.

        Raises:
            ServiceUnavailable: the system ended the sandbox, which is recorded; or no query slot is free.
        """
        from governance.query.sandbox import Ended, run

        queries = self._settings.queries
        query_slot = slot(
            self._settings.home,
            workers=queries.workers,
            seconds=queries.wait_seconds,
            waiting=lambda: log.info("query waits", extra={"count": queries.workers, "where": "queries.workers"}),
        )
        readable = self.catalogue.relations(
            query.datasets, current=query.current, identified=identified, subject=subject
        )
        with query_slot, readable as relations:
            try:
                yield lambda sql, rows, side_queries=None: run(
                    Request(sql, relations, rows, MEMORY_MB, seconds, SIZE, side_queries)
                )
            except Ended:
                self._record_query(query, principal, rows=0, outcome="ended")
                raise ended() from None

    def _available(self, query: Query) -> str:
        """Return a remedy that lists the columns of a query's datasets."""
        parts = [f"{name} has {', '.join(self.catalogue.columns(name))}" for name in query.datasets]
        return f"Check names and types: {'; '.join(parts)}."

    # -- the record ----------------------------------------------------------------------------------------------

    def _require(self, principal: Principal, permission: Permission = "sql:query") -> None:
        try:
            require(principal, permission)
        except MissingPermission as error:
            self._record("denied", principal, {"permission": error.permission})
            raise
        refuse_restored_lake(self._settings, self._keys)  # else the answer would show erased patients

    def _record_query(
        self,
        query: Query,
        principal: Principal,
        *,
        rows: int,
        outcome: str,
        detail: dict[str, str] | None = None,
        patients: tuple[str, ...] = (),
    ) -> None:
        """Record a query; a query over identified rows has a ``detail``, which is recorded too."""
        said = {"digest": query.digest, "datasets": ",".join(query.datasets), "rows": str(rows), "outcome": outcome}
        action: Action = "sql.query" if detail is None else "identified.query"
        self._record(action, principal, said | self._columns_read(query) | (detail or {}), patients)

    def _columns_read(self, query: Query) -> dict[str, str]:
        """Return the columns and data classes that a query reads, and the version of the rules, for the record.

        With them one can tell later which queries a stricter rule would have affected.
        """
        read = {
            name: self.catalogue.columns_read(name, None if query.everything else query.names)
            for name in query.datasets
        }
        listed = {name: "all" if query.everything else ",".join(sorted(columns)) for name, columns in read.items()}
        for name in sorted(listed, key=lambda name: len(listed[name]), reverse=True):
            if sum(map(len, listed.values())) > MOST_COLUMN_CHARACTERS:
                listed[name] = "all"
        classes = {kind for columns in read.values() for kind in columns.values()}
        return {
            "columns": " ".join(f"{name}({columns})" for name, columns in listed.items()),
            "classes": ",".join(sorted(classes)),
            "rules": self.catalogue.rules,
        }

    def _record(
        self, action: Action, principal: Principal, detail: dict[str, str], patients: tuple[str, ...] = ()
    ) -> None:
        self._audit.record(AuditEvent(action, principal.subject, principal.role, patients, detail))


def _listed(names: Iterable[str]) -> str:
    listed = ",".join(names)
    return listed if len(listed) <= MOST_COLUMN_CHARACTERS else "all"


def _refuse_unfit(
    connection: duckdb.DuckDBPyConnection, column: str, kind: str, choices: Sequence[str | int | float]
) -> None:
    """Raise an error if one of the values that are asked for cannot be of a column's type; it does not show the value.

    Raises:
        InputError: one cannot.
    """
    try:
        for choice in choices:
            connection.execute(f"SELECT CAST(? AS {kind})", [choice]).fetchall()
    except duckdb.Error:
        raise InputError(
            "A value of 'where' is not of its column's type", where=column, remedy=f"The column's type is {kind}."
        ) from None
