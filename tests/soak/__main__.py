"""Half an hour of everything at once, and what has grown: ``make soak``, ``MINUTES=`` for another time.

A stream with its attributor and upkeep, devices some of which misbehave, a server with open boards, scores and
queries; each in processes of their own. Printed are the figures at the start (after a warm-up), in the middle and at
the end, and of each whether it is flat, or what bounds it. What ought to be flat and is not ends it with 1; so does
what grows faster and faster, for of what a longer window bounds no more can be seen than that it grows evenly.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import yaml

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.simulator.broker import EmbeddedBroker
from tests.services.kafka import free_port
from tests.services.waiting import until
from tests.soak.sampling import PROCESS_FIGURES, sample

RATE = 200
"""Messages a second; two cores carry it beside twenty boards."""

BOARDS = 20
QUERY_SECONDS = 20.0
UPKEEP_SECONDS = 60.0
SAMPLE_SECONDS = 5.0

WARM_UP = 0.2
"""Share of the time before the start is read: pools, caches and allocators fill."""

_ASSOCIATION = "--device bed:S/1/1 --patient soak-1 --encounter soak-1 --from 2026-01-01T00:00:00Z"

FLAT = 1.10
SLACK = {"threads": 8.0, "descriptors": 16.0, "memory MB": 64.0}
"""From the middle to the end a flat figure grows by no more than a tenth and this."""

FLAT_FILES = {": files": 2.5 * UPKEEP_SECONDS, "write-ahead log MB": 16.0, "vault.db: MB": 1.0}
"""End of a figure's name → by how much it may differ: small files between two upkeeps, a commit a second each; a log
between two checkpoints of SQLite; a handful of patients."""

EVENLY = 1.25
"""How much faster the others may grow in the second half than in the first, and this many of them besides."""
EVENLY_SLACK = 30.0

BOUNDS = {
    "spans-seen: files on disk": "the look-back, an hour by default, and a sweep",
    ": files": "compaction, at 8 small ones a day and table, looked for every {upkeep} s here",
    ": files on disk": "a week: replaced files stay so long for readers of older versions",
    ": log entries": "two hours of single commits, then checkpoints",
    "care.db: MB": "care.hours of values, 54 by default",
    "scores.db: MB": "its days of scores",
    "write-ahead log MB": "SQLite's checkpoints",
    "audit: MB": "nothing: it is kept",
    "vault.db: MB": "the number of patients and devices",
}
"""End of a figure's name → what bounds it; the first that fits."""


def main() -> int:
    """Run it; return 1 when something has grown that must not."""
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args().minutes
    samples: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="vitalake-soak-") as folder, EmbeddedBroker() as broker:
        home = Path(folder) / "home"
        with _running(home, broker.bootstrap_servers) as root:
            end = time.monotonic() + minutes * 60
            pause = threading.Event()
            while time.monotonic() < end:
                pause.wait(SAMPLE_SECONDS)
                samples.append(sample(root, home))
        ledger = subprocess.run(_vitalake("ledger", home), capture_output=True, text=True, check=False)
    grown = report(samples)
    print(ledger.stdout)
    for name in grown:
        print(f"grew: {name}")
    return 1 if grown or ledger.returncode else 0


def _vitalake(command: str, home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "vitalake", *command.split(), *arguments, "--home", str(home)]


