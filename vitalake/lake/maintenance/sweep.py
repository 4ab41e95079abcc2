"""The sweeper: deletes files that killed writers and rewrites have left, and no file that may be committed or read.

Writers that were killed cannot delete what they staged. Before the sweeper deletes such files it takes the right to
commit away: it begins a new epoch for a dead writer's shard, and commits a new number for a table's maintenance. Only
then it reads what was decided.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from vitalake import clock
from vitalake.lake.commits.adding import add_span, missing_spans
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.seen import FOLDER
from vitalake.lake.commits.span_log import SpanLog
from vitalake.lake.commits.transactions import maintenance_app
from vitalake.lake.maintenance.journal import JOB_LEASE_SECONDS, Job, Journal
from vitalake.lake.maintenance.lock import abandon
from vitalake.lake.maintenance.rewrite import is_locked, rewrite_number
from vitalake.lake.maintenance.vacuum import RETENTION_HOURS, SPAN_FILE, forgotten_files, kept_files, span_id_of
from vitalake.lake.tables.log_files import cut_at
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import Table

LEASE_SECONDS = 3600.0
"""A rewrite that takes longer loses its right to commit, and plans again."""

_SWAP_FILE = re.compile(r"swap\.(?P<job>[0-9a-f]{16})\.[0-9a-f]{32}-")

NEVER = "9999-12-31"
"""A date after every day of spans: no day has to be read."""

Listing = dict[str, dict[str, float]]
"""Table → path → time of the file's last change, in seconds since 1970."""


@dataclass(slots=True)
class Swept:
    """What a sweep did.

    Attributes:
        epochs: shard → the epoch that was begun to fence its dead writer.
        rolled_forward: decided spans that were added.
        deleted: table → files that were deleted.
    """

    epochs: dict[str, int] = field(default_factory=dict)
    rolled_forward: int = 0
    deleted: dict[str, int] = field(default_factory=dict)


def leftovers(lake: Lake) -> dict[str, set[str]]:
    """Return the jobs, running or not, that have files which no log names, each with the shards of these files."""
    shards: dict[str, set[str]] = defaultdict(set)
    for paths in _loose(lake.present().values()).values():
        for path in paths:
            if match := SPAN_FILE.match(path.rpartition("/")[2]):
                shards[match["job"]].add(match["shard"])
    return shards


def dead_shards(lake: Lake, job: str, *, workers: int) -> list[str]:
    """Return the shards of another number of workers that have left files: no writer will take them over."""
    return sorted(shard for shard in leftovers(lake)[job] if shard.partition("of")[2] != str(workers))


def sweep(
    lake: Lake,
    job: str,
    *,
    shards: Sequence[str] = (),
    lookback_seconds: float = 3600.0,
    lease_seconds: float = LEASE_SECONDS,
    job_lease_seconds: float = JOB_LEASE_SECONDS,
) -> Swept:
    """Delete staged files that can never be committed; return what was done. Safe while writers run.

    Args:
        lake: just opened; nothing else may use the object during the call.
        job: the job whose files are swept.
        shards: shards (``0of2``) whose writers are dead: they are fenced, and what they decided is added. Files of
            other shards are deleted only if a successor has begun a newer epoch.
        lookback_seconds: the look-back of the job's configuration; look-back files are kept twice as long.
        lease_seconds: age at which the files of a rewrite that was not committed are given up.
        job_lease_seconds: time since a job last wrote its journal after which the job is given up.

    Raises:
        ServiceUnavailable: storage cannot be reached.
    """
    done = Swept()
    for shard in shards:
        done.epochs[shard] = lake.spans.begin_epoch(job=job, shard=shard)
    tables = list(lake.present().values())
    done.rolled_forward = _roll_forward(lake, job, tables, _first_day(_loose(tables)))
    for table in tables:
        _fence_rewrites(table, lease_seconds=lease_seconds)
    live = _live_jobs(lake, tables, lease_seconds=job_lease_seconds)
    # List after the fences, and read what was decided after the listing: later files are not in the list.
    places = {table.name: table.storage for table in tables} | {FOLDER: lake.storage.child(FOLDER)}
    listed = _loose(tables) | {FOLDER: places[FOLDER].files(suffix="")}
    fenced, decided = _fates(lake.spans, job, listed)
    # Keep the jobs of both looks: one that has ended in between may have committed after the files were listed.
    live |= _live_jobs(lake, tables, lease_seconds=job_lease_seconds)
    for table in tables:
        dead = _dead_rewrites(table, listed[table.name], lease_seconds=lease_seconds)
        dead += _dead_swaps(listed[table.name], live, lease_seconds=lease_seconds)
        done.deleted[table.name] = _delete(table.storage, dead)
    oldest = clock.now().timestamp() - 2 * lookback_seconds
    for name, paths in listed.items():
        dead = [path for path in paths if span_id_of(path) in fenced - decided]
        if name == FOLDER:
            dead += [path for path, changed in paths.items() if changed < oldest and span_id_of(path) in decided]
        done.deleted[name] = done.deleted.get(name, 0) + _delete(places[name], dead)
    return done


