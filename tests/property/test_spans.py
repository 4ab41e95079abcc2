"""Any order of deciding, adding, dying, waking late, compacting and sweeping: every decided row once, no other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.vitalake.lake.span_samples import JOB, SHARD, open_lake, part, staged_span
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import LiveLedger
from vitalake.lake.commits.span import Span
from vitalake.lake.commits.span_log import SpanConflict, Superseded
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.rewrite import rewrite
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.maintenance.verify import verify

PARTITIONS = st.integers(0, 1)


class LakeMachine(RuleBasedStateMachine):
    """Two partitions, one shard; writers are processes that may stop anywhere and wake late."""

    staged = Bundle("staged")

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.lake = open_lake(self.folder)
        self.lake.spans.begin_at("observation", {part(0): 0, part(1): 0})
        self.ends = {0: 0, 1: 0}
        self.epoch = 0
        self.rows: dict[int, list[int]] = {0: [], 1: []}
        self.live = LiveLedger(open_lake(self.folder).spans)
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.roll_forward()
            assert verify(open_lake(self.folder)) == []
            assert self.published() == self.rows
            shutil.rmtree(self.folder)

    # -- writers -------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        """Begin anew, as a process does that comes after one that died."""
        self.lake = open_lake(self.folder)
        self.epoch = self.lake.spans.begin_epoch(job=JOB, shard=SHARD)
        self.roll_forward()

    @rule()
    def roll_forward(self) -> None:
        open_lake(self.folder).roll_forward([part(0), part(1)], since_us=clock.now_us())

    @rule(target=staged, partition=PARTITIONS, size=st.integers(1, 4), bad=st.integers(0, 1))
    def stage(self, partition: int, size: int, bad: int) -> tuple[Lake, Span]:
        """Stage the next span of a partition; who did may die now, or decide at any later time."""
        start = self.ends[partition]
        span = staged_span(
            self.lake, start, start + size, bad=min(bad, size), at=part(partition), epoch=self.epoch, days=2
        )
        return self.lake, span

    @rule(work=staged, then=st.sampled_from(["add", "add", "die", "die-between"]))
    def decide(self, work: tuple[Lake, Span], then: str) -> None:
        """Decide what was staged, perhaps long ago; it is refused exactly when it must be."""
        lake, span = work
        own = span.parts[0]
        partition = own.id.partition
        if any(known.span_id == span.span_id for known in open_lake(self.folder).spans.all_spans()):
            lake.spans.decide(span)  # a lost reply: again, and without effect
        elif span.epoch != self.epoch or own.start != self.ends[partition]:
            try:
                lake.spans.decide(span)
            except (SpanConflict, Superseded):
                return
            raise AssertionError("a span was decided that must not be")
        else:
            lake.spans.decide(span)
            self.ends[partition] = own.end
            self.rows[partition] += range(own.end - own.counts.published - own.counts.undecodable, own.end)[
                : own.counts.published
            ]
        if then == "add":
            lake.add(span)

    # -- maintenance ---------------------------------------------------------------------------------------------

    @rule(table=st.integers(0, 2))
    def compact(self, table: int) -> None:
        lake = open_lake(self.folder)
        compact((*lake.tables, lake.spans.table)[table], min_files=2)

    @rule(work=staged)
    def compact_while_others_write_and_compact(self, work: tuple[Lake, Span]) -> None:
        lake = open_lake(self.folder)
        lake.published.refresh()
        if not lake.published.snapshot().files:
            return

        def transform(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
            self.decide(work, "add")
            self.compact(0)
            yield from batches

        rewrite(lake.published, lambda snapshot: list(snapshot.files.values()), transform)

    @rule()
    def sweep(self) -> None:
        """The sweeper takes the shard for dead; whoever had it must begin anew."""
        self.epoch = sweep(open_lake(self.folder), JOB, shards=[SHARD], lease_seconds=0).epochs[SHARD]
        self.lake = open_lake(self.folder)

    # -- what must hold at every moment --------------------------------------------------------------------------

    def published(self) -> dict[int, list[int]]:
        """Return the positions of the published rows of each partition, in order."""
        found: dict[int, list[int]] = {0: [], 1: []}
        table = open_lake(self.folder).published.scan(columns=["source", "source_position"])
        for source, position in zip(table["source"].to_pylist(), table["source_position"].to_pylist(), strict=True):
            found[int(source[-2])].append(position)
        return {partition: sorted(rows) for partition, rows in found.items()}

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "folder"):
            return
        published, ledger = self.published(), self.live.refresh()
        for partition, rows in published.items():
            assert len(rows) == len(set(rows)), "a row is there twice"
            assert set(rows) <= set(self.rows[partition]), "a row is there that was never decided"
        assert ledger.to_json()["balanced"]
        assert ledger.total.counts.published == sum(map(len, self.rows.values()))


LakeMachine.TestCase.settings = settings(
    derandomize=True,
    max_examples=12,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLake = LakeMachine.TestCase
