"""Releases held messages whose patients have become known: decodes them again, and resolves them with their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.attribution.associations import AssociationMap
from pipelines.attribution.held import HELD
from pipelines.core.open_letters import PLACE, Choice, Places, census, open_letters, resolved
from pipelines.core.poll import Outcome
from pipelines.intake.steps import Steps
from pipelines.reconcile.changes import Stretches
from pipelines.reprocess.origins import Lineage, lineages
from pipelines.reprocess.redecoding import Attempt, Redecoder
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import OnlineShare
from vitalake.lake.tables.schema import conform
from vitalake.settings import Settings

_WHERE = ("device_key", "earliest_effective_at", "latest_effective_at")

_SAME = ("observation_id", "version", "status", "value", "value_code", "effective_at", "told_at")
"""The columns in which rows of two messages must be equal to count as the same; sealed columns are not compared."""


@dataclass(frozen=True, slots=True)
class Released:
    """Messages whose patients are known now, not masked yet, and the redecoder that decoded them."""

    attempts: list[Attempt]
    redecoder: Redecoder


def open_held(lake: Lake) -> int:
    """Return how many messages are held."""
    return census(lake, HELD).open


def candidates(lake: Lake, stretches: Stretches) -> tuple[Places, int]:
    """Return the places of messages to skip, and how many messages are left whose patients could be known now."""
    skipped, count = resolved(lake, HELD), 0
    table = lake.table(HELD)
    schema = pa.schema([table.state.columns.field(name) for name in (*PLACE, *_WHERE)])
    for file in table.snapshot().files.values():
        rows = conform(table.storage.read_parquet(file.path, columns=schema.names), schema)
        first, last = (pc.fill_null(rows[name].cast(pa.int64()), 0).to_numpy() for name in _WHERE[1:])
        hit = stretches.hit(rows["device_key"], first, last)
        skipped.add(rows.filter(pa.array(~hit)))
        count += int((hit & ~skipped.hold(rows)).sum())
    return skipped, count


class Release:
    """Decodes held messages again; used by one thread at a time."""

    def __init__(self, settings: Settings, lake: Lake, associations: AssociationMap, *, job: str) -> None:
        """Prepare.

        Args:
            settings: of the home.
            lake: of the dataset.
            associations: of devices with patients; only the caller refreshes them.
            job: job and shard under which rows are written.
        """
        self._settings, self._lake, self._associations, self._job = settings, lake, associations, job
        self._steps: dict[tuple[str, OnlineShare], Steps] = {}

    def close(self) -> None:
        """Close what was opened."""
        for steps in self._steps.values():
            steps.close()
        self._steps = {}

    def batches(self, stretches: Stretches) -> Iterator[Released]:
        """Yield messages whose patients are known now, in batches; the caller decides each batch before the next one.

        Raises:
            LettersMoved: the table was rewritten meanwhile: start again.
            KeyRevoked: patients' keys are not available.
        """
        lake = self._lake
        if not lake.storage.holds_table(HELD):
            return
        lake.table(HELD).refresh()
        skipped, count = candidates(lake, stretches)
        if not count:
            return
        known, _ = lineages(self._settings, census(lake, HELD).decoders, lake.spans.all_spans())
        for lineage in known:
            if lineage.stream.dataset != lake.dataset.name:
                continue
            choice = Choice(sources=lineage.sources)
            for letters in open_letters(lake, HELD, choice, done=skipped):
                redecoder = self._redecoder(lineage)
                attempts = list(self._released(redecoder, letters))
                if attempts:
                    yield Released(attempts, redecoder)

    def _redecoder(self, lineage: Lineage) -> Redecoder:
        alike = lineage.job, lineage.share
        if alike not in self._steps:
            self._steps[alike] = self._make_steps(lineage)
        return Redecoder(self._settings, lineage, self._steps[alike], job=self._job)

    def _make_steps(self, lineage: Lineage) -> Steps:
        """Return the steps of a job, which attribute by this object's associations."""
        steps = Steps(self._settings, lineage.stream, self._lake.dataset, online=lineage.share, purpose="attribution")
        assert steps.attributor is not None
        steps.attributor.associations = self._associations
        return steps

    def _released(self, redecoder: Redecoder, letters: pa.Table) -> Iterator[Attempt]:
        """Yield attempts without the messages that would be held or rejected again; those stay held unchanged."""
        attributor = redecoder.steps.attributor
        assert attributor is not None
        for attempt in redecoder.attempts(letters, table=HELD, mask=False):
            stays = attempt.staying
            stays[attributor.waiting(attempt.outcome)[0]] = True
            if stays.all():
                continue
            going = attempt.without(stays)
            _, alone = attributor.waiting(going.outcome)
            attributor.attribute(going.outcome, partial(self._recognise, redecoder.steps, alone))
            yield going

    def _recognise(
        self, steps: Steps, alone: npt.NDArray[np.bool_], outcome: Outcome, waiting: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.bool_]:
        """Remove repeated rows, and those that came in another message meanwhile; return which rows are left."""
        published = alone & self._published(outcome.rows) if alone.any() else alone
        kept = steps.recognise(outcome, waiting)
        outcome.keep(~published[kept])
        return kept & ~published

    def _published(self, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Return which rows are already in the restricted zone, from another message with the same content.

        A row of a message that does not give its time of issue is never recognised as the same.
        """
        table = self._lake.restricted
        table.refresh()
        schema = pa.schema([table.state.columns.field(name) for name in _SAME])
        ids = rows["observation_id"]
        days = set(rows["effective_at"].cast(pa.date32()).cast(pa.string()).to_pylist())
        there = [
            conform(table.storage.read_parquet(file.path, columns=list(_SAME)), schema)
            for file in table.snapshot().files.values()
            if file.day in days
        ]
        known = {
            tuple(row.values())
            for part in there
            for row in part.filter(pc.is_in(part["observation_id"], value_set=ids)).to_pylist()
        }
        given = rows.rename_columns(["told_at" if name == "available_at" else name for name in rows.schema.names])
        return np.array([tuple(row.values()) in known for row in given.select(list(_SAME)).to_pylist()], np.bool_)
