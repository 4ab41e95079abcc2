"""The replay: tries the open messages of a quarantine table again, job by job and batch by batch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

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
from pipelines.intake.steps import Steps
from pipelines.reprocess.online_feed import ReprocessFeed
from pipelines.reprocess.origins import Lineage, lineages
from pipelines.reprocess.redecoding import Attempt, Redecoder
from pipelines.reprocess.writing import Kind, ReprocessWriter, counts_of
from vitalake.errors import SettingsError
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import Counts
from vitalake.lake.commits.span_log import SpanConflict
from vitalake.lake.maintenance.sweep import sweep
from vitalake.settings import Settings

_log = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often the replay of a job starts again because rules, keys or the table changed meanwhile."""

_MESSAGES = ("open", "tried", "recovered", "rejected_again", "held_again", "unopened")
ROWS_COUNTED = ("published", "held", "filtered", "duplicate")


@dataclass(slots=True)
class Report:
    """What a replay did.

    Attributes:
        open: messages that were open and chosen.
        recovered: messages that are resolved now; in a dry run, messages that would be.
        rejected_again: messages that stay open, because they were rejected again.
        held_again: messages of a table of held ones that stay held.
        unopened: messages that stay open, because they cannot be decrypted.
        reasons: reason code → messages rejected again for it.
        counts: counts of messages and rows, as in the spans.
        unknown_topics: topics that no job reads any more → open messages of them.
        spans: how many spans were decided.
        dry_run: whether nothing was to be decided.
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
        """Return how many messages were tried."""
        return self.recovered + self.rejected_again + self.held_again + self.unopened

    def take(self, attempt: Attempt) -> None:
        """Count what became of the messages of a batch."""
        staying, rejected = int(attempt.staying.sum()), len({reject.message for reject in attempt.outcome.rejects})
        self.rejected_again += rejected
        self.held_again += staying - rejected
        self.recovered += attempt.letters.num_rows - staying
        self.reasons.update(str(reject.reason) for reject in attempt.outcome.rejects)
        self.counts.add(counts_of(attempt.outcome))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data; rows are counted by the outcomes that a replay can have."""
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
    """Try open messages with today's decoders, vocabulary, profiles and rules; return what became of them.

    Recovered rows are committed together with their resolutions, batch by batch: a replay that is killed and started
    again loses no row and writes none twice. Messages that are rejected again stay open.

    Args:
        settings: of the home.
        actor: who asks for it.
        table: a table of envelopes, such as ``quarantine/held``.
        kind: of the spans.
        choice: which messages; default: all.
        limit: at most so many, the oldest first.
        dry_run: only report what would be recovered; no masks are applied, and nothing is written.
        progress: called after each batch.

    Raises:
        Overtaken: another replay has begun; what was decided stays.
        PrivacyError: keys or rules are not valid, or the lake is another home's; nothing was decrypted or written.
        KeyRevoked: messages may not be decrypted.
        ServiceUnavailable: lake, online store or vault cannot be reached.
    """
    admit(settings, identified=True)
    report, choice = Report(dry_run=dry_run), choice or Choice()
    lake = Home(settings).lake()
    counted = census(lake, table, choice)
    report.open = counted.open
    jobs, unknown = lineages(settings, counted.decoders, lake.spans.all_spans())
    report.unknown_topics.update({source.topic: 0 for source in unknown})
    for source in unknown:
        report.unknown_topics[source.topic] += counted.sources[source]
    for lineage in jobs:
        _Job(settings, lineage, actor, table, kind, choice, limit, report, progress).run()
    if report.spans:
        sweep(Home(settings).lake(), kind)
    return report


def unknown_topics(report: Report) -> SettingsError | None:
    """Return an error that names the topics which no job reads any more; None: there are none."""
    if not report.unknown_topics:
        return None
    return SettingsError(
        f"No job reads the topic of {report.unknown_topics.total():,} dead letters",
        where=", ".join(sorted(report.unknown_topics)),
        remedy="Add the topic to a job of the configuration and replay again, or discard the dead letters.",
    )


