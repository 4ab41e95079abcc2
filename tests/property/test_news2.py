"""NEWS2 against the printed chart, at every boundary and between; and what is missing is never zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.clock_lag import steady_lags
from models.news2 import (
    ACVPU,
    ADULT,
    COMA_PARTS,
    MAX_AGE_HOURS,
    MEASURED,
    OUTLIVED_US,
    PARTS,
    News2,
    Situation,
    charted,
    expiries_us,
    news2,
)
from models.serving.formatting import disagreement_texts, event_text, number, reading_text
from models.tasks import load_task
from pipelines.online_store.values import COMPARATORS, UNUSABLE
from vitalake.clinical.records import History, code_number
from vitalake.vocabulary import load_vocabulary

AS_OF = 1_760_000_000_000_000
HOUR = 3_600_000_000
MINUTE = 60_000_000

# Chart 1 of the report, transcribed anew: for every part (lowest, highest, points), in the chart's whole steps.
CHART: dict[str, tuple[str, float, list[tuple[float, float, int]]]] = {
    "respiratory_rate": ("9279-1", 1, [(1, 8, 3), (9, 11, 1), (12, 20, 0), (21, 24, 2), (25, 80, 3)]),
    "oxygen_saturation": ("59408-5", 1, [(50, 91, 3), (92, 93, 2), (94, 95, 1), (96, 100, 0)]),
    "systolic_pressure": ("8480-6", 1, [(30, 90, 3), (91, 100, 2), (101, 110, 1), (111, 219, 0), (220, 300, 3)]),
    "pulse": ("8867-4", 1, [(20, 40, 3), (41, 50, 1), (51, 90, 0), (91, 110, 1), (111, 130, 2), (131, 250, 3)]),
    "consciousness": ("9269-2", 1, [(3, 14, 3), (15, 15, 0)]),
    "temperature": (
        "8310-5",
        0.1,
        [(30.0, 35.0, 3), (35.1, 36.0, 1), (36.1, 38.0, 0), (38.1, 39.0, 1), (39.1, 43.0, 2)],
    ),
}
_BOUNDARIES = [
    (part, code, value, points)
    for part, (code, _, bands) in CHART.items()
    for low, high, points in bands
    for value in (low, high)
]
NORMAL = {"9279-1": 16, "2708-6": 98, "8480-6": 120, "8867-4": 70, "9269-2": 15, "8310-5": 37.0, "3150-6": 21}


def _history(*rows: tuple[str, float, float]) -> History:
    """Return rows of (code, value, hours before)."""
    rows = tuple(sorted(rows, key=lambda r: -r[2]))
    times = np.array([AS_OF - int(hours * HOUR) for *_, hours in rows], np.int64)
    codes = np.array([code_number(code) for code, *_ in rows], np.uint32)
    return History(codes, np.array([value for _, value, _ in rows], np.float64), times, times)


def _score(*rows: tuple[str, float, float], situation: Situation = ADULT) -> News2:
    return news2(_history(*rows), as_of_us=AS_OF, situation=situation)


@pytest.mark.parametrize(("part", "code", "value", "points"), _BOUNDARIES)
def test_every_boundary_of_the_chart(part: str, code: str, value: float, points: int) -> None:
    score = _score((code, value, 1))
    assert score.parts[part] == points == score.total
    assert score.partial
    assert set(score.missing) == set(PARTS) - {part}


@pytest.mark.parametrize(("part", "code", "value", "points"), _BOUNDARIES)
def test_a_value_off_the_grid_counts_as_the_nearest_step(part: str, code: str, value: float, points: int) -> None:
    step = CHART[part][1]
    for off in (-0.49, 0.49):
        assert _score((code, value + off * step, 1)).parts[part] == points


@pytest.mark.parametrize("part", list(CHART))
@given(share=st.floats(0, 1))
def test_between_the_boundaries_the_points_are_the_band_s(part: str, share: float) -> None:
    code, _, bands = CHART[part]
    for low, high, points in bands:
        assert _score((code, min(low + share * (high - low), high), 1)).parts[part] == points


@pytest.mark.parametrize(
    ("code", "value", "points"),
    [("3151-8", 0, 0), ("3151-8", 0.5, 2), ("3150-6", 21, 0), ("3150-6", 21.5, 2), ("3150-6", 100, 2)],
)
def test_oxygen_is_given_by_flow_or_by_more_than_room_air(code: str, value: float, points: int) -> None:
    assert _score((code, value, 1)).parts["supplemental_oxygen"] == points


def test_the_later_of_flow_and_fraction_counts() -> None:
    assert _score(("3151-8", 4, 3), ("3150-6", 21, 1)).parts["supplemental_oxygen"] == 0
    assert _score(("3150-6", 60, 3), ("3150-6", 21, 2), ("3151-8", 0, 1)).parts["supplemental_oxygen"] == 0
    assert _score(("3151-8", 0, 3), ("3150-6", 60, 1)).parts["supplemental_oxygen"] == 2
    assert _score(("3151-8", 0, 1), ("3150-6", 60, 1)).parts["supplemental_oxygen"] == 2


def test_all_parts_known_and_normal_is_a_whole_zero() -> None:
    score = _score(*((code, value, 1) for code, value in NORMAL.items()))
    assert score.total == 0
    assert not score.partial
    assert score.missing == ()
    assert not score.red


def test_nothing_known_has_no_total() -> None:
    score = _score()
    assert score.total is None
    assert score.missing == PARTS
    assert set(score.parts.values()) == {None}


@given(missing=st.sets(st.sampled_from(sorted(NORMAL))))
def test_a_missing_part_is_named_and_never_filled(missing: set[str]) -> None:
    score = _score(*((code, value, 1) for code, value in NORMAL.items() if code not in missing))
    assert len(score.missing) == len(missing)
    assert all((score.parts[part] is None) == (part in score.missing) for part in PARTS)
    assert score.partial == bool(missing)


@given(old=st.floats(20, 250), new=st.floats(20, 250), code=st.sampled_from(["8867-4", "8889-8"]))
def test_the_latest_value_counts_whatever_came_before(old: float, new: float, code: str) -> None:
    assert _score(("8867-4", old, 5), (code, new, 1)).parts == _score((code, new, 1)).parts


def test_an_old_value_does_not_count() -> None:
    assert _score(("8867-4", 140, MAX_AGE_HOURS)).total is None
    assert _score(("8867-4", 140, MAX_AGE_HOURS - 0.01)).total == 3


def test_what_is_known_later_does_not_count() -> None:
    history = _history(("8867-4", 70, 2), ("8867-4", 140, 1))
    late = History(history.code, history.value, history.effective_us, history.available_us + np.array([0, 2 * HOUR]))
    assert news2(late, as_of_us=AS_OF).total == 0
    assert news2(late, as_of_us=AS_OF + HOUR).total == 3


def test_of_values_of_one_moment_the_worst_counts_in_any_order() -> None:
    for first, second in ((70, 140), (140, 70)):
        assert _score(("8867-4", first, 1), ("8889-8", second, 1)).total == 3


def test_one_part_with_three_points_is_red() -> None:
    assert _score(("9279-1", 30, 1)).red
    assert not _score(("9279-1", 22, 1)).red


def test_a_value_that_is_no_number_does_not_count() -> None:
    assert _score(("8867-4", math.nan, 1)).total is None


# -- what is shown is what is scored ----------------------------------------------------------------------------------


def _points_on_the_chart(part: str, shown: float) -> int:
    """Return the points of a value as it is printed, looked up on the chart by a person."""
    _, _, bands = CHART[part]
    return min(bands, key=lambda band: max(band[0] - shown, shown - band[1], 0))[2]


_EDGES = [
    (part, code, round(edge + offset * step, 6))
    for part, (code, step, bands) in CHART.items()
    for low, high, _ in bands
    for edge in (low, high)
    for offset in (-0.51, -0.5, -0.49, 0, 0.49, 0.5, 0.51)
]


@pytest.mark.parametrize(("part", "code", "value"), _EDGES)
def test_the_printed_value_has_the_points_that_stand_beside_it(part: str, code: str, value: float) -> None:
    """35.05 degrees were shown as 35.0, which is 3 points, with 1 point."""
    score = _score((code, value, 1))
    printed = number(value, MEASURED[part].decimals)
    assert float(printed) == score.latest[part].value
    assert score.parts[part] == _points_on_the_chart(part, float(printed))


@pytest.mark.parametrize("part", list(CHART))
@given(share=st.floats(0, 1), noise=st.sampled_from([0.0, 1e-9, -1e-9, 5e-8]))
def test_any_printed_value_has_its_points(part: str, share: float, noise: float) -> None:
    code, _, bands = CHART[part]
    value = bands[0][0] + share * (bands[-1][1] - bands[0][0]) + noise
    score = _score((code, value, 1))
    assert score.parts[part] == _points_on_the_chart(part, float(number(value, MEASURED[part].decimals)))


@given(st.floats(-1e6, 1e6), st.integers(0, 2))
def test_rounding_twice_is_rounding_once(value: float, decimals: int) -> None:
    once = charted(value, decimals)
    assert charted(once, decimals) == once
    assert abs(once - value) <= 0.5 * 10**-decimals + 1e-6


@pytest.mark.parametrize(("place", "points"), [(0, 0), (1, 3), (2, 3), (3, 3), (4, 3)])
def test_consciousness_in_letters_scores_unless_alert(place: int, points: int) -> None:
    assert _score(("67775-7", place, 1)).parts["consciousness"] == points
    assert _score(("9269-2", 15, 2), ("67775-7", place, 1)).parts["consciousness"] == points, "the later one counts"
    assert _score(("67775-7", place, 1), ("9269-2", 14, 1)).parts["consciousness"] == 3, "of one moment the worse"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("76215-3", "systolic_pressure"),
        ("76534-7", "systolic_pressure"),
        ("8331-1", "temperature"),
        ("76282-3", "pulse"),
    ],
)
def test_how_it_was_measured_does_not_hide_a_part(code: str, part: str) -> None:
    assert _score((code, 30, 1)).parts[part] == 3


def test_oxygen_that_is_shown_as_none_is_none() -> None:
    assert _score(("3151-8", 0.04, 1)).parts["supplemental_oxygen"] == 0
    assert _score(("3151-8", 0.05, 1)).parts["supplemental_oxygen"] == 2
    assert _score(("3150-6", 21.4, 1)).parts["supplemental_oxygen"] == 0


# -- of now -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 30), min_size=7, max_size=7))
def test_each_part_expires_by_itself_whatever_else_comes(ages: list[float]) -> None:
    """Vital signs of 40 hours ago gave a whole, high score as long as nothing else came."""
    rows = [(code, value, hours) for (code, value), hours in zip(NORMAL.items(), ages, strict=True)]
    score = _score(*rows, ("2823-3", 4.1, 0))
    alive = [hours < MAX_AGE_HOURS for hours in ages]
    assert len(score.missing) == alive.count(False)
    assert score.latest.keys() == set(PARTS), "what has expired is still known"


@given(
    st.lists(st.tuples(st.sampled_from(sorted(NORMAL)), st.floats(0, 40)), min_size=1, max_size=12), st.floats(0, 40)
)
def test_between_its_moments_a_score_does_not_change(rows: list[tuple[str, float]], later: float) -> None:
    """Whoever asks between two changes, once or often, gets the record of the last one."""
    task, by_us = load_task("mortality"), AS_OF + int(later * HOUR)
    history = _history(*((code, NORMAL[code], hours) for code, hours in rows))
    moment = task.moment(history, by_us=by_us)
    assert moment is not None and moment <= by_us
    assert news2(history, as_of_us=moment) == news2(history, as_of_us=by_us)
    assert task.is_fresh(history, as_of_us=moment) == task.is_fresh(history, as_of_us=by_us)
    due = task.next_end_us(history, by_us=by_us)
    if due is not None:
        assert due > by_us
        assert news2(history, as_of_us=due - 1) == news2(history, as_of_us=by_us)
    assert task.moment(history, by_us=moment) == moment


@pytest.mark.parametrize("ahead_us", [1, 300_000, 2_000_000, 90_000_000])
def test_values_of_a_clock_that_is_fast_count_from_their_own_moment_on(ahead_us: int) -> None:
    """Nothing else comes after them: what was before must not stay on the board."""
    task, ill = load_task("mortality"), NORMAL | {"9279-1": 34.0, "2708-6": 84.0, "8480-6": 80.0}
    number = [code_number(code) for code in NORMAL]
    before, known = AS_OF - 10 * MINUTE, AS_OF
    effective = np.array([before] * len(NORMAL) + [known + ahead_us] * len(NORMAL))
    available = np.array([before] * len(NORMAL) + [known] * len(NORMAL))
    values = np.array([*NORMAL.values(), *(ill[code] for code in NORMAL)])
    history = History(np.array(number * 2, np.uint32), values, effective, available)
    for later in (0, 45_000_000):
        by_us = known + ahead_us + later
        moment = task.moment(history, by_us=by_us)
        assert moment == known + ahead_us
        found = news2(history, as_of_us=moment)
        assert (found.total or 0) >= 9
        assert found == news2(history, as_of_us=by_us)
        assert task.newest_known(history, by_us=by_us) == moment
    assert news2(history, as_of_us=task.moment(history, by_us=known) or 0).total == 0, "not before its moment"


# -- who is not scored, and by which scale ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (Situation(age_years=15), "child"),
        (Situation(age_years=0), "child"),
        (Situation(age_years=30, pregnant=True), "pregnancy"),
        (Situation(age_years=16), ""),
        (Situation(), ""),
    ],
)
def test_children_and_pregnant_women_have_no_adult_score(situation: Situation, expected: str) -> None:
    score = _score(("8867-4", 150, 1), ("9279-1", 0, 1), situation=situation)
    assert score.withheld == expected
    assert (score.total is None) == bool(expected)
    assert score.latest["pulse"].value == 150, "the value itself is shown"
    assert score.events, "and so is that no breath was found"
    if expected:
        assert set(score.parts.values()) == {None}


# Scale 2 of the chart, transcribed: on air and on oxygen.
_SCALE_2 = {
    False: [(50, 83, 3), (84, 85, 2), (86, 87, 1), (88, 92, 0), (93, 100, 0)],
    True: [(50, 83, 3), (84, 85, 2), (86, 87, 1), (88, 92, 0), (93, 94, 1), (95, 96, 2), (97, 100, 3)],
}


@pytest.mark.parametrize("on_oxygen", [False, True])
def test_scale_2_at_every_boundary(on_oxygen: bool) -> None:
    flow = 2.0 if on_oxygen else 0.0
    for low, high, points in _SCALE_2[on_oxygen]:
        for value in (low, high):
            score = _score(("59408-5", value, 1), ("3151-8", flow, 1), situation=Situation(scale_2=True))
            assert (score.parts["oxygen_saturation"], score.scale) == (points, 2), (value, on_oxygen)


# -- rates of 0 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "part"), [("9279-1", "respiratory_rate"), ("8867-4", "pulse"), ("8889-8", "pulse")])
def test_a_rate_of_0_is_an_event_and_never_the_normal_value_before_it(code: str, part: str) -> None:
    score = _score((code, 70 if part == "pulse" else 16, 2), (code, 0, 1))
    assert [(event.part, event.at_us) for event in score.events] == [(part, AS_OF - HOUR)]
    assert score.parts[part] == 3
    assert score.latest[part].value == 0
    assert not _score((code, 0, 2), (code, 60 if part == "pulse" else 16, 1)).events, "the same sensor has ended it"
    assert not _score((code, 0, MAX_AGE_HOURS)).events


def test_another_sensor_in_the_same_minutes_does_not_hide_a_rate_of_0() -> None:
    minutes = OUTLIVED_US / HOUR
    score = _score(("8867-4", 0, 1), ("8889-8", 72, 1 - minutes / 2))
    assert (score.parts["pulse"], score.latest["pulse"].value, len(score.events)) == (3, 0, 1)
    later = _score(("8867-4", 0, 1), ("8889-8", 72, 1 - minutes))
    assert (later.parts["pulse"], later.events) == (0, ()), "a pulse long after it, and silence from the other"


def test_two_sensors_at_odds_are_both_told() -> None:
    score = _score(("8867-4", 0, 1), ("8889-8", 75, 1))
    assert (score.events[0].value, score.beside["pulse"].value) == (0, 75)
    text = event_text(score.events[0], score.beside["pulse"])
    assert text == "HR 0, but 75 by pleth: patient or probe?"


def test_a_temperature_of_0_is_no_event() -> None:
    assert not _score(("8310-5", 0, 1)).events


_SECOND = 1 / 3600


def test_of_two_sensors_of_one_code_seconds_apart_the_later_does_not_hide_the_worse() -> None:
    for first, second in ((84, 97), (97, 84)):
        score = _score(("59408-5", first, 1 + 10 * _SECOND), ("59408-5", second, 1))
        assert (score.parts["oxygen_saturation"], score.latest["oxygen_saturation"].value) == (3, 84)
    score = _score(("59408-5", 84, 1 + 10 * _SECOND), ("59408-5", 97, 1))
    assert disagreement_texts(score) == ["SpO₂ 84 and 97 within 1 min"]
    assert _score(("59408-5", 84, 1 + 60 * _SECOND), ("59408-5", 97, 1)).parts["oxygen_saturation"] == 0, "it rose"
    both = _score(("8867-4", 150, 1 + 2 * _SECOND), ("8889-8", 70, 1))
    assert (both.parts["pulse"], both.latest["pulse"].value, both.beside["pulse"].value) == (3, 150, 70)


def test_of_two_sensors_of_one_code_at_one_time_both_are_told() -> None:
    score = _score(("59408-5", 82, 1), ("59408-5", 97, 1))
    assert (score.latest["oxygen_saturation"].value, disagreement_texts(score)) == (82, ["SpO₂ 82 and 97 within 1 min"])
    event = _score(("8867-4", 0, 1), ("8867-4", 75, 1))
    assert (event.events[0].value, event.beside["pulse"].value) == (0, 75)


@pytest.mark.parametrize(("place", "letter"), [(1, "C"), (2, "V"), (3, "P"), (4, "U")])
def test_a_letter_beside_a_coma_score_is_no_coma_score(place: int, letter: str) -> None:
    """The board said "GCS 1 and 15 within 1 min" of who was confused: a coma score of 1 is not one."""
    score = _score(("9269-2", 15.0, 1), (ACVPU, float(place), 1 - 20 * _SECOND))
    assert disagreement_texts(score) == [f"ACVPU {letter} and GCS 15 within 1 min"]
    worse = _score(("9269-2", 9.0, 1), (ACVPU, 0.0, 1 - 20 * _SECOND))
    assert disagreement_texts(worse) == ["GCS 9 and ACVPU A within 1 min"]


@pytest.mark.parametrize(("unusable", "kind"), [(np.nan, "none"), (-np.inf, "low"), (np.inf, "high")])
def test_what_cannot_be_used_ends_the_value_before_it(unusable: float, kind: str) -> None:
    score = _score(("8867-4", 72, 2), ("8867-4", unusable, 1))
    assert (score.parts["pulse"], score.ended["pulse"].kind, "pulse" in score.latest) == (None, kind, False)
    assert (score.total, score.partial) == (None, True)
    assert _score(("8867-4", 72, 2), ("8867-4", unusable, 2)).parts["pulse"] == 0, "not a value of the same moment"
    assert _score(("8867-4", unusable, 2), ("8867-4", 72, 1)).parts["pulse"] == 0, "nor a later one"
    beside = _score(("8867-4", unusable, 1), ("8889-8", 72, 1 + 5 * _SECOND))
    assert beside.parts["pulse"] == 0, "nor what another sensor says in that minute"
    assert _score(("8867-4", 72, 2), ("8867-4", unusable, 1), ("8889-8", 72, 1.5)).parts["pulse"] is None


def test_a_value_that_never_was_has_not_ended() -> None:
    """A monitor without a temperature probe says so every minute: it is missing, and nobody must run."""
    assert _score(("8310-5", np.nan, 2), ("8310-5", np.nan, 1)).ended == {}
    twice = _score(("8310-5", 37, 3), ("8310-5", np.nan, 2), ("8310-5", np.nan, 1))
    assert twice.ended["temperature"].at_us == AS_OF - 2 * HOUR, "since when, not until when"


@pytest.mark.parametrize(
    ("part", "code", "value", "points"),
    [
        ("systolic_pressure", "76215-3", 85, 3),
        ("systolic_pressure", "76534-7", 105, 1),
        ("temperature", "8331-1", 39.5, 2),
        ("pulse", "8893-0", 135, 3),
        ("oxygen_saturation", "59410-1", 93, 2),
    ],
)
def test_a_near_code_is_the_part_it_is_a_case_of(part: str, code: str, value: float, points: int) -> None:
    score = _score((code, value, 1.0))
    assert score.parts[part] == points
    assert score.latest[part].code == code_number(code), "what is shown says how it was measured"


@pytest.mark.parametrize("place", range(5))
def test_whoever_is_not_alert_scores_3(place: int) -> None:
    answers = load_vocabulary().answers[ACVPU]
    assert sorted({*answers.score.values()}) == list(range(5))
    score = _score((ACVPU, float(place), 1.0), ("9269-2", 15.0, 2.0))
    assert score.parts["consciousness"] == (3 if place else 0)
    assert reading_text("consciousness", score.latest["consciousness"]) == "ACVPU"[place]
    assert _score((ACVPU, float(place), 2.0), ("9269-2", 14.0, 1.0)).parts["consciousness"] == 3, "the newest counts"


@pytest.mark.parametrize(
    ("parts", "total", "most"),
    [
        ([("9267-6", 1, 0), ("9268-4", 1, 0)], 60, 7),  # the intubated say nothing
        ([("9267-6", 1, 2), ("9270-0", 1, 1), ("9268-4", 1, 0)], 60, 3),
        ([("9267-6", 1, 0)], 60, 12),
        ([("9267-6", 1, 0)], None, 12),
        ([("9267-6", 3, 0), ("9268-4", 6, 0)], 60, 14),
        ([("9268-4", 6, 0), ("9267-6", 4, 0)], 60, None),  # the total stands
        ([("9267-6", 3, 90), ("9268-4", 6, 0)], 60, None),  # the total is newer
        ([("9267-6", 4, 0)], None, None),
    ],
)
def test_one_part_of_a_coma_score_that_is_not_its_best_says_what_the_whole_is_at_most(
    parts: list[tuple[str, float, float]], total: float | None, most: int | None
) -> None:
    """A total of 15 an hour before stood for "low" beside eyes and movement of 1; so did nothing beside eyes of 1."""
    before = [] if total is None else [("9269-2", 15.0, total / 60)]
    score = _score(*before, *((code, float(value), minutes / 60) for code, value, minutes in parts))
    if most is None:
        assert score.parts["consciousness"] == (None if total is None else 0)
        return
    assert (score.parts["consciousness"], score.latest["consciousness"].value) == (3, most)
    assert reading_text("consciousness", score.latest["consciousness"]) == f"at most {most}"


@pytest.mark.parametrize(
    ("parts", "before", "most"),
    [
        ([("9267-6", 2, 0), ("9268-4", 4, 0), ("9270-0", np.nan, 0)], [], "at most 11"),
        ([("9267-6", 2, 0), ("9268-4", 4, 0), ("9270-0", np.nan, 0)], [("9269-2", 15.0, 1.0)], "at most 11"),
        ([("9267-6", 3, 20)], [], "at most 14"),
        ([("9267-6", 3, 20), ("9268-4", 6, 0)], [], "at most 14"),
        ([("9267-6", 3, 5), ("9268-4", 6, 5), ("9270-0", 5, 5)], [], "14"),
        ([("9267-6", 4, 5), ("9268-4", 6, 5), ("9270-0", 5, 5)], [], None),  # all that was known was the best
        ([("9267-6", 3, 90)], [("9269-2", 15.0, 1.0)], None),  # nothing is newer than the total that was
    ],
)
def test_that_a_coma_score_has_no_total_does_not_end_what_its_parts_say(
    parts: list[tuple[str, float, float]], before: list[tuple[str, float, float]], most: str | None
) -> None:
    """Of the intubated there is never a total; the panel says why, and eyes of 2 were nothing."""
    score = _score(*before, ("9269-2", np.nan, 0.0), *((code, value, minutes / 60) for code, value, minutes in parts))
    latest = score.latest.get("consciousness")
    assert (latest and reading_text("consciousness", latest)) == most
    assert score.parts["consciousness"] == (None if most is None else 3)
    assert most is not None or score.ended["consciousness"].kind == "none"
    words = _signed(("9267-6", 3, 1.0, 0), ("9269-2", np.nan, 0.5, UNUSABLE))
    assert "consciousness" in words.ended, "what came and cannot be read may be worse"


def test_of_two_readings_of_one_part_of_a_coma_score_the_worse_counts() -> None:
    for eyes in ((4.0, 1.0), (1.0, 4.0)):
        score = _score(*(("9267-6", one, 1.0) for one in eyes), ("9268-4", 6.0, 1.0), ("9270-0", 5.0, 1.0))
        assert (score.latest["consciousness"].value, score.parts["consciousness"]) == (12, 3)


def test_parts_of_a_coma_score_are_summed_where_they_are_newer_than_a_total() -> None:
    """Eyes, verbal and motor of 1 each left the total of 15 before them, and "low"."""
    deep = [(code, 1.0, 1.0) for code in COMA_PARTS]
    score = _score(("9269-2", 15.0, 3.0), *deep)
    assert (score.latest["consciousness"].value, score.parts["consciousness"]) == (3, 3)
    assert _score(*deep).parts["consciousness"] == 3
    assert _score(("9269-2", 15.0, 0.5), *deep).parts["consciousness"] == 0, "a later total counts"
    history = _history(*deep)
    assert expiries_us(history) == [AS_OF - HOUR + int(MAX_AGE_HOURS * HOUR)]


def test_oxygen_that_is_not_known_any_more_is_not_room_air() -> None:
    score = _score(("3151-8", 0, 2), ("3151-8", np.nan, 1))
    assert (score.parts["supplemental_oxygen"], score.ended["supplemental_oxygen"].kind) == (None, "none")
    score = _score(("3151-8", 4, 2), ("3150-6", 21, 3), ("3150-6", np.nan, 2.5))
    assert score.parts["supplemental_oxygen"] == 2, "what was told later by the other code stands"


@pytest.mark.parametrize(
    ("code", "comparator", "value", "part", "points"),
    [
        ("59408-5", "<", 96, "oxygen_saturation", 3),
        ("9279-1", "<", 12, "respiratory_rate", 3),
        ("8867-4", ">", 100, "pulse", 3),
        ("8310-5", "<=", 38, "temperature", 3),
        ("59408-5", ">=", 97, "oxygen_saturation", 0),
    ],
)
def test_a_value_with_a_comparator_scores_the_worst_it_may_be(
    code: str, comparator: str, value: float, part: str, points: int
) -> None:
    history = replace(_history((code, value, 1)), comparator=np.array([COMPARATORS.index(comparator)], np.uint8))
    score = news2(history, as_of_us=AS_OF)
    assert score.parts[part] == points
    assert reading_text(part, score.latest[part]).startswith(comparator)


# -- the want of a value, and what no living body shows ---------------------------------------------------------------


def _signed(*rows: tuple[str, float, float, str | int], situation: Situation = ADULT) -> News2:
    """Return the score of rows of (code, value, hours before, comparator or UNUSABLE)."""
    rows = tuple(sorted(rows, key=lambda row: -row[2]))
    signs = [sign if isinstance(sign, int) else COMPARATORS.index(sign) for *_, sign in rows]
    history = _history(*(row[:3] for row in rows))
    return news2(replace(history, comparator=np.array(signs, np.uint8)), as_of_us=AS_OF, situation=situation)


@pytest.mark.parametrize("unusable", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize(
    ("code", "part"), [("9279-1", "respiratory_rate"), ("8867-4", "pulse"), ("8480-6", "systolic_pressure")]
)
def test_an_event_stands_when_its_sensor_has_no_value_any_more(code: str, part: str, unusable: float) -> None:
    """A standing asystole was wiped by the next message without a value: 43rd of 79 on the board."""
    ends = (code, unusable, 10 * _SECOND)
    score = _score((code, 0, 60 * _SECOND), ends)
    assert [event.part for event in score.events] == [part]
    assert (score.parts[part], score.ended[part].code) == (3, code_number(code)), "both are told"
    lasts = OUTLIVED_US / HOUR
    assert not _score((code, 0, lasts), (code, unusable, 0)).events, "a probe that came off stays silent"
    assert _score((code, 0, lasts), (code, unusable, 10 * _SECOND)).events, "until then it is told"
    healed = _score((code, 0, 60 * _SECOND), (code, 118 if code == "8480-6" else 60, 40 * _SECOND), ends)
    assert not healed.events, "another value has ended it before"


def test_an_event_whose_sensor_fell_silent_is_not_hidden_by_another() -> None:
    ecg, pleth = "76282-3", "8889-8"
    score = _score((ecg, 0, 40 * _SECOND), (ecg, np.nan, 30 * _SECOND), (pleth, 75, 20 * _SECOND))
    assert event_text(score.events[0], score.beside["pulse"]) == "HR 0 by ECG, but 75 by pleth: patient or probe?"
    assert (score.parts["pulse"], score.ended) == (3, {})
    long = _score((ecg, 0, 0.5), (ecg, np.nan, 0.49), (pleth, 75, 20 * _SECOND))
    assert (long.parts["pulse"], long.events) == (0, ())


@pytest.mark.parametrize(
    ("code", "bound"), [("8867-4", 10), ("8867-4", 5), ("59408-5", 10), ("9279-1", 1), ("8480-6", 20)]
)
def test_what_lies_below_a_bound_of_no_living_body_is_an_event(code: str, bound: float) -> None:
    (event,) = _signed((code, bound, 1, "<")).events
    assert event_text(event).partition(":")[0].endswith(f" <{bound}")
    least = load_vocabulary().lowest_measurement(code)
    assert not _signed((code, least + 1, 1, "<")).events, "it may be a measurement"
    assert not _signed((code, least, 1, "<=")).events


# -- oxygen -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_2", [False, True])
def test_oxygen_by_one_way_is_not_hidden_by_none_of_the_other_seconds_later(scale_2: bool) -> None:
    """A ventilated patient: 40 % by the ventilator, and no flow, were "0 L, low"."""
    rows = [("59408-5", 97.0, 20 * _SECOND), ("3150-6", 40.0, 20 * _SECOND), ("3151-8", 0.0, 10 * _SECOND)]
    score = _score(*rows, situation=Situation(scale_2=scale_2))
    assert score.parts["supplemental_oxygen"] == 2
    assert reading_text("supplemental_oxygen", score.latest["supplemental_oxygen"]) == "40 %"
    assert score.parts["oxygen_saturation"] == (3 if scale_2 else 0)
    assert _score(("3151-8", 4, 10 * _SECOND), ("3151-8", 0, 0)).parts["supplemental_oxygen"] == 2
    assert _score(("3151-8", 4, 61 * _SECOND), ("3151-8", 0, 0)).parts["supplemental_oxygen"] == 0


@pytest.mark.parametrize(("fraction", "scale_2", "total"), [(40, False, 2), (28, True, 5)])
def test_no_flow_does_not_end_a_fraction_that_still_counts(fraction: float, scale_2: bool, total: int) -> None:
    """40 % at -4 min, and a flow of none now, were "0 low"; by scale 2 "5 medium" became "0 low"."""
    others = [(code, float(value), 0.1) for code, value in NORMAL.items() if code not in ("3150-6", "2708-6")]
    at = 4 / 60
    rows = [*others, ("2708-6", 97.0, 0.1), ("3150-6", fraction, at), ("3151-8", 0.0, 0.0)]
    score = _score(*rows, situation=Situation(scale_2=scale_2))
    assert score.total == total
    assert disagreement_texts(score) == [f"O₂ {fraction} % and 0 L 4 min later"]
    assert _score(*rows, ("3150-6", 21.0, 0.01), situation=Situation(scale_2=scale_2)).total == 0
    old = [row if row[0] != "3150-6" else ("3150-6", fraction, 12.01) for row in rows]
    assert _score(*old, situation=Situation(scale_2=scale_2)).total == 0, "too old to count"
    flow = _score(*rows[:-1], ("3151-8", 2.0, 0.0), situation=Situation(scale_2=scale_2))
    assert (flow.parts["supplemental_oxygen"], disagreement_texts(flow)) == (2, [])


@pytest.mark.parametrize(
    ("told", "given"),
    [
        ([("3150-6", 60, 3.0), ("3151-8", 4, 2.0)], False),
        ([("3150-6", 60, 3.0), ("3151-8", 4, 2.0), ("3151-8", 0, 1.0)], False),
        ([("3150-6", 60, 3.0), ("3151-8", 0.04, 2.0)], True),
        ([("3150-6", 36, 3.0), ("3151-8", 4, 3.0)], False),
        ([("3150-6", 36, 3.0), ("3151-8", 4, 3.0 + 30 * _SECOND)], False),
        ([("3150-6", 60, 3.0), ("3151-8", 4, 4.0)], True),
        ([("3150-6", 60, 3.0), ("3151-8", 4, 2.0), ("3150-6", 40, 1.0)], True),
    ],
)
@pytest.mark.parametrize("scale_2", [False, True])
def test_a_fraction_that_a_flow_has_ended_does_not_come_back_with_a_flow_of_none(
    told: list[tuple[str, float, float]], given: bool, scale_2: bool
) -> None:
    """60 % at -3 h, 4 L at -2 h, and a flow of 0 now, at a saturation of 97: scale 2 gave 5 to somebody on air."""
    others = [(code, float(value), 0.1) for code, value in NORMAL.items() if code not in ("3150-6", "2708-6")]
    rows = [*others, ("2708-6", 97.0, 0.1), *told, ("3151-8", 0.0, 0.0)]
    score = _score(*rows, situation=Situation(scale_2=scale_2))
    assert score.total == (0 if not given else 5 if scale_2 else 2)
    assert bool(disagreement_texts(score)) is given


@pytest.mark.parametrize(
    ("code", "value", "sign", "points", "text"),
    [
        ("3151-8", 0, ">", 2, ">0 L"),
        ("3150-6", 21, ">", 2, ">21 %"),
        ("3151-8", 2.5, "<", 2, "<2.5 L"),
        ("3151-8", 0, "<=", 0, "<=0 L"),
    ],
)
def test_oxygen_is_given_where_it_may_be_and_says_so(
    code: str, value: float, sign: str, points: int, text: str
) -> None:
    score = _signed((code, value, 1, sign))
    assert score.parts["supplemental_oxygen"] == points
    assert reading_text("supplemental_oxygen", score.latest["supplemental_oxygen"]) == text


# -- a part, not a code, is ended -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "known", "value", "code"),
    [
        ("consciousness", "9269-2", 15, ACVPU),
        ("oxygen_saturation", "2708-6", 97, "59408-5"),
        ("pulse", "8889-8", 75, "8867-4"),
        ("supplemental_oxygen", "3150-6", 21, "3151-8"),
        ("supplemental_oxygen", "3151-8", 0, "3150-6"),
    ],
)
def test_what_came_and_cannot_be_used_ends_the_part_whatever_its_code(
    part: str, known: str, value: float, code: str
) -> None:
    """A coma score of 15, then "drowsy": 0, low, without a word."""
    for unusable, sign in ((np.nan, UNUSABLE), (np.inf, UNUSABLE), (-np.inf, 0)):
        score = _signed((known, value, 1.5, 0), (code, unusable, 10 * _SECOND, sign))
        assert (score.parts[part], part in score.ended, part in score.latest) == (None, True, False)
    silent = _signed((known, value, 1.5, 0), (code, np.nan, 10 * _SECOND, 0))
    assert (silent.parts[part], silent.ended) == (0, {}), "a sensor that was never connected says nothing"
    later = _signed((code, np.nan, 1, UNUSABLE), (known, value, 0.5, 0))
    assert (later.parts[part], later.ended) == (0, {})


def test_no_oxygen_by_one_way_does_not_stand_in_for_words_of_the_other() -> None:
    words = ("3150-6", np.nan, 10 * _SECOND, UNUSABLE)  # "high flow nasal"
    assert _signed(("3151-8", 0, 60 * _SECOND, 0), words).parts["supplemental_oxygen"] is None
    assert _signed(("3151-8", 6, 60 * _SECOND, 0), words).parts["supplemental_oxygen"] == 2
    assert _signed(("3151-8", 0, 10 * _SECOND, 0), words).parts["supplemental_oxygen"] == 0, "of one moment"


# -- clocks that are behind ------------------------------------------------------------------------------------------


def _told(*rows: tuple[str, float, float, float]) -> History:
    """Return rows of (code, value, minutes before when it was so, minutes before when it came)."""
    rows = tuple(sorted(rows, key=lambda row: -row[2]))
    effective, available = (np.array([AS_OF - int(row[place] * MINUTE) for row in rows], np.int64) for place in (2, 3))
    codes = np.array([code_number(code) for code, *_ in rows], np.uint32)
    return History(codes, np.array([value for _, value, *_ in rows], np.float64), effective, available)


_PLETH = [("8889-8", 75.0, minute, minute) for minute in range(90)]


def test_a_rate_of_0_by_a_clock_an_hour_behind_is_an_event_when_it_comes() -> None:
    """Summer time was not set: an electrocardiogram's rate of 0 was an hour old, and "0 low" stood beside it."""
    alone = news2(_told(*_PLETH, ("8867-4", 0, 60.1, 0.1)), as_of_us=AS_OF)
    assert [(one.value, one.came_us) for one in alone.events] == [(0, AS_OF - int(0.1 * MINUTE))]
    assert (alone.parts["pulse"], alone.beside["pulse"].value) == (3, 75)
    text = event_text(alone.events[0], alone.beside["pulse"])
    assert text == "HR 0, arrived 1 h late, but 75 by pleth: patient or probe?"
    steadily = [("8867-4", 70.0, 60 + minute, minute) for minute in range(1, 30)]
    assert news2(_told(*_PLETH, *steadily, ("8867-4", 0, 60, 0)), as_of_us=AS_OF).events
    assert not news2(_told(*_PLETH, *steadily, ("8867-4", 70, 60, 0)), as_of_us=AS_OF).events


