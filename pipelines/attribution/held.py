"""Held messages: rows of the quarantine in which sealed messages wait until the patients of their rows are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.core.dead_letters import DeadLetters
from pipelines.core.poll import Poll
from vitalake import clock
from vitalake.lake.datasets.declared import load_dataset

HELD = "quarantine/held"
REASON = "no-association"

_DAY_US = 86_400_000_000


class Holder:
    """Makes the rows of the table of held messages."""

    def __init__(self, envelopes: DeadLetters, *, dataset: str, days: int) -> None:
        """Prepare.

        Args:
            envelopes: seals payloads.
            dataset: where the rows would have gone.
            days: after how many days a message expires.
        """
        self._envelopes, self._dataset, self._days = envelopes, dataset, days
        self._schema = load_dataset("held").schema

    def hold(
        self,
        poll: Poll,
        message: npt.NDArray[np.int32],
        rows_of: npt.NDArray[np.int64],
        at_us: npt.NDArray[np.int64],
        device: npt.NDArray[np.int64],
        keys: Sequence[bytes | None],
    ) -> pa.RecordBatch:
        """Return one row for each message that contains a value without a known patient.

        Args:
            poll: the messages.
            message: index of the message of each such value.
            rows_of: how many values of each message of the poll wait.
            at_us: effective time of each such value.
            device: index into ``keys`` of each such value.
            keys: keys of devices; None: no device.
        """
        which, begin = np.unique(message, return_index=True)  # rows of a message lie together
        several = np.minimum.reduceat(device, begin) != np.maximum.reduceat(device, begin)
        first = np.minimum.reduceat(at_us, begin)
        last = np.maximum.reduceat(at_us, begin)
        parts = [poll.parts[i] for i in poll.part[which].tolist()]
        now = clock.now_us()
        count = len(which)
        columns = self._envelopes.seal(
            [poll.values[i] for i in which.tolist()],
            sources=[str(part) for part in parts],
            topic_ids=[part.topic_id for part in parts],
            positions=poll.offset[which].tolist(),
            broker_ms=poll.broker_ms[which].tolist(),
        ) | {
            "rejected_at": [now] * count,
            "reason": [REASON] * count,
            "path": [""] * count,
            "decoder": [poll.format] * count,
            "expires_at": [now + self._days * _DAY_US] * count,
            "dataset": [self._dataset] * count,
            "device_key": [
                None if many else keys[i] for many, i in zip(several, device[begin].tolist(), strict=True)
            ],
            "earliest_effective_at": first.tolist(),
            "latest_effective_at": last.tolist(),
            "rows": rows_of[which].tolist(),
        }  # fmt: skip
        return pa.RecordBatch.from_arrays(
            [pa.array(columns[field.name], field.type) for field in self._schema], schema=self._schema
        )
