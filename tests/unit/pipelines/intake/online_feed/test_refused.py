"""Refused measurements and messages: they end what was there before, and are counted on the ward."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from governance.belonging import open_vault
from models.news2 import news2
from pipelines.erasure.request import Eraser
from pipelines.formats.shared.reasons import Reason
from pipelines.online_store.values import REFUSED
from pipelines.republish.rekey import rekey
from tests.attribution import Ward as Bedside
from tests.attribution import hl7_time
from tests.fhir import message, observation
from tests.hl7 import adt, obx
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    chart_of,
    coded_value,
    history_of,
    hl7_hours_ago,
    iso_minutes_ago,
    observation_steps,
    open_store,
    pregnancy_resource,
    result_message,
    run_admissions,
    run_observations,
    run_records,
    score_of,
    told_of_bed,
    visit_message,
)
from vitalake import clock
from vitalake.clinical.held_out import held_out
from vitalake.keys import load_keys
from vitalake.lake.commits.span import OnlineShare
from vitalake.settings import load_settings


def test_a_refused_value_ends_the_normal_one_before_it(home: Path) -> None:
    """Otherwise the last normal value stays on the board while the patient gets worse."""
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
    assert score_of(home, outcome).parts["pulse"] == 0
    refused = run_observations(steps, [message(2, effectiveDateTime=iso_minutes_ago(20), value=400.0)], first=1)
    assert [reject.reason for reject in refused.rejects] == [Reason.IMPLAUSIBLE_VALUE]
    score = score_of(home, outcome)
    assert (score.parts["pulse"], score.ended["pulse"].kind, score.partial) == (None, "high", True)
    assert "pulse" not in score.latest
    run_observations(steps, [message(3, effectiveDateTime=iso_minutes_ago(10), value=75.0)], first=2)
    score = score_of(home, outcome)
    assert (score.parts["pulse"], score.ended) == (0, {})


def _marks(home: Path, token: str) -> tuple[int, ...] | None:
    return chart_of(home, token).refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"effectiveDateTime": "2026-01-02T03:04:05"},
        {"effectiveDateTime": None},
        {"status": "FINAL"},
        {"valueQuantity": {"value": "70", "unit": "%"}},
        {"valueQuantity": None},
    ],
)
def test_what_makes_no_row_ends_its_part_and_another_vital_sign_does_not_wipe_that(
    home: Path, wrong: dict[str, Any]
) -> None:
    """A saturation of 70 was rejected and a pulse came: the row showed low, with the saturation of 98 from before."""
    steps = observation_steps(home)
    known = [("8867-4", 75.0, "/min"), ("59408-5", 98.0, "%")]
    before: list[bytes | None] = [
        message(i, **coded_value(*of, effectiveDateTime=iso_minutes_ago(30))) for i, of in enumerate(known)
    ]
    token = run_observations(steps, before).rows["patient_id"][0].as_py()
    told = coded_value("59408-5", 70.0, "%", effectiveDateTime=iso_minutes_ago(5)) | wrong
    (reject,) = run_observations(steps, [message(20, **told)], first=20).rejects
    assert not reject.rows
    outcome = run_observations(
        steps, [message(21, **coded_value("8867-4", 75.0, "/min", effectiveDateTime=clock.now().isoformat()))], first=21
    )
    score = score_of(home, outcome)
    assert (score.parts["oxygen_saturation"], score.ended["oxygen_saturation"].kind) == (None, "none")
    refused = _marks(home, token)
    assert refused is not None and refused[0] == 1
    run_observations(
        steps, [message(22, **coded_value("59408-5", 97.0, "%", effectiveDateTime=clock.now().isoformat()))], first=22
    )
    assert _marks(home, token) is None, "the saturation was measured again"


def _elsewhere(code: str, system: str | None) -> dict[str, Any]:
    return {"coding": [{"code": code} | ({} if system is None else {"system": system})]}


@pytest.mark.parametrize(
    ("shape", "system"),
    [
        *(("alone", wrong) for wrong in (None, "", "http://loinc.org/", "http://loinc.org|2.74", "urn:own")),
        *((shape, None) for shape in ("behind another", "component", "bundle")),
    ],
)
def test_a_code_under_a_wrong_system_ends_its_part(home: Path, shape: str, system: str | None) -> None:
    """The code counted as one that is known not to be a vital sign, and the message left no mark: 98 % stayed."""
    steps = observation_steps(home)
    known = [("8867-4", 75.0, "/min"), ("59408-5", 98.0, "%")]
    before: list[bytes | None] = [
        message(i, **coded_value(*of, effectiveDateTime=iso_minutes_ago(30))) for i, of in enumerate(known)
    ]
    token = run_observations(steps, before).rows["patient_id"][0].as_py()
    told = coded_value("59408-5", 70.0, "%", effectiveDateTime=iso_minutes_ago(20)) | {
        "code": _elsewhere("59408-5", system)
    }
    if shape == "behind another":
        told["code"]["coding"].insert(0, {"system": "urn:hospital", "code": "S"})
    if shape == "component":
        panel = {"code": {"coding": [{"system": "http://loinc.org", "code": "85353-1"}]}, "valueQuantity": None}
        parts = [{name: told[name] for name in ("code", "valueQuantity")}, coded_value("8867-4", 75.0, "/min")]
        told |= panel | {"component": parts}
    bad = observation(7, **told)
    if shape == "bundle":
        other = observation(8, **coded_value("8867-4", 75.0, "/min", effectiveDateTime=iso_minutes_ago(20)))
        bad = {"resourceType": "Bundle", "entry": [{"resource": bad}, {"resource": other}]}
    refused = run_observations(steps, [json.dumps(bad).encode()], first=2)
    assert [reject.reason for reject in refused.rejects] == [Reason.UNKNOWN_CODE]
    run_observations(
        steps, [message(9, **coded_value("8867-4", 75.0, "/min", effectiveDateTime=iso_minutes_ago(10)))], first=3
    )
    chart = chart_of(home, token)
    score = chart.record.news2
    assert (score.parts["oxygen_saturation"], score.ended["oxygen_saturation"].kind) == (None, "none")
    assert score.parts["pulse"] == 0, "what was measured since counts"
    assert chart.refused is not None
    assert chart.refused[0] == 1
    run_observations(
        steps, [message(10, **coded_value("59408-5", 97.0, "%", effectiveDateTime=iso_minutes_ago(5)))], first=4
    )
    assert chart_of(home, token).refused is None


def test_a_laboratorys_code_under_a_wrong_system_marks_nobody(home: Path) -> None:
    steps = observation_steps(home)
    token = (
        run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
        .rows["patient_id"][0]
        .as_py()
    )
    lab = coded_value("2823-3", 4.0, "mmol/L", effectiveDateTime=iso_minutes_ago(20)) | {
        "code": _elsewhere("2823-3", None)
    }
    assert run_observations(steps, [message(2, **lab)], first=1).rejects
    chart = chart_of(home, token)
    assert (chart.refused, chart.record.news2.parts["pulse"]) == (None, 0)


_FETUS = [
    {"display": "fetus"},
    {"reference": "Patient/fetus"},
    {"identifier": {"value": "fetus"}},
    7,
    {"reference": "RelatedPerson/p-1"},
    {"reference": "patient/fetus"},
    {"type": "Device", "reference": "Patient/fetus"},
    {"reference": "#fetus"},
    {"type": "Patient"},
    {"reference": "BodyStructure/fetus"},
    {"reference": "https://s.example/fhir/BodyStructure/fetus/_history/2"},
    {"type": "BodyStructure", "display": "fetus"},
    {"reference": "Person/x"},
    {"reference": "Practitioner/x"},
    {"reference": "PractitionerRole/x"},
    {"reference": "Specimen/x"},
    {"reference": "Observation/fetal-heart-rate"},
]


@pytest.mark.parametrize("focus", _FETUS)
def test_what_is_of_a_fetus_is_not_its_mothers(home: Path, focus: Any) -> None:
    """A heart rate of 145 of the fetus scored 3 on the mother's row; nor must it end the values known of her."""
    steps = observation_steps(home)
    token = (
        run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
        .rows["patient_id"][0]
        .as_py()
    )
    fetus = observation(2, effectiveDateTime=iso_minutes_ago(20), value=145.0, focus=[focus])
    alone = run_observations(steps, [json.dumps(fetus).encode()], first=1)
    assert [(reject.reason, reject.path) for reject in alone.rejects] == [(Reason.NO_SUBJECT, "Observation.focus")]
    mother = observation(3, effectiveDateTime=iso_minutes_ago(10), value=76.0, focus=[{"reference": "Patient/p-1"}])
    both = {"resourceType": "Bundle", "entry": [{"resource": fetus}, {"resource": mother}]}
    taken = run_observations(steps, [json.dumps(both).encode()], first=2)
    assert not taken.rejects
    assert (taken.filtered.tolist(), taken.row_message.tolist(), taken.message.tolist()) == ([0], [0, 0], [0])
    chart = chart_of(home, token)
    assert chart.refused is None
    assert (chart.record.news2.latest["pulse"].value, chart.record.news2.parts["pulse"]) == (76, 0)


