"""Names that queries and the lake make themselves, so that no dataset and no column of a home can have them."""

from __future__ import annotations

RESTRICTED = "restricted_"
"""The prefix of a dataset's name for its rows as they came, with identifying values sealed."""

VERSIONS = "_versions"
"""The suffix of a dataset's name for all its rows, not only the current ones."""

AS_KNOWN_AT = "_as_known_at"
"""The suffix of a dataset's name for the table function of what was known at a moment."""

MADE = "__"
"""What every name holds that a query gets for the time it runs, such as ``who__`` and ``cte__0``."""

_OF_ENGINES = ("duckdb_", "information_schema", "pg_", "sqlite_")
"""The beginnings of the names of tables that SQL engines have themselves."""

SQL_WORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create default
    deferrable desc describe distinct do else end except false fetch for foreign from group having in initially
    intersect into lambda lateral leading limit not null offset on only or order pivot pivot_longer pivot_wider placing
    primary qualify references returning select show some summarize symmetric table then to trailing true union unique
    unpivot using variadic when where window with
    """.split()
)
"""The words that SQL reserves: a table with such a name is found in quotes only."""

OWN_COLUMNS = frozenset(
    {
        "attribution", "day", "device_key", "identity", "identity_system", "identity_value", "in_message", "in_record",
        "subject", "told_at",
    }
)  # fmt: skip
"""Names of columns that the lake itself adds to tables, to rows before they are written, or to queries; or that decide
which row of an observation counts."""


def taken(name: str) -> str:
    """Return why a home's dataset cannot have a name; empty: it can."""
    if name.startswith(RESTRICTED):
        return f"begins with {RESTRICTED}, as the identified rows of a dataset do"
    if suffix := next((end for end in (VERSIONS, AS_KNOWN_AT) if name.endswith(end)), ""):
        return f"ends with {suffix}, as what queries offer beside a dataset"
    if MADE in name:
        return "holds two underscores in a row, as the names that queries make do"
    if name.startswith(_OF_ENGINES):
        return "begins like the tables of a database itself"
    return "is a word that SQL reserves" if name in SQL_WORDS else ""
