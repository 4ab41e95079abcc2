"""Locks a table while its replacement is prepared: rows may be added or dropped, but not moved to other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from deltalake.exceptions import CommitFailedError

from vitalake.errors import ServiceUnavailable
from vitalake.lake.commits.transactions import maintenance_app, replacement_app
from vitalake.lake.maintenance.journal import Journal
from vitalake.lake.maintenance.rewrite import is_locked
from vitalake.lake.tables.table import COMMIT_ATTEMPTS, Table


def lock_table(table: Table) -> int:
    """Lock a table, or take the lock over from another process; return the number of the lock.

    A rewrite that was planned before cannot commit any more: its maintenance number is used up.

    Raises:
        ServiceUnavailable: other commits always come first.
    """
    app = replacement_app(table.name)

    def numbers() -> dict[str, int]:
        number = _number(table) + 1
        return {app: number + (number + 1) % 2, maintenance_app(table.name): _next(table)}  # odd

    return _commit(table, numbers)[app]


def unlock_table(table: Table, *, number: int | None = None) -> None:
    """Unlock a table; does nothing if it is not locked, or by another lock than one of this number."""

    def numbers() -> dict[str, int]:
        if not is_locked(table) or number not in (None, _number(table)):
            return {}
        return {replacement_app(table.name): _number(table) + 1}

    _commit(table, numbers)


def outdate_replacement(table: Table) -> None:
    """Take the right to commit from a replacement of the table that is being prepared; it has to start again.

    Call it once the fence is raised: the replacement compares the fence, and then commits to another table than the
    spans'. A rewrite of rows would conflict with it, but there may be none to rewrite in what it replaces.

    Raises:
        ServiceUnavailable: other commits always come first.
    """
    _commit(table, lambda: {maintenance_app(table.name): _next(table)} if is_locked(table) else {})


def abandon(journal: Journal, tables: Sequence[Table]) -> bool:
    """Give a job up, even if another process runs it; return whether there was one. The sweeper deletes its files.

    Args:
        journal: of the dataset.
        tables: the existing tables that the job locks.
    """
    existed = journal.job() is not None
    for table in tables:  # unlock first: a process that finds a journal and no lock deletes the journal
        unlock_table(table)
    journal.end()
    return existed


def _commit(table: Table, numbers: Callable[[], Mapping[str, int]]) -> Mapping[str, int]:
    """Commit the transactions that are right for the table as refreshed, and return them; none: there is nothing to do.

    Others may lock the table from then on: what was committed is not read again.
    """
    for _ in range(COMMIT_ATTEMPTS):
        table.refresh()
        transactions = numbers()
        if not transactions:
            return transactions
        try:
            table.commit(transactions=transactions)
        except CommitFailedError:
            continue
        table.refresh()
        return transactions
    raise ServiceUnavailable(
        "Other commits to the table always come first", where=table.name, remedy="Try again in a quieter hour."
    )


def _number(table: Table) -> int:
    return table.transaction(replacement_app(table.name)) or 0


def _next(table: Table) -> int:
    return (table.transaction(maintenance_app(table.name)) or 0) + 1
