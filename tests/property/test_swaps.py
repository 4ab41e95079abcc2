"""Swaps, buckets, drops, compaction, sweeps and writers in any order, killed or not: each row is there exactly once."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.vitalake.lake.span_samples import JOB, SHARD, empty_span, observations, open_lake, part
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import Counts, Span
from vitalake.lake.commits.span_log import SpanConflict, Superseded
from vitalake.lake.maintenance import replacement as swapping
from vitalake.lake.maintenance.compaction import compact, put_into_buckets
from vitalake.lake.maintenance.deletion import drop_rows
from vitalake.lake.maintenance.replacement import Convert, Converted, replace_table
from vitalake.lake.maintenance.rewrite import is_locked
from vitalake.lake.maintenance.sweep import roll_forward_all, sweep
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.table import Table

pytestmark = pytest.mark.slow

PATIENTS = 5


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pieces of a file or two: one is written while the next one is converted."""
    monkeypatch.setattr(swapping, "PIECE_ROWS", 5)


class Killed(Exception):
    """As if the process had been killed here."""


class SwapMachine(RuleBasedStateMachine):
    """One partition, one writer at a time; what is under which rules stands in the rows themselves."""

    staged = Bundle("staged")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        lake = open_lake(self.folder)
        lake.spans.begin_at("observation", {part(): 0})
        lake.restricted.refresh()
        self.epoch = lake.spans.begin_epoch(job=JOB, shard=SHARD)
        self.end, self.policy = 0, 1
        self.rows: set[int] = set()
        self.dropped: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.settled()
            shutil.rmtree(self.folder)

    # -- writers -------------------------------------------------------------------------------------------------

    @rule(target=staged, size=st.integers(1, 6))
    def stage(self, size: int) -> tuple[Lake, Span, set[int]]:
        """Stage the next span under today's rules; it may be decided at any later time."""
        lake = open_lake(self.folder)
        start, end = self.end, self.end + size
        kept = {position for position in range(start, end) if not self.is_forgotten(position)}
        counts = Counts(messages=size, decoded=size, rows=size, published=len(kept), filtered=size - len(kept))
        span = empty_span(start, end, epoch=self.epoch, counts=counts)
        span.fence = lake.spans.fence("observation")
        rows = observations(start, end, days=2).filter(pa.array([p in kept for p in range(start, end)]))
        span.files = lake.published.stage(under(rows, self.policy), stem=span.span_id)
        span.files += lake.restricted.stage(identified(rows, lake.restricted), stem=span.span_id)
        return lake, span, kept

    @rule(work=staged, add=st.booleans())
    def decide(self, work: tuple[Lake, Span, set[int]], add: bool) -> None:
        """Decide what was staged, perhaps long ago, and add it, or die before that."""
        lake, span, kept = work
        known = any(one.span_id == span.span_id for one in open_lake(self.folder).spans.all_spans())
        good = (span.epoch, span.parts[0].start, span.fence) == (
            self.epoch, self.end, open_lake(self.folder).spans.fence("observation"),
        )  # fmt: skip
        if known:
            return
        if good:
            lake.spans.decide(span)
            self.end = span.parts[0].end
            self.rows |= kept
            if add:
                lake.roll_forward([part()], since_us=0)
            return
        try:
            lake.spans.decide(span)
        except (SpanConflict, Superseded):
            return
        raise AssertionError("a span was decided that must not be")

    # -- maintenance ---------------------------------------------------------------------------------------------

    @rule(table=st.sampled_from(["published", "restricted"]))
    def compact(self, table: str) -> None:
        compact(getattr(open_lake(self.folder), table), min_files=2)

    @rule(table=st.sampled_from(["published", "restricted"]), count=st.integers(2, 4))
    def bucket(self, table: str, count: int) -> None:
        put_into_buckets(getattr(open_lake(self.folder), table), count, closed_before="9999-12-31")

    @rule(patient=st.integers(0, PATIENTS - 1))
    def drop(self, patient: int) -> None:
        """Forget a patient, as an erasure does: fence, roll forward, drop."""
        self.dropped |= {position for position in range(10_000) if position % PATIENTS == patient}
        lake = open_lake(self.folder)
        lake.spans.raise_fence("observation")
        roll_forward_all(open_lake(self.folder))
        drop_rows(lake.published, "patient_id", f"pseudonym-{patient}")
        drop_rows(lake.restricted, "subject", subject(patient))

    @rule(newer=st.booleans())
    def replace_table(self, newer: bool) -> None:
        """Publish anew, by newer rules or by the same; it goes on where a killed one was."""
        self.policy += newer
        replace_table(open_lake(self.folder), kind="test", rules=str(self.policy), make=lambda: self.convert)
        units = set(open_lake(self.folder).published.scan(columns=["unit"])["unit"].to_pylist())
        assert units <= {str(self.policy)}, "a row of before is still under the rules of before"
        assert not is_locked(open_lake(self.folder).published)

    @rule(newer=st.booleans(), after=st.integers(-1, 2))
    def swap_killed(self, newer: bool, after: int) -> None:
        self.policy += newer
        self.swap_with(after, self.killed)

    @rule(newer=st.booleans(), work=staged, bucket=st.booleans(), early=st.booleans())
    def swap_while_others_write(
        self, newer: bool, work: tuple[Lake, Span, set[int]], bucket: bool, early: bool
    ) -> None:
        """Write right after the fence was raised, or while rows are converted."""
        self.policy += newer

        def meanwhile() -> None:
            self.decide(work, add=True)
            self.decide(self.stage(3), add=True)
            for table in ("published", "restricted") if bucket else ():
                self.bucket(table, 3)

        self.swap_with(-1 if early else 0, meanwhile)

    @rule(patient=st.integers(0, PATIENTS - 1))
    def swap_while_somebody_is_forgotten(self, patient: int) -> None:
        self.swap_with(0, lambda: self.drop(patient))

    @rule(jobs=st.booleans())
    def sweep(self, jobs: bool) -> None:
        """The sweeper takes the shard for dead; whoever had it must begin anew."""
        lease = {"job_lease_seconds": 0.0} if jobs else {}
        self.epoch = sweep(open_lake(self.folder), JOB, shards=[SHARD], lease_seconds=0, **lease).epochs[SHARD]

    # -- helpers -------------------------------------------------------------------------------------------------

    @staticmethod
    def killed() -> None:
        raise Killed

    def swap_with(self, after: int, act: Callable[[], None]) -> None:
        """Swap, and do something when so many batches were converted, once; −1: before any was."""
        calls = itertools.count()

        def convert(batch: pa.Table) -> Converted:
            if next(calls) == after:
                act()
            return self.convert(batch)

        def make() -> Convert:
            if after < 0:
                act()
            return convert

        try:
            replace_table(open_lake(self.folder), kind="test", rules=str(self.policy), make=make)
        except Killed:
            return

    def convert(self, batch: pa.Table) -> Converted:
        published = open_lake(self.folder).published
        patients = [f"pseudonym-{value[-1] - ord('0')}" for value in batch["subject"].to_pylist()]
        columns = {
            field.name: pa.array(patients) if field.name == "patient_id" else batch[field.name].cast(field.type)
            if field.name in SAME else pa.nulls(batch.num_rows, field.type)
            for field in published.dataset.schema
        }  # fmt: skip
        return Converted(under(pa.table(columns, schema=published.dataset.schema), self.policy), 0, 0)

    def is_forgotten(self, position: int) -> bool:
        return position in self.dropped

    # -- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "folder"):
            return
        for table in (open_lake(self.folder).published, open_lake(self.folder).restricted):
            found = table.scan(columns=["source_position"])["source_position"].to_pylist()
            assert len(found) == len(set(found)), "a row is there twice"
            assert set(found) <= self.rows - self.dropped, "a row is there that must not be"
        assert [f for f in verify(open_lake(self.folder)) if f.severity == "error"] == []

    def settled(self) -> None:
        """Hold all that was decided to be there, once it is added."""
        roll_forward_all(open_lake(self.folder))
        lake = open_lake(self.folder)
        for table in (lake.published, lake.restricted):
            found = table.scan(columns=["source_position"])["source_position"].to_pylist()
            assert sorted(found) == sorted(self.rows - self.dropped), "a row is lost"


SAME = ("observation_id", "version", "code", "value", "status", "effective_at", "source", "source_position")


def subject(patient: int) -> bytes:
    return b"0" * 15 + str(patient).encode()


def under(rows: pa.Table, rules: int) -> pa.Table:
    """Return published rows that say under which rules they are."""
    place = rows.schema.get_field_index("unit")
    return rows.set_column(place, "unit", pa.array([str(rules)] * rows.num_rows, pa.string()))


def identified(rows: pa.Table, restricted: Table) -> pa.Table:
    """Return rows as the restricted zone has them, without their sealed values."""
    subjects = [subject(int(patient[-1])) for patient in rows["patient_id"].to_pylist()]
    columns = {
        field.name: pa.array(subjects, pa.binary()) if field.name == "subject" else rows[field.name]
        if field.name in SAME else pa.nulls(rows.num_rows, field.type)
        for field in restricted.dataset.schema
    }  # fmt: skip
    return pa.table(columns, schema=restricted.dataset.schema)


SwapMachine.TestCase.settings = settings(
    derandomize=True,
    max_examples=10,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSwaps = SwapMachine.TestCase