@pytest.mark.parametrize(
    "focus",
    [
        {"reference": "https://s.example/fhir/Patient/p-1"},
        {"reference": "Patient/p-1/_history/3"},
        {"identifier": {"system": "mrn", "value": "1", "use": "usual"}},
        {"reference": "Encounter/e-1"},
        {"reference": "https://s.example/fhir/Device/d-1"},
        {"type": "Device", "identifier": {"value": "d-1"}},
        {"type": "Device", "display": "a pump"},
        {"reference": "DeviceMetric/m-1"},
        {"reference": "EpisodeOfCare/c-1"},
        {"reference": "Location/bed-3"},
        {"reference": "ServiceRequest/o-1"},
        {"reference": "Procedure/dialysis-1"},
        {"reference": "Condition/c-1"},
        {"reference": "MedicationAdministration/m-1"},
        {},
    ],
)
def test_a_focus_that_is_the_subject_or_nobody_hides_no_value(home: Path, focus: dict[str, Any]) -> None:
    """A saturation of 80 % in a Bundle was dropped without a mark, and the 98 % before it stayed on the board."""
    subject = {"reference": "Patient/p-1", "identifier": {"system": "mrn", "value": "1", "use": "official"}}
    at: dict[str, Any] = {"subject": subject, "effectiveDateTime": iso_minutes_ago(10)}
    steps = observation_steps(home)
    before = observation(1, **coded_value("59408-5", 98.0, "%"), subject=subject, effectiveDateTime=iso_minutes_ago(30))
    token = run_observations(steps, [json.dumps(before).encode()]).rows["patient_id"][0].as_py()
    low = observation(2, **coded_value("59408-5", 80.0, "%"), **at, focus=[focus])
    both = {"resourceType": "Bundle", "entry": [{"resource": low}, {"resource": observation(3, value=72.0, **at)}]}
    outcome = run_observations(steps, [json.dumps(both).encode()], first=1)
    assert (outcome.rejects, outcome.filtered.tolist(), outcome.rows.num_rows) == ([], [], 2)
    assert chart_of(home, token).record.news2.parts["oxygen_saturation"] == 3


