"""Isolated readings: marked if both sides agree, never removed, and a real change is not taken for one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.news2 import news2
from models.spikes import LEAST_STEP, is_alone, spikes, unconfirmed
from vitalake.clinical.records import History, code_number

MINUTE = 60_000_000
STEP = LEAST_STEP["pulse"]


def _times(count: int) -> list[int]:
    return [i * MINUTE for i in range(count)]


@given(st.integers(3, 55), st.sampled_from([150.0, 30.0, 220.0]), st.lists(st.floats(-4, 4), min_size=59, max_size=59))
def test_one_spike_between_58_normal_values_is_found_and_nothing_else(
    at: int, spike: float, noise: list[float]
) -> None:
    values = [80 + off for off in noise]
    values[at] = spike
    assert spikes(values, _times(59), least_step=STEP) == [at]


@given(st.integers(6, 50))
def test_a_lasting_change_is_no_spike(at: int) -> None:
    values = [80.0] * at + [150.0] * (59 - at)
    assert spikes(values, _times(59), least_step=STEP) == []


def test_hourly_charting_has_no_spikes() -> None:
    values = [80.0, 80, 80, 150, 80, 80, 80]
    assert spikes(values, [i * 60 * MINUTE for i in range(7)], least_step=STEP) == []
    assert spikes(values, _times(7), least_step=STEP) == [3]


def test_the_first_reading_of_a_change_is_marked_until_the_next_confirms_it() -> None:
    assert is_alone([80.0, 82, 79, 81, 150], _times(5), least_step=STEP)
    assert not is_alone([80.0, 82, 150, 149, 150], _times(5), least_step=STEP)
    assert not is_alone([80.0, 150], _times(2), least_step=STEP), "nobody can say what is usual"
    assert not is_alone([], [], least_step=STEP)


def test_an_unsteady_patient_has_wide_neighbours() -> None:
    assert not is_alone([60.0, 140, 100, 75, 125, 145], _times(6), least_step=STEP)


def test_a_part_is_named_whose_latest_reading_stands_alone_and_it_is_scored_all_the_same() -> None:
    values = np.array([80.0, 82, 79, 81, 190])
    times = np.array(_times(5), np.int64)
    known = History(np.full(5, code_number("8867-4"), np.uint32), values, times, times)
    score = news2(known, as_of_us=int(times[-1]))
    assert score.parts["pulse"] == 3
    assert unconfirmed(known, score) == ["pulse"]
    before = known.where(times < times[-1])
    assert unconfirmed(before, news2(before, as_of_us=int(times[-1]))) == []
