"""The interface of the vault's database, for SQLite and PostgreSQL alike."""

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
    """An open transaction; parameters are written ``?``."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement; return its rows.

        Args:
            sql: the statement; ``IN ?`` takes a list of bytes.
            parameters: one for each ``?``; a statement with ``IN ?`` has no other parameter.
        """
        ...

    def insert_new(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert the rows whose key does not exist yet; existing rows stay. At most ``CHUNK`` rows."""
        ...

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement with each of the rows."""
        ...

    def lock_shared(self) -> None:
        """Take the vault's lock shared until the transaction ends: others can then share it, but not hold it alone."""
        ...

    def lock_exclusively(self) -> None:
        """Take the vault's lock exclusively: until the transaction ends, nobody else shares or holds it."""
        ...


class Store(Protocol):
    """An open database; used by one thread at a time, by any number of processes.

    Every method raises ServiceUnavailable when the database refuses or is gone; the next call connects again.

    Attributes:
        connections: how often it has connected; what was read before the last time may come from another server.
    """

    connections: int

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of one query; see Transaction.run."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction: all of its statements are committed, or none."""
        ...

    def scrub(self, needles: Sequence[bytes]) -> None:
        """Remove deleted bytes from the database's files.

        Args:
            needles: bytes that must not remain; empty: rewrite everything without searching.

        Raises:
            PrivacyError: the database user is not allowed to.
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
