"""The whole way, measured in one run: ``make bench-way``. Prints a table of figures beside the goals.

Each part runs what people run: commands in processes of their own, a real browser, the embedded broker.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from governance.home import init_home
from governance.samples import copy_samples
from models.tasks import load_task
from tests.benchmarks.way_boards import boards
from tests.benchmarks.way_serving import board, demo_start, scores
from vitalake import clock
from vitalake.clinical.records import History, Stay, code_number

VITALS = ("8867-4", "9279-1", "2708-6", "8480-6", "8462-4", "8310-5")
DATA = Path(__file__).parents[3] / "shared" / "data"
ROUNDS = 300


class Bench:
    """Figures so far, in a folder that goes away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def home(self, name: str) -> Path:
        """Return a new home."""
        home = self.folder / name
        init_home(home, copy_samples)
        return home

    def say(self, what: str, figure: str, goal: str) -> None:
        """Print a line of the table."""
        print(f"{what:<58} {figure:<44} goal: {goal}", flush=True)


def features(bench: Bench) -> None:
    """A patient's features from a day of minute vital signs: the kernel alone, and from the store's sealed blocks."""
    task = load_task("mortality")
    now = clock.now_us()
    history = day_of_vitals(now)
    stay = Stay("e", now - 86_400_000_000, None, 67.0, "female", "MICU", "")
    kernel = _times(lambda: task.vector(history, stay, as_of_us=now))
    bench.say("features of 24 h of 6 vital signs a minute", _ms(kernel), "2 ms")


def day_of_vitals(now_us: int) -> History:
    """Return 8,640 values: six codes, each minute of the last day."""
    minutes = np.repeat(np.arange(1440), len(VITALS))
    at = now_us - 86_400_000_000 + (minutes + 1) * 60_000_000 - 1
    codes = np.tile(np.array([code_number(code) for code in VITALS], np.uint32), 1440)
    value = np.random.default_rng(0).normal(80, 10, len(codes))
    return History(codes, value, at, at)


def history(bench: Bench) -> None:
    """The MIMIC demo, and CinC 2012 where its files are."""
    seconds, used, summary = _measured(["history", "load", "mimic-demo"], bench.home("mimic"))
    bench.say("MIMIC demo loaded and published", f"{seconds:.1f} s, {used:,.0f} MB, {summary['rows']:,} rows", "30 s")
    if not (DATA / "cinc2012_set_a.parquet").exists():
        bench.say("CinC 2012 loaded and published", "not measured: its files are not there", "120 s, 2,048 MB")
        return
    command = ["history", "load", "cinc-2012", "--data", str(DATA)]
    seconds, used, summary = _measured(command, bench.home("cinc"))
    figure = f"{seconds:.1f} s, {used:,.0f} MB, {summary['rows']:,} rows"
    bench.say("CinC 2012 loaded and published", figure, "120 s, 2,048 MB")


def _measured(arguments: list[str], home: Path) -> tuple[float, float, dict[str, Any]]:
    """Return the seconds and the most memory (MB) of a command, as the operating system counts them, and its JSON."""
    command = [sys.executable, "-m", "vitalake", *arguments, "--home", str(home), "--json"]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return time.monotonic() - began, usage.ru_maxrss / 1024, msgspec.json.decode(output.splitlines()[-1])


def _times(call: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1000)
    return found


def _ms(found: list[float]) -> str:
    return f"p50 {statistics.median(found):.2f} ms, p99 {sorted(found)[int(len(found) * 0.99)]:.2f} ms"


PARTS: dict[str, Callable[[Bench], None]] = {
    "features": features,
    "history": history,
    "scores": scores,
    "board": board,
    "boards": boards,
    "demo": demo_start,
}


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name, part in PARTS.items():
            if given.only in (None, name):
                part(bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
