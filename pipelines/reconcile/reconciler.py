"""The attributor: writes held values once their patient is known, and moves values whose patient has changed."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO

import pyarrow as pa

from governance.belonging import admit
from governance.vault.sealed_rows import device_key
from pipelines.attribution.associations import TABLE
from pipelines.core.open_letters import LettersMoved
from pipelines.core.poll import Outcome
from pipelines.core.takeover import ONE_SHARD
from pipelines.intake.fenced import FencedSteps
from pipelines.intake.steps import Steps
from pipelines.reconcile.changes import Stretches, changed_since
from pipelines.reconcile.entering import JOB as ENTERING
from pipelines.reconcile.release import Release, Released
from pipelines.reconcile.repair import Repair
from pipelines.reconcile.watching import SpanWatch
from pipelines.reprocess.online_feed import ReprocessFeed
from pipelines.reprocess.writing import Kind, ReprocessWriter, part_of
from vitalake.errors import ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span_log import SpanConflict
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.tables.digests import Damaged
from vitalake.settings import Settings, StreamSettings

_log = logging.getLogger(__name__)

KIND: Kind = "attribution"
JOB = f"{KIND}/{ONE_SHARD}"
ACTOR = "attributor"
DATASET = "observation"

LOCK = "attributor.lock"
"""Lock file beside the online store, which is on one host; the attributor that holds the lock is the only one."""

ATTEMPTS = 5
"""How often a pass starts again because rules, keys or tables changed while it ran."""


class AtWork(ServiceUnavailable):
    """Another attributor of the home is running; nothing needs to be done."""


@dataclass(slots=True)
class Report:
    """What a pass did.

    Attributes:
        devices: how many devices had new associations.
        released: how many held messages were released because their patients are known now.
        rows: how many rows were written from them.
        moved: how many rows were written because the patient of a value changed, including withdrawals.
        spans: how many spans were decided.
    """

    devices: int = 0
    released: int = 0
    rows: int = 0
    moved: int = 0
    spans: int = 0


class Attribution:
    """Runs passes of attribution; used by one thread at a time.

    A pass depends only on the lake and the associations. So an attributor that was killed and starts again finds the
    work that is left.
    """

    def __init__(self, settings: Settings, *, actor: str = ACTOR) -> None:
        """Prepare; nothing is opened before the first pass that finds a lake.

        Args:
            settings: of the home.
            actor: name that is written into resolutions.
        """
        self._settings, self._actor = settings, actor
        self._work: _Work | None = None
        self._lock: IO[bytes] | None = None

    def run(self) -> Report:
        """Run one pass; it costs almost nothing when nothing has changed.

        Raises:
            AtWork: another attributor of this home is running.
            Overtaken: an attributor on another host has started; spans decided before stay.
            KeyRevoked: patients' keys are not available; nothing was changed.
            PrivacyError: keys or rules are not valid.
            ServiceUnavailable: lake, online store or vault cannot be reached.
        """
        report = Report()
        for attempt in range(ATTEMPTS):
            try:
                if self._work is None:
                    self._work = self._open()
                if self._work is not None:
                    self._work.run(report, self._actor)
                return report
            except (SpanConflict, LettersMoved, FileNotFoundError) as error:
                self.close()
                if attempt == ATTEMPTS - 1:
                    raise self._lost() or error from None
                _log.info("attribution starts again: rules, keys or tables have changed")
            except BaseException:
                self.close()
                raise
        return report

    def _lost(self) -> Damaged | None:
        """Return an error that names a file of the lake that is missing, if one is: trying again does not help."""
        lake = Home(self._settings).lake(DATASET)
        return next((gone for table in lake.present().values() if (gone := table.lost_file())), None)

    def _open(self) -> _Work | None:
        lake = Home(self._settings).lake(DATASET)
        if not all(map(lake.storage.holds_table, ("spans", TABLE))):
            return None
        lake.check_writable()
        admit(self._settings, identified=True)
        self._be_alone()
        return _Work(self._settings, lake)

    def _be_alone(self) -> None:
        """Lock out other attributors of this host.

        The lake refuses spans of an older epoch, but the online store has no epochs.
        """
        try:
            lock = self._settings.path(self._settings.care.path).with_name(LOCK).open("wb")
        except OSError as error:
            raise ServiceUnavailable(
                f"The attributor's lock file cannot be opened ({error.strerror})",
                where=LOCK,
                remedy="Check the home's disk and permissions.",
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AtWork(
                "Another attributor is at work", where=LOCK, remedy="Do nothing: the other one does the same work."
            ) from None
        self._lock = lock

    def close(self) -> None:
        """Close what was opened, and let others work."""
        if self._work is not None:
            self._work.close()
            self._work = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _resolutions(released: Released, actor: str) -> pa.Table:
    return pa.concat_tables([attempt.resolutions(actor=actor) for attempt in released.attempts])


def attribute_once(settings: Settings, *, actor: str) -> Report:
    """Run one pass, and delete files that killed attributors have left; see Attribution.run.

    Raises:
        VitaLakeError: as Attribution.run.
    """
    admit(settings, identified=True)
    attribution = Attribution(settings, actor=actor)
    try:
        report = attribution.run()
    finally:
        attribution.close()
    if report.spans:
        for job in (KIND, ENTERING):
            sweep(Home(settings).lake(), job)
    return report


class _Work:
    """What stays open between the passes of an Attribution."""

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._settings, self._lake = settings, lake
        streams = [stream for stream in settings.jobs.values() if stream.dataset == DATASET]
        self._steps = FencedSteps(settings, streams[0] if streams else StreamSettings(), lake, purpose="attribution")
        assert self._steps.attributor is not None
        self._associations = self._steps.attributor.associations
        self._associations.frozen = True
        self._watch = SpanWatch(lake)
        self._release = Release(settings, lake, self._associations, job=JOB)
        self._secret = Home(settings).keys.current("vault").secret
        self._writer: ReprocessWriter | None = None
        self._feeds: dict[int, ReprocessFeed] = {}
        feed = self._steps.online_feed
        if feed is not None and feed.has_undecided(part_of(KIND, DATASET)):  # an earlier attributor was killed
            self._feed_of(self._steps)

    def close(self) -> None:
        """Close what was opened."""
        self._release.close()
        self._steps.close()

    def run(self, report: Report, actor: str) -> None:
        """Run one pass; see Attribution.run."""
        version = self._associations.look(now=True)
        late = self._watch.late(version)
        known = min(self._watch.associations, version if late is None else late)
        if self._watch.associations > version:  # the table is from a back-up: which rows are new cannot be known
            known = 0
        if known < version:
            stretches = changed_since(self._associations.table, known, self._steps.vault)
            if stretches:
                report.devices += len(stretches.by_device)
                self._watch.settle()
                self._do(stretches, report, actor)
        self._watch.record(version)

    def _do(self, stretches: Stretches, report: Report, actor: str) -> None:
        for outcome in self._repair().outcomes(stretches):
            report.moved += self._decide([outcome], self._steps, decoder="attribution/1")
            report.spans += 1
        for released in self._release.batches(stretches):
            report.released += sum(attempt.letters.num_rows for attempt in released.attempts)
            report.rows += self._decide(
                [attempt.outcome for attempt in released.attempts],
                released.redecoder.steps,
                decoder=released.redecoder.decoder,
                resolutions=partial(_resolutions, released, actor),
            )
            report.spans += 1

    def _repair(self) -> Repair:
        table = self._lake.restricted
        table.refresh()
        assert self._steps.sealer is not None
        return Repair(
            table,
            self._steps.sealer,
            self._associations,
            lambda device: device_key(self._secret, device),
            job=JOB,
        )

    def _decide(
        self,
        outcomes: list[Outcome],
        steps: Steps,
        *,
        decoder: str,
        resolutions: Callable[[], pa.Table] | None = None,
    ) -> int:
        """Mask rows and decide them together with their resolutions; return how many rows there are."""
        writer, feed = self._open_writer(), self._feed_of(steps)
        for outcome in outcomes:
            steps.mask(outcome)
        failpoint("masked")
        writer.decide(
            outcomes,
            rules=steps.plan.version,
            decoder=decoder,
            resolutions=resolutions() if resolutions else None,  # after masking, when the outcome is known
        )
        if feed is not None:
            feed.decided()
        return sum(outcome.rows.num_rows for outcome in outcomes)

    def _feed_of(self, steps: Steps) -> ReprocessFeed | None:
        """Return the feed of the online store for some steps.

        Creating a feed first rewinds the store to what the lake has decided.
        """
        if id(steps) not in self._feeds and steps.online_feed is not None:
            feed = self._feeds[id(steps)] = ReprocessFeed(steps.online_feed, self._open_writer())
            steps.feed_through(feed)
        return self._feeds.get(id(steps))

    def _open_writer(self) -> ReprocessWriter:
        if self._writer is None:
            self._writer = ReprocessWriter(self._lake, kind=KIND, steps=self._steps)
        return self._writer
