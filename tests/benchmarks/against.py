"""What the live lane costs a message, against another commit: ``python -m tests.benchmarks.against COMMIT``.

Rounds of both alternate on the same topic of one real Kafka, and each ratio is of two runs that follow each other, so a
machine whose speed drifts does not matter. Counted is the worker's processor time (user and system), without what a
worker spends on a topic of one message: imports and the opening of the lake. These take longer than 150,000 messages,
and vary by as much as the difference that is looked for: with so few, two equal commits had ratios from 0.67 to 1.55.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from scipy import stats

from tests.benchmarks.live import Bench
from tests.services.kafka import LASTING, KafkaServer, why_not

ROOT = Path(__file__).parents[2]
GOAL = 1.05


def main() -> int:
    """Print the ratio and its interval; return 1 where the interval does not lie below the goal."""
    parser = argparse.ArgumentParser(prog="against")
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--messages", type=int, default=800_000)
    given = parser.parse_args()
    if why := why_not():
        print(why)
        return 14
    with tempfile.TemporaryDirectory(prefix="vitalake-against-") as name:
        folder = Path(name)
        other = folder / "other"
        (folder / "kafka").mkdir()
        subprocess.run(["git", "worktree", "add", "--detach", str(other), given.commit], cwd=ROOT, check=True)
        kafka = KafkaServer(folder / "kafka", java=LASTING).start()
        try:
            return _compare(Bench(kafka, folder), other, rounds=given.rounds, messages=given.messages)
        finally:
            kafka.stop()
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)


def _compare(bench: Bench, other: Path, *, rounds: int, messages: int) -> int:
    topics = [bench.topic(count, 0.01) for count in (1, messages)]
    ratios = []
    for number in range(rounds + 1):
        ours, theirs = (
            (_seconds(bench, topics[1], code) - _seconds(bench, topics[0], code)) / messages * 1e6
            for code in (ROOT, other)
        )
        print(f"{ours:.2f} µs a message, against {theirs:.2f}: {ours / theirs:.3f}", flush=True)
        if number:  # the first one fills the caches of the disk
            ratios.append(ours / theirs)
    # Of logarithms: the mean of ratios is above 1 for two equal commits, and more so the noisier the machine is.
    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.mean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / len(logs) ** 0.5
    low, ratio, high = (math.exp(value) for value in (middle - half, middle, middle + half))
    print(f"ratio {ratio:.3f} ({low:.3f} to {high:.3f}), geometric mean; goal: below {GOAL}")
    return int(high >= GOAL)


def _seconds(bench: Bench, topic: str, code: Path) -> float:
    """Return the processor time of one worker of this code that reads a topic to its end."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        home, environment = Path(folder) / "home", os.environ | {"PYTHONPATH": str(code)}
        # By its own command: an earlier release does not know every file that a home has today.
        init = [sys.executable, "-m", "vitalake", "init", "--home", str(home)]
        subprocess.run(init, cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL)
        document = {
            "kafka": {"bootstrap_servers": bench.kafka.bootstrap_servers},
            "jobs": {"vitals": {"topics": {topic: "fhir"}, "span_seconds": 5.0, "care": False}},
        }
        (home / "vitalake.yaml").write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "pipelines.live.worker_main", str(home / "vitalake.yaml"), "vitals", "0of1"]
        process = subprocess.Popen(
            [*command, "--until-idle", "1"],
            cwd=code,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, f"the worker of {code.name} ended with {status}"
        return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
