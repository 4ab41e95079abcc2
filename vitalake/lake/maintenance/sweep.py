"""The sweeper: deletes what killed writers and rewrites have left, and nothing that anybody may still commit or read.

Writers never delete staged files. Before the sweeper does it takes the writer's right to commit away: a new epoch for
a dead writer's shard, a new number for a table's maintenance. Only then does it look at what was decided.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.seen import FOLDER
from vitalake.lake.commits.spans import Span, SpanLog, add_span, is_added
from vitalake.lake.maintenance.journal import JOB_LEASE_SECONDS, Job, Journal
from vitalake.lake.maintenance.lock import abandon
from vitalake.lake.maintenance.rewrite import is_held, maintenance_app, rewrite_number
from vitalake.lake.maintenance.vacuum import RETENTION_HOURS, SPAN_FILE, forgotten_files, kept_files, span_id_of
from vitalake.lake.tables.log import cut_at
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import Table

LEASE_SECONDS = 3600.0
"""A rewrite that takes longer loses its right to commit; it then plans again."""

_SWAP_FILE = re.compile(r"swap\.(?P<job>[0-9a-f]{16})\.[0-9a-f]{32}-")

NEVER = "9999-12-31"

Listing = dict[str, dict[str, float]]
"""Table → path → when the file was last changed, seconds since 1970."""


@dataclass(slots=True)
class Swept:
    """What a sweep did."""

    epochs: dict[str, int] = field(default_factory=dict)
    rolled_forward: int = 0
    deleted: dict[str, int] = field(default_factory=dict)


def leftovers(lake: Lake) -> dict[str, set[str]]:
    """Return the jobs that have files no table knows, of the living and of the dead, and of which shards."""
    found: dict[str, set[str]] = defaultdict(set)
    for paths in _loose(lake.present().values()).values():
        for path in paths:
            if match := SPAN_FILE.match(path.rpartition("/")[2]):
                found[match["job"]].add(match["shard"])
    return found


def dead_shards(lake: Lake, job: str, *, workers: int) -> list[str]:
    """Return the shards of another number of workers that have left files: nobody will succeed them."""
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
    """Delete what was staged and can never be committed; return what was done. Safe beside writers that live.

    Args:
        lake: opened afresh; not used by anything else meanwhile.
        job: whose files.
        shards: shards (``0of2``) whose writers are dead: they are fenced off, and what they decided is added.
            Other shards' files are deleted only where a successor has begun a newer epoch already.
        lookback_seconds: as the job's configuration says; look-back files are kept twice as long.
        lease_seconds: age at which the files of a rewrite that was not committed are given up.
        job_lease_seconds: age of its last sign of life at which a job with a journal is given up.

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
    # Listed after the fences, and held against what was decided after the listing: what comes later is not listed.
    places = {table.name: table.storage for table in tables} | {FOLDER: lake.storage.child(FOLDER)}
    listed = _loose(tables) | {FOLDER: places[FOLDER].files(suffix="")}
    fenced, decided = _fates(lake.spans, job, listed)
    # Both looks: a job that has ended between has committed, after the look for what is loose it may be.
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
    """Add what was decided and not added everywhere, whoever decided it; return how many spans had something left.

    After a raised fence this makes all that was decided under the older one visible: nothing of it can come later.

    Raises:
        ServiceUnavailable: storage cannot be reached.
    """
    tables = [table for name, table in lake.present().items() if name != "spans"]
    since, count = _first_day(_loose(tables)), 0
    for span in lake.spans.all_spans(since=since):
        count += any([add_span(span, table) for table in tables])
    return count


def staged_spans(lake: Lake) -> set[str]:
    """Return the spans that have staged or added messages to the quarantine.

    Those of them that are not decided when a fence is raised after this was asked, can be decided no more.
    """
    tables = [table for name, table in lake.present().items() if name.startswith("quarantine/")]
    return {span_id_of(path) for table in tables for path in table.storage.files(suffix="")} - {""}


