"""A message's fate is its own: whatever poll it comes in, it gives the same rows, fingerprints and rejects."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.formats.shared.result import Decoder, Reject
from tests.decoding import decoder_of, take_by
from tests.fhir import message, observation
from tests.hl7 import obx, oru
from tests.hostile import CORPUS, bundle, panel
from tests.hostile_flat import GATEWAY, MONITOR
from tests.hostile_hl7 import CORPUS as HL7

_SCT = "http://snomed.info/sct"
_TWO_BAD_PARTS = [
    {"code": {"coding": []}, "valueQuantity": {"value": 1}},
    {"code": {"coding": [{"code": "x\0"}]}, "valueQuantity": {"value": 1}},
]


def _fhir() -> list[bytes]:
    """Return messages that differ in what they lack: each column is missing in some, and unusual in others."""
    return [
        *(m for m, _ in CORPUS.values() if len(m) < 5_000),
        *map(message, range(3)),
        message(10, issued="2025-06-01T10:05:00+02:00"),
        message(11, effectiveDateTime="2025-06-01T10:00:00.123456789Z"),
        message(12, identifier=None),
        message(13, identifier=None, subject=None),
        message(14, encounter=None, device=None, meta=None),
        message(15, valueQuantity=None, valueString="88 bpm"),
        message(16, valueQuantity=None, valueString="normal"),
        message(17, valueQuantity=None, valueCodeableConcept={"coding": [{"system": _SCT, "code": "271594007"}]}),
        message(18, valueQuantity=None, valueCodeableConcept={"text": "none"}),
        message(19, valueQuantity=None, valueInteger=70),
        message(20, valueQuantity=None, dataAbsentReason={"coding": [{"code": "masked"}]}),
        message(21, valueQuantity={"value": 72, "comparator": "<", "unit": "bpm"}),
        message(22, status="corrected", patient="p-2"),
        panel(*_TWO_BAD_PARTS),
        panel(*reversed(_TWO_BAD_PARTS)),
        bundle(observation(30, valueQuantity=None), observation(31, valueQuantity=None, valueString="\0")),
        bundle(observation(32, valueQuantity=None, valueString="\0"), observation(33, valueQuantity=None)),
    ]


def _hl7() -> list[bytes]:
    return [
        *(m for m, _ in HL7.values() if len(m) < 5_000),
        oru(),
        oru(obx(value="<5"), obx(2, "2823-3^K^LN", "4.2", "mmol/l", kind="ST")),
        oru(obx(unit="BPM"), obx(2, "67775-7^x^LN", "A", "", kind="ST", status="C")),
    ]


_FORMATS: dict[str, list[bytes]] = {
    "fhir": _fhir(),
    "hl7-v2": _hl7(),
    "flat:bedside-monitor": [m for m, _ in MONITOR.values() if len(m) < 5_000],
    "flat:gateway-readings": [m for m, _ in GATEWAY.values() if len(m) < 5_000],
}


def _decoder(name: str) -> Decoder:
    # Without the precise reasons, which are only asked for the first few of a poll: they refine a path.
    return FhirDecoder(precise=False) if name == "fhir" else decoder_of(name)


def _fates(decoder: Decoder, messages: list[bytes]) -> list[Any]:
    """Return everything that became of each message: all columns, fingerprints, and the reject."""
    decoded, conformed, rejects = take_by(decoder, messages)
    found: list[Any] = [([], _told(rejects[i]) if i in rejects else None) for i in range(len(messages))]
    rows = conformed.rows.to_pylist()
    for i, row, print_ in zip(conformed.message.tolist(), rows, conformed.fingerprint.tolist(), strict=True):
        found[i][0].append((row, print_))
    return [(*fate, i in decoded.empty) for i, fate in enumerate(found)]


def _told(reject: Reject) -> tuple[Any, ...]:
    return reject.reason, reject.path, reject.rows


@pytest.mark.parametrize("name", _FORMATS)
@settings(max_examples=settings().max_examples // 5)
@given(seed=st.integers(0, 1_000), cuts=st.lists(st.integers(1, 120), max_size=4), share=st.floats(0.05, 1.0))
def test_neighbours_and_polls_do_not_change_a_messages_fate(
    name: str, seed: int, cuts: list[int], share: float
) -> None:
    messages = _FORMATS[name]
    alone = _ALONE.setdefault(name, [_fates(_decoder(name), [m])[0] for m in messages])
    chance = random.Random(seed)
    chosen = chance.sample(range(len(messages)), max(1, int(len(messages) * share)))
    bounds = [0, *sorted({min(c, len(chosen)) for c in cuts}), len(chosen)]
    decoder = _decoder(name)
    for begin, end in itertools.pairwise(bounds):
        part = chosen[begin:end]
        for i, fate in zip(part, _fates(decoder, [messages[i] for i in part]) if part else [], strict=True):
            assert fate == alone[i], messages[i][:300]


_ALONE: dict[str, list[Any]] = {}
