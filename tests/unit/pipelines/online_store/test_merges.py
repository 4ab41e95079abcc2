"""Two numbers that were merged are one patient on the ward, with what was known and decided under either."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as replace_in

from governance.audit import AuditEvent, open_audit
from models.serving.ward import Chart
from models.serving.ward import Ward as Charts
from pipelines.core.poll import DecodedPoll, Poll
from pipelines.intake.steps import Steps
from pipelines.online_store.facts import Admission, Decision, Person, Pregnancy
from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import ROW, Values, stage_of
from pipelines.republish.online_store import rebuild_online_store
from tests.attribution import Ward, hl7_time
from tests.decoding import decoder_of
from tests.hl7 import MSH, adt, obx, oru
from tests.services.serving import HOUR, WardUnderTest
from vitalake import clock
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import StreamSettings


@pytest.fixture
def ward(home: Path) -> Iterator[Ward]:
    found = Ward(home, begin=(clock.now() - timedelta(hours=3)).replace(microsecond=0))
    yield found


def _token(ward: Ward, patient: str) -> str:
    return WardUnderTest(ward.home).token(patient)


def _store(ward: Ward) -> OnlineStore:
    return WardUnderTest(ward.home).store


def _admitted(ward: Ward, event: str, patient: str, bed: str, seconds: float, prior: str = "") -> bytes:
    pv1 = f"PV1|1|I|{bed}|||{prior}|||||||||||||V-1"
    return adt(event, f"PID|1||{patient}", pv1, at=hl7_time(ward.at(seconds)))


def _merge(ward: Ward, into: str, old: str, seconds: float, born: str = "") -> bytes:
    return adt("A40", f"PID|1||{into}||X^Y||{born}", f"MRG|{old}", at=hl7_time(ward.at(seconds)))


def _vitals(ward: Ward, patient: str, seconds: float) -> bytes:
    """Return values that score 5 by scale 2, and 2 by scale 1: 97 % with 2 L/min."""
    values = {"9279-1": 16, "59408-5": 97, "3151-8": 2, "8480-6": 124, "8867-4": 78, "8310-5": 36.8, "9269-2": 15}
    units = {"9279-1": "/min", "59408-5": "%", "3151-8": "L/min", "8480-6": "mm[Hg]", "8867-4": "/min"}
    units |= {"8310-5": "Cel", "9269-2": "{score}"}
    at = hl7_time(ward.at(seconds))
    rows = [
        obx(i, f"{code}^x^LN", str(value), f"{units[code]}^^UCUM") for i, (code, value) in enumerate(values.items())
    ]
    msh = MSH.replace("20250601100001+0200", at)
    return oru(*rows, msh=msh, pid=f"PID|1||{patient}", pv1="", obr=f"OBR|1||{patient}-{seconds}^M|V|||{at}")


def _decided(ward: Ward, patient: str) -> None:
    audit = open_audit(ward.settings, ward.keys, writer="serving")
    detail = {"kind": "spo2-scale-2", "holds": "yes", "reason": "blood-gas-now"}
    audit.record(AuditEvent("decision.write", "somebody", "clinician", (_token(ward, patient),), detail))
    store = _store(ward)
    stay = store.facts.stay(_token(ward, patient), as_of_us=clock.now_us())
    one = Decision("spo2-scale-2", True, stay.encounter if stay else "", "somebody", clock.now_us(), "blood-gas-now")
    store.put_facts([(_token(ward, patient), one.kind, one.at_us, one)])


def _charts(ward: Ward) -> dict[str, Chart]:
    charts = Charts(ward.settings, ward.keys)
    charts.changed()
    found = {patient: charts.chart(patient) for patient in charts.patients()}
    charts.close()
    return {patient: chart for patient, chart in found.items() if chart is not None and not chart.gone}


def test_after_a_merge_the_ward_has_one_patient_with_what_was_decided(ward: Ward) -> None:
    """The ward had two patients: the old number in the bed, "5 medium" by scale 2, and the new one, "2 low"."""
    ward.tell(_admitted(ward, "A01", "M-1", "ED^1^7", 0))
    ward.stream([_vitals(ward, "M-1", 9_000)], name="hl7-v2")
    _decided(ward, "M-1")
    held = Charts(ward.settings, ward.keys)
    assert held.changed() == {_token(ward, "M-1")}
    ward.tell(_merge(ward, "M-2", "M-1", 9_100))
    assert held.changed() == {_token(ward, "M-1"), _token(ward, "M-2")}, "at once, not with the next count of all"
    assert held.chart(_token(ward, "M-1")) is None
    held.close()
    for seconds, patient in ((9_000, ""), (9_200, "M-2"), (9_300, "M-1")):  # a monitor may not know of it yet
        if patient:
            ward.stream([_vitals(ward, patient, seconds)], name="hl7-v2")
        charts = _charts(ward)
        assert [*charts] == [_token(ward, "M-2")]
        chart = charts[_token(ward, "M-2")]
        assert (chart.record.news2.scale, chart.record.news2.total) == (2, 5)
        assert chart.record.newest_us == int(ward.at(seconds).timestamp() * 1e6)
        assert chart.stay is not None
        assert chart.stay.bed == "1 7"
    ward.tell(_admitted(ward, "A02", "M-2", "MED^9^9", 9_400, "ED^1^7"))
    chart = _charts(ward)[_token(ward, "M-2")]
    assert chart.stay is not None
    assert (chart.stay.unit, chart.stay.bed) == ("MED", "9 9")
    ward.tell(_admitted(ward, "A03", "M-2", "MED^9^9", 9_500))
    assert _charts(ward) == {}


@pytest.mark.parametrize("event", ["A18", "A30", "A34", "A36", "A39"])
def test_older_events_merge_as_well(ward: Ward, event: str) -> None:
    """They were decoded to no rows: the old number stayed a patient of its own, and an erasure missed it."""
    ward.tell(_admitted(ward, "A01", "M-1", "ED^1^7", 0))
    ward.tell(_merge(ward, "M-2", "M-1", 100).replace(b"A40", event.encode()))
    assert [*_charts(ward)] == [_token(ward, "M-2")]


def test_a_child_that_the_merge_tells_of_is_one(ward: Ward) -> None:
    ward.tell(_admitted(ward, "A01", "M-1", "ED^1^7", 0))
    ward.tell(_merge(ward, "M-2", "M-1", 100, born=f"{clock.now().year - 8}0101"))
    assert _charts(ward)[_token(ward, "M-2")].record.news2.withheld == "child"


def _record(ward: Ward, patient: str, born: str) -> None:
    """Process a Patient record as a lane of people does."""
    told: list[bytes | None] = [json.dumps({"resourceType": "Patient", "id": patient, "birthDate": born}).encode()]
    steps = Steps(ward.settings, StreamSettings(), load_dataset("patient"))
    one = np.zeros(1, np.int32)
    now_ms = np.full(1, clock.now_us() // 1000)
    part = PartId("patient", "0123456789abcdefghijkl", 0)
    poll = Poll("patient/0of1", "fhir", told, (part,), one, one.astype(np.int64), now_ms)
    with closing(steps):
        steps.mask(steps.conform(DecodedPoll(poll, decoder_of("fhir", dataset="patient").decode(told))))


def test_a_child_is_one_whatever_was_told_of_the_number_that_was_given_up(ward: Ward) -> None:
    """The old number's date of birth was filed as the survivor's, and the vault was not asked."""
    year = clock.now().year
    _record(ward, "M-2", f"{year - 14}-01-01")
    for file in ward.home.glob("care.db*"):  # it was long ago
        file.unlink()
    ward.tell(
        _admitted(ward, "A01", "M-1", "ED^1^7", 0).replace(b"PID|1||M-1", f"PID|1||M-1||||{year - 20}0101".encode())
    )
    ward.tell(_merge(ward, "M-2", "M-1", 100))
    ward.tell(_admitted(ward, "A02", "M-2", "MED^9^9", 200, "ED^1^7"))
    chart = _charts(ward)[_token(ward, "M-2")]
    assert (chart.age_years, chart.record.news2.withheld) == (14, "child")


def test_the_birth_that_the_merge_tells_counts_before_the_old_numbers_record(ward: Ward) -> None:
    """The estimated date of birth in the record of an unidentified patient made an adult of a child."""
    year = clock.now().year
    ward.tell(_admitted(ward, "A01", "M-1", "ED^1^7", 0))
    _record(ward, "M-1", "1960-01-01")
    ward.tell(_merge(ward, "M-2", "M-1", 100, born=f"{year - 8}0101"))
    chart = _charts(ward)[_token(ward, "M-2")]
    assert (chart.age_years, chart.record.news2.withheld) == (8, "child")
    _record(ward, "M-1", "1961-01-01")
    assert _charts(ward)[_token(ward, "M-2")].age_years == 8


def test_a_number_that_was_corrected_is_its_true_owners(ward: Ward) -> None:
    """A mistyped number stayed merged for ever: its real owner got the other patient's bed and values."""
    ward.tell(_admitted(ward, "A01", "M-2", "ED^1^7", 0))
    ward.tell(_merge(ward, "M-2", "M-1", 100).replace(b"A40", b"A47"))
    ward.tell(_admitted(ward, "A01", "M-1", "MED^9^9", 200).replace(b"V-1", b"V-9"))
    charts = _charts(ward)
    beds = {patient: chart.stay.bed for patient, chart in charts.items() if chart.stay}
    assert beds == {_token(ward, "M-2"): "1 7", _token(ward, "M-1"): "9 9"}