@pytest.mark.parametrize(
    ("other", "marks"),
    [
        ({"resourceType": "MedicationAdministration", "subject": {"reference": "Patient/p-1"}}, 0),
        ({"resourceType": "Patient", "id": "p-1"}, 0),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "72166-2"}]}, "valueQuantity": None,
          "valueCodeableConcept": {"coding": [{"system": "http://snomed.info/sct", "code": "266919005"}]}}, 0),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "2339-0"}]},
          "valueQuantity": {"value": 90, "unit": "parsec"}}, 0),
        ({"code": {"coding": [{"system": "urn:own", "code": "pulse"}]}}, 1),
        ({"code": None}, 1),
    ],
)  # fmt: skip
def test_only_what_may_be_a_vital_sign_marks_the_ward(home: Path, other: dict[str, Any], marks: int) -> None:
    """A smoking status, or an admission on the same topic, marked rows as if a vital sign had been missed."""
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(5))])
    whole = (
        json.dumps(other).encode()
        if "resourceType" in other
        else message(2, effectiveDateTime=iso_minutes_ago(4), **other)
    )
    run_observations(steps, [whole], first=1)
    found = _marks(home, outcome.rows["patient_id"][0].as_py())
    assert (found[0] if found else 0) == marks


def test_what_was_refused_and_comes_again_corrected_counts(home: Path) -> None:
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
    run_observations(
        steps, [message(2, effectiveDateTime=iso_minutes_ago(20), value=400.0, meta={"versionId": "1"})], first=1
    )
    run_observations(
        steps, [message(2, effectiveDateTime=iso_minutes_ago(20), value=140.0, meta={"versionId": "2"})], first=2
    )
    assert (score_of(home, outcome).parts["pulse"], score_of(home, outcome).ended) == (3, {})


