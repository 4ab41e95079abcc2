"""A lane under test: its home, its topic, its worker processes, and what the lake holds afterwards."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable

from pipelines.live.status import StatusLine
from tests import forking
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.unlinkable.message_tokens import MessageTokens, in_clear, without_partitions
from vitalake.settings import load_settings


@dataclass
class LaneUnderTest:
    """One home on one topic of a real broker."""

    home: Path
    bootstrap: str
    topic: str
    partitions: int = 2
    job: str = "vitals"
    sent: int = 0
    options: dict[str, object] = field(default_factory=dict)

    def configure(self, **stream: object) -> None:
        """Write the configuration; ``stream`` are settings of the job."""
        self.options |= stream
        document = {
            "kafka": {"bootstrap_servers": self.bootstrap},
            "jobs": {self.job: {"topics": {self.topic: "fhir"}, **self.options}},
            "observability": {"port": 0},
        }
        (self.home / "vitalake.yaml").write_text(yaml.safe_dump(document))

    def create_topic(self) -> None:
        """Make the topic."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.create_topics([NewTopic(self.topic, self.partitions, 1)]).values():
            future.result(20)

    def delete_topic(self) -> None:
        """Delete the topic."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.delete_topics([self.topic]).values():
            future.result(20)

    def send(self, payloads: Iterable[bytes | None], *, partition: int | None = None) -> None:
        """Send messages, spread over the partitions in turn, and wait until the broker has them."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5})
        for payload in payloads:
            target = self.sent % self.partitions if partition is None else partition
            while True:
                try:
                    producer.produce(self.topic, payload, partition=target)
                    break
                except BufferError:
                    producer.poll(0.1)
            self.sent += 1
        assert producer.flush(30) == 0

    def start(
        self,
        *,
        shard: str = "0of1",
        idle: float | None = 1.0,
        env: dict[str, str] | None = None,
        extra: Iterable[str] = (),
        forked: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a worker process; in a fork only if nobody kills it from outside."""
        arguments = [str(self.home / "vitalake.yaml"), self.job, shard]
        arguments += ["--until-idle", str(idle)] if idle else []
        module = "pipelines.live.worker_main"
        command = (
            forking.command(module, *arguments, kind="worker") if forked else [sys.executable, "-m", module, *arguments]
        )
        return subprocess.Popen(
            [*command, *extra],
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @staticmethod
    def status(process: subprocess.Popen[bytes]) -> StatusLine:
        """Return what a worker says next of its state."""
        assert process.stdout is not None
        return msgspec.json.decode(process.stdout.readline(), type=StatusLine)

    def run(self, *, expect: int = 0, **arguments: object) -> str:
        """Run a worker to its end and return what it wrote to standard error."""
        process = self.start(forked=True, **arguments)  # type: ignore[arg-type]
        try:
            _, errors = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        assert process.returncode == expect, errors.decode()[-3000:]
        return errors.decode()

    # -- what the lake holds -------------------------------------------------------------------------------------

    @property
    def lake(self) -> Lake:
        """The lake, opened afresh."""
        settings = load_settings(self.home)
        return Lake(settings.lake_uri, settings.storage_options)

    def published(self) -> pa.Table:
        """Return the published rows as any engine sees them."""
        return DeltaTable(str(self.home / "lake" / "published" / "observation")).to_pyarrow_table()

    def positions(self, zone: str = "published") -> collections.Counter[tuple[str, int]]:
        """Return how often each message's row is in a zone; messages by their tokens, as they are published."""
        folder = self.home / "lake" / zone / "observation"
        table = DeltaTable(str(folder)).to_pyarrow_table(columns=["source", "source_position"]).combine_chunks()
        sources, positions = (pa.concat_arrays(table[name].chunks) for name in table.schema.names)
        if zone == "restricted":
            assert in_clear(positions) == table.num_rows
            settings = load_settings(self.home)
            positions = MessageTokens(load_keys(settings.path(settings.keys)).current("message").secret)(
                sources, positions
            )
            sources = without_partitions(sources)
        assert not in_clear(positions)
        return collections.Counter(zip(sources.to_pylist(), positions.to_pylist(), strict=True))

    def ledger(self) -> dict[str, object]:
        """Return the ledger's summary."""
        return summarise(self.lake.spans).to_json()

    def assert_exactly_once(self, expected: int) -> None:
        """Assert that every message's row is there once, in both zones, and that the ledger says the same."""
        counts = self.positions()
        assert self.positions("restricted") == counts
        doubled = {position: n for position, n in counts.items() if n != 1}
        assert not doubled
        assert len(counts) == expected
        ledger = self.ledger()
        assert ledger["balanced"] is True
        assert ledger["published"] == expected
        assert ledger["messages"] == self.sent
