"""Which home a command works on: the one of its command line, for every command there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from governance.home import init_home
from governance.samples import copy_samples
from vitalake.cli.app import main, make_app
from vitalake.settings import load_settings

NEEDED: dict[str, list[str]] = {
    "dead-letters discard": ["--reason", "no-patient"],
    "devices associate": ["--from", "2026-03-01T10:00:00Z"],
    "dead-letters replay": ["--reason", "no-patient"],
    "dead-letters show": [],
    "history load": ["mimic-demo"],
    "lake rewrite": ["--republish", "observation"],
    "models approve": ["--events", "100"],
    "lake rebuild": ["published"],
    "patient certificate": ["1"],
    "patient erase": ["someone"],
    "score": ["mortality"],
    "simulate": ["--count", "1"],
    "train": ["mortality"],
}
"""What a command asks for before it looks for its home; other arguments that it needs are a word."""

WITHOUT = {"broker start"}
"""Commands that know no home."""

MAKERS = {"init", "demo"}
"""Commands that make a home where there is none; a broken one they leave as it is."""


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not isinstance(command, TyperGroup):
        yield " ".join(path), command
        return
    for name, child in command.commands.items():
        yield from _commands(child, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(make_app())))


def _arguments(name: str) -> list[str]:
    given = list(NEEDED.get(name, []))
    for parameter in COMMANDS[name].params:
        options = parameter.opts
        if not parameter.required or options[0] in given:
            continue
        if options[0].startswith("-"):
            given += [options[0], "word"]
        elif name not in NEEDED or not NEEDED[name] or NEEDED[name][0].startswith("-"):
            given.append("0" if parameter.name == "position" else "word")
    return [*name.split(" "), *given]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A home that no command can work on, and that each one names."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "vitalake.yaml").write_text("no_such_setting: 1\n")
    return folder


def test_only_these_commands_know_no_home() -> None:
    without = {name for name, command in COMMANDS.items() if not any("--home" in p.opts for p in command.params)}
    assert without == WITHOUT


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT - MAKERS))
def test_the_command_line_wins_over_the_environment(
    name: str, home: Path, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _state(home)
    monkeypatch.setenv("VITALAKE_HOME", str(home))
    assert main([*_arguments(name), "--home", str(broken)]) == 10, capsys.readouterr().err
    said = capsys.readouterr()
    assert str(broken / "vitalake.yaml") in said.err + said.out  # 'doctor' prints it as a finding
    assert _state(home) == before
    monkeypatch.setenv("VITALAKE_HOME", str(broken))
    assert main(_arguments(name)) == 10  # and without a command line the environment says which


def _state(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in home.rglob("*")}


def test_a_home_is_made_where_the_command_line_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITALAKE_HOME", str(tmp_path / "variable"))
    assert main(["init", "--home", str(tmp_path / "option")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["option"]


def test_the_key_that_is_revoked_is_the_one_of_the_command_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the other home's: the settings read VITALAKE_HOME as one of their fields."""
    other = tmp_path / "other"
    init_home(other, copy_samples)
    monkeypatch.setenv("VITALAKE_HOME", str(other))
    assert load_settings(home).home == home
    untouched = (other / "vault-keys.yaml").read_bytes()
    assert main(["keys", "init", "--home", str(home)]) == 0
    assert main(["keys", "revoke", "--home", str(home)]) == 0
    assert "revoked" in (home / "vault-keys.yaml").read_text()
    assert (other / "vault-keys.yaml").read_bytes() == untouched
    assert not (other / "audit").exists()
