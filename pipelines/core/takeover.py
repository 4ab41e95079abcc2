"""Takes over a job from the process that ran it before."""

from __future__ import annotations

from collections.abc import Sequence

from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId

ONE_SHARD = "0of1"
"""The only shard of a job that does not read from Kafka."""


def take_over(lake: Lake, *, job: str, parts: Sequence[PartId]) -> int:
    """Take over a job of one shard: add the spans that were decided and not added yet, and return the new epoch.

    From now on the process that ran the job before can decide nothing.

    Raises:
        InputError: another job reads one of the partitions into the dataset already.
        ServiceUnavailable: the lake cannot be reached.
    """
    lake.spans.claim(job=job, dataset=lake.dataset.name, topic_ids={part.topic_id for part in parts})
    epoch = lake.spans.begin_epoch(job=job, shard=ONE_SHARD)
    lake.roll_forward(list(parts), since_us=clock.now_us())
    return epoch
