"""The demo's patients as messages: valid, stable, re-based once, never after now, values as they are."""

from __future__ import annotations

import stat
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from fhir.resources.R4B.observation import Observation

from pipelines.simulator import anchors, demo_data, mimic
from pipelines.simulator.faults import inject
from pipelines.simulator.observation import Message
from vitalake.errors import InputError

NOW = datetime(2026, 3, 29, 1, 30, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    anchors.load_or_create(folder, now=NOW)
    return folder


@pytest.fixture(scope="module")
def messages(home: Path) -> list[Message]:
    return list(mimic.messages(home))


def decoded(message: Message) -> dict[str, object]:
    resource = msgspec.json.decode(message.value or b"")
    assert isinstance(resource, dict)
    return resource


def test_anchors_are_written_once_for_the_owner_and_reread(home: Path) -> None:
    before = (home / anchors.FILE_NAME).read_bytes()
    again = anchors.load_or_create(home, now=NOW + timedelta(days=400))
    assert again.reference == NOW.replace(second=0)
    assert (home / anchors.FILE_NAME).read_bytes() == before
    assert stat.S_IMODE((home / anchors.FILE_NAME).stat().st_mode) == 0o600
    assert [file.name for file in home.iterdir()] == [anchors.FILE_NAME]


def test_all_stays_of_a_patient_move_together(home: Path) -> None:
    shifts = anchors.load_or_create(home).shift_seconds
    moved: dict[str, set[int]] = defaultdict(set)
    for row in demo_data.read("hospitalization", ["patient_id", "hospitalization_id"]).to_pylist():
        moved[row["patient_id"]].add(shifts[row["hospitalization_id"]])
    assert len(moved) == 100
    assert all(len(each) == 1 for each in moved.values())


@pytest.mark.parametrize("content", ["{", '{"reference": "2026-01-01T00:00:00Z", "shift_seconds": {}, "format": 2}'])
def test_foreign_anchors_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / anchors.FILE_NAME).write_text(content)
    with pytest.raises(InputError, match="Move it away"):
        anchors.load_or_create(tmp_path)


def test_missing_home_is_refused_with_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vitalake init"):
        anchors.load_or_create(tmp_path / "none")


@pytest.mark.slow
def test_replays_of_a_home_agree_byte_for_byte(home: Path, messages: list[Message]) -> None:
    assert list(mimic.messages(home)) == messages


def test_nothing_is_effective_or_issued_after_now(messages: list[Message]) -> None:
    latest = max(
        max(datetime.fromisoformat(str(resource[field])) for field in ("effectiveDateTime", "issued"))
        for resource in map(decoded, messages)
    )
    assert NOW - timedelta(hours=1) < latest <= NOW


def test_messages_come_in_the_order_in_which_they_were_true(messages: list[Message]) -> None:
    assert [message.due_us for message in messages] == sorted(message.due_us for message in messages)


def test_identifiers_are_unique(messages: list[Message]) -> None:
    identifiers = {str(decoded(message)["identifier"]) for message in messages}
    assert len(identifiers) == len(messages)


def test_no_value_of_the_demo_is_lost_or_changed(messages: list[Message]) -> None:
    sent: list[float] = []
    for resource in map(decoded, messages):
        parts = resource.get("component", [resource])
        assert isinstance(parts, list)
        sent += [part["valueQuantity"]["value"] for part in parts]
    assert sorted(sent) == sorted(demo_data.read("vitals", ["vital_value"]).column(0).to_pylist())
    assert min(sent) == -27
    assert max(sent) == 801


def test_pressures_of_one_moment_are_one_panel_in_order(messages: list[Message]) -> None:
    shapes: dict[tuple[str, ...], int] = defaultdict(int)
    for resource in map(decoded, messages):
        for_code = resource.get("component", [])
        assert isinstance(for_code, list)
        shapes[tuple(part["code"]["coding"][0]["code"] for part in for_code)] += 1
    assert shapes[("8480-6", "8462-4", "8478-0")] > 14_000
    assert set(shapes) <= {
        (),
        ("8480-6", "8462-4", "8478-0"),
        ("8480-6", "8462-4"),
        ("8480-6", "8478-0"),
        ("8462-4", "8478-0"),
    }


def test_every_shape_is_accepted_by_fhir_resources(messages: list[Message]) -> None:
    samples: dict[tuple[str, int], list[Message]] = defaultdict(list)
    for message in messages:
        resource = decoded(message)
        for_code = resource.get("component", [])
        assert isinstance(for_code, list)
        samples[(str(resource["code"]), len(for_code))].append(message)
    assert len(samples) >= 10
    for sample in samples.values():
        for message in sample[:3]:
            assert message.value
            observation = Observation.model_validate_json(message.value)
            assert observation.subject.reference == f"Patient/{message.key.decode()}"
            assert observation.device.reference == f"Device/{message.device}"


def test_out_of_order_messages_are_not_held_until_they_are_late(messages: list[Message]) -> None:
    held = 0
    latest = 0
    for message in inject(messages, share=0.3, seed=1):
        if message.fault == "out-of-order":
            held += 1
            assert latest - message.due_us < 3600 * 1_000_000
        latest = max(latest, message.due_us)
    assert held > 100


def test_limits_by_patients_and_hours_are_parts_of_the_whole(home: Path, messages: list[Message]) -> None:
    whole = set(messages)
    few = list(mimic.messages(home, patients=5, hours=24))
    assert few
    assert len({message.key for message in few}) <= 5
    assert set(few) <= whole
    since = (NOW.replace(second=0) - timedelta(hours=24)).timestamp() * 1e6
    assert min(message.due_us for message in few) >= since
