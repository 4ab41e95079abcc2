"""What the lanes write before masking: true values to the online store, under the pseudonym that is published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import chain, permutations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from governance.belonging import open_vault
from models.clock_lag import steady_lags
from models.news2 import News2, news2
from models.serving.rows import notes
from models.serving.ward import Chart, Ward, situation_of
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.erasure.request import Eraser
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.records import EXTRA_COLUMNS
from pipelines.intake.online_feed import open_online_store
from pipelines.intake.steps import Steps
from pipelines.online_store.facts import DELETED, Decision, Person, Placement
from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import CLOCK_AHEAD, REFUSED
from pipelines.republish import online_store as care_rewrite
from pipelines.republish.online_store import _outcome as filled_again
from pipelines.republish.online_store import rebuild_online_store
from pipelines.republish.rekey import rekey
from tests.attribution import Ward as Bedside
from tests.attribution import hl7_time
from tests.decoding import decoder_of
from tests.fhir import message, observation
from tests.hl7 import MSH, PID, adt, obx, oru
from tests.hostile_flat import flat, readings
from vitalake import clock
from vitalake.clinical.held_out import held_out
from vitalake.clinical.records import History, code_number
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.spans import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.tables.table import StagedFile, Table
from vitalake.settings import StreamSettings, load_settings


def _steps(home: Path, **options: Any) -> Steps:
    stream = StreamSettings(**{"care": options.pop("care", True)})
    return Steps(load_settings(home), stream, load_dataset("observation"), **options)


def _run(
    steps: Steps, messages: list[bytes | None], *, first: int = 0, name: str = "fhir", minutes_ago: Sequence[float] = ()
) -> Outcome:
    count = len(messages)
    poll = Poll(
        shard="vitals/0of1",
        format=name,
        values=messages,
        parts=(PartId("vitals", "0123456789abcdefghijkl", 0),),
        part=np.zeros(count, np.int32),
        offset=np.arange(first, first + count),
        broker_ms=clock.now_us() // 1000 - (60_000 * np.array(minutes_ago or [0] * count)).astype(np.int64),
    )
    decoder = FhirDecoder(precise=False) if name == "fhir" else decoder_of(name)
    return steps.mask(steps.conform(DecodedPoll(poll, decoder.decode(messages))))


def _store(home: Path) -> OnlineStore:
    settings = load_settings(home)
    return open_online_store(settings, load_keys(settings.path(settings.keys)))


def _history(home: Path, outcome: Outcome) -> History:
    return _store(home).history(outcome.rows["patient_id"][0].as_py())


def _at(minutes_ago: float) -> str:
    moment: datetime = clock.now() - timedelta(minutes=minutes_ago)
    return moment.isoformat(timespec="seconds")


def test_values_come_under_the_published_pseudonym_and_with_their_true_times(home: Path) -> None:
    at = [_at(30), _at(20), _at(10)]
    outcome = _run(_steps(home), [message(i, value=70.0 + i, effectiveDateTime=at[i]) for i in range(3)])
    history = _history(home, outcome)
    assert history.value.tolist() == [70.0, 71.0, 72.0]
    assert set(history.code.tolist()) == {code_number("8867-4")}
    assert history.effective_us.tolist() == [int(datetime.fromisoformat(t).timestamp() * 1e6) for t in at]
    assert set(_store(home).patients.revisions()) == set(outcome.rows["patient_id"].to_pylist())


def test_what_is_read_again_after_a_kill_is_not_taken_again(home: Path) -> None:
    messages: list[bytes | None] = [message(i, effectiveDateTime=_at(30 - i)) for i in range(20)]
    _run(_steps(home), messages[:15])
    outcome = _run(_steps(home), messages)  # a new process: its look-back knows nothing
    assert outcome.rows.num_rows == 20
    assert len(_history(home, outcome)) == 20


def test_corrections_replace_and_what_was_entered_in_error_goes(home: Path) -> None:
    at = _at(10)
    steps = _steps(home)
    first = _run(steps, [message(1, effectiveDateTime=at, value=72.0), message(2, effectiveDateTime=at, value=99.0)])
    _run(
        steps,
        [
            message(1, effectiveDateTime=at, value=75.0, status="corrected", meta={"versionId": "2"}),
            message(2, effectiveDateTime=at, value=99.0, status="entered-in-error", meta={"versionId": "2"}),
        ],
        first=2,
    )
    assert _history(home, first).value.tolist() == [75.0]


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
    at, steps = _at(10), _steps(home)
    final = message(1, effectiveDateTime=at, value=72.0, meta=None)
    other = message(1, effectiveDateTime=at, meta=None, **replayed)
    outcome = _run(steps, [final, other])
    assert _history(home, outcome).measured().value.tolist() == counts
    _run(_steps(home), [other, final], first=2)
    assert _history(home, outcome).measured().value.tolist() == counts


def test_a_value_that_is_corrected_back_is_no_repeat_of_the_first_one(home: Path) -> None:
    at = _at(30)
    corrected = [
        message(1, effectiveDateTime=at, value=value, status="corrected", meta=None, issued=_at(minutes))
        for value, minutes in ((71.0, 20), (72.0, 15), (71.0, 10), (71.0, 10))
    ]
    outcome = _run(_steps(home), [*corrected])
    assert outcome.rows.num_rows == 3
    assert len(outcome.duplicate) == 1
    assert _history(home, outcome).measured().value.tolist() == [71.0]


def test_a_number_that_was_corrected_to_words_is_none_any_more(home: Path) -> None:
    at, steps = _at(10), _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=at, value=72.0)])
    words = {"valueQuantity": None, "valueString": "see note"}
    _run(steps, [message(1, effectiveDateTime=at, status="corrected", meta={"versionId": "2"}, **words)], first=1)
    assert len(_history(home, outcome).measured()) == 0


def test_what_stood_in_the_code_of_a_rejected_message_does_not_stop_the_others(home: Path) -> None:
    odd = {"coding": [{"system": "http://loinc.org", "code": "Zzmarker"}]}
    outcome = _run(
        _steps(home), [message(1, effectiveDateTime=_at(5), code=odd), message(2, effectiveDateTime=_at(5), value=71.0)]
    )
    assert _history(home, outcome).measured().value.tolist() == [71.0]


def test_only_who_is_admitted_goes_to_the_care_store(home: Path) -> None:
    messages: list[bytes | None] = [message(i, patient=f"p-{i}", effectiveDateTime=_at(5)) for i in range(20)]
    outcome = _run(_steps(home, care_admits=held_out), messages)
    published = set(outcome.rows["patient_id"].to_pylist())
    chosen = {patient for patient in published if held_out(patient)}
    assert len(published) == 20
    assert 0 < len(chosen) < 20
    assert set(_store(home).patients.revisions()) == chosen


def test_old_values_codes_left_out_and_jobs_without_care_store_nothing(home: Path) -> None:
    _run(_steps(home), [message(1)])  # of last year
    _run(_steps(home, not_to_care=frozenset({"8867-4"})), [message(2, effectiveDateTime=_at(5))], first=1)
    assert _store(home).patients.revisions() == {}
    (home / "care.db").unlink()
    _run(_steps(home, care=False), [message(3, effectiveDateTime=_at(5))], first=2)
    assert not (home / "care.db").exists()


def test_a_rate_of_zero_and_an_answer_on_a_scale_reach_the_care_store(home: Path) -> None:
    """Otherwise the last normal rate would stay in view for a patient who stopped breathing."""
    loinc = "http://loinc.org"
    answer = {"coding": [{"system": loinc, "code": "LA17107-6"}]}
    consciousness = {"code": {"coding": [{"system": loinc, "code": "67775-7"}]}, "valueQuantity": None}
    outcome = _run(
        _steps(home),
        [
            message(1, value=70.0, effectiveDateTime=_at(30)),
            message(2, value=0.0, effectiveDateTime=_at(20)),
            message(3, effectiveDateTime=_at(10), valueCodeableConcept=answer, **consciousness),
            message(4, effectiveDateTime=_at(5), valueString="asleep", **consciousness),
        ],
    )
    assert outcome.rows.num_rows == 4
    history = _history(home, outcome)
    known = history.where(np.isfinite(history.value))
    assert known.value.tolist() == [70.0, 0.0, 3.0], "responds to pain: the fourth of five"
    assert known.code.tolist() == [*[code_number("8867-4")] * 2, code_number("67775-7")]


def _admissions(home: Path, messages: list[bytes | None], *, minutes_behind: int = 0) -> Outcome:
    """Process ADT messages as a lane of associations does; the producer's clock can be behind."""
    dataset = "device_association"
    steps = Steps(load_settings(home), StreamSettings(), load_dataset(dataset))
    count = len(messages)
    parts = (PartId("adt", "0123456789abcdefghijkl", 0),)
    now_ms = clock.now_us() // 1000 - minutes_behind * 60_000
    poll = Poll(
        "adt/0of1", "hl7-v2", messages, parts, np.zeros(count, np.int32), np.arange(count), np.full(count, now_ms)
    )
    decoded = decoder_of("hl7-v2", dataset=dataset).decode(messages)
    return steps.mask(steps.conform(DecodedPoll(poll, decoded)))


def test_an_admission_puts_a_patient_in_a_bed_and_a_discharge_takes_them_away(home: Path) -> None:
    """The bed was never stored: a board showed the ward only, and no patient before the first value."""
    told = [(clock.now() - timedelta(hours=hours)).strftime("%Y%m%d%H%M%S+0000") for hours in (5, 2, 1)]
    steps: list[list[bytes | None]] = [
        [adt("A01", PID, "PV1|1|I|4W^12^A", at=told[0])],
        [adt("A02", PID, "PV1|1|I|ICU^1^2|||4W^12^A", at=told[1])],
        [adt("A03", PID, "PV1|1|I|ICU^1^2", at=told[2])],
    ]
    seen = []
    for number in range(1, 4):
        messages = [message for step in steps[:number] for message in step]
        outcome = _admissions(home, messages)
        patient = outcome.rows["patient_id"][0].as_py()
        stay = _store(home).facts.stay(patient, as_of_us=clock.now_us())
        assert stay is not None
        seen.append((stay.unit, stay.bed, stay.discharged_us is None))
    assert seen == [("4W", "12 A", True), ("ICU", "1 2", True), ("ICU", "1 2", False)]


@pytest.mark.parametrize("minutes", [0, 5])
def test_who_was_not_discharged_after_all_is_there(home: Path, minutes: int) -> None:
    """An A13 often gives no time but its own, which can be that of the discharge."""
    at = [clock.now() - timedelta(hours=2), clock.now() - timedelta(hours=1)]
    at.append(at[1] + timedelta(minutes=minutes))
    told = [moment.strftime("%Y%m%d%H%M%S+0000") for moment in at]
    place = "PV1|1|I|ICU^1^2"
    messages: list[bytes | None] = [adt(f"A{n:02}", PID, place, at=told[i]) for i, n in enumerate((1, 3, 13))]
    outcome = _admissions(home, messages)
    stay = _store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.bed, stay.discharged_us) == ("1 2", None)


@pytest.mark.parametrize("place", ["PV1|1|I|ICU^1^2", "PV1|1|I|OR^^|||ICU^1^2"])
def test_only_a_discharge_ends_the_stay_of_who_left_a_bed(home: Path, place: str) -> None:
    """A transfer to a place without a bed is no discharge: the patient must stay on the board."""
    at = (clock.now() - timedelta(hours=2)).strftime("%Y%m%d%H%M%S+0000")
    now = (clock.now() - timedelta(hours=1)).strftime("%Y%m%d%H%M%S+0000")
    event = "A02" if "OR" in place else "A03"
    outcome = _admissions(home, [adt("A01", PID, "PV1|1|I|ICU^1^2", at=at), adt(event, PID, place, at=now)])
    stay = _store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert (stay is not None and stay.discharged_us is not None) == (event == "A03")


@pytest.mark.parametrize(
    ("place", "back", "timed"),
    [
        ("4W", "4W", ""), ("LOUNGE", "LOUNGE", ""), ("LOUNGE", "4W^12^A", ""), ("4W^12^A", "LOUNGE", ""),
        ("LOUNGE", "4W^12^A", "PV1-45"), ("4W^12", "4W^12^A", "EVN-6"), ("4W^12^A", "LOUNGE", "PV1-45"),
    ],
)  # fmt: skip
def test_a_discharge_from_any_place_ends_the_stay_of_its_number_until_it_is_taken_back(
    home: Path, place: str, back: str, timed: str
) -> None:
    """PV1-3 of an A03 is often only the ward or lounge, that of its A13 the bed: a patient in bed left the board."""
    at = [(clock.now() - timedelta(hours=hours)).strftime("%Y%m%d%H%M%S+0000") for hours in (3, 2, 1)]
    ends = [f"PV1|1|I|{told}||||||||||||||||V-1{'|' * 26}" for told in ("4W^12^A", place, back)]
    ends[2] += at[1] if timed == "PV1-45" else ""
    messages: list[bytes | None] = [adt(f"A{n:02}", PID, ends[i], at=at[i]) for i, n in enumerate((1, 3, 13))]
    if timed == "EVN-6":
        last = messages[2] or b""
        messages[2] = last.replace(f"EVN||{at[2]}".encode(), f"EVN||{at[2]}||||{at[1]}".encode())
    seen = []
    for count in (1, 2, 3):
        patient = _admissions(home, messages[:count]).rows["patient_id"][0].as_py()
        stay = _store(home).facts.stay(patient, as_of_us=clock.now_us())
        assert stay is not None
        seen.append((stay.discharged_us is None, stay.bed))
    assert seen == [(True, "12 A"), (False, "12 A"), (True, "12 A")]


# -- values that came and cannot be used ------------------------------------------------------------------------------


def _coded(code: str, value: float | None, unit: str, **elements: Any) -> dict[str, Any]:
    quantity = None if value is None else {"value": value, "system": "http://unitsofmeasure.org", "code": unit}
    return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": quantity, **elements}


def _score(home: Path, outcome: Outcome) -> News2:
    return news2(_history(home, outcome), as_of_us=clock.now_us())


