"""Steps that write: a fence that is raised while their rules and keys are read lets nothing of them through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.poll import DecodedPoll, Poll
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.intake.fenced import FencedSteps
from pipelines.intake.steps import Steps
from tests.fhir import message
from vitalake import clock
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId
from vitalake.lake.commits.span_log import SpanConflict
from vitalake.settings import StreamSettings, load_settings

PART = PartId("bench", "0123456789abcdefghijkl", 0)


@pytest.fixture
def lake(home: Path) -> Lake:
    lake = Home(load_settings(home)).lake("observation")
    lake.open_all()
    return lake


def _decide(steps: FencedSteps) -> None:
    writer = steps.take_over(
        job="bench", parts=[PART], decoder="test/1", span_seconds=60, span_rows=100, late_seconds=60
    )
    position = writer.positions[PART]
    poll = Poll(
        shard="bench/0of1",
        format="fhir",
        values=[message(position)],
        parts=(PART,),
        part=np.zeros(1, np.int32),
        offset=np.array([position]),
        broker_ms=np.full(1, clock.now_us() // 1000),
    )
    try:
        decoded = FhirDecoder(precise=False).decode(poll.values)
        writer.take(steps.mask(steps.conform(DecodedPoll(poll, decoded))))
        writer.cut()
        writer.flush()
    finally:
        writer.close()


def test_a_writer_goes_on_where_the_one_before_ended(home: Path, lake: Lake) -> None:
    for end in (1, 2):
        steps = FencedSteps(load_settings(home), StreamSettings(care=False), lake)
        _decide(steps)
        steps.close()
        assert lake.spans.positions("observation", [PART]) == {PART: end}
    assert lake.spans.current_epoch(job="bench", shard="0of1") == 2


def test_the_fence_is_read_before_rules_and_keys(home: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Steps.__init__

    def raised_meanwhile(self: Steps, *given: Any, **named: Any) -> None:
        read(self, *given, **named)
        Home(load_settings(home)).lake("observation").spans.raise_fence("observation")

    monkeypatch.setattr(Steps, "__init__", raised_meanwhile)
    steps = FencedSteps(load_settings(home), StreamSettings(care=False), lake)
    assert steps.outdated
    with pytest.raises(SpanConflict):
        _decide(steps)
    steps.close()
    assert lake.spans.positions("observation", [PART]) == {PART: 0}


def test_looking_for_a_fence_makes_no_table(home: Path) -> None:
    settings = load_settings(home)
    lake = Home(settings).lake("observation")
    steps = FencedSteps(settings, StreamSettings(care=False), lake)
    steps.close()
    assert (steps.fence, steps.outdated) == (0, False)
    assert not lake.storage.holds_table("spans")
