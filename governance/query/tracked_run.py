"""Runs a tracked query: returns its rows, whether there are more, and the patients whose rows this answer uses.

An answer says more than its rows: that there are more, or that the query failed, depends on patients' rows as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from governance.query.errors import Category, QueryFailed, ended, failure
from governance.query.identified import refuse_whole_rows
from governance.query.relations import SUBJECT, WHO, quoted, versions_name
from governance.query.sandbox import Ended
from governance.query.worker import Head
from vitalake.errors import VitaLakeError

if TYPE_CHECKING:
    from governance.query.tracking import Tracked


class Run(Protocol):
    """Runs SQL and returns at most ``rows`` rows; ``side_queries`` are those of a worker's request."""

    def __call__(
        self, sql: str, rows: int, side_queries: Sequence[str] | None = None, /
    ) -> tuple[Head, pa.Table | None]:
        """Return head and rows."""
        ...


MOST_PATIENTS = 100_000
"""The most patients whose rows one answer may use. Each of them is recorded."""


@dataclass(frozen=True, slots=True)
class TrackedAnswer:
    """The answer of a query over identified rows.

    Attributes:
        rows: at most as many as were asked for.
        more: whether there are more.
        subjects: the patients whose rows ``rows`` and ``more`` depend on.
    """

    rows: pa.Table
    more: bool
    subjects: set[bytes | None]


@dataclass(frozen=True, slots=True)
class TrackedFailure:
    """Why a query over identified rows has no answer.

    Attributes:
        outcome: for the record: the category of the query's failure; ``untold``: the patients behind the answer could
            not be determined; ``ended``: the operating system ended the sandbox.
        error: for the person who asks.
        unread: whether no row was read: the query is wrong as it is written.
        subjects: the patients whose rows the failure may depend on; None: they are too many, or cannot be determined.
    """

    outcome: str
    error: VitaLakeError
    subjects: set[bytes | None] | None
    unread: bool = False


def run_tracked(run: Run, tracked: Tracked, identified: Sequence[str], *, rows: int) -> TrackedAnswer | TrackedFailure:
    """Run a query over identified rows; return its answer or its failure, with the patients it depends on.

    Args:
        run: runs SQL in the sandbox.
        tracked: the query.
        identified: names of the identified datasets that it reads.
        rows: the most rows that are shown. One more is asked for: whether there is one is part of the answer.
    """
    try:
        side_queries = [query for query in (tracked.side_query, tracked.truncation_query) if query]
        head, table = run(tracked.sql, rows + 1, side_queries)
        if table is None:
            category = head.failed or "failed"
            if head.unread:
                outcome = "untold" if category in ("outwards", "nested") else category
                return TrackedFailure(outcome, failure(category), set(), unread=True)
            # Values of the rows may cause any of these errors, so the failure says something about all readable rows.
            return _failed(run, category, failure(_while_reading(category)), identified)
        more = table.num_rows > rows
        table, subjects = _split_subjects(table) if tracked.carried else (table, set[bytes | None]())
        refuse_whole_rows(table)
        subjects |= _run_side_query(run, tracked.side_query)
        subjects |= _run_side_query(run, tracked.truncation_query if more else "")
        return TrackedAnswer(table.slice(0, rows), more, subjects)
    except VitaLakeError as error:  # also a refusal: the query has read rows by now
        return _failed(run, "untold", error, identified)
    except Ended:
        return _failed(run, "ended", ended(), identified)


def _while_reading(category: Category) -> Category:
    """Return the category to report for a failure while rows are read: the query was bound, so its names are right."""
    return "failed" if category in ("names", "form", "refused") else category


def _failed(run: Run, outcome: str, error: VitaLakeError, identified: Sequence[str]) -> TrackedFailure:
    return TrackedFailure(outcome, error, _all_subjects(run, identified))


def _all_subjects(run: Run, identified: Sequence[str]) -> set[bytes | None] | None:
    """Return the subjects of all rows a query could read: its failure may tell something about any of them."""
    tables = [f"SELECT {SUBJECT} FROM {quoted(versions_name(name))}" for name in identified]  # noqa: S608
    if not tables:
        return set()
    sql = f"SELECT DISTINCT {SUBJECT} AS {WHO} FROM ({' UNION ALL '.join(tables)})"  # noqa: S608
    try:
        head, found = run(sql, MOST_PATIENTS)
    except Ended:
        return None
    return None if found is None or head.more else set(found.column(WHO).to_pylist())


def _split_subjects(table: pa.Table) -> tuple[pa.Table, set[bytes | None]]:
    """Return an answer without its column ``who__``, and the subjects in that; UNION BY NAME may put it anywhere."""
    who = table.schema.get_field_index(WHO)
    return table.remove_column(who), set(pc.list_flatten(table.column(who)).unique().to_pylist())


def _run_side_query(run: Run, sql: str) -> set[bytes | None]:
    """Return the subjects that a side query finds.

    Raises:
        QueryFailed: it has no answer within the limits, or finds too many patients.
    """
    if not sql:
        return set()
    head, found = run(sql, MOST_PATIENTS)
    if found is None:
        raise failure(_while_reading(head.failed or "failed"))
    if head.more:
        raise QueryFailed(
            "The answer uses the rows of more patients than one query may read",
            where="vitalake sql --identified",
            remedy=f"Ask about at most {MOST_PATIENTS:,} patients at once.",
        )
    return set(found.column(WHO).to_pylist())
