"""Packages register kinds of warehouses: an unusable one is refused by name, and no error shows an address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import duckdb
import pytest

from pipelines.history.warehouse import open_warehouse
from pipelines.history.warehouses import duckdb as duckdb_kind
from pipelines.history.warehouses import postgresql as postgresql_kind
from pipelines.history.warehouses.registry import GROUP, registered, warehouse_kind
from tests.contract.warehouses import BEATS, Filled, WarehouseContract
from tests.plugged import packages, plug
from vitalake.errors import InputError, ServiceUnavailable, SettingsError

KIND = """
from pipelines.history.warehouses import Target, WarehouseKind

def locate(address, home):
    return Target("Zzmarker", "city", {session})

def connect(dbapi, uri):
    {connect}

IT = WarehouseKind(
    scheme="{scheme}", description="x", addresses=("toy:NAME",), dbapi="{dbapi}", locate=locate, connect=connect
)
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A folder on Python's path."""
    with packages(tmp_path) as folder:
        yield folder


def _toy(
    *,
    scheme: str = "toy",
    dbapi: str = "adbc_driver_duckdb.dbapi",
    session: str = "()",
    connect: str = 'return dbapi.connect(":memory:")',
) -> str:
    return KIND.format(scheme=scheme, dbapi=dbapi, session=session, connect=connect)


def test_ours_are_registered_and_come_first_in_the_error_of_an_unknown_one(path: Path) -> None:
    assert list(registered()) == ["duckdb", "postgresql"]
    with pytest.raises(SettingsError) as unknown:
        warehouse_kind("oracle://Zzmarker@host")
    assert str(unknown.value) == (
        "Kind of the warehouse's address is unknown: warehouse. Use duckdb:PATH, duckdb::memory: or postgresql://…"
    )
    plug(path, GROUP, _toy(scheme="a"), "a")
    with pytest.raises(SettingsError, match=r"Use duckdb:PATH, duckdb::memory:, postgresql://… or toy:NAME$"):
        warehouse_kind("oracle:x")


def test_a_kind_of_another_package_is_opened_and_only_the_one_that_is_named_is_imported(path: Path) -> None:
    plug(path, GROUP, _toy(session='("CREATE VIEW beats AS SELECT 72 AS n",)'), "toy")
    plug(path, GROUP, "raise ValueError('Zzmarker')", "broken", package="other")
    with open_warehouse("toy:x", home=path) as warehouse:
        assert warehouse.one_text("SELECT n FROM beats") == "72"
    with pytest.raises(SettingsError, match=r"cannot be loaded \(ValueError\): .*broken = ") as refused:
        warehouse_kind("broken:x")
    assert "Zzmarker" not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "text", "said"),
    [
        (("toy",), "IT = 1", "is not a WarehouseKind"),
        (("toy",), _toy(scheme="other"), "another name than its entry point"),
        (("toy", "toy"), _toy(), "under one name"),
        (("duckdb",), _toy(scheme="duckdb"), "under one name"),
        (("env",), _toy(scheme="env"), "a scheme that no address of a warehouse can begin with"),
        (("file",), _toy(scheme="file"), "a scheme that no address of a warehouse can begin with"),
        (("Toy_1",), _toy(scheme="Toy_1"), "a scheme that no address of a warehouse can begin with"),
    ],
)
def test_one_that_is_none_is_refused_and_named(path: Path, names: tuple[str, ...], text: str, said: str) -> None:
    plug(path, GROUP, text, names[0])
    for name in names[1:]:
        plug(path, GROUP, text, name, package="other")
    with pytest.raises(SettingsError, match=rf"{said}.*entry point vitalake\.warehouses: {names[0]} = "):
        warehouse_kind(f"{names[0]}:x")


def test_a_driver_that_is_not_installed_is_named(path: Path) -> None:
    plug(path, GROUP, _toy(dbapi="adbc_driver_none.dbapi"), "toy")
    with (
        pytest.raises(SettingsError, match=r"Driver of the warehouse is not installed: package adbc_driver_none\."),
        open_warehouse("toy:x", home=path),
    ):
        pass


@pytest.mark.parametrize(
    "text",
    [
        _toy(connect="raise dbapi.OperationalError('Zzmarker', status_code=1)"),
        _toy(connect="raise ConnectionRefusedError('Zzmarker')"),
        _toy(session="('SET Zzmarker = 1',)"),
    ],
)
def test_of_a_failing_driver_only_the_type_is_shown(path: Path, text: str) -> None:
    plug(path, GROUP, text, "toy")
    with pytest.raises(ServiceUnavailable, match="Warehouse cannot be opened") as refused:
        with open_warehouse("toy:x", home=path):
            pass
    assert "Zzmarker" not in str(refused.value) and refused.value.__cause__ is None