def test_a_refused_value_ends_the_normal_one_before_it(home: Path) -> None:
    """Otherwise the last normal value stays on the board while the patient gets worse."""
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)])
    assert _score(home, outcome).parts["pulse"] == 0
    refused = _run(steps, [message(2, effectiveDateTime=_at(20), value=400.0)], first=1)
    assert [reject.reason for reject in refused.rejects] == [Reason.IMPLAUSIBLE_VALUE]
    score = _score(home, outcome)
    assert (score.parts["pulse"], score.ended["pulse"].kind, score.partial) == (None, "high", True)
    assert "pulse" not in score.latest
    _run(steps, [message(3, effectiveDateTime=_at(10), value=75.0)], first=2)
    score = _score(home, outcome)
    assert (score.parts["pulse"], score.ended) == (0, {})


def _charted(home: Path, token: str) -> Chart:
    settings = load_settings(home)
    ward = Ward(settings, load_keys(settings.path(settings.keys)))
    ward.changed()
    chart = ward.chart(token)
    ward.close()
    assert chart is not None
    return chart


def _marks(home: Path, token: str) -> tuple[int, ...] | None:
    return _charted(home, token).refused


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
    steps = _steps(home)
    known = [("8867-4", 75.0, "/min"), ("59408-5", 98.0, "%")]
    before: list[bytes | None] = [message(i, **_coded(*of, effectiveDateTime=_at(30))) for i, of in enumerate(known)]
    token = _run(steps, before).rows["patient_id"][0].as_py()
    told = _coded("59408-5", 70.0, "%", effectiveDateTime=_at(5)) | wrong
    (reject,) = _run(steps, [message(20, **told)], first=20).rejects
    assert not reject.rows
    outcome = _run(
        steps, [message(21, **_coded("8867-4", 75.0, "/min", effectiveDateTime=clock.now().isoformat()))], first=21
    )
    score = _score(home, outcome)
    assert (score.parts["oxygen_saturation"], score.ended["oxygen_saturation"].kind) == (None, "none")
    refused = _marks(home, token)
    assert refused is not None and refused[0] == 1
    _run(steps, [message(22, **_coded("59408-5", 97.0, "%", effectiveDateTime=clock.now().isoformat()))], first=22)
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
    steps = _steps(home)
    known = [("8867-4", 75.0, "/min"), ("59408-5", 98.0, "%")]
    before: list[bytes | None] = [message(i, **_coded(*of, effectiveDateTime=_at(30))) for i, of in enumerate(known)]
    token = _run(steps, before).rows["patient_id"][0].as_py()
    told = _coded("59408-5", 70.0, "%", effectiveDateTime=_at(20)) | {"code": _elsewhere("59408-5", system)}
    if shape == "behind another":
        told["code"]["coding"].insert(0, {"system": "urn:hospital", "code": "S"})
    if shape == "component":
        panel = {"code": {"coding": [{"system": "http://loinc.org", "code": "85353-1"}]}, "valueQuantity": None}
        parts = [{name: told[name] for name in ("code", "valueQuantity")}, _coded("8867-4", 75.0, "/min")]
        told |= panel | {"component": parts}
    bad = observation(7, **told)
    if shape == "bundle":
        other = observation(8, **_coded("8867-4", 75.0, "/min", effectiveDateTime=_at(20)))
        bad = {"resourceType": "Bundle", "entry": [{"resource": bad}, {"resource": other}]}
    refused = _run(steps, [json.dumps(bad).encode()], first=2)
    assert [reject.reason for reject in refused.rejects] == [Reason.UNKNOWN_CODE]
    _run(steps, [message(9, **_coded("8867-4", 75.0, "/min", effectiveDateTime=_at(10)))], first=3)
    chart = _charted(home, token)
    score = chart.record.news2
    assert (score.parts["oxygen_saturation"], score.ended["oxygen_saturation"].kind) == (None, "none")
    assert score.parts["pulse"] == 0, "what was measured since counts"
    assert chart.refused is not None
    assert chart.refused[0] == 1
    _run(steps, [message(10, **_coded("59408-5", 97.0, "%", effectiveDateTime=_at(5)))], first=4)
    assert _charted(home, token).refused is None


def test_a_laboratorys_code_under_a_wrong_system_marks_nobody(home: Path) -> None:
    steps = _steps(home)
    token = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)]).rows["patient_id"][0].as_py()
    lab = _coded("2823-3", 4.0, "mmol/L", effectiveDateTime=_at(20)) | {"code": _elsewhere("2823-3", None)}
    assert _run(steps, [message(2, **lab)], first=1).rejects
    chart = _charted(home, token)
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
    steps = _steps(home)
    token = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)]).rows["patient_id"][0].as_py()
    fetus = observation(2, effectiveDateTime=_at(20), value=145.0, focus=[focus])
    alone = _run(steps, [json.dumps(fetus).encode()], first=1)
    assert [(reject.reason, reject.path) for reject in alone.rejects] == [(Reason.NO_SUBJECT, "Observation.focus")]
    mother = observation(3, effectiveDateTime=_at(10), value=76.0, focus=[{"reference": "Patient/p-1"}])
    both = {"resourceType": "Bundle", "entry": [{"resource": fetus}, {"resource": mother}]}
    taken = _run(steps, [json.dumps(both).encode()], first=2)
    assert not taken.rejects
    assert (taken.filtered.tolist(), taken.row_message.tolist(), taken.message.tolist()) == ([0], [0, 0], [0])
    chart = _charted(home, token)
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
    at: dict[str, Any] = {"subject": subject, "effectiveDateTime": _at(10)}
    steps = _steps(home)
    before = observation(1, **_coded("59408-5", 98.0, "%"), subject=subject, effectiveDateTime=_at(30))
    token = _run(steps, [json.dumps(before).encode()]).rows["patient_id"][0].as_py()
    low = observation(2, **_coded("59408-5", 80.0, "%"), **at, focus=[focus])
    both = {"resourceType": "Bundle", "entry": [{"resource": low}, {"resource": observation(3, value=72.0, **at)}]}
    outcome = _run(steps, [json.dumps(both).encode()], first=1)
    assert (outcome.rejects, outcome.filtered.tolist(), outcome.rows.num_rows) == ([], [], 2)
    assert _charted(home, token).record.news2.parts["oxygen_saturation"] == 3


def test_a_period_is_read_as_of_its_end(home: Path) -> None:
    period = {"start": _at(10), "end": _at(5)}
    elements = _coded("59408-5", 70.0, "%") | {"effectiveDateTime": None, "effectivePeriod": period}
    score = _score(home, _run(_steps(home), [message(1, **elements)]))
    assert score.parts["oxygen_saturation"] == 3
    assert abs(score.latest["oxygen_saturation"].at_us - (clock.now_us() - 300_000_000)) < 60_000_000


@pytest.mark.parametrize("value", ["-?-", '""'])
def test_a_result_that_is_no_number_ends_its_part(home: Path, value: str) -> None:
    at = (clock.now() - timedelta(minutes=5)).strftime("%Y%m%d%H%M%S+0000")
    steps = _steps(home)
    token = _run(steps, [message(1, **_coded("59408-5", 98.0, "%", effectiveDateTime=_at(30)))]).rows["patient_id"]
    poll_of = oru("PID|1||p-1^^^^MR", obx(code="59408-5^S^LN", value=value, unit="%^^UCUM", at=at))
    outcome = _run(steps, [poll_of], first=1, name="hl7-v2")
    assert len(outcome.rejects) == 1
    score = news2(_store(home).history(token[0].as_py()), as_of_us=clock.now_us())
    assert score.ended["oxygen_saturation"].kind == "none"


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
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(5))])
    whole = json.dumps(other).encode() if "resourceType" in other else message(2, effectiveDateTime=_at(4), **other)
    _run(steps, [whole], first=1)
    found = _marks(home, outcome.rows["patient_id"][0].as_py())
    assert (found[0] if found else 0) == marks


def test_a_value_that_the_sender_does_not_have_ends_the_one_before(home: Path) -> None:
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)])
    absent = {"value": None, "dataAbsentReason": {"coding": [{"code": "error"}]}}
    _run(steps, [message(2, effectiveDateTime=_at(20), **absent)], first=1)
    score = _score(home, outcome)
    assert (score.parts["pulse"], score.ended["pulse"].kind) == (None, "none")


@pytest.mark.parametrize(
    ("told", "points"),
    [
        ({"valueQuantity": None, "valueString": "drowsy"}, None),
        ({"effectiveDateTime": None, "value": 3.0}, None),
        ({"valueQuantity": {"value": 3, "unit": "parsec"}}, None),
        ({"value": None, "dataAbsentReason": {"coding": [{"code": "unsupported"}]}}, 0),
    ],
)
def test_what_came_under_another_code_ends_the_part_and_a_sensor_that_is_not_connected_does_not(
    home: Path, told: dict[str, Any], points: int | None
) -> None:
    """A pulse by oximetry of half an hour ago was shown although a heart rate had just been rejected."""
    steps = _steps(home)
    outcome = _run(steps, [message(1, **({"effectiveDateTime": _at(30)} | _coded("8889-8", 72.0, "/min")))])
    _run(steps, [message(2, **({"effectiveDateTime": _at(5)} | told))], first=1)
    assert _score(home, outcome).parts["pulse"] == points


def test_what_was_refused_and_comes_again_corrected_counts(home: Path) -> None:
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)])
    _run(steps, [message(2, effectiveDateTime=_at(20), value=400.0, meta={"versionId": "1"})], first=1)
    _run(steps, [message(2, effectiveDateTime=_at(20), value=140.0, meta={"versionId": "2"})], first=2)
    assert (_score(home, outcome).parts["pulse"], _score(home, outcome).ended) == (3, {})


def test_all_that_a_refused_message_measured_is_ended_and_the_refusal_is_counted(home: Path) -> None:
    """A heart rate of 150 beside an impossible temperature must not leave yesterday's 72 in view."""
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)])
    several = message(
        2,
        effectiveDateTime=_at(20),
        code={"coding": [{"system": "http://loinc.org", "code": "85353-1"}]},
        valueQuantity=None,
        component=[_coded("8867-4", 150.0, "/min"), _coded("8310-5", 99.0, "Cel")],
    )
    _run(steps, [several, several], first=1)
    score = _score(home, outcome)
    assert (score.total, score.ended["pulse"].kind) == (None, "none")
    history = _history(home, outcome)
    assert int((history.code == REFUSED).sum()) == 2


def test_of_a_known_patient_a_message_that_cannot_be_decoded_is_counted(home: Path) -> None:
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)])
    _run(steps, [message(2, effectiveDateTime="yesterday", value=150.0)], first=1)
    assert int((_history(home, outcome).code == REFUSED).sum()) == 1
    _run(
        steps,
        [message(3, effectiveDateTime="yesterday", value=150.0, subject={"reference": "Patient/nobody"})],
        first=2,
    )
    assert set(_store(home).patients.revisions()) == set(outcome.rows["patient_id"].to_pylist()), (
        "no patient is made up of it"
    )


@pytest.mark.parametrize(
    ("code", "value", "unit", "part"),
    [
        ("8867-4", 4.0, "/min", "pulse"),
        ("59408-5", 0.0, "%", "oxygen_saturation"),
        ("59408-5", 7.0, "%", "oxygen_saturation"),
        ("8480-6", 12.0, "mm[Hg]", "systolic_pressure"),
        ("76215-3", -4.0, "mm[Hg]", "systolic_pressure"),
    ],
)
def test_what_no_living_body_shows_is_an_event_and_not_refused(
    home: Path, code: str, value: float, unit: str, part: str
) -> None:
    outcome = _run(_steps(home), [message(1, effectiveDateTime=_at(5), **_coded(code, value, unit))])
    assert not outcome.rejects
    score = _score(home, outcome)
    assert [(event.part, event.value) for event in score.events] == [(part, value)]
    assert score.parts[part] == 3


# -- age -------------------------------------------------------------------------------------------------------------


def _records(home: Path, dataset: str, *resources: dict[str, Any]) -> Outcome:
    """Process FHIR resources as a lane of stays or of people does."""
    steps = Steps(load_settings(home), StreamSettings(), load_dataset(dataset))
    messages: list[bytes | None] = [json.dumps(resource).encode() for resource in resources]
    count = len(messages)
    parts = (PartId(dataset, "0123456789abcdefghijkl", 0),)
    now_ms = clock.now_us() // 1000
    poll = Poll(
        f"{dataset}/0of1", "fhir", messages, parts, np.zeros(count, np.int32), np.arange(count), np.full(count, now_ms)
    )
    try:
        return steps.mask(steps.conform(DecodedPoll(poll, decoder_of("fhir", dataset=dataset).decode(messages))))
    finally:
        steps.close()


def _person(born: str | None) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p-1", "gender": "female"} | ({"birthDate": born} if born else {})


def _stay_of(patient: str = "p-1") -> dict[str, Any]:
    return {
        "resourceType": "Encounter", "id": "e-1", "status": "in-progress",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"reference": f"Patient/{patient}"}, "period": {"start": _at(120)},
    }  # fmt: skip


@pytest.mark.parametrize("patient_first", [True, False])
@pytest.mark.parametrize(("back", "form", "expected"), [(9, "%Y-%m-%d", 9), (9, "%Y-%m", 8), (16, "%Y", 15)])
def test_a_child_is_known_as_one_in_any_order_and_by_part_of_the_birth_date(
    home: Path, patient_first: bool, back: int, form: str, expected: int
) -> None:
    """A child whose stay came by FHIR had no age, and was scored as an adult."""
    today = clock.now()
    born = today.replace(year=today.year - back, day=1).strftime(form)
    expected = back if form == "%Y-%m-%d" else expected
    steps = [("patient", _person(born)), ("encounter", _stay_of())]
    for dataset, resource in steps if patient_first else reversed(steps):
        outcome = _records(home, dataset, resource)
        written = [outcome.rows, *outcome.extra.values()]
        assert not {name for rows in written for name in rows.schema.names} & set(EXTRA_COLUMNS), "not for the lake"
    token = outcome.rows["patient_id"][0].as_py()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == (expected, "female")
    assert situation_of({}, age_years=stay.age_years, pregnant=False).withheld == "child"