def test_all_that_a_refused_message_measured_is_ended_and_the_refusal_is_counted(home: Path) -> None:
    """A heart rate of 150 beside an impossible temperature must not leave yesterday's 72 in view."""
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
    several = message(
        2,
        effectiveDateTime=iso_minutes_ago(20),
        code={"coding": [{"system": "http://loinc.org", "code": "85353-1"}]},
        valueQuantity=None,
        component=[coded_value("8867-4", 150.0, "/min"), coded_value("8310-5", 99.0, "Cel")],
    )
    run_observations(steps, [several, several], first=1)
    score = score_of(home, outcome)
    assert (score.total, score.ended["pulse"].kind) == (None, "none")
    history = history_of(home, outcome)
    assert int((history.code == REFUSED).sum()) == 2


def test_of_a_known_patient_a_message_that_cannot_be_decoded_is_counted(home: Path) -> None:
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
    run_observations(steps, [message(2, effectiveDateTime="yesterday", value=150.0)], first=1)
    assert int((history_of(home, outcome).code == REFUSED).sum()) == 1
    run_observations(
        steps,
        [message(3, effectiveDateTime="yesterday", value=150.0, subject={"reference": "Patient/nobody"})],
        first=2,
    )
    assert set(open_store(home).patients.revisions()) == set(outcome.rows["patient_id"].to_pylist()), (
        "no patient is made up of it"
    )


def test_a_refused_message_of_who_does_not_go_to_the_store_goes_nowhere(home: Path) -> None:
    """The lane stopped with an error, because fewer rows were stored than messages were rejected."""
    refused = [message(i, patient=f"p-{i}", value=999.0, effectiveDateTime=iso_minutes_ago(5)) for i in range(20)]
    known = [message(100 + i, patient=f"p-{i}", effectiveDateTime=iso_minutes_ago(6)) for i in range(20)]
    outcome = run_observations(
        observation_steps(home, online=OnlineShare(("8867-4",), held_out_only=True)), [*known, *refused]
    )
    chosen = {patient for patient in outcome.rows["patient_id"].to_pylist() if held_out(patient)}
    store = open_store(home)
    assert set(store.patients.revisions()) == chosen
    assert all((store.history(patient).code == REFUSED).all() for patient in chosen)


def test_a_message_that_cannot_be_decoded_is_counted_at_the_patient_in_whose_bed_it_was_made(home: Path) -> None:
    """It named no patient and so left no mark: a normal rate stayed while the monitor sent dashes."""
    ward = Bedside(home)
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    ward.stream([told_of_bed(ward, obx(value="72"), seconds=10)], name="hl7-v2")
    assert len(open_store(home).history(ward.token("p-1")).measured()) == 1
    outcome = ward.stream([told_of_bed(ward, obx(value="---"), seconds=20)], name="hl7-v2")
    assert [reject.rows for reject in outcome.rejects] == [0]
    history = open_store(home).history(ward.token("p-1"))
    assert int((history.code == REFUSED).sum()) == 1