@contextmanager
def _running(home: Path, bootstrap: str) -> Iterator[psutil.Process]:
    """Start everything; give the process below which it all runs."""
    port = free_port()
    init_home(home, copy_samples)
    document = {
        "kafka": {"bootstrap_servers": bootstrap},
        "jobs": {"vitals": {"topics": {"vitals": "fhir"}}},
        "serving": {"port": port},
        "observability": {"port": 0},
        "maintenance": {"every_seconds": UPKEEP_SECONDS},
    }
    (home / "vitalake.yaml").write_text(yaml.safe_dump(document))
    with ExitStack() as stack:
        quiet = stack.enter_context((home / "soak.log").open("ab"))
        started: list[subprocess.Popen[bytes]] = []

        def run(*arguments: str) -> None:
            process = subprocess.Popen(_vitalake(arguments[0], home, *arguments[1:]), stdout=quiet, stderr=quiet)
            started.append(process)
            stack.callback(_end, process)

        run("simulate", "--source", "synthetic", "--rate", str(RATE), "--patients", "200")
        until(lambda: _topic_is_there(bootstrap))
        run("stream", "--no-view")
        # From here on an attributor looks every second.
        subprocess.run(
            _vitalake("devices associate", home, *_ASSOCIATION.split()),
            check=True,
            stdout=quiet,
            stderr=quiet,
        )
        run("serve")
        stop = threading.Event()
        readers = threading.Thread(target=_read, args=(home, port, stop), daemon=True)
        readers.start()
        stack.callback(readers.join, 30)
        stack.callback(stop.set)
        yield psutil.Process(os.getpid())
        assert [process.poll() for process in started] == [None] * len(started), "something has ended by itself"


def _topic_is_there(bootstrap: str) -> bool:
    from confluent_kafka.admin import AdminClient

    return "vitals" in AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=5).topics


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def _read(home: Path, port: int, stop: threading.Event) -> None:
    """Keep boards open, and ask in SQL now and then."""
    token = subprocess.run(_vitalake("token", home, "clinician"), capture_output=True, text=True, check=True).stdout
    address = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=address, headers={"authorization": f"Bearer {token.strip()}"}, timeout=30)
    until(lambda: _answers(client))
    boards = [threading.Thread(target=_board, args=(client, stop), daemon=True) for _ in range(BOARDS)]
    for board in boards:
        board.start()
    while not stop.wait(QUERY_SECONDS):
        subprocess.run(
            [*_vitalake("sql", home), "SELECT count(*) AS n FROM observation"], check=False, capture_output=True
        )


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _board(client: httpx.Client, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with client.stream("GET", "/board/events", timeout=None) as answer:
                for _ in answer.iter_raw():
                    if stop.is_set():
                        return
        except httpx.HTTPError:
            stop.wait(1)


def report(samples: list[dict[str, float]]) -> list[str]:
    """Print every figure at start, middle and end; return the names of those that ought to be flat and are not."""
    first, middle, last = (_around(samples, share) for share in (WARM_UP, 0.5, 1.0))
    print(f"{'':<36} {'start':>10} {'middle':>10} {'end':>10}")
    grown = []
    for name in sorted(last):
        figures = [found.get(name, 0.0) for found in (first, middle, last)]
        kind = name.rpartition(": ")[2]
        bound = next((why for word, why in BOUNDS.items() if name.endswith(word)), "").format(
            upkeep=int(UPKEEP_SECONDS)
        )
        slack = (
            SLACK[kind]
            if kind in PROCESS_FIGURES
            else next((n for w, n in FLAT_FILES.items() if name.endswith(w)), None)
        )
        if slack is not None:
            steady, said = figures[2] <= FLAT * figures[1] + slack, "flat"
        else:
            early, late = (figures[1] - figures[0]) / (0.5 - WARM_UP), (figures[2] - figures[1]) / 0.5
            steady, said = late <= EVENLY * early + EVENLY_SLACK, "even"
        grown += [] if steady else [name]
        bound = f"{said if steady else 'GROWS'}{': ' + bound if bound else ''}"
        print(f"{name:<36} {figures[0]:>10,.1f} {figures[1]:>10,.1f} {figures[2]:>10,.1f}  {bound}")
    return grown


def _around(samples: list[dict[str, float]], share: float) -> dict[str, float]:
    """Return the least of each figure in five samples that end at a share of the time: peaks say nothing of growth."""
    end = max(1, round(share * len(samples)))
    some = samples[max(0, end - 5) : end]
    return {name: min(found[name] for found in some if name in found) for name in {n for found in some for n in found}}


if __name__ == "__main__":
    sys.exit(main())