def test_a_filling_leaves_out_a_merge_of_long_ago_of_whom_nobody_is_there(ward: Ward) -> None:
    """It read the merges of all times, and gave a number that is in use again to a patient who left long ago."""
    ward.tell(_merge(ward, "M-2", "M-1", -100 * 3600), _merge(ward, "M-4", "M-3", -100 * 3600))
    (ward.home / "care.db").unlink()
    ward.tell(_admitted(ward, "A01", "M-1", "MED^9^9", 200), _admitted(ward, "A01", "M-4", "MED^9^8", 200))
    ward.tell(_admitted(ward, "A01", "M-3", "MED^9^7", 100))
    for file in ward.home.glob("care.db*"):
        file.unlink()
    rebuild_online_store(ward.settings)
    assert {*_charts(ward)} == {_token(ward, "M-1"), _token(ward, "M-4")}


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_in_whatever_order_a_merge_comes(ward: Ward, order: tuple[int, ...]) -> None:
    steps: list[Callable[[], object]] = [
        lambda: ward.tell(_admitted(ward, "A01", "M-1", "ED^1^7", 0)),
        lambda: ward.stream([_vitals(ward, "M-1", 9_000)], name="hl7-v2"),
        lambda: ward.tell(_merge(ward, "M-2", "M-1", 9_100)),
    ]
    for i in order:
        steps[i]()
    charts = _charts(ward)
    assert [*charts] == [_token(ward, "M-2")]
    chart = charts[_token(ward, "M-2")]
    assert chart.record.news2.total == 2
    assert chart.stay is not None
    assert chart.stay.bed == "1 7"


