"""Which spans a repair decides again, of those whose rows lie beside the spans table."""

from __future__ import annotations

import random

import pytest

from tests.unit.vitalake.lake.span_samples import empty_span, part
from vitalake.lake.commits.span import Counts, Part, Span
from vitalake.lake.maintenance.lost_spans import passed_spans

APP = part().app_id("observation")


def span(start: int, end: int, *, at: int, epoch: int = 1, shard: str = "0of1", fence: int = 0) -> Span:
    made = empty_span(start, end, epoch=epoch, shard=shard)
    made.decided_us, made.fence = at, fence
    return made


def passed(loose: list[Span], reached: int, *known: Span) -> list[tuple[int, int, int]]:
    shuffled = random.Random(len(loose)).sample(loose, len(loose))
    found = passed_spans([(one, "") for one in shuffled], known, {APP: reached})
    return sorted((one.parts[0].first, one.parts[0].end, one.decided_us) for one, _ in found)


def test_a_killed_worker_of_another_number_of_workers_does_not_stand_in_for_its_successors() -> None:
    """Epochs are of one shard: the killed one had the higher, and what its successors decided was dropped."""
    killed = span(5, 10, at=2, epoch=7)
    successors = [span(5, 8, at=3, shard="0of2"), span(8, 12, at=4, shard="0of2")]
    assert passed([killed, *successors, span(0, 5, at=1)], 12) == [(0, 5, 1), (5, 8, 3), (8, 12, 4)]


@pytest.mark.parametrize(
    ("killed", "decided"),
    [
        (span(5, 10, at=2, epoch=7), span(5, 10, at=3, epoch=1, shard="0of2")),
        (span(5, 10, at=3, epoch=7), span(5, 10, at=2, epoch=8)),  # the clock was set back
        (span(5, 10, at=3, epoch=7, fence=1), span(5, 10, at=2, epoch=8, shard="0of2", fence=2)),
    ],
    ids=["other shard", "clock set back", "fence raised"],
)
def test_of_spans_of_the_same_messages_the_one_that_was_decided_is_chosen(killed: Span, decided: Span) -> None:
    assert passed([killed, decided], 12, span(10, 12, at=9)) == [(5, 10, decided.decided_us)]


def test_what_no_position_is_beyond_is_left_to_be_read_again() -> None:
    assert passed([span(0, 5, at=1), span(5, 7, at=2)], 5) == [(0, 5, 1)]
    assert passed([span(0, 5, at=1)], 3) == []


def test_spans_before_one_that_cannot_be_read_any_more_are_decided() -> None:
    """Of the messages 5 to 8 nobody knows the span."""
    assert passed([span(0, 2, at=1), span(2, 5, at=2), span(8, 12, at=4)], 12) == [(0, 2, 1), (2, 5, 2), (8, 12, 4)]


def test_a_stretch_before_that_of_a_span_which_another_partition_shows_is_decided_too() -> None:
    """No position was beyond it but that of the span after it, which moved the position past it."""
    other = part(1)
    after = span(2, 5, at=2)
    after.parts.append(Part(other, 1, 1, 2, Counts(messages=1, tombstones=1)))
    found = passed_spans([(span(0, 2, at=1), ""), (after, "")], (), {other.app_id("observation"): 2})
    assert len(found) == 2
