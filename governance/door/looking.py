"""Runs a query that tells its patients: its rows, whether there are more, and whose rows all of that rests on.

What an answer says is more than its rows: that there are more of them, and that a query failed, say something too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from governance.door.errors import Category, QueryFailed, QueryRefused, ended, failure, untold
from governance.door.relations import SUBJECT, WHO, quoted, versions_name
from governance.door.sandbox import Ended
from governance.door.worker import Head
from vitalake.errors import VitaLakeError

if TYPE_CHECKING:
    from governance.door.tracking import Tracked

Run = Callable[[str, int], tuple[Head, pa.Table | None]]

MOST_PATIENTS = 100_000
"""Whose rows one answer rests on. Each is put on record."""

_BY_FORM: frozenset[Category] = frozenset({"names", "form", "refused"})
"""Failures of the query as it is written: no row was read. Every other one may depend on what the rows hold."""


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
        subjects: whose rows the failure may rest on; None: they are too many, or cannot be had.
    """

    outcome: str
    error: VitaLakeError
    subjects: set[bytes | None] | None


def look(run: Run, tracked: Tracked, identified: Sequence[str], *, rows: int) -> Seen | Failed:
    """Return what a query over identified rows gives, and whose rows that rests on: also of a failure.

    Args:
        run: answers SQL with so many rows at most.
        tracked: the query.
        identified: names of the identified datasets that it reads.
        rows: most that are shown. One more is asked for: that there is one is part of the answer.
    """
    try:
        head, table = run(tracked.sql, rows + 1)
        if table is None:
            category = head.failed or "failed"
            return _failed(run, category, failure(category), () if category in _BY_FORM else identified)
        more = table.num_rows > rows
        table, subjects = _without(table) if tracked.carried else (table, set[bytes | None]())
        subjects |= _aside(run, tracked.aside) | _aside(run, tracked.cut if more else "")
        return Seen(table.slice(0, rows), more, subjects)
    except QueryRefused as error:
        return Failed("untold", error, set())
    except VitaLakeError as error:
        return _failed(run, "untold", error, identified)
    except Ended:
        return _failed(run, "ended", ended(), identified)


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
        QueryRefused: it looks outwards, so that it cannot be asked by itself.
        QueryFailed: it has no answer within the limits, or too many.
    """
    if not sql:
        return set()
    head, found = run(sql, MOST_PATIENTS)
    if head.failed == "names":
        raise untold("a subquery that looks outwards")
    if found is None:
        raise failure(head.failed or "failed")
    if head.more:
        raise QueryFailed(
            "Query rests on more patients than are put on record at once",
            where="vitalake sql --identified",
            remedy=f"Ask for fewer: at most {MOST_PATIENTS:,}.",
        )
    return set(found.column(WHO).to_pylist())
