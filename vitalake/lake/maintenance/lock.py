"""Locks a table while its replacement is prepared: rows may be added or dropped, but not moved to other files."""

from __future__ import annotations

from collections.abc import Sequence

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
    for _ in range(COMMIT_ATTEMPTS):
        table.refresh()
        number = (table.transaction(replacement_app(table.name)) or 0) + 1
        number += (number + 1) % 2  # odd
        try:
            table.commit(transactions={replacement_app(table.name): number, maintenance_app(table.name): _next(table)})
        except CommitFailedError:
            continue
        table.refresh()
        return number
    raise ServiceUnavailable(
        "Other commits to the table always come first", where=table.name, remedy="Try again in a quieter hour."
    )


def unlock_table(table: Table, *, number: int | None = None) -> None:
    """Unlock a table; does nothing if it is not locked, or by another lock than one of this number."""
    for _ in range(COMMIT_ATTEMPTS):
        table.refresh()
        if not is_locked(table) or number not in (None, table.transaction(replacement_app(table.name))):
            return
        try:
            table.commit(
                transactions={replacement_app(table.name): (table.transaction(replacement_app(table.name)) or 0) + 1}
            )
        except CommitFailedError:
            continue
    raise ServiceUnavailable(
        "Other commits to the table always come first", where=table.name, remedy="Try again in a quieter hour."
    )


def outdate_replacement(table: Table) -> None:
    """Take the right to commit from a replacement of the table that is being prepared; it has to start again.

    Call it once the fence is raised: the replacement compares the fence, and then commits to another table than the
    spans'. A rewrite of rows would conflict with it, but there may be none to rewrite in what it replaces.

    Raises:
        ServiceUnavailable: other commits always come first.
    """
    for _ in range(COMMIT_ATTEMPTS):
        table.refresh()
        if not is_locked(table):
            return
        try:
            table.commit(transactions={maintenance_app(table.name): _next(table)})
        except CommitFailedError:
            continue
        return
    raise ServiceUnavailable(
        "Other commits to the table always come first", where=table.name, remedy="Try again in a quieter hour."
    )


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


def _next(table: Table) -> int:
    return (table.transaction(maintenance_app(table.name)) or 0) + 1