def test_an_address_that_cannot_be_taken_apart_is_refused_without_it(path: Path) -> None:
    (path / "address").write_text("postgresql://[Zzmarker")
    with pytest.raises(SettingsError, match="address is not valid: warehouse") as refused:
        with open_warehouse("file:address", home=path):
            pass
    assert "Zzmarker" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        _toy().replace('return Target("Zzmarker", "city", ())', "raise KeyError('Zzmarker')"),
        _toy().replace('return Target("Zzmarker", "city", ())', "return 'Zzmarker'"),
        _toy(connect="raise KeyError('Zzmarker')"),
    ],
)
def test_a_driver_whose_code_fails_is_named_with_the_function_and_no_value(path: Path, text: str) -> None:
    """It ended with a traceback and "This is a bug"."""
    plug(path, GROUP, text, "toy")
    with pytest.raises(SettingsError, match=r"fails in `(locate|connect)` \((Key|Type)Error\): entry point .*toy = "):
        with open_warehouse("toy:x", home=path):
            pass


def test_a_session_that_the_warehouse_refuses_names_the_driver_and_blames_no_password(path: Path) -> None:
    plug(path, GROUP, _toy(session="('SET Zzmarker = 1',)"), "toy")
    with pytest.raises(ServiceUnavailable, match=r"entry point vitalake\.warehouses: toy = .*its session") as refused:
        with open_warehouse("toy:x", home=path):
            pass
    assert "password" not in str(refused.value) and "Zzmarker" not in str(refused.value)


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ("SELECT 1", True),
        ("SELECT 1;", True),
        ("SELECT 1; -- the end", True),
        ("-- the beginning\nSELECT 1 -- the end", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("FROM range(3)", True),
        ("VALUES (1), (2)", True),
        ("PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b)", True),
        ("SELECT * FROM (PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b))", True),
        ("SELECT 1 UNION ALL SELECT 2 ORDER BY 1 LIMIT 3", True),
        ("(SELECT 1)", True),
        ('WITH a AS (SELECT \'copy\' AS "update") SELECT "update" FROM a -- delete', True),
        ("SELECT 'ä /* ', $$insert$$ /* COPY */ AS b", True),
        ("WITH a AS (COPY (SELECT 1) TO 'f') SELECT 1", False),
        ("WITH a AS MATERIALIZED (\n/* x */ copy/**/t TO 'f') FROM a", False),
        ("WITH b AS (SELECT 'äöü'), a AS (CoPy t TO 'f') FROM b", False),
        ("WITH b AS (PIVOT t ON a USING sum(b)), a AS (COPY t TO 'f') FROM b", False),
        ("WITH a AS (DELETE FROM t RETURNING *) FROM a", False),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING *) FROM a", False),
        ("WITH a AS (UPDATE t SET a = 1 RETURNING *) FROM a", False),
        ("WITH a AS (TRUNCATE t) SELECT 1", False),
        ("WITH y AS (SELECT $€$ ' $€$), x AS (COPY t TO 'f') FROM y --'", False),
        *((f"WITH a AS ({space}COPY{space}t TO 'f') SELECT 1", False) for space in "\u00a0\u200b\u2060\u3000\ufeff"),
        ("", False),
        ("SELECT 1; SELECT 2", False),
        ("INSERT INTO t VALUES (1)", False),
        ("CREATE TABLE t AS PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b)", False),
        ("INSERT INTO t PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b)", False),
        ("SET threads = 1", False),
        ("CALL enable_logging()", False),
    ],
)
def test_duckdb_executes_nothing_but_one_select(query: str, allowed: bool) -> None:
    assert duckdb_kind.reads(query) is allowed


READ_BY_DUCKDB = (
    "FROM t",
    "FROM of_t",
    "FROM above(1)",
    "SELECT twice(a) FROM t",
    "SELECT checkpoint, query FROM (SELECT 1 AS checkpoint, 'write_log (' AS query) -- enable_logging()",
    "FROM read_csv('a.csv')",
    "FROM read_csv('a.csv', store_rejects = true)",
    "FROM 'a.csv'",
    "FROM read_parquet('a.parquet')",
    "FROM parquet_schema('a.parquet')",
    "FROM read_json('a.json')",
    "FROM read_text('a.csv')",
    "FROM read_duckdb('other.duckdb', table_name = 'u')",
    "FROM 'other.duckdb'",
    "FROM glob('*.csv')",
    "FROM query_table('t')",
    "FROM range(3)",
    "SELECT repeat('a', 2), unnest([1, 2]), current_setting('threads'), random(), uuid()",
    "SELECT a FROM t QUALIFY row_number() OVER (PARTITION BY a) = 1",
    "FROM t ASOF JOIN (SELECT 0 AS b) AS u ON t.a >= u.b",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) FROM r",
    "PIVOT t ON a USING count(*)",
    "SELECT list_transform([1], lambda x: x + 1), '{\"a\": 1}'::JSON ->> 'a', now() AT TIME ZONE 'Europe/Rome'",
)