def test_a_stay_within_a_stay_ends_nothing_but_itself(home: Path) -> None:
    """A sick inpatient left the board when one of their procedures ended."""
    open_, told = _stay_of(), clock.now_us()
    procedure = _stay_of() | {"id": "proc", "period": {"start": _at(60), "end": _at(30)}, "status": "finished"}
    without_end = _stay_of() | {"id": "proc-2", "period": {"start": _at(50)}, "status": "finished"}
    for resource in (open_, procedure, without_end):
        token = _records(home, "encounter", resource).rows["patient_id"][0].as_py()
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.discharged_us is None
    for last in ({"status": "cancelled"}, {"status": "entered-in-error"}):
        _records(home, "encounter", procedure | {"id": "proc-3"} | last)
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.discharged_us is None
    _records(home, "encounter", open_ | {"status": "finished", "meta": {"versionId": "2"}})
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.discharged_us is not None, "finished without an end: it ended when that became known"
    assert stay.discharged_us >= told - 1_000


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"deceasedDateTime": "2026-01-02T03:04:05+01:00"}, "2026-01-02T02:04:05+00:00"),
        ({"deceasedDateTime": "2026-01-02"}, "yes"),
        ({"deceasedBoolean": True}, "yes"),
        ({"deceasedBoolean": False}, ""),
        ({}, ""),
    ],
)
def test_a_death_that_a_record_tells_is_known_on_the_ward(home: Path, said: dict[str, Any], expected: str) -> None:
    _records(home, "encounter", _stay_of())
    token = _records(home, "patient", _person("1950-01-01") | said).rows["patient_id"][0].as_py()
    assert _store(home).facts.died(token) == expected
    _records(home, "patient", _person("1950-01-01") | {"meta": {"versionId": "2"}, "deceasedBoolean": False})
    assert _store(home).facts.died(token) == "", "taken back"


@pytest.mark.parametrize("key", ["told", "told-by-results"])
def test_who_always_says_that_they_live_hides_no_death_that_another_tells(home: Path, key: str) -> None:
    """Many systems always write deceasedBoolean: false, or N in PID-30; versions of two cannot be compared."""
    _records(home, "encounter", _stay_of())
    record = _person("1950-01-01") | {"deceasedBoolean": False}
    token = _records(home, "patient", record).rows["patient_id"][0].as_py()
    _store(home).put_facts([(token, key, clock.now_us(), Person("unknown", died="yes"))])
    assert _store(home).facts.died(token) == "yes"
    _store(home).put_facts([(token, key, clock.now_us(), Person("unknown", died=DELETED))])
    assert _store(home).facts.died(token) == "", "taken back by who has told it"
    _store(home).put_facts([(token, "~merged", 1, Person("unknown", died="yes"))])
    assert _store(home).facts.died(token) == "", "of a number given up it was told, and they live"
    _records(home, "patient", record | {"deceasedBoolean": True, "meta": {"versionId": "2"}})
    assert _store(home).facts.died(token) == "yes"


def test_who_was_told_of_long_before_the_stay_is_found_in_the_vault(home: Path) -> None:
    token = _records(home, "patient", _person("2018")).rows["patient_id"][0].as_py()
    (home / "care.db").unlink()
    _records(home, "encounter", _stay_of())
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.age_years is not None
    assert stay.age_years < 16


def test_an_admission_message_tells_the_age(home: Path) -> None:
    told = (clock.now() - timedelta(hours=1)).strftime("%Y%m%d%H%M%S+0000")
    born = (clock.now() - timedelta(days=400)).strftime("%Y%m%d")
    pid = f"PID|1||1234^^^HOSP^MR||Doe^Jane||{born}|F"
    outcome = _admissions(home, [adt("A01", pid, "PV1|1|I|4W^12^A", at=told)])
    stay = _store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == (1, "female")


def test_a_result_tells_the_age_too_and_an_admission_message_better(home: Path) -> None:
    """Without admissions a monitor's PID-7 is the only source of a birth date: a child was scored as an adult."""
    at, year = _ago(0.1), clock.now().year

    def result(seconds: int, born: str) -> bytes:
        pid = f"PID|1||1234^^^HOSP^MR||Doe^Jane||{born}|F"
        return oru(msh=MSH.replace("20250601100001+0200", at), pid=pid, pv1="", obr=f"OBR|1||F-{seconds}^M|V|||{at}")

    steps = _steps(home)
    token = _run(steps, [result(1, f"{year - 8}0101"), result(2, "")], name="hl7-v2").rows["patient_id"][0].as_py()
    chart = _charted(home, token)
    assert (chart.age_years, chart.record.news2.withheld) == (8, "child")
    _run(steps, [result(3, f"{year - 9}0101")], first=2, name="hl7-v2")
    assert _charted(home, token).age_years == 9, "what was said last"
    (home / "care.db").unlink()
    _admissions(home, [adt("A01", _pid(""), "PV1|1|I|4W^12^A", at=_ago(0.1))])
    assert _charted(home, token).age_years == 9, "the vault keeps what was told last"
    moved = adt("A02", _pid(f"{year - 40}0101"), "PV1|1|I|4W^9^A|||4W^12^A", at=_ago(0.05))
    _admissions(home, [moved])
    _run(_steps(home), [result(4, f"{year - 9}0101")], first=3, name="hl7-v2")
    assert _charted(home, token).age_years == 40


def _result(at: str, number: int, born: str, *rows: str, died: str = "", patient: str = "1234") -> bytes:
    pid = f"PID|1||{patient}^^^HOSP^MR||Doe^Jane||{born}|F{'|' * 22}{died}"
    rows = rows or (obx(1, "8867-4^Heart rate^LN", "72", "/min^^UCUM"),)
    head = MSH.replace("20250601100001+0200", at)
    return oru(*rows, msh=head, pid=pid, pv1="", obr=f"OBR|1||F-{number}^M|V|||{at}")


def test_a_child_of_whom_the_first_message_has_no_value_is_one_with_the_next(home: Path) -> None:
    """The lane took the birth date as stored, but the store had dropped it: the child was an adult for ten minutes."""
    at, year, steps = _ago(0.1), clock.now().year, _steps(home)
    old = _ago(80)
    _run(steps, [_result(old, 1, f"{year - 8}0101")], name="hl7-v2")
    outcome = _run(steps, [_result(at, 2, f"{year - 8}0101")], first=1, name="hl7-v2")
    token = outcome.rows["patient_id"][0].as_py()
    assert _charted(home, token).record.news2.withheld == "child"
    for name in home.glob("care.db*"):
        name.unlink()
    _run(steps, [_result(at, 3, f"{year - 8}0101")], first=2, name="hl7-v2")
    assert _charted(home, token).record.news2.withheld == "child", "another store has not been told"


@pytest.mark.parametrize("record", [False, True])
def test_a_store_that_is_filled_again_knows_what_results_told_last(home: Path, record: bool) -> None:
    """The first date stayed in the vault, as if from the record, and patients with results only were not looked up."""
    year, steps = clock.now().year, _steps(home)
    first = _run(steps, [_result(_ago(0.2), 1, f"{year - 40}0101")], name="hl7-v2")
    token = first.rows["patient_id"][0].as_py()
    if record:
        _records(home, "patient", {"resourceType": "Patient", "id": "HOSP|1234"})
    _run(steps, [_result(_ago(0.1), 2, f"{year - 8}0101")], first=1, name="hl7-v2")
    assert _charted(home, token).age_years == 8
    steps.close()
    for name in home.glob("care.db*"):
        name.unlink()
    _admissions(home, [adt("A01", _pid(""), "PV1|1|I|4W^12^A", at=_ago(0.1))])
    assert _charted(home, token).age_years == 8


def test_a_filling_looks_up_who_was_told_of_by_results_only(home: Path) -> None:
    bedside, year = Bedside(home), clock.now().year
    bedside.stream([_result(_ago(0.1), 1, f"{year - 8}0101")], name="hl7-v2")
    for name in home.glob("care.db*"):
        name.unlink()
    rebuild_online_store(bedside.settings)
    (token,) = _store(home).patients.revisions()
    assert _charted(home, token).record.news2.withheld == "child"


def test_who_lives_by_an_admission_message_is_not_dead_by_a_laboratory(home: Path) -> None:
    steps = _steps(home)
    outcome = _run(steps, [_result(_ago(0.1), 1, "", died="Y")], name="hl7-v2")
    token = outcome.rows["patient_id"][0].as_py()
    assert _store(home).facts.died(token) == "yes"
    pid = f"PID|1||1234^^^HOSP^MR||Doe^Jane|||F{'|' * 22}N"
    _admissions(home, [adt("A01", pid, "PV1|1|I|4W^12^A", at=_ago(0.1))])
    _run(steps, [_result(_ago(0.05), 2, "", died="Y")], first=1, name="hl7-v2")
    assert _store(home).facts.died(token) == ""


def test_people_who_have_no_stay_do_not_stay_in_the_care_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = _records(home, "patient", _person("2018")).rows["patient_id"][0].as_py()
    store = _store(home)
    assert store.facts.person(token) is not None
    assert store.patients.revisions() == {}, "nobody is on the ward by it"
    later = clock.now_us() + int((load_settings(home).care.hours + 1) * 3.6e9)
    monkeypatch.setattr(clock, "now_us", lambda: later)
    store.prune()
    assert store.facts.person(token) is None


def test_a_value_of_the_future_counts_from_when_it_came_and_says_whose_clock_is_wrong(home: Path) -> None:
    """The values of a monitor whose clock was three hours ahead were not shown for three hours; older values stayed."""
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(30), value=72.0)])
    _run(steps, [message(2, effectiveDateTime=_at(-180), value=150.0)], first=1)
    history = _history(home, outcome)
    score = news2(history, as_of_us=clock.now_us())
    assert score.latest["pulse"].value == 150
    assert clock.now_us() - score.latest["pulse"].at_us < 60_000_000
    (ahead,) = history.value[history.code == CLOCK_AHEAD].tolist()
    assert ahead == pytest.approx(3 * 3600, abs=60)


def _sent(name: str, code: str, value: float, *, minutes_ago: float, number: int) -> bytes:
    """Return a value of a sender that also gives the time of sending, by the same clock."""
    at = clock.now() - timedelta(minutes=minutes_ago)
    if name == "fhir":
        issued = (at + timedelta(seconds=1)).isoformat()
        return message(
            number, effectiveDateTime=at.isoformat(), value=value, issued=issued, code={"coding": [
                {"system": "http://loinc.org", "code": code}]},
        )  # fmt: skip
    told, issued = (f"{moment:%Y%m%d%H%M%S}+0000" for moment in (at, at + timedelta(seconds=1)))
    return (
        f"MSH|^~\\&|MON|WARD|||{issued}||ORU^R01^ORU_R01|{number}|P|2.5\rPID|||p-1^^^H^MR\rOBR|1|||panel|||{told}\r"
        f"OBX|1|NM|{code}^rate^LN||{value:.0f}|/min^^UCUM|||||F|||{told}\r"
    ).encode()


@pytest.mark.parametrize("name", ["fhir", "hl7-v2"])
def test_a_clock_that_is_behind_is_seen_also_where_its_system_says_when_it_sent(home: Path, name: str) -> None:
    """Sent a second after measuring, both by a clock an hour behind: nothing seemed late, and a rate of 0 was over."""
    steps = _steps(home)
    told = [("8867-4", 80, 64, 4), ("8867-4", 80, 62, 2), ("8889-8", 75, 1, 1), ("8867-4", 0, 60, 0)]
    sent = [_sent(name, code, value, minutes_ago=at, number=i) for i, (code, value, at, _) in enumerate(told)]
    outcome = _run(steps, [*sent], name=name, minutes_ago=[came for *_, came in told])
    assert outcome.rejects == []
    history = _history(home, outcome)
    score = news2(history, as_of_us=clock.now_us())
    assert [(event.value, event.came_us > event.at_us + 59 * 60_000_000) for event in score.events] == [(0, True)]
    codes = {"pulse": (code_number("8867-4"), code_number("8889-8"))}
    lag = steady_lags(history, codes, since_us=clock.now_us() - 12 * 3_600_000_000)["pulse"]
    assert (round(lag.us / 60_000_000), lag.hidden) == (60, True)
    lake = outcome.rows["available_at"].cast(pa.int64()).to_numpy()
    assert lake.min() < clock.now_us() - 63 * 60_000_000 or name == "hl7-v2", "the lake says what the sender does"


def test_of_corrections_the_one_that_its_sender_says_is_later_counts_whichever_comes_last(home: Path) -> None:
    steps, at = _steps(home), _at(30)
    later, sooner = (
        message(1, effectiveDateTime=at, value=value, status="corrected", meta=None, issued=_at(minutes))
        for value, minutes in ((72.0, 10), (71.0, 20))
    )
    outcome = _run(steps, [later, sooner], minutes_ago=[9, 1])
    history = _history(home, outcome)
    assert history.measured().value.tolist() == [72.0]
    assert not len(history.known_at(clock.now_us() - 10 * 60_000_000)), "and not before it came"


def test_a_silent_sensor_whose_clock_is_ahead_is_not_alive_when_its_values_are_taken_late(home: Path) -> None:
    """After a pause of the lane, values of two hours ago counted as current: their clock was three hours ahead."""
    came = [150.0, 120.0, 120.0, 100.0]
    told: list[bytes | None] = [
        message(i, effectiveDateTime=_at(ago - 180 - i / 60), value=70.0 + i) for i, ago in enumerate(came)
    ]
    before = clock.now_us()
    outcome = _run(_steps(home), told, minutes_ago=came)
    history = _history(home, outcome).measured()
    values = history.where(history.code == code_number("8867-4"))
    assert values.value.tolist() == [70, 71, 72, 73]
    assert [round((before - us) / 60_000_000) for us in values.effective_us.tolist()] == [150, 120, 120, 100]
    ahead = history.where(history.code == CLOCK_AHEAD)
    assert round((before - ahead.effective_us[-1]) / 60_000_000) == 100


@pytest.mark.parametrize("ahead", [-300.0, -30.0, -121 / 60, -1.0, 1.0])
def test_a_value_that_is_not_ahead_of_our_clock_is_not_put_back_by_a_producer_whose_clock_is_behind(
    home: Path, ahead: float
) -> None:
    """A gateway sends every five minutes, with a producer an hour behind: all its values counted as an hour old."""
    outcome = _run(_steps(home), [message(1, effectiveDateTime=_at(-ahead), value=0.0)], minutes_ago=[60 - ahead])
    history = _history(home, outcome)
    assert (clock.now_us() - history.effective_us[0]) / 60e6 == pytest.approx(max(-ahead, 0), abs=0.1)
    assert history.value.tolist() == [0], "no clock is spoken of"


