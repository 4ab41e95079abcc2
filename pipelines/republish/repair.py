"""Repairing a lake: its logs, then its files, of what the lake itself still has; and saying what cannot be repaired."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from governance.belonging.erasures import FILE as ERASURES
from pipelines.republish.mend import NAMED, Mended, leave_out, mend
from pipelines.republish.republish import open_restricted, refuse_lost, republish, restricted_datasets
from vitalake import clock
from vitalake.errors import LakeError
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake, published_name
from vitalake.lake.commits.seen import FOLDER
from vitalake.lake.maintenance.repair import (
    LogRepair,
    add_missing_spans,
    make_readable,
    set_damaged_aside,
    set_log_aside,
)
from vitalake.lake.maintenance.rewrite import lost_app
from vitalake.lake.maintenance.scrub import scrub
from vitalake.lake.maintenance.vacuum import RETENTION_HOURS
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.digests import Damaged, check_content
from vitalake.lake.tables.log import cut_at, examine, is_to_be_made_again
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

ORDER = ("restricted", "quarantine", "published")
"""Zones: what others are made of comes first."""

_OF_SPANS = {"positions-missing", "positions-behind", "ledger-contradicts", "spans-unreadable"}


@dataclass(slots=True)
class Repair:
    """What a repair did.

    Attributes:
        logs: of tables whose log was damaged.
        files: of tables that had damaged files.
        republished: datasets that were published again because their log was damaged.
        lookbacks: look-back files that were damaged, and deleted: an exact repeat may be published once more.
        left_out: rows that were taken out of their tables, by table.
        notes: what has to be looked after, in words.
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
        """Return it as data for a program."""
        return asdict(self) | {"whole": not self.left}


def repair(settings: Settings, *, leave: bool = False, progress: Callable[[str], None] = lambda _: None) -> Repair:
    """Repair what is damaged of a lake: every log, and every file, which are all read. Safe to repeat.

    Nothing may write meanwhile when a log is damaged; beside damaged files streams may go on.

    Args:
        settings: of the home.
        leave: take files that cannot be made again out of their tables.
        progress: told what is looked at.

    Raises:
        KeyRevoked: patients' keys cannot be had.
        LakeError, ServiceUnavailable: as whoever writes.
    """
    done, lake = Repair(), Home(settings).lake()
    logs = make_readable(lake, progress=progress)
    done.logs = _told(logs)
    done.left = [f"{report.table}: {report.left}" for report in done.logs if report.lost]
    if not logs["spans"].lost:
        _repair_files(settings, lake.spans.table, done, leave=leave)
    if done.left and any(line.startswith("spans:") for line in done.left):
        return done  # nothing else can be told without it
    add_missing_spans(lake, logs)
    failpoint("repair-logs")
    _note_erasures(lake, logs, done)
    done.logs = _told(logs)
    again = _to_publish(settings, lake, logs)
    for name in sorted({*logs, *again} - {"spans"}, key=lambda name: ORDER.index(name.partition("/")[0])):
        progress(name)
        if name in again and not _publish_again(settings, lake, logs.get(name, LogRepair(name)), done):
            continue
        if name in again or not logs[name].lost:
            _repair_files(settings, lake.table(name), done, leave=leave)
    done.left += [f"{report.table}: {report.left}" for report in logs.values() if report.left and not report.lost]
    done.lookbacks = _drop_lookbacks(lake)
    done.left += _not_sound(settings, done)
    return done


def _told(logs: dict[str, LogRepair]) -> list[LogRepair]:
    """Return what is to be said of logs: not what spans were only about to add."""
    return [
        report for name, report in logs.items() if report.set_aside or report.left or (name == "spans" and report.spans)
    ]


def _to_publish(settings: Settings, lake: Lake, logs: dict[str, LogRepair]) -> list[str]:
    """Return the published tables that have lost entries of their log: a patient may have been erased by one of them.

    By what lies there, not by what this run has done: the one before may have been killed.
    """
    names = {dataset: published_name(dataset) for dataset in restricted_datasets(settings)}
    lost = {name for name, report in logs.items() if report.lost}
    return [name for name in names.values() if name in lost or is_to_be_made_again(lake.storage.child(name))]


