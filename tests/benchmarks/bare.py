"""The bare limit: consume, decode, HMAC of unique ids, Delta append. No spans, ledger, quarantine, dedupe or resume.

Run as a process: ``python -m tests.benchmarks.bare BOOTSTRAP TOPIC SHARE OF FOLDER MESSAGES [--gc-off]``; prints one
JSON line with the rate from the first append to the last.
"""

from __future__ import annotations

import gc
import hashlib
import hmac
import sys
import time
from typing import Literal

import msgspec
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition
from deltalake import write_deltalake

APPEND_ROWS = 200_000


class _Coding(msgspec.Struct, gc=False):
    code: str
    system: str | None = None


class _Concept(msgspec.Struct, gc=False):
    coding: list[_Coding]


class _Reference(msgspec.Struct, gc=False):
    reference: str


class _Quantity(msgspec.Struct, gc=False):
    value: float
    code: str


class _Observation(msgspec.Struct, gc=False, tag_field="resourceType", tag="Observation"):
    status: Literal["registered", "preliminary", "final", "amended", "corrected", "cancelled"]
    code: _Concept
    subject: _Reference
    effectiveDateTime: str
    valueQuantity: _Quantity


def _append(rows: list[_Observation], tokens: dict[str, str], key: bytes, folder: str) -> None:
    patients = pa.array([o.subject.reference for o in rows]).dictionary_encode()
    for patient in patients.dictionary.to_pylist():
        if patient not in tokens:
            tokens[patient] = hmac.digest(key, patient.encode(), hashlib.sha256).hex()
    masked = pa.DictionaryArray.from_arrays(
        patients.indices, pa.array([tokens[p] for p in patients.dictionary.to_pylist()])
    )
    at = pa.array([o.effectiveDateTime for o in rows]).cast(pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "patient_id": masked.cast(pa.string()),
            "code": pa.array([o.code.coding[0].code for o in rows]).dictionary_encode().cast(pa.string()),
            "value": pa.array([o.valueQuantity.value for o in rows]),
            "unit": pa.array([o.valueQuantity.code for o in rows]),
            "effective_at": at,
            "day": at.cast(pa.date32()),
        }
    )
    write_deltalake(folder, table, mode="append", partition_by=["day"])


def main(bootstrap: str, topic: str, share: int, of: int, folder: str, messages: int, *, gc_off: bool) -> None:
    """Read a share of the topic's four partitions and print the rate."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bare",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(4) if p % of == share])
    decoder = msgspec.json.Decoder(_Observation)
    decode = decoder.decode
    rows: list[_Observation] = []
    tokens: dict[str, str] = {}
    taken, first, before = 0, 0.0, 0
    if gc_off:
        gc.disable()
    while taken < messages:
        for message in consumer.consume(10_000, 0.5):
            taken += 1
            try:
                rows.append(decode(message.value()))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
        if len(rows) >= APPEND_ROWS or taken >= messages:
            _append(rows, tokens, b"k" * 32, folder)
            rows = []
            if not first:
                first, before = time.perf_counter(), taken
    seconds = time.perf_counter() - first
    consumer.close()
    print(msgspec.json.encode({"messages": taken - before, "seconds": seconds}).decode())


if __name__ == "__main__":
    main(
        sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], int(sys.argv[6]),
        gc_off="--gc-off" in sys.argv,
    )  # fmt: skip