def test_a_clock_that_is_set_back_hides_no_event_behind_what_it_told_before() -> None:
    before = [("8867-4", 72.0, minute, minute) for minute in range(6, 30)]
    after = [("8867-4", 70.0, 60 + minute, minute) for minute in range(1, 5)]
    assert news2(_told(*before, *after, ("8867-4", 0, 60, 0)), as_of_us=AS_OF).events
    assert not news2(_told(*before, ("8867-4", 0, 60, 0)), as_of_us=AS_OF).events, "a single one out of order"


def test_who_catches_up_tells_of_then_and_not_of_now() -> None:
    """A gateway brings an hour within a minute, or a load of history a day: its zeros are not of now."""
    hour = [("8867-4", 70.0 if minute > 20 else 0.0, minute, minute / 60) for minute in range(16, 80)]
    assert not news2(_told(*_PLETH, *hour), as_of_us=AS_OF).events
    before = [("8867-4", 0.0, 600 - minute, 0.0) for minute in range(0, 500, 5)]
    assert not news2(_told(*_PLETH, *before), as_of_us=AS_OF).events
    assert news2(_told(("8867-4", 0.0, 60, 0.0)), as_of_us=AS_OF).events, "nothing was measured since"


def test_an_event_that_came_late_is_over_when_others_came_for_long_after_it() -> None:
    minutes = OUTLIVED_US / MINUTE
    assert news2(_told(*_PLETH, ("8867-4", 0, 80, minutes - 1)), as_of_us=AS_OF).events
    assert not news2(_told(*_PLETH, ("8867-4", 0, 80, minutes)), as_of_us=AS_OF).events


