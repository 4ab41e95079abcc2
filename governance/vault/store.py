"""What the vault asks of a database: the same of SQLite and of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol, TypeVar

Row = tuple[Any, ...]
T = TypeVar("T")

CHUNK = 4000
"""Rows of one statement: with six columns below the 32,766 parameters that SQLite takes."""


class Transaction(Protocol):
    """Statements that hold together; parameters are written ``?``."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; return its rows.

        Args:
            sql: the statement; ``IN ?`` takes a list of bytes.
            parameters: for each ``?``; that of ``IN ?`` is the only one.
        """
        ...

    def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert the rows whose key is not there yet, at most ``CHUNK``; who came first stays."""
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
        """Return the rows of one query; see Transaction.run."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Give statements of which all are committed, or none."""
        ...

    def scrub(self, needles: Sequence[bytes]) -> None:
        """See that nothing which was deleted stays in the database's files.

        Args:
            needles: what must not be found any more; none: look nowhere, write everything anew.

        Raises:
            PrivacyError: the user has no right to do so.
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
