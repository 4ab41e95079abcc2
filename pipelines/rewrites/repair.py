"""Repairing a lake: its logs, then its files, of what the lake itself still has; and saying what cannot be repaired."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.rewrites.mend import Mended, leave_out, mend
from pipelines.rewrites.republish import open_restricted, refuse_lost, republish, restricted_datasets
from vitalake.errors import LakeError
from vitalake.lake.digests import Damaged, check_content
from vitalake.lake.lake import Lake, published_name
from vitalake.lake.log import cut_at, examine
from vitalake.lake.repair import LogRepair, make_readable, say_again, set_damaged_aside, set_log_aside
from vitalake.lake.scrub import scrub
from vitalake.lake.seen import FOLDER
from vitalake.lake.table import Table
from vitalake.settings import Settings

ORDER = ("restricted", "quarantine", "published")
"""Zones: what others are made of comes first."""


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
    done, lake = Repair(), Lake(settings.lake_uri, settings.storage_options)
    logs = make_readable(lake, progress=progress)
    done.logs = [report for report in logs.values() if report.set_aside or report.left]
    done.left = [f"{report.table}: {report.left}" for report in done.logs if report.lost]
    if not logs["spans"].lost:
        _repair_files(settings, lake.spans.table, done, leave=leave)
    if done.left and not all(line.startswith("published/") for line in done.left):
        return done  # nothing else can be told without it
    say_again(lake, logs)
    names = sorted((name for name in logs if name != "spans"), key=lambda name: ORDER.index(name.partition("/")[0]))
    for name in names:
        if not logs[name].lost:
            progress(name)
            _repair_files(settings, lake.table(name), done, leave=leave)
    _publish_again(settings, lake, done, progress)
    done.lookbacks = _drop_lookbacks(lake)
    return done


def _publish_again(settings: Settings, lake: Lake, done: Repair, progress: Callable[[str], None]) -> None:
    """Publish again what has lost entries of its log: a patient may have been erased by one of them."""
    kept = restricted_datasets(settings)
    for report in done.logs:
        zone, _, dataset = report.table.partition("/")
        cut = report.lost or any(name.endswith(".json") for name in report.set_aside)
        if zone == "published" and cut and dataset in kept:
            progress(f"publishing {dataset} again")
            try:
                refuse_lost(open_restricted(settings, dataset))
            except LakeError as error:
                report.left = f"{error.what}. {error.remedy}"
                continue
            if report.lost:
                set_log_aside(lake.storage.child(report.table))
            republish(settings, dataset)
            done.left = [line for line in done.left if not line.startswith(f"{report.table}:")]
            report.left = ""
            done.republished.append(dataset)
        elif cut and report.table != "spans":
            done.notes.append(
                f"{report.table}: rows of patients who were erased lately may lie there again, unreadable: run "
                "'vitalake patient forget' for them again"
            )
    done.left += [f"{report.table}: {report.left}" for report in done.logs if report.left and not report.lost]


def open_published(settings: Settings, dataset: str) -> list[str]:
    """Take out of the log of a published table what cannot be read; return what was. All its rows are to be replaced.

    Raises:
        LakeError, ServiceUnavailable: the lake cannot be written.
    """
    storage = Lake(settings.lake_uri, settings.storage_options).storage.child(published_name(dataset))
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
    damaged = scrub(table, most_bytes=sys.maxsize, every_seconds=0).damaged  # what is of before is recorded too
    if not damaged:
        return
    mended = mend(settings, table, damaged)
    done.files.append(mended)
    if mended.how:
        return
    if leave:
        done.left_out[table.name] = leave_out(table, damaged)
        return
    todo = "restore these files from a back-up, or take them out: vitalake lake repair --leave-out"
    if cut_at(table.storage) and table.name.startswith("restricted/"):
        todo = (
            "its log has lost entries; if an erasure or another rewrite was among them, 'vitalake lake repair "
            "--leave-out' keeps the rows which that kept, and takes out those it had deleted: erased ones are not lost"
        )
    done.left.append(
        f"{table.name}: {mended.rows:,} rows of {', '.join(mended.days)} in {mended.files} files cannot be made again "
        f"({mended.why}); {todo}"
    )
