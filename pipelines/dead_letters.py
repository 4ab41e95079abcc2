"""Dead letters: what was rejected, encrypted, with the reason and the place in clear and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipelines.decoding.result import Reject
from vitalake.errors import PrivacyError
from vitalake.keys import Key, KeyRing
from vitalake.lake.dataset import load_dataset

_NONCE_BYTES = 12
_DAY_US = 86_400_000_000


def _bound_to(topic_id: str, source: str, position: int) -> bytes:
    """Return what a payload is authenticated with, so that it cannot be passed off as another message's."""
    return f"{topic_id}\n{source}\n{position}".encode()


class DeadLetters:
    """Makes rows of the quarantine table."""

    def __init__(self, key: Key, *, days: int) -> None:
        self._key, self._cipher, self._days = key, AESGCM(key.secret), days
        self._schema = load_dataset("dead_letter").schema

    def batch(
        self,
        values: Sequence[bytes | None],
        rejects: Sequence[Reject],
        *,
        sources: Sequence[str],
        topic_ids: Sequence[str],
        positions: Sequence[int],
        decoder: str,
        rejected_at_us: int,
    ) -> pa.RecordBatch:
        """Return one row a reject.

        Args:
            values: payload of each reject.
            rejects: what was rejected, and why.
            sources: ``topic[partition]`` of each.
            topic_ids: the topic's UUID of each.
            positions: offset of each.
            decoder: decoder and version.
            rejected_at_us: microseconds since 1970.
        """
        # One call for all nonces of a batch: a call each costs as much as the encryption.
        random = os.urandom(_NONCE_BYTES * len(rejects))
        nonces = [random[i : i + _NONCE_BYTES] for i in range(0, len(random), _NONCE_BYTES)]
        encrypt = self._cipher.encrypt
        payloads = [value or b"" for value in values]
        sealed = [
            encrypt(nonce, payload, _bound_to(*place))
            for nonce, payload, place in zip(
                nonces, payloads, zip(topic_ids, sources, positions, strict=True), strict=True
            )
        ]
        count = len(rejects)
        columns = {
            "source": sources,
            "topic_id": topic_ids,
            "position": positions,
            "rejected_at": [rejected_at_us] * count,
            "reason": [str(r.reason) for r in rejects],
            "path": [r.path for r in rejects],
            "decoder": [decoder] * count,
            "payload_bytes": [len(p) for p in payloads],
            "key_id": [self._key.id] * count,
            "nonce": nonces,
            "payload": sealed,
            "expires_at": [rejected_at_us + self._days * _DAY_US] * count,
        }
        return pa.RecordBatch.from_arrays(
            [pa.array(columns[field.name], field.type) for field in self._schema], schema=self._schema
        )


def open_payload(row: Mapping[str, object], keys: KeyRing) -> bytes:
    """Return the message of a quarantine row, for a replay.

    Raises:
        PrivacyError: the key is not there, or the row is not what was written.
    """
    bound = _bound_to(str(row["topic_id"]), str(row["source"]), int(str(row["position"])))
    nonce, sealed = row["nonce"], row["payload"]
    assert isinstance(nonce, bytes) and isinstance(sealed, bytes)
    try:
        return AESGCM(keys.get(str(row["key_id"])).secret).decrypt(nonce, sealed, bound)
    except InvalidTag:
        raise PrivacyError(
            "Dead letter cannot be opened", where=f"{row['source']}@{row['position']}", remedy="It was tampered with."
        ) from None
