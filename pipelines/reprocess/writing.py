"""Spans of rows that were read before: decided and added one after the other, each with what it resolves."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import pyarrow as pa

from pipelines.core.open_letters import RESOLUTION
from pipelines.core.poll import Outcome
from pipelines.core.takeover import ONE_SHARD, take_over
from pipelines.intake.fenced import FencedSteps, fence_of
from vitalake import clock
from vitalake.causes import unavailable
from vitalake.errors import LakeError
from vitalake.failpoints import failpoint
from vitalake.lake.commits.lake import Lake, published_name
from vitalake.lake.commits.spans import Counts, Part, PartId, Span, SpanConflict, Superseded

Kind = Literal["replay", "attribution"]

_TOPIC: dict[Kind, str] = {"replay": "dead-letters", "attribution": "held"}


class Overtaken(LakeError):
    """Somebody else has begun the same work: this process ends, what it has decided stays."""


def part_of(kind: Kind, dataset: str) -> PartId:
    """Return the partition whose positions count what was taken up again for a dataset."""
    return PartId(_TOPIC[kind], hashlib.sha256(f"vitalake {kind} {dataset}".encode()).hexdigest()[:22], 0)


class ReprocessWriter:
    """Writes spans of one kind and dataset. Of two of a kind only the younger can decide; the older one is told."""

    def __init__(self, lake: Lake, *, kind: Kind, steps: FencedSteps | None) -> None:
        """Take the work over: add what somebody before has decided and not added, and find where it goes on.

        Args:
            lake: of the dataset; not used by anything else meanwhile.
            kind: of the spans; also the name of their job.
            steps: make what is decided, or were read before whatever makes it: their fence counts. None: nothing is
                made, and the fence of this moment counts.

        Raises:
            ServiceUnavailable: the lake cannot be reached.
        """
        self._lake, self.kind = lake, kind
        self.part = part_of(kind, lake.dataset.name)
        self._fence = fence_of(lake) if steps is None else steps.fence
        lake.open_all()
        lake.table(RESOLUTION)
        spans, dataset = lake.spans, lake.dataset.name
        self.epoch = take_over(lake, job=kind, parts=[self.part])
        if spans.positions(dataset, [self.part])[self.part] is None:
            with suppress(SpanConflict):  # another one has, which will hear that we are the younger
                spans.begin_at(dataset, {self.part: 0})
        self.position = spans.positions(dataset, [self.part])[self.part] or 0

    @property
    def job(self) -> str:
        """Return the job and shard under which the work is done."""
        return f"{self.kind}/{ONE_SHARD}"

    def decide(
        self,
        outcomes: Sequence[Outcome],
        *,
        rules: str,
        decoder: str,
        resolutions: pa.Table | None = None,
        messages: int | None = None,
    ) -> Span:
        """Decide rows with what they resolve in one commit, and add them.

        Rejects are counted; no second dead letter is made of them. ``resolutions`` lack the span: it is named here.

        Args:
            outcomes: masked; of polls whose positions are those at which the messages were read first.
            rules: version of the rules.
            decoder: decoders and versions.
            resolutions: rows of the dataset ``resolution``; None: nothing is resolved.
            messages: how far the position moves, where it is more than the outcomes' messages.

        Raises:
            Overtaken: a younger writer of this kind is there; nothing was decided.
            SpanConflict: the fence was raised; nothing was decided, open anew.
            ServiceUnavailable: storage refuses.
        """
        span = self._span(outcomes, rules=rules, decoder=decoder, messages=messages)
        try:
            self._stage(span, outcomes, resolutions)
            self._lake.decide(span)
        except Superseded:
            raise Overtaken(
                f"Another {self.kind} has begun",
                where=f"dataset {self._lake.dataset.name}",
                remedy="What this one has decided stays; the other one goes on with what is left.",
            ) from None
        except OSError as error:
            raise unavailable(
                error,
                "Lake storage refuses",
                where="lake",
                remedy="Make room or mend the connection, then start again: nothing is lost, nothing comes twice.",
            ) from None
        failpoint("decided")
        self.position = span.parts[0].end
        self._lake.add(span)
        return span

    def _span(self, outcomes: Sequence[Outcome], *, rules: str, decoder: str, messages: int | None) -> Span:
        counts = Counts()
        for outcome in outcomes:
            counts.add(counts_of(outcome))
        end = self.position + max(messages or counts.messages, 1)
        part = Part(self.part, self.position, self.position, end, counts)
        for outcome in outcomes:
            part.count_unfit({name: len(rows) for name, rows in outcome.unfit.items()})
            if self.kind == "replay":  # held rows were counted when they came, and what is not mapped when it was
                part.count_local({name: len(rows) for name, rows in outcome.mapped.items()}, {})
        known = [outcome.associations for outcome in outcomes if outcome.associations]
        return Span(
            span_id=f"{self.kind}.{ONE_SHARD}.e{self.epoch}.{uuid.uuid4().hex}",
            kind=self.kind,
            job=self.kind,
            dataset=self._lake.dataset.name,
            shard=ONE_SHARD,
            epoch=self.epoch,
            decided_us=0,
            rules=rules,
            decoder=decoder,
            parts=[part],
            latency={},
            files=[],
            fence=self._fence,
            associations=min(known, default=0),
        )

    def _stage(self, span: Span, outcomes: Sequence[Outcome], resolutions: pa.Table | None) -> None:
        failpoint("before-stage")
        batches: dict[str, list[pa.RecordBatch]] = {}
        for outcome in outcomes:
            mine = {published_name(span.dataset): outcome.rows} | outcome.extra
            for name, rows in mine.items():
                if rows.num_rows:
                    batches.setdefault(name, []).append(rows)
        tables = {name: pa.Table.from_batches(several).unify_dictionaries() for name, several in batches.items()}
        if resolutions is not None and resolutions.num_rows:
            tables[RESOLUTION] = _named(resolutions, span.span_id)
        for name, rows in tables.items():
            span.files += self._lake.table(name).stage(rows, stem=span.span_id)
        span.decided_us = clock.now_us()
        failpoint("staged")


def counts_of(outcome: Outcome) -> Counts:
    """Return what became of the messages and rows of an outcome."""
    decoded = np.union1d(outcome.row_message, np.array(outcome.empty, np.int32))
    return Counts(
        messages=len(outcome.poll.values),
        decoded=len(decoded),
        undecodable=sum(reject.rows == 0 for reject in outcome.rejects),
        tombstones=len(outcome.tombstones),
        rows=len(outcome.row_message),
        published=len(outcome.message),
        rejected=sum(reject.rows for reject in outcome.rejects),
        duplicate=len(outcome.duplicate),
        filtered=len(outcome.filtered),
        held=len(outcome.held),
    )


def _named(resolutions: pa.Table, span_id: str) -> pa.Table:
    column = resolutions.schema.get_field_index("span")
    return resolutions.set_column(column, "span", pa.repeat(pa.scalar(span_id), resolutions.num_rows))
