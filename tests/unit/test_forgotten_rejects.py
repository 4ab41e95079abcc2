"""Rejected messages of somebody who was forgotten: filtered and counted, never a dead letter again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.decoding.fhir import FhirDecoder
from pipelines.poll import DecodedPoll, Outcome, Poll
from pipelines.replay.writing import counts_of
from pipelines.steps import Steps
from tests.fhir import message
from vitalake import clock
from vitalake.lake.dataset import load_dataset
from vitalake.lake.spans import PartId
from vitalake.settings import StreamSettings, load_settings

UNKNOWN = {"coding": [{"system": "http://loinc.org", "code": "1-8"}]}


@pytest.fixture
def steps(home: Path) -> Steps:
    return Steps(load_settings(home), StreamSettings(care=False), load_dataset("observation"))


def _masked(steps: Steps, messages: list[bytes | None]) -> Outcome:
    count = len(messages)
    poll = Poll(
        share="vitals/0of1",
        format="fhir",
        values=messages,
        parts=(PartId("vitals", "0123456789abcdefghijkl", 0),),
        part=np.zeros(count, np.int32),
        offset=np.arange(count),
        broker_ms=np.full(count, clock.now_us() // 1000),
    )
    return steps.mask(steps.conform(DecodedPoll(poll, FhirDecoder(precise=False).decode(messages))))


def test_only_the_forgotten_are_left_out_and_every_message_is_counted(steps: Steps) -> None:
    messages: list[bytes | None] = [
        message(1, patient="gone", code=UNKNOWN),  # decoded, and then refused
        message(2, patient="gone", status="Zz"),  # refused as it is decoded
        message(3, patient="here", code=UNKNOWN),
        message(4, patient="here", status="Zz"),
        message(5, patient="gone"),
        message(6, patient="here"),
        b"{ gone",
    ]
    before = counts_of(_masked(steps, messages))
    steps.vault.erase(steps.vault.subject_of("gone"), "erasure-test")
    steps.lookback.clear()
    outcome = _masked(steps, messages)
    after = counts_of(outcome)
    assert sorted(reject.message for reject in outcome.rejects) == [2, 3, 6]
    assert (before.filtered, after.filtered) == (0, 3)
    assert before.balanced
    assert after.balanced
    assert after.messages == before.messages == after.decoded + after.undecodable
