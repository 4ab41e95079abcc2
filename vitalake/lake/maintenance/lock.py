"""Holding a table while a swap is prepared: nobody may move its rows, but drop some, and streams add to it."""

from __future__ import annotations

from collections.abc import Sequence

from deltalake.exceptions import CommitFailedError

from vitalake.errors import ServiceUnavailable
from vitalake.lake.maintenance.journal import Journal
from vitalake.lake.maintenance.rewrite import is_held, maintenance_app, replacement_app
from vitalake.lake.tables.table import COMMIT_ATTEMPTS, Table


def hold_for_maintenance(table: Table) -> int:
    """Hold a table, or take the hold over; return the number that is to be committed over.

    Rewrites under way that were planned before are refused: they took a number of maintenance that is gone.

    Raises:
        ServiceUnavailable: the table is contended.
    """
    for _ in range(COMMIT_ATTEMPTS):
        table.refresh()
        number = (table.transaction(replacement_app(table)) or 0) + 1
        number += (number + 1) % 2  # odd
        try:
            table.commit(transactions={replacement_app(table): number, maintenance_app(table): _next(table)})
        except CommitFailedError:
            continue
        table.refresh()
        return number
    raise ServiceUnavailable("Table is contended", where=table.name, remedy="Try again in a quieter hour.")


def release(table: Table) -> None:
    """Let a table be maintained again; nothing where it is already."""
    for _ in range(COMMIT_ATTEMPTS):
        table.refresh()
        if not is_held(table):
            return
        try:
            table.commit(transactions={replacement_app(table): (table.transaction(replacement_app(table)) or 0) + 1})
        except CommitFailedError:
            continue
    raise ServiceUnavailable("Table is contended", where=table.name, remedy="Try again in a quieter hour.")


def abandon(journal: Journal, tables: Sequence[Table]) -> bool:
    """Give a job up, whoever is at it; return whether there was one. What it has staged is the sweeper's.

    Args:
        journal: of the dataset.
        tables: that it holds, as far as they are there.
    """
    found = journal.job() is not None
    for table in tables:  # first: whoever finds the journal and no hold ends it
        release(table)
    journal.end()
    return found


def _next(table: Table) -> int:
    return (table.transaction(maintenance_app(table)) or 0) + 1
