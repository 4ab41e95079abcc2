"""A stream notifies real receivers: of what it rejects, that this is over, and that the stream itself has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import msgspec
import psutil
import pytest
import yaml

from tests.fhir import message
from tests.services.kafka import free_port
from tests.services.lane import LaneUnderTest
from tests.services.waiting import until
from vitalake.errors import PrivacyError


def configured(home: Path, broker: str, topic: str, *addresses: str, **more: object) -> LaneUnderTest:
    """Return a lane whose home notifies these addresses."""
    lane = LaneUnderTest(home, broker, topic)
    lane.configure(span_seconds=0.2)
    document = yaml.safe_load((home / "vitalake.yaml").read_text())
    document |= {"notify": [f"file:address-{i}" for i in range(len(addresses))], **more}
    (home / "vitalake.yaml").write_text(yaml.safe_dump(document))
    for i, address in enumerate(addresses):
        (home / f"address-{i}").write_text(address)
    lane.create_topic()
    return lane


@contextmanager
def streaming(
    home: Path, *arguments: str, errors: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a stream, until the end of the block at the latest."""
    command = [sys.executable, "-m", "vitalake", "stream", "--home", str(home), "--no-view", "--json", *arguments]
    with subprocess.Popen(
        command, env=os.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
    ) as stream:
        try:
            yield stream
        finally:
            stream.kill()


def worker_of(stream: subprocess.Popen[bytes]) -> psutil.Process | None:
    """Return the worker process of a stream; None: none runs."""
    for process in psutil.Process(stream.pid).children():
        with suppress(psutil.Error):
            if "pipelines.live.worker_main" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process
    return None


def test_a_stream_tells_of_its_dead_letters(
    home: Path, embedded_broker: str, topic_name: str, receiver: tuple[str, list[dict[str, str]]]
) -> None:
    address, received = receiver
    alerts = {"window_seconds": 1.0, "min_messages": 20}
    lane = configured(home, embedded_broker, topic_name, address, alerts=alerts)
    unknown = {"coding": [{"system": "http://loinc.org", "code": "99999-5"}]}
    with streaming(home) as stream:
        lane.send(message(0, patient="p-zzmarker") for _ in range(1))
        until(lambda: (home / "lake" / "spans").exists(), process=stream)
        lane.send(message(i, patient="p-zzmarker", code=unknown) for i in range(1, 60))
        until(lambda: len(received) == 1, process=stream)
        lane.send(message(i, patient="p-zzmarker") for i in range(100, 2_100))
        until(lambda: len(received) == 2, process=stream)
        stream.terminate()
        out, _ = stream.communicate(timeout=60)
    assert msgspec.json.decode(out)["rejected"] == 59
    assert "rejects" in received[0]["title"]
    assert "unknown-code" in received[0]["message"]
    assert "docs/how-to/dead-letters.md" in received[0]["message"]
    assert "takes its rows again" in received[1]["title"]
    assert "zzmarker" not in str(received).lower()


def test_a_stream_waits_for_no_address_that_never_ends_its_answer(
    home: Path,
    tmp_path: Path,
    embedded_broker: str,
    topic_name: str,
    dripping_receiver: str,
    receiver: tuple[str, list[dict[str, str]]],
) -> None:
    """A killed worker was started again after two minutes, and the stream had not ended two minutes after Ctrl-C."""
    address, received = receiver
    alerts = {"window_seconds": 1.0, "min_messages": 20}
    lane = configured(home, embedded_broker, topic_name, dripping_receiver, address, alerts=alerts)
    unknown = {"coding": [{"system": "http://loinc.org", "code": "99999-5"}]}
    log = tmp_path / "log"
    with log.open("wb") as errors, streaming(home, errors=errors) as stream:
        lane.send([message(0)])
        until(lambda: (home / "lake" / "spans").exists(), process=stream)
        lane.send(message(i, code=unknown) for i in range(1, 60))
        until(lambda: len(received) == 1, process=stream)
        killed = worker_of(stream)
        assert killed is not None
        killed.kill()
        until(lambda: worker_of(stream) not in (None, killed), seconds=5, process=stream)
        stream.send_signal(signal.SIGINT)
        began = time.monotonic()
        stream.communicate(timeout=60)
        assert time.monotonic() - began < 30, "the worker's end, and five seconds for the addresses"
    assert stream.returncode == 0
    lines = [msgspec.json.decode(line) for line in log.read_bytes().splitlines()]
    lost = [line for line in lines if line["event"] == "notifications were not delivered before the stream ended"]
    assert [(line["where"], line["count"]) for line in lost] == [("notify[0]", 1)]
    assert "rejects" in lost[0]["what"]
    assert dripping_receiver not in log.read_text()


def test_a_stream_whose_worker_is_killed_again_and_again_says_so_and_when_it_goes_on(
    home: Path, embedded_broker: str, topic_name: str, receiver: tuple[str, list[dict[str, str]]]
) -> None:
    """As the system does when memory runs out: the lane was said to be starting, for ever."""
    address, received = receiver
    lane = configured(home, embedded_broker, topic_name, address, notify_when={"pause": {"patience_seconds": 1.0}})

    def killed_until_notified() -> bool:
        worker = worker_of(stream)
        if worker is not None:
            worker.kill()
        return bool(received)

    with streaming(home) as stream:
        lane.send([message(0)])
        until(lambda: (home / "lake" / "spans").exists(), process=stream)
        until(killed_until_notified, process=stream)
        until(lambda: len(received) == 2, process=stream)
        stream.terminate()
        out, _ = stream.communicate(timeout=60)
    waits, goes_on = received
    assert waits["title"] == "vitalake: vitals waits"
    assert "times in a row, the last time by SIGKILL; starting again" in waits["message"]
    assert goes_on["title"] == "vitalake: vitals goes on"
    assert "Nothing was lost" not in goes_on["message"]
    assert msgspec.json.decode(out)["published"] == 1


def test_a_stream_that_ends_for_good_says_so_and_why(
    home: Path,
    embedded_broker: str,
    topic_name: str,
    receiver: tuple[str, list[dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody was told that a lane has ended, at best that it waits."""
    address, received = receiver
    lane = configured(home, embedded_broker, topic_name, address)
    port = free_port()
    monkeypatch.setenv("VITALAKE_OBSERVABILITY__PORT", str(port))

    def runs() -> bool:
        with suppress(httpx.ConnectError):
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        return False

    with streaming(home, "--until-idle", "8s") as stream:
        lane.send([message(0)])
        until(runs, process=stream)
        (home / "governance" / "limited-data-set.yaml").write_text("rules: [")
        worker = worker_of(stream)
        assert worker is not None
        worker.kill()
        stream.communicate(timeout=60)
    assert stream.returncode == PrivacyError.exit_code
    assert received[-1]["title"] == "vitalake: vitals has ended"
    assert "limited-data-set.yaml" in received[-1]["message"]
    assert "vitalake: vitals goes on" not in [got["title"] for got in received]
