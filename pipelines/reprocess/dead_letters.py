"""The replay: open messages of a quarantine table, job by job and batch by batch, until none is left to try."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pyarrow as pa

from governance.belonging import admit
from pipelines.core.open_letters import (
    DEAD_LETTER,
    Choice,
    LettersMoved,
    Places,
    census,
    open_letters,
    resolved,
)
from pipelines.core.takeover import ONE_SHARD
from pipelines.intake.fenced import FencedSteps
from pipelines.intake.online_feed import OnlineFeed
from pipelines.intake.steps import Steps
from pipelines.reprocess.online_feed import ReprocessFeed
from pipelines.reprocess.origins import Lineage, lineages
from pipelines.reprocess.redecoding import Attempt, Redecoder
from pipelines.reprocess.writing import Kind, ReprocessWriter, counts_of
from vitalake.errors import SettingsError
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.spans import Counts, SpanConflict
from vitalake.lake.maintenance.sweep import sweep
from vitalake.settings import Settings

_log = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a job is begun anew because rules, keys or the table changed under way."""

_MESSAGES = ("open", "tried", "recovered", "rejected_again", "held_again", "unopened")
ROWS_COUNTED = ("published", "held", "filtered", "duplicate")


@dataclass(slots=True)
class Report:
    """What a replay did.

    Attributes:
        open: messages that were open and chosen.
        recovered: messages that are resolved now; in a dry run: that would be.
        rejected_again: messages that stay open, for what they hold.
        held_again: messages of a table of held ones that stay there.
        unopened: messages that stay open, for no key opens them.
        reasons: why messages were rejected again.
        counts: of messages and rows, as the spans hold them.
        unknown_topics: topics that no job knows any more → open messages of them.
        spans: how many were decided.
        dry_run: nothing was decided.
    """

    open: int = 0
    recovered: int = 0
    rejected_again: int = 0
    held_again: int = 0
    unopened: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    counts: Counts = field(default_factory=Counts)
    unknown_topics: Counter[str] = field(default_factory=Counter)
    spans: int = 0
    dry_run: bool = False

    @property
    def tried(self) -> int:
        """Return how many messages were taken up."""
        return self.recovered + self.rejected_again + self.held_again + self.unopened

    def take(self, attempt: Attempt) -> None:
        """Count what became of the messages of a batch."""
        stay, rejected = int(attempt.left.sum()), len({reject.message for reject in attempt.outcome.rejects})
        self.rejected_again += rejected
        self.held_again += stay - rejected
        self.recovered += attempt.letters.num_rows - stay
        self.reasons.update(str(reject.reason) for reject in attempt.outcome.rejects)
        self.counts.add(counts_of(attempt.outcome))

    def to_json(self) -> dict[str, Any]:
        """Return it as data for a program; of rows there are the outcomes that a replay can have."""
        return {
            **{name: getattr(self, name) for name in _MESSAGES},
            "rows": {name: getattr(self.counts, name) for name in ROWS_COUNTED},
            "reasons": dict(self.reasons.most_common()),
            "unknown_topics": dict(sorted(self.unknown_topics.items())),
            "spans": self.spans,
            "dry_run": self.dry_run,
        }


