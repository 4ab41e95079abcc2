"""Every hostile message has its documented outcome, and its neighbours go through unchanged."""

from __future__ import annotations

import gc
import re

import msgspec
import pytest

from pipelines.formats.fhir.gathering import texts_of
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.formats.shared.reasons import EXPLAINED, UNDECODABLE, Reason
from tests.decoding import take
from tests.fhir import message
from tests.hostile import CORPUS
from tests.hostile_flat import GATEWAY, MONITOR
from tests.hostile_hl7 import CORPUS as HL7

NEIGHBOURS = (message(100), message(101))


@pytest.mark.parametrize("name", CORPUS)
def test_outcome(name: str) -> None:
    hostile, reason = CORPUS[name]
    for precise in (False, True):
        decoded, conformed, rejects = take([NEIGHBOURS[0], hostile, NEIGHBOURS[1]], precise=precise)
        if reason is None:
            assert 1 not in rejects
            assert 1 in conformed.message
        else:
            assert rejects[1].reason is reason
            assert 1 not in conformed.message
            assert (rejects[1].rows == 0) == (reason in UNDECODABLE)
            path, _, unit = rejects[1].path.partition(" (")
            assert re.fullmatch(r"((Observation|Bundle)(\.\w+(\[x\])?|\[\d+\])*)?", path)
            assert bool(unit) is (reason is Reason.UNKNOWN_UNIT)
            assert re.fullmatch(r"(8867-4 in [\w/\[\]% ]+\))?", unit), (
                "a code that is known, a unit if it looks like one"
            )
        alone = take([NEIGHBOURS[0], NEIGHBOURS[1]])[1]
        with_it = conformed.rows.filter([i in (0, 2) for i in conformed.message.tolist()])
        assert with_it.to_pylist() == alone.rows.to_pylist()
        assert decoded.tombstones == []


def test_every_reason_is_explained_and_some_message_shows_it() -> None:
    assert set(EXPLAINED) == set(Reason)
    shown = {outcome for corpus in (CORPUS, HL7, MONITOR, GATEWAY) for _, outcome in corpus.values()}
    others = {Reason.NO_KEY, Reason.TOO_MANY_ELEMENTS, Reason.DECODER_FAILED}
    assert set(Reason) - shown == others, "other datasets or formats: test_decoding_records, _fhir_declared, _registry"


def test_a_batch_of_nothing_but_hostile_messages_is_survived() -> None:
    hostile = [m for m, _ in CORPUS.values()]
    _, conformed, rejects = take(hostile, precise=True)
    refused = {i for i, (_, reason) in enumerate(CORPUS.values()) if reason is not None}
    assert set(rejects) == refused
    assert set(conformed.message.tolist()) == set(range(len(hostile))) - refused


def test_tombstones_are_told_apart_from_empty_messages() -> None:
    decoded, conformed, rejects = take([None, b"", message(1), None])
    assert decoded.tombstones == [0, 3]
    assert set(rejects) == {1}
    assert conformed.message.tolist() == [2]


def test_no_marker_of_a_message_reaches_a_path() -> None:
    marker = "Zzmarker"
    hostile = [
        m.replace(b"mon-1", marker.encode()).replace(b"Patient/p-1", b"Patient/" + marker.encode())
        for m, _ in CORPUS.values()
    ]
    hostile += [b'{"resourceType":"Observation","%s":{"%s":1},"status":"%s"}' % ((marker.encode(),) * 3)]
    hostile += [b'{"resourceType":"%s"}' % marker.encode()]
    hostile += [b'{"resourceType":"Observation","status":"final","code":{"%s":[]},"subject":7}' % marker.encode()]
    _, _, rejects = take(hostile, precise=True)
    assert rejects
    assert not [r.path for r in rejects.values() if marker in r.path]


def test_the_collector_is_left_as_it_was() -> None:
    decoder = FhirDecoder()
    decoder.decode([b"{", message(1)])
    assert gc.isenabled()
    gc.disable()
    try:
        decoder.decode([message(1)])
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_control_byte_anywhere_harms_only_its_own_message() -> None:
    decoder = FhirDecoder(precise=False)
    good = message(5, patient="x" * 40, device={"reference": "Device/" + "é" * 9}, note=[{"text": "n" * 30}])
    for byte in (b"\0", b"\x01", b"\x1f", b"\xff"):
        for i in range(len(good) + 1):
            batch = [message(1, patient="a"), good[:i] + byte + good[i:], message(2, patient="b")]
            decoded = decoder.decode(batch)
            fate = dict(zip(decoded.message.tolist(), decoded.rows["patient_id"].to_pylist(), strict=True))
            assert (fate[0], fate[2]) == ("a", "b"), i
            assert byte == b"\xff" or decoded.rejects[0].reason is Reason.NOT_JSON, i


def test_texts_that_would_shift_are_taken_one_by_one() -> None:
    raws = [msgspec.Raw(b'"a\0b"'), msgspec.Raw(b'"c"')]
    assert texts_of(raws) == [b'"a\0b"', b'"c"']
