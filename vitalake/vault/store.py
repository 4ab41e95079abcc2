"""What the vault asks of a database: the same of SQLite and of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol, TypeVar

Row = tuple[Any, ...]
T = TypeVar("T")

CHUNK = 1000
"""Rows of one statement: with eleven columns well below the 32,766 parameters that SQLite takes."""


class Transaction(Protocol):
    """Statements that hold together; parameters are written ``?``."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; return its rows."""
        ...

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement with each of the rows."""
        ...

    def share(self) -> None:
        """Keep who calls ``alone`` out until the end; others may share."""
        ...

    def alone(self) -> None:
        """Keep everybody out who shares or wants to be alone."""
        ...


class Store(Protocol):
    """An open database; used by one thread at a time, by any number of processes.

    Every method raises ServiceUnavailable when the database refuses or is gone; the next call connects anew.

    Attributes:
        connections: how often it was connected: what was read before the last time may be of another server.
    """

    connections: int

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of one query."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Give statements of which all are committed, or none."""
        ...

    def scrub(self, needles: Sequence[bytes]) -> None:
        """See that nothing which was deleted stays in the database's files.

        Args:
            needles: what must not be found any more; none: look nowhere, write everything anew.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Return the items in lists of at most ``size``."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def insert_new(transaction: Transaction, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Insert the rows whose key is not there yet; who came first stays."""
    one = f"({', '.join('?' * len(columns))})"
    for chunk in chunks(rows):
        transaction.run(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([one] * len(chunk))} "  # noqa: S608 - our names
            "ON CONFLICT DO NOTHING",
            [value for row in chunk for value in row],
        )


def among(number: int) -> str:
    """Return ``(?, ?, …)``."""
    return f"({', '.join('?' * number)})"
