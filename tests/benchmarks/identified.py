"""What identified data cost: patients seen for the first time, rows written anew, one patient forgotten.

``python -m tests.benchmarks.identified`` prints what it costs to publish rows anew: it needs no service.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from governance.belonging import open_vault
from governance.home import init_home
from governance.samples import copy_samples
from pipelines.core.poll import Outcome, Poll
from pipelines.core.writer import SpanWriter
from pipelines.erasure.request import Eraser
from pipelines.intake.steps import Steps
from pipelines.republish.republish import republish
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake, published_name
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.compaction import put_into_buckets
from vitalake.lake.tables.sorting import repeating
from vitalake.settings import Settings, StreamSettings, load_settings

Say = Callable[[str, str, str], None]

POLL = 20_000
DAYS = 10
BUCKETS = 64
PATIENTS = 20_000
WARD_PATIENTS = 2_000
FIRST_US = 1_700_006_400_000_000  # 2023-11-15, midnight
DAY_US = 86_400_000_000


@contextmanager
def home() -> Iterator[Settings]:
    """Give a new home's settings."""
    with tempfile.TemporaryDirectory(prefix="vitalake-bench-") as folder:
        init_home(Path(folder) / "home", copy_samples)
        yield load_settings(Path(folder) / "home")


def first_sight(say: Say, *, patients: int = 100_000) -> None:
    """Publish a poll's worth of rows of patients nobody has seen, and once more: what the first time costs more."""
    with home() as settings:
        steps = Steps(settings, StreamSettings(care=False), load_dataset("observation"))
        polls = [_poll(begin, np.arange(begin, begin + POLL), day=0) for begin in range(0, patients, POLL)]
        again = [_poll(begin, np.arange(begin, begin + POLL), day=0) for begin in range(0, patients, POLL)]
        first, then = _seconds(steps, polls), _seconds(steps, again)
        steps.close()
    say(f"first sight of {patients:,} patients", f"{first - then:.1f} s more than the second", "goal 10 s, once")


def _seconds(steps: Steps, polls: list[Outcome]) -> float:
    begun = time.perf_counter()
    for poll in polls:
        steps.mask(poll)
    return time.perf_counter() - begun


def rewrites(say: Say, *, rows: int = 10_000_000) -> None:
    """Publish rows of several days anew, put them into buckets by patient, forget one who has rows on each day."""
    republished(say)
    with home() as settings:
        _fill(settings, rows, patients=PATIENTS)
        lake = Lake(settings.lake_uri, {})
        for table in (lake.published, lake.restricted):
            bare = _bare_copy(lake, table.name)
            begun = time.perf_counter()
            done = put_into_buckets(table, BUCKETS, closed_before="9999-12-31")
            rate = done.rows / (time.perf_counter() - begun)
            say(
                f"{table.name} into {BUCKETS} buckets a day",
                f"{rate:,.0f} rows/s of {done.rows:,}",
                f"goal 1,000,000/s; {rate / bare:.0%} of reading and writing a day as it is",
            )
        _forget_one(settings, say, rows=rows)


def republished(say: Say, *, rows: int = 4_000_000, worst: int = 500_000) -> None:
    """Publish rows anew: of a ward's patients, and of as many patients as rows, whose every value is another."""
    for count, patients in ((rows, WARD_PATIENTS), (worst, worst)):
        with home() as settings:
            _fill(settings, count, patients=patients)
            bare = _bare_copy(Lake(settings.lake_uri, {}), published_name("observation"))
            begun = time.perf_counter()
            done = republish(settings, "observation")
            rate = done.rows_after / (time.perf_counter() - begun)
        say(
            f"publish rows of {patients:,} patients anew",
            f"{rate:,.0f} rows/s of {done.rows_after:,}",
            f"goal 1,000,000/s; {rate / bare:.0%} of reading and writing them as they are",
        )


def _forget_one(settings: Settings, say: Say, *, rows: int) -> None:
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    sizes = {name: sum(f.size for f in table.snapshot().files.values())
             for name, table in Lake(settings.lake_uri, {}).present().items()}  # fmt: skip
    begun = time.perf_counter()
    done = Eraser(settings, keys, vault).erase("patient-7", reason="bench", actor="bench")
    seconds = time.perf_counter() - begun
    vault.close()
    touched = sum(table.bytes_searched + table.bytes_rewritten for table in done.tables)
    whole = sum(sizes[table.table] for table in done.tables)
    dropped = {table.table: table.rows for table in done.tables if table.rows}
    say(
        f"forget one patient among {rows:,} rows",
        f"{seconds:.1f} s; {touched / 2**20:,.1f} MB of {whole / 2**20:,.0f} MB touched, two zones",
        ", ".join(f"{name} {count:,}" for name, count in dropped.items()),
    )


