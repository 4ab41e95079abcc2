"""What a running home uses: its processes' threads, descriptors and memory, its files, log entries and databases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil
from deltalake import DeltaTable

_ROLES = {
    "pipelines.live.worker_main": "worker",
    "pipelines.reconcile.sidecar": "attributor",
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
    for log in sorted(lake.rglob("_delta_log")):
        name = str(log.parent.relative_to(lake))
        figures[f"{name}: files"] = len(DeltaTable(str(log.parent)).file_uris())
        figures[f"{name}: files on disk"] = sum(log not in path.parents for path in log.parent.rglob("*.parquet"))
        figures[f"{name}: log entries"] = sum(1 for _ in log.iterdir())
    figures["spans-seen: files on disk"] = sum(1 for _ in (lake / "spans-seen").rglob("*.parquet"))
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
