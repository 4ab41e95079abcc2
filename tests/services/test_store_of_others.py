"""A package brings a store of personal data, as the page shows it: erasures go through it, it through the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documented import blocks, install, passed_own_tests, run_console, shows
from tests.fhir import message
from tests.services.polls import LaneWithoutKafka

PAGE = "write-a-store.md"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def ward(home: Path) -> Path:
    """A home with rows of a patient, beside ``packages``; return the folder of both."""
    lane = LaneWithoutKafka(home)
    lane.send([(0, message(i)) for i in range(5)], cut=True)
    lane.rows()
    lane.lane.steps.close()
    install(PAGE, home.parent / "packages")
    return home.rename(home.parent / "ward").parent


def test_an_erasure_goes_through_a_store_of_another_package_as_the_page_shows(ward: Path) -> None:
    (console,) = blocks(PAGE, "console")
    for run in run_console(console, ward, PYTHONPATH=str(ward / "packages")):
        assert shows(run.shown, run.said), run.command


def test_the_package_s_own_tests_run_through_the_contract(ward: Path) -> None:
    packages = ward / "packages"
    assert passed_own_tests(packages, "test_hospital_recalls.py") == 7


def test_one_that_forgets_nobody_is_named_and_the_erasure_goes_on_when_it_does(ward: Path) -> None:
    packages = ward / "packages"
    store = packages / "hospital_recalls" / "store.py"
    good = store.read_text()
    store.write_text(
        good.replace("DELETE FROM recall WHERE patient = ?", "DELETE FROM recall WHERE patient = 'x' || ?")
    )
    (console,) = blocks(PAGE, "console")
    runs = run_console(f"{console}$ vitalake patient erase --home ward\n", ward, PYTHONPATH=str(packages))
    assert "Store recalls still has entries of an erased patient (calls)" in runs[-1].said
    assert "v1." not in runs[-1].said
    store.write_text(good)
    (run,) = run_console("$ vitalake patient erase --home ward\n", ward, PYTHONPATH=str(packages))
    assert "recalls: 1 entries removed" in run.said and "Finished the interrupted erasure" in run.said