def test_a_store_that_is_filled_again_knows_of_the_merge_and_of_what_was_decided_before_it(ward: Ward) -> None:
    ward.tell(_admitted(ward, "A01", "M-1", "ED^1^7", 0))
    ward.stream([_vitals(ward, "M-1", 9_000)], name="hl7-v2")
    _decided(ward, "M-1")
    ward.tell(_merge(ward, "M-2", "M-1", 9_100))
    for again in (True, False):
        if again:
            (ward.home / "care.db").unlink()
        rebuild_online_store(ward.settings)
        charts = _charts(ward)
        assert [*charts] == [_token(ward, "M-2")]
        news2 = charts[_token(ward, "M-2")].record.news2
        assert (news2.scale, news2.total) == (2, 5)
    assert not _store(ward).completeness.lacks_decisions()


def test_what_is_refused_under_the_old_number_marks_the_one_that_is_left(ward: Ward) -> None:
    ward.tell(_admitted(ward, "A01", "M-1", "ED^1^7", 0), _merge(ward, "M-2", "M-1", 100))
    ward.stream([_vitals(ward, "M-2", 9_000)], name="hl7-v2")
    ward.stream([_vitals(ward, "M-1", 9_100).replace(b"|97|", b"|-?-|")], name="hl7-v2")
    chart = _charts(ward)[_token(ward, "M-2")]
    assert chart.refused is not None
    assert chart.record.news2.parts["oxygen_saturation"] is None


