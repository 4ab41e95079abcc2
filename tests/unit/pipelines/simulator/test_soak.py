"""The soak says of every figure whether it holds its bound, and fails on what does not."""

from __future__ import annotations

import pytest

from tests.soak.__main__ import report


def run(name: str, *figures: float) -> list[str]:
    return report([{name: figure} for figure in figures])


def ramp(slope: float, power: float = 1.0) -> list[float]:
    return [slope * (i / 100) ** power for i in range(100)]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("worker: memory MB", ramp(1_000.0)),
        ("published: files", ramp(2_000.0)),
        ("care.db: write-ahead log MB", ramp(500.0)),
        ("published: log entries", ramp(2_000.0, power=2.5)),
        ("audit: MB", ramp(500.0, power=3.0)),
    ],
)
def test_what_leaves_its_bound_fails(name: str, figures: list[float]) -> None:
    assert run(name, *figures) == [name]


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("worker: memory MB", [300.0] * 100),
        ("published: log entries", ramp(2_000.0)),
        ("care.db: MB", ramp(50.0)),
        ("published: files", [40.0, 90.0] * 50),
    ],
)
def test_what_keeps_it_does_not(name: str, figures: list[float]) -> None:
    assert run(name, *figures) == []
