"""The lanes of this process, one per shard: the steps of the pipeline find them by name."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.core.kafka import Shard
from pipelines.live.lane import Lane, StreamOptions
from vitalake.settings import load_settings


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """What a worker needs to open a lane. It is sent to other machines, so it contains no secrets.

    Attributes:
        config: path of the configuration file.
        job: the job.
        shard: which of its shards.
        options: from the command line.
    """

    config: str
    job: str
    shard: Shard
    options: StreamOptions = field(default_factory=StreamOptions)

    @property
    def name(self) -> str:
        """Return ``<job>/<i>of<n>``."""
        return f"{self.job}/{self.shard}"


STOP = threading.Event()
"""When it is set, all lanes of this process end at their next poll."""

_lanes: dict[str, Lane] = {}
_guard = threading.Lock()
failures: list[BaseException] = []
"""Errors of the lanes of this process, the newest last. Runners wrap errors in texts that may not be logged."""


def lane_of(spec: LaneSpec) -> Lane:
    """Return the lane of a shard; the first call makes it.

    Raises:
        VitaLakeError: configuration, rules, keys or profiles are not valid.
    """
    with _guard:
        lane = _lanes.get(spec.name)
        if lane is None:
            try:
                settings = load_settings(Path(spec.config))
                lane = _lanes[spec.name] = Lane(settings, spec.job, spec.shard, spec.options, STOP)
            except BaseException as error:
                failures.append(error)
                raise
        return lane


def lane_named(name: str) -> Lane:
    """Return the lane with this name, which lane_of has made."""
    return _lanes[name]


def lanes() -> list[Lane]:
    """Return all lanes of this process."""
    with _guard:
        return list(_lanes.values())
