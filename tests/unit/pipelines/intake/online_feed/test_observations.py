"""Values on their way to the online store: under the published pseudonym, every one once, the latest version."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fhir import message
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    coded_value,
    history_of,
    iso_minutes_ago,
    observation_steps,
    open_store,
    run_observations,
    score_of,
)
from vitalake.clinical.records import code_number


def test_values_come_under_the_published_pseudonym_and_with_their_true_times(home: Path) -> None:
    at = [iso_minutes_ago(30), iso_minutes_ago(20), iso_minutes_ago(10)]
    outcome = run_observations(
        observation_steps(home), [message(i, value=70.0 + i, effectiveDateTime=at[i]) for i in range(3)]
    )
    history = history_of(home, outcome)
    assert history.value.tolist() == [70.0, 71.0, 72.0]
    assert set(history.code.tolist()) == {code_number("8867-4")}
    assert history.effective_us.tolist() == [int(datetime.fromisoformat(t).timestamp() * 1e6) for t in at]
    assert set(open_store(home).patients.revisions()) == set(outcome.rows["patient_id"].to_pylist())


def test_what_is_read_again_after_a_kill_is_not_taken_again(home: Path) -> None:
    messages: list[bytes | None] = [message(i, effectiveDateTime=iso_minutes_ago(30 - i)) for i in range(20)]
    run_observations(observation_steps(home), messages[:15])
    outcome = run_observations(observation_steps(home), messages)  # a new process: its look-back knows nothing
    assert outcome.rows.num_rows == 20
    assert len(history_of(home, outcome)) == 20


def test_corrections_replace_and_what_was_entered_in_error_goes(home: Path) -> None:
    at = iso_minutes_ago(10)
    steps = observation_steps(home)
    first = run_observations(
        steps, [message(1, effectiveDateTime=at, value=72.0), message(2, effectiveDateTime=at, value=99.0)]
    )
    run_observations(
        steps,
        [
            message(1, effectiveDateTime=at, value=75.0, status="corrected", meta={"versionId": "2"}),
            message(2, effectiveDateTime=at, value=99.0, status="entered-in-error", meta={"versionId": "2"}),
        ],
        first=2,
    )
    assert history_of(home, first).value.tolist() == [75.0]


@pytest.mark.parametrize(
    ("replayed", "counts"),
    [
        ({"value": 60.0, "status": "preliminary"}, [72.0]),
        ({"value": 75.0, "status": "corrected"}, [75.0]),
        ({"value": None, "status": "corrected", "dataAbsentReason": {"text": "artefact"}}, []),
        ({"value": 72.0, "status": "entered-in-error"}, []),
    ],
)
def test_of_senders_without_versions_the_later_stage_counts_whatever_comes_last(
    home: Path, replayed: dict[str, Any], counts: list[float]
) -> None:
    at, steps = iso_minutes_ago(10), observation_steps(home)
    final = message(1, effectiveDateTime=at, value=72.0, meta=None)
    other = message(1, effectiveDateTime=at, meta=None, **replayed)
    outcome = run_observations(steps, [final, other])
    assert history_of(home, outcome).measured().value.tolist() == counts
    run_observations(observation_steps(home), [other, final], first=2)
    assert history_of(home, outcome).measured().value.tolist() == counts


def test_a_value_that_is_corrected_back_is_no_repeat_of_the_first_one(home: Path) -> None:
    at = iso_minutes_ago(30)
    corrected = [
        message(1, effectiveDateTime=at, value=value, status="corrected", meta=None, issued=iso_minutes_ago(minutes))
        for value, minutes in ((71.0, 20), (72.0, 15), (71.0, 10), (71.0, 10))
    ]
    outcome = run_observations(observation_steps(home), [*corrected])
    assert outcome.rows.num_rows == 3
    assert len(outcome.duplicate) == 1
    assert history_of(home, outcome).measured().value.tolist() == [71.0]


def test_a_number_that_was_corrected_to_words_is_none_any_more(home: Path) -> None:
    at, steps = iso_minutes_ago(10), observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=at, value=72.0)])
    words = {"valueQuantity": None, "valueString": "see note"}
    run_observations(
        steps, [message(1, effectiveDateTime=at, status="corrected", meta={"versionId": "2"}, **words)], first=1
    )
    assert len(history_of(home, outcome).measured()) == 0


def test_what_stood_in_the_code_of_a_rejected_message_does_not_stop_the_others(home: Path) -> None:
    odd = {"coding": [{"system": "http://loinc.org", "code": "Zzmarker"}]}
    outcome = run_observations(
        observation_steps(home),
        [
            message(1, effectiveDateTime=iso_minutes_ago(5), code=odd),
            message(2, effectiveDateTime=iso_minutes_ago(5), value=71.0),
        ],
    )
    assert history_of(home, outcome).measured().value.tolist() == [71.0]


def test_a_rate_of_zero_and_an_answer_on_a_scale_reach_the_care_store(home: Path) -> None:
    """Otherwise the last normal rate would stay in view for a patient who stopped breathing."""
    loinc = "http://loinc.org"
    answer = {"coding": [{"system": loinc, "code": "LA17107-6"}]}
    consciousness = {"code": {"coding": [{"system": loinc, "code": "67775-7"}]}, "valueQuantity": None}
    outcome = run_observations(
        observation_steps(home),
        [
            message(1, value=70.0, effectiveDateTime=iso_minutes_ago(30)),
            message(2, value=0.0, effectiveDateTime=iso_minutes_ago(20)),
            message(3, effectiveDateTime=iso_minutes_ago(10), valueCodeableConcept=answer, **consciousness),
            message(4, effectiveDateTime=iso_minutes_ago(5), valueString="asleep", **consciousness),
        ],
    )
    assert outcome.rows.num_rows == 4
    history = history_of(home, outcome)
    known = history.where(np.isfinite(history.value))
    assert known.value.tolist() == [70.0, 0.0, 3.0], "responds to pain: the fourth of five"
    assert known.code.tolist() == [*[code_number("8867-4")] * 2, code_number("67775-7")]


def test_of_two_sensors_without_identifiers_the_worse_one_counts(home: Path) -> None:
    """Both readings have the same id, and the one that came first hid the other."""
    at = iso_minutes_ago(5)
    of = coded_value("59408-5", 97.0, "%"), coded_value("59408-5", 84.0, "%")
    both = [
        message(i, identifier=None, meta=None, effectiveDateTime=at, device={"reference": f"Device/{i}"}, **said)
        for i, said in enumerate(of)
    ]
    outcome = run_observations(observation_steps(home), [*both])
    score = score_of(home, outcome)
    assert (score.latest["oxygen_saturation"].value, score.parts["oxygen_saturation"]) == (84.0, 3)
