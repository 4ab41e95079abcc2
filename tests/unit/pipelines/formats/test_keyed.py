"""Rows that their dataset cannot have: without a key, or with a number that is none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.formats.shared.keyed import with_key
from pipelines.formats.shared.reasons import Reason
from pipelines.history.rows import decoded_rows, record_rows
from vitalake import clock
from vitalake.lake.datasets.declared import load_dataset

INFINITE, NONE = float("inf"), float("nan")


def test_a_number_that_is_infinite_or_none_rejects_its_message_as_the_value_of_an_observation_does() -> None:
    """An infinite dose was published."""
    dataset = load_dataset("medication_administration")
    doses = [5.0, INFINITE, None, -INFINITE, NONE, 0.0]
    rows = pa.RecordBatch.from_pylist(
        [
            {
                "administration_id": bytes([i]),
                "version": 1,
                "patient_id": "p" if i else None,
                "administered_at": clock.now(),
                "dose": dose,
            }
            for i, dose in enumerate(doses)
        ]
    )
    kept, message, rejects = with_key(rows, np.arange(len(doses), dtype=np.int32), dataset)
    assert [(r.message, r.reason, r.path, r.rows) for r in rejects] == [
        (0, Reason.NO_KEY, "medication_administration.patient_id", 1),
        *((i, Reason.IMPLAUSIBLE_VALUE, "medication_administration.dose", 1) for i in (1, 3, 4)),
    ]
    assert (kept["dose"].to_pylist(), message.tolist()) == ([None, 0.0], [2, 5])


def test_an_empty_number_counts_as_none_because_it_would_be_everybody_s() -> None:
    stays = ["1", "", " ", None, "2"]
    rows = pa.RecordBatch.from_pylist(
        [
            {"encounter_id": stay, "version": 1, "patient_id": "" if stay == "2" else "p", "admitted_at": clock.now()}
            for stay in stays
        ]
    )
    dataset = load_dataset("encounter")
    for texts in (rows["encounter_id"], rows["encounter_id"].dictionary_encode()):
        batch = rows.set_column(0, "encounter_id", texts)
        kept, _, rejects = with_key(batch, np.arange(5, dtype=np.int32), dataset)
        assert kept["encounter_id"].to_pylist() == ["1"]
        assert [(r.message, r.path) for r in rejects] == [
            *((i, "encounter.encounter_id") for i in (1, 2, 3)),
            (4, "encounter.patient_id"),
        ]


def test_a_warehouse_s_record_without_a_number_has_no_identity_and_an_observation_no_subject() -> None:
    named = pa.table({"procedure_id": pa.array([b"7", b"", b" ", None], pa.binary())})
    assert record_rows(named, load_dataset("procedure")).identities == [b"sql|procedure|7", None, None, None]
    observed = pa.table(
        {
            "patient_id": ["p", ""],
            "code": ["8867-4"] * 2,
            "status": ["final"] * 2,
            "value": [72.0] * 2,
            "effective_at": [clock.now()] * 2,
        }
    )
    decoded = decoded_rows(observed, np.arange(2))
    assert [(r.message, r.reason) for r in decoded.rejects] == [(1, Reason.NO_SUBJECT)]
