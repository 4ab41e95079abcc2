"""What a home declares is found, and an error in it names file, line and field, and no value."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from vitalake import declarations
from vitalake.errors import SettingsError
from vitalake.guarded import MOST_BYTES
from vitalake.settings import load_settings
from vitalake.strict_yaml import line_of

TEXT = """\
name: thing
columns:
  - {name: a, type: text}
  - name: b
    type: secret-word
codes:
  "1234-5":
    low: none
"""


class _Column(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    type: str


class _Range(msgspec.Struct, forbid_unknown_fields=True):
    low: float


class _Closed(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["one", "other"]


class _Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    columns: list[_Column]
    codes: dict[str, dict[str, str]] = {}


@pytest.mark.parametrize(
    ("path", "line"),
    [((), 1), (("columns",), 2), (("columns", 1, "type"), 5), (("codes", "1234-5", "low"), 8), (("columns", 9), 2)],
)
def test_the_line_is_that_of_the_innermost_thing_that_is_there(path: tuple[str | int, ...], line: int) -> None:
    assert line_of(TEXT, path) == line


def test_what_does_not_fit_is_named_with_file_and_line_and_without_its_value() -> None:
    document = {"name": "thing", "columns": [{"name": "a", "type": "text"}, {"name": "b", "type": ["secret-word"]}]}
    with pytest.raises(SettingsError) as refused:
        declarations.convert(document, _Thing, where="thing.yaml", text=TEXT)
    assert str(refused.value).startswith("Declaration does not fit: Expected `str`, got `array`")
    assert "thing.yaml:5 (columns.1.type)" in str(refused.value)
    assert "secret-word" not in str(refused.value)


def test_an_entry_that_does_not_fit_is_named_by_its_key() -> None:
    with pytest.raises(SettingsError, match=r"thing.yaml:8 \(codes.1234-5.low\)"):
        declarations.entries({"1234-5": {"low": "none"}}, _Range, where="thing.yaml", text=TEXT, at=("codes",))


def test_the_declarations_of_the_home_whose_settings_were_loaded_hold(home: Path, tmp_path: Path) -> None:
    (home / "datasets").mkdir()
    (home / "datasets" / "thing.yaml").write_text(TEXT)
    load_settings(home)
    assert declarations.in_use() == home.resolve()
    (found,) = declarations.declared("datasets", home).values()
    assert (found.name, found.of_home, found.where) == ("thing", True, str(home / "datasets" / "thing.yaml"))
    assert declarations.read(found)[0]["name"] == "thing"
    assert declarations.declared("datasets", None) == declarations.declared("datasets", tmp_path) == {}


@pytest.mark.parametrize("name", ["Thing.yaml", "a-b.yaml", "1.yaml"])
def test_a_file_that_would_be_passed_over_in_silence_is_refused(home: Path, name: str) -> None:
    (home / "datasets").mkdir()
    (home / "datasets" / name).write_text(TEXT)
    with pytest.raises(SettingsError, match="Name of the declaration is not allowed"):
        declarations.declared("datasets", home)


@pytest.mark.parametrize("kind", declarations.KINDS)
@pytest.mark.parametrize("ending", ["yml", "YAML", "Yaml", "YML"])
def test_a_file_of_another_ending_is_refused_and_not_ignored(home: Path, kind: str, ending: str) -> None:
    (home / kind).mkdir()
    for other in ("README.md", "thing.sql", "thing.yaml.swp", "thing.json", ".thing.yml"):
        (home / kind / other).write_text("")
    load_settings(home)
    before = declarations._files
    assert declarations.declared(kind, home) == {}
    (home / kind / f"thing.{ending}").write_text(TEXT)
    load_settings(home)
    assert declarations._files != before, "and what was cached does not hold"
    said = rf"does not end in \.yaml: .*{kind}/thing\.{ending}\. Rename it to thing\.yaml"
    with pytest.raises(SettingsError, match=said) as refused:
        declarations.declared(kind, home)
    assert refused.value.exit_code == 10


def test_a_declaration_that_is_a_folder_has_its_name_and_one_that_ships_is_named_by_it(home: Path) -> None:
    (home / "tasks" / "thing").mkdir(parents=True)
    (home / "tasks" / "thing" / "task.yaml").write_text(TEXT)
    (home / "tasks" / ".git").mkdir()
    (home / "tasks" / "README.md").write_text("")
    (found,) = declarations.declared("tasks", home).values()
    assert (found.name, found.where) == ("thing", str(home / "tasks" / "thing" / "task.yaml"))
    (shipped,) = declarations.shipped(home / "tasks").values()
    assert (shipped.name, shipped.where) == ("thing", "thing/task.yaml")


def test_a_value_that_is_none_of_the_allowed_ones_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as refused:
        declarations.convert({"kind": "secret-word"}, _Closed, where="thing.yaml")
    assert "not one of those allowed" in str(refused.value) and "secret-word" not in str(refused.value)
    assert refused.value.remedy == "Write one of: one, other."


def test_a_file_that_is_not_yaml_is_named_with_its_line(home: Path) -> None:
    (home / "datasets").mkdir()
    (home / "datasets" / "a.yaml").write_text("a: 1\na: 2\n")
    (found,) = declarations.declared("datasets", home).values()
    with pytest.raises(SettingsError, match=r"names a key twice.*a\.yaml:2"):
        declarations.read(found)
    found.path.unlink()
    with pytest.raises(SettingsError, match=r"cannot be read"):
        declarations.read(found)


def _socket(path: Path) -> None:
    os.chdir(path.parent)  # a socket's path is at most 108 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "it is not a regular file"),
        (Path.mkdir, "it is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (_socket, "No such device or address"),
        (lambda path: path.write_bytes(b"#" * (MOST_BYTES + 1)), "it is larger than 1 MiB"),
    ],
    ids=["pipe", "folder", "device", "socket", "large"],
)
@pytest.mark.timeout(10)
def test_only_a_regular_file_of_a_sensible_size_is_read_and_nothing_waits(
    home: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], said: str
) -> None:
    """A pipe in datasets/ made every command wait for ever."""
    monkeypatch.chdir(home)
    (home / "datasets").mkdir()
    make(home / "datasets" / "thing.yaml")
    load_settings(home)
    (found,) = declarations.declared("datasets", home).values()
    with pytest.raises(SettingsError, match=rf"cannot be read \({said}\): .*thing\.yaml"):
        declarations.read(found)


def test_hidden_files_of_an_editor_are_left_out(home: Path) -> None:
    for folder in ("datasets", "tasks"):
        (home / folder).mkdir()
        (home / folder / ".thing.yaml").write_text(TEXT)
        assert declarations.declared(folder, home) == {}


def test_lines_may_end_as_on_other_systems(home: Path) -> None:
    (home / "datasets").mkdir()
    (home / "datasets" / "thing.yaml").write_bytes(TEXT.replace("\n", "\r\n").encode())
    (found,) = declarations.declared("datasets", home).values()
    assert declarations.read(found)[1] == TEXT


@pytest.mark.parametrize("place", ["datasets/thing.yaml", "tasks/thing/task.yaml"])
def test_a_declaration_that_the_caller_can_write_vouches_for_nobody(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """What a column is decides how it is masked."""
    said = {home / "vitalake.yaml": "", home / place: "somebody can write it"}
    monkeypatch.setattr("vitalake.settings.read_guarded", lambda path: (path.read_text(), said[path]))
    monkeypatch.setattr(declarations, "read_guarded", lambda path: (path.read_text(), said[path]))
    assert load_settings(home).doubt == ""
    (home / place).parent.mkdir(parents=True)
    (home / place).write_text(TEXT)
    assert load_settings(home).doubt == "somebody can write it"