def _bare_copy(lake: Lake, name: str) -> float:
    """Return rows/s of reading a table's files, day by day, and writing their rows, nothing done to them."""
    table = lake.table(name)
    days: dict[str | None, list[str]] = {}
    for file in table.snapshot().files.values():
        days.setdefault(file.day, []).append(f"{table.storage.root}/{file.path}")
    texts = repeating(table.dataset)
    rows, begun = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for paths in days.values():
            parts = [pq.read_table(path, read_dictionary=texts, partitioning=None) for path in paths]
            rows += sum(part.num_rows for part in parts)
            copy = Path(folder) / "copy.parquet"
            pq.write_table(pa.concat_tables(parts).unify_dictionaries(), copy, **table._parquet_options())
    return rows / (time.perf_counter() - begun)


def _fill(settings: Settings, rows: int, *, patients: int) -> None:
    """Publish rows by the lanes' own steps and writer, in a span a poll of so many; as many patients: each has one."""
    lake = Lake(settings.lake_uri, {})
    lake.open_all()
    steps = Steps(settings, StreamSettings(care=False), lake.dataset)
    part = PartId("bench", "0123456789abcdefghijkl", 0)
    lake.spans.begin_at("observation", {part: 0})
    writer = SpanWriter(
        lake, job="bench", shard="0of1", epoch=lake.spans.begin_epoch(job="bench", shard="0of1"), fence=0,
        rules=steps.plan.version, decoder="bench", dead_letters=steps.dead_letters, span_seconds=600,
        span_rows=200_000, late_seconds=3600, positions={part: 0}, watermarks={}, stop=threading.Event(),
        on_committed=lambda _: None, on_paused=lambda _: None,
    )  # fmt: skip
    chance = np.random.default_rng(1)
    for begin in range(0, rows, POLL):
        owners = np.arange(begin, begin + POLL) if patients == rows else chance.integers(0, patients, POLL)
        writer.take(steps.mask(_poll(begin, owners, day=begin * DAYS // rows)))
        writer.cut_if_due()
    writer.cut()
    writer.flush()
    writer.close()
    steps.close()


def _poll(begin: int, patients: npt.NDArray[np.int64], *, day: int) -> Outcome:
    count = len(patients)
    owners, index = np.unique(patients, return_inverse=True)

    def texts(prefix: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(
            pa.array(index.astype(np.int32)), pa.array([f"{prefix}-{owner}" for owner in owners.tolist()])
        )

    def one(value: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))

    at = FIRST_US + day * DAY_US + np.arange(begin, begin + count) * 1_000 % DAY_US
    ids = np.random.default_rng(begin + 1).bytes(16 * count)
    columns = {
        "observation_id": pa.array([ids[i : i + 16] for i in range(0, len(ids), 16)], pa.binary()),
        "version": pa.array(np.zeros(count, np.int64)),
        "patient_id": texts("patient"),
        "encounter_id": texts("stay"),
        "device_id": texts("monitor"),
        "code": one("8867-4"),
        "value": pa.array(np.random.default_rng(begin).normal(80, 12, count).round(1)),
        "unit": one("/min"),
        "status": one("final"),
        "effective_at": pa.array(at, pa.timestamp("us", "UTC")),
        "available_at": pa.array(at, pa.timestamp("us", "UTC")),
    }
    message = np.arange(count, dtype=np.int32)
    part = (PartId("bench", "0123456789abcdefghijkl", 0),)
    poll = Poll("bench/0of1", "fhir", [b""] * count, part, np.zeros(count, np.int32), begin + np.arange(count),
                np.full(count, 1_795_000_000_000))  # fmt: skip
    return Outcome(
        poll=poll, rows=pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)), message=message,
        row_message=message, rejects=[], tombstones=[], fingerprints=np.zeros((0, 2), np.uint64), effective_us=at,
    )  # fmt: skip


if __name__ == "__main__":
    republished(lambda *row: print(" | ".join(row)))
