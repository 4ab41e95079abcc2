"""Commits rows of messages that were read before: span after span, each with the resolutions of its messages."""

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
from vitalake.lake.commits.span import Counts, Part, PartId, Span
from vitalake.lake.commits.span_log import SpanConflict, Superseded

Kind = Literal["replay", "attribution"]

_TOPIC: dict[Kind, str] = {"replay": "dead-letters", "attribution": "held"}


class Overtaken(LakeError):
    """Another process has begun the same work: this one ends, and what it has decided stays."""


def part_of(kind: Kind, dataset: str) -> PartId:
    """Return the partition whose positions count the reprocessed messages of a dataset."""
    return PartId(_TOPIC[kind], hashlib.sha256(f"vitalake {kind} {dataset}".encode()).hexdigest()[:22], 0)


class ReprocessWriter:
    """Writes spans of one kind and dataset. Of two writers only the younger can decide; the older gets Overtaken."""

    def __init__(self, lake: Lake, *, kind: Kind, steps: FencedSteps | None) -> None:
        """Take over the work: add what the process before has decided and not added, and continue at its position.

        Args:
            lake: of the dataset; nothing else may use it meanwhile.
            kind: of the spans; also the name of their job.
            steps: the steps that make the rows, or steps that were made before these; their fence counts. None: the
                spans have no rows, and the fence of this moment counts.

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
            with suppress(SpanConflict):  # an older process has just done so; it will get Overtaken
                spans.begin_at(dataset, {self.part: 0})
        self.position = spans.positions(dataset, [self.part])[self.part] or 0

    @property
    def job(self) -> str:
        """Return the job and shard of the spans."""
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
        """Decide rows and resolutions in one commit, and add them to their tables.

        Rejects are counted, and get no second dead letter. The column ``span`` of the resolutions is filled in here.

        Args:
            outcomes: masked; their polls have the positions at which the messages were read first.
            rules: version of the rules.
            decoder: decoders and versions.
            resolutions: rows of the dataset ``resolution``; None: nothing is resolved.
            messages: how far the position moves, if that is more than the number of the outcomes' messages.

        Raises:
            Overtaken: a younger writer of this kind has begun; nothing was decided.
            SpanConflict: the fence was raised; nothing was decided. Make new steps and a new writer.
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
                remedy="Nothing to do: what this one has decided stays, and the other one does the rest.",
            ) from None
        except OSError as error:
            raise unavailable(
                error,
                "Lake storage refuses",
                where="lake",
                remedy="Make room or repair the connection, then start again. No row is lost or written twice.",
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
            if self.kind == "replay":  # held rows: counted when they came; unmapped codes too
                part.count_local({name: len(rows) for name, rows in outcome.mapped.items()}, {})
        versions = [outcome.associations for outcome in outcomes if outcome.associations]
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
            associations=min(versions, default=0),
        )

    def _stage(self, span: Span, outcomes: Sequence[Outcome], resolutions: pa.Table | None) -> None:
        failpoint("before-stage")
        batches: dict[str, list[pa.RecordBatch]] = {}
        for outcome in outcomes:
            for name, rows in ({published_name(span.dataset): outcome.rows} | outcome.extra).items():
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
