"""Clocks that are ahead or behind: what counts is when a message came."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.clock_lag import steady_lags
from models.news2 import news2
from pipelines.online_store.values import CLOCK_AHEAD
from tests.fhir import message
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    history_of,
    hl7_hours_ago,
    iso_minutes_ago,
    lies_in,
    observation_steps,
    open_store,
    place_of,
    run_admissions,
    run_observations,
    run_records,
    stay_resource,
    visit_message,
)
from vitalake import clock
from vitalake.clinical.records import code_number


def test_a_value_of_the_future_counts_from_when_it_came_and_says_whose_clock_is_wrong(home: Path) -> None:
    """The values of a monitor whose clock was three hours ahead were not shown for three hours; older values stayed."""
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(30), value=72.0)])
    run_observations(steps, [message(2, effectiveDateTime=iso_minutes_ago(-180), value=150.0)], first=1)
    history = history_of(home, outcome)
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
    steps = observation_steps(home)
    told = [("8867-4", 80, 64, 4), ("8867-4", 80, 62, 2), ("8889-8", 75, 1, 1), ("8867-4", 0, 60, 0)]
    sent = [_sent(name, code, value, minutes_ago=at, number=i) for i, (code, value, at, _) in enumerate(told)]
    outcome = run_observations(steps, [*sent], name=name, minutes_ago=[came for *_, came in told])
    assert outcome.rejects == []
    history = history_of(home, outcome)
    score = news2(history, as_of_us=clock.now_us())
    assert [(event.value, event.came_us > event.at_us + 59 * 60_000_000) for event in score.events] == [(0, True)]
    codes = {"pulse": (code_number("8867-4"), code_number("8889-8"))}
    lag = steady_lags(history, codes, since_us=clock.now_us() - 12 * 3_600_000_000)["pulse"]
    assert (round(lag.us / 60_000_000), lag.hidden) == (60, True)
    lake = outcome.rows["available_at"].cast(pa.int64()).to_numpy()
    assert lake.min() < clock.now_us() - 63 * 60_000_000 or name == "hl7-v2", "the lake says what the sender does"


def test_of_corrections_the_one_that_its_sender_says_is_later_counts_whichever_comes_last(home: Path) -> None:
    steps, at = observation_steps(home), iso_minutes_ago(30)
    later, sooner = (
        message(1, effectiveDateTime=at, value=value, status="corrected", meta=None, issued=iso_minutes_ago(minutes))
        for value, minutes in ((72.0, 10), (71.0, 20))
    )
    outcome = run_observations(steps, [later, sooner], minutes_ago=[9, 1])
    history = history_of(home, outcome)
    assert history.measured().value.tolist() == [72.0]
    assert not len(history.known_at(clock.now_us() - 10 * 60_000_000)), "and not before it came"


def test_a_silent_sensor_whose_clock_is_ahead_is_not_alive_when_its_values_are_taken_late(home: Path) -> None:
    """After a pause of the lane, values of two hours ago counted as current: their clock was three hours ahead."""
    came = [150.0, 120.0, 120.0, 100.0]
    told: list[bytes | None] = [
        message(i, effectiveDateTime=iso_minutes_ago(ago - 180 - i / 60), value=70.0 + i) for i, ago in enumerate(came)
    ]
    before = clock.now_us()
    outcome = run_observations(observation_steps(home), told, minutes_ago=came)
    history = history_of(home, outcome).measured()
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
    outcome = run_observations(
        observation_steps(home),
        [message(1, effectiveDateTime=iso_minutes_ago(-ahead), value=0.0)],
        minutes_ago=[60 - ahead],
    )
    history = history_of(home, outcome)
    assert (clock.now_us() - history.effective_us[0]) / 60e6 == pytest.approx(max(-ahead, 0), abs=0.1)
    assert history.value.tolist() == [0], "no clock is spoken of"


def test_a_clock_a_little_ahead_delays_no_arrest_and_is_not_spoken_of(home: Path) -> None:
    """A rate of 0 stamped 110 seconds ahead was shown 110 seconds late; until then the rate before it was current."""
    steps = observation_steps(home)
    outcome = run_observations(steps, [message(1, effectiveDateTime=iso_minutes_ago(1), value=75.0)])
    run_observations(steps, [message(2, effectiveDateTime=iso_minutes_ago(-110 / 60), value=0.0)], first=1)
    history = history_of(home, outcome)
    assert [event.value for event in news2(history, as_of_us=clock.now_us()).events] == [0]
    assert CLOCK_AHEAD not in history.code


def test_values_of_one_poll_from_ahead_keep_their_order(home: Path) -> None:
    steps = observation_steps(home)
    told: list[bytes | None] = [
        message(i, effectiveDateTime=iso_minutes_ago(-minutes), value=v)
        for i, minutes, v in ((1, 9, 71.0), (2, 8, 80.0))
    ]
    history = history_of(home, run_observations(steps, told))
    hearts = history.where(np.isin(history.value, [71.0, 80.0]))
    assert hearts.value.tolist() == [80.0, 71.0]
    assert hearts.effective_us[0] < hearts.effective_us[1] <= clock.now_us()


def test_who_is_admitted_is_there_whatever_time_the_message_says(home: Path) -> None:
    """With a planned time two hours ahead, or a clock on summer time, a patient in arrest was not on the board."""
    said = hl7_hours_ago(-2)
    messages: list[bytes | None] = [visit_message("A01", "4W^12^A", -2, said=said)]
    token = run_admissions(home, messages).rows["patient_id"][0].as_py()
    assert lies_in(home, token) == ("4W", "12 A", True)
    messages.append(visit_message("A02", "ICU^1^2", -2, prior="4W^12^A"))
    run_admissions(home, messages)
    assert lies_in(home, token) == ("ICU", "1 2", True)
    run_admissions(home, [*messages, visit_message("A08", "4W^12^A", -2, said=said)])
    assert lies_in(home, token) == ("ICU", "1 2", True), "told again it began when it did"
    run_admissions(home, [*messages, visit_message("A03", "ICU^1^2", -2, end=hl7_hours_ago(-2))])
    assert lies_in(home, token)[2] is False


@pytest.mark.parametrize("hours", [1, 5])
def test_a_stay_in_progress_has_begun_and_goes_on_whatever_its_period_says(home: Path, hours: int) -> None:
    """Its start lay an hour ahead, or its planned end had passed: the patient was not on the board."""
    ahead = stay_resource() | {"period": {"start": iso_minutes_ago(-60 * hours)}}
    token = run_records(home, "encounter", ahead).rows["patient_id"][0].as_py()
    first = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert first is not None and first.discharged_us is None
    run_records(home, "encounter", ahead | {"meta": {"versionId": "2"}})
    again = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert again is not None and again.admitted_us == first.admitted_us
    planned = stay_resource() | {
        "period": {"start": iso_minutes_ago(600), "end": iso_minutes_ago(60 * hours)},
        "meta": {"versionId": "3"},
    }
    run_records(home, "encounter", planned)
    assert lies_in(home, token)[2]
    run_records(home, "encounter", planned | {"status": "finished", "meta": {"versionId": "4"}})
    over = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert over is not None and over.discharged_us is not None


def _from(
    kind: str, name: str, *, since: float | None = None, until: float | None = None, **more: Any
) -> dict[str, Any]:
    """Return a place with its beginning and end, in minutes from now."""
    said = {
        name: iso_minutes_ago(-minutes) for name, minutes in (("start", since), ("end", until)) if minutes is not None
    }
    return place_of(kind, name) | {"period": said} | more


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
    begun = {"period": {"start": iso_minutes_ago(600)}}
    token = run_records(home, "encounter", stay_resource() | begun | {"location": places}).rows["patient_id"][0].as_py()
    assert lies_in(home, token) == (*now, True)
    assert lies_in(home, token, in_minutes=45) == (*then, True)
    stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
    assert stay is not None
    assert now == then or stay.moves_us is not None, "the board looks again then"
    over = {
        "status": "finished",
        "period": {"start": iso_minutes_ago(600), "end": iso_minutes_ago(0)},
        "meta": {"versionId": "2"},
    }
    run_records(home, "encounter", stay_resource() | {"location": places} | over)
    assert lies_in(home, token, in_minutes=45)[2] is False


def test_a_transfer_is_not_put_back_by_a_producer_whose_clock_is_behind(home: Path) -> None:
    """Processed after a pause, it counted as 66 minutes old, before the admission: the board showed the old bed."""
    of = visit_message("A01", "MED^1^A", 0.5), visit_message("A02", "ICU^1^2", 0.1, prior="MED^1^A")
    token = run_admissions(home, [of[0]]).rows["patient_id"][0].as_py()
    run_admissions(home, [of[1]], minutes_behind=60)
    assert lies_in(home, token) == ("ICU", "1 2", True)
    run_admissions(home, [visit_message("A03", "ICU^1^2", 0.05)], minutes_behind=60)
    assert lies_in(home, token)[2] is False