@dataclass(slots=True)
class _Job:
    """The replay of one job's messages.

    Attributes:
        tried: places of the messages that were tried already.
        _feed: hands rows to the online store; None: the job does not feed it.
    """

    settings: Settings
    lineage: Lineage
    actor: str
    table: str
    kind: Kind
    choice: Choice
    limit: int | None
    report: Report
    progress: Callable[[Report], None] | None
    tried: Places = field(default_factory=Places)
    _feed: ReprocessFeed | None = None

    def run(self) -> None:
        """Try every message once; start again if rules, keys or the table change meanwhile."""
        for attempt in range(ATTEMPTS):
            try:
                return self._dry() if self.report.dry_run else self._decided()
            except (SpanConflict, LettersMoved):
                if attempt == ATTEMPTS - 1:
                    raise
                _log.info("replay starts again", extra={"job": self.lineage.job})

    @property
    def _left(self) -> int | None:
        return None if self.limit is None else self.limit - self.report.tried

    def _dry(self) -> None:
        lake = self._lake()
        lineage = self.lineage
        steps = Steps(self.settings, lineage.stream, lake.dataset, online=lineage.share, purpose="replay")
        with closing(steps):
            redecoder = self._redecoder(steps)
            for letters in self._batches(lake):
                attempts = list(redecoder.attempts(letters, table=self.table, mask=False))
                for attempt in attempts:
                    steps.recognise(attempt.outcome)
                self._count(letters, attempts, redecoder)

    def _decided(self) -> None:
        lake = self._lake()
        lake.open_all()
        lineage = self.lineage
        steps = FencedSteps(self.settings, lineage.stream, lake, online=lineage.share, purpose="replay")
        with closing(steps):
            writer = ReprocessWriter(lake, kind=self.kind, steps=steps)
            if steps.online_feed is not None:
                self._feed = ReprocessFeed(steps.online_feed, writer)
                steps.feed_through(self._feed)
            redecoder = self._redecoder(steps)
            for letters in self._batches(lake):
                attempts = list(redecoder.attempts(letters, table=self.table))
                failpoint("masked")
                self._decide(writer, redecoder, attempts)
                self._count(letters, attempts, redecoder)

    def _decide(self, writer: ReprocessWriter, redecoder: Redecoder, attempts: list[Attempt]) -> None:
        """Commit what a batch recovers; if it recovers nothing, nothing is written."""
        resolutions = [attempt.resolutions(actor=self.actor) for attempt in attempts]
        if not sum(rows.num_rows for rows in resolutions):
            return
        writer.decide(
            [attempt.outcome for attempt in attempts],
            rules=redecoder.steps.plan.version,
            decoder=redecoder.decoder,
            resolutions=pa.concat_tables(resolutions),
        )
        if self._feed is not None:
            self._feed.decided()
        self.report.spans += 1

    def _count(self, letters: pa.Table, attempts: list[Attempt], redecoder: Redecoder) -> None:
        for attempt in attempts:
            self.report.take(attempt)
        self.report.unopened += redecoder.unopened
        redecoder.unopened = 0
        self.tried.add(letters)
        if self.progress:
            self.progress(self.report)

    def _lake(self) -> Lake:
        settings = self.settings
        return Home(settings).lake(self.lineage.stream.dataset)

    def _batches(self, lake: Lake) -> Iterator[pa.Table]:
        """Yield batches of messages that are open now and were not tried yet."""
        lake.table(self.table).refresh()
        done = resolved(lake, self.table)
        done.merge(self.tried)
        choice = replace(self.choice, sources=self.lineage.sources)
        for letters in open_letters(lake, self.table, choice, done=done):
            left = self._left
            if left is not None and left <= 0:
                return
            yield letters.slice(0, left)

    def _redecoder(self, steps: Steps) -> Redecoder:
        return Redecoder(self.settings, self.lineage, steps, job=f"{self.kind}/{ONE_SHARD}")
