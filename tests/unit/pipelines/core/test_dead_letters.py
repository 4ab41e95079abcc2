"""Dead letters: the payload sealed, nothing of it in clear, bound to its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipelines.core.dead_letters import DeadLetters, Message, open_message, open_payload
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Reject
from vitalake.errors import PrivacyError
from vitalake.keys import create_key_file, load_keys
from vitalake.lake.datasets.declared import load_dataset

PAYLOAD = b'{"subject":"Zzmarker"}'


@pytest.fixture
def batch_and_keys(tmp_path: Path) -> tuple[list[dict[str, object]], object]:
    create_key_file(tmp_path / "keys.yaml")
    keys = load_keys(tmp_path / "keys.yaml")
    batch = DeadLetters(keys.current("quarantine"), days=30).batch(
        [PAYLOAD, None],
        [Reject(1, Reason.NOT_JSON, "Observation.subject"), Reject(2, Reason.NOT_UTF8)],
        sources=["t[1]", "t[0]"],
        topic_ids=["u", "u"],
        positions=[6, 7],
        broker_ms=[1_700_000_000_123, -5],
        dataset="observation",
        decoder="fhir/1",
        rejected_at_us=1_000_000,
    )
    assert batch.schema.equals(load_dataset("dead_letter").schema)
    return batch.to_pylist(), keys


def test_the_row_says_where_and_why_and_nothing_else(batch_and_keys: tuple[list[dict[str, object]], object]) -> None:
    rows, _ = batch_and_keys
    assert [(r["source"], r["position"], r["reason"]) for r in rows] == [
        ("t[1]", 6, "not-json"),
        ("t[0]", 7, "not-utf8"),
    ]
    assert rows[0]["payload_bytes"] == len(PAYLOAD)
    assert rows[0]["key_id"] == "quarantine/v1"
    assert rows[0]["nonce"] != rows[1]["nonce"]
    assert b"Zzmarker" not in b"".join(str(v).encode() for v in rows[0].values())


def test_it_opens_with_the_key_and_only_in_its_place(batch_and_keys: tuple[list[dict[str, object]], object]) -> None:
    rows, keys = batch_and_keys
    assert open_payload(rows[0], keys) == PAYLOAD  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="changed after it was written"):
        open_payload(rows[0] | {"position": 7}, keys)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="Key not found"):
        open_payload(rows[0] | {"key_id": "quarantine/v9"}, keys)  # type: ignore[arg-type]


def test_the_brokers_time_is_sealed_with_it(batch_and_keys: tuple[list[dict[str, object]], object]) -> None:
    rows, keys = batch_and_keys
    assert open_message(rows[0], keys) == Message(PAYLOAD, 1_700_000_000_123)  # type: ignore[arg-type]
    assert open_message(rows[1], keys) == Message(b"", -5)  # type: ignore[arg-type]
    assert (1_700_000_000_123).to_bytes(8) not in b"".join(v for v in rows[0].values() if isinstance(v, bytes))


def test_one_of_an_earlier_release_opens_without_a_time(tmp_path: Path) -> None:
    create_key_file(tmp_path / "keys.yaml")
    keys = load_keys(tmp_path / "keys.yaml")
    key = keys.current("quarantine")
    row: dict[str, object] = {"source": "t[0]", "topic_id": "u", "position": 3, "key_id": key.id, "nonce": b"0" * 12}
    row |= {"payload": AESGCM(key.secret).encrypt(b"0" * 12, PAYLOAD, b"u\nt[0]\n3"), "payload_bytes": len(PAYLOAD)}
    assert open_message(row, keys) == Message(PAYLOAD, None)
    with pytest.raises(PrivacyError, match="changed after it was written"):
        open_message(row | {"payload_bytes": len(PAYLOAD) - 8}, keys)
    with pytest.raises(PrivacyError, match="changed after it was written"):
        open_message(row | {"payload": b""}, keys)