def roll_forward_all(lake: Lake) -> int:
    """Add every decided span that some table lacks, of all writers; return the number of such spans.

    After the fence was raised this makes everything visible that was decided under the older one: nothing of it can be
    added later.

    Raises:
        ServiceUnavailable: storage cannot be reached.
    """
    tables = [table for name, table in lake.present().items() if name != "spans"]
    spans = lake.spans.all_spans(since=_first_day(_loose(tables)))
    return sum(any([add_span(span, table) for table in tables]) for span in missing_spans(spans, tables))


def staged_spans(lake: Lake) -> set[str]:
    """Return the spans that have staged or added messages in the quarantine.

    Call it before a fence is raised: those of the spans that are not decided by then can never be decided.
    """
    tables = [table for name, table in lake.present().items() if name.startswith("quarantine/")]
    return {span_id_of(path) for table in tables for path in table.storage.files(suffix="")} - {""}


def deletable_files(table: Table, spans: SpanLog | None = None, *, older: Collection[str] = ()) -> set[str]:
    """Return the files of a table's folder that its newest version does not have and no later version can have.

    These are files that were replaced; files of a rewrite that other maintenance has overtaken; and files of a span
    that was not decided and whose writer can decide nothing any more. A half-written file (``….part``) is judged by
    the name that it would have got.

    Args:
        table: nothing else may use the object during the call.
        spans: says which spans were decided; None: files that spans have staged and that no table has are left out.
        older: spans staged before the fence was raised, as ``staged_spans`` returned them.

    Raises:
        OSError, DeltaError: storage refuses.
    """
    listed = table.storage.files(suffix="")
    kept = kept_files(table)
    result = (listed.keys() & kept) - table.snapshot().files.keys()
    loose = {path: changed for path, changed in listed.items() if path not in kept}
    newest = table.transaction(maintenance_app(table.name)) or 0
    result |= {path for path in loose if 0 < rewrite_number(path) <= newest}
    if spans is None:
        return result
    matches = [SPAN_FILE.match(path.rpartition("/")[2]) for path in loose]
    fates = [_fates(spans, job, {table.name: loose}) for job in {match["job"] for match in matches if match}]
    fenced = set(older).union(*(fenced for fenced, _ in fates))
    decided = set().union(*(decided for _, decided in fates))
    result |= {path for path in loose if span_id_of(path) in fenced - decided}
    table.refresh()
    of_decided = [path for path in loose if span_id_of(path) in decided]
    forgotten = forgotten_files(table, spans, of_decided, since=_first_day({table.name: loose}))
    return result | (forgotten - table.snapshot().files.keys())


# -- which files may be deleted ----------------------------------------------------------------------------------


def _loose(tables: Collection[Table]) -> Listing:
    """Return the files in the tables' folders that the logs do not name."""
    listed = {table.name: table.storage.files(suffix="") for table in tables}
    for table in tables:
        for path in kept_files(table):
            listed[table.name].pop(path, None)
    return listed


def _first_day(listed: Listing) -> str:
    """Return the first day on which spans of these files can have been decided, which is after they were staged.

    It is a day early, because the storage's clock may differ. So a sweep reads only the days of its files.
    """
    times = [changed for paths in listed.values() for path, changed in paths.items() if span_id_of(path)]
    return str((datetime.fromtimestamp(min(times), UTC) - timedelta(days=1)).date()) if times else NEVER


def _fates(spans: SpanLog, job: str, listed: Listing) -> tuple[set[str], set[str]]:
    """Return the spans of the job's files whose writers are fenced, and those that were decided.

    They are read in this order: a span among the first and not among the second can never be decided.
    """
    matches = [SPAN_FILE.match(path.rpartition("/")[2]) for paths in listed.values() for path in paths]
    staged = {m["span_id"]: (m["shard"], int(m["epoch"])) for m in matches if m and m["job"] == job}
    current = {shard: spans.current_epoch(job=job, shard=shard) for shard in {shard for shard, _ in staged.values()}}
    fenced = {span_id for span_id, (shard, epoch) in staged.items() if epoch < current[shard]}
    decided: set[str] = set()
    since = _first_day(listed)
    for day in [day for day in spans.days() if day >= since] if staged else []:
        decided |= staged.keys() & set(spans.table.scan(days=[day], columns=["span_id"])["span_id"].to_pylist())
    return fenced, decided