REFUSED_BY_DUCKDB = (
    "FROM enable_logging(level = 'info', storage = 'file', storage_path = '{path}')",
    "SELECT (SELECT count(*) FROM enable_logging(storage = 'file', storage_path = '{path}'))",
    "FROM enable_profiling(format = 'json', save_location = '{path}')",
    "FROM \"Enable_Profiling\" /* a */ -- b\n (format = 'json', save_location = '{path}')",
    "FROM enable_profiling\u00a0(format = 'json', save_location = '{path}')",
    "FROM main.enable_profiling(format = 'json', save_location = '{path}')",
    "WITH x AS (PIVOT t ON a USING count(*)) FROM x, enable_profiling(format = 'json', save_location = '{path}')",
    "FROM query('FROM enable_profiling(format = ''json'', save_location = ''{path}'')')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM enable_profiling()'))",
    "FROM profiled('{path}')",
    "FROM disable_logging()",
    "FROM disable_profiling()",
    "FROM truncate_duckdb_logs()",
    "FROM checkpoint()",
    "FROM force_checkpoint()",
    "FROM create_external_resource('x')",
    "SELECT write_log('Zzmarker', level := 'info')",
    "SELECT 'Zzmarker'.write_log()",
    "SELECT nextval('s')",
    "SELECT setval('s', 5)",
    "FROM import_database('{path}')",
    "FROM copy_database('city', 'other')",
    "FROM add_parquet_key('a', '0123456789112345')",
    "FROM start_ui()",
    "FROM sqlite_attach('{path}')",
    "FROM 'https://127.0.0.1:9/a.csv'",
    "FROM read_parquet('s3://a/b.parquet')",
    "SELECT st_point(1, 2)",
)
"""Functions of DuckDB 2.0 that write files, settings, the log or the database, or load what can."""


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a DuckDB file, the log that a killed process left beside it, and files that queries read."""
    monkeypatch.chdir(tmp_path)
    with duckdb.connect("other.duckdb") as connection:
        connection.execute("CREATE TABLE u AS SELECT 1 AS a")
        for ending in ("csv", "parquet", "json"):
            connection.execute(f"COPY u TO 'a.{ending}'")
    with duckdb.connect("city.duckdb") as connection:
        connection.execute("SET wal_autocheckpoint = '1GB'; SET checkpoint_threshold = '1GB'")
        connection.execute("CREATE SEQUENCE s; CREATE TABLE t AS SELECT 1 AS a; CHECKPOINT; INSERT INTO t VALUES (2)")
        connection.execute("CREATE VIEW of_t AS FROM t; CREATE MACRO above(x) AS TABLE FROM t WHERE a > x")
        connection.execute("CREATE MACRO twice(x) AS 2 * x")
        profile = "enable_profiling(format = 'json', save_location = path)"
        connection.execute(f"CREATE MACRO profiled(path) AS TABLE FROM {profile}")
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    assert (tmp_path / "city.duckdb.wal").exists()
    return tmp_path


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("query", READ_BY_DUCKDB)
def test_duckdb_reads_with_all_that_reads_and_leaves_the_file_and_its_log(city: Path, query: str) -> None:
    before = _bytes(city)
    with open_warehouse("duckdb:city.duckdb", home=city) as warehouse:
        assert sum(batch.num_rows for batch in warehouse.read(query)) > 0
    assert _bytes(city) == before


@pytest.mark.parametrize("query", REFUSED_BY_DUCKDB)
def test_duckdb_executes_no_function_that_writes(city: Path, query: str) -> None:
    """A job that only selected wrote patients' names to a log, and overwrote any file of the account."""
    before = _bytes(city)
    with open_warehouse("duckdb:city.duckdb", home=city) as warehouse:
        with pytest.raises(ServiceUnavailable, match="Warehouse refuses the query"):
            list(warehouse.read(query.format(path=city / "leak")))
    assert _bytes(city) == before
    with open_warehouse("duckdb::memory:", home=city) as warehouse:
        with pytest.raises(ServiceUnavailable, match="Warehouse refuses the query"):
            list(warehouse.read(query.format(path=city / "leak").replace("FROM t ", "FROM range(3) AS t(a) ")))
    assert _bytes(city) == before