def test_a_clock_a_little_ahead_delays_no_arrest_and_is_not_spoken_of(home: Path) -> None:
    """A rate of 0 stamped 110 seconds ahead was shown 110 seconds late; until then the rate before it was current."""
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(1), value=75.0)])
    _run(steps, [message(2, effectiveDateTime=_at(-110 / 60), value=0.0)], first=1)
    history = _history(home, outcome)
    assert [event.value for event in news2(history, as_of_us=clock.now_us()).events] == [0]
    assert CLOCK_AHEAD not in history.code


@pytest.mark.parametrize("number", [b"1e400", b"NaN", b"-Infinity"])
def test_a_number_that_none_can_be_ends_the_pulse_before_it(home: Path, number: bytes) -> None:
    """The message names its patient and was rejected without a mark: the pulse before it stayed current."""
    steps = _steps(home)
    outcome = _run(steps, [message(1, effectiveDateTime=_at(5), value=75.0)])
    _run(steps, [message(2, effectiveDateTime=_at(1), value=75.0).replace(b"75.0", number)], first=1)
    score = news2(_history(home, outcome), as_of_us=clock.now_us())
    assert "pulse" in score.ended and "pulse" not in score.latest


def test_values_of_one_poll_from_ahead_keep_their_order(home: Path) -> None:
    steps = _steps(home)
    told: list[bytes | None] = [
        message(i, effectiveDateTime=_at(-minutes), value=v) for i, minutes, v in ((1, 9, 71.0), (2, 8, 80.0))
    ]
    history = _history(home, _run(steps, told))
    hearts = history.where(np.isin(history.value, [71.0, 80.0]))
    assert hearts.value.tolist() == [80.0, 71.0]
    assert hearts.effective_us[0] < hearts.effective_us[1] <= clock.now_us()


def test_a_stay_told_by_fhir_has_a_bed_and_a_transfer_another(home: Path) -> None:
    """The board of a hospital that sends only FHIR showed no places."""

    def at(kind: str, name: dict[str, Any], **more: Any) -> dict[str, Any]:
        system = "http://terminology.hl7.org/CodeSystem/location-physical-type"
        return {"location": name, "physicalType": {"coding": [{"system": system, "code": kind}]}, **more}

    ward, hospital = at("wa", {"display": "4 West"}), {"location": {"display": "General Hospital"}}
    first = at("bd", {"identifier": {"value": "12/A"}}, status="active")
    left = at("bd", {"display": "12/A"}, status="completed", period={"start": _at(100), "end": _at(30)})
    now = at("bd", {"reference": "Location/bed-7"}, period={"start": _at(30)})
    found = []
    for number, places in enumerate(([hospital], [hospital, ward, first], [ward, left, now], ["nonsense"], [left]), 1):
        resource = _stay_of() | {"location": places, "meta": {"versionId": str(number)}}
        token = _records(home, "encounter", resource).rows["patient_id"][0].as_py()
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        found.append((stay.unit, stay.bed))
    assert found == [("", ""), ("4 West", "12/A"), ("4 West", "bed-7"), ("4 West", "bed-7"), ("", "")], "left all"


_KINDS = "http://terminology.hl7.org/CodeSystem/location-physical-type"


def _place(kind: str, name: str, status: str = "active") -> dict[str, Any]:
    coded = {"physicalType": {"coding": [{"system": _KINDS, "code": kind}]}} if kind else {}
    return {"location": {"display": name}, "status": status, **coded}


@pytest.mark.parametrize(
    ("then", "newest_first", "expected"),
    [
        ([], False, "12/A"), ([_place("ro", "OR 3")], False, ""), ([_place("", "OR 3")], False, ""),
        ([_place("bd", "7", "planned")], False, ""), ([_place("wa", "4 West", "completed")], False, ""),
        ([_place("bd", "7")], False, "7"), ([_place("wa", "5 East")], False, ""), ([_place("ro", "OR 3")], True, ""),
    ],
)  # fmt: skip
def test_who_has_left_a_bed_does_not_keep_it_wherever_they_are_now(
    home: Path, then: list[dict[str, Any]], newest_first: bool, expected: str
) -> None:
    """Patients in the operating room kept their bed on the ward, and the next patient there was the second in it."""
    told = [[_place("bd", "12/A")], [_place("bd", "12/A", "completed" if then else "active"), *then]]
    versions = [{"location": places, "meta": {"versionId": str(i)}} for i, places in enumerate(told, 1)]
    for version in versions[::-1] if newest_first else versions:
        resource = _stay_of() | version | {"period": {"start": _at(6_000)}}
        token = _records(home, "encounter", resource).rows["patient_id"][0].as_py()
        with closing(_store(home)) as store:
            store.prune()
            stay = store.facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.bed, stay.discharged_us) == (expected, None)


@pytest.mark.parametrize("from_minutes", [None, -30.0])
def test_a_stay_that_is_over_has_no_bed_whenever_it_is_told(home: Path, from_minutes: float | None) -> None:
    """Back-filled stays of last year put their patients on the board, and their beds never ended."""
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/location-physical-type", "code": "bd"}]}
    place: dict[str, Any] = {"location": {"display": "12/A"}, "physicalType": kind}
    ago = 60 * 24 * 200.0
    if from_minutes is not None:
        place["period"] = {"start": _at(ago + from_minutes)}
    over = {"status": "finished", "period": {"start": _at(ago + 600), "end": _at(ago)}, "location": [place]}
    token = _records(home, "encounter", _stay_of() | over).rows["patient_id"][0].as_py()
    assert _store(home).facts.stay(token, as_of_us=clock.now_us()) is None
    assert _store(home).all_patients() == []
    recent = over | {"period": {"start": _at(600), "end": _at(60)}, "meta": {"versionId": "2"}}
    place["period"] = {"start": _at(30)}
    _records(home, "encounter", _stay_of() | recent | {"location": [place]})
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.discharged_us is not None, "told as begun after the end of the stay"


def test_a_comparator_reaches_the_ward_and_a_correction_takes_it_away(home: Path) -> None:
    steps, at = _steps(home), _at(5)
    quantity = {"value": 70, "comparator": "<", "system": "http://unitsofmeasure.org", "code": "%"}
    elements = _coded("59408-5", None, "%") | {"valueQuantity": quantity, "effectiveDateTime": at}
    outcome = _run(steps, [message(1, **elements)])
    assert _score(home, outcome).latest["oxygen_saturation"].comparator == "<"
    _run(
        steps,
        [message(1, **elements | {"status": "corrected", "valueQuantity": quantity | {"comparator": None}})],
        first=1,
    )
    assert _score(home, outcome).latest["oxygen_saturation"].comparator == ""


def test_a_refused_message_of_who_does_not_go_to_the_store_goes_nowhere(home: Path) -> None:
    """The lane stopped with an error, because fewer rows were stored than messages were rejected."""
    refused = [message(i, patient=f"p-{i}", value=999.0, effectiveDateTime=_at(5)) for i in range(20)]
    known = [message(100 + i, patient=f"p-{i}", effectiveDateTime=_at(6)) for i in range(20)]
    outcome = _run(_steps(home, care_admits=held_out, not_to_care=frozenset({"8867-4"})), [*known, *refused])
    chosen = {patient for patient in outcome.rows["patient_id"].to_pylist() if held_out(patient)}
    store = _store(home)
    assert set(store.patients.revisions()) == chosen
    assert all((store.history(patient).code == REFUSED).all() for patient in chosen)


# -- what is left out ------------------------------------------------------------------------------------------------


def _ago(hours: float) -> str:
    return (clock.now() - timedelta(hours=hours)).strftime("%Y%m%d%H%M%S+0000")


def _pid(born: str, sex: str = "F") -> str:
    return f"PID|1||1234^^^HOSP^MR||Doe^Jane||{born}|{sex}"


@pytest.mark.parametrize(("born", "sex", "known"), [("", "", (8, "female")), ('""', '""', (None, "unknown"))])
def test_an_admission_told_anew_without_the_birth_date_does_not_make_an_adult_of_a_child(
    home: Path, born: str, sex: str, known: tuple[int | None, str]
) -> None:
    """In HL7 an empty field means that nothing has changed, and two quotes mean that it is deleted."""
    day = f"{clock.now().year - 8}0101"
    bed = "PV1|1|I|4W^12^A"
    told = [
        adt("A01", _pid(day), bed, at=_ago(3)),
        adt("A02", _pid(born, sex), "PV1|1|I|4W^13^A|||4W^12^A", at=_ago(2)),
    ]
    for messages in (told[:1], told):
        token = _admissions(home, [*messages]).rows["patient_id"][0].as_py()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == known


