"""Which rows go to the online store, and whose lanes say that they live."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.intake.steps import Steps
from tests.fhir import message
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    iso_minutes_ago,
    observation_steps,
    open_store,
    run_observations,
)
from vitalake.clinical.held_out import held_out
from vitalake.lake.commits.span import OnlineShare
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import StreamSettings, load_settings


def test_only_who_is_admitted_goes_to_the_care_store(home: Path) -> None:
    messages: list[bytes | None] = [
        message(i, patient=f"p-{i}", effectiveDateTime=iso_minutes_ago(5)) for i in range(20)
    ]
    outcome = run_observations(observation_steps(home, online=OnlineShare(held_out_only=True)), messages)
    published = set(outcome.rows["patient_id"].to_pylist())
    chosen = {patient for patient in published if held_out(patient)}
    assert len(published) == 20
    assert 0 < len(chosen) < 20
    assert set(open_store(home).patients.revisions()) == chosen


def test_old_values_codes_left_out_and_jobs_without_care_store_nothing(home: Path) -> None:
    run_observations(observation_steps(home), [message(1)])  # of last year
    run_observations(
        observation_steps(home, online=OnlineShare(without_codes=("8867-4",))),
        [message(2, effectiveDateTime=iso_minutes_ago(5))],
        first=1,
    )
    assert open_store(home).patients.revisions() == {}
    (home / "care.db").unlink()
    run_observations(observation_steps(home, care=False), [message(3, effectiveDateTime=iso_minutes_ago(5))], first=2)
    assert not (home / "care.db").exists()


@pytest.mark.parametrize("dataset", ["observation", "encounter", "patient", "ward_movement", "device_association"])
def test_the_lane_of_each_dataset_that_the_ward_shows_says_that_it_lives(home: Path, dataset: str) -> None:
    """A killed lane of admissions was not reported."""
    steps = Steps(load_settings(home), StreamSettings(), load_dataset(dataset))
    assert steps.online_feed is not None
    steps.online_feed.beat("job/0of1")
    steps.close()
    assert [*open_store(home).lanes.beats()] == ["job/0of1"]
