"""The history lane from a real PostgreSQL: the same rows as from DuckDB, and clear ends where it cannot be."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import yaml

from governance.home import init_home
from governance.policy.masks import Pseudonyms
from governance.samples import copy_samples
from pipelines.history.job import load_job
from pipelines.history.load import load_history
from pipelines.history.warehouse import open_warehouse
from pipelines.simulator.anchors import FILE_NAME, load_or_create
from pipelines.simulator.warehouse_mimic import demo_tables, make_demo_warehouse
from tests import forking
from tests.services.demo import leave
from tests.services.postgres import PostgresServer
from vitalake.errors import InputError
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.verify import verify
from vitalake.settings import load_settings

pytestmark = pytest.mark.postgres

DATASETS = ("observation", "encounter", "patient", "condition", "ward_movement")
ADDRESS = "HISTORY_WAREHOUSE"


def _load(home: Path, address: str, source: str = "mimic-demo") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        forking.command("vitalake", "history", "load", source, "--home", str(home), "--json",
                        "--warehouse", f"env:{ADDRESS}", kind="history"),
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {ADDRESS: address},
    )  # fmt: skip


def _published(home: Path, dataset: str) -> pa.Table:
    settings = load_settings(home)
    lake = Lake(settings.lake_uri, settings.storage_options, dataset=dataset)
    return lake.published.delta.to_pyarrow_table()


def _files(home: Path) -> set[str]:
    """Return what is in the lake and beside it; the embedded warehouse aside."""
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.suffix != ".duckdb"}


def _database(postgres: PostgresServer, tables: dict[str, pa.Table]) -> str:
    """Return the address of a new database with these tables."""
    database = f"d{uuid.uuid4().hex[:10]}"
    postgres.execute(f"CREATE DATABASE {database}")
    postgres.ingest(tables, database=database)
    return postgres.address(database=database)


def _twin(home: Path) -> Path:
    """Return another home that makes the same pseudonyms and has the same anchors."""
    twin = home.with_name("twin")
    init_home(twin, copy_samples)
    load_or_create(home)
    for name in ("keys.yaml", FILE_NAME):
        shutil.copy(home / name, twin / name)
    return twin


def test_both_engines_give_the_same_rows_in_the_same_order(home: Path, postgres: PostgresServer) -> None:
    twin = _twin(home)
    demo = make_demo_warehouse(twin)
    address = _database(postgres, leave(demo, stays=30, order="hash(any_value(hospitalization_id))"))
    incarnation = load_job("mimic-demo").incarnation
    assert incarnation is not None
    texts = []
    (twin / "address").write_text(address)
    for where in ("file:address", f"duckdb:{demo}"):
        with open_warehouse(where, home=twin) as warehouse:
            texts.append(warehouse.one_text(incarnation))
    assert texts[0] == texts[1]
    done = _load(home, address)
    assert done.returncode == 0, done.stderr
    assert not list(home.glob("*.duckdb")), "nothing embedded was made"
    load_history(load_settings(twin), "mimic-demo")
    for dataset in DATASETS:
        ours, theirs = (_published(place, dataset) for place in (home, twin))
        names = [name for name in ours.schema.names if name != "ingested_at"]
        assert ours.num_rows >= 20
        assert ours.schema == theirs.schema
        assert _rows(ours, names) == _rows(theirs, names)
    again = msgspec.json.decode(_load(home, address).stdout)
    assert again["read"] == 0
    assert again["balanced"] is True


def _rows(table: pa.Table, names: list[str]) -> list[str]:
    """Return every row as text, sorted: source_position is one of its columns."""
    return sorted(map(repr, zip(*(table[name].to_pylist() for name in names), strict=True)))


def test_a_wrong_password_says_so_without_it(home: Path, postgres: PostgresServer) -> None:
    before = _files(home)
    done = _load(home, postgres.address(password="Zzwrong"))
    assert done.returncode == 14, done.stderr
    assert "Warehouse cannot be opened" in done.stderr
    assert _files(home) == before
    _tells_nothing(done, postgres, "Zzwrong")


def _tells_nothing(done: subprocess.CompletedProcess[str], postgres: PostgresServer, *more: str) -> None:
    for text in (postgres.password, "127.0.0.1", str(postgres.port), "Traceback", *more):
        assert text not in done.stdout + done.stderr


class Cut:
    """A port that passes on to a server, until it has passed on so many bytes of answers; then ``then`` happens."""

    def __init__(self, port: int, *, after: int, then: Any) -> None:
        self._after, self._then, self._target = after, then, port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for one, other, counts in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=(one, other, counts), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with suppress(OSError), one, other:
            while data := one.recv(65_536):
                self._after -= len(data) if counts else 0
                if self._after < 0:
                    self.cut = True
                    self._then()
                    other.shutdown(socket.SHUT_RDWR)
                    return
                other.sendall(data)

    def close(self) -> None:
        self._socket.close()


def test_a_server_that_goes_away_midway_leaves_the_lake_as_it_was(home: Path, own_postgres: PostgresServer) -> None:
    address = _database(own_postgres, demo_tables(load_or_create(home)))
    # Observations alone: some megabytes, so that the end comes in the middle of them.
    shipped = Path(__file__).parents[2] / "pipelines" / "history" / "jobs"
    job = home / "job.yaml"
    incarnation = load_job("mimic-demo").incarnation
    job.write_text(
        yaml.safe_dump(
            {"source": "mimic-demo", "warehouse": "env:NOWHERE", "incarnation": incarnation, "max_rejected": 0.05,
             "datasets": {"observation": str(shipped / "mimic-demo" / "observation.sql")}}
        )
    )  # fmt: skip
    before = _files(home)
    cut = Cut(own_postgres.port, after=5_000_000, then=lambda: own_postgres.stop(signal.SIGQUIT))
    done = _load(home, address.replace(f":{own_postgres.port}/", f":{cut.port}/"), str(job))
    cut.close()
    assert cut.cut
    assert done.returncode == 14, done.stderr
    assert "Warehouse" in done.stderr
    _tells_nothing(done, own_postgres, str(cut.port))
    assert _files(home) == before
    own_postgres.start()
    done = _load(home, address, str(job))
    assert done.returncode == 0, done.stderr
    summary = msgspec.json.decode(done.stdout)
    assert summary["balanced"] is True
    assert summary["published"] == _published(home, "observation").num_rows > 150_000
    settings = load_settings(home)
    assert verify(Lake(settings.lake_uri, settings.storage_options)) == []


def test_a_server_that_says_nothing_any_more_is_not_waited_for_for_ever(home: Path, postgres: PostgresServer) -> None:
    before = _files(home)
    with _job(home, "", encounter=_STAYS.format(id="text", columns="repeat('x', 900000) AS admission_type")) as job:
        job.write_text(job.read_text() + "silence_seconds: 1.5\n")
        before = _files(home)
        quiet = threading.Event()  # never set: the connection stays open, and nothing comes
        cut = Cut(postgres.port, after=1_000_000, then=quiet.wait)
        done = _load(home, postgres.address(port=cut.port), str(job))
        cut.close()
    assert cut.cut
    assert done.returncode == 14, done.stderr
    assert "Warehouse has not answered for 1.5 seconds: postgresql. Check on the server" in done.stderr
    assert "silence_seconds" in done.stderr
    _tells_nothing(done, postgres, str(cut.port))
    assert _files(home) == before


# -- what PostgreSQL's types become ---------------------------------------------------------------------------------

_STAYS = """
SELECT CAST('stay-' || i AS {id}) AS encounter_id, 1 AS version, 'someone' AS patient_id,
    TIMESTAMP '2024-03-01 12:00:00' AS admitted_at, {columns}