@pytest.mark.parametrize("day", ["0101", ""])
def test_a_store_that_is_filled_again_knows_the_child_of_whom_an_admission_message_told(home: Path, day: str) -> None:
    """The lake has no column for it: after a filling, "Under 16" became "0 low, read as an adult's"."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    year = clock.now().year - 8
    bed = "PV1|1|I|4W^12^A"
    ward.tell(adt("A01", _pid(f"{year}{day}"), bed, at=_ago(2)), adt("A02", _pid(""), f"{bed}|||4W^9^A", at=_ago(1)))
    (token,) = _store(home).patients.revisions()
    (home / "care.db").unlink()
    rebuild_online_store(ward.settings)
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.age_years == 8 - (not day)
    _records(home, "patient", {"resourceType": "Patient", "id": "HOSP|1234", "birthDate": f"{year - 30}-01-01"})
    ward.tell(adt("A08", _pid('""'), bed, at=_ago(0.5)))
    (home / "care.db").unlink()
    rebuild_online_store(ward.settings)
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.age_years == 38, "the patient's own record counts first, and no admission message deletes from it"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_later_record_without_birth_date_and_sex_leaves_what_was_known(home: Path, order: tuple[int, int]) -> None:
    _records(home, "encounter", _stay_of())
    day = f"{clock.now().year - 8}-01-01"
    bare = {"resourceType": "Patient", "id": "p-1", "meta": {"versionId": "2"}}
    versions = [_person(day) | {"meta": {"versionId": "1"}}, bare]
    for i in order:
        token = _records(home, "patient", versions[i]).rows["patient_id"][0].as_py()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert (stay.age_years, stay.sex) == (8, "female")
    if order == (0, 1):
        (home / "care.db").unlink()
        _records(home, "encounter", _stay_of())
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.age_years == 8, "nor in the vault"


def test_a_child_without_a_stay_is_known_as_one(home: Path) -> None:
    _records(home, "patient", _person(f"{clock.now().year - 8}-01-01"))
    outcome = _run(_steps(home), [message(1, effectiveDateTime=_at(5), subject={"reference": "Patient/p-1"})])
    token, store = outcome.rows["patient_id"][0].as_py(), _store(home)
    assert store.facts.stay(token, as_of_us=clock.now_us()) is None
    age = store.facts.age(token, as_of_us=clock.now_us())
    assert age == 8
    assert situation_of({}, age_years=age, pregnant=False).withheld == "child"
    chart = _charted(home, token)
    assert (chart.record.news2.withheld, chart.age_years) == ("child", 8)
    assert not [note for note in notes(chart) if "age unknown" in note.text]


@pytest.mark.parametrize("first", ["condition", "encounter"])
def test_a_pregnancy_told_before_its_stay_is_known_in_it(home: Path, first: str) -> None:
    """It was stored, and then deleted like the facts of patients who are not on the ward."""
    pregnant = {
        "resourceType": "Condition", "id": "c-1", "subject": {"reference": "Patient/p-1"},
        "encounter": {"reference": "Encounter/e-1"}, "recordedDate": _at(60),
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "77386006"}]},
    }  # fmt: skip
    told = {"condition": pregnant, "encounter": _stay_of()}
    for dataset in sorted(told, key=lambda one: one != first):
        outcome = _records(home, dataset, told[dataset])
        _store(home).prune()
    assert not outcome.rejects
    stay = _store(home).facts.stay(outcome.rows["patient_id"][0].as_py(), as_of_us=clock.now_us())
    assert stay is not None
    assert stay.pregnant


# -- decisions and the names of a stay -------------------------------------------------------------------------------


def _pregnancy(code: str = "77386006", **elements: Any) -> dict[str, Any]:
    resource = {
        "resourceType": "Condition", "id": "c-1", "subject": {"reference": "Patient/p-1"},
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": code}]},
        "encounter": {"reference": "Encounter/e-1"}, "recordedDate": _at(60), "meta": {"versionId": "1"},
    }  # fmt: skip
    return {name: value for name, value in (resource | elements).items() if value is not None}


def _status(code: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": code}]}


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
        ({"encounter": None, "recordedDate": None, "clinicalStatus": _status("active")}, True),
        ({"encounter": None, "recordedDate": f"{_day(400)}T10:00:00Z"}, False),
        ({"clinicalStatus": _status("resolved"), "abatementDateTime": _day(90)}, False),
        ({"clinicalStatus": _status("inactive")}, False),
        ({"clinicalStatus": "active"}, True),
        ({"clinicalStatus": "resolved"}, False),
        ({"clinicalStatus": [7], "abatementDateTime": {}}, True),
        ({"verificationStatus": "entered-in-error"}, False),
        ({"abatementDateTime": _day(2)}, False),
        ({"abatementDateTime": _day(40)[:7]}, False),
        ({"abatementDateTime": _day(-30)}, True),
        ({"encounter": None, "clinicalStatus": _status("remission")}, False),
        ({"verificationStatus": _status("refuted")}, False),
    ],
)
def test_a_pregnancy_is_known_as_far_as_its_diagnosis_can_be_used(
    home: Path, elements: dict[str, Any], pregnant: bool, stay: bool
) -> None:
    """One of ten years ago withheld the score; one without an Encounter was a dead letter, and she was "0 low"."""
    if stay:
        _records(home, "encounter", _stay_of())
    told = {"effectiveDateTime": _at(5), "subject": {"reference": "Patient/p-1"}}
    token = _run(_steps(home), [message(1, **told)]).rows["patient_id"][0].as_py()
    _records(home, "condition", _pregnancy(**elements))
    chart = _charted(home, token)
    assert (chart.pregnant, chart.record.news2.withheld) == (pregnant, "pregnancy" if pregnant else "")


@pytest.mark.parametrize("encounter", [{"reference": "Encounter/e-1"}, None])
@pytest.mark.parametrize(
    "later",
    [
        {"verificationStatus": _status("refuted")},
        {"verificationStatus": _status("entered-in-error")},
        {"clinicalStatus": _status("resolved")},
    ],
)
def test_a_pregnancy_is_taken_back_and_another_one_stays(
    home: Path, later: dict[str, Any], encounter: dict[str, Any] | None
) -> None:
    _records(home, "encounter", _stay_of())
    told = _pregnancy(encounter=encounter)
    token = _records(home, "condition", _pregnancy()).rows["patient_id"][0].as_py()
    seen = [told, told | later | {"meta": {"versionId": "2"}}, _pregnancy("48194001", id="c-2", encounter=encounter)]
    seen += [_pregnancy() | {"verificationStatus": _status("refuted"), "meta": {"versionId": "3"}}, told]
    found = []
    for one in seen:
        _records(home, "condition", one)
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        found.append(stay.pregnant)
    assert found == [True, False, True, True, True]


_ERROR = {"verificationStatus": _status("entered-in-error")}
_PAST = {"clinicalStatus": _status("resolved")}
_NO_CODE = {"code": {"text": "pregnant"}}


_Told = tuple[str | None, int, dict[str, Any]]
_TWINS, _FEVER = {"code": _pregnancy("16356006")["code"]}, {"code": _pregnancy("386661006")["code"]}
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
    stays = [_stay_of() | {"id": f"e-{i}"} | subject for i, subject in enumerate(whose)]
    tokens = _records(home, "encounter", *stays).rows["patient_id"].to_pylist()
    resources = [
        [
            _pregnancy(id=id_ and f"{id_}.{i}", meta={"versionId": str(version)})
            | {"encounter": {"reference": f"Encounter/e-{i}"}}
            | subject
            | elements
            for id_, version, elements in told
        ]
        for i, (subject, (told, _)) in enumerate(zip(whose, _SAID, strict=True))
    ]
    found = dict[str, list[bool]]()
    for several in [chain(*resources)] if at_once else zip_longest(*resources):
        _records(home, "condition", *filter(None, several))
        store = _store(home)
        for token in tokens:
            stay = store.facts.stay(token, as_of_us=clock.now_us())
            assert stay is not None
            found.setdefault(token, []).append(stay.pregnant)
    expected = [said[-1:] if at_once else (said + 3 * said[-1:])[:4] for _, said in _SAID]
    assert [found[token] for token in tokens] == expected


def test_what_is_filled_in_of_a_diagnosis_does_not_stand_beside_it_nor_end_another(home: Path) -> None:
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.send("encounter", [(clock.now(), [json.dumps(_stay_of()).encode()])])
    found = []
    for version, elements in enumerate([{}, _TWINS, _TWINS | _PAST], start=1):
        told = _pregnancy(meta={"versionId": str(version)}) | elements
        ward.send("condition", [(clock.now(), [json.dumps(told).encode()])])
        rebuild_online_store(ward.settings)
        (token,) = _store(home).patients.revisions()
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        found.append(stay.pregnant)
    assert found == [True, True, False]


def test_a_store_that_is_filled_again_does_not_bring_back_what_was_resolved(home: Path) -> None:
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.send("encounter", [(clock.now(), [json.dumps(_stay_of()).encode()])])
    over = _pregnancy(clinicalStatus=_status("resolved"))
    ward.send("condition", [(clock.now(), [json.dumps(_pregnancy(meta=None)).encode(), json.dumps(over).encode()])])
    rebuild_online_store(ward.settings)
    (token,) = _store(home).patients.revisions()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert not stay.pregnant


def _decided(home: Path, token: str, encounter: str, *, minutes_ago: int = 0) -> None:
    at_us = clock.now_us() - minutes_ago * 60_000_000
    decision = Decision("pregnancy", True, encounter, "somebody", at_us, "test-or-scan")
    _store(home).put_facts([(token, decision.kind, decision.at_us, decision)])


def _decisions(home: Path, token: str) -> list[str]:
    store = _store(home)
    stay = store.facts.stay(token, as_of_us=clock.now_us())
    return [*store.facts.decisions(token, encounter=stay.encounter if stay else "")]


def test_what_was_decided_before_the_stay_was_known_holds_for_it_and_not_for_the_next(home: Path) -> None:
    outcome = _run(_steps(home), [message(1, effectiveDateTime=_at(5), subject={"reference": "Patient/p-1"})])
    token = outcome.rows["patient_id"][0].as_py()
    _decided(home, token, "", minutes_ago=100)
    assert _decisions(home, token) == ["pregnancy"]
    _records(home, "encounter", _stay_of())
    assert _decisions(home, token) == ["pregnancy"], "it was the stay in which it was decided"
    ended = _stay_of() | {
        "period": {"start": _at(120), "end": _at(60)},
        "status": "finished",
        "meta": {"versionId": "2"},
    }
    _records(home, "encounter", ended)
    assert _decisions(home, token) == ["pregnancy"]
    _records(home, "encounter", _stay_of() | {"id": "e-2", "period": {"start": _at(30)}})
    assert _decisions(home, token) == []


@pytest.mark.parametrize("ends", [20, 35])
def test_what_is_known_of_a_department_holds_while_the_hospital_stay_lasts(home: Path, ends: int) -> None:
    """A transfer within the hospital ended scale 2 and a pregnancy silently: 5 medium became 2 low."""
    facility = _stay_of() | {"id": "facility"}
    first = _stay_of() | {"id": "d-1", "period": {"start": _at(110)}}
    _records(home, "encounter", facility, first)
    token = _records(home, "encounter", first).rows["patient_id"][0].as_py()
    diagnosis = {
        "resourceType": "Condition", "id": "c-1", "encounter": {"reference": "Encounter/d-1"}, "recordedDate": _at(60),
        "subject": {"reference": "Patient/p-1"},
        "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "O14.1"}]},
    }  # fmt: skip
    _records(home, "condition", diagnosis)
    store = _store(home)
    stay = store.facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    _decided(home, token, stay.encounter, minutes_ago=30)
    left = first | {"status": "finished", "period": {"start": _at(110), "end": _at(ends)}, "meta": {"versionId": "2"}}
    _records(home, "encounter", left, _stay_of() | {"id": "d-2", "period": {"start": _at(10)}})
    after = store.facts.stay(token, as_of_us=clock.now_us())
    assert after is not None and after.encounter != stay.encounter
    assert after.pregnant
    assert _decisions(home, token) == ["pregnancy"]
    _records(home, "encounter", facility | {"status": "finished", "period": {"start": _at(120), "end": _at(31)}})
    after = store.facts.stay(token, as_of_us=clock.now_us())
    assert after is not None
    assert (after.pregnant, _decisions(home, token)) == (ends == 20, ["pregnancy"] if ends == 20 else [])


@pytest.mark.parametrize(("minutes", "kept"), [(0, ["pregnancy"]), (14, ["pregnancy"]), (16, [])])
def test_who_is_admitted_from_the_emergency_department_keeps_what_was_decided_there(
    home: Path, minutes: int, kept: list[str]
) -> None:
    there = _stay_of() | {"id": "ed", "period": {"start": _at(120), "end": _at(40)}, "status": "finished"}
    token = _records(home, "encounter", there).rows["patient_id"][0].as_py()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    _decided(home, token, stay.encounter, minutes_ago=60)
    _records(home, "encounter", _stay_of() | {"period": {"start": _at(40 - minutes)}})
    assert _decisions(home, token) == kept


@pytest.mark.parametrize(("end", "kept"), [("A03", []), ("A02", ["pregnancy"])])
def test_a_visit_without_a_number_ends_what_was_decided_in_it(home: Path, end: str, kept: list[str]) -> None:
    """No stay has a name then, and decisions made in one applied to the next."""
    pid, bed = "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A"
    other = "PV1|1|I|4W^12^B|||4W^12^A"
    messages: list[bytes | None] = [adt("A01", pid, bed, at=_ago(5))]
    token = _admissions(home, messages).rows["patient_id"][0].as_py()
    _decided(home, token, "", minutes_ago=240)
    messages += [adt(end, pid, bed if end == "A03" else other, at=_ago(3)), adt("A01", pid, bed, at=_ago(2))]
    _admissions(home, messages)
    assert _decisions(home, token) == kept


@pytest.mark.parametrize(
    ("left", "decided", "kept"), [(None, 0, ["pregnancy"]), (3.0, 240, []), (3.0, 60, ["pregnancy"])]
)
def test_what_was_decided_for_a_visit_holds_for_the_encounter_that_is_the_same_stay(
    home: Path, left: float | None, decided: int, kept: list[str]
) -> None:
    """Also if the visit had ended before without a message: the decision belongs to the stay of its time."""
    pid, bed = "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A||||||||||||||||V-1"
    messages: list[bytes | None] = [adt("A01", pid, bed, at=_ago(5))]
    token = _admissions(home, messages).rows["patient_id"][0].as_py()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.encounter
    _decided(home, token, stay.encounter, minutes_ago=decided)
    assert _decisions(home, token) == ["pregnancy"]
    if left is not None:
        _admissions(home, [*messages, adt("A03", pid, bed, at=_ago(left))])
    _records(home, "encounter", _stay_of())
    known = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert known is not None
    assert known.encounter != stay.encounter
    assert _decisions(home, token) == kept


def test_of_two_sensors_without_identifiers_the_worse_one_counts(home: Path) -> None:
    """Both readings have the same id, and the one that came first hid the other."""
    at = _at(5)
    of = _coded("59408-5", 97.0, "%"), _coded("59408-5", 84.0, "%")
    both = [
        message(i, identifier=None, meta=None, effectiveDateTime=at, device={"reference": f"Device/{i}"}, **said)
        for i, said in enumerate(of)
    ]
    outcome = _run(_steps(home), [*both])
    score = _score(home, outcome)
    assert (score.latest["oxygen_saturation"].value, score.parts["oxygen_saturation"]) == (84.0, 3)


def test_the_bed_of_tomorrow_does_not_hide_that_of_today(home: Path) -> None:
    system = "http://terminology.hl7.org/CodeSystem/location-physical-type"

    def bed(name: str, **period: str) -> dict[str, Any]:
        kind = {"coding": [{"system": system, "code": "bd"}]}
        return {"location": {"display": name}, "status": "active", "physicalType": kind, "period": period}

    places = [bed("today", start=_at(60), end=_at(-600)), bed("tomorrow", start=_at(-1200)), bed("before", end=_at(60))]
    token = _records(home, "encounter", _stay_of() | {"location": places}).rows["patient_id"][0].as_py()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert stay.bed == "today"


@pytest.mark.parametrize("dataset", ["observation", "encounter", "patient", "ward_movement", "device_association"])
def test_the_lane_of_each_dataset_that_the_ward_shows_says_that_it_lives(home: Path, dataset: str) -> None:
    """A killed lane of admissions was not reported."""
    steps = Steps(load_settings(home), StreamSettings(), load_dataset(dataset))
    assert steps.online_feed is not None
    steps.online_feed.beat("job/0of1")
    steps.close()
    assert [*_store(home).lanes.beats()] == ["job/0of1"]


# -- devices that know no patient, and signs that there is no value --------------------------------------------------


def _told_of_bed(ward: Bedside, *results: str, seconds: float) -> bytes:
    at = hl7_time(ward.at(seconds))
    msh = MSH.replace("20250601100001+0200", at)
    return oru(*results, msh=msh, pid="PID|1", pv1="PV1|1|I|4W^12^A", obr=f"OBR|1||F-{seconds}^MON|VITALS|||{at}")


def test_a_message_that_cannot_be_decoded_is_counted_at_the_patient_in_whose_bed_it_was_made(home: Path) -> None:
    """It named no patient and so left no mark: a normal rate stayed while the monitor sent dashes."""
    ward = Bedside(home)
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    ward.stream([_told_of_bed(ward, obx(value="72"), seconds=10)], name="hl7-v2")
    assert len(_store(home).history(ward.token("p-1")).measured()) == 1
    outcome = ward.stream([_told_of_bed(ward, obx(value="---"), seconds=20)], name="hl7-v2")
    assert [reject.rows for reject in outcome.rejects] == [0]
    history = _store(home).history(ward.token("p-1"))
    assert int((history.code == REFUSED).sum()) == 1


def test_what_is_of_who_lies_in_a_bed_also_says_when_it_came(home: Path) -> None:
    """Values of a monitoring system that names only the bed, and whose clock is behind, seemed to be in time."""
    ward = Bedside(home)
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    ward.stream([_told_of_bed(ward, obx(value="0"), seconds=10)], name="hl7-v2")
    history = _store(home).history(ward.token("p-1"))
    assert (history.available_us - history.effective_us).min() > 9 * 60_000_000
    assert [event.came_us > event.at_us for event in news2(history, as_of_us=clock.now_us()).events] == [True]


def test_a_store_that_is_filled_again_takes_for_when_values_came_when_we_took_them_in() -> None:
    came = [clock.now_us() // 1000 * 1000 - ago for ago in (0, 7_000_000)]
    rows = pa.table({"ingested_at": pa.array(came, pa.timestamp("us", "UTC"))})
    outcome = filled_again(rows, PartId("fill", "0123456789abcdefghijkl", 0), 5)
    assert (1000 * outcome.poll.broker_ms).tolist() == came
    assert outcome.poll.ours is not None and outcome.poll.ours.all()


def _monitor(ward: Bedside, seconds: float, value: float) -> bytes:
    return flat(seq=int(seconds), taken=ward.at(seconds).isoformat(), hr=value, spo2=None, nibp=None)


def _gateway(ward: Bedside, seconds: float, value: float) -> bytes:
    at = int(ward.at(seconds).timestamp() * 1000)
    said = "--" if value < 0 else str(value)
    return readings({"id": f"r{seconds}", "value": said, "at": at}, device={"id": "bed-1"})


@pytest.mark.parametrize(("name", "made"), [("bedside-monitor", _monitor), ("gateway-readings", _gateway)])
def test_a_sign_that_there_is_no_value_ends_the_one_before_and_is_no_row(home: Path, name: str, made: Any) -> None:
    """A probe that came off left its last value on the board, because the device reports that by a number."""
    ward = Bedside(home)
    ward.associate("bed-1", "p-1", 0)
    outcome = ward.stream([made(ward, 60, 72)], name=f"flat:{name}")
    assert _score(home, outcome).parts["pulse"] == 0
    ended = ward.stream([made(ward, 90, -1)], name=f"flat:{name}")
    assert (ended.rows.num_rows, len(ended.rejects)) == (0, 0)
    score = _score(home, outcome)
    assert (score.parts["pulse"], score.ended["pulse"].kind) == (None, "none")
    assert not (_history(home, outcome).code == REFUSED).any(), "no message was refused"
    ward.stream([made(ward, 120, 80)], name=f"flat:{name}")
    assert _score(home, outcome).parts["pulse"] == 0


def test_what_was_refused_before_anybody_was_known_in_the_bed_is_told_when_somebody_is(home: Path) -> None:
    """The valid values that were held came, and the rejected ones of the same device were lost."""
    ward = Bedside(home)
    steps = ward.steps()
    first = [_told_of_bed(ward, obx(value=value), seconds=i + 10) for i, value in enumerate(("72", "500", "---"))]
    ward.stream(first, steps=steps, name="hl7-v2")
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    assert steps.attributor is not None
    steps.attributor.associations.look(now=True)
    for seconds in (20, 30):
        last = _told_of_bed(ward, obx(code="59408-5^S^LN", value="97", unit="%^^UCUM"), seconds=seconds)
        ward.stream([last], steps=steps, name="hl7-v2")
    steps.close()
    history = _store(home).history(ward.token("p-1"))
    assert int((history.code == REFUSED).sum()) == 2, "each once, and not again"
    score = news2(history, as_of_us=clock.now_us())
    assert (score.parts["pulse"], score.ended["pulse"].kind) == (None, "none"), "the last one could not be decoded"


@pytest.mark.parametrize(("status", "pulse"), [("X", None), ("N", 0)])
def test_a_result_that_could_not_be_had_ends_the_one_before(home: Path, status: str, pulse: int | None) -> None:
    """OBX-11 X means that there was no rate to be had, but the rate before stayed; N means that none was asked for."""
    ward = Bedside(home)
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    ward.stream([_told_of_bed(ward, obx(value="72"), seconds=10)], name="hl7-v2")
    ward.stream([_told_of_bed(ward, obx(value="135", status=status), seconds=20)], name="hl7-v2")
    score = news2(_store(home).history(ward.token("p-1")), as_of_us=clock.now_us())
    assert score.parts["pulse"] == pulse
    assert bool(score.ended) == (pulse is None)


# -- whose clock is ahead, and what is planned -----------------------------------------------------------------------


def _adt(event: str, place: str, at: float, *, said: str = "", prior: str = "", end: str = "") -> bytes:
    """Return a message of visit V-1, a number of hours ago, with given times of admission and end."""
    pv1 = f"PV1|1|I|{place}|||{prior}" + "|" * 13 + "V-1" + "|" * 25 + f"{said}|{end}"
    return adt(event, "PID|1||p-1^^^^MR", pv1, at=_ago(at))


def _lies(home: Path, token: str, *, in_minutes: float = 0) -> tuple[str, str, bool]:
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us() + int(in_minutes * 60_000_000))
    return ("", "", False) if stay is None else (stay.unit, stay.bed, stay.discharged_us is None)


def test_an_admission_to_the_wrong_bed_is_corrected(home: Path) -> None:
    said = _ago(2)
    admitted, corrected = _adt("A01", "4W^5^B", 2, said=said), _adt("A08", "4W^5^A", 1, said=said)
    token = _admissions(home, [admitted, corrected]).rows["patient_id"][0].as_py()
    assert _lies(home, token) == ("4W", "5 A", True)


def test_who_is_admitted_is_there_whatever_time_the_message_says(home: Path) -> None:
    """With a planned time two hours ahead, or a clock on summer time, a patient in arrest was not on the board."""
    said = _ago(-2)
    messages: list[bytes | None] = [_adt("A01", "4W^12^A", -2, said=said)]
    token = _admissions(home, messages).rows["patient_id"][0].as_py()
    assert _lies(home, token) == ("4W", "12 A", True)
    messages.append(_adt("A02", "ICU^1^2", -2, prior="4W^12^A"))
    _admissions(home, messages)
    assert _lies(home, token) == ("ICU", "1 2", True)
    _admissions(home, [*messages, _adt("A08", "4W^12^A", -2, said=said)])
    assert _lies(home, token) == ("ICU", "1 2", True), "told again it began when it did"
    _admissions(home, [*messages, _adt("A03", "ICU^1^2", -2, end=_ago(-2))])
    assert _lies(home, token)[2] is False


@pytest.mark.parametrize("hours", [1, 5])
def test_a_stay_in_progress_has_begun_and_goes_on_whatever_its_period_says(home: Path, hours: int) -> None:
    """Its start lay an hour ahead, or its planned end had passed: the patient was not on the board."""
    ahead = _stay_of() | {"period": {"start": _at(-60 * hours)}}
    token = _records(home, "encounter", ahead).rows["patient_id"][0].as_py()
    first = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert first is not None and first.discharged_us is None
    _records(home, "encounter", ahead | {"meta": {"versionId": "2"}})
    again = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert again is not None and again.admitted_us == first.admitted_us
    planned = _stay_of() | {"period": {"start": _at(600), "end": _at(60 * hours)}, "meta": {"versionId": "3"}}
    _records(home, "encounter", planned)
    assert _lies(home, token)[2]
    _records(home, "encounter", planned | {"status": "finished", "meta": {"versionId": "4"}})
    over = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert over is not None and over.discharged_us is not None


def _from(
    kind: str, name: str, *, since: float | None = None, until: float | None = None, **more: Any
) -> dict[str, Any]:
    """Return a place with its beginning and end, in minutes from now."""
    said = {name: _at(-minutes) for name, minutes in (("start", since), ("end", until)) if minutes is not None}
    return _place(kind, name) | {"period": said} | more


@pytest.mark.parametrize(
    ("places", "now", "then"),
    [
        ([_from("wa", "4W"), _from("bd", "12", until=20), _from("bd", "28", since=20)], ("4W", "12"), ("4W", "28")),
        (
            [_from("wa", "4W", until=20), _from("bd", "13", until=20), _from("wa", "ICU", since=20),
             _from("bd", "1", since=20)], ("4W", "13"), ("ICU", "1"),
        ),
        ([_from("wa", "4W"), _from("bd", "28", since=20, status=None)], ("4W", ""), ("4W", "28")),
        ([_from("bd", "28", since=20, status=None)], ("", ""), ("", "28")),
        ([_from("bd", "11", until=20), _from("ro", "OR", since=20)], ("", "11"), ("", "")),
        # What is active and lies ahead is of now where nothing else is: the sender's clock is ahead.
        (
            [_from("wa", "4W"), _from("bd", "11", until=20, status="completed"), _from("bd", "27", since=20)],
            ("4W", "27"), ("4W", "27"),
        ),
        ([_from("bd", "27", since=60)], ("", "27"), ("", "27")),
        ([_from("bd", "11", until=20), _from("wa", "ICU", since=20)], ("", "11"), ("ICU", "")),
        ([_from("wa", "4W"), _from("bd", "27", since=600)], ("4W", ""), ("4W", "")),
    ],
)  # fmt: skip
def test_a_bed_that_begins_ahead_of_our_clock_is_had_when_its_time_comes(
    home: Path, places: list[dict[str, Any]], now: tuple[str, str], then: tuple[str, str]
) -> None:
    """It was dropped for good: the board showed the old ward until the stay was sent again."""
    begun = {"period": {"start": _at(600)}}
    token = _records(home, "encounter", _stay_of() | begun | {"location": places}).rows["patient_id"][0].as_py()
    assert _lies(home, token) == (*now, True)
    assert _lies(home, token, in_minutes=45) == (*then, True)
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert now == then or stay.moves_us is not None, "the board looks again then"
    over = {"status": "finished", "period": {"start": _at(600), "end": _at(0)}, "meta": {"versionId": "2"}}
    _records(home, "encounter", _stay_of() | {"location": places} | over)
    assert _lies(home, token, in_minutes=45)[2] is False


def test_a_transfer_is_not_put_back_by_a_producer_whose_clock_is_behind(home: Path) -> None:
    """Processed after a pause, it counted as 66 minutes old, before the admission: the board showed the old bed."""
    of = _adt("A01", "MED^1^A", 0.5), _adt("A02", "ICU^1^2", 0.1, prior="MED^1^A")
    token = _admissions(home, [of[0]]).rows["patient_id"][0].as_py()
    _admissions(home, [of[1]], minutes_behind=60)
    assert _lies(home, token) == ("ICU", "1 2", True)
    _admissions(home, [_adt("A03", "ICU^1^2", 0.05)], minutes_behind=60)
    assert _lies(home, token)[2] is False


def _filled(ward: Bedside, *, anew: bool) -> OnlineStore:
    if anew:
        (ward.settings.home / "care.db").unlink()
    rebuild_online_store(ward.settings)
    return _store(ward.settings.home)


@pytest.mark.parametrize("anew", [False, True])
def test_a_filling_discharges_nobody_whose_end_is_planned(
    home: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    """The lake does not know that the stay goes on: its end of tomorrow was clamped to when its row came."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    stay = _stay_of() | {"period": {"start": _at(120), "end": _at(-24 * 60)}}
    ward.send("encounter", [(clock.now(), [json.dumps(stay).encode()])])
    (token,) = _store(home).patients.revisions()
    _filled(ward, anew=anew)
    assert _lies(home, token)[2]
    assert _lies(home, token, in_minutes=25 * 60)[2], "it goes on past its planned end"


