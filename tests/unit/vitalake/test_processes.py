"""Processes end with the one that started them, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import vitalake
from tests.services.waiting import until
from vitalake.processes import python_module

pytestmark = pytest.mark.slow

_CHILD = """
import signal, sys, time
from vitalake.processes import end_with_parent
supervised = end_with_parent()
if "orderly" in sys.argv:
    def finish(*_):
        open(sys.argv[2], "w").close()
        sys.exit(0)
    signal.signal(signal.SIGTERM, finish)
print(supervised, flush=True)
while True:
    time.sleep(60)
"""

_COMMAND = "from vitalake.command import run; print(flush=True); run()"

_SIGNALLED = """
import os, signal, sys
from vitalake.command import run
real, number, calls = signal.signal, int(sys.argv.pop(1)), int(sys.argv.pop(1))
def signalled(*arguments):
    global calls
    calls -= 1
    before = real(*arguments)
    if calls == 0:
        os.kill(os.getpid(), number)
    return before
signal.signal = signalled
run()
"""

_PARENT = """
import subprocess, sys, time
from vitalake.processes import start
child = start([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], stdout=subprocess.PIPE, stderr=None)
print(child.pid, flush=True)
if "now" not in sys.argv:
    print(child.stdout.readline().decode().strip(), flush=True)
while True:
    time.sleep(60)
"""


def _parent(*arguments: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    command = [sys.executable, "-c", _PARENT, _CHILD, *arguments]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, psutil.Process(int(parent.stdout.readline()))


def _is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_child_finishes_what_it_holds_when_its_parent_is_killed(tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    parent, child = _parent("orderly", str(finished))
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "True"
    assert not _is_gone(child)
    parent.kill()
    parent.wait()
    until(lambda: _is_gone(child))
    assert finished.exists()


def test_a_child_ends_whose_parent_was_killed_before_it_could_look() -> None:
    parent, child = _parent("now")
    child.suspend()
    parent.kill()
    parent.wait()
    child.resume()
    until(lambda: _is_gone(child))


def test_a_process_without_such_a_parent_stays() -> None:
    process = subprocess.Popen([sys.executable, "-c", _CHILD], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "False"
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.0])
def test_a_signal_ends_the_command_without_a_traceback_from_its_first_moment_on(
    home: Path, number: signal.Signals, seconds: float
) -> None:
    environment = os.environ | {"VITALAKE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "stream", "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.readline()  # Python itself is up, and the command's first module
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process.send_signal(number)  # the second one ends what waits for a broker
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, 128 + number), errors.decode()
    assert b"Traceback" not in errors
    assert b"bug" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("calls", [2, 3, 4, 5, 6])
def test_a_signal_between_two_ways_of_answering_it_leaves_no_traceback(number: signal.Signals, calls: int) -> None:
    """Ctrl-C between Python's own handler and the command's ``try`` was told as a bug of ours."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, str(int(number)), str(calls), "--version"], capture_output=True, check=False
    )
    assert done.returncode == 128 + number, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"bug" not in done.stderr


def test_a_child_imports_nothing_from_the_directory_in_which_we_stand(tmp_path: Path) -> None:
    """A file ``hl7.py`` that lay there was run by every worker, in the place of the library."""
    ran = tmp_path / "ran"
    for stray in ("hl7", "msgspec", "confluent_kafka", "pipelines"):
        (tmp_path / f"{stray}.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemExit(7)\n")
    for module in ("pipelines.live.worker_main", "pipelines.live.upkeep", "pipelines.reconcile.sidecar"):
        done = subprocess.run(python_module(module), cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode != 7
        assert not ran.exists(), module


def test_every_child_is_started_so() -> None:
    root = Path(vitalake.__file__).parents[1]
    for package in ("vitalake", "governance", "pipelines", "models"):
        for path in (root / package).rglob("*.py"):
            for line in path.read_text().splitlines():
                if "[sys.executable" in line:
                    assert '"-I"' in line or '"-P"' in line, f"{path.name}: {line.strip()}"


def test_a_command_whose_standard_output_was_closed_ends_well() -> None:
    """Begun by what closes its descriptors, a stream that had ended well said that it had not."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m vitalake --version >&-', sys.executable], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
