"""The bed of each patient, and who is on the board before the first value, by admissions, beds and movements."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipelines.online_store.facts import Admission, Decision, Fact, Person, Placement, Pregnancy, minimum_age
from pipelines.online_store.placing import current_bed
from pipelines.online_store.values import ROW, restored_as, stored, widened
from tests.services.serving import HOUR, STABLE, WardUnderTest
from vitalake import clock
from vitalake.vocabulary.pregnancy import says_pregnant

NOW = 1_760_000_000_000_000
BED, OTHER = "bed:4W/12/A", "bed:ICU//7"


def _in(bed: str, hours_ago: float, status: str = "active", until_us: int | None = None) -> Placement:
    return Placement("stay", NOW - int(hours_ago * HOUR), until_us, bed, status)


def _bed(*placements: Placement) -> str:
    found = current_bed(placements, as_of_us=NOW)
    return f"{found.unit}|{found.bed}" if found else ""


def test_the_bed_begun_last_and_not_left_counts() -> None:
    assert _bed() == ""
    assert _bed(_in(BED, 5)) == "4W|12 A"
    assert _bed(_in(BED, 5), _in(OTHER, 1)) == "ICU|7"
    assert _bed(_in(BED, 5), _in(BED, 2, "ended"), _in(OTHER, 2)) == "ICU|7"
    assert _bed(_in(BED, 5), _in(BED, 2, "ended")) == ""
    assert _bed(_in(BED, 5), _in(BED, 3, "ended"), _in(BED, 1)) == "4W|12 A", "they came back"
    assert _bed(_in(BED, 5, "entered-in-error")) == ""
    assert _bed(_in(BED, 5, until_us=NOW - 1)) == ""
    assert _bed(_in(BED, -1)) == "", "not yet"
    assert _bed(_in("bed:a%2Fb//1", 1)) == "a/b|1"


def test_the_bed_that_an_admission_is_corrected_to_counts_whatever_its_name() -> None:
    """A patient admitted to another's bed by mistake was shown with the other's values after the correction."""
    wrong = Placement("stay", NOW - HOUR, None, "bed:4W/5/B", "active", known_us=NOW - HOUR)
    right = Placement("stay", NOW - HOUR, None, "bed:4W/5/A", "active", known_us=NOW - HOUR // 2)
    assert _bed(wrong, right) == _bed(right, wrong) == "4W|5 A"


@pytest.fixture
def ward(home: Path) -> WardUnderTest:
    return WardUnderTest(home)


def _put(ward: WardUnderTest, patient: str, key: str, fact: Fact, version: int = 1) -> None:
    ward.store.put_facts([(patient, key, version, fact)])


def test_who_is_admitted_or_in_a_bed_is_there_before_any_value(ward: WardUnderTest) -> None:
    now = clock.now_us()
    admitted, lying = ward.token("p-1"), ward.token("p-2")
    _put(ward, admitted, "stay", Admission(now - HOUR, None, 50))
    _put(ward, lying, "a", Placement("stay-2", now - HOUR, None, BED, "active"))
    assert set(ward.store.patients.revisions()) == {admitted, lying}
    found = ward.store.facts.stay(lying, as_of_us=now)
    assert found is not None
    assert (found.unit, found.bed, found.encounter, found.admitted_us) == ("4W", "12 A", "stay-2", now - HOUR)
    ward.store.prune()
    assert set(ward.store.patients.revisions()) == {admitted, lying}


def test_a_patient_who_left_long_ago_does_not_come_back_when_the_end_is_pruned(ward: WardUnderTest) -> None:
    """The end of a placement is older than the store keeps, its beginning is open."""
    now, patient = clock.now_us(), ward.token("p-1")
    _put(ward, patient, "a", Placement("stay", now - 200 * HOUR, None, BED, "active"))
    _put(ward, patient, "b", Placement("stay", now - 100 * HOUR, None, BED, "ended"))
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None
    assert (found.discharged_us, found.bed) == (None, ""), "nobody said for where"
    ward.store.prune()
    assert ward.store.patients.revisions() == {}
    assert ward.store.all_patients() == []


def test_the_bed_that_a_release_before_kept_of_a_forgotten_stay_goes(ward: WardUnderTest) -> None:
    now, patient = clock.now_us(), ward.token("p-1")
    _put(ward, patient, "stay/E", Placement("E", now - 200 * HOUR, None, BED, "active"))
    ward.store.prune()
    assert ward.store.all_patients() == []


def test_who_shows_a_patient_whose_bed_is_forgotten_is_told(ward: WardUnderTest) -> None:
    """The server showed the old row until the patient's next value."""
    now, patient = clock.now_us(), ward.token("p-1")
    ward.measure(patient, STABLE)
    _put(ward, patient, "a", Placement("stay", now - 200 * HOUR, None, BED, "active"))
    _put(ward, patient, "b", Placement("stay", now - 100 * HOUR, None, BED, "ended"))
    before = ward.store.patients.revisions()[patient]
    ward.store.prune()
    assert ward.store.facts.stay(patient, as_of_us=now) is None
    assert {*ward.store.patients.changed_since(before)} == {patient}
    before = ward.store.patients.revisions()[patient]
    ward.store.prune()
    assert ward.store.patients.changed_since(before) == {}, "nothing has changed"


