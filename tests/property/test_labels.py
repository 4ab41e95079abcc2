"""No leakage: what comes after a moment, or is known only after it, changes no feature of it, whatever the label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.features.kernel import US_PER_HOUR, Floats
from models.tasks import Task, load_task, parse_task
from models.tasks.labels import TimeToEvent
from models.training.matrix import build_matrix
from models.training.outcomes import Row, outcomes_of
from models.training.published import _VALUES, Published
from tests.documented import blocks
from vitalake.clinical.records import Stay, code_number

_READMISSION, *_LABELS = blocks("declare-a-task.md", "yaml")


def _labelled(label: str) -> Task:
    before, _, rest = _READMISSION.partition("label:\n")
    return parse_task(f"{before}{label}horizon{rest.partition('horizon')[2]}", where="test")


TASKS = [load_task("mortality"), parse_task(_READMISSION, where="test"), *map(_labelled, _LABELS)]
CODES = ["8867-4", "8480-6", "3094-0"]

_VALUE = st.tuples(
    st.sampled_from(CODES), st.sampled_from([50.0, 85.0, 120.0]), st.integers(0, 60), st.sampled_from([0, 1, 30])
)
_SAID = {"admission_type": "ed", "discharge_disposition": "Home"}


def _rows(task: Task, values: list[tuple[str, float, int, int]], stays: list[Row]) -> dict[int, tuple[int, Floats]]:
    """Return by hour the moment and features of the matrix of a patient's first stay."""
    found = np.zeros(len(values), _VALUES)
    for i, (code, value, hour, late) in enumerate(values):
        us = hour * US_PER_HOUR
        found[i] = (code_number(code), 0, value, us, us + late * US_PER_HOUR)
    outcomes = [one for one in outcomes_of(task.label, stays).ended if one.stay.encounter == "s1"]
    matrix = build_matrix(task, outcomes, Published(["p"], found), age_cap=90)
    moments = zip(matrix.hours.tolist(), matrix.as_of_us.tolist(), matrix.features, strict=True)
    return {hours: (as_of_us, row) for hours, as_of_us, row in moments}


def _stay(number: int, begun: int, ended: int, how: dict[str, str]) -> Row:
    stay = Stay(f"s{number}", begun * US_PER_HOUR, ended * US_PER_HOUR, 60.0, "male", "", "")
    return Row("p", stay, "w", _SAID | how)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{type(task.label).__name__}")
@given(
    values=st.lists(_VALUE, min_size=4, max_size=30),
    shift=st.integers(0, 20),
    value=st.sampled_from([10.0, 85.0, 300.0]),
    ending=st.sampled_from(["Home", "Expired", "Hospice"]),
    back=st.integers(0, 2_000),
)
def test_moving_what_comes_after_a_moment_changes_no_feature_of_it(
    task: Task, values: list[tuple[str, float, int, int]], shift: int, value: float, ending: str, back: int
) -> None:
    always = [("8867-4", 80.0, hour, 0) for hour in range(0, 61, 4)]
    data = [*always, *values]
    far = _stay(9, 9_000, 9_001, {})
    first = _rows(task, data, [_stay(1, 0, 70, {}), far])
    assert first or isinstance(task.label, TimeToEvent), "it may have come before every moment"
    for hours, (as_of_us, features) in first.items():
        now = as_of_us // US_PER_HOUR
        moved = [
            (code, number, hour, late) if hour + late <= now else
            (code, value, max(hour, now + 1) + shift if hour > now else hour, late)
            for code, number, hour, late in data
        ]  # fmt: skip
        stays = [_stay(1, 0, 70 + shift, {"discharge_disposition": ending}), _stay(2, 100 + back, 4_000, {}), far]
        other = _rows(task, moved, stays)
        if hours in other and other[hours][0] == as_of_us:
            assert np.array_equal(other[hours][1], features, equal_nan=True)
