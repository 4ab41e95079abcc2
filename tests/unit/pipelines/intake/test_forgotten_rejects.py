"""Rejected messages of a forgotten patient: filtered and counted, and never kept again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.formats.registry import make_decoder
from pipelines.formats.shared.result import Decoder
from pipelines.intake.steps import Steps
from pipelines.reprocess.writing import counts_of
from tests.fhir import message
from vitalake import clock
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import StreamSettings, load_settings

UNKNOWN = {"coding": [{"system": "http://loinc.org", "code": "1-8"}]}


@pytest.fixture
def steps(home: Path) -> Steps:
    return Steps(load_settings(home), StreamSettings(care=False), load_dataset("observation"))


def _masked(steps: Steps, messages: list[bytes | None], decoder: Decoder | None = None, name: str = "fhir") -> Outcome:
    count = len(messages)
    poll = Poll(
        shard="vitals/0of1",
        format=name,
        values=messages,
        parts=(PartId("vitals", "0123456789abcdefghijkl", 0),),
        part=np.zeros(count, np.int32),
        offset=np.arange(count),
        broker_ms=np.full(count, clock.now_us() // 1000),
    )
    return steps.mask(steps.conform(DecodedPoll(poll, (decoder or FhirDecoder(precise=False)).decode(messages))))


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


def test_a_merge_of_a_number_that_was_forgotten_is_not_kept_under_the_other_one(home: Path) -> None:
    settings = load_settings(home)
    stream = StreamSettings(dataset="device_association", care=False)
    steps = Steps(settings, stream, load_dataset("device_association"))
    decoder = make_decoder("hl7-v2", dataset="device_association", stream=stream, settings=settings)
    merge = b"MSH|^~\\&|A|B|||20260301120000+0000||ADT^A40|1|P|2.5\rEVN|A40|20260301120000+0000\r"
    merges: list[bytes | None] = [
        merge + b"PID|||13^^^H\rMRG|11^^^H\r",
        merge + b"PID|||13^^^H\rMRG|12^^^H\r",
    ]
    assert _masked(steps, merges, decoder, "hl7-v2").rows.num_rows == 2
    steps.vault.erase(steps.vault.subject_of("H|11"), "erasure-test")
    outcome = _masked(steps, merges, decoder, "hl7-v2")
    assert outcome.filtered.tolist() == [0]
    sealed = outcome.extra["restricted/device_association"]
    assert steps.sealer is not None
    assert steps.sealer.open(pa.Table.from_batches([sealed]))["device_id"].to_pylist() == ["patient:H|12"]
    assert counts_of(outcome).balanced
