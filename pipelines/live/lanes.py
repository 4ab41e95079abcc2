"""The lanes of this process: one a shard, found by name from every step of the pipeline."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.core.kafka import Shard
from pipelines.live.lane import Lane, StreamOptions
from vitalake.settings import load_settings


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """What a worker needs to open a lane; travels to other machines, so it holds no secrets.

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
"""Set to end all lanes of this process at their next poll."""

_lanes: dict[str, Lane] = {}
_guard = threading.Lock()
failures: list[BaseException] = []
"""Errors of this process' lanes, newest last: runners wrap them, and their texts are not for a log."""


def lane_of(spec: LaneSpec) -> Lane:
    """Return the lane of a shard, made at first use.

    Raises:
        VitaLakeError: configuration, rules, keys or profiles do not allow it.
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
    """Return a lane that was made before."""
    return _lanes[name]


def lanes() -> list[Lane]:
    """Return all lanes of this process."""
    with _guard:
        return list(_lanes.values())
