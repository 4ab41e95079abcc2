"""Every kind of file × every kind of damage × the commands that meet it: named, never a bug, never tried for ever.

By default each file meets a few kinds of damage; ``VITALAKE_HYPOTHESIS=many`` tries them all.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from governance.home import init_home
from governance.samples import copy_samples
from tests.services.polls import LaneWithoutKafka
from tests.services.test_rewrites import observed, opened, published, sound, stream
from vitalake.cli.app import main
from vitalake.errors import VitaLakeError
from vitalake.lake.tables.schema import open_delta
from vitalake.settings import load_settings

BAD = b'{"resourceType": "Nothing"}'
TABLES = ["published/observation", "restricted/observation", "quarantine/dead_letter", "spans"]
PHI = ["p-0", "p-1", "p-2", "p-3", "mon-"]
"""In all messages; rows of p-3 are erased."""


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff{" * 20)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _out_of_reach(path: Path) -> None:
    """Let nobody read it: root is refused by no permission, but by a link that leads to itself."""
    if os.geteuid():
        path.chmod(0)
        return
    path.unlink()
    path.symlink_to(path.name)


def _another(path: Path) -> None:
    beside = [other for other in path.parent.iterdir() if other.suffix == path.suffix and other.name != path.name]
    every = sorted(beside) or sorted(path.parents[1].rglob(f"*{path.suffix}"))
    other = next((other for other in every if other.is_file() and other.name != path.name), None)
    path.write_bytes(other.read_bytes() if other else b"something else\n")


DAMAGE = [Path.unlink, _truncated, _empty, _zeroed, _garbage, _folder, _out_of_reach, _another]


def _entry(table: str, which: int) -> Callable[[Path], Path]:
    """Return how to find an entry of a table's log, by its place among those that the newest version needs."""

    def find(home: Path) -> Path:
        log = home / "lake" / table / "_delta_log"
        base = sorted(log.glob("*.checkpoint.parquet"))[-1].name[:20]
        return [path for path in sorted(log.glob("0*.json")) if path.name[:20] > base][which]

    return find


def _first(pattern: str) -> Callable[[Path], Path]:
    return lambda home: sorted(path for path in home.glob(pattern) if "_delta_log/" not in pattern or path.exists())[0]


def _database(name: str) -> Callable[[Path], Path]:
    def find(home: Path) -> Path:
        with closing(sqlite3.connect(home / name)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return home / name

    return find


FILES: dict[str, Callable[[Path], Path]] = {
    **{f"{table}: first entry": _entry(table, 0) for table in TABLES},
    **{f"{table}: newest entry": _entry(table, -1) for table in TABLES},
    **{f"{table}: checkpoint": _first(f"lake/{table}/_delta_log/*.checkpoint.parquet") for table in TABLES},
    **{f"{table}: hint": _first(f"lake/{table}/_delta_log/_last_checkpoint") for table in TABLES},
    **{f"{table}: file": _first(f"lake/{table}/day*/*.parquet") for table in TABLES},
    "look-back": _first("lake/spans-seen/*.parquet"),
    **{name: _database(name) for name in ("vault.db", "care.db")},
    **{name: _first(name) for name in ("lake/home.json", "lake/format.json", "lake/erasures.jsonl")},
    **{name: _first(name) for name in ("keys.yaml", "vault-keys.yaml", "vitalake.yaml", "erasures.jsonl")},
    "rules": _first("governance/limited-data-set.yaml"),
    **{name: _first(f"audit/{name}") for name in ("keys.jsonl", "keys.head", "writers.jsonl", "writers.head")},
    "head beside the audit": _first("audit.heads/*"),
    "what erased rows are found by": _first("lake/erasures/*.json"),
    "certificate": _first("certificates/*.json"),
}

EVERY = os.environ.get("VITALAKE_HYPOTHESIS") == "many"
CASES = [
    pytest.param(name, damage, id=f"{name}-{damage.__name__.strip('_')}")
    for i, name in enumerate(FILES)
    for j, damage in enumerate(DAMAGE)
    if EVERY or j in (i % len(DAMAGE), (i + 3) % len(DAMAGE))
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with spans before and after a checkpoint of every table, dead letters, and an erased patient."""
    home = tmp_path_factory.mktemp("table") / "home"
    init_home(home, copy_samples)
    for spans, topic in ((range(3), "u"), (range(3, 5), "v")):
        lane = stream(home, spans, topic_id=topic)
        lane.send([(0, BAD)], cut=True)
        lane.send([(0, BAD)], cut=True)
        if topic == "u":
            assert main(["patient", "erase", "p-3", "--reason", "x", "--yes", "--home", str(home)]) == 0
            for table in TABLES:
                open_delta(opened(load_settings(home)).storage.child(table)).create_checkpoint()
    return home


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor not wait ten seconds for a broker that there is none of."""
    monkeypatch.setattr("pipelines.commands.doctor._topics", lambda *_: "none asked")


def _said(home: Path, capfd: pytest.CaptureFixture[str], *command: str) -> tuple[int, str]:
    code = main([*command, "--home", str(home)])
    printed = capfd.readouterr()
    return code, printed.out + printed.err


def _streamed(home: Path) -> tuple[int, str]:
    """Stream a span; a wait for storage ends at its first word."""
    try:
        lane = LaneWithoutKafka(home, topic_id="w")
        assert lane.lane.writer is not None
        lane.lane.writer._stop.set()
        lane.send([(0, observed(200 + i, day=1 + i % 3)) for i in range(4)], cut=True)
    except VitaLakeError as error:
        return 75 if error.transient else error.exit_code, str(error)
    return 0, ""


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_damage_is_named_and_what_can_be_made_again_is(
    loaded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    home = Path(shutil.copytree(loaded, tmp_path / "home"))
    before, chosen = published(load_settings(home)), FILES[name](home)
    kept = tmp_path / "kept"
    shutil.copy2(chosen, kept)
    damage(chosen)
    said = {
        "verify": _said(home, capfd, "lake", "verify"),
        "sql": _said(home, capfd, "sql", "SELECT count(*) FROM observation"),
        "doctor": _said(home, capfd, "doctor"),
        "keys": _said(home, capfd, "keys", "status"),
        "ledger": _said(home, capfd, "ledger"),
        "audit": _said(home, capfd, "audit", "verify"),
        "repair": _said(home, capfd, "lake", "repair"),
    }
    if said["repair"][0] == 0 and said["verify"][0] == 13:
        assert published(load_settings(home)) == before
        assert sound(load_settings(home)), "what a repair calls whole is"
        said["again"] = _said(home, capfd, "lake", "verify")
    said["stream"] = _streamed(home)
    may_heal = os.geteuid() != 0 and damage is _out_of_reach
    for command, (code, text) in said.items():
        assert code in {0, 10, 11, 12, 13} | ({14, 75} if may_heal else set()), (command, code, text)
        assert "bug" not in text and "Traceback" not in text, (command, text)
        assert not [value for value in PHI if value in text], command
    if any(code for code, _ in said.values()) and said["repair"][0]:
        if chosen.is_dir() and not chosen.is_symlink():
            chosen.rmdir()
        chosen.unlink(missing_ok=True)
        shutil.copy2(kept, chosen)
        assert _said(home, capfd, "lake", "repair")[0] == 0, "the file of the back-up is all that is needed"
        rows = published(load_settings(home))
        assert all(rows[row] == count for row, count in before.items())