def test_a_steady_lag_is_told_and_no_other() -> None:
    codes = {"pulse": (code_number("8867-4"),), "temperature": (code_number("8310-5"),)}

    def lags(rows: Sequence[tuple[str, float, float, float]]) -> dict[str, float]:
        found = steady_lags(_told(*rows), codes, since_us=AS_OF - 12 * HOUR)
        return {part: lag.us / MINUTE for part, lag in found.items()}

    assert lags([("8867-4", 70, 60 + minute, minute) for minute in range(3)]) == {"pulse": 60}
    assert lags([("8867-4", 70, 3 + minute, minute) for minute in range(9)]) == {}, "a way of three minutes"
    assert lags([("8867-4", 70, 60 + minute, minute) for minute in (0, 1)]) == {}, "two may be chance"
    assert lags([("8867-4", 70, 60 + minute / 60, minute / 60) for minute in range(20)]) == {}, "nor what came at once"
    assert lags([("8867-4", 70, minute, minute / 30) for minute in range(10, 600)]) == {}, "somebody catches up"
    both = [("8867-4", 70, 60 + minute, minute) for minute in range(9)]
    assert lags([*both, *(("8867-4", 71, minute, minute) for minute in range(9))]) == {"pulse": 60}, "two devices"
    assert lags([("8867-4", 70, 60 + minute, minute) for minute in range(20, 30)] + [("8867-4", 71, 0, 0)]) == {}
    noted = [("8310-5", 37, 240 * visit + late, 240 * visit) for visit, late in enumerate((8.0, 12.0, 6.0, 15.0))]
    assert lags(noted) == {}, "what people write down is late by chance"


