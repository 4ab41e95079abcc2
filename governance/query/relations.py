"""What can be asked for: relations of published columns, and the SQL that makes them of a table's exact files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from vitalake.clinical.statuses import LAST_REPORT_COUNTS, STAGES, WITHDRAWN

VERSION = "version"
STATUS = "status"
AVAILABLE = "available_at"
ATTRIBUTION = "attribution"
TOLD = "told_at"
SUBJECT = "subject"
MESSAGE = ("source", "source_position", TOLD)
"""What tells the messages of one version apart, of senders who count none; what of it is published is used."""

INGESTED = "ingested_at"

RESTRICTED = "restricted_"
"""Before the name of a dataset: its rows as they came, what identifies sealed."""

SEALED = "sealed"
"""The one field of a wrapped value."""

WHO = "who__"
"""The column that says whose rows a row of an answer rests on; a query that has a name like it is refused."""

MOMENT = "moment__"
"""The parameter of *as known at*; no dataset's column has such a name."""

_BYTE = re.compile(rb"\\x([0-9A-Fa-f]{2})")


def as_bytes(constant: str) -> bytes:
    """Return the bytes that DuckDB makes of a constant where bytes stand."""
    return _BYTE.sub(lambda digits: bytes.fromhex(digits[1].decode()), constant.encode())


class Relation(msgspec.Struct, frozen=True):
    """A dataset as the query service offers it: ``name`` is the current view, ``name_versions`` all rows.

    Attributes:
        name: the dataset's; of identified rows with ``restricted_`` before it.
        columns: name → DuckDB type; those that may be asked for only.
        key: columns that name a thing, without the version.
        paths: the files of one version of its table.
        differ: whether files of before lack a column, or hold a narrower type.
        subject: hex of the one patient whose rows these are; empty: all rows.
        others: with a subject, the files of all patients: what was this patient's first may be another's by now.
        sealed: columns whose values are sealed. Each is wrapped, so that it is neither compared with text, which
            would find nothing, nor joined to something else, which could not be opened.
        identifying: columns that say whom a row is about, masked or sealed.
    """

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    paths: tuple[str, ...]
    differ: bool = False
    subject: str = ""
    others: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()
    identifying: tuple[str, ...] = ()


def versions_name(name: str) -> str:
    """Return the name of the relation of all rows."""
    return f"{name}_versions"


def known_name(name: str) -> str:
    """Return the name of the function that gives the rows that were current, as known at a moment."""
    return f"{name}_as_known_at"


