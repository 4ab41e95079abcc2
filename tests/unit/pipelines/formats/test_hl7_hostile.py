"""Every hostile HL7 v2 message has its documented outcome, and its neighbours go through unchanged."""

from __future__ import annotations

import re

import pytest

from pipelines.formats.shared.reasons import UNDECODABLE
from tests.decoding import decoder_of, take_by
from tests.hl7 import obx, oru
from tests.hostile_hl7 import CORPUS

NEIGHBOURS = (oru(obx(value="60")), oru(obx(value="61"), obr="OBR|1||F-99^MON||||20250601100000"))
MARKER = "Zzmarker"


@pytest.mark.parametrize("name", CORPUS)
def test_outcome(name: str) -> None:
    hostile, reason = CORPUS[name]
    _, conformed, rejects = take_by(decoder_of("hl7-v2"), [NEIGHBOURS[0], hostile, NEIGHBOURS[1]])
    if reason is None:
        assert 1 not in rejects, rejects[1]
        assert 1 in conformed.message
    else:
        assert rejects[1].reason is reason
        assert 1 not in conformed.message
        assert (rejects[1].rows == 0) == (reason in UNDECODABLE)
        assert re.fullmatch(
            r"([A-Z][A-Z0-9]{2}(\[\d+\])?(-\d+)?|Observation[.\w\[\]]+( \(8867-4 in [\w/ ]+\))?)?", rejects[1].path
        )
    alone = take_by(decoder_of("hl7-v2"), NEIGHBOURS)[1]
    with_it = conformed.rows.filter([i in (0, 2) for i in conformed.message.tolist()])
    assert with_it.to_pylist() == alone.rows.to_pylist()


def test_a_batch_of_nothing_but_hostile_messages_is_survived() -> None:
    _, conformed, rejects = take_by(decoder_of("hl7-v2"), [m for m, _ in CORPUS.values()])
    refused = {i for i, (_, reason) in enumerate(CORPUS.values()) if reason is not None}
    assert set(rejects) == refused
    assert set(conformed.message.tolist()) == set(range(len(CORPUS))) - refused


def test_tombstones_are_told_apart_from_empty_messages() -> None:
    decoded, _, rejects = take_by(decoder_of("hl7-v2"), [None, b"", NEIGHBOURS[0]])
    assert decoded.tombstones == [0]
    assert set(rejects) == {1}


def test_no_marker_of_a_message_reaches_a_path_or_a_log(caplog: pytest.LogCaptureFixture) -> None:
    hostile = [
        m.replace(b"4711", MARKER.encode()).replace(b"F-1", MARKER.encode()).replace(b"JANE", MARKER.encode())
        for m, _ in CORPUS.values()
    ]
    hostile += [oru(obx(kind="ST", value=rf"\Z{MARKER}\ \X{MARKER}\ ")), oru(obx(value=MARKER, unit=MARKER))]
    _, _, rejects = take_by(decoder_of("hl7-v2"), hostile)
    assert rejects
    assert not [r.path for r in rejects.values() if MARKER in r.path]
    assert MARKER not in caplog.text