def test_a_clock_that_was_behind_is_not_told_of_when_its_device_is_gone() -> None:
    """For two days after the monitor had gone the row said that its clock is behind, and was never low."""
    codes = {"pulse": (code_number("8867-4"), code_number("8889-8"))}

    def told(*rows: tuple[str, float, float, float], since: float = 12 * 60) -> bool:
        return bool(steady_lags(_told(*rows), codes, since_us=AS_OF - int(since * MINUTE)))

    def gone(minutes: float) -> list[tuple[str, float, float, float]]:
        return [("8867-4", 70.0, 60 + minutes + minute, minutes + minute) for minute in range(9)]

    assert told(*gone(10), *_PLETH)
    assert not told(*gone(16), *_PLETH), "another code has come in time for long"
    assert told(*gone(600))
    assert not told(*gone(661)), "its last value does not count"


def test_values_that_come_by_file_are_told_of_and_hidden_only_by_others_that_come_in_time() -> None:
    """An hourly file twenty minutes after the hour kept a whole ward from ever being low."""
    codes = {"pulse": (code_number("8867-4"), code_number("8889-8"))}
    file = [("8867-4", 70.0, 60 * hour + 20, 60.0 * hour) for hour in range(6)]
    for rows, hidden in ((file, False), ([*file, ("8889-8", 72.0, 25, 25)], False), ([*file, *_PLETH], True)):
        found = steady_lags(_told(*rows), codes, since_us=AS_OF - 12 * HOUR)["pulse"]
        assert (found.us / MINUTE, found.hidden) == (20, hidden)
