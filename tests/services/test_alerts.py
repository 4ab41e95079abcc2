"""A stream that rejects too much says so, once, to a real receiver; and once that it is over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import yaml

from tests.fhir import message
from tests.services.lane import LaneUnderTest
from tests.services.waiting import until


def test_a_stream_tells_of_its_dead_letters(
    home: Path, embedded_broker: str, topic_name: str, receiver: tuple[str, list[dict[str, str]]]
) -> None:
    address, received = receiver
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_seconds=0.2)
    document = yaml.safe_load((home / "vitalake.yaml").read_text())
    document |= {"notify": ["file:address"], "alerts": {"window_seconds": 1.0, "min_messages": 20}}
    (home / "vitalake.yaml").write_text(yaml.safe_dump(document))
    (home / "address").write_text(address)
    lane.create_topic()
    unknown = {"coding": [{"system": "http://loinc.org", "code": "99999-5"}]}
    stream = subprocess.Popen(
        [sys.executable, "-m", "vitalake", "stream", "--home", str(home), "--no-view", "--json"],
        env=os.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with stream:
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
