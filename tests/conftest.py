"""What all tests share: Hypothesis' profiles, a home, and what to say of services that are not there."""

from __future__ import annotations

import gc
import logging
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from governance.home import init_home
from governance.query import sandbox
from governance.samples import copy_samples
from tests import forking, scratch
from tests.services.requirements import missing
from vitalake import declarations, logs
from vitalake.settings import Settings, StreamSettings

scratch.use_memory()

settings.register_profile(
    "ci", max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("many", max_examples=1_000, deadline=None, parent=settings.get_profile("ci"))
settings.load_profile(os.environ.get("VITALAKE_HYPOTHESIS", "ci"))

# Of tests side by side one would find the port of the metrics taken by another.
os.environ["VITALAKE_OBSERVABILITY__PORT"] = "0"

# A lane writes to all of its look-back's memory when it starts: 64 MB by default.
StreamSettings.model_fields["lookback_entries"].default = 20_000
StreamSettings.model_rebuild(force=True)
Settings.model_fields["jobs"].default = {"vitals": StreamSettings()}
Settings.model_rebuild(force=True)

pytest_plugins = ["tests.services.fixtures"]


def pytest_configure() -> None:
    """Let the collector of cycles run less often: a test leaves little behind, and each ends with a collection."""
    gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before each test: let the collector of cycles pass over whatever is there by now.

    A lane collects after every bundle, in a worker that has frozen its imports; of ours that took 0.4 s each.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let the end of the process take everything apart; in one of several hand over what was not found."""
    gc.unfreeze()
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["missing"] = dict(missing)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what one of several test processes did not find."""
    for name, count in getattr(node, "workeroutput", {}).get("missing", {}).items():
        missing[name] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long each folder took, which services were not found, and how many tests were left out for each."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds["/".join(report.nodeid.split("/")[:2])] += report.duration
    found = ", ".join(f"{folder} {total:.0f}" for folder, total in sorted(seconds.items()))
    terminalreporter.write_line(f"seconds of tests by folder, all processes together: {found}")
    for name, count in sorted(missing.items()):
        terminalreporter.write_line(f"service not found: {name} ({count} tests left out)", yellow=True)


@pytest.fixture(autouse=True)
def only_what_ships() -> Iterator[None]:
    """After each test: what a home declared holds no longer."""
    yield
    declarations.use(None)


@pytest.fixture(autouse=True)
def levels_of_logs() -> Iterator[None]:
    """After each test: the levels that a command set in this process hold no longer."""
    levels = {name: logging.getLogger(name).level for name in logs._OURS}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


_interpreter = sandbox.interpreter


@pytest.fixture(autouse=True)
def _sandboxes_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sandbox of a query be a fork: confined in the same way, without half a second of imports each."""
    monkeypatch.setattr(sandbox, "interpreter", lambda: forking.command("governance.query.worker", kind="sandbox"))


@pytest.fixture
def real_interpreter(_sandboxes_are_forks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox of a query as it is started for people, for tests of what it can reach and how it ends."""
    monkeypatch.setattr(sandbox, "interpreter", _interpreter)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home as ``vitalake init`` makes it."""
    folder = tmp_path / "home"
    init_home(folder, copy_samples)
    return folder


@pytest.fixture
def topic_name() -> str:
    """A name no other test has."""
    return f"vitals-{uuid.uuid4().hex[:10]}"
