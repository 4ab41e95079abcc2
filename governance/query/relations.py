"""The relations that queries read, and the SQL that defines them over the files of one version of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from vitalake.clinical.statuses import LAST_REPORT_COUNTS, STAGES, WITHDRAWN
from vitalake.lake.datasets.names import AS_KNOWN_AT, RESTRICTED, VERSIONS

VERSION = "version"
STATUS = "status"
AVAILABLE = "available_at"
ATTRIBUTION = "attribution"
TOLD = "told_at"
SUBJECT = "subject"
MESSAGE = ("source", "source_position", TOLD)
"""Columns that distinguish messages of one version, for senders that do not count versions; unpublished ones are
left out."""

INGESTED = "ingested_at"

SEALED = "sealed"
"""The only field of the struct that wraps a sealed value."""

WHO = "who__"
"""The column with the subjects behind a row of an answer; a query with a name that begins like this is refused."""

MOMENT = "moment__"
"""The parameter of ``<dataset>_as_known_at``; no dataset's column has such a name."""

_BYTE = re.compile(rb"\\x([0-9A-Fa-f]{2})")


def as_bytes(constant: str) -> bytes:
    r"""Return the bytes of a text constant when DuckDB casts it to a blob: ``\x41`` is one byte."""
    return _BYTE.sub(lambda digits: bytes.fromhex(digits[1].decode()), constant.encode())


class Relation(msgspec.Struct, frozen=True):
    """A dataset as the query service offers it: ``name`` is the view of current rows, ``name_versions`` of all rows.

    Attributes:
        name: the dataset's name; for identified rows with ``restricted_`` before it.
        columns: name → DuckDB type; only columns that may be queried.
        key: the columns that identify a record, without the version.
        paths: the files of one version of its table.
        differ: whether older files lack a column, or have a narrower type.
        subject: the subject, in hex, of the only patient whose rows these are; empty: all rows.
        others: with a subject, the files of all patients: a record that was this patient's may be another's by now.
        sealed: columns whose values are sealed. Each value is wrapped in a struct, so that DuckDB refuses to compare it
            with text, which would find nothing, or to concatenate it, which could not be opened.
        identifying: columns that say whom a row is about, masked or sealed.
        unclear: why the current rows cannot be told from the others, so that there is only the view of all rows;
            empty: they can.
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
    unclear: str = ""


def versions_name(name: str) -> str:
    """Return the name of the relation of all rows."""
    return f"{name}{VERSIONS}"


def as_known_at_name(name: str) -> str:
    """Return the name of the table function for the rows that were current by what was known at a moment."""
    return f"{name}{AS_KNOWN_AT}"


def identified_name(name: str) -> str:
    """Return the name of the relation of a dataset's rows as they came, with identifying values sealed."""
    return f"{RESTRICTED}{name}"


def views(relation: Relation) -> list[str]:
    """Return the SQL statements that define a relation's views, in order."""
    versions, moment = quoted(versions_name(relation.name)), f"CAST({MOMENT} AS TIMESTAMPTZ)"
    rows = _all_rows_of_records(relation, versions) if relation.subject else versions
    statements = [f"CREATE VIEW {versions} AS {versions_sql(relation)}"]
    if relation.unclear:
        return statements
    statements.append(f"CREATE VIEW {quoted(relation.name)} AS {_latest(relation, rows)}")
    if AVAILABLE in relation.columns:
        known = f"(SELECT * FROM {rows} WHERE {quoted(AVAILABLE)} <= {moment})"  # noqa: S608
        name = quoted(as_known_at_name(relation.name))
        statements.append(f"CREATE MACRO {name}({MOMENT}) AS TABLE {_latest(relation, known)}")
    return statements


def versions_sql(relation: Relation) -> str:
    """Return a SELECT of all rows."""
    names = ", ".join(_wrapped(name) if name in relation.sealed else quoted(name) for name in relation.columns)
    typed = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in relation.columns.items())
    nothing = f"SELECT {typed} WHERE false"
    if not relation.paths:
        return f"SELECT {names} FROM ({nothing})"  # noqa: S608
    paths = f"[{', '.join(map(text, relation.paths))}]"
    where = f" WHERE {_is_subject(relation)}" if relation.subject else ""
    if not relation.differ:
        return f"SELECT {names} FROM read_parquet({paths}){where}"  # noqa: S608
    # By name: a file without a column gives nulls. The empty SELECT adds all columns, with the wider types.
    files = f"SELECT * FROM read_parquet({paths}, union_by_name = true){where}"  # noqa: S608
    return f"SELECT {names} FROM ({nothing} UNION ALL BY NAME {files})"  # noqa: S608


def _wrapped(name: str) -> str:
    column = quoted(name)
    return f"CASE WHEN {column} IS NOT NULL THEN struct_pack({SEALED} := {column}) END AS {column}"


def _is_subject(relation: Relation) -> str:
    return f"{quoted(SUBJECT)} = from_hex({text(relation.subject)})"


def _all_rows_of_records(relation: Relation, versions: str) -> str:
    """Return all rows of the records that have a row of the one patient: a later version may name another patient."""
    all_patients = versions_sql(msgspec.structs.replace(relation, paths=relation.others, subject=""))
    return f"(SELECT r.* FROM ({all_patients}) r SEMI JOIN {versions} k ON {_same_key(relation)})"  # noqa: S608


def _same_key(relation: Relation) -> str:
    # IS NOT DISTINCT FROM: two null keys are equal.
    return " AND ".join(f"r.{name} IS NOT DISTINCT FROM k.{name}" for name in map(quoted, relation.key))