@pytest.mark.parametrize("hours", [1, -0.01, -0.5])
def test_a_filling_replaces_no_fact_of_the_same_version(home: Path, hours: float) -> None:
    """A discharge became only a bed that was left, and the stay went on; also if the sender's clock is ahead."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.tell(_adt("A01", "MED^1^A", 2), _adt("A03", "MED^1^A", hours, end=_ago(1)))
    (token,) = _store(home).patients.revisions()
    assert _lies(home, token)[2] is False
    _filled(ward, anew=False)
    assert _lies(home, token)[2] is False


def test_a_filling_takes_no_older_version_for_its_own(home: Path) -> None:
    """The lake does not say that a stay without an end is over: discharged patients were back on the board."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    for version, status in (("1", "in-progress"), ("2", "finished")):
        stay = _stay_of() | {"status": status, "period": {"start": _at(120)}, "meta": {"versionId": version}}
        ward.send("encounter", [(clock.now(), [json.dumps(stay).encode()])])
    ward.tell(_adt("A01", "MED", 2).replace(b"p-1", b"p-2"), _adt("A03", "MED", 1).replace(b"p-1", b"p-2"))
    tokens = _store(home).patients.revisions()
    before = {token: _store(home).facts.stay(token, as_of_us=clock.now_us()) for token in tokens}
    assert all(stay is not None and stay.discharged_us is not None for stay in before.values())
    for _ in range(2):
        _filled(ward, anew=False)
        assert {token: _store(home).facts.stay(token, as_of_us=clock.now_us()) for token in tokens} == before


@pytest.mark.parametrize("anew", [False, True])
def test_a_filling_ends_a_stay_of_a_sender_without_versions(home: Path, anew: bool) -> None:
    """All versions are the same: the first row of the filling stayed, and discharged patients were on the board."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    is_open = {name: value for name, value in _stay_of().items() if name != "meta"}
    over = is_open | {"status": "finished", "period": {"start": _at(120), "end": _at(10)}}
    for minutes, stay in ((60, is_open), (9, over)):
        ward.send("encounter", [(clock.now() - timedelta(minutes=minutes), [json.dumps(stay).encode()])])
    (token,) = _store(home).patients.revisions()
    assert _lies(home, token)[2] is False
    _filled(ward, anew=anew)
    assert _lies(home, token)[2] is False


def test_a_filling_tells_the_ward_again_what_the_lake_cannot_take(home: Path) -> None:
    """The old bed came back without a mark, and a pregnant patient got an adult's score."""
    topics = {"device_association": "adt: hl7-v2", "condition": "conditions: fhir"}
    jobs = [f"  {job[:6]}: {{dataset: {job}, topics: {{{topic}}}}}" for job, topic in topics.items()]
    (home / "vitalake.yaml").write_text("\n".join(["jobs:", *jobs, ""]))
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.tell(_adt("A01", "MED^1^A", 2), _adt("A02", "SURG^9^B", 1), refused=1)
    no_stay = _pregnancy(encounter=None)
    ward.send("condition", [(clock.now(), [json.dumps(no_stay).encode()])], refused=1)
    (token,) = _store(home).patients.revisions()

    def seen() -> tuple[tuple[str, str, bool], bool]:
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        return _lies(home, token), stay is not None and stay.pregnant

    before = seen()
    assert before == (("SURG", "9 B", True), True)
    for anew in (False, True):
        _filled(ward, anew=anew)
        assert seen() == before


@pytest.mark.parametrize("meta", [{}, {"meta": {"versionId": "1"}}])
def test_a_filling_takes_what_was_sent_again_for_no_news(home: Path, meta: dict[str, Any]) -> None:
    """The lake's row became known later, and replaced the store's fact, which also says that the stay goes on."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    planned = _stay_of() | {"period": {"start": _at(300), "end": _at(45)}} | meta
    for minutes in (60, 30):
        ward.send("encounter", [(clock.now() - timedelta(minutes=minutes), [json.dumps(planned).encode()])])
    gone = [_adt("A01", "MED^1^A", 5), _adt("A03", "MED^1^A", 3)]
    gone.append(gone[1].replace(b"|" + _ago(3).encode() + b"||ADT", b"|" + _ago(1).encode() + b"||ADT"))
    ward.tell(*[one.replace(b"p-1", b"p-2").replace(b"V-1", b"V-2") for one in gone])
    over = json.dumps(_stay_of("p-3") | {"id": "e-3", "status": "finished", "period": {"start": _at(300)}} | meta)
    ward.send("encounter", [(clock.now() - timedelta(minutes=85), [over.encode()] * 2)])
    tokens = _store(home).patients.revisions()
    before = {token: _lies(home, token)[2] for token in tokens}
    assert sorted(before.values()) == [False, False, True]
    _filled(ward, anew=False)
    assert {token: _lies(home, token)[2] for token in tokens} == before


def test_a_filling_that_is_broken_off_leaves_a_store_that_says_it_lacks_something(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the patients had no value, and the health page reported no problem."""
    ward = Bedside(home)
    ward.send("encounter", [(clock.now(), [json.dumps(_stay_of()).encode()])])
    ward.stream([ward.oru_of("p-1", 10, "72")], name="hl7-v2")
    (home / "care.db").unlink()
    read = care_rewrite._batches

    def breaks_off(lake: Lake, since_us: int) -> Iterator[pa.Table]:
        for batch in read(lake, since_us):
            yield batch
            raise KeyboardInterrupt

    for _ in range(2):  # the second one has deleted what the first brought
        with monkeypatch.context() as patch:
            patch.setattr(care_rewrite, "_batches", breaks_off)
            with pytest.raises(KeyboardInterrupt):
                rebuild_online_store(ward.settings)
        assert _store(home).patients.revisions()
        assert _store(home).completeness.incomplete_since_us() > 0
        rebuild_online_store(ward.settings)
        assert _store(home).completeness.incomplete_since_us() == 0


