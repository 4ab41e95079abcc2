"""Repairs a lake's logs and then its files, from what the lake itself still has, and reports what stays damaged."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from governance.belonging.erasures import FILE as ERASURES
from pipelines.republish.mend import NAMED, Mended, leave_out, mend
from pipelines.republish.republish import open_restricted, publishing_alone, refuse_loss, republish, restricted_datasets
from vitalake import clock
from vitalake.errors import LakeError, ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake, published_name, restricted_name, was_added_to
from vitalake.lake.commits.seen import FOLDER
from vitalake.lake.commits.transactions import lost_app
from vitalake.lake.maintenance.journal import Journal
from vitalake.lake.maintenance.repair import (
    LogRepair,
    add_missing_spans,
    make_readable,
    set_damaged_aside,
    set_log_aside,
)
from vitalake.lake.maintenance.rewrite import is_locked
from vitalake.lake.maintenance.scrub import scrub
from vitalake.lake.maintenance.vacuum import RETENTION_HOURS
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.digests import Damaged, check_content
from vitalake.lake.tables.log import examine
from vitalake.lake.tables.log_files import cut_at, is_to_be_made_again
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

ORDER = ("restricted", "quarantine", "published")
"""The zones in the order of repair: a zone comes before those that are made of it."""

_OF_SPANS = {"positions-missing", "positions-behind", "ledger-contradicts", "spans-unreadable"}


@dataclass(slots=True)
class Repair:
    """What a repair did.

    Attributes:
        logs: what was done with damaged logs.
        files: what was done with damaged files.
        republished: datasets that were published again because their log was damaged.
        lookbacks: damaged look-back files that were deleted; an exact repeat can be published twice because of that.
        left_out: table → rows that were taken out of it.
        notes: what an operator has to do, in words.
        left: what is still damaged, in words.
    """

    logs: list[LogRepair] = field(default_factory=list)
    files: list[Mended] = field(default_factory=list)
    republished: list[str] = field(default_factory=list)
    lookbacks: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return asdict(self) | {"whole": not self.left}


def repair(settings: Settings, *, leave: bool = False, progress: Callable[[str], None] = lambda _: None) -> Repair:
    """Check every log and every file of a lake, and repair the damaged ones. Safe to repeat.

    When a log is damaged, nothing may write meanwhile. When only files are damaged, streams can run on.

    Args:
        settings: of the home.
        leave: take files that cannot be written again out of their tables.
        progress: called with what is checked.

    Raises:
        KeyRevoked: patients' keys are not available.
        LakeError, ServiceUnavailable: the lake cannot be written.
    """
    done, lake = Repair(), Home(settings).lake()
    logs = make_readable(lake, progress=progress)
    done.logs = _worth_reporting(logs)
    done.left = [f"{report.table}: {report.left}" for report in done.logs if report.lost]
    if not logs["spans"].lost:
        _repair_files(settings, lake.spans.table, done, leave=leave)
    if done.left and any(line.startswith("spans:") for line in done.left):
        return done  # without the spans nothing else can be checked
    add_missing_spans(lake, logs)
    failpoint("repair-logs")
    _note_erasures(lake, logs, done)
    done.logs = _worth_reporting(logs)
    to_publish = _to_publish(settings, lake, logs)
    for name in sorted({*logs, *to_publish} - {"spans"}, key=lambda name: ORDER.index(name.partition("/")[0])):
        progress(name)
        if name in to_publish and not _publish_again(settings, lake, logs.get(name, LogRepair(name)), done):
            continue
        if name in to_publish or not logs[name].lost:
            _repair_files(settings, lake.table(name), done, leave=leave)
    done.left += [f"{report.table}: {report.left}" for report in logs.values() if report.left and not report.lost]
    done.lookbacks = _drop_lookbacks(lake)
    done.left += _not_sound(settings, done)
    return done


def _worth_reporting(logs: dict[str, LogRepair]) -> list[LogRepair]:
    """Return the logs that were damaged, without those to which decided spans only had still to be added."""
    return [
        report
        for name, report in logs.items()
        if report.set_aside or report.restored or report.left or (name == "spans" and report.spans)
    ]


def _to_publish(settings: Settings, lake: Lake, logs: dict[str, LogRepair]) -> list[str]:
    """Return the published tables that are gone or have lost entries of their log: one can have erased a patient.

    The answer depends on the files in the lake, not on this run, because the run before can have been killed.
    """
    return [
        name
        for name in map(published_name, restricted_datasets(settings))
        if (name in logs and logs[name].lost)
        or is_to_be_made_again(lake.storage.child(name))
        or (_is_left_locked(lake, name) if name in logs else _is_gone(lake, name))
    ]


def _is_gone(lake: Lake, published: str) -> bool:
    return was_added_to(lake.table(restricted_name(published.rpartition("/")[2])))


def _is_left_locked(lake: Lake, published: str) -> bool:
    """Return whether a table is locked and nobody works on it: its log has lost the entry that replaced its rows.

    Or the process that locked it was killed there.
    """
    return is_locked(lake.table(published)) and Journal(lake.storage, published.rpartition("/")[2]).job() is None


def _publish_again(settings: Settings, lake: Lake, report: LogRepair, done: Repair) -> bool:
    """Publish a dataset again; return whether that was done."""
    dataset = report.table.rpartition("/")[2]
    done.left = [line for line in done.left if not line.startswith(f"{report.table}:")]
    report.left = ""
    try:
        refuse_loss(open_restricted(settings, dataset))
        if report.lost or not lake.storage.holds_table(report.table):
            open_published(settings, dataset)
        republish(settings, dataset)
    except (LakeError, ServiceUnavailable) as error:
        done.left.append(f"{report.table}: it has to be published again. {error.what} ({error.where}). {error.remedy}")
        return False
    done.republished.append(dataset)
    return True


def _note_erasures(lake: Lake, logs: dict[str, LogRepair], done: Repair) -> None:
    """Note the tables whose log has lost entries of the last week, in which replaced files still exist."""
    if lake.storage.fs.get_file_info(f"{lake.storage.root}/{ERASURES}").size == 0:  # nobody was erased, ever
        return
    for name in logs:
        if name.partition("/")[0] in ("restricted", "quarantine") and cut_at(lake.storage.child(name)) > _a_week_ago():
            done.notes.append(
                f"{name}: rows of patients who were erased lately can be in the table again, unreadable: run "
                "'vitalake patient erase' for them again"
            )


def _not_sound(settings: Settings, done: Repair) -> list[str]:
    """Return the errors of a verification that are not among those named before: only a lake without them is whole.

    Contents are not checked, because the repair has just read every file for its digest.
    """
    named = {line.partition(":")[0] for line in done.left}
    lake = Home(settings).lake()
    errors = [finding for finding in verify(lake, content=False) if finding.severity == "error"]
    others = [f for f in errors if not any(f.where == n or f.where.startswith((f"{n}/", f"{n},")) for n in named)]
    left = [f"{finding.where}: {finding.kind}, {finding.detail}{_made_again_by(finding.where)}" for finding in others]
    spans = lake.spans.table
    if any(finding.kind in _OF_SPANS for finding in others) or (others and spans.transaction(lost_app(spans.name))):
        left.append("spans: some decided spans are missing; restore the spans table's files from a back-up")
    return left


def _made_again_by(where: str) -> str:
    """Return, of a published table, the command that makes it again; empty for other tables."""
    zone, _, rest = where.partition("/")
    dataset = re.match("[a-z_]*", rest)
    command = f"vitalake lake rebuild published --dataset {dataset[0]}" if dataset else ""
    return f"; to make it again from the restricted zone, run '{command}'" if zone == "published" else ""


def open_published(settings: Settings, dataset: str) -> list[str]:
    """Set aside the unreadable part of a published table's log, and mark a table that is gone; return its files.

    The caller replaces all rows, and has made sure that it can: see ``refuse_loss``.

    Raises:
        LakeError, ServiceUnavailable: the lake cannot be written.
    """
    lake = open_restricted(settings, dataset)
    storage = lake.storage.child(published_name(dataset))
    with publishing_alone(lake.storage, dataset):
        try:
            if lake.storage.holds_table(storage.name):
                return set_damaged_aside(storage, examine(storage))
        except Damaged:
            pass
        return set_log_aside(storage, lake.spans.raise_fence(dataset))


def _drop_lookbacks(lake: Lake) -> int:
    """Delete damaged look-back files, and return how many: readers skip a missing one."""
    folder, dropped = lake.storage.child(FOLDER), 0
    for path in folder.files():
        try:
            check_content(folder, path)
        except (Damaged, FileNotFoundError):
            folder.delete(path)
            dropped += 1
    return dropped


def _repair_files(settings: Settings, table: Table, done: Repair, *, leave: bool) -> None:
    try:
        damaged = scrub(table, most_bytes=sys.maxsize, every_seconds=0).damaged  # also records digests of old files
    except Damaged as error:  # the file of digests
        done.left.append(f"{table.name}: {error.what} ({error.where}). {error.remedy}")
        return
    if not damaged:
        return
    mended = mend(settings, table, damaged)
    done.files += mended
    left = [entry for entry in mended if not entry.how]
    paths = {path for entry in left for path in entry.paths}
    if left and leave:
        try:
            done.left_out[table.name] = leave_out(table, [file for file in damaged if file.path in paths])
        except LakeError as error:
            done.left.append(f"{table.name}: {error.what}. {error.remedy}")
        return
    done.left += [
        f"{table.name}: {entry.rows:,} rows of {', '.join(entry.days)} in {entry.files} files cannot be made again "
        f"({entry.why}){_named('of spans', entry.spans)}{_named('in files', entry.paths)}; {_what_to_do(table, entry)}"
        for entry in left
    ]


def _what_to_do(table: Table, entry: Mended) -> str:
    """Return what an operator can do about files that could not be written again.

    A missing file can have been replaced by a rewrite that the log has lost. A file that exists with other contents is
    damaged, and only a back-up helps.
    """
    if table.name == "spans":
        return (
            "restore these files from a back-up under their names, and run 'vitalake lake repair' again. That also "
            "works after --leave-out, with which streams can go on; until the files are back, what these spans read is "
            "unaccounted for, and the lake is not whole"
        )
    gone = not any(table.storage.exists(path) for path in entry.paths)
    if gone and table.name.startswith("restricted/") and cut_at(table.storage) > _a_week_ago():
        return (
            "its log has lost entries. If an erasure or another rewrite was among them, 'vitalake lake repair "
            "--leave-out' keeps the rows that the rewrite had kept, and takes out those that it had deleted: "
            "a patient's erased rows are no loss. If none was, restore these files from a back-up"
        )
    return "restore these files from a back-up, or take them out and lose them: vitalake lake repair --leave-out"


def _a_week_ago() -> float:
    """Return the time since which replaced files still exist: the vacuum deletes older ones."""
    return clock.now().timestamp() - RETENTION_HOURS * 3600


def _named(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NAMED:,} more (--json)" if len(names) > NAMED else ""
    return f", {what} {', '.join(names[:NAMED])}{more}"
