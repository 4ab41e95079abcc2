"""A package brings a kind of warehouse, as the page shows it: a job reads it, and it goes through the contract."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.documented import blocks, install, passed_own_tests, run_console

PAGE = "write-a-warehouse-driver.md"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def ward(home: Path) -> Path:
    """A home with a folder of exports, beside the page's job and ``packages``; return the folder of all."""
    (home / "exports").mkdir()
    stays = {"stay_no": [1, 2, 3], "person": [4711, 815, 4711], "came": pa.array([0, 1, 2], pa.timestamp("us"))}
    pq.write_table(pa.table(stays), home / "exports" / "stays.parquet")
    (job,), (query,) = blocks(PAGE, "yaml"), blocks(PAGE, "sql")
    (home.parent / "exports.yaml").write_text(job)
    (home.parent / "encounter.sql").write_text(query)
    install(PAGE, home.parent / "packages")
    return home.rename(home.parent / "ward").parent


def test_a_job_reads_a_warehouse_of_another_package_as_the_page_shows(ward: Path) -> None:
    (console,) = blocks(PAGE, "console")
    for run in run_console(console, ward, PYTHONPATH=str(ward / "packages")):
        assert run.said == run.shown, run.command


def test_the_package_s_own_tests_run_through_the_contract(ward: Path) -> None:
    packages = ward / "packages"
    assert passed_own_tests(packages, "test_hospital_warehouse.py") == 15