# -- the store ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(home: Path) -> Iterator[OnlineStore]:
    found = WardUnderTest(home).store
    yield found


def _merged(store: OnlineStore, *merges: tuple[str, str, int]) -> dict[str, str]:
    for old, into, version in merges:
        store.merge(old, into, version=version)
    return {name: store.survivor(name) for name in "ABC"}


@pytest.mark.parametrize(
    ("merges", "survivors"),
    [
        ([("A", "B", 1), ("B", "C", 2)], "CCC"),
        ([("B", "C", 2), ("A", "B", 1)], "CCC"),
        ([("A", "B", 1), ("B", "A", 2)], "AAC"),
        ([("B", "A", 2), ("A", "B", 1)], "AAC"),
        ([("A", "B", 1), ("A", "C", 2)], "CBC"),
        ([("A", "C", 2), ("A", "B", 1)], "CBC"),
        ([("A", "B", 1), ("B", "C", 2), ("C", "A", 3)], "AAA"),
        ([("A", "A", 1)], "ABC"),
    ],
)
def test_of_several_merges_the_later_one_counts(
    store: OnlineStore, merges: list[tuple[str, str, int]], survivors: str
) -> None:
    store.put_facts([("A", "E", 1, Admission(clock.now_us() - HOUR, None, None))])
    expected = dict(zip("ABC", survivors, strict=True))
    assert _merged(store, *merges) == expected
    assert _merged(store, *merges) == expected, "read again after a kill"
    assert len(store.patients.revisions()) == 1


def _decision(encounter: str, hours_ago: float, *, holds: bool) -> Decision:
    reason = "blood-gas-now" if holds else "not-hypercapnic"
    return Decision("spo2-scale-2", holds, encounter, "somebody", clock.now_us() - int(hours_ago * HOUR), reason)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (_decision("E", 1, holds=True), _decision("F", 2, holds=False), True),
        (_decision("E", 3, holds=True), _decision("F", 2, holds=False), False),
        (_decision("E", 17, holds=True), _decision("former", 16, holds=False), True),
        (_decision("former", 16, holds=False), _decision("F", 17, holds=True), True),
    ],
)
def test_of_two_decisions_the_one_of_the_stay_of_now_counts_else_the_later_one(
    store: OnlineStore, old: Decision, new: Decision, expected: bool
) -> None:
    now = clock.now_us()
    store.put_facts([
        ("A", "E", 1, Admission(now - 10 * HOUR, None, None)),
        ("B", "F", 1, Admission(now - 9 * HOUR, None, None)),
        ("B", "former", 1, Admission(now - 20 * HOUR, now - 15 * HOUR, None)),
        ("A", old.kind, old.at_us, old),
        ("B", new.kind, new.at_us, new),
    ])  # fmt: skip
    store.put_facts([
        ("A", "E", 1, Pregnancy("E", now - 9 * HOUR)),
        ("A", "", 7, Person("male", "1950-01-01")),
        ("B", "", 3, Person("female")),
    ])  # fmt: skip
    store.merge("A", "B", version=1)
    stay = store.facts.stay("B", as_of_us=now)
    assert stay is not None
    assert store.facts.decisions("B", encounter=stay.encounter)["spo2-scale-2"].holds is expected
    assert (stay.pregnant, stay.sex, stay.age_years) == (True, "female", (clock.now() - timedelta(hours=9)).year - 1950)
    store.put_facts([("A", "", 9, Person("male", "1940-01-01")), ("B", "", 4, Person("unknown", "1960-01-01"))])
    person = store.facts.person("B")
    assert person is not None
    assert (person.sex, person.born) == ("female", "1960-01-01"), "what is told of the old number fills gaps only"
    assert store.all_patients() == ["B"]


