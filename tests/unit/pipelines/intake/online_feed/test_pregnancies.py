"""Diagnoses of pregnancy: which of them hold, and for which stay."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pytest

from pipelines.republish.online_store import rebuild_online_store
from tests.attribution import Ward as Bedside
from tests.fhir import message
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    chart_of,
    iso_minutes_ago,
    observation_steps,
    open_store,
    pregnancy_resource,
    run_observations,
    run_records,
    status_concept,
    stay_resource,
)
from vitalake import clock


@pytest.mark.parametrize("first", ["condition", "encounter"])
def test_a_pregnancy_told_before_its_stay_is_known_in_it(home: Path, first: str) -> None:
    """It was stored, and then deleted like the facts of patients who are not on the ward."""
    pregnant = {
        "resourceType": "Condition", "id": "c-1", "subject": {"reference": "Patient/p-1"},
        "encounter": {"reference": "Encounter/e-1"}, "recordedDate": iso_minutes_ago(60),
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "77386006"}]},
    }  # fmt: skip
    told = {"condition": pregnant, "encounter": stay_resource()}
    for dataset in sorted(told, key=lambda one: one != first):
        outcome = run_records(home, dataset, told[dataset])
        open_store(home).prune()
    assert not outcome.rejects
    stay = open_store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert stay is not None
    assert stay.pregnant


def _day(days_ago: float) -> str:
    day: datetime = clock.now() - timedelta(days=days_ago)
    return day.date().isoformat()


@pytest.mark.parametrize("stay", [True, False])
@pytest.mark.parametrize(
    ("elements", "pregnant"),
    [
        ({}, True),
        ({"encounter": None}, True),
        ({"recordedDate": None}, True),
        ({"recordedDate": _day(3)}, True),
        ({"encounter": None, "recordedDate": None, "clinicalStatus": status_concept("active")}, True),
        ({"encounter": None, "recordedDate": f"{_day(400)}T10:00:00Z"}, False),
        ({"clinicalStatus": status_concept("resolved"), "abatementDateTime": _day(90)}, False),
        ({"clinicalStatus": status_concept("inactive")}, False),
        ({"clinicalStatus": "active"}, True),
        ({"clinicalStatus": "resolved"}, False),
        ({"clinicalStatus": [7], "abatementDateTime": {}}, True),
        ({"verificationStatus": "entered-in-error"}, False),
        ({"abatementDateTime": _day(2)}, False),
        ({"abatementDateTime": _day(40)[:7]}, False),
        ({"abatementDateTime": _day(-30)}, True),
        ({"encounter": None, "clinicalStatus": status_concept("remission")}, False),
        ({"verificationStatus": status_concept("refuted")}, False),
    ],
)
def test_a_pregnancy_is_known_as_far_as_its_diagnosis_can_be_used(
    home: Path, elements: dict[str, Any], pregnant: bool, stay: bool
) -> None:
    """One of ten years ago withheld the score; one without an Encounter was a dead letter, and she was "0 low"."""
    if stay:
        run_records(home, "encounter", stay_resource())
    told = {"effectiveDateTime": iso_minutes_ago(5), "subject": {"reference": "Patient/p-1"}}
    token = run_observations(observation_steps(home), [message(1, **told)]).rows["patient_id"][0].as_py()
    run_records(home, "condition", pregnancy_resource(**elements))
    chart = chart_of(home, token)
    assert (chart.pregnant, chart.record.news2.withheld) == (pregnant, "pregnancy" if pregnant else "")


@pytest.mark.parametrize("encounter", [{"reference": "Encounter/e-1"}, None])
@pytest.mark.parametrize(
    "later",
    [
        {"verificationStatus": status_concept("refuted")},
        {"verificationStatus": status_concept("entered-in-error")},
        {"clinicalStatus": status_concept("resolved")},
    ],
)
def test_a_pregnancy_is_taken_back_and_another_one_stays(
    home: Path, later: dict[str, Any], encounter: dict[str, Any] | None
) -> None:
    run_records(home, "encounter", stay_resource())
    told = pregnancy_resource(encounter=encounter)
    token = run_records(home, "condition", pregnancy_resource()).rows["patient_id"][0].as_py()
    seen = [
        told,
        told | later | {"meta": {"versionId": "2"}},
        pregnancy_resource("48194001", id="c-2", encounter=encounter),
    ]
    seen += [pregnancy_resource() | {"verificationStatus": status_concept("refuted"), "meta": {"versionId": "3"}}, told]
    found = []
    for one in seen:
        run_records(home, "condition", one)
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        found.append(stay.pregnant)
    assert found == [True, False, True, True, True]


_ERROR = {"verificationStatus": status_concept("entered-in-error")}


_PAST = {"clinicalStatus": status_concept("resolved")}


_NO_CODE = {"code": {"text": "pregnant"}}


_Told = tuple[str | None, int, dict[str, Any]]


_TWINS, _FEVER = {"code": pregnancy_resource("16356006")["code"]}, {"code": pregnancy_resource("386661006")["code"]}


_NAMELESS = {"encounter": None}


_SAID: list[tuple[list[_Told], list[bool]]] = [
    ([("c-1", 1, {}), ("c-2", 1, {}), ("c-1", 2, _ERROR), ("c-2", 2, _PAST)], [True, True, True, False]),
    ([("c-1", 4, {}), ("c-2", 1, {}), ("c-2", 2, _ERROR), ("c-1", 5, _ERROR)], [True, True, True, False]),
    ([("c-1", 4, _ERROR), ("c-2", 1, {})], [False, True]),
    ([("c-1", 1, {}), ("c-1", 2, _TWINS), ("c-1", 3, _TWINS | _PAST)], [True, True, False]),
    ([("c-1", 1, {}), ("c-1", 2, _FEVER), ("c-1", 1, {})], [True, False, False]),
    ([("c-1", 1, {}), ("c-1", 2, _NAMELESS), ("c-1", 3, _NAMELESS | _PAST)], [True, True, False]),
    ([("c-1", 1, {}), ("c-1", 2, _NO_CODE), ("c-1", 3, _NO_CODE | _ERROR)], [True, True, False]),
    ([("c-1", 1, _FEVER), ("c-2", 1, {})], [False, True]),
    ([(None, 1, {}), ("c-1", 2, _PAST)], [True, False]),
    ([(None, 1, {}), (None, 2, _ERROR)], [True, False]),
]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_diagnosis_is_itself_whatever_its_code_and_stay_and_not_another_of_one_code(
    home: Path, at_once: bool
) -> None:
    """The removal of a duplicate removed the pregnancy, too: NEWS2 was shown for her."""
    whose = [{"subject": {"reference": f"Patient/p-{i}"}} for i in range(len(_SAID))]
    stays = [stay_resource() | {"id": f"e-{i}"} | subject for i, subject in enumerate(whose)]
    tokens = run_records(home, "encounter", *stays).rows["patient_id"].to_pylist()
    resources = [
        [
            pregnancy_resource(id=id_ and f"{id_}.{i}", meta={"versionId": str(version)})
            | {"encounter": {"reference": f"Encounter/e-{i}"}}
            | subject
            | elements
            for id_, version, elements in told
        ]
        for i, (subject, (told, _)) in enumerate(zip(whose, _SAID, strict=True))
    ]
    found = dict[str, list[bool]]()
    for several in [chain(*resources)] if at_once else zip_longest(*resources):
        run_records(home, "condition", *filter(None, several))
        store = open_store(home)
        for token in tokens:
            stay = store.facts.stay(token, as_of_us=clock.now_us())
            assert stay is not None
            found.setdefault(token, []).append(stay.pregnant)
    expected = [said[-1:] if at_once else (said + 3 * said[-1:])[:4] for _, said in _SAID]
    assert [found[token] for token in tokens] == expected


def test_what_is_filled_in_of_a_diagnosis_does_not_stand_beside_it_nor_end_another(home: Path) -> None:
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.send("encounter", [(clock.now(), [json.dumps(stay_resource()).encode()])])
    found = []
    for version, elements in enumerate([{}, _TWINS, _TWINS | _PAST], start=1):
        told = pregnancy_resource(meta={"versionId": str(version)}) | elements
        ward.send("condition", [(clock.now(), [json.dumps(told).encode()])])
        rebuild_online_store(ward.settings)
        (token,) = open_store(home).patients.revisions()
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        found.append(stay.pregnant)
    assert found == [True, True, False]


def test_a_store_that_is_filled_again_does_not_bring_back_what_was_resolved(home: Path) -> None:
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.send("encounter", [(clock.now(), [json.dumps(stay_resource()).encode()])])
    over = pregnancy_resource(clinicalStatus=status_concept("resolved"))
    ward.send(
        "condition", [(clock.now(), [json.dumps(pregnancy_resource(meta=None)).encode(), json.dumps(over).encode()])]
    )
    rebuild_online_store(ward.settings)
    (token,) = open_store(home).patients.revisions()
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert not stay.pregnant


def test_a_diagnosis_of_a_stay_holds_in_the_visit_that_goes_on_after_it(home: Path) -> None:
    """A pregnant patient was scored as an adult as soon as the stay had ended."""
    stay = stay_resource() | {"id": "in-1", "period": {"start": iso_minutes_ago(600)}}
    token = run_records(home, "encounter", stay).rows["patient_id"][0].as_py()
    run_records(home, "condition", pregnancy_resource(encounter={"reference": "Encounter/in-1"}))
    run_records(
        home,
        "encounter",
        stay_resource() | {"id": "visit", "class": {"code": "AMB"}, "period": {"start": iso_minutes_ago(100)}},
    )
    over = {
        "status": "finished",
        "meta": {"versionId": "2"},
        "period": {"start": iso_minutes_ago(600), "end": iso_minutes_ago(60)},
    }
    run_records(home, "encounter", stay | over)
    found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    assert (found.discharged_us, found.pregnant) == (None, True)
    run_records(home, "encounter", stay_resource() | {"id": "in-2", "period": {"start": iso_minutes_ago(10)}})
    found = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None and not found.pregnant, "a stay of its own"
