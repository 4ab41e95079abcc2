"""What can be asked for: relations of published columns, and the SQL that makes them of a table's exact files."""

from __future__ import annotations

import msgspec

VERSION = "version"
STATUS = "status"
AVAILABLE = "available_at"
ATTRIBUTION = "attribution"
PROVENANCE = ("ingested_at", "source", "source_position")
"""How a row came to us; decides only between rows that say the same."""

CORRECTED = ("amended", "corrected")
STAGES = (
    ("registered",),
    ("preliminary",),
    ("final", "unknown", "active"),
    (*CORRECTED, "ended"),
    ("cancelled",),
    ("entered-in-error",),
)
"""How far a result has come, for senders who count no versions: of one version the later stage replaces the earlier."""

TAKEN_BACK = ("entered-in-error", "cancelled")
"""What was withdrawn is no current value; ``<dataset>_versions`` still shows it."""

RESTRICTED = "restricted_"
"""Before the name of a dataset: its rows as they came, what identifies sealed."""

SEALED = "sealed"
"""The one field of a wrapped value."""

MOMENT = "moment__"
"""The parameter of *as known at*; no dataset's column has such a name."""


class Relation(msgspec.Struct, frozen=True):
    """A dataset as the door offers it: ``name`` is the current view, ``name_versions`` all rows.

    Attributes:
        name: the dataset's; of identified rows with ``restricted_`` before it.
        columns: name → DuckDB type; those that may be asked for only.
        key: columns that name a thing, without the version.
        paths: the files of one version of its table.
        differ: whether files of before lack a column, or hold a narrower type.
        subject: hex of the one patient whose rows these are; empty: all rows.
        sealed: columns whose values are sealed. Each is wrapped, so that it is neither compared with text, which
            would find nothing, nor joined to something else, which could not be opened.
    """

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    paths: tuple[str, ...]
    differ: bool = False
    subject: str = ""
    sealed: tuple[str, ...] = ()


def versions_name(name: str) -> str:
    """Return the name of the relation of all rows."""
    return f"{name}_versions"


def known_name(name: str) -> str:
    """Return the name of the function that gives the rows that were current, as known at a moment."""
    return f"{name}_as_known_at"


def views(relation: Relation) -> list[str]:
    """Return the statements that make a relation, in order."""
    rows, moment = quoted(versions_name(relation.name)), f"CAST({MOMENT} AS TIMESTAMPTZ)"
    made = [
        f"CREATE VIEW {rows} AS {versions_sql(relation)}",
        f"CREATE VIEW {quoted(relation.name)} AS {_latest(relation, rows)}",
    ]
    if AVAILABLE in relation.columns:
        known = f"(SELECT * FROM {rows} WHERE {quoted(AVAILABLE)} <= {moment})"  # noqa: S608
        name = quoted(known_name(relation.name))
        made.append(f"CREATE MACRO {name}({MOMENT}) AS TABLE {_latest(relation, known)}")
    return made


def versions_sql(relation: Relation) -> str:
    """Return a SELECT of all rows."""
    names = ", ".join(_wrapped(name) if name in relation.sealed else quoted(name) for name in relation.columns)
    typed = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in relation.columns.items())
    nothing = f"SELECT {typed} WHERE false"
    if not relation.paths:
        return f"SELECT {names} FROM ({nothing})"  # noqa: S608
    paths = f"[{', '.join(map(text, relation.paths))}]"
    mine = f" WHERE subject = from_hex({text(relation.subject)})" if relation.subject else ""
    if not relation.differ:
        return f"SELECT {names} FROM read_parquet({paths}){mine}"  # noqa: S608
    # By name, so that a file without a column gives nulls; the empty one knows all of them, and the wider types.
    files = f"SELECT * FROM read_parquet({paths}, union_by_name = true){mine}"  # noqa: S608
    return f"SELECT {names} FROM ({nothing} UNION ALL BY NAME {files})"  # noqa: S608


def _wrapped(name: str) -> str:
    column = quoted(name)
    return f"CASE WHEN {column} IS NOT NULL THEN struct_pack({SEALED} := {column}) END AS {column}"


def _latest(relation: Relation, rows: str) -> str:
    """Return a SELECT of the row of each thing that counts, without what was taken back: *current*, of some rows.

    Of the highest version a row whose message named its patient comes before one that was attributed by its device, and
    of the latter that of the latest knowledge. Of those that are left the later stage counts; of several corrections
    the one that was known last, else the one that was known first. Which came to us first never matters.

    Few things have more than one row: only those are sorted. On 3.3 million rows that halves time and memory.
    """
    keys = ", ".join(map(quoted, relation.key))
    kept = "true"
    if STATUS in relation.columns:
        kept = f"coalesce({quoted(STATUS)}, '') NOT IN ({', '.join(map(text, TAKEN_BACK))})"
    # IS NOT DISTINCT FROM, for a key without a value is a key as well.
    same = " AND ".join(f"r.{name} IS NOT DISTINCT FROM k.{name}" for name in map(quoted, relation.key))
    return (
        f"WITH k AS MATERIALIZED (SELECT {keys} FROM {rows} GROUP BY ALL HAVING count(*) > 1), "  # noqa: S608
        f"latest AS (SELECT r.* FROM {rows} r SEMI JOIN k ON {same} "
        f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {_order(relation)}) = 1) "
        f"SELECT * FROM (SELECT r.* FROM {rows} r ANTI JOIN k ON {same} UNION ALL SELECT * FROM latest) WHERE {kept}"
    )


def _order(relation: Relation) -> str:
    """Return what comes first of the rows of one thing."""
    columns = relation.columns
    available = quoted(AVAILABLE) if AVAILABLE in columns else "NULL::TIMESTAMPTZ"
    order = [f"{quoted(VERSION)} DESC"]
    if ATTRIBUTION in columns:
        attributed = f"{quoted(ATTRIBUTION)} IS NOT NULL"
        order += [attributed, f"CASE WHEN {attributed} THEN {available} END DESC", f"{quoted(ATTRIBUTION)} DESC"]
    if STATUS in columns:
        stages = " ".join(f"WHEN {text(status)} THEN {stage}" for stage, names in enumerate(STAGES) for status in names)
        corrected = f"{quoted(STATUS)} IN ({', '.join(map(text, CORRECTED))})"
        order += [f"CASE {quoted(STATUS)} {stages} END DESC", f"CASE WHEN {corrected} THEN {available} END DESC"]
    order.append(available)
    # What is sealed differs each time it is sealed, and what a row says has no order: any will do, if always the same.
    settled = {*relation.key, *relation.sealed, *PROVENANCE, VERSION, ATTRIBUTION, AVAILABLE}
    order += [quoted(name) for name in columns if name not in settled]
    order += [quoted(name) for name in PROVENANCE if name in columns]
    return ", ".join(f"{part} NULLS LAST" for part in order)


def quoted(name: str) -> str:
    """Return an identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a string as SQL."""
    return "'" + value.replace("'", "''") + "'"