def _delete(storage: Storage, paths: Sequence[str]) -> int:
    for path in paths:
        storage.delete(path)
    return len(paths)


# -- rewrites ----------------------------------------------------------------------------------------------------


def _abandoned_rewrites(table: Table, listed: Mapping[str, float], *, lease_seconds: float) -> dict[str, int]:
    """Return the files of rewrites that are older than the lease, each with the number of its rewrite.

    Files from before a repair that cut the log are left out: they may hold the only copy of the rows of a lost rewrite,
    which 'lake repair --leave-out' reads from them. A published table is made again instead, so its files are included.
    """
    oldest = clock.now().timestamp() - lease_seconds
    cut = 0.0 if table.name.startswith("published/") else cut_at(table.storage)
    spared = cut if clock.now().timestamp() - cut < RETENTION_HOURS * 3600 else -1.0
    old = [path for path, changed in listed.items() if spared < changed < oldest]
    return {path: number for path in old if (number := rewrite_number(path))}


def _fence_rewrites(table: Table, *, lease_seconds: float) -> None:
    """Take the right to commit from rewrites whose files are older than the lease."""
    files = _abandoned_rewrites(table, table.storage.files(suffix=""), lease_seconds=lease_seconds)
    kept = kept_files(table) if files else set()
    newest = table.transaction(maintenance_app(table.name)) or 0
    if any(number > newest for path, number in files.items() if path not in kept):
        with suppress(CommitFailedError):  # other maintenance has counted the number up, which has the same effect
            table.commit(transactions={maintenance_app(table.name): newest + 1})


def _dead_rewrites(table: Table, listed: Mapping[str, float], *, lease_seconds: float) -> list[str]:
    """Return the files of rewrites that were never committed and never can be.

    ``listed`` does not include files that the log names as replaced. If clocks differ, a file may have been replaced at
    a time in the future. So the table's version of a lease ago is read too; these files are older.
    """
    files = _abandoned_rewrites(table, listed, lease_seconds=lease_seconds)
    if not files:
        return []
    newest = table.transaction(maintenance_app(table.name)) or 0
    earlier = DeltaTable(table.storage.uri, storage_options=table.storage.options or None)
    earlier.load_as_version(clock.now() - timedelta(seconds=lease_seconds))
    known = set(pa.table(earlier.get_add_actions())["path"].to_pylist())
    return [path for path, number in files.items() if number <= newest and path not in known]


# -- jobs with a journal -----------------------------------------------------------------------------------------


def _live_jobs(lake: Lake, tables: Sequence[Table], *, lease_seconds: float) -> set[str]:
    """Return the jobs that may still commit; give up those whose lease has run out."""
    live = set()
    for dataset in [table.dataset.name for table in tables if table.name.startswith("published/")]:
        journal = Journal(lake.storage, dataset)
        held = [table for table in tables if table.name in (f"published/{dataset}", f"restricted/{dataset}")]
        job = journal.job()
        if job is None and any(is_locked(table) for table in held):
            # A job without a journal has locked the tables: killed, or still starting. A journal gives it a lease.
            journal.begin(Job("0" * 16, "unknown", dataset, 0, "", clock.now_us()))
        elif job is not None and journal.is_alive(lease_seconds=lease_seconds):
            live.add(job.id)
        elif job is not None:
            abandon(journal, held)
    return live


def _dead_swaps(listed: Mapping[str, float], live: Collection[str], *, lease_seconds: float) -> list[str]:
    """Return the files of jobs that are not live. Newer files are kept: their job may have begun after we looked."""
    oldest = clock.now().timestamp() - lease_seconds
    matches = {path: _SWAP_FILE.match(path.rpartition("/")[2]) for path, changed in listed.items() if changed < oldest}
    return [path for path, match in matches.items() if match and match["job"] not in live]


# -- roll-forward ------------------------------------------------------------------------------------------------


def _roll_forward(lake: Lake, job: str, tables: Sequence[Table], since: str) -> int:
    """Add what fenced writers have decided and not added; a running writer adds its own spans."""
    count = 0
    spans = (span for span in lake.spans.all_spans(since=since) if span.job == job)
    for span in missing_spans(spans, tables):
        if span.epoch < lake.spans.current_epoch(job=job, shard=span.shard):
            count += any([add_span(span, table) for table in tables])
    return count