def _latest(relation: Relation, rows: str) -> str:
    """Return a SELECT of the current rows: one row of each record, without records that were withdrawn.

    A message that names no patient has one row for each time its value was given to another patient, or taken away. Of
    these rows only the one of the latest knowledge counts, and none if by that the value is without a patient. Of the
    rows that are left:

    1. the highest version counts;
    2. of one version, a row whose message named its patient goes before a row that was attributed by its device;
    3. then the later stage of a result goes before the earlier;
    4. of several corrections the one that was sent last counts, of other rows the one that was sent first.

    The order in which the rows reached this lake never matters.

    Few records have more than one row, and only those are sorted. On 3.3 million rows that halves time and memory.
    """
    keys, same = ", ".join(map(quoted, relation.key)), _same_key(relation)
    first = f"row_number() OVER (PARTITION BY {keys} ORDER BY {_order(relation)}) = 1"
    return (
        f"WITH k AS MATERIALIZED (SELECT {keys} FROM {rows} GROUP BY ALL HAVING count(*) > 1), "  # noqa: S608
        f"candidates AS (SELECT r.* FROM {rows} r SEMI JOIN k ON {same}{_latest_attribution(relation)}), "
        f"latest AS (SELECT * FROM candidates QUALIFY {first}) "
        f"SELECT * FROM (SELECT r.* FROM {rows} r ANTI JOIN k ON {same} UNION ALL SELECT * FROM latest) "
        f"WHERE {_is_shown(relation)}"
    )


def portable_sql(relation: Relation) -> str:
    """Return a SELECT of the current rows for other engines, over ``<name>_versions``; see ``_latest`` for the rules.

    It gives the same rows as the view, by window functions only, which every engine has. It sorts all rows.
    """
    rows, columns = quoted(versions_name(relation.name)), ", ".join(map(quoted, relation.columns))
    if ATTRIBUTION in relation.columns:
        numbered = f"SELECT {columns}, {_number_in_message(relation)} AS in_message FROM {rows}"  # noqa: S608
        odd = f"{quoted(ATTRIBUTION)} % 2 = 1"
        valid = f"{quoted(ATTRIBUTION)} IS NULL OR ({odd} AND in_message = 1)"
        rows = f"(SELECT {columns} FROM ({numbered}) AS numbered WHERE {valid})"  # noqa: S608
    keys = ", ".join(map(quoted, relation.key))
    number = f"row_number() OVER (PARTITION BY {keys} ORDER BY {_order(relation)})"
    return (
        f"SELECT {columns} FROM (SELECT {columns}, {number} AS in_record FROM {rows} AS valid) AS ranked "  # noqa: S608
        f"WHERE in_record = 1 AND {_is_shown(relation)}"
    )


def _is_shown(relation: Relation) -> str:
    """Return the condition under which the row that counts is shown."""
    conditions = ["true"]
    if STATUS in relation.columns:
        conditions.append(f"coalesce({quoted(STATUS)}, '') NOT IN ({', '.join(map(text, WITHDRAWN))})")
    if ATTRIBUTION in relation.columns:
        conditions.append(f"coalesce({quoted(ATTRIBUTION)} % 2 = 1, true)")  # odd: given to a patient; even: taken away
    if relation.subject:
        conditions.append(_is_subject(relation))
    return " AND ".join(conditions)


def _latest_attribution(relation: Relation) -> str:
    """Return the QUALIFY clause that keeps, of a message that names no patient, only the row of the latest knowledge.

    It keeps no row if by that knowledge the value is without a patient: had this been known from the start, the message
    would be held, and would have no row at all.
    """
    if ATTRIBUTION not in relation.columns:
        return ""
    last = f"{_number_in_message(relation)} = 1"
    return f" QUALIFY {quoted(ATTRIBUTION)} IS NULL OR ({quoted(ATTRIBUTION)} % 2 = 1 AND {last})"


def _number_in_message(relation: Relation) -> str:
    """Return the window function that numbers the rows of a message; 1 is the row of the latest knowledge."""
    columns = relation.columns
    message = ", ".join(map(quoted, (*relation.key, VERSION, *(name for name in MESSAGE if name in columns))))
    order = _in_order([f"{_available(columns)} DESC", f"{quoted(ATTRIBUTION)} DESC", *_tie_breakers(relation)])
    return f"row_number() OVER (PARTITION BY {message} ORDER BY {order})"


def _order(relation: Relation) -> str:
    """Return the ORDER BY by which the current row of a record comes first."""
    columns = relation.columns
    told = f"coalesce({quoted(TOLD)}, {_available(columns)})" if TOLD in columns else _available(columns)
    order = [f"{quoted(VERSION)} DESC"]
    if ATTRIBUTION in columns:
        order.append(f"{quoted(ATTRIBUTION)} IS NOT NULL")
    if STATUS in columns:
        stages = " ".join(f"WHEN {text(status)} THEN {stage}" for stage, names in enumerate(STAGES) for status in names)
        anew = f"{quoted(STATUS)} IN ({', '.join(map(text, LAST_REPORT_COUNTS))})"
        order += [f"CASE {quoted(STATUS)} {stages} END DESC", f"CASE WHEN {anew} THEN {told} END DESC"]
    return _in_order([*order, told, *_tie_breakers(relation)])


def _tie_breakers(relation: Relation) -> list[str]:
    """Return the columns that decide between rows that are equal so far: any order will do if it is always the same.

    The order must be the same in the published and the restricted zone, which show identifying columns in different
    forms. So these come late, and sealed ones, which differ each time they are sealed, are left out. The time of
    ingestion comes last.
    """
    left_out = {*relation.key, *relation.sealed, VERSION, ATTRIBUTION, TOLD}
    late = [*MESSAGE[:2], *relation.identifying, INGESTED]
    early = [name for name in relation.columns if name not in late]
    order = [*early, *(name for name in late if name in relation.columns)]
    return [quoted(name) for name in order if name not in left_out]


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
