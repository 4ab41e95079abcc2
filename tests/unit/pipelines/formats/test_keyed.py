"""Rows that their dataset cannot have: without a key, or with a number that is none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.formats.shared.keyed import with_key
from pipelines.formats.shared.reasons import Reason
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
