"""PostgreSQL: a server, read in one transaction that cannot write."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pipelines.history.warehouses.base import Target, WarehouseKind

SESSION = (
    # All queries of the load see one snapshot.
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # Times cast to text are the same whatever the server's defaults are.
    "SET DateStyle TO 'ISO, YMD'",
    "SET TimeZone TO 'UTC'",
)
"""Statements at the beginning of a session."""

CONNECT_SECONDS = 10

_LIBPQ = {
    "connect_timeout": CONNECT_SECONDS,
    # The system notices within a minute that a server's machine is gone. A server that hangs still acknowledges
    # packets: for it there is ``silence.answered``.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Defaults for parameters of PostgreSQL's client library, in seconds; the last one in milliseconds."""


_SELECT = re.compile(
    r"(\s|\(|--[^\n]*\n|/\*((?!/\*|\*/).)*\*/)*(SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE | re.DOTALL
)
"""The beginning of a query, behind comments; a comment within a comment is not read."""


def reads(query: str) -> bool:
    """Return whether a query is a SELECT: a role that may, writes files of the server by COPY, also if it reads only.

    The first word tells, because the transaction refuses what writes tables, and the driver several statements.
    """
    return _SELECT.match(query) is not None


def with_keepalives(address: str) -> str:
    """Return the address of a server with network time-outs added, where it does not set them."""
    parts = urlsplit(address)
    given = parse_qsl(parts.query, keep_blank_values=True)
    missing = {name: value for name, value in _LIBPQ.items() if name not in dict(given)}
    return urlunsplit(parts._replace(query=urlencode([*given, *missing.items()])))


def locate(address: str, _home: Path) -> Target:
    """Return the server that ``postgresql://…`` names; errors call it ``postgresql``."""
    return Target(with_keepalives(address), "postgresql", SESSION)


WAREHOUSE = WarehouseKind(
    scheme="postgresql",
    description="a PostgreSQL server",
    addresses=("postgresql://…",),
    dbapi="adbc_driver_postgresql.dbapi",
    locate=locate,
    reads=reads,
    server=True,
)
