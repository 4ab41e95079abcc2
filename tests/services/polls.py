"""A lane with its real decoder, masks, look-back and writer, given polls by hand instead of by a consumer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.core.kafka import Shard
from pipelines.core.poll import Poll
from pipelines.core.writer import SpanWriter
from pipelines.live.lane import Lane, StreamOptions
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId
from vitalake.settings import load_settings

ASIDE = ("ingested_at", "source", "source_position", "available_at")
"""Columns that depend on when and where a message arrived."""


class LaneWithoutKafka:
    """A lane with its real decoder, masks, look-back and writer, given polls by hand instead of by a consumer."""

    def __init__(self, home: Path, parts: int = 1, *, topic_id: str = "u", begun: bool = False) -> None:
        settings = load_settings(home)
        self.lane = Lane(settings, "vitals", Shard(0, 1), StreamOptions(), threading.Event())
        self.parts = tuple(PartId("t", topic_id, p) for p in range(parts))
        self.offsets = [0] * parts
        self.stamps: list[int] | None = None
        lake = self.lane.lake
        if not begun:
            lake.spans.begin_at("observation", dict.fromkeys(self.parts, 0))
        positions = {p: n or 0 for p, n in lake.spans.positions("observation", self.parts).items()}
        self.lane.writer = SpanWriter(
            lake, job="vitals", shard="0of1", epoch=lake.spans.begin_epoch(job="vitals", shard="0of1"),
            fence=self.lane.steps.fence,
            rules=self.lane.steps.plan.version, decoder="test", dead_letters=self.lane.steps.dead_letters,
            span_seconds=1e9, span_rows=10**9, late_seconds=3600, positions=positions, watermarks={},
            stop=threading.Event(), on_committed=lambda _: None, on_paused=lambda _: None,
            online=self.lane.steps.online,
        )  # fmt: skip

    def send(self, batch: Sequence[tuple[int, bytes | None]], *, cut: bool, broker_ms: int = 1_795_000_000_000) -> None:
        part = np.array([p for p, _ in batch], np.int32)
        offsets = []
        for p in part.tolist():
            offsets.append(self.offsets[p])
            self.offsets[p] += 1
        stamps = np.array(self.stamps or [broker_ms] * len(batch), np.int64)
        poll = Poll("vitals/0of1", "fhir", [m for _, m in batch], self.parts, part, np.array(offsets), stamps)
        self.lane.write(self.lane.mask(self.lane.conform(self.lane.decode(poll))))
        if cut:
            self.lane.finish()

    def rows(self) -> list[str]:
        self.lane.finish()
        self.lane.reset()
        table = Lake(self.lane.settings.lake_uri, {}).published.delta.to_pyarrow_table()
        names = [name for name in table.schema.names if name not in ASIDE]
        return sorted(map(repr, table.select(names).to_pylist()))