def test_what_is_of_who_lies_in_a_bed_also_says_when_it_came(home: Path) -> None:
    """Values of a monitoring system that names only the bed, and whose clock is behind, seemed to be in time."""
    ward = Bedside(home)
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    ward.stream([told_of_bed(ward, obx(value="0"), seconds=10)], name="hl7-v2")
    history = open_store(home).history(ward.token("p-1"))
    assert (history.available_us - history.effective_us).min() > 9 * 60_000_000
    assert [event.came_us > event.at_us for event in news2(history, as_of_us=clock.now_us()).events] == [True]


def test_what_was_refused_before_anybody_was_known_in_the_bed_is_told_when_somebody_is(home: Path) -> None:
    """The valid values that were held came, and the rejected ones of the same device were lost."""
    ward = Bedside(home)
    steps = ward.steps()
    first = [told_of_bed(ward, obx(value=value), seconds=i + 10) for i, value in enumerate(("72", "500", "---"))]
    ward.stream(first, steps=steps, name="hl7-v2")
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    assert steps.attributor is not None
    steps.attributor.associations.look(now=True)
    for seconds in (20, 30):
        last = told_of_bed(ward, obx(code="59408-5^S^LN", value="97", unit="%^^UCUM"), seconds=seconds)
        ward.stream([last], steps=steps, name="hl7-v2")
    steps.close()
    history = open_store(home).history(ward.token("p-1"))
    assert int((history.code == REFUSED).sum()) == 2, "each once, and not again"
    score = news2(history, as_of_us=clock.now_us())
    assert (score.parts["pulse"], score.ended["pulse"].kind) == (None, "none"), "the last one could not be decoded"


def test_of_who_was_forgotten_a_refused_message_tells_the_ward_nothing(home: Path) -> None:
    """Under a pseudonym of a new key they were back on the board, with a bed, a date of birth and a diagnosis."""
    move = visit_message("A02", "MED^9^9", 0.1)
    no_stay = pregnancy_resource(encounter=None)
    run_admissions(home, [visit_message("A01", "MED^1^A", 2)])
    assert len(run_admissions(home, [move]).told) == len(run_records(home, "condition", no_stay).told) == 1
    settings = load_settings(home)
    with closing(open_vault(settings, load_keys(home / "keys.yaml"))) as vault:
        vault.erase(vault.subject_of("p-1"), "test")
    assert [*run_admissions(home, [move]).told] == [*run_records(home, "condition", no_stay).told] == []


def test_of_who_was_forgotten_a_refused_result_tells_the_ward_nothing(home: Path) -> None:
    """Under a pseudonym of a new key they were back on the ward, with a date of birth and a sex."""
    bad, good = obx(value="4000"), obx(value="80")
    steps = observation_steps(home)
    run_observations(steps, [result_message(hl7_hours_ago(1), 1, "19850203", good)], name="hl7-v2")
    refused = run_observations(
        steps, [result_message(hl7_hours_ago(1), 2, "19850203", good, bad)], first=1, name="hl7-v2"
    )
    assert refused.refused is not None
    assert refused.people
    steps.close()
    settings, keys = load_settings(home), load_keys(home / "keys.yaml")
    with closing(open_vault(settings, keys)) as vault:
        Eraser(settings, keys, vault).erase("HOSP|1234", reason="asked for", actor="test")
    rekey(settings)
    steps = observation_steps(home)
    polls = ([bad], [good, bad], [good])
    for number, rows in enumerate(polls, 3):
        run_observations(
            steps, [result_message(hl7_hours_ago(1), number, "19850203", *rows)], first=number, name="hl7-v2"
        )
    assert open_store(home).all_patients() == []