def replay(
    settings: Settings,
    *,
    actor: str,
    table: str = DEAD_LETTER,
    kind: Kind = "replay",
    choice: Choice | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Take up open messages by today's decoders, vocabulary, profiles and rules; return what became of them.

    What is recovered is decided with its resolution, batch by batch: killed at any point and begun again, nothing is
    lost and nothing comes twice. What is rejected again stays open.

    Args:
        settings: of the home.
        actor: who asks for it.
        table: of envelopes, such as ``quarantine/held``.
        kind: of the spans.
        choice: which messages; default: all.
        limit: at most so many, the oldest first.
        dry_run: only see what would be recovered; masks are not applied, nothing is written.
        progress: told after each batch.

    Raises:
        Overtaken: another replay has begun; what was decided stays.
        PrivacyError: keys or rules do not hold, or the lake is another home's; then nothing was opened or written.
        KeyRevoked: messages may not be opened.
        ServiceUnavailable: lake, care store or vault cannot be reached.
    """
    admit(settings, identified=True)
    report, wanted = Report(dry_run=dry_run), choice or Choice()
    lake = Home(settings).lake()
    found = census(lake, table, wanted)
    report.open = found.open
    jobs, unknown = lineages(settings, found.decoders)
    report.unknown_topics.update({source.topic: 0 for source in unknown})
    for source in unknown:
        report.unknown_topics[source.topic] += found.sources[source]
    for lineage in jobs:
        _Job(settings, lineage, actor, table, kind, wanted, limit, report, progress).run()
    if report.spans:
        sweep(Home(settings).lake(), kind)
    return report


def unknown_topics(report: Report) -> SettingsError | None:
    """Return what to say of topics that no job knows any more; None: there are none."""
    if not report.unknown_topics:
        return None
    return SettingsError(
        f"No job knows the topic of {report.unknown_topics.total():,} dead letters",
        where=", ".join(sorted(report.unknown_topics)),
        remedy="Name the topic in a job of the configuration and replay again, or discard them.",
    )


@dataclass(slots=True)
class _Job:
    """The replay of one job's messages."""

    settings: Settings
    lineage: Lineage
    actor: str
    table: str
    kind: Kind
    choice: Choice
    limit: int | None
    report: Report
    progress: Callable[[Report], None] | None
    passed: Places = field(default_factory=Places)
    care: ReprocessFeed | None = None

    def run(self) -> None:
        """Try every message once, beginning anew where something has changed under way."""
        for attempt in range(ATTEMPTS):
            try:
                return self._dry() if self.report.dry_run else self._decided()
            except (SpanConflict, LettersMoved):
                if attempt == ATTEMPTS - 1:
                    raise
                _log.info("replay begins anew", extra={"job": self.lineage.job})

    @property
    def _left(self) -> int | None:
        return None if self.limit is None else self.limit - self.report.tried

    def _dry(self) -> None:
        lake = self._lake()
        with closing(Steps(self.settings, self.lineage.stream, lake.dataset, purpose="replay")) as steps:
            redecoder = self._redecoder(steps)
            for letters in self._batches(lake):
                attempts = list(redecoder.attempts(letters, table=self.table, mask=False))
                for attempt in attempts:
                    steps.recognise(attempt.outcome)
                self._count(letters, attempts, redecoder)

    def _decided(self) -> None:
        lake = self._lake()
        lake.open_all()
        with closing(FencedSteps(self.settings, self.lineage.stream, lake, purpose="replay")) as steps:
            writer = ReprocessWriter(lake, kind=self.kind, steps=steps)
            if steps.feed is not None:
                self.care = ReprocessFeed(steps.feed, writer)
                steps.feed = cast("OnlineFeed", self.care)
            redecoder = self._redecoder(steps)
            for letters in self._batches(lake):
                attempts = list(redecoder.attempts(letters, table=self.table))
                failpoint("masked")
                self._decide(writer, redecoder, attempts)
                self._count(letters, attempts, redecoder)

    def _decide(self, writer: ReprocessWriter, redecoder: Redecoder, attempts: list[Attempt]) -> None:
        """Decide what a batch recovers; where that is nothing the lake stays as it is."""
        resolutions = [attempt.resolutions(actor=self.actor) for attempt in attempts]
        if not sum(rows.num_rows for rows in resolutions):
            return
        writer.decide(
            [attempt.outcome for attempt in attempts],
            rules=redecoder.steps.plan.version,
            decoder=redecoder.decoder,
            resolutions=pa.concat_tables(resolutions),
        )
        if self.care is not None:
            self.care.decided()
        self.report.spans += 1

    def _count(self, letters: pa.Table, attempts: list[Attempt], redecoder: Redecoder) -> None:
        for attempt in attempts:
            self.report.take(attempt)
        self.report.unopened += redecoder.unopened
        redecoder.unopened = 0
        self.passed.add(letters)
        if self.progress:
            self.progress(self.report)

    def _lake(self) -> Lake:
        settings = self.settings
        return Home(settings).lake(self.lineage.stream.dataset)

    def _batches(self, lake: Lake) -> Iterator[pa.Table]:
        """Yield batches of what is open as of now and was not tried yet."""
        lake.table(self.table).refresh()
        done = resolved(lake, self.table)
        done.merge(self.passed)
        choice = replace(self.choice, sources=self.lineage.sources)
        for letters in open_letters(lake, self.table, choice, done=done):
            left = self._left
            if left is not None and left <= 0:
                return
            yield letters.slice(0, left)

    def _redecoder(self, steps: Steps) -> Redecoder:
        return Redecoder(self.settings, self.lineage, steps, job=f"{self.kind}/{ONE_SHARD}")
