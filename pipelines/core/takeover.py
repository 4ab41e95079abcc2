"""Takes over a job from the process that ran it before."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vitalake import clock
from vitalake.errors import SettingsError
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId

ONE_SHARD = "0of1"
"""The only shard of a job that does not read from Kafka."""


_TAKEN = re.compile("replay|attribution|devices|history-.*")
"""Names of the jobs that do not read from Kafka: of replays, of the attributor, of entries by hand, of loads."""


def refuse_taken(lake: Lake, job: str) -> None:
    """Return if a stream's job may have this name; one that an earlier release let begin goes on.

    Two jobs of one name would take each other's shard over: a replay ended the lane.

    Raises:
        SettingsError: another kind of job has the name.
        ServiceUnavailable: the lake cannot be reached.
    """
    if _TAKEN.fullmatch(job) and not lake.spans.begun(job=job, dataset=lake.dataset.name).claimed:
        raise SettingsError(
            "Another kind of job has this name",
            where=f"jobs.{job}",
            remedy="Give the stream's job another name. Taken are replay, attribution, devices, and what begins with "
            "history-.",
        )


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