def test_what_was_said_for_an_earlier_encounter_of_the_hospital_stay_holds(store: OnlineStore) -> None:
    """The emergency department's Encounter ended before the store's hours: scale 2 and pregnancy were lost with it."""
    now = clock.now_us()
    at = now - 80 * HOUR
    ed = Admission(now - 100 * HOUR, None, None)
    store.put_facts([("A", "E1", 1, ed), ("A", "p", 1, Pregnancy("E1", at))], wait=True)
    said = Decision("spo2-scale-2", True, "E1", "somebody", at, "blood-gas-now")
    store.put_facts([("A", said.kind, said.at_us, said)])
    store.put_facts([("A", "E2", 1, Admission(now - 60 * HOUR, None, None))])
    store.put_facts([("A", "E1", 2, replace_in(ed, discharged_us=now - 60 * HOUR))])
    found = []
    for patient in "AB":
        stay = store.facts.stay(patient, as_of_us=now)
        assert stay is not None
        found.append((stay, store.facts.decisions(patient, encounter=stay.encounter)))
        store.merge("A", "B", version=1)
        store.prune()
    assert found[0] == found[1]
    assert (found[0][0].encounter, found[0][0].pregnant, [*found[0][1]]) == ("E2", True, ["spo2-scale-2"])


def _values(patient: str, attribution: int, available_us: int, position: int) -> Values:
    row = np.zeros(1, ROW)
    row["code"], row["value"], row["stage"], row["id"] = 88674, 78.0, stage_of("final"), 5
    row["effective_us"], row["available_us"], row["attribution"] = clock.now_us() - HOUR, available_us, attribution
    zero = np.zeros(1, np.int32)
    return Values(row, zero, [patient], np.array([position]), zero, ["part"])


def test_a_value_that_the_attributor_gives_from_the_old_number_to_the_new_one_stays(store: OnlineStore) -> None:
    """Both rows belong to one patient by then: the withdrawal from the old number must not affect the new one."""
    known = clock.now_us() - HOUR
    told = [("A", 3, known), None, ("A", 6, known + 5), ("B", 7, known + 5)]
    for position, one in enumerate(told):
        if one is None:
            store.merge("A", "B", version=1)
        else:
            store.take(_values(one[0], one[1], one[2], position), writer="w/0of1", ends={"part": position + 1})
        assert len(store.history("B" if position else "A")) == (position != 2)
    assert store.rewind({"part": 0}) > 0, "what was never decided is found under the number that is left"
    assert len(store.history("B")) == 0


def test_who_was_merged_is_forgotten_with_all_numbers(home: Path, store: OnlineStore) -> None:
    now = clock.now_us()
    store.put_facts([("old-number", "E", 1, Admission(now - HOUR, None, None))])
    store.merge("old-number", "new-number", version=1)
    store.erasure.forget(["old-number", "new-number"])
    raw = (home / "care.db").read_bytes() + (home / "care.db-wal").read_bytes()
    assert b"old-number" not in raw
    assert store.survivor("old-number") == "old-number"


def test_a_merge_is_forgotten_when_nobody_is_there_any_more(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_facts([("A", "E", 1, Admission(clock.now_us() - HOUR, None, None))])
    _merged(store, ("A", "B", 1), ("C", "D", 1))
    at_us = clock.now_us() + 100 * HOUR
    monkeypatch.setattr(clock, "now_us", lambda: at_us)
    store.prune()
    assert {name: store.survivor(name) for name in "ABC"} == {"A": "B", "B": "B", "C": "C"}