def test_a_filling_begins_again_where_an_erasure_has_deleted_the_file_that_it_reads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended with "This is a bug", and left half of a store."""
    ward = Bedside(home)
    ward.stream([ward.oru_of("p-1", 10, "72")], name="hl7-v2")
    ward.stream([ward.oru_of("p-1", 20, "74")], name="hl7-v2")
    token, gone = ward.token("p-1"), [True]

    def vanishes(table: Table, file: StagedFile) -> Iterator[pa.Table]:
        yield from read_file(table, file)
        if gone:
            gone.pop()
            raise FileNotFoundError(file.path)

    monkeypatch.setattr(care_rewrite, "read_file", vanishes)
    (home / "care.db").unlink()
    assert rebuild_online_store(ward.settings) == 2
    assert len(_store(home).history(token).measured()) == 2


@pytest.mark.parametrize("anew", [False, True])
def test_a_filling_marks_whose_last_message_was_refused_where_only_results_tell_of_them(
    home: Path, *, anew: bool
) -> None:
    """Dead letters were read before the values: for patients not in the store yet the last normal value was shown."""
    (home / "vitalake.yaml").write_text("jobs: {vitals: {dataset: observation, topics: {vitals: hl7-v2}}}\n")
    ward = Bedside(home)
    for second, value in ((10, "72"), (20, "---")):
        ward.stream([ward.oru_of("p-1", second, value)], name="hl7-v2")
    token = ward.token("p-1")

    def seen() -> tuple[int, int]:
        history = _store(home).history(token)
        return len(history.measured()), int((history.code == REFUSED).sum())

    before = seen()
    assert before[1] == 1
    _filled(ward, anew=anew)
    assert seen() == before


@pytest.mark.parametrize("over_first", [True, False])
def test_a_filling_lets_what_was_accepted_count_more_than_what_was_rejected(home: Path, *, over_first: bool) -> None:
    """All versions of a sender without versions are the same, and the dead letter was read last."""
    (home / "vitalake.yaml").write_text("jobs: {c: {dataset: condition, topics: {conditions: fhir}}}\n")
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.send("encounter", [(clock.now(), [json.dumps(_stay_of()).encode()])])
    (token,) = _store(home).patients.revisions()
    rejected, accepted = ({"clinicalStatus": _status("inactive")}, {})[:: 1 if over_first else -1]
    for refused, said in ((1, rejected | {"encounter": None}), (0, accepted)):
        payload = json.dumps(_pregnancy(**said) | {"meta": None}).encode()
        ward.send("condition", [(clock.now(), [payload])], refused=refused)
    for _ in range(2):
        stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.pregnant is over_first
        _filled(ward, anew=False)


def test_a_status_that_says_nothing_ends_no_stay_before_its_end(home: Path) -> None:
    """An end ahead of our clock was clamped to it, although it is an end only if the stay is over."""
    stay = _stay_of() | {"status": "unknown", "period": {"start": _at(120), "end": _at(-60)}}
    token = _records(home, "encounter", stay).rows["patient_id"][0].as_py()
    assert [_lies(home, token, in_minutes=minutes)[2] for minutes in (0, 61)] == [True, False]


# -- places without a bed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["V-1", ""])
def test_who_is_admitted_to_a_ward_without_a_bed_is_there(home: Path, number: str) -> None:
    """The whole message was dropped: the patient was not on the board, and with values had neither place nor age."""
    of = [
        _adt("A01", "MED", 5), _adt("A02", "MED^1^A", 4, prior="MED"), _adt("A02", "OR^^", 3, prior="MED^1^A"),
        _adt("A03", "OR^^", 1),
    ]  # fmt: skip
    messages: list[bytes | None] = [one.replace(b"V-1", number.encode()) for one in of]
    seen = []
    for count in range(1, 5):
        token = _admissions(home, messages[:count]).rows["patient_id"][0].as_py()
        seen.append(_lies(home, token))
    assert seen == [("MED", "", True), ("MED", "1 A", True), ("OR", "", True), ("OR", "", False)]


@pytest.mark.parametrize("prior", ["", '""'])
def test_a_transfer_that_does_not_say_from_where_is_refused_and_shows_the_new_place(home: Path, prior: str) -> None:
    """The old bed stayed without a mark; accepted, the message would have left its monitor with the patient."""
    messages: list[bytes | None] = [_adt("A01", "MED^1^A", 5), _adt("A02", "ICU^1^2", 3, prior=prior)]
    outcome = _admissions(home, messages)
    assert [(reject.message, reject.reason) for reject in outcome.rejects] == [(1, Reason.WRONG_SHAPE)]
    assert outcome.rows.num_rows == 1, "the admission, and of the transfer nothing"
    token = outcome.rows["patient_id"][0].as_py()
    assert _lies(home, token) == ("ICU", "1 2", True)
    _admissions(home, [*messages, _adt("A03", "ICU^1^2", 1)])
    assert _lies(home, token)[2] is False


@pytest.mark.parametrize(
    ("event", "kind"),
    [("A04", "O"), ("A04", "R"), ("A08", "O"), ("A01", "O"), ("A02", "O"), ("A04", "B"), ("A08", "U")],
)
def test_a_visit_to_a_clinic_is_no_open_stay(home: Path, event: str, kind: str) -> None:
    """No message gives its end: it was open for ever, and decisions made in one stay applied to all later ones."""
    stays = [_adt("A01", "MED^1^A", 50), _adt("A03", "MED^1^A", 45), _adt("A01", "MED^1^B", 2).replace(b"V-1", b"V-2")]
    visit = _adt(event, "CARD^^", 52, said=_ago(52), prior="RAD^^" if event == "A02" else "")
    visit = visit.replace(b"V-1", b"O-1").replace(b"PV1|1|I", f"PV1|1|{kind}".encode())
    assert _admissions(home, [visit]).rows.num_rows == 0
    token = _admissions(home, [visit, *stays[:2]]).rows["patient_id"][0].as_py()
    assert _lies(home, token)[2] is False
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    _decided(home, token, stay.encounter, minutes_ago=48 * 60)
    _admissions(home, [visit, *stays])
    assert _lies(home, token) == ("MED", "1 B", True)
    assert _decisions(home, token) == []


def test_who_waits_in_the_emergency_department_without_a_bed_is_there(home: Path) -> None:
    told = _adt("A04", "ER^^", 2).replace(b"PV1|1|I", b"PV1|1|E")
    token = _admissions(home, [told]).rows["patient_id"][0].as_py()
    assert _lies(home, token) == ("ER", "", True)


@pytest.mark.parametrize(
    ("recorded", "ended", "number", "is_open"),
    [(1, 3.2, "V-1", False), (1, 3.2, "", False), (1, 2, "V-1", False), (4, 4, "V-1", True), (4, 4, "", True)],
)
def test_a_discharge_as_of_before_the_last_transfer_ends_the_stay_if_it_was_told_after(
    home: Path, recorded: float, ended: float, number: str, is_open: bool
) -> None:
    """Backdated, or by another clock, it ended nothing: discharged patients stayed on the board for ever."""
    of = [
        _adt("A01", "MED^1^A", 5), _adt("A02", "LOUNGE^1^1", 3, prior="MED^1^A"),
        _adt("A03", "LOUNGE^1^1" if recorded < 3 else "MED^1^A", recorded, end=_ago(ended)),
    ]  # fmt: skip
    messages: list[bytes | None] = [one.replace(b"V-1", number.encode()) for one in of]
    token = _admissions(home, messages).rows["patient_id"][0].as_py()
    assert _lies(home, token)[2] is is_open
    with closing(_store(home)) as store:
        store.prune()
    assert _lies(home, token)[2] is is_open


@pytest.mark.parametrize("hours", [1, 4])
def test_the_end_of_a_record_before_a_later_transfer_of_its_number_counts_if_it_was_told_after(
    home: Path, hours: int
) -> None:
    told = _adt("A01", "MED^1^A", 5), _adt("A02", "MED^1^B", 3, prior="MED^1^A")
    token = _admissions(home, [*told]).rows["patient_id"][0].as_py()
    over = {"id": "V-1", "status": "finished", "period": {"start": _at(300), "end": _at(190)}}
    _records(home, "encounter", _stay_of() | over | {"meta": {"lastUpdated": _at(60 * hours)}})
    assert _lies(home, token)[2] is (hours == 4)


@pytest.mark.parametrize(("days", "is_open"), [(365, True), (0, False)])
def test_a_discharge_before_anything_known_of_a_stay_ends_nothing(home: Path, days: int, is_open: bool) -> None:
    """With a wrong year it ended a stay known by transfers only: a patient in bed left the board."""
    told = _adt("A02", "MED^1^B", 5, prior="MED^1^A"), _adt("A03", "MED^1^B", 1, end=_ago(1 + 24 * days))
    token = _admissions(home, [*told]).rows["patient_id"][0].as_py()
    assert _lies(home, token)[2] is is_open


def test_of_a_transfer_and_a_discharge_of_one_second_the_discharge_counts(home: Path) -> None:
    told = _adt("A02", "LOUNGE^^", 1, prior="MED^1^A"), _adt("A03", "LOUNGE^^", 1, end=_ago(1.1))
    token = _admissions(home, [_adt("A01", "MED^1^A", 5), *told]).rows["patient_id"][0].as_py()
    assert _lies(home, token)[2] is False


def test_what_takes_back_a_discharge_takes_back_those_that_were_told_before_it(home: Path) -> None:
    """With another time than the discharge's it cancelled nothing; a valid, backdated discharge was cancelled, too."""
    there = _adt("A01", "MED^1^A", 5)
    wrong, back = _adt("A03", "MED^1^A", 3, end=_ago(3.1)), _adt("A13", "MED^1^A", 2, end=_ago(3.5))
    true = _adt("A03", "MED^1^A", 1, end=_ago(2.5))
    seen = []
    for messages in ([there, wrong], [there, wrong, back], [there, wrong, back, true], [there, true, back, wrong]):
        token = _admissions(home, [*messages]).rows["patient_id"][0].as_py()
        seen.append(_lies(home, token)[2])
    assert seen == [False, True, False, False]


@pytest.mark.parametrize("minutes", [3, 30])
def test_who_is_taken_back_within_the_second_of_their_discharge_is_there(home: Path, minutes: int) -> None:
    """The sender writes no seconds, or gives both messages the same time: a patient in bed was on no board."""
    there, wrong = _adt("A01", "MED^1^A", 5), _adt("A03", "MED^1^A", 1, end=_ago(1.01))
    back = _adt("A13", "MED^1^A", 1, end=_ago(1 + minutes / 60))
    for messages in permutations([there, wrong, back]):
        token = _admissions(home, [*messages]).rows["patient_id"][0].as_py()
        assert _lies(home, token)[2]


@pytest.mark.parametrize("back", [_adt("A13", "MED^1^A", 2, end=_ago(3.5)), _adt("A02", "MED^1^B", 2, prior="OR^1^1")])
def test_a_discharge_that_is_sent_again_takes_nobody_away_who_is_back(home: Path, back: bytes) -> None:
    """With a later MSH-7 it became known after the patient came back."""
    wrong = _adt("A03", "MED^1^A", 3, end=_ago(3.1))
    sent_at = _ago(3).encode()
    again = wrong.replace(b"|" + sent_at + b"||ADT", b"|" + _ago(1).encode() + b"||ADT")
    assert again != wrong
    token = _admissions(home, [_adt("A01", "MED^1^A", 5), wrong, back]).rows["patient_id"][0].as_py()
    before = _lies(home, token)
    assert before[2]
    _admissions(home, [again])
    assert _lies(home, token) == before
    _admissions(home, [_adt("A01", "MED^1^A", 5), wrong, back, again])
    assert _lies(home, token) == before, "read again, in one poll"


@pytest.mark.parametrize("at_once", [True, False])
def test_who_is_discharged_again_at_the_same_time_within_a_minute_is_gone(home: Path, at_once: bool) -> None:
    """Discharged, cancelled, discharged again with the same entered time: the second counted as the first."""
    end = _ago(1.1)
    told = [_adt("A01", "MED^1^A", 5)]
    for second, (event, time) in enumerate([("A03", end), ("A13", _ago(1.2)), ("A03", end)]):
        told.append(_adt(event, "MED^1^A", 1 - second * 20 / 3600, end=time))
    for messages in [told] if at_once else [told[:count] for count in range(1, 5)]:
        token = _admissions(home, [*messages]).rows["patient_id"][0].as_py()
    assert _lies(home, token)[2] is False


def test_a_discharge_without_number_or_time_that_was_none_brings_back_no_former_stay(home: Path) -> None:
    """Cancelling a discharge from a lounge cancelled all without a number: patients gone for days were back."""
    former = [_adt("A01", "MED^1^A", 50), _adt("A03", "MED^1^A", 40)]
    messages = [one.replace(b"V-1", b"") for one in (*former, _adt("A13", "LOUNGE^^", 1))]
    token = _admissions(home, [*messages]).rows["patient_id"][0].as_py()
    assert _lies(home, token)[2] is False


@pytest.mark.parametrize(("kind", "kept"), [("AMB", []), ("HH", []), ("IMP", ["pregnancy"])])
def test_a_series_of_visits_joins_no_stays(home: Path, kind: str, kept: list[str]) -> None:
    """Dialysis or care at home goes on for months: decisions made in one stay applied to the next."""
    series = _stay_of() | {"id": "series", "class": {"code": kind}, "period": {"start": _at(300 * 24 * 60)}}
    first = _stay_of() | {"id": "in-1", "period": {"start": _at(50 * 60)}}
    token = _records(home, "encounter", series, first).rows["patient_id"][0].as_py()
    stay = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    _decided(home, token, stay.encounter, minutes_ago=40 * 60)
    assert _decisions(home, token) == ["pregnancy"]
    over = {"status": "finished", "meta": {"versionId": "2"}, "period": {"start": _at(50 * 60), "end": _at(30 * 60)}}
    session = _stay_of() | {"id": "session", "class": {"code": "AMB"}, "period": {"start": _at(31 * 60)}}
    _records(home, "encounter", session)
    assert _decisions(home, token) == ["pregnancy"], "a session within the stay is part of it"
    _records(home, "encounter", first | over, _stay_of() | {"id": "in-2", "period": {"start": _at(120)}})
    after = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert after is not None and after.encounter != stay.encounter
    assert _decisions(home, token) == kept


