"""The live lane against the bare limit, on a real Apache Kafka, in one run: ``make bench-live``.

Prints a table with ratios. Absolute figures drift with the machine; the ratios are what counts. Peers are quoted from
the same work measured elsewhere (2 M messages of 646 B): their ratio to the bare limit there, not their speed here.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import pyarrow.parquet as pq
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.live.status import StatusLine
from pipelines.simulator import synthetic
from tests.benchmarks import identified
from tests.services.kafka import LASTING, KafkaServer, why_not
from tests.unit.vitalake.lake.span_samples import begin, write_spans
from vitalake.lake.commits.lake import Lake

PARTITIONS = 4
UPKEEP_MESSAGES = 201  # a span's; one of them bad
PEERS = {  # messages/s of one and two processes where the bare loop reached 398k and 463k
    "Bytewax 0.21 (no resume state)": (163, 283),
    "Quix Streams 3.28": (85, 155),
    "Spark 4.2 + Delta, tuned, local[2]": (None, 180),
}
BARE_THERE = (398, 463)


class Run(NamedTuple):
    """What a lane did: messages/s, memory of its workers in MB twice a second, messages read."""

    rate: float
    memory: list[float]
    messages: int


class Bench:
    """One Kafka, its topics, and the figures so far."""

    def __init__(self, kafka: KafkaServer, folder: Path) -> None:
        self.kafka, self.folder = kafka, folder
        self.rows: list[tuple[str, str, str]] = []
        self._topics: dict[tuple[int, float], str] = {}

    def topic(self, messages: int, bad: float = 0.0) -> str:
        """Return a topic with so many messages, a share of them bad; made once."""
        name = f"bench-{messages}-{int(bad * 100)}"
        if (messages, bad) in self._topics:
            return name
        self._topics[messages, bad] = name
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        for future in admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
            future.result(30)
        producer = Producer(
            {
                "bootstrap.servers": self.kafka.bootstrap_servers,
                "linger.ms": 20,
                "queue.buffering.max.messages": 400_000,
            }
        )
        for i, (_, value) in enumerate(synthetic.messages(messages, patients=1_000, seed=1, bad_share=bad)):
            while True:
                try:
                    producer.produce(name, value, partition=i % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.flush()
        return name

    def bare(self, topic: str, messages: int, *, processes: int = 1, gc_off: bool = False) -> float:
        """Return messages/s of the bare loop."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            started = [
                subprocess.Popen(
                    [sys.executable, "-m", "tests.benchmarks.bare", self.kafka.bootstrap_servers, topic, str(i),
                     str(processes), folder, str(messages // processes), *(["--gc-off"] if gc_off else [])],
                    stdout=subprocess.PIPE,
                )
                for i in range(processes)
            ]  # fmt: skip
            figures = [msgspec.json.decode(process.communicate()[0]) for process in started]
        return sum(figure["messages"] / figure["seconds"] for figure in figures)

    @contextmanager
    def home(self, topic: str, **stream: object) -> Iterator[Path]:
        """Give a new home that streams a topic."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            home = Path(folder) / "home"
            init_home(home, copy_samples)
            document = {
                "kafka": {"bootstrap_servers": self.kafka.bootstrap_servers},
                "jobs": {"vitals": {"topics": {topic: "fhir"}, **stream}},
            }
            (home / "vitalake.yaml").write_text(yaml.safe_dump(document))
            yield home

    def lane(self, topic: str, *, workers: int = 1, care: bool = False) -> Run:
        """Return what a lane made of a topic.

        The rate is taken as the bare loop's is: from the first commit to the last.
        """
        with self.home(topic, span_seconds=5.0, care=care) as home:
            started = [_worker(home, f"{i}of{workers}", "--until-idle", "1") for i in range(workers)]
            memory: list[float] = []
            for process in started:
                lines = process.communicate()[0].splitlines()
                assert process.returncode == 0
                memory += [msgspec.json.decode(line, type=StatusLine).rss_bytes / 2**20 for line in lines]
            spans = sorted(Lake(str(home / "lake"), {}).spans.all_spans(), key=lambda span: span.decided_us)
        sizes = [sum(part.counts.messages for part in span.parts) for span in spans]
        seconds = (spans[-1].decided_us - spans[workers - 1].decided_us) / 1e6
        rate = sum(sizes[workers:]) / seconds if seconds > 0 else 0.0
        return Run(rate, memory, sum(sizes))

    def say(self, what: str, figure: str, verdict: str = "") -> None:
        """Keep a line of the table, and print it at once."""
        self.rows.append((what, figure, verdict))
        print(f"{what}: {figure} {verdict}", file=sys.stderr, flush=True)


def _worker(home: Path, shard: str, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipelines.live.worker_main", str(home), "vitals", shard, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def throughput(bench: Bench, messages: int, rounds: int) -> None:
    """Clean, with bad messages, with one and two workers, against the bare loop; medians of rounds, taken in turn."""
    topic, spoilt = bench.topic(messages), bench.topic(messages, bad=0.01)
    takes: dict[str, list[float]] = defaultdict(list)
    memory = 0.0
    for _ in range(rounds):
        takes["bare"].append(bench.bare(topic, messages))
        takes["tuned"].append(bench.bare(topic, messages, gc_off=True))
        for name, of, workers in (("lane", topic, 1), ("spoilt", spoilt, 1), ("lane two", topic, 2)):
            run = bench.lane(of, workers=workers)
            assert run.messages == messages
            takes[name].append(run.rate)
            memory = max(memory, *run.memory)
        takes["bare two"].append(bench.bare(topic, messages, processes=2))
    bare, tuned, lane, some, lane_two, two = (
        statistics.median(takes[name]) for name in ("bare", "tuned", "lane", "spoilt", "lane two", "bare two")
    )
    spread = {name: f" ({min(figures):,.0f} – {max(figures):,.0f})" for name, figures in takes.items()}
    bench.say("bare loop, one process", f"{bare:,.0f}/s{spread['bare']}", "the limit")
    bench.say("bare loop, collector off", f"{tuned:,.0f}/s{spread['tuned']}", f"{tuned / bare:.0%} of the limit")
    bench.say(
        "lane, one worker, restricted zone and vault",
        f"{lane:,.0f}/s{spread['lane']}",
        f"{lane / bare:.0%} of the limit (goal 50 %)",
    )
    bench.say("bare loop, two processes", f"{two:,.0f}/s{spread['bare two']}", f"{two / bare:.0%} of one")
    bench.say("lane, two workers", f"{lane_two:,.0f}/s{spread['lane two']}", f"{lane_two / two:.0%} of two")
    bench.say("most memory of a worker", f"{memory:,.0f} MB", "goal 1,024 MB")
    for name, (one, both) in PEERS.items():
        there = [f"{figure / limit:.0%}" for figure, limit in zip((one, both), BARE_THERE, strict=True) if figure]
        bench.say(f"  {name}, elsewhere", ", ".join(there), "of the bare limit there")
    bench.say("lane, 1 % bad", f"{some:,.0f}/s{spread['spoilt']}", f"{some / lane:.0%} of clean (goal 85 %)")
    cared = bench.lane(topic, care=True)
    bench.say(
        "lane, with the online store", f"{cared.rate:,.0f}/s", f"{cared.rate / lane:.0%} of without; 1,000 patients"
    )
    count = messages // 4
    worst = bench.lane(bench.topic(count, bad=1.0))
    bench.say("lane, 100 % bad", f"{worst.rate:,.0f}/s of {worst.messages:,}", "goal 50,000/s")


def memory_by_lag(bench: Bench, small: int, large: int) -> None:
    """Memory must not grow with the backlog."""
    few, many = max(bench.lane(bench.topic(small)).memory), bench.lane(bench.topic(large)).memory
    most = max(many)
    bench.say(
        f"memory, lag {small:,} and {large:,}", f"{few:,.0f} and {most:,.0f} MB", f"{most / few - 1:+.0%} (goal ±10 %)"
    )
    first, last = (statistics.median(part) for part in (many[4 : len(many) // 4], many[-len(many) // 4 :]))
    bench.say(
        "  within the larger",
        f"{first:,.0f} MB, in the end {last:,.0f} MB",
        f"{last / first - 1:+.0%}, first to last quarter",
    )


def latency(bench: Bench, *, rate: int, seconds: float) -> None:
    """Handed to the producer → visible in the published table, as another process than the lane sees it: this one."""
    topic = f"latency-{rate}"
    admin = AdminClient({"bootstrap.servers": bench.kafka.bootstrap_servers})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result(30)
    with bench.home(topic, span_seconds=1.0) as home:
        process = _worker(home, "0of1")
        producer = Producer({"bootstrap.servers": bench.kafka.bootstrap_servers, "linger.ms": 5})
        messages = synthetic.messages(10**9, patients=1_000, seed=2)
        waits: list[float] = []
        sent_at: list[float] = []
        table, version, cpu, begin = None, -1, 0.0, 0.0
        sent, started = 0, time.time()
        while time.time() - started < seconds + 8:
            while sent < (time.time() - started) * rate:
                _, value = next(messages)
                producer.produce(topic, value, partition=sent % PARTITIONS)
                sent_at.append(time.time())
                sent += 1
            producer.poll(0)
            if not begin and time.time() - started > 8:  # after the start's backlog
                begin, cpu = time.time(), sum(psutil.Process(process.pid).cpu_times()[:2])
            if table is None:
                folder = home / "lake" / "published" / "observation"
                table = DeltaTable(str(folder)) if (folder / "_delta_log").exists() else None
                continue
            table.update_incremental()
            if table.version() != version:
                now, version = time.time(), table.version()
                if begin:
                    waits += _waits(table, now, sent_at, version=version)
            time.sleep(0.01)
        used = sum(psutil.Process(process.pid).cpu_times()[:2]) - cpu
        cores = used / (time.time() - begin)
        process.terminate()
        process.communicate(timeout=60)
    waits.sort()
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    bench.say(
        f"visible after, {rate:,}/s, 1 s spans",
        f"p50 {p50:.2f} s, p99 {p99:.2f} s, {cores:.2f} cores",
        "goals 0.6 s, 1.3 s, 0.25 cores; Spark elsewhere 1.2 s, 3.6 s, 1.35",
    )


def _waits(table: DeltaTable, now: float, sent_at: list[float], *, version: int) -> list[float]:
    """Return how long ago each row of a commit was sent; messages went to the partitions in turn."""
    folder = Path(table.table_uri.removeprefix("file://"))
    waits: list[float] = []
    for line in _log_of(table, version):
        if "add" in line:
            columns = ["source", "source_position"]
            rows = pq.read_table(folder / line["add"]["path"], columns=columns, partitioning=None)
            for source, position in zip(rows["source"].to_pylist(), rows["source_position"].to_pylist(), strict=True):
                partition = int(source.rpartition("[")[2].rstrip("]"))
                waits.append(now - sent_at[position * PARTITIONS + partition])
    return waits


def _log_of(table: DeltaTable, version: int) -> list[dict[str, dict[str, str]]]:
    path = Path(table.table_uri.removeprefix("file://")) / "_delta_log" / f"{version:020d}.json"
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def upkeep(bench: Bench, *, commits: int) -> None:
    """Compact what so many commits left, while a writer goes on and a reader counts rows all the time."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        home = Path(folder) / "home"
        init_home(home, copy_samples)
        lake = Lake(str(home / "lake"), {})
        begin(lake)
        write_spans(lake, commits, size=UPKEEP_MESSAGES)
        counted = DeltaTable(lake.published.storage.uri)
        started, looks, spans = time.time(), 0, commits
        process = subprocess.Popen(
            [sys.executable, "-m", "vitalake", "lake", "compact", "--home", str(home), "--json"],
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None:
            write_spans(lake, 1, size=UPKEEP_MESSAGES, start=spans * UPKEEP_MESSAGES)
            spans += 1
            counted.update_incremental()
            rows = counted.to_pyarrow_dataset().count_rows()
            assert rows == spans * (UPKEEP_MESSAGES - 1), "readers saw other rows"
            looks += 1
        assert process.returncode == 0
        seconds, during = time.time() - started, spans - commits
        for name, table in lake.present().items():
            table.refresh()
            files = table.snapshot().files
            merged = sum("rewrite." in path for path in files)
            beside = f"and {len(files) - merged} files of {during} commits beside it"
            bench.say(f"compaction, {name}", f"{commits:,} files → {merged}", beside)
        bench.say("compaction, all of it", f"{seconds:.1f} s", f"the same rows in each of {looks} looks")


def main() -> int:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--backlog", type=int, default=8_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["throughput", "memory", "latency", "upkeep", "patients", "rewrites"])
    given = parser.parse_args()
    if why := why_not():
        print(f"Kafka cannot be started: {why}", file=sys.stderr)
        return 14
    with tempfile.TemporaryDirectory(prefix="vitalake-bench-") as folder:
        (Path(folder) / "kafka").mkdir()
        kafka = KafkaServer(Path(folder) / "kafka", java=LASTING).start()
        try:
            bench = Bench(kafka, Path(folder))
            if given.only in (None, "throughput"):
                throughput(bench, given.messages, given.rounds)
            if given.only in (None, "memory"):
                memory_by_lag(bench, 100_000, given.backlog)
            if given.only in (None, "latency"):
                latency(bench, rate=5_000, seconds=30.0)
            if given.only in (None, "upkeep"):
                upkeep(bench, commits=3_600)
            if given.only in (None, "patients"):
                identified.first_sight(bench.say)
            if given.only in (None, "rewrites"):
                identified.rewrites(bench.say)
        finally:
            kafka.stop()
    table = Table("what", "figure", "ratio", title="the live lane")
    for row in bench.rows:
        table.add_row(*row)
    Console(width=130).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
