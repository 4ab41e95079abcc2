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
    all alter analyse analyze and anti any array as asc asof asymmetric at authorization between binary both by case
    cast check collate collation column concurrently constraint create cross cube current_catalog current_date
    current_time current_timestamp current_user default deferrable desc describe distinct do drop else end except
    false fetch for force foreign freeze from full glob grant group having if ilike in initially inner insert
    install intersect into is isnull join lambda lateral leading left like limit localtime localtimestamp lock map
    natural not notnull null offset on only or order outer overlaps partitioned_by pivot pivot_longer pivot_wider
    placing positional primary qualify references regexp returning revoke right rlike rollback rollup select semi
    session_user show similar some summarize symmetric table tablesample then to trailing true uncache union unique
    unpack unpivot using values variadic verbose when where window with xor
    """.split()
)
"""Words that DuckDB or sqlglot takes for something else where the name of a table or a column stands without quotes.
``tests/unit/vitalake/lake/sql_words.py`` makes the list from the keywords of both, by trying each."""

OWN_COLUMNS = frozenset(
    {
        "attribution", "day", "device_key", "identity", "identity_system", "identity_value", "in_message", "in_record",
        "subject", "told_at", "unfit_key",
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
    return ""