def given_up(table: Table, spans: SpanLog | None = None, *, older: Collection[str] = ()) -> set[str]:
    """Return the files of a table's folder that its newest version does not have, and no later one can have.

    They were replaced, and older versions have them; or their rewrite was overtaken by other maintenance; or their
    span was not decided, and its writer can decide nothing any more. What is left under the name it has while it is
    written is judged like what it would have become.

    Args:
        table: not to be used by anything else meanwhile.
        spans: tells which spans were decided; None: what spans have staged and nobody added is left.
        older: spans of before the fence was raised, as ``staged_spans`` gave them.

    Raises:
        OSError, DeltaError: storage refuses.
    """
    listed = table.storage.files(suffix="")
    kept = kept_files(table)
    found = (listed.keys() & kept) - table.snapshot().files.keys()
    loose = {path: changed for path, changed in listed.items() if path not in kept}
    newest = table.transaction(maintenance_app(table)) or 0
    found |= {path for path in loose if 0 < rewrite_number(path) <= newest}
    if spans is None:
        return found
    matches = [SPAN_FILE.match(path.rpartition("/")[2]) for path in loose]
    fates = [_fates(spans, job, {table.name: loose}) for job in {match["job"] for match in matches if match}]
    fenced = set(older).union(*(fenced for fenced, _ in fates))
    decided = set().union(*(decided for _, decided in fates))
    found |= {path for path in loose if span_id_of(path) in fenced - decided}
    table.refresh()
    of_decided = [path for path in loose if span_id_of(path) in decided]
    forgotten = forgotten_files(table, spans, of_decided, since=_first_day({table.name: loose}))
    return found | (forgotten - table.snapshot().files.keys())


# -- what may go -------------------------------------------------------------------------------------------------


def _loose(tables: Collection[Table]) -> Listing:
    """Return the files that are there and that a table's log does not know."""
    listed = {table.name: table.storage.files(suffix="") for table in tables}
    for table in tables:
        for path in kept_files(table):
            listed[table.name].pop(path, None)
    return listed


def _first_day(listed: Listing) -> str:
    """Return the first day on which spans of these files can have been decided: they are staged first.

    A day early, for the storage's clock may be another one. So a sweep reads the days of what it found, not years.
    """
    times = [changed for paths in listed.values() for path, changed in paths.items() if span_id_of(path)]
    return str((datetime.fromtimestamp(min(times), UTC) - timedelta(days=1)).date()) if times else NEVER


def _fates(spans: SpanLog, job: str, listed: Listing) -> tuple[set[str], set[str]]:
    """Return the spans of the job's files whose writers can decide nothing any more, and those that were decided.

    Looked up in this order: what is among the first and not among the second never will be decided.
    """
    matches = [SPAN_FILE.match(path.rpartition("/")[2]) for paths in listed.values() for path in paths]
    mine = {m["span_id"]: (m["shard"], int(m["epoch"])) for m in matches if m and m["job"] == job}
    current = {shard: spans.current_epoch(job=job, shard=shard) for shard in {shard for shard, _ in mine.values()}}
    fenced = {span_id for span_id, (shard, epoch) in mine.items() if epoch < current[shard]}
    decided: set[str] = set()
    since = _first_day(listed)
    for day in [day for day in spans.days() if day >= since] if mine else []:
        decided |= mine.keys() & set(spans.table.scan(days=[day], columns=["span_id"])["span_id"].to_pylist())
    return fenced, decided


def _delete(storage: Storage, paths: Sequence[str]) -> int:
    for path in paths:
        storage.delete(path)
    return len(paths)


# -- rewrites ----------------------------------------------------------------------------------------------------


