"""Values that cannot be used end the ones before them; a comparator reaches the ward."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from models.news2 import news2
from pipelines.online_store.values import REFUSED
from tests.attribution import Ward as Bedside
from tests.attribution import hl7_time
from tests.fhir import message
from tests.hl7 import adt, obx, oru
from tests.hostile_flat import flat, readings
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    coded_value,
    history_of,
    iso_minutes_ago,
    observation_steps,
    open_store,
    run_observations,
    score_of,
    told_of_bed,
)
from vitalake import clock


def test_a_period_is_read_as_of_its_end(home: Path) -> None:
    period = {"start": iso_minutes_ago(10), "end": iso_minutes_ago(5)}
    elements = coded_value("59408-5", 70.0, "%") | {"effectiveDateTime": None, "effectivePeriod": period}
    score = score_of(home, run_observations(observation_steps(home), [message(1, **elements)]))
    assert score.parts["oxygen_saturation"] == 3
    assert abs(score.latest["oxygen_saturation"].at_us - (clock.now_us() - 300_000_000)) < 60_000_000


@pytest.mark.parametrize("value", ["-?-", '""'])
def test_a_result_that_is_no_number_ends_its_part(home: Path, value: str) -> None:
    at = (clock.now() - timedelta(minutes=5)).strftime("%Y%m%d%H%M%S+0000")
    steps = observation_steps(home)
    token = run_observations(
        steps, [message(1, **coded_value("59408-5", 98.0, "%", effectiveDateTime=iso_minutes_ago(30)))]
    ).rows["patient_id"]
    poll_of = oru("PID|1||p-1^^^^MR", obx(code="59408-5^S^LN", value=value, unit="%^^UCUM", at=at))
    outcome = run_observations(steps, [poll_of], first=1, name="hl7-v2")
    assert len(outcome.rejects) == 1
    score = news2(open_store(home).history(token[0].as_py()), as_of_us=clock.now_us())
    assert score.ended["oxygen_saturation"].kind == "none"


def test_a_value_that_the_sender_does_not_have_ends_the_one_before(home: Path) -> None:
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
    absent = {"value": None, "dataAbsentReason": {"coding": [{"code": "error"}]}}
    run_observations(steps, [message(2, effectiveDateTime=iso_minutes_ago(20), **absent)], first=1)
    score = score_of(home, outcome)
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
    steps = observation_steps(home)
    outcome = run_observations(
        steps, [message(1, **({"effectiveDateTime": iso_minutes_ago(30)} | coded_value("8889-8", 72.0, "/min")))]
    )
    run_observations(steps, [message(2, **({"effectiveDateTime": iso_minutes_ago(5)} | told))], first=1)
    assert score_of(home, outcome).parts["pulse"] == points


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
    outcome = run_observations(
        observation_steps(home), [message(1, effectiveDateTime=iso_minutes_ago(5), **coded_value(code, value, unit))]
    )
    assert not outcome.rejects
    score = score_of(home, outcome)
    assert [(event.part, event.value) for event in score.events] == [(part, value)]
    assert score.parts[part] == 3


@pytest.mark.parametrize("number", [b"1e400", b"NaN", b"-Infinity"])
def test_a_number_that_none_can_be_ends_the_pulse_before_it(home: Path, number: bytes) -> None:
    """The message names its patient and was rejected without a mark: the pulse before it stayed current."""
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(5), value=75.0)])
    run_observations(
        steps, [message(2, effectiveDateTime=iso_minutes_ago(1), value=75.0).replace(b"75.0", number)], first=1
    )
    score = news2(history_of(home, outcome), as_of_us=clock.now_us())
    assert "pulse" in score.ended and "pulse" not in score.latest


def test_a_comparator_reaches_the_ward_and_a_correction_takes_it_away(home: Path) -> None:
    steps, at = observation_steps(home), iso_minutes_ago(5)
    quantity = {"value": 70, "comparator": "<", "system": "http://unitsofmeasure.org", "code": "%"}
    elements = coded_value("59408-5", None, "%") | {"valueQuantity": quantity, "effectiveDateTime": at}
    outcome = run_observations(steps, [message(1, **elements)])
    assert score_of(home, outcome).latest["oxygen_saturation"].comparator == "<"
    run_observations(
        steps,
        [message(1, **elements | {"status": "corrected", "valueQuantity": quantity | {"comparator": None}})],
        first=1,
    )
    assert score_of(home, outcome).latest["oxygen_saturation"].comparator == ""


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
    assert score_of(home, outcome).parts["pulse"] == 0
    ended = ward.stream([made(ward, 90, -1)], name=f"flat:{name}")
    assert (ended.rows.num_rows, len(ended.rejects)) == (0, 0)
    score = score_of(home, outcome)
    assert (score.parts["pulse"], score.ended["pulse"].kind) == (None, "none")
    assert not (history_of(home, outcome).code == REFUSED).any(), "no message was refused"
    ward.stream([made(ward, 120, 80)], name=f"flat:{name}")
    assert score_of(home, outcome).parts["pulse"] == 0


@pytest.mark.parametrize(("status", "pulse"), [("X", None), ("N", 0)])
def test_a_result_that_could_not_be_had_ends_the_one_before(home: Path, status: str, pulse: int | None) -> None:
    """OBX-11 X means that there was no rate to be had, but the rate before stayed; N means that none was asked for."""
    ward = Bedside(home)
    ward.tell(adt("A01", "PID|1||p-1^^^^MR", "PV1|1|I|4W^12^A", at=hl7_time(ward.at(0))))
    ward.stream([told_of_bed(ward, obx(value="72"), seconds=10)], name="hl7-v2")
    ward.stream([told_of_bed(ward, obx(value="135", status=status), seconds=20)], name="hl7-v2")
    score = news2(open_store(home).history(ward.token("p-1")), as_of_us=clock.now_us())
    assert score.parts["pulse"] == pulse
    assert bool(score.ended) == (pulse is None)
