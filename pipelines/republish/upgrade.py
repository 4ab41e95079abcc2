"""Upgrades a lake of an earlier format to this release's, step by step; an upgrade that was killed is continued.

To add a step, write a function and add it to ``STEPS`` at the end. It must be safe to repeat: a killed step is run
again from its beginning. A step that comes with a new format has that format's number. While steps run, no writer can
write, because a lake of another format refuses writers. Readers are not affected.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from governance.belonging import admit
from governance.keyuse import open_vault
from governance.policy.rules import load_policy
from pipelines.intake.steps import make_sealer
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.keys import add_missing_keys
from vitalake.lake.commits.format import FORMAT, Format, check_readable, write_format
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import AGAIN
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.positions import hide_positions
from vitalake.lake.maintenance.renewing import renew
from vitalake.lake.maintenance.scrub import record_older_files
from vitalake.lake.maintenance.sweep import roll_forward_all, sweep
from vitalake.lake.tables.staging import Counted
from vitalake.lake.unlinkable.message_tokens import MessageTokens
from vitalake.lake.unlinkable.own_times import with_marks
from vitalake.lake.unlinkable.unranked import Unranked
from vitalake.settings import Settings


@dataclass(slots=True)
class Upgraded:
    """What an upgrade did.

    Attributes:
        before, after: the lake's format.
        steps: the steps that were run, without those that a killed run had done before.
        keys: the keys that were added to the key file.
        settled: how many spans had been decided and not added everywhere.
        rows: how many rows were rewritten.
    """

    before: int
    after: int
    steps: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    settled: int = 0
    rows: int = 0


@dataclass(slots=True)
class Upgrading:
    """What a step gets.

    Attributes:
        settings: of the home.
        done: what was done so far; steps add to it.
        tell: called with what is under way.
        counted: called with the number of rows that were made.
    """

    settings: Settings
    done: Upgraded
    tell: Callable[[str], None]
    counted: Counted | None

    def lake(self) -> Lake:
        """Return the lake, opened afresh."""
        return Home(self.settings).lake()


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an upgrade: the format it belongs to, its name in the lake's file, and a function safe to repeat."""

    format: int
    name: str
    run: Callable[[Upgrading], None]


def _know_home(upgrading: Upgrading) -> None:
    """Check that the lake is this home's and record it there, so that no other home's keys are used to rewrite it."""
    admit(upgrading.settings, upgrading=True)


def _add_keys(upgrading: Upgrading) -> None:
    """Add the keys that this release needs to the home's key file."""
    settings = upgrading.settings
    upgrading.done.keys += add_missing_keys(settings.path(settings.keys))


def _roll_forward(upgrading: Upgrading) -> None:
    """Add the spans that an earlier release has decided; from now on its writers can decide nothing.

    Files that they have staged and not decided are deleted, for the jobs that the home still has.
    """
    lake = upgrading.lake()
    if not lake.storage.holds_table("spans"):
        return
    for dataset in sorted({table.dataset.name for name, table in lake.present().items() if name != "spans"}):
        lake.spans.raise_fence(dataset)
    upgrading.done.settled += roll_forward_all(lake)
    failpoint("upgrade-settled")
    settings = upgrading.settings
    lookbacks = {job: stream.lookback_seconds for job, stream in settings.jobs.items()}
    for job, seconds in (lookbacks | dict.fromkeys(AGAIN, 3600.0)).items():
        sweep(upgrading.lake(), job, lookback_seconds=seconds)


def _hide_positions(upgrading: Upgrading) -> None:
    """Replace the positions in published rows by tokens, and remove the order in which the rows arrived."""
    settings = upgrading.settings
    secret = Home(settings).keys.current("message").secret
    makers = MessageTokens(secret), Unranked(secret)
    for name, table in upgrading.lake().present().items():
        if name.startswith("published/"):
            upgrading.tell(name)
            upgrading.done.rows += hide_positions(
                table, *makers, stamping=_stamping(settings), counted=upgrading.counted
            )
            failpoint("upgrade-positions")


def _stamping(settings: Settings) -> set[str]:
    """Return the topics of HL7 v2 messages, whose senders set a time (MSH-7), among the home's jobs."""
    topics = [pair for job in settings.jobs.values() for pair in job.topics.items()]
    return {topic for topic, name in topics if name.partition(":")[0] == "hl7-v2"}


def _mark_times(upgrading: Upgrading) -> None:
    """Mark the times of our own clock in identified rows, so that later publications recognise them."""
    for name, table in upgrading.lake().present().items():
        if name.startswith("restricted/"):
            upgrading.tell(name)
            change = partial(with_marks, dataset=table.dataset, stamping=_stamping(upgrading.settings))
            upgrading.done.rows += renew(table, change, counted=upgrading.counted)
            failpoint("upgrade-times")


def _seal_words(upgrading: Upgrading) -> None:
    """Seal free text that stands in clear in columns for codes of identified rows, with each patient's key."""
    settings = upgrading.settings
    keys, lists = Home(settings).keys, load_policy(settings.path(settings.governance)).lists
    with closing(open_vault(settings, keys, purpose="upgrade")) as vault:
        for name, table in upgrading.lake().present().items():
            if name.startswith("restricted/"):
                upgrading.tell(name)
                sealer = make_sealer(load_dataset(name.rpartition("/")[2]), vault, keys, lists)
                upgrading.done.rows += renew(table, sealer.seal_words, counted=upgrading.counted)
                failpoint("upgrade-words")


def _record_digests(upgrading: Upgrading) -> None:
    """Record the digests of files that have none in their names: from now on they are checked against these."""
    for name, table in upgrading.lake().present().items():
        upgrading.tell(name)
        record_older_files(table)


STEPS = (
    Step(1, "home", _know_home),
    Step(1, "keys", _add_keys),
    Step(1, "settle", _roll_forward),
    Step(1, "times", _mark_times),
    Step(1, "words", _seal_words),
    Step(1, "positions", _hide_positions),
    Step(1, "digests", _record_digests),
)
"""All steps, in order."""


def upgrade(
    settings: Settings, *, tell: Callable[[str], None] = lambda _: None, counted: Counted | None = None
) -> Upgraded:
    """Upgrade a home's lake to this release's format; continue an upgrade that was killed.

    In a lake that already has the format, only positions in rows which a process of an earlier release has written
    since are replaced.

    Args:
        settings: of the home.
        tell: called with what is under way.
        counted: called with the number of rows that were made.

    Raises:
        LakeError: the lake is a later release's; nothing is changed.
        PrivacyError: the key file cannot be read, or the lake is another home's; nothing is changed.
        OSError: the key file cannot be written.
        ServiceUnavailable: storage cannot be reached; start it again.
    """
    storage = Home(settings).lake().storage
    found = check_readable(storage)
    done = Upgraded(found.format, FORMAT)
    upgrading = Upgrading(settings, done, tell, counted)
    admit(settings, upgrading=found.format != FORMAT)  # before a byte of the lake is changed
    if found.format == FORMAT:
        # Identified rows stay: in this format a time without a mark was given by a sender.
        _hide_positions(upgrading)
        return done
    if found.upgrading != FORMAT:
        found = Format(found.format, upgrading=FORMAT)
        write_format(storage, found)
    failpoint("upgrade-begun")
    for step in STEPS:
        if step.format <= found.format or step.name in found.done:
            continue
        tell(step.name)
        step.run(upgrading)
        done.steps.append(step.name)
        found = Format(found.format, FORMAT, (*found.done, step.name))
        write_format(storage, found)
        failpoint("upgrade-step")
    write_format(storage, Format(FORMAT))
    return done
