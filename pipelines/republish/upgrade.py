"""Makes a lake of an earlier format one of this release's, step by step; a killed upgrade goes on where it was.

To add a step write a function that can be repeated, and name it in ``STEPS``, last: what it has done already it finds
as it should be and leaves. A step that comes with a new format has that format's number. While steps run no writer
writes: a lake of another format refuses them. Readers read on.
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
        steps: that were taken; those that a killed run before had taken are not among them.
        keys: that were added to the key file.
        settled: spans that were decided and not added everywhere.
        rows: that were written anew.
    """

    before: int
    after: int
    steps: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    settled: int = 0
    rows: int = 0


@dataclass(slots=True)
class Upgrading:
    """What steps work with.

    Attributes:
        settings: of the home.
        done: what was done so far, to add to.
        tell: told what is under way.
        counted: told how many rows were made.
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
    """A step of an upgrade: of which format, its name in the lake's file, and what to do. It can be repeated."""

    format: int
    name: str
    run: Callable[[Upgrading], None]


def _know_home(upgrading: Upgrading) -> None:
    """Let the lake know its home, which must show that it is; nothing is written anew with another one's keys."""
    admit(upgrading.settings, upgrading=True)


def _add_keys(upgrading: Upgrading) -> None:
    """Give the home's key file the keys that this release needs."""
    settings = upgrading.settings
    upgrading.done.keys += add_missing_keys(settings.path(settings.keys))


def _roll_forward(upgrading: Upgrading) -> None:
    """Add what was decided by an earlier release; after this nothing of it can come any more.

    What its writers had staged and not decided is deleted, as far as the home knows the jobs.
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
    """Replace the positions in published rows by tokens, and take the rows out of the order in which they came."""
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
    """Return the topics whose senders stamp their messages, MSH-7, as far as the home knows them."""
    topics = [pair for job in settings.jobs.values() for pair in job.topics.items()]
    return {topic for topic, name in topics if name.partition(":")[0] == "hl7-v2"}


def _mark_times(upgrading: Upgrading) -> None:
    """Mark the times of ours in identified rows, so that they are published as such whenever they are again."""
    for name, table in upgrading.lake().present().items():
        if name.startswith("restricted/"):
            upgrading.tell(name)
            change = partial(with_marks, dataset=table.dataset, stamping=_stamping(upgrading.settings))
            upgrading.done.rows += renew(table, change, counted=upgrading.counted)
            failpoint("upgrade-times")


def _seal_words(upgrading: Upgrading) -> None:
    """Seal the words that stand in clear in identified rows, in columns for codes, each with its patient's key."""
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
    """Take the digests of the files whose names say none: from now on they are held against them."""
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
    """Make a home's lake one of this release's format. Begun again, a killed one goes on.

    Where it has this format already only rows that a process of an earlier release has written since are hidden.

    Args:
        settings: of the home.
        tell: told what is under way.
        counted: told how many rows were made.

    Raises:
        LakeError: the lake is a later release's; nothing is changed.
        PrivacyError: the key file cannot be read, or the lake is another home's; nothing is changed.
        OSError: the key file cannot be written.
        ServiceUnavailable: storage cannot be reached; begin it again.
    """
    storage = Home(settings).lake().storage
    found = check_readable(storage)
    done = Upgraded(found.format, FORMAT)
    upgrading = Upgrading(settings, done, tell, counted)
    admit(settings, upgrading=found.format != FORMAT)  # before a byte of the lake is changed
    if found.format == FORMAT:
        # Identified rows are left: a mark that is missing here says that a sender gave the time, and cannot be guessed.
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
