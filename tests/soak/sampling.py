"""What a running home uses: its processes' threads, descriptors and memory, its files, log entries and databases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil

_ROLES = {
    "pipelines.live.worker_main": "worker",
    "pipelines.attribution.beside": "attributor",
    "stream": "supervisor",
    "serve": "server",
}
"""A word of the command line → what the process is; the upkeep and SQL's sandboxes come and go."""

PROCESS_FIGURES = ("threads", "descriptors", "memory MB")


def sample(root: psutil.Process, home: Path) -> dict[str, float]:
    """Return every figure by its name, of the processes below ``root`` and the files below ``home``."""
    return _of_processes(root) | _of_files(home)


def _of_processes(root: psutil.Process) -> dict[str, float]:
    figures: Counter[str] = Counter()
    for process in root.children(recursive=True):
        try:
            role = next((role for word, role in _ROLES.items() if word in process.cmdline()), None)
            if role is None:
                continue
            used = (process.num_threads(), process.num_fds(), process.memory_info().rss / 1e6)
        except psutil.Error:  # it has ended meanwhile
            continue
        for name, value in zip(PROCESS_FIGURES, used, strict=True):
            figures[f"{role}: {name}"] += value  # type: ignore[assignment]
    return dict(figures)


def _of_files(home: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    lake = home / "lake"
    for zone in sorted(path for path in lake.iterdir() if path.is_dir()):
        paths = [path for path in zone.rglob("*") if path.is_file()]
        logs = [path for path in paths if "_delta_log" in path.parts]
        figures[f"{zone.name}: Parquet files"] = sum(p.suffix == ".parquet" for p in paths) - sum(
            p.suffix == ".parquet" for p in logs
        )
        figures[f"{zone.name}: log entries"] = len(logs)
    for database in sorted(home.glob("*.db")):
        figures[f"{database.name}: MB"] = _size(database)
        figures[f"{database.name}: write-ahead log MB"] = _size(database.with_name(f"{database.name}-wal"))
    figures["audit: MB"] = sum(map(_size, (home / "audit").rglob("*")))
    return figures


def _size(path: Path) -> float:
    try:
        return path.stat().st_size / 1e6
    except FileNotFoundError:  # it went away between two looks
        return 0.0