def test_a_stay_that_ended_long_ago_brings_no_bed_and_ends_what_is_there(
    ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A back-fill put discharged patients in their beds; an end that came late was left out, and the stay was open."""
    now, patient = clock.now_us(), ward.token("p-1")
    over = Admission(now - 200 * HOUR, now - 100 * HOUR, 50)
    bed = Placement("E", now - 200 * HOUR, None, BED, "active")
    ward.store.put_facts([(patient, "E", 2, over), (patient, "stay/E", 2, bed)])
    assert ward.store.all_patients() == []
    ward.store.put_facts([(patient, "E", 1, Admission(now - 200 * HOUR, None, 50)), (patient, "stay/E", 1, bed)])
    ward.store.put_facts([(patient, "E", 2, over)])
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None and found.discharged_us == now - 100 * HOUR
    monkeypatch.setattr(clock, "now_us", lambda: now + 55 * HOUR)
    ward.store.prune()
    assert ward.store.all_patients() == []


@pytest.mark.parametrize("hours", [20, 60])
def test_a_discharge_with_a_wrong_time_that_is_corrected_takes_nothing_with_it(
    ward: WardUnderTest, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute after a typing error the stay was deleted with its decisions: a pregnant patient got an adult score."""
    now, patient = clock.now_us(), ward.token("p-1")
    begun = now - 100 * HOUR
    _put(ward, patient, "E", Admission(begun, None, 31))
    _put(ward, patient, "stay/E", Placement("E", begun, None, BED, "active"))
    _put(ward, patient, "", Person("female"))
    _put(ward, patient, "E", Pregnancy("E", begun))
    for at, encounter, kind in ((begun, "E", "pregnancy"), (begun + 1, "", "spo2-scale-2")):
        reason = "test-or-scan" if kind == "pregnancy" else "blood-gas-now"
        _put(ward, patient, kind, Decision(kind, True, encounter, "somebody", at, reason))  # type: ignore[arg-type]
    ward.store.put_facts([(patient, "E", 2, Admission(begun, now - hours * HOUR, 31))])
    monkeypatch.setattr(clock, "now_us", lambda: now + HOUR // 60)
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None and found.discharged_us == now - hours * HOUR
    ward.store.prune()
    ward.store.put_facts([(patient, "E", 3, Admission(begun, None, 31))])
    ward.store.prune()
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None
    assert (found.discharged_us, found.bed, found.pregnant, found.sex) == (None, "12 A", True, "female")
    assert {*ward.store.facts.decisions(patient, encounter="E")} == {"pregnancy", "spo2-scale-2"}


def test_an_end_before_the_beginning_of_a_stay_ends_nothing(ward: WardUnderTest) -> None:
    """An end with a wrong year took a patient off the board who had been there since yesterday."""
    now, patient = clock.now_us(), ward.token("p-1")
    _put(ward, patient, "E", Admission(now - 20 * HOUR, None, 31))
    _put(ward, patient, "stay/E", Placement("E", now - 20 * HOUR, None, BED, "active"))
    _put(ward, patient, "E", Admission(now - 20 * HOUR, now - 365 * 24 * HOUR, 31), version=2)
    ward.store.prune()
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None
    assert (found.discharged_us, found.bed) == (None, "12 A")
    _put(ward, patient, "E", Admission(now - 20 * HOUR, now - HOUR, 31), version=3)
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None and found.discharged_us == now - HOUR


def test_that_an_end_is_told_again_does_not_keep_a_stay(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    now, patient = clock.now_us(), ward.token("p-1")
    over = Admission(now - 20 * HOUR, now - HOUR, 31)
    _put(ward, patient, "E", over)
    monkeypatch.setattr(clock, "now_us", lambda: now + 50 * HOUR)
    _put(ward, patient, "E", over, version=2)
    monkeypatch.setattr(clock, "now_us", lambda: now + 55 * HOUR)
    ward.store.prune()
    assert ward.store.all_patients() == []


def test_a_patient_is_gone_only_when_no_stay_is_open(ward: WardUnderTest) -> None:
    """The end of an inpatient's procedure, which began after the stay, was read as the patient's discharge."""
    now, patient = clock.now_us(), ward.token("p-1")

    def stay() -> tuple[str, bool, str]:
        found = ward.store.facts.stay(patient, as_of_us=now)
        assert found is not None
        return found.encounter, found.discharged_us is None, found.bed

    _put(ward, patient, "in", Admission(now - 9 * HOUR, None, 50))
    _put(ward, patient, "stay/in", Placement("in", now - 9 * HOUR, None, BED, "active"))
    _put(ward, patient, "op", Admission(now - 5 * HOUR, now - 4 * HOUR, 50))
    _put(ward, patient, "stay/op", Placement("op", now - 5 * HOUR, None, OTHER, "active"))
    assert stay() == ("in", True, "12 A"), "the bed of the procedure is left with it"
    _put(ward, patient, "in", Admission(now - 9 * HOUR, now - 2 * HOUR, 50), version=2)
    assert stay() == ("in", False, "12 A")
    visit = Placement("visit", now - 3 * HOUR, None, "bed:ED//1", "active")
    _put(ward, patient, "a", visit)
    assert stay() == ("visit", True, "1"), "by another feed they are still there"
    _put(ward, patient, "b", Placement("visit", now - HOUR, None, "bed:ED//9", "ended", discharged=True))
    assert stay() == ("visit", False, "1"), "the discharge ends the stay, also from a bed that nobody told of"
    _put(ward, patient, "c", Placement("", now - HOUR // 2, None, BED, "active"))
    assert stay() == ("", True, "12 A"), "they are back, and their admission is late"


def test_the_bed_of_a_movement_is_shown_unless_a_feed_knows_better(ward: WardUnderTest) -> None:
    patient = ward.admit("p-1", bed="Bed 3")
    now = clock.now_us()
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None
    assert (found.unit, found.bed) == ("medical_icu", "Bed 3")
    _put(ward, patient, "a", Placement("", now - 2 * HOUR, None, BED, "active"))
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None
    assert found.bed == "12 A"


def test_decisions_and_pregnancy_are_of_one_stay_and_go_with_the_patient(ward: WardUnderTest) -> None:
    patient = ward.admit("p-1")
    now = clock.now_us()
    for number, holds in enumerate((True, False, True)):
        decision = Decision("spo2-scale-2", holds, "stay-p-1", "x", now + number, "blood-gas-now")
        _put(ward, patient, decision.kind, decision, version=decision.at_us)
    assert ward.store.facts.decisions(patient, encounter="stay-p-1")["spo2-scale-2"].at_us == now + 2
    assert ward.store.facts.decisions(patient, encounter="another") == {}
    _put(ward, patient, "stay-p-1", Pregnancy("stay-p-1", now - HOUR))
    found = ward.store.facts.stay(patient, as_of_us=now)
    assert found is not None and found.pregnant
    ward.store.erasure.forget([patient])
    assert ward.store.facts.decisions(patient, encounter="stay-p-1") == {}
    assert ward.store.all_patients() == []


def test_a_store_of_before_shows_who_was_admitted_and_had_no_values(ward: WardUnderTest) -> None:
    patient = ward.token("p-1")
    _put(ward, patient, "stay", Admission(clock.now_us() - HOUR, None, 50))
    ward.store._db.execute("DELETE FROM patient")  # as the release before left it
    again = WardUnderTest(ward.home)
    assert set(again.store.patients.revisions()) == {patient}
    again.measure(patient, STABLE)
    assert len(again.store.history(patient)) == len(STABLE)


def test_blocks_of_before_that_do_not_say_when_values_came_are_read_and_written_on(
    ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient, at_us = ward.admit("p-1"), clock.now_us() - HOUR
    columns = [name for name in ROW.names or () if name != "came_us"]
    before = np.dtype([(name, ROW[name]) for name in columns])
    assert before.itemsize == 48
    with monkeypatch.context() as old:
        old.setattr("pipelines.online_store.blocks.stored", lambda rows: widened(rows[columns], before).tobytes())
        ward.measure(patient, STABLE, at_us=at_us)
    again = WardUnderTest(ward.home, writes=ward.writes)
    assert sorted(again.store.history(patient).value.tolist()) == sorted(map(float, STABLE.values()))
    again.measure(patient, {"8867-4": 120}, at_us=at_us + 1)
    found = again.store.history(patient)
    assert (len(found), found.value[-1]) == (len(STABLE) + 1, 120)
    assert set(found.available_us.tolist()) == {at_us, at_us + 1}
    entry = np.dtype([("row", ROW), ("position", "<i8")])
    raw = np.zeros(3, np.dtype([("row", before), ("position", "<i8")]))
    raw["row"]["value"], raw["position"] = [1, 2, 3], 7
    assert restored_as(raw.tobytes(), entry)["row"]["value"].tolist() == [1, 2, 3]
    assert restored_as(stored(restored_as(raw.tobytes(), entry)), entry)["position"].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("system", "code", "expected"),
    [
        ("ICD10CM", "O0990", True), ("ICD10CM", "O14.93", True), ("ICD10CM", "Z3A20", True), ("ICD10CM", "Z331", True),
        ("ICD10CM", "Z32.01", True), ("ICD10CM", "Z32.02", False), ("ICD9CM", "V7242", True),
        ("ICD10CM", "O85", False), ("ICD10CM", "O9122", False), ("ICD10CM", "Z37.0", False), ("ICD10CM", "I10", False),
        ("ICD9CM", "64251", True), ("ICD9CM", "64254", False), ("ICD9CM", "V221", True), ("ICD9CM", "4019", False),
        ("ICD10", "O14.1", True), ("ICD10", "Z33", True), ("ICD10", "O85", False), ("ICD10", "Z36", False),
        ("SNOMEDCT", "77386006", True), ("SNOMEDCT", "398254007", True), ("SNOMEDCT", "773860061", False),
        ("SNOMEDCT", "169560008", True), ("SNOMEDCT", "48194001", True), ("SNOMEDCT", "60001007", False),
        (None, None, False),
    ],
)  # fmt: skip
def test_which_diagnoses_say_pregnant(system: str | None, code: str | None, expected: bool) -> None:
    assert says_pregnant(system, code) == expected


def test_a_birth_of_two_centuries_ago_tells_no_age() -> None:
    """Some senders write 1800 for an unknown date of birth: the patient was an adult of 226 years."""
    now = int(datetime(2026, 11, 28, tzinfo=UTC).timestamp() * 1e6)
    assert [minimum_age(born, now) for born in ("1800-01-01", "1900-12-01", "1901-11-28", "1950")] == [
        None,
        125,
        125,
        75,
    ]


def test_what_was_said_in_a_visit_that_lasts_at_the_admission_holds_in_the_stay(
    ward: WardUnderTest,
) -> None:
    """A pregnancy from the prenatal clinic was lost at the admission: a pregnant patient got an adult's score."""
    now = ward.store.time.now_us()
    _put(ward, "v1.p", "visit", Admission(now - 900 * HOUR, None, 30, outpatient=True))
    _put(ward, "v1.p", "first", Admission(now - 90 * HOUR, now - 40 * HOUR, 30))
    _put(ward, "v1.p", "stay", Admission(now - 2 * HOUR, None, 30))
    _put(ward, "v1.p", "O", Pregnancy("visit", now - 800 * HOUR))
    _put(ward, "v1.p", "spo2-scale-2", Decision("spo2-scale-2", True, "first", "x", now - 50 * HOUR, "blood-gas-now"))
    found = ward.store.facts.stay("v1.p", as_of_us=now)
    assert found is not None
    assert (found.encounter, found.pregnant) == ("stay", True)
    assert ward.store.facts.decisions("v1.p", encounter="stay") == {}, "the visit joins no two stays"
    of_visit = Decision("spo2-scale-2", True, "visit", "x", now - 20 * HOUR, "blood-gas-now")
    _put(ward, "v1.p", "spo2-scale-2", of_visit, version=2)
    assert set(ward.store.facts.decisions("v1.p", encounter="stay")) == {"spo2-scale-2"}
    _put(ward, "v1.p", "old", Admission(now - 900 * HOUR, now - 800 * HOUR, 30))
    ward.store.prune()
    assert ward.store.facts.stay("v1.p", as_of_us=now) == found


def test_a_visit_after_a_stay_has_nothing_of_what_was_said_in_it(ward: WardUnderTest) -> None:
    now = ward.store.time.now_us()
    _put(ward, "v1.p", "stay", Admission(now - 9 * HOUR, now - 2 * HOUR, 30))
    _put(ward, "v1.p", "visit", Admission(now - 2 * HOUR, None, 30, outpatient=True))
    _put(ward, "v1.p", "series", Admission(now - 900 * HOUR, None, 30, outpatient=True))
    _put(ward, "v1.p", "O", Pregnancy("stay", now - 8 * HOUR))
    _put(ward, "v1.p", "spo2-scale-2", Decision("spo2-scale-2", True, "stay", "x", now - 5 * HOUR, "blood-gas-now"))
    found = ward.store.facts.stay("v1.p", as_of_us=now)
    assert found is not None
    assert (found.encounter, found.pregnant) == ("visit", False)
    for name in ("visit", "series"):
        assert ward.store.facts.decisions("v1.p", encounter=name) == {}


@pytest.mark.parametrize("said", ["visit", "elsewhere"])
def test_what_was_decided_in_one_visit_holds_in_another_that_lasts(ward: WardUnderTest, said: str) -> None:
    now = ward.store.time.now_us()
    _put(ward, "v1.p", "visit", Admission(now - 9 * HOUR, now - 2 * HOUR, 30, outpatient=True))
    _put(ward, "v1.p", "series", Admission(now - 900 * HOUR, None, 30, outpatient=True))
    _put(ward, "v1.p", "spo2-scale-2", Decision("spo2-scale-2", True, said, "x", now - 5 * HOUR, "blood-gas-now"))
    assert bool(ward.store.facts.decisions("v1.p", encounter="series")) is (said == "visit")


def test_a_discharge_that_is_sent_again_was_known_when_it_was_first_told(ward: WardUnderTest) -> None:
    """A patient who came back under the same number left the board when the old discharge was sent again."""
    now = ward.store.time.now_us()
    end = Placement("V", now - 5 * HOUR, None, BED, "ended", discharged=True, known_us=now - 5 * HOUR)
    back = now - 3 * HOUR
    _put(ward, "v1.p", "1", Placement("V", now - 9 * HOUR, None, BED, "active", known_us=now - 9 * HOUR))
    _put(ward, "v1.p", "2", end)
    _put(ward, "v1.p", "3", Placement("V", back, None, OTHER, "active", known_us=back))
    _put(ward, "v1.p", "4", Placement("V", back, None, BED, "ended", known_us=back))
    before = ward.store.facts.stay("v1.p", as_of_us=now)
    assert before is not None
    assert before.discharged_us is None
    _put(ward, "v1.p", "2", replace(end, known_us=now - HOUR))
    assert ward.store.facts.stay("v1.p", as_of_us=now) == before
