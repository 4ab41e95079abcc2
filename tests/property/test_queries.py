"""The current view against a naive one, and the list against whatever can be strung together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from hypothesis import example, given
from hypothesis import strategies as st

from governance.query.engine import connect
from governance.query.errors import QueryRefused
from governance.query.relations import Relation, portable_sql, text, views
from governance.query.sql import check

COLUMNS = {"id": "VARCHAR", "version": "BIGINT", "available_at": "TIMESTAMPTZ", "source": "VARCHAR",
           "source_position": "BIGINT", "status": "VARCHAR", "value": "DOUBLE"}  # fmt: skip
SCHEMA = pa.schema(
    {"id": pa.string(), "version": pa.int64(), "available_at": pa.timestamp("us", "UTC"), "source": pa.string(),
     "source_position": pa.int64(), "status": pa.string(), "value": pa.float64()}
)  # fmt: skip

ROW = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b", "c", None]),
        "version": st.integers(0, 3),
        "available_at": st.none() | st.integers(0, 3),
        "source": st.sampled_from(["vitals[0]", "mimic.observation[0]"]),
        "status": st.sampled_from(["final", "amended", "entered-in-error", "cancelled", None]),
        "value": st.none() | st.floats(0, 9),
    }
)


def _naive(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The definition, in words: see governance/query/relations.py."""
    best: dict[Any, dict[str, Any]] = {}
    for row in rows:
        held = best.get(row["id"])
        if held is None or _rank(row) < _rank(held):
            best[row["id"]] = row
    return [row for row in best.values() if row["status"] not in ("entered-in-error", "cancelled")]


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    known, status = row["available_at"], row["status"]
    known_last = (known is None, -(known or 0)) if status == "amended" else (True, 0)
    stage = {"final": 2, "amended": 3, "cancelled": 4, "entered-in-error": 5}.get(status, -1)
    value = (row["value"] is None, row["value"] or 0)
    return (
        -row["version"], -stage, known_last, (known is None, known or 0), (status is None, status or ""), value,
        row["source"], row["source_position"],
    )  # fmt: skip


@given(rows=st.lists(ROW, max_size=20), cut=st.integers(0, 20), data=st.data())
def test_the_current_view_is_the_naive_one_in_any_order_and_any_files(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], cut: int, data: st.DataObject
) -> None:
    rows = [{**row, "source_position": number} for number, row in enumerate(rows)]
    mixed = data.draw(st.permutations(rows))
    folder = tmp_path_factory.mktemp("files")
    for name, part in (("it's one", mixed[:cut]), ("two", mixed[cut:])):
        pq.write_table(pa.Table.from_pylist(part, SCHEMA), folder / f"{name}.parquet")
    paths = tuple(str(path) for path in sorted(folder.iterdir()))
    connection = connect([Relation("things", COLUMNS, ("id",), paths)], memory_mb=256)
    found = connection.sql("SELECT source_position FROM things").fetchall()
    assert sorted(position for (position,) in found) == sorted(row["source_position"] for row in _naive(rows))
    for engine in ("duckdb", "spark"):  # Spark's dialect as sqlglot reads it back
        (printed,) = sqlglot.transpile(portable_sql(Relation("things", COLUMNS, ("id",), ())), "duckdb", engine)
        (again,) = sqlglot.transpile(printed, engine, "duckdb")
        assert sorted(connection.sql(f"SELECT source_position FROM ({again})").fetchall()) == sorted(found)  # noqa: S608
    assert connection.sql("SELECT count(*) FROM things_versions").fetchall() == [(len(rows),)]


PIECES = [
    "SELECT", "*", "1", "value", "FROM", "observation", "observation_versions", "WHERE", "(", ")", ",", "AS", "x",
    "'x'", '"x"', "JOIN", "USING", "UNION", "ALL", "WITH", "RECURSIVE", "GROUP BY", "ORDER BY", "LIMIT", "::", ".",
    "read_parquet", "read_text('/etc/passwd')", "'file.csv'", "getenv('HOME')", "query('SELECT 1')", ";", "COPY", "TO",
    "ATTACH", "SET", "PIVOT", "IN", "NOT", "CASE", "WHEN", "THEN", "END", "COLUMNS(", "->", "{", "}", "[", "]", "--",
    "/*", "*/", "$1", "main.", "duckdb_settings()", "information_schema.tables", "count(*)", "sum(value)", "OVER",
]  # fmt: skip
FORBIDDEN = ("read_", "getenv", "query(", ".csv", "duckdb_", "information_schema", "copy", "attach", ";", "$", "main")


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14))
@example(["SELECT", "*", "FROM", "observation"])
@example(["WITH", "x", "AS", "(", "SELECT", "1", ")", "SELECT", "*", "FROM", "x"])
def test_whatever_passes_the_list_names_relations_only_and_reads_the_same_again(pieces: list[str]) -> None:
    try:
        query = check(" ".join(pieces), ["observation"])
    except QueryRefused:
        return
    assert set(query.datasets) <= {"observation"}
    assert not [word for word in FORBIDDEN if word in query.sql.lower()]
    # A second time it is refused only because our names for common tables are taken for what they are: names.
    assert check(query.sql, ["observation"]).datasets == query.datasets


@given(words=st.text(max_size=80))
def test_any_text_is_refused_or_read_and_raises_nothing_else(words: str) -> None:
    for sql in (words, f"SELECT {words}", f"SELECT * FROM {words}"):  # noqa: S608
        try:
            check(sql, ["observation"])
        except QueryRefused as error:
            assert error.__cause__ is None


@given(values=st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30), min_size=2, max_size=2))
def test_literals_come_through_as_they_are_and_leave_no_trace_in_the_digest(values: list[str]) -> None:
    queries = [check(f"SELECT {text(value)} AS x", ["observation"]) for value in values]
    assert queries[0].digest == queries[1].digest
    connection = connect([], memory_mb=128)
    assert [connection.sql(query.sql).fetchall() for query in queries] == [[(value,)] for value in values]


def test_sealed_values_are_wrapped_so_that_they_compare_with_nothing(tmp_path: Path) -> None:
    """Compared as they are, they would silently find nothing; a value that is absent stays absent."""
    path = tmp_path / "rows.parquet"
    rows = pa.table({"id": [1, 2], "version": [1, 1], "name": pa.array([b"sealed", None], pa.binary())})
    pq.write_table(rows, path)
    columns = {"id": "BIGINT", "version": "BIGINT", "name": "BLOB"}
    relation = Relation("restricted_thing", columns, ("id",), (str(path),), sealed=("name",))
    with duckdb.connect() as connection:
        for statement in views(relation):
            connection.execute(statement)
        found = connection.sql("SELECT name FROM restricted_thing ORDER BY id").fetchall()
        assert [value and list(value.values()) for (value,) in found] == [[b"sealed"], None]
        with pytest.raises(duckdb.Error):
            connection.sql("SELECT id FROM restricted_thing WHERE name = 'Doe'").fetchall()
