"""The query service: gives published data to people and to training, and records each access before it answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from governance.access.principal import MissingPermission, Permission, Principal, require
from governance.audit import Action, AuditEvent, AuditSink, open_audit
from governance.belonging import refuse_restored_lake
from governance.query.catalogue import Catalogue
from governance.query.engine import connect
from governance.query.errors import QueryRefused, ended, failure
from governance.query.relations import AVAILABLE, known_name, quoted, text
from governance.query.slots import slot
from governance.query.worker import Request
from vitalake.errors import InputError
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.settings import Settings

if TYPE_CHECKING:
    from governance.query.looking import Run
    from governance.query.sql import Query

log = logging.getLogger(__name__)

ROWS = 1_000
"""Rows of an answer, unless more are asked for; it is said when there are more."""

MOST_ROWS = 100_000
MEMORY_MB = 1_024
SECONDS = 60
SIZE = 64 << 20
BATCH_ROWS = 65_536
MOST_NAMED = 600
"""Characters of columns in a record, which has room for 1,000; of the dataset with the most they are then ``all``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, and whether these are all.

    Attributes:
        rows: in the query's order.
        complete: False: there are more than the limit.
        datasets: what was read.
    """

    rows: pa.Table
    complete: bool
    datasets: tuple[str, ...]


class QueryService:
    """Hands out published data; not to be shared between threads."""

    def __init__(self, settings: Settings, keys: KeyRing | None = None, *, audit: AuditSink | None = None) -> None:
        """Open the query service by the rules as they are now.

        Args:
            settings: of the home.
            keys: default: the home's.
            audit: default: the chain ``door``.
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
        """Return the current rows of a published dataset in batches, in no order; the first one is empty.

        Of each thing the highest version, once, whichever lane brought it; nothing that was taken back.

        Args:
            dataset: its name.
            columns: published ones.
            principal: who reads; needs ``sql:query``.
            purpose: a code such as ``train-mortality``, for the record.
            where: column → values; rows that have one of them in each.
            as_known_at: a moment, aware; the rows that were current by what could be known then. None: now.
            action: as what it is recorded.

        Raises:
            MissingPermission: the role does not allow it.
            InputError: no such dataset or column.
            PrivacyError: the lake was put back to a day before an erasure.
            VitaLakeError: the audit cannot be written; nothing was read.
        """
        self._require(principal)
        # What is recorded is what is read, also where the caller changes the lists afterwards.
        columns, known = tuple(columns), self.catalogue.columns(dataset)
        if any(isinstance(choices, str) for choices in (where or {}).values()):
            raise InputError("Values to choose by are a list", where="where", remedy="Write {column: [value]}.")
        wanted = {name: tuple(choices) for name, choices in (where or {}).items()}
        if not columns or not {*columns, *wanted} <= known.keys():
            raise InputError("No such column is published", where=dataset, remedy=f"There are: {', '.join(known)}.")
        if as_known_at is not None and (AVAILABLE not in known or as_known_at.tzinfo is None):
            raise InputError(
                "Rows cannot be had as known at this moment",
                where=dataset,
                remedy=f"Give it with its zone; the rules must publish {AVAILABLE}.",
            )
        detail = {"dataset": dataset, "columns": ",".join(columns), "purpose": purpose, "where": ",".join(wanted)}
        classes = self.catalogue.read_by(dataset, {*columns, *wanted}).values()
        detail |= {"classes": ",".join(sorted(set(classes))), "rules": self.catalogue.rules}
        if as_known_at is not None:
            detail["as_known_at"] = as_known_at.astimezone(UTC).isoformat()
        self._record(action, principal, detail)
        return self._batches(dataset, columns, wanted, as_known_at)

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
            source = f"{quoted(known_name(dataset))}({text(moment.astimezone(UTC).isoformat())})"
        values: list[str | int | float] = []
        for name, choices in where.items():
            conditions.append(f"{quoted(name)} IN ({', '.join('?' * len(choices))})" if choices else "false")
            values += choices
        names = ", ".join(map(quoted, columns))
        select = f"SELECT {names} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608
        with self.catalogue.relations([dataset]) as relations:
            if missing := sorted({*columns, *where} - relations[0].columns.keys()):
                raise InputError(
                    "A column's rows were published under another data class",
                    where=f"{dataset}: {', '.join(missing)}",
                    remedy=f"Run 'vitalake lake rewrite --republish {dataset}' first.",
                )
            connection = connect(relations, memory_mb=MEMORY_MB)
            try:
                reader = connection.sql(select, params=values).to_arrow_reader(BATCH_ROWS)
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)  # says the schema, also of nothing
                yield from reader
            finally:
                connection.close()

    # -- queries -------------------------------------------------------------------------------------------------

    def query(self, sql: str, *, principal: Principal, rows: int = ROWS, seconds: int = SECONDS) -> Answer:
        """Return the answer of a query over published data.

        Args:
            sql: one SELECT; ``<dataset>`` is its current rows, ``<dataset>_versions`` all of them.
            principal: who asks; needs ``sql:query``.
            rows: at most so many; the answer says whether there are more.
            seconds: it may run.

        Raises:
            MissingPermission: the role does not allow it.
            PrivacyError: the lake was put back to a day before an erasure.
            QueryRefused: it is made of something that is not on the list.
            QueryFailed: it has no answer within its limits.
            ServiceUnavailable: as many queries run as may at once, and none has ended while this one waited.
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
            raise failure(head.failed or "failed", remedy=self._known(query) if head.failed == "names" else "")
        return Answer(table, not head.more, query.datasets)

    @contextmanager
    def _sandbox(
        self,
        query: Query,
        principal: Principal,
        *,
        seconds: int,
        subject: bytes | None = None,
    ) -> Iterator[Run]:
        """Give what answers SQL with so many rows, each time of the same versions of the query's tables.

        Raises:
            ServiceUnavailable: the system ended it, which is recorded; or no place is free.
        """
        from governance.query.sandbox import Ended, run

        queries = self._settings.queries
        place = slot(
            self._settings.home,
            workers=queries.workers,
            seconds=queries.wait_seconds,
            waiting=lambda: log.info("query waits", extra={"count": queries.workers, "where": "queries.workers"}),
        )
        with place, self.catalogue.relations(query.datasets, subject=subject) as relations:
            try:
                yield lambda sql, rows, beside=None: run(
                    Request(sql, relations, rows, MEMORY_MB, seconds, SIZE, beside)
                )
            except Ended:
                self._record_query(query, principal, rows=0, outcome="ended")
                raise ended() from None

    def _known(self, query: Query) -> str:
        """Return what can be asked of the datasets of a query."""
        parts = [f"{name} has {', '.join(self.catalogue.columns(name))}" for name in query.datasets]
        return f"Check names and types: {'; '.join(parts)}."

    # -- the record ----------------------------------------------------------------------------------------------

    def _require(self, principal: Principal, permission: Permission = "sql:query") -> None:
        try:
            require(principal, permission)
        except MissingPermission as error:
            self._record("denied", principal, {"permission": error.permission})
            raise
        refuse_restored_lake(self._settings, self._keys)  # the erased would be in the answer

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
        """Record a query; with a detail of its own it is one over identified rows."""
        said = {"digest": query.digest, "datasets": ",".join(query.datasets), "rows": str(rows), "outcome": outcome}
        action: Action = "sql.query" if detail is None else "identified.query"
        self._record(action, principal, said | self._read_by(query) | (detail or {}), patients)

    def _read_by(self, query: Query) -> dict[str, str]:
        """Return which columns and data classes a query reads, by which rules: a later rule is simulated on them."""
        read = {
            name: self.catalogue.read_by(name, None if query.everything else query.names) for name in query.datasets
        }
        named = {name: "all" if query.everything else ",".join(sorted(columns)) for name, columns in read.items()}
        while sum(map(len, named.values())) > MOST_NAMED:
            named[max(named, key=lambda name: len(named[name]))] = "all"
        classes = {kind for columns in read.values() for kind in columns.values()}
        return {
            "columns": " ".join(f"{name}({columns})" for name, columns in named.items()),
            "classes": ",".join(sorted(classes)),
            "rules": self.catalogue.rules,
        }

    def _record(
        self, action: Action, principal: Principal, detail: dict[str, str], patients: tuple[str, ...] = ()
    ) -> None:
        self._audit.record(AuditEvent(action, principal.subject, principal.role, patients, detail))