FROM generate_series(1, 3) AS i ORDER BY i
"""
_VALUES = """
SELECT 'urn:x' AS identity_system, CAST(i AS varchar) AS identity_value, 1 AS version, 'someone' AS patient_id,
    '8867-4' AS code, '/min' AS unit, 'final' AS status, TIMESTAMP '2024-03-01 12:00:00' AS effective_at,
    {columns}
FROM generate_series(1, 40) AS i ORDER BY i
"""


def _of_patient(expression: str) -> str:
    return _STAYS.format(id="text", columns="NULL::timestamp AS discharged_at").replace("'someone'", expression)


@contextmanager
def _job(home: Path, address: str, **queries: str) -> Iterator[Path]:
    """Write a job of one's own, whose warehouse is named by reference."""
    for name, query in queries.items():
        (home / f"{name}.sql").write_text(query)
    job = home / "own.yaml"
    job.write_text(
        yaml.safe_dump(
            {"source": "own", "warehouse": "file:address", "max_rejected": 0.05,
             "datasets": {name: f"{name}.sql" for name in queries}}
        )
    )  # fmt: skip
    (home / "address").write_text(address)
    (home / "address").chmod(0o600)
    yield job


@pytest.mark.parametrize(
    ("dataset", "query", "column"),
    [
        ("encounter", _STAYS.format(id="char(12)", columns="'infinity'::timestamp AS discharged_at"), "discharged_at"),
        ("encounter", _STAYS.format(id="text", columns="'-infinity'::timestamptz AS available_at"), "available_at"),
        ("encounter", _STAYS.format(id="text", columns="'infinity'::date AS birth_date"), "birth_date"),
        ("encounter", _STAYS.format(id="text", columns="61.5::numeric AS age_at_admission"), "age_at_admission"),
        ("encounter", _STAYS.format(id="text", columns="61::money AS age_at_admission"), "age_at_admission"),
        ("encounter", _STAYS.format(id="text", columns="INTERVAL '1 day' AS discharged_at"), "discharged_at"),
        ("encounter", _STAYS.format(id="text", columns="'10.0.0.1'::inet AS admission_type"), "admission_type"),
        ("encounter", _STAYS.format(id="text", columns="1e9::float8 AS admission_type"), "admission_type"),
        ("encounter", _STAYS.format(id="text", columns="'x' AS admision_type"), "column 5 of 5"),
        ("encounter", _STAYS.format(id="text", columns="'{}'::jsonb AS admission_type"), "admission_type"),
        ("encounter", _STAYS.format(id="text", columns="B'101' AS admission_type"), "admission_type"),
        ("encounter", _of_patient("i % 2 = 0"), "patient_id"),
        ("encounter", _of_patient("'{}'::jsonb"), "patient_id"),
        ("encounter", _of_patient("4711.5::numeric(12, 2)"), "patient_id"),
        ("encounter", _of_patient("'NaN'::numeric"), "patient_id"),
        ("encounter", _STAYS.format(id="text", columns="'x' AS admission_type, 'x' AS version"), "version"),
        ("observation", _VALUES.format(columns="array[72.5]::numeric[] AS value"), "value"),
        ("observation", _VALUES.format(columns="'Zzmarker' AS value"), "value"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_rightly_is_refused_by_its_name(
    home: Path, postgres: PostgresServer, dataset: str, query: str, column: str
) -> None:
    with _job(home, postgres.address(), **{dataset: query}) as job:
        before = _files(home)
        with pytest.raises(InputError, match="Query returns") as caught:
            load_history(load_settings(home), str(job))
        assert column in caught.value.where
        assert "Zzmarker" not in str(caught.value)
        assert _files(home) == before


def test_a_decimal_number_is_the_patient_whom_devices_send(home: Path, postgres: PostgresServer) -> None:
    with _job(home, postgres.address(), encounter=_of_patient("4711::numeric(12, 2)")) as job:
        assert load_history(load_settings(home), str(job)) == 3
    token = Pseudonyms(load_keys(home / "keys.yaml"), "patient-identifier").token("4711")
    assert set(_published(home, "encounter")["patient_id"].to_pylist()) == {token}


def test_what_can_be_read_is_right_to_the_digit(home: Path, postgres: PostgresServer) -> None:
    columns = (
        "CASE WHEN i = 40 THEN 'NaN'::numeric WHEN i % 2 = 0 THEN 72.123456789012345::numeric(20, 15) "
        "ELSE 61::numeric END AS value"
    )
    stays = (
        "'ed'::char(8) AS admission_type, 61::numeric AS age_at_admission, "
        "TIMESTAMPTZ '2024-03-02 05:45:00+05:45' AS discharged_at"
    )
    with _job(
        home, postgres.address(), encounter=_STAYS.format(id="char(12)", columns=stays),
        observation=_VALUES.format(columns=columns),
    ) as job:  # fmt: skip
        assert load_history(load_settings(home), str(job)) == 43
    values = _published(home, "observation")
    assert sorted(values["value"].to_pylist()) == [61.0] * 20 + [72.123456789012345] * 19, "NaN is rejected"
    stays_published = _published(home, "encounter")
    assert set(stays_published["admission_type"].to_pylist()) == {"ed"}
    assert set(stays_published["age_at_admission"].to_pylist()) == {61}
    ends = stays_published["discharged_at"].to_pylist()
    starts = stays_published["admitted_at"].to_pylist()
    assert {(e - s).total_seconds() for e, s in zip(ends, starts, strict=True)} == {12 * 3600}