def _publish_again(settings: Settings, lake: Lake, report: LogRepair, done: Repair) -> bool:
    """Publish a dataset again; return whether that was done."""
    dataset = report.table.rpartition("/")[2]
    done.left = [line for line in done.left if not line.startswith(f"{report.table}:")]
    report.left = ""
    try:
        refuse_lost(open_restricted(settings, dataset))
        if report.lost:
            set_log_aside(lake.storage.child(report.table))
        republish(settings, dataset)
    except LakeError as error:
        done.left.append(f"{report.table}: it has to be published again. {error.what} ({error.where}). {error.remedy}")
        return False
    done.republished.append(dataset)
    return True


def _note_erasures(lake: Lake, logs: dict[str, LogRepair], done: Repair) -> None:
    """Say of which tables a log has lost entries within a week, as long as what they replaced lies there."""
    if lake.storage.fs.get_file_info(f"{lake.storage.root}/{ERASURES}").size == 0:  # nobody was erased, ever
        return
    for name in logs:
        if name.partition("/")[0] in ("restricted", "quarantine") and cut_at(lake.storage.child(name)) > _a_week_ago():
            done.notes.append(
                f"{name}: rows of patients who were erased lately may lie there again, unreadable: run "
                "'vitalake patient erase' for them again"
            )


def _not_sound(settings: Settings, done: Repair) -> list[str]:
    """Return what a verification finds that nothing above has named: whole is only what it calls sound.

    Every file was read for its digest a moment ago.
    """
    named = {line.partition(":")[0] for line in done.left}
    lake = Home(settings).lake()
    found = verify(lake, content=False)
    errors = [finding for finding in found if finding.severity == "error"]
    told = [f for f in errors if not any(f.where == n or f.where.startswith((f"{n}/", f"{n},")) for n in named)]
    left = [f"{finding.where}: {finding.kind}, {finding.detail}" for finding in told]
    spans = lake.spans.table
    if any(finding.kind in _OF_SPANS for finding in told) or (told and spans.transaction(lost_app(spans))):
        left.append("spans: what was decided is not all there; restore the spans table's files from a back-up")
    return left


def open_published(settings: Settings, dataset: str) -> list[str]:
    """Take out of the log of a published table what cannot be read; return what was. All its rows are to be replaced.

    Raises:
        LakeError, ServiceUnavailable: the lake cannot be written.
    """
    storage = Home(settings).lake().storage.child(published_name(dataset))
    try:
        return set_damaged_aside(storage, examine(storage))
    except Damaged:
        return set_log_aside(storage)


def _drop_lookbacks(lake: Lake) -> int:
    """Delete look-back files that are damaged: whoever reads them passes over what is gone."""
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
        damaged = scrub(table, most_bytes=sys.maxsize, every_seconds=0).damaged  # what is of before is recorded too
    except Damaged as error:  # the record of digests
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
    """Return what helps where nothing could be made again.

    Only files that are gone can have been replaced by a rewrite that the log has lost: what lies there and holds
    something else is damaged, and a back-up has it.
    """
    if table.name == "spans":
        return (
            "restore these files from a back-up under their names, and run 'vitalake lake repair' again: that helps "
            "after --leave-out, too, which lets streams go on and leaves what these spans read unaccounted for: until "
            "they are back the lake is never called whole"
        )
    gone = not any(table.storage.exists(path) for path in entry.paths)
    if gone and table.name.startswith("restricted/") and cut_at(table.storage) > _a_week_ago():
        return (
            "its log has lost entries; if an erasure or another rewrite was among them, 'vitalake lake repair "
            "--leave-out' keeps the rows which that kept, and takes out those it had deleted: erased ones are not "
            "lost. If none was, restore these files from a back-up"
        )
    return "restore these files from a back-up, or take them out and lose them: vitalake lake repair --leave-out"


def _a_week_ago() -> float:
    """Return since when what was replaced lies there."""
    return clock.now().timestamp() - RETENTION_HOURS * 3600


def _named(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NAMED:,} more (--json)" if len(names) > NAMED else ""
    return f", {what} {', '.join(names[:NAMED])}{more}"
