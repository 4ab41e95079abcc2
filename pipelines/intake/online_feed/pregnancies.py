"""Takes diagnoses of pregnancy, in which NEWS2 does not apply, to the online store."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import compress
from operator import or_

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.core.poll import Outcome, Poll
from pipelines.formats.base import WAREHOUSE
from pipelines.formats.shared.records import ID_TOLD, OVER_TOLD, record_batch
from pipelines.intake.online_feed.columns import numbers_of, texts_of, values_of
from pipelines.intake.online_feed.destination import Destination
from pipelines.online_store.facts import Fact, Pregnancy
from vitalake.vocabulary.pregnancy import says_pregnant

_PREGNANT_US = 300 * 86_400_000_000
"""How long a diagnosis without a stay is valid after it was recorded: longer than any pregnancy lasts."""


class Pregnancies:
    """Takes polls of conditions."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def take(self, outcome: Outcome) -> None:
        """Store diagnoses of pregnancy, in which NEWS2 does not apply; also those that the lake does not take."""
        store_only = record_batch("condition", [row for _, row in outcome.told])
        message = np.array([i for i, _ in outcome.told], np.int32)
        self._put_diagnoses(outcome.rows, outcome.message, outcome.poll)
        self._put_diagnoses(store_only, message, outcome.poll)

    def _put_diagnoses(self, rows: pa.RecordBatch, message: npt.NDArray[np.int32], poll: Poll) -> None:
        ids = texts_of(rows, ID_TOLD)
        relevant = np.array([*map(or_, _diagnosed(rows), [id_ is not None for id_ in ids])], np.bool_)
        rows, message = rows.filter(pa.array(relevant)), message[relevant]
        if not rows.num_rows:
            return
        keys, names = self._names_of_diagnoses(rows)
        chosen = np.array([name is not None for name in names], np.bool_)
        if not chosen.any():
            return
        rows, message = rows.filter(pa.array(chosen)), message[chosen]
        columns = zip(
            [token or "" for token in self._destination.encounter_tokens(rows)],
            numbers_of(rows, "available_at"),
            numbers_of(rows, "recorded_at"),
            values_of(rows, OVER_TOLD),
            (poll.broker_ms[message] * 1000).tolist(),
            _diagnosed(rows),
            compress(names, chosen),
            strict=True,
        )
        facts: list[Fact] = [
            Pregnancy(
                stay,
                known or came,
                not pregnant or _is_over(over, recorded if not stay else None, came),
                tuple(has or ()),
            )
            for stay, known, recorded, over, came, pregnant, has in columns
        ]
        # The lake does not store that a diagnosis is over. So a row read from it has a lower version here than the same
        # version of a message.
        live = [poll.values[i] is not None for i in message.tolist()]
        versions = [2 * v + is_live for v, is_live in zip(rows["version"].to_pylist(), live, strict=True)]
        index = rows.schema.get_field_index("version")
        rows = rows.set_column(index, "version", pa.array(versions, pa.int64()))
        self._destination.put(rows, [*compress(keys, chosen)], facts, wait=poll.format != WAREHOUSE)

    def _names_of_diagnoses(self, rows: pa.RecordBatch) -> tuple[list[str], list[list[str] | None]]:
        """Return the keys of diagnoses, and for each the further names; None: it is no pregnancy, and never was one.

        The key is the diagnosis' id. So two diagnoses of one code are two, and a diagnosis whose code or stay changes
        stays the same. Without an id, as in the lake, the key is made of stay and code, which is a further name of a
        diagnosis with an id. A diagnosis that is no longer one of pregnancy ends the earlier one. So does a diagnosis
        without a readable code, if it is over.
        """
        tokens = self._destination.tokens
        of = zip(*(texts_of(rows, name) for name in ("encounter_id", "code_system", "code")), strict=True)
        stay_and_code = tokens("encounter_id", pa.array(["|".join(part or "" for part in name) for name in of]))
        ids = texts_of(rows, ID_TOLD)
        called = tokens("encounter_id", pa.array([id_ and f"condition.id|{id_}" for id_ in ids], pa.string()))
        patients = tokens("patient_id", rows["patient_id"])
        known: dict[tuple[str, str], list[str]] = {}
        names: list[list[str] | None] = []
        unread = zip(texts_of(rows, "code"), values_of(rows, OVER_TOLD), strict=True)
        says = zip(patients, called, stay_and_code, _diagnosed(rows), unread, strict=True)
        for patient, key, name, pregnant, (code, over) in says:
            if key and (patient, key) not in known:
                before = self._destination.store.facts.pregnancies(self._destination.store.survivor(patient)).get(key)
                known |= {(patient, key): [*before.names]} if before else {}
            has = known.get((patient, key)) if key else None
            if pregnant:
                has = [*dict.fromkeys([*(has or []), name])] if key else []
                known |= {(patient, key): has} if key else {}
            names.append(has if pregnant or code or over == "yes" else None)
        return [key or name for key, name in zip(called, stay_and_code, strict=True)], names


def _diagnosed(rows: pa.RecordBatch) -> list[bool]:
    """Return which diagnoses are of a pregnancy."""
    of = zip(texts_of(rows, "code_system"), texts_of(rows, "code"), strict=True)
    return [says_pregnant(system, code) for system, code in of]


def _is_over(told: str | None, recorded_us: int | None, now_us: int) -> bool:
    """Return whether a diagnosis is over: it says so, or gives an end before today, or was recorded too long ago."""
    if recorded_us is not None and recorded_us < now_us - _PREGNANT_US:
        return True
    today = datetime.fromtimestamp(now_us / 1e6, UTC).date().isoformat()
    return told == "yes" or (told is not None and told[:10] < today[: len(told)])