@pytest.mark.parametrize("query", [query for query in REFUSED_BY_DUCKDB if "logging" in query or "profil" in query])
@pytest.mark.parametrize("address", ["duckdb:city.duckdb", "duckdb::memory:"])
def test_a_locked_session_alone_lets_no_function_begin_a_log_or_a_profile(
    city: Path, monkeypatch: pytest.MonkeyPatch, address: str, query: str
) -> None:
    """A view of the warehouse can call what the query does not."""
    before = _bytes(city)
    with open_warehouse(address, home=city) as warehouse:
        monkeypatch.setattr(warehouse, "_reads", lambda _: True)
        with suppress(ServiceUnavailable):
            list(warehouse.read(query.format(path=city / "leak")))
        with suppress(ServiceUnavailable):
            list(warehouse.read("SELECT write_log('Zzmarker', level := 'info')"))
    assert _bytes(city) == before


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT 1 WHERE false", "no row"),
        ("SELECT NULL", "NULL"),
        ("FROM range(2)", "several rows"),
        ("FROM range(100000)", "several rows"),
        ("SELECT 'Zzmarker', 2", "several columns"),
    ],
)
def test_an_incarnation_that_is_not_one_text_is_refused(tmp_path: Path, query: str, why: str) -> None:
    """It ended with a traceback, or took any row, or the text None."""
    with open_warehouse("duckdb::memory:", home=tmp_path) as warehouse:
        with pytest.raises(InputError, match=f"gives {why}: :memory:: incarnation") as refused:
            warehouse.one_text(query)
        assert "Zzmarker" not in str(refused.value)
        assert warehouse.one_text("SELECT 7 AS n") == "7"


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ("select 1", True),
        ("-- the beginning\n/* of a\nquery */ SELECT 1", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("VALUES (1)", True),
        ("((SELECT 1) UNION (SELECT 2))", True),
        ("TABLE beats", True),
        ("", False),
        ("-- SELECT 1", False),
        ("/* SELECT 1 */", False),
        ("/* /* */ SELECT */ COPY beats TO '/x'", False),
        ("COPY beats TO '/x'", False),
        ("selected", False),
    ],
)
def test_postgresql_executes_nothing_but_a_select(query: str, allowed: bool) -> None:
    assert postgresql_kind.reads(query) is allowed


# -- the contract finds what breaks it -------------------------------------------------------------------------------

COPY = """
from dataclasses import replace
from pipelines.history.warehouses import Target
from pipelines.history.warehouses.duckdb import WAREHOUSE
from pipelines.history.warehouses.base import by_uri

def locate(address, home):
    path = home / address.removeprefix("toy:")
    return Target(str(path), path.name)

class Commits:
    def __init__(self, connection):
        self.connection = connection
        self.Error, self.cursor, self.commit = connection.Error, connection.cursor, connection.commit

    def close(self):
        self.connection.commit()
        self.connection.close()

def commits(dbapi, uri):
    return Commits(by_uri(dbapi, uri))

IT = replace(replace(WAREHOUSE, scheme="toy", addresses=("toy:PATH",), locate=locate), {fault})
"""


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("connect=commits, reads=lambda query: True", "test_a_write_is_refused_or_rolled_back"),
        ("connect=by_uri", "test_what_cannot_be_opened_is_told_without_its_address_and_nothing_is_made"),
        (
            "locate=lambda address, home: Target(locate(address, home).uri, address)",
            "test_a_wrong_query_is_refused_and_the_error_shows_no_value_and_no_address",
        ),
        ("addresses=('duckdb:PATH',)", "test_it_says_what_it_is"),
        ("reads=lambda query: True", "test_a_write_to_a_file_is_refused"),
    ],
)
def test_the_contract_finds_a_driver_that_breaks_it(path: Path, fault: str, test: str) -> None:
    with duckdb.connect(str(path / "city.duckdb")) as connection:
        connection.register("given", BEATS)
        connection.execute("CREATE TABLE beats AS FROM given")
    filled = Filled(home=path, address="toy:./city.duckdb", nowhere=("toy:none.duckdb",))
    arguments: dict[str, tuple[object, ...]] = {
        "test_it_says_what_it_is": (),
        "test_a_write_is_refused_or_rolled_back": (filled, "DELETE FROM beats"),
    }

    class One(WarehouseContract):
        """The kind that is installed."""

        exports = ("COPY beats TO '{path}'",)

    for text in (COPY.format(fault=""), COPY.format(fault=fault)):
        for old in path.glob("hospital_*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        plug(path, GROUP, text, "toy")
        One.kind = warehouse_kind("toy:x")
        with pytest.raises((AssertionError, pytest.fail.Exception)) if fault in text else nullcontext():
            getattr(One(), test)(*arguments.get(test, (filled,)))
