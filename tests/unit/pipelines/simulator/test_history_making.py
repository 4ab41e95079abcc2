"""Embedded warehouses: made once and whole, for their owner's eyes, and nothing is left of a maker that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.history.job import SOURCES, load_job
from pipelines.simulator import warehouse_cinc as cinc_warehouse
from pipelines.simulator.make_once import make_once
from pipelines.simulator.warehouse_cinc import make_cinc_warehouse
from pipelines.simulator.warehouse_mimic import make_demo_warehouse
from vitalake.errors import SettingsError


def _fill(connection: Any) -> None:
    connection.execute("CREATE TABLE t AS SELECT 'Zzmarker' AS name")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


_KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.simulator.make_once import make_once
def fill(connection):
    connection.execute("CREATE TABLE t AS SELECT 'Zzmarker' AS name")
    os.kill(os.getpid(), signal.SIGKILL)
make_once(Path(sys.argv[1]), "ward", format=2, fill=fill)
"""


def test_what_a_killed_maker_left_goes_with_the_next_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], check=False, cwd=Path(__file__).parents[4], timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    left = _names(tmp_path)
    assert [name.startswith(".ward.") for name in left] == [True]
    assert (tmp_path / left[0]).stat().st_mode & 0o077 == 0, "only its owner enters"
    (tmp_path / ".ward.duckdb.0a1b2c3d").write_bytes(b"as earlier versions left it")
    make_once(tmp_path, "ward", format=2, fill=_fill)
    assert _names(tmp_path) == ["ward.v2.duckdb"]
    assert (tmp_path / "ward.v2.duckdb").stat().st_mode & 0o777 == 0o600


def test_made_once_and_anew_in_another_format(tmp_path: Path) -> None:
    (tmp_path / "ward.duckdb").touch()
    (tmp_path / "ward-other.duckdb").touch()
    first = make_once(tmp_path, "ward", format=1, fill=_fill)
    made = first.stat().st_mtime_ns
    assert make_once(tmp_path, "ward", format=1, fill=_fill).stat().st_mtime_ns == made
    make_once(tmp_path, "ward", format=2, fill=_fill)
    assert _names(tmp_path) == ["ward-other.duckdb", "ward.v2.duckdb"]


def test_what_cannot_be_made_leaves_nothing_and_takes_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "cinc-2012.duckdb").write_bytes(b"an earlier format")
    with pytest.raises(SettingsError, match="needs its files"):
        make_cinc_warehouse(tmp_path, None)
    assert _names(tmp_path) == ["cinc-2012.duckdb"]


def test_two_makers_wait_for_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.simulator.make_once import make_once\n"
        "make_once(Path(sys.argv[1]), 'ward', format=1, fill=lambda c: print('made', c.execute("
        "'CREATE TABLE t AS SELECT sum(i) FROM range(1000000) AS r(i)').fetchall()))"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE, cwd=Path(__file__).parents[4], env=os.environ,
        )
        for _ in range(2)
    ]  # fmt: skip
    outputs = [maker.communicate(timeout=60)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0]
    assert sum(output.startswith(b"made") for output in outputs) == 1
    assert _names(tmp_path) == ["ward.v1.duckdb"]


def test_a_shipped_job_names_the_file_its_maker_makes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"mimic-demo": make_demo_warehouse(home)}
    monkeypatch.setattr(cinc_warehouse, "make_once", lambda home, name, **made: f"{name}.v{made['format']}.duckdb")
    made["cinc-2012"] = Path(str(make_cinc_warehouse(home, None)))
    assert set(made) == set(SOURCES)
    for source, path in made.items():
        assert load_job(source).warehouse == f"duckdb:{path.name}"


def test_rows_of_cinc_2012_are_numbered_by_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(7, 0, "Age", 61.0), (7, 0, "HR", 80.0), (7, 0, "HR", 81.0), (7, 5, "HR", 79.0), (9, 0, "Age", 40.0)]
    numbered: list[list[Any]] = []
    for order in (rows, rows[::-1]):
        folder = tmp_path / f"{len(numbered)}"
        folder.mkdir()
        for part, piece in (("a", order[:2]), ("b", order[2:])):
            columns = dict(zip(("record_id", "minute", "parameter", "value"), zip(*piece, strict=True), strict=True))
            pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), folder / f"cinc2012_set_{part}.parquet")
            outcomes = {"RecordID": [7], "Length_of_stay": [3], "In-hospital_death": [0]}
            pq.write_table(pa.table(outcomes), folder / f"cinc2012_outcomes_{part}.parquet")
        monkeypatch.setattr(cinc_warehouse, "_check", lambda path: None)
        with duckdb.connect(str(make_cinc_warehouse(folder, folder)), read_only=True) as connection:
            found = connection.execute("SELECT line, record_id, minute, parameter, value FROM measured ORDER BY 1")
            numbered.append(found.fetchall())
    assert numbered[0] == numbered[1] == [(i, *row) for i, row in enumerate(rows, 1)]
