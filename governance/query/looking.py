"""Runs a query that tells its patients: its rows, whether there are more, and whose rows all of that rests on.

What an answer says is more than its rows: that there are more of them, and that a query failed, say something too.
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
    """Answers SQL with so many rows at most; ``beside`` is that of a worker's request."""

    def __call__(self, sql: str, rows: int, beside: Sequence[str] | None = None, /) -> tuple[Head, pa.Table | None]:
        """Return head and rows."""
        ...


MOST_PATIENTS = 100_000
"""Whose rows one answer rests on. Each is put on record."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a query over identified rows gives.

    Attributes:
        rows: at most so many as were asked for.
        more: whether there are more.
        subjects: whose rows both rest on.
    """

    rows: pa.Table
    more: bool
    subjects: set[bytes | None]


@dataclass(frozen=True, slots=True)
class Failed:
    """Why it gives nothing.

    Attributes:
        outcome: for the record: the category of the query's failure; ``untold``: whose rows it rests on could not be
            had; ``ended``: by the system.
        error: for who asks.
        unread: whether no row was read: the query is wrong as it is written.
        subjects: whose rows the failure may rest on; None: they are too many, or cannot be had.
    """

    outcome: str
    error: VitaLakeError
    subjects: set[bytes | None] | None
    unread: bool = False


def look(run: Run, tracked: Tracked, identified: Sequence[str], *, rows: int) -> Seen | Failed:
    """Return what a query over identified rows gives, and whose rows that rests on: also of a failure.

    Args:
        run: answers SQL with so many rows at most.
        tracked: the query.
        identified: names of the identified datasets that it reads.
        rows: most that are shown. One more is asked for: that there is one is part of the answer.
    """
    try:
        head, table = run(tracked.sql, rows + 1, [query for query in (tracked.aside, tracked.cut) if query])
        if table is None:
            category = head.failed or "failed"
            if head.unread:
                outcome = "untold" if category in ("outwards", "nested") else category
                return Failed(outcome, failure(category), set(), unread=True)
            # The same error may also come of what the rows hold: whatever its category is, they tell of it.
            return _failed(run, category, failure(_of_rows(category)), identified)
        more = table.num_rows > rows
        table, subjects = _without(table) if tracked.carried else (table, set[bytes | None]())
        refuse_whole_rows(table)
        subjects |= _aside(run, tracked.aside) | _aside(run, tracked.cut if more else "")
        return Seen(table.slice(0, rows), more, subjects)
    except VitaLakeError as error:  # a refusal too: the query has read rows by now
        return _failed(run, "untold", error, identified)
    except Ended:
        return _failed(run, "ended", ended(), identified)


def _of_rows(category: Category) -> Category:
    """Return what is said of a failure over rows: the names of the query are right, so they are not what fails."""
    return "failed" if category in ("names", "form", "refused") else category


def _failed(run: Run, outcome: str, error: VitaLakeError, identified: Sequence[str]) -> Failed:
    return Failed(outcome, error, _readable(run, identified))


def _readable(run: Run, identified: Sequence[str]) -> set[bytes | None] | None:
    """Return the subjects of all rows a query could read: that it failed says something about one of them."""
    tables = [f"SELECT {SUBJECT} FROM {quoted(versions_name(name))}" for name in identified]  # noqa: S608
    if not tables:
        return set()
    sql = f"SELECT DISTINCT {SUBJECT} AS {WHO} FROM ({' UNION ALL '.join(tables)})"  # noqa: S608
    try:
        head, found = run(sql, MOST_PATIENTS)
    except Ended:
        return None
    return None if found is None or head.more else set(found.column(WHO).to_pylist())


def _without(table: pa.Table) -> tuple[pa.Table, set[bytes | None]]:
    """Return an answer without its column ``who__``, and the subjects in that; UNION BY NAME may put it anywhere."""
    who = table.schema.get_field_index(WHO)
    return table.remove_column(who), set(pc.list_flatten(table.column(who)).unique().to_pylist())


def _aside(run: Run, sql: str) -> set[bytes | None]:
    """Return the subjects that a second query finds.

    Raises:
        QueryFailed: it has no answer within the limits, or too many.
    """
    if not sql:
        return set()
    head, found = run(sql, MOST_PATIENTS)
    if found is None:
        raise failure(_of_rows(head.failed or "failed"))
    if head.more:
        raise QueryFailed(
            "Query rests on more patients than are put on record at once",
            where="vitalake sql --identified",
            remedy=f"Ask for fewer: at most {MOST_PATIENTS:,}.",
        )
    return set(found.column(WHO).to_pylist())
