"""Every fault does what its name says, and no more."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.observation import Observation

from pipelines.simulator.faults import FAULTS, inject, spoil
from pipelines.simulator.observation import Message
from pipelines.simulator.synthetic import SHAPES, walk

START_US = 1_774_000_000_000_000
STEP_US = 1_000_000


def source(count: int, *, patients: int = 50, seed: int = 1) -> list[Message]:
    ticks = itertools.count(START_US, STEP_US)
    return list(itertools.islice(walk(patients, seed=seed, now_us=ticks.__next__), count))


@pytest.fixture(scope="module")
def clean() -> list[Message]:
    return source(20_000)


@pytest.fixture(scope="module")
def faulty(clean: list[Message]) -> list[Message]:
    return list(inject(clean, share=0.2, seed=3))


def decoded(message: Message) -> dict[str, Any]:
    return dict(msgspec.json.decode(message.value or b""))


def of(faulty: list[Message], kind: str) -> list[Message]:
    found = [message for message in faulty if message.fault == kind]
    assert found, kind
    return found


def test_every_fault_is_seen_and_none_besides(faulty: list[Message]) -> None:
    assert set(Counter(message.fault for message in faulty)) == {*FAULTS, ""}


def test_exactly_the_share_of_devices_misbehaves(clean: list[Message], faulty: list[Message]) -> None:
    assert len({message.device for message in clean}) == 50
    assert len({message.device for message in faulty if message.fault}) == 10
    assert list(inject(clean, share=0, seed=3)) == clean
    everyone = inject(clean, share=1, seed=3)
    assert len({message.device for message in everyone if message.fault}) == 50


def test_same_seed_gives_the_same_faults_another_gives_others(clean: list[Message], faulty: list[Message]) -> None:
    assert list(inject(clean, share=0.2, seed=3)) == faulty
    assert list(inject(clean, share=0.2, seed=4)) != faulty


def test_only_duplicates_add_messages(clean: list[Message], faulty: list[Message]) -> None:
    assert len(faulty) == len(clean) + len(of(faulty, "duplicate"))


def test_duplicates_repeat_the_device_s_message_byte_for_byte(faulty: list[Message]) -> None:
    for place, message in enumerate(faulty):
        if message.fault == "duplicate":
            before = next(each for each in reversed(faulty[:place]) if each.device == message.device)
            assert before == message._replace(fault="")


def test_out_of_order_is_sent_after_the_device_s_next(clean: list[Message], faulty: list[Message]) -> None:
    places = {message.value: place for place, message in enumerate(clean)}
    for place, message in enumerate(faulty[:-50]):
        if message.fault == "out-of-order":
            before = faulty[place - 1]
            assert before.device == message.device
            assert places[before.value] > places[message.value]


def test_rejected_kinds_are_what_they_say(faulty: list[Message]) -> None:
    for message in of(faulty, "malformed"):
        with pytest.raises(msgspec.DecodeError):
            decoded(message)
    assert all({"subject", "device"}.isdisjoint(decoded(message)) for message in of(faulty, "missing-subject"))
    assert all(b'"mg/dL"' in (message.value or b"") for message in of(faulty, "wrong-unit"))
    assert all(b'"00000-0"' in (message.value or b"") for message in of(faulty, "unknown-code"))
    assert all(message.value is None for message in of(faulty, "tombstone"))


def test_a_bed_names_its_device_and_no_patient(faulty: list[Message]) -> None:
    for message in of(faulty, "bed-only"):
        said = decoded(message)
        assert "device" in said
        assert {"subject", "encounter"}.isdisjoint(said)


def test_only_skew_is_ahead_and_only_late_far_behind(faulty: list[Message]) -> None:
    for message in faulty:
        if message.value is None or message.fault == "malformed":
            continue
        off = datetime.fromisoformat(decoded(message)["effectiveDateTime"]).timestamp() - message.due_us / 1e6
        if message.fault == "clock-skew":
            assert 300 <= off <= 900
        elif message.fault == "late":
            assert -12 * 3600 <= off <= -2 * 3600
        else:
            assert off == 0


def test_converted_units_mean_the_same_value() -> None:
    rng = random.Random(0)
    messages = {shape: message for shape, message in zip(SHAPES, source(5), strict=True)}
    heat = msgspec.json.decode(messages[("temp_c",)].value or b"")["valueQuantity"]["value"]
    warm = msgspec.json.decode(spoil("fahrenheit", messages[("temp_c",)].value or b"", rng) or b"")["valueQuantity"]
    assert warm["code"] == "[degF]"
    assert (warm["value"] - 32) / 1.8 == pytest.approx(heat, abs=0.06)
    panel = messages[SHAPES[3]].value or b""
    in_mmhg = [part["valueQuantity"]["value"] for part in msgspec.json.decode(panel)["component"]]
    parts = msgspec.json.decode(spoil("kilopascal", panel, rng) or b"")["component"]
    assert {part["valueQuantity"]["code"] for part in parts} == {"kPa"}
    assert [part["valueQuantity"]["value"] * 7.50061683 for part in parts] == pytest.approx(in_mmhg, abs=0.05)


@pytest.mark.parametrize("kind", ["", "wrong-unit", "unknown-code", "late", "clock-skew", "registered", "fahrenheit"])
def test_well_formed_messages_are_accepted_by_fhir_resources(faulty: list[Message], kind: str) -> None:
    for message in of(faulty, kind)[:10]:
        Observation.model_validate_json(message.value or b"")


def test_accepted_changes_have_an_identifier_of_their_own(faulty: list[Message]) -> None:
    for kind in ("bed-only", "late", "clock-skew", "registered", "fahrenheit", "kilopascal"):
        for message in of(faulty, kind):
            assert decoded(message)["identifier"][0]["value"].endswith(f"-{kind}")


def test_synthetic_moments_are_the_clock_s(clean: list[Message]) -> None:
    first = decoded(clean[0])
    assert datetime.fromisoformat(first["issued"]) == datetime.fromisoformat(first["effectiveDateTime"])
    assert clean[-1].due_us - clean[0].due_us == (20_000 // (50 * 5) - 1) * STEP_US
    assert timedelta(microseconds=clean[0].due_us) == timedelta(microseconds=START_US)
