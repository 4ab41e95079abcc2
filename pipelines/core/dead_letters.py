"""Dead letters: rejected messages, encrypted. Only the reason and where the message was read stand in clear."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipelines.formats.shared.result import Reject
from vitalake.errors import PrivacyError
from vitalake.keys import Key, KeyRing
from vitalake.lake.datasets.declared import load_dataset

_NONCE_BYTES = 12
_TAG_BYTES = 16
_TIME_BYTES = 8
_DAY_US = 86_400_000_000
_TIMED = "\ntimed"
"""In the authenticated data of a payload that begins with the broker's time; see open_message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was read.

    Attributes:
        payload: its bytes.
        broker_ms: the broker's or producer's timestamp; None: sealed by a release that did not keep it.
    """

    payload: bytes
    broker_ms: int | None


def _bound_to(topic_id: str, source: str, position: int, *, timed: bool) -> bytes:
    """Return the associated data of the encryption: a payload opens only as the message that it was sealed for."""
    return f"{topic_id}\n{source}\n{position}{_TIMED if timed else ''}".encode()


class DeadLetters:
    """Makes rows of the quarantine table."""

    def __init__(self, key: Key, *, days: int) -> None:
        self._key, self._cipher, self._days = key, AESGCM(key.secret), days
        self._schema = load_dataset("dead_letter").schema

    def seal(
        self,
        values: Sequence[bytes | None],
        *,
        sources: Sequence[str],
        topic_ids: Sequence[str],
        positions: Sequence[int],
        broker_ms: Sequence[int],
    ) -> dict[str, list[Any]]:
        """Return the columns of envelopes: where each message was read, and the encrypted message.

        The broker's time is encrypted with the payload: nothing that a producer can set stands in clear.

        Args:
            values: payloads.
            sources: ``topic[partition]`` of each.
            topic_ids: the topic's UUID of each.
            positions: offset of each.
            broker_ms: the broker's timestamp of each.
        """
        # One call for all nonces of a batch: one call per nonce costs as much as the encryption.
        random = os.urandom(_NONCE_BYTES * len(values))
        nonces = [random[i : i + _NONCE_BYTES] for i in range(0, len(random), _NONCE_BYTES)]
        encrypt = self._cipher.encrypt
        payloads = [value or b"" for value in values]
        sealed = [
            encrypt(nonce, ms.to_bytes(_TIME_BYTES, signed=True) + payload, _bound_to(*place, timed=True))
            for nonce, ms, payload, place in zip(
                nonces, broker_ms, payloads, zip(topic_ids, sources, positions, strict=True), strict=True
            )
        ]
        return {
            "source": list(sources),
            "topic_id": list(topic_ids),
            "position": list(positions),
            "payload_bytes": [len(p) for p in payloads],
            "key_id": [self._key.id] * len(payloads),
            "nonce": nonces,
            "payload": sealed,
        }

    def batch(
        self,
        values: Sequence[bytes | None],
        rejects: Sequence[Reject],
        *,
        sources: Sequence[str],
        topic_ids: Sequence[str],
        positions: Sequence[int],
        broker_ms: Sequence[int],
        dataset: str,
        decoder: str,
        rejected_at_us: int,
    ) -> pa.RecordBatch:
        """Return the rows of the quarantine table, one per reject.

        Args:
            values: payload of each reject.
            rejects: the reason of each, and which part of the message it is about.
            sources: ``topic[partition]`` of each.
            topic_ids: the topic's UUID of each.
            positions: offset of each.
            broker_ms: the broker's timestamp of each.
            dataset: where its rows would have gone.
            decoder: decoder and version.
            rejected_at_us: microseconds since 1970.
        """
        count = len(rejects)
        columns = self.seal(values, sources=sources, topic_ids=topic_ids, positions=positions, broker_ms=broker_ms) | {
            "rejected_at": [rejected_at_us] * count,
            "reason": [str(r.reason) for r in rejects],
            "path": [r.path for r in rejects],
            "decoder": [decoder] * count,
            "expires_at": [rejected_at_us + self._days * _DAY_US] * count,
            "dataset": [dataset] * count,
        }
        return pa.RecordBatch.from_arrays(
            [pa.array(columns[field.name], field.type) for field in self._schema], schema=self._schema
        )


def open_message(row: Mapping[str, object], keys: KeyRing) -> Message:
    """Decrypt the message of an envelope, for a replay.

    Args:
        row: the columns that ``DeadLetters.seal`` gives.
        keys: of the home.

    Raises:
        PrivacyError: the key is missing, or the row is not as it was written.
    """
    nonce, sealed = row["nonce"], row["payload"]
    assert isinstance(nonce, bytes) and isinstance(sealed, bytes)
    # Earlier releases sealed the payload alone. The associated data names the form, so that it cannot be changed.
    timed = len(sealed) - _TAG_BYTES != row["payload_bytes"]
    bound = _bound_to(str(row["topic_id"]), str(row["source"]), int(str(row["position"])), timed=timed)
    try:
        opened = AESGCM(keys.get(str(row["key_id"])).secret).decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError):
        raise PrivacyError(
            "Dead letter cannot be decrypted",
            where=f"{row['source']}@{row['position']}",
            remedy="The row was changed after it was written: restore the quarantine table from a backup.",
        ) from None
    if not timed:
        return Message(opened, None)
    return Message(opened[_TIME_BYTES:], int.from_bytes(opened[:_TIME_BYTES], signed=True))


def open_payload(row: Mapping[str, object], keys: KeyRing) -> bytes:
    """Decrypt the payload of an envelope.

    Raises:
        PrivacyError: the key is missing, or the row is not as it was written.
    """
    return open_message(row, keys).payload
