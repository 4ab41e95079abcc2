"""The commands that start the broker and the devices, called as users call them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pipelines.simulator.broker import EmbeddedBroker
from pipelines.simulator.faults import FAULTS

ROOT = Path(__file__).parents[4]
VITALAKE = (sys.executable, "-c", "from vitalake.command import run; run()")


def vitalake(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VITALAKE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with EmbeddedBroker() as broker:
        (folder / "vitalake.yaml").write_text(f"kafka: {{bootstrap_servers: '{broker.bootstrap_servers}'}}\n")
        yield folder


def test_simulate_prints_one_object_that_adds_up(home: Path) -> None:
    done = vitalake("simulate", "--home", str(home), "--source", "synthetic", "--rate", "0", "--count", "900", "--json")
    assert done.returncode == 0, done.stderr
    summary = msgspec.json.decode(done.stdout)
    assert summary["messages"] == 900
    assert set(summary["faults"]) == set(FAULTS)
    assert summary["tombstones"] == summary["faults"]["tombstone"]


def test_simulate_for_people_names_every_fault(home: Path) -> None:
    done = vitalake("simulate", "--home", str(home), "--rate", "0", "--hours", "2", "--faults", "0.5")
    assert done.returncode == 0, done.stderr
    assert " messages of " in done.stdout
    assert all(fault in done.stdout for fault in FAULTS)


def test_simulate_ends_with_its_summary_on_sigterm(home: Path) -> None:
    command = [*VITALAKE, "simulate", "--home", str(home), "--source", "synthetic", "--topic", "term", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        from pipelines.simulator.broker import ensure_topic
        from tests.unit.pipelines.simulator.test_simulator_replay import records
        from vitalake.settings import load_settings

        bootstrap = load_settings(home).kafka.bootstrap_servers
        ensure_topic(bootstrap, "term", 4)
        assert len(records(bootstrap, "term", 1, most=1)) == 1  # it sends
        running.send_signal(signal.SIGTERM)
        printed, _ = running.communicate(timeout=40)
    assert running.returncode == 0
    assert msgspec.json.decode(printed)["messages"] > 0


def test_two_paces_end_with_the_exit_code_of_settings(home: Path) -> None:
    done = vitalake("simulate", "--home", str(home), "--rate", "1", "--speed", "2")
    assert done.returncode == 10
    assert "--rate and --speed" in done.stderr
    assert "Traceback" not in done.stderr


def test_home_without_configuration_ends_with_the_exit_code_of_settings(tmp_path: Path) -> None:
    done = vitalake("simulate", "--home", str(tmp_path))
    assert done.returncode == 10
    assert "vitalake init" in done.stderr


def test_unreachable_broker_ends_with_the_exit_code_of_services(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = vitalake("simulate", "--home", str(home), "--source", "synthetic", "--bootstrap-servers", address)
    assert done.returncode == 14
    assert address in done.stderr


def test_broker_start_says_where_it_is_and_ends_on_sigint() -> None:
    command = [*VITALAKE, "broker", "start", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        port = int(msgspec.json.decode(running.stdout.readline())["bootstrap_servers"].partition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 5):
            running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_broker_on_a_taken_port_ends_with_the_exit_code_of_settings() -> None:
    with EmbeddedBroker() as broker:
        done = vitalake("broker", "start", "--port", str(broker.port))
    assert done.returncode == 10
    assert "--port" in done.stderr