class Hours:
    """Clocks of a ward that can be set: hours since it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set them to the first hour."""
        self.begin_us, self.now = clock.now_us() - 400 * 3_600_000_000, 0.1
        monkeypatch.setattr(clock, "now_us", lambda: self.begin_us + int(self.now * 3.6e9))
        monkeypatch.setattr(clock, "now", lambda: datetime.fromtimestamp(clock.now_us() / 1e6, UTC))

    def at(self, hour: float) -> str:
        """Return an hour as FHIR writes it."""
        return datetime.fromtimestamp(self.begin_us / 1e6 + hour * 3600, UTC).isoformat(timespec="seconds")

    def encounter(self, name: str, since: float, until: float | None = None) -> dict[str, Any]:
        """Return an Encounter that goes on, or its version that has ended."""
        end = {} if until is None else {"end": self.at(until)}
        said = {"status": "finished" if end else "in-progress", "meta": {"versionId": str(len(end) + 1)}}
        return _stay_of() | said | {"id": name, "period": {"start": self.at(since)} | end}


@pytest.mark.parametrize("by_messages", [False, True])
@pytest.mark.parametrize("hours", [6, 90])
def test_what_was_decided_in_a_visit_within_a_stay_ends_with_the_stay(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, by_messages: bool, hours: int
) -> None:
    """When the ended stay was deleted, its scale 2 came back in the next stay."""
    clocks = Hours(monkeypatch)
    clocks.now = 4.0
    told: list[bytes | None] = []

    def stay(number: int, since: float, until: float | None = None) -> None:
        if by_messages:
            message = _adt("A01" if until is None else "A03", "MED^1^A", clocks.now - (until or since))
            told.append(message.replace(b"V-1", b"V-%d" % number))
            _admissions(home, told)
        else:
            _records(home, "encounter", clocks.encounter(f"in-{number}", since, until))

    stay(1, 0)
    series = clocks.encounter("series", 2) | {"class": {"code": "AMB"}}
    token = _records(home, "encounter", series).rows["patient_id"][0].as_py()
    found = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    _decided(home, token, found.encounter)
    assert _decisions(home, token) == ["pregnancy"]
    clocks.now = 18
    stay(1, 0, 18)
    assert _decisions(home, token) == [], "the series goes on, and is another stay"
    for clocks.now in range(18, 19 + hours, 6):
        _store(home).prune()
    stay(2, clocks.now)
    assert _decisions(home, token) == []


def test_what_was_decided_in_a_visit_within_a_stay_ends_with_it_though_the_visit_ended_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The visit's own end kept its decision when the stay was deleted: the decision applied to the next stay."""
    clocks = Hours(monkeypatch)
    clocks.now = 4
    visit = {"class": {"code": "AMB"}}
    _records(home, "encounter", clocks.encounter("in-1", 0))
    token = _records(home, "encounter", clocks.encounter("series", 2) | visit).rows["patient_id"][0].as_py()
    found = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    _decided(home, token, found.encounter)
    assert _decisions(home, token) == ["pregnancy"]
    clocks.now = 18
    _records(home, "encounter", clocks.encounter("in-1", 0, 18))
    for clocks.now in (30, 50):
        _store(home).prune()
    clocks.now = 59
    _records(home, "encounter", clocks.encounter("in-2", 59))
    clocks.now = 60
    _records(home, "encounter", clocks.encounter("series", 2, 60) | visit)
    for clocks.now in (61, 72, 73, 80, 120):
        _store(home).prune()
        assert _decisions(home, token) == []


def test_what_was_decided_in_a_stay_without_a_number_is_kept_while_its_end_was_told_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A discharge of long ago that is sent now can be for the wrong patient, and be cancelled."""
    clocks = Hours(monkeypatch)
    clocks.now = 4
    visit = clocks.encounter("series", 2) | {"class": {"code": "AMB"}}
    token = _records(home, "encounter", visit).rows["patient_id"][0].as_py()
    hour = 3_600_000_000

    def lies(key: str, since: float, status: str, *, discharged: bool, version: int = 1) -> None:
        since_us = clocks.begin_us + int(since * hour)
        bed = Placement("", since_us, None, "bed:MED/1/A", status, discharged, known_us=clock.now_us())
        _store(home).put_facts([(token, key, version, bed)])

    lies("bed", 0, "active", discharged=False)
    found = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    _decided(home, token, found.encounter)
    clocks.now = 100
    lies("end", 18, "ended", discharged=True)
    _store(home).prune()
    assert _decisions(home, token) == []
    clocks.now = 101
    lies("end", 18, "entered-in-error", discharged=True, version=2)
    assert _decisions(home, token) == ["pregnancy"]


def test_what_was_decided_before_a_stay_ends_with_it_though_a_visit_ended_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept for the visit's end when the stay was deleted, it applied to the next stay."""
    clocks = Hours(monkeypatch)
    clocks.now = 5
    outcome = _run(_steps(home), [message(1, effectiveDateTime=_at(5), subject={"reference": "Patient/p-1"})])
    token = outcome.rows["patient_id"][0].as_py()
    _decided(home, token, "")
    assert _decisions(home, token) == ["pregnancy"]
    clocks.now = 20
    assert _records(home, "encounter", clocks.encounter("in-1", 6, 20)).rows["patient_id"][0].as_py() == token
    clocks.now = 30
    _records(home, "encounter", clocks.encounter("in-2", 30))
    clocks.now = 60
    _records(home, "encounter", clocks.encounter("clinic", 58, 60) | {"class": {"code": "AMB"}})
    for clocks.now in (61, 69, 90, 110):
        _store(home).prune()
        assert _decisions(home, token) == []


@pytest.mark.parametrize("begun", [0, 6])
def test_what_was_decided_before_a_stay_was_known_is_back_with_it_when_its_wrong_end_is_taken_back(
    home: Path, monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    """Another stay, which was separate because of the wrong end, was deleted meanwhile."""
    clocks = Hours(monkeypatch)
    clocks.now = 5
    outcome = _run(_steps(home), [message(1, effectiveDateTime=_at(5), subject={"reference": "Patient/p-1"})])
    token = outcome.rows["patient_id"][0].as_py()
    _decided(home, token, "")
    clocks.now = 7
    _records(home, "encounter", clocks.encounter("long", begun))
    clocks.now = 31
    _records(home, "encounter", clocks.encounter("short", 20, 30))
    _store(home).prune()
    assert _decisions(home, token) == ["pregnancy"]
    clocks.now = 79
    _records(home, "encounter", clocks.encounter("long", begun, 10))
    clocks.now = 80
    _store(home).prune()
    clocks.now = 81
    _records(home, "encounter", clocks.encounter("long", begun) | {"meta": {"versionId": "3"}})
    assert _decisions(home, token) == ["pregnancy"]


@pytest.mark.parametrize("until", [2, 4])
def test_what_was_decided_in_a_bed_without_a_number_goes_with_it_beside_an_end_told_lately(
    home: Path, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    """It applied to the next stay, because the stay whose end was reported recently had begun before it."""
    clocks = Hours(monkeypatch)
    clocks.now = 6
    outcome = _run(_steps(home), [message(1, effectiveDateTime=_at(5), subject={"reference": "Patient/p-1"})])
    token = outcome.rows["patient_id"][0].as_py()

    def lies(key: str, status: str, *, discharged: bool) -> None:
        bed = Placement("", clock.now_us(), None, "bed:MED/1/A", status, discharged, known_us=clock.now_us())
        _store(home).put_facts([(token, key, 1, bed)])

    lies("bed", "active", discharged=False)
    clocks.now = 7
    _decided(home, token, "")
    assert _decisions(home, token) == ["pregnancy"]
    clocks.now = 10
    lies("end", "ended", discharged=True)
    clocks.now = 45
    _records(home, "encounter", clocks.encounter("other", 1))
    clocks.now = 46
    _records(home, "encounter", clocks.encounter("other", 1, until))
    for clocks.now in (47, 57, 59, 61, 65):
        _store(home).prune()
    clocks.now = 70
    _records(home, "encounter", clocks.encounter("next", 70))
    for clocks.now in (71, 95):
        _store(home).prune()
        assert _decisions(home, token) == []


def test_what_was_decided_in_a_visit_within_a_stay_does_not_hold_in_an_older_series(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Hours(monkeypatch)
    visit = {"class": {"code": "AMB"}}
    _records(home, "encounter", clocks.encounter("series", 0) | visit)
    clocks.now = 12
    clinic = clocks.encounter("clinic", 12) | visit
    token = _records(home, "encounter", clocks.encounter("in-1", 10), clinic).rows["patient_id"][0].as_py()
    found = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    _decided(home, token, found.encounter)
    assert _decisions(home, token) == ["pregnancy"]
    clocks.now = 20
    _records(home, "encounter", clocks.encounter("in-1", 10, 20), clocks.encounter("clinic", 12, 13) | visit)
    assert _decisions(home, token) == []


@pytest.mark.parametrize("former", ["IMP", "AMB"])
def test_what_was_decided_in_a_series_outlasts_another_visit_while_an_old_stay_is_forgotten(
    home: Path, monkeypatch: pytest.MonkeyPatch, former: str
) -> None:
    clocks = Hours(monkeypatch)

    def visit(name: str, since: float, until: float | None = None, kind: str = "AMB") -> dict[str, Any]:
        return clocks.encounter(name, since, until) | {"class": {"code": kind}}

    clocks.now = 4
    token = _records(home, "encounter", visit("old", 0, 4, former)).rows["patient_id"][0].as_py()
    for clocks.now, encounter in ((10, visit("series", 10)), (56, visit("clinic", 56))):
        _records(home, "encounter", encounter)
        if clocks.now == 10:
            found = _store(home).facts.stay(token, as_of_us=clock.now_us())
            assert found is not None
            _decided(home, token, found.encounter)
    for clocks.now in range(58, 66):
        _store(home).prune()
    clocks.now = 67
    _records(home, "encounter", visit("clinic", 56, 67))
    assert _decisions(home, token) == ["pregnancy"]


def test_what_was_decided_in_a_visit_within_a_stay_holds_again_after_a_discharge_by_mistake(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older stay was deleted meanwhile, and the decision with it, for good."""
    clocks = Hours(monkeypatch)
    _records(home, "encounter", clocks.encounter("in-0", 0, 0.05))
    clocks.now = 21
    clinic = clocks.encounter("clinic", 21) | {"class": {"code": "AMB"}}
    token = _records(home, "encounter", clocks.encounter("in-1", 20), clinic).rows["patient_id"][0].as_py()
    found = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    _decided(home, token, found.encounter)
    clocks.now = 53.5
    _records(home, "encounter", clocks.encounter("in-1", 20, 53.5))
    assert _decisions(home, token) == []
    for clocks.now in (54, 56, 58):
        _store(home).prune()
    _records(home, "encounter", clocks.encounter("in-1", 20) | {"meta": {"versionId": "3"}})
    assert _decisions(home, token) == ["pregnancy"]


def test_a_diagnosis_of_a_stay_holds_in_the_visit_that_goes_on_after_it(home: Path) -> None:
    """A pregnant patient was scored as an adult as soon as the stay had ended."""
    stay = _stay_of() | {"id": "in-1", "period": {"start": _at(600)}}
    token = _records(home, "encounter", stay).rows["patient_id"][0].as_py()
    _records(home, "condition", _pregnancy(encounter={"reference": "Encounter/in-1"}))
    _records(home, "encounter", _stay_of() | {"id": "visit", "class": {"code": "AMB"}, "period": {"start": _at(100)}})
    over = {"status": "finished", "meta": {"versionId": "2"}, "period": {"start": _at(600), "end": _at(60)}}
    _records(home, "encounter", stay | over)
    found = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None
    assert (found.discharged_us, found.pregnant) == (None, True)
    _records(home, "encounter", _stay_of() | {"id": "in-2", "period": {"start": _at(10)}})
    found = _store(home).facts.stay(token, as_of_us=clock.now_us())
    assert found is not None and not found.pregnant, "a stay of its own"


def test_of_who_was_forgotten_a_refused_message_tells_the_ward_nothing(home: Path) -> None:
    """Under a pseudonym of a new key they were back on the board, with a bed, a date of birth and a diagnosis."""
    move = _adt("A02", "MED^9^9", 0.1)
    no_stay = _pregnancy(encounter=None)
    _admissions(home, [_adt("A01", "MED^1^A", 2)])
    assert len(_admissions(home, [move]).told) == len(_records(home, "condition", no_stay).told) == 1
    settings = load_settings(home)
    with closing(open_vault(settings, load_keys(home / "keys.yaml"))) as vault:
        vault.erase(vault.subject_of("p-1"), "test")
    assert [*_admissions(home, [move]).told] == [*_records(home, "condition", no_stay).told] == []


def test_of_who_was_forgotten_a_refused_result_tells_the_ward_nothing(home: Path) -> None:
    """Under a pseudonym of a new key they were back on the ward, with a date of birth and a sex."""
    bad, good = obx(value="4000"), obx(value="80")
    steps = _steps(home)
    _run(steps, [_result(_ago(1), 1, "19850203", good)], name="hl7-v2")
    refused = _run(steps, [_result(_ago(1), 2, "19850203", good, bad)], first=1, name="hl7-v2")
    assert refused.refused is not None
    assert refused.people
    steps.close()
    settings, keys = load_settings(home), load_keys(home / "keys.yaml")
    with closing(open_vault(settings, keys)) as vault:
        Eraser(settings, keys, vault).erase("HOSP|1234", reason="asked for", actor="test")
    rekey(settings)
    steps = _steps(home)
    polls = ([bad], [good, bad], [good])
    for number, rows in enumerate(polls, 3):
        _run(steps, [_result(_ago(1), number, "19850203", *rows)], first=number, name="hl7-v2")
    assert _store(home).all_patients() == []
