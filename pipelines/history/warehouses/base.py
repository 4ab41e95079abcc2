"""Defines what a warehouse's driver is: an ADBC driver, and how an address of the warehouse is used with it.

Built-in kinds and those of other packages are made in the same way: a ``WarehouseKind`` in a module of its own, and a
line under ``vitalake.warehouses`` in the entry points of the package. docs/how-to/write-a-warehouse-driver.md shows an
example. Whatever the kind, ``pipelines/history/warehouse.py`` opens the warehouse, streams its rows and reports errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """What an address means to the driver.

    Attributes:
        uri: what the driver connects to. It may contain a password, and is not shown in repr.
        name: short name of the warehouse, for errors: never its address, a user or a password.
        session: statements that are executed first and committed. On a server they make the session read-only, and let
            all its queries see one snapshot.
    """

    uri: str = field(repr=False)
    name: str
    session: tuple[str, ...] = ()


Locate = Callable[[str, Path], Target]
"""Takes an address, its references already resolved, and the home, and returns the target; it opens nothing.

Raises SettingsError, which does not show the address, if the address is not valid."""

Connect = Callable[[Any, str], Any]
"""Takes the imported DBAPI module and the target's URI, and returns an open DBAPI connection of ADBC whose autocommit
is off.

Raises the module's ``Error``, or OSError, if the warehouse does not exist or does not let us in. The user sees only the
type of the error, because a driver's texts quote addresses."""


def by_uri(dbapi: Any, uri: str) -> Any:
    """Return a connection to a URI, made by a driver that needs nothing else."""
    return dbapi.connect(uri)


Reads = Callable[[str], bool]
"""Takes a job's query, and returns whether it does nothing but read.

A driver that runs in this process can write files with the rights of the process (``COPY … TO``), and no rollback takes
a file away. A query reaches more than it says, through the views and macros of the warehouse: what these could do, the
session forbids."""


def anything(_query: str) -> bool:
    """Let every query pass, because the warehouse itself refuses to write."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class WarehouseKind:
    """A kind of warehouse, as a package registers it.

    Importing its module must be cheap: the driver is imported when a warehouse is opened.

    Attributes:
        scheme: what its addresses begin with, before the first colon; also the name of the entry point.
        description: what is read, in words.
        addresses: how an address is written, for errors: ``("duckdb:PATH", "duckdb::memory:")``.
        dbapi: the ADBC driver's DBAPI module, such as ``adbc_driver_postgresql.dbapi``.
        locate: takes address and home, and returns what the driver needs.
        connect: takes the DBAPI module and the target's URI, and returns a connection. The connection cannot change the
            warehouse: it is read-only, or what it writes is not committed.
        reads: whether a query only reads; one that does not is not executed.
        server: whether a server answers. Then each of its answers is waited for no longer than the job's
            ``silence_seconds``; a driver in this process is waited for without a limit.
    """

    scheme: str
    description: str
    addresses: tuple[str, ...]
    dbapi: str
    locate: Locate
    connect: Connect = by_uri
    reads: Reads = anything
    server: bool = False

    @property
    def package(self) -> str:
        """Return the package that has the driver."""
        return self.dbapi.partition(".")[0]