def _abandoned_rewrites(table: Table, listed: Mapping[str, float], *, lease_seconds: float) -> dict[str, int]:
    """Return the files of rewrites older than the lease, with the number each wanted to commit.

    Not those from before a repair that cut the log: what a lost rewrite made may be all that there is of its rows, and
    'lake repair --leave-out' takes them from there. A published table is made again instead, and keeps none.
    """
    oldest = clock.now().timestamp() - lease_seconds
    cut = 0.0 if table.name.startswith("published/") else cut_at(table.storage)
    spared = cut if clock.now().timestamp() - cut < RETENTION_HOURS * 3600 else -1.0
    old = [path for path, changed in listed.items() if spared < changed < oldest]
    return {path: number for path in old if (number := rewrite_number(path))}


def _fence_rewrites(table: Table, *, lease_seconds: float) -> None:
    """Take the right to commit from rewrites that have left files longer ago than the lease."""
    files = _abandoned_rewrites(table, table.storage.files(suffix=""), lease_seconds=lease_seconds)
    kept = kept_files(table) if files else set()
    newest = table.transaction(maintenance_app(table)) or 0
    if any(number > newest for path, number in files.items() if path not in kept):
        with suppress(CommitFailedError):  # other maintenance has moved the number on, which does the same
            table.commit(transactions={maintenance_app(table): newest + 1})


def _dead_rewrites(table: Table, listed: Mapping[str, float], *, lease_seconds: float) -> list[str]:
    """Return the files of rewrites that can never be committed, and never were.

    ``listed`` is without files that the log knows as replaced. By another machine's clock one may have been replaced
    in the future; the table as it was a lease ago tells, for all these files are older.
    """
    files = _abandoned_rewrites(table, listed, lease_seconds=lease_seconds)
    if not files:
        return []
    newest = table.transaction(maintenance_app(table)) or 0
    earlier = DeltaTable(table.storage.uri, storage_options=table.storage.options or None)
    earlier.load_as_version(clock.now() - timedelta(seconds=lease_seconds))
    known = set(pa.table(earlier.get_add_actions())["path"].to_pylist())
    return [path for path, number in files.items() if number <= newest and path not in known]


# -- jobs with a journal -----------------------------------------------------------------------------------------


def _live_jobs(lake: Lake, tables: Sequence[Table], *, lease_seconds: float) -> set[str]:
    """Return the jobs that may still commit; from those that show no life the right is taken."""
    live = set()
    for dataset in [table.dataset.name for table in tables if table.name.startswith("published/")]:
        journal = Journal(lake.storage, dataset)
        held = [table for table in tables if table.name in (f"published/{dataset}", f"restricted/{dataset}")]
        job = journal.job()
        if job is None and any(is_held(table) for table in held):
            # Killed before it wrote itself down, or about to: from now on it has a lease like any other.
            journal.begin(Job("0" * 16, "unknown", dataset, 0, "", clock.now_us()))
        elif job is not None and journal.is_alive(lease_seconds=lease_seconds):
            live.add(job.id)
        elif job is not None:
            abandon(journal, held)
    return live


def _dead_swaps(listed: Mapping[str, float], live: Collection[str], *, lease_seconds: float) -> list[str]:
    """Return the files of jobs that do not live; a young one may be of a job that began after we looked."""
    oldest = clock.now().timestamp() - lease_seconds
    matches = {path: _SWAP_FILE.match(path.rpartition("/")[2]) for path, changed in listed.items() if changed < oldest}
    return [path for path, match in matches.items() if match and match["job"] not in live]


# -- rolling forward ---------------------------------------------------------------------------------------------


def _roll_forward(lake: Lake, job: str, tables: Sequence[Table], since: str) -> int:
    """Add what fenced writers have decided and not added; a living writer adds its own."""
    count = 0
    for span in list(_pending(lake, job, tables, since)):
        if span.epoch < lake.spans.current_epoch(job=job, shard=span.shard):
            count += any([add_span(span, table) for table in tables])
    return count


def _pending(lake: Lake, job: str, tables: Sequence[Table], since: str) -> Iterator[Span]:
    """Yield the job's spans that are not added everywhere, oldest first."""
    for span in lake.spans.all_spans(since=since):
        if span.job == job and any(span.files_of(table.name) and not is_added(span, table) for table in tables):
            yield span