def views(relation: Relation) -> list[str]:
    """Return the statements that make a relation, in order."""
    versions, moment = quoted(versions_name(relation.name)), f"CAST({MOMENT} AS TIMESTAMPTZ)"
    rows = _rows_of_things(relation, versions) if relation.subject else versions
    made = [
        f"CREATE VIEW {versions} AS {versions_sql(relation)}",
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
    mine = f" WHERE {_is_subjects(relation)}" if relation.subject else ""
    if not relation.differ:
        return f"SELECT {names} FROM read_parquet({paths}){mine}"  # noqa: S608
    # By name, so that a file without a column gives nulls; the empty one knows all of them, and the wider types.
    files = f"SELECT * FROM read_parquet({paths}, union_by_name = true){mine}"  # noqa: S608
    return f"SELECT {names} FROM ({nothing} UNION ALL BY NAME {files})"  # noqa: S608


def _wrapped(name: str) -> str:
    column = quoted(name)
    return f"CASE WHEN {column} IS NOT NULL THEN struct_pack({SEALED} := {column}) END AS {column}"


def _is_subjects(relation: Relation) -> str:
    return f"{quoted(SUBJECT)} = from_hex({text(relation.subject)})"


def _rows_of_things(relation: Relation, versions: str) -> str:
    """Return all patients' rows of the things that one patient has a row of: a later version may name another one."""
    everybody = versions_sql(msgspec.structs.replace(relation, paths=relation.others, subject=""))
    return f"(SELECT r.* FROM ({everybody}) r SEMI JOIN {versions} k ON {_same(relation)})"  # noqa: S608


def _same(relation: Relation) -> str:
    # IS NOT DISTINCT FROM, for a key without a value is a key as well.
    return " AND ".join(f"r.{name} IS NOT DISTINCT FROM k.{name}" for name in map(quoted, relation.key))


def _latest(relation: Relation, rows: str) -> str:
    """Return a SELECT of the row of each thing that counts, without what was taken back: *current*, of some rows.

    A message that names no patient has a row each time its value changed hands: of those the latest knowledge counts,
    and none if it is nobody's by that. Of the rows that are left the highest version counts; of that one a row whose
    message named its patient before one that was attributed by its device, and the later stage before the earlier; of
    several corrections the one that was told last, else the one told first. Which came to us first never matters.

    Few things have more than one row: only those are sorted. On 3.3 million rows that halves time and memory.
    """
    keys, same = ", ".join(map(quoted, relation.key)), _same(relation)
    first = f"row_number() OVER (PARTITION BY {keys} ORDER BY {_order(relation)}) = 1"
    return (
        f"WITH k AS MATERIALIZED (SELECT {keys} FROM {rows} GROUP BY ALL HAVING count(*) > 1), "  # noqa: S608
        f"told AS (SELECT r.* FROM {rows} r SEMI JOIN k ON {same}{_qualified(relation)}), "
        f"latest AS (SELECT * FROM told QUALIFY {first}) "
        f"SELECT * FROM (SELECT r.* FROM {rows} r ANTI JOIN k ON {same} UNION ALL SELECT * FROM latest) "
        f"WHERE {_kept(relation)}"
    )


def _kept(relation: Relation) -> str:
    """Return whether the row that counts is shown."""
    kept = ["true"]
    if STATUS in relation.columns:
        kept.append(f"coalesce({quoted(STATUS)}, '') NOT IN ({', '.join(map(text, WITHDRAWN))})")
    if ATTRIBUTION in relation.columns:
        kept.append(f"coalesce({quoted(ATTRIBUTION)} % 2 = 1, true)")
    if relation.subject:
        kept.append(_is_subjects(relation))
    return " AND ".join(kept)


def _qualified(relation: Relation) -> str:
    """Return what leaves of the rows of one message that names no patient the one of the latest knowledge.

    None where that is nobody: had it been nobody's from the outset, the message would be held, and count as little.
    """
    columns = relation.columns
    if ATTRIBUTION not in columns:
        return ""
    message = ", ".join(map(quoted, (*relation.key, VERSION, *(name for name in MESSAGE if name in columns))))
    order = _in_order([f"{_available(columns)} DESC", f"{quoted(ATTRIBUTION)} DESC", *_said(relation)])
    last = f"row_number() OVER (PARTITION BY {message} ORDER BY {order}) = 1"
    return f" QUALIFY {quoted(ATTRIBUTION)} IS NULL OR ({quoted(ATTRIBUTION)} % 2 = 1 AND {last})"


def _order(relation: Relation) -> str:
    """Return what comes first of the rows of one thing."""
    columns = relation.columns
    told = f"coalesce({quoted(TOLD)}, {_available(columns)})" if TOLD in columns else _available(columns)
    order = [f"{quoted(VERSION)} DESC"]
    if ATTRIBUTION in columns:
        order.append(f"{quoted(ATTRIBUTION)} IS NOT NULL")
    if STATUS in columns:
        stages = " ".join(f"WHEN {text(status)} THEN {stage}" for stage, names in enumerate(STAGES) for status in names)
        anew = f"{quoted(STATUS)} IN ({', '.join(map(text, LAST_REPORT_COUNTS))})"
        order += [f"CASE {quoted(STATUS)} {stages} END DESC", f"CASE WHEN {anew} THEN {told} END DESC"]
    return _in_order([*order, told, *_said(relation)])


def _said(relation: Relation) -> list[str]:
    """Return what decides between rows that are equal in all else: any order will do, if it is always the same.

    In both zones too, which show whom a row is about in different forms: so that comes late, and what is sealed, which
    differs each time it is sealed, not at all. Last comes when we got it.
    """
    settled = {*relation.key, *relation.sealed, VERSION, ATTRIBUTION, TOLD}
    late = [*MESSAGE[:2], *relation.identifying, INGESTED]
    said = [name for name in relation.columns if name not in late]
    order = [*said, *(name for name in late if name in relation.columns)]
    return [quoted(name) for name in order if name not in settled]


def _available(columns: Mapping[str, str]) -> str:
    return quoted(AVAILABLE) if AVAILABLE in columns else "NULL::TIMESTAMPTZ"


def _in_order(parts: Iterable[str]) -> str:
    return ", ".join(f"{part} NULLS LAST" for part in parts)


def quoted(name: str) -> str:
    """Return an identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a string as SQL."""
    return "'" + value.replace("'", "''") + "'"
