"""YAML of a home: every reader refuses what grows, what stands twice and what cannot be, and quotes nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from governance.keyservice.local import LocalKeyService
from governance.policy.rules import load_policy
from models.tasks import parse_task
from pipelines.formats.flat.profile import FlatProfile, parse_profile
from pipelines.history.job import load_job
from vitalake.errors import VitaLakeError
from vitalake.keys import load_keys
from vitalake.settings import load_settings
from vitalake.strict_yaml import MOST_DEPTH, NotStrict, explain, read_yaml

BOMB = "a0: &a0 [MARKER, MARKER]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
"""A few hundred bytes; 9¹¹ values."""

REFUSED = {
    "aliases": (BOMB, "uses an alias"),
    "a merged alias": ("a: &a {b: 1}\nc: {<<: *a}", "uses an alias"),
    "itself": ("a: &a [*a]", "uses an alias"),
    "a key twice": ("a: 1\na: 2", "names a key twice"),
    "depth": ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "is nested too deeply"),
    "much depth": ("{a: " * 50_000, "is nested too deeply"),
    "a day that is none": ("a: 2026-02-31", "date that does not exist, or a number"),
    "a number of many digits": ("a: " + "9" * 5_000, "date that does not exist, or a number"),
    "no YAML": ("a: [MARKER", "is not YAML"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_called_by_its_name(kind: str) -> None:
    text, problem = REFUSED[kind]
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text)
    said, line = explain(caught.value)
    assert problem in said
    assert "MARKER" not in said
    assert line == (2 if kind in ("aliases", "a merged alias", "a key twice") else 1)


def test_an_anchor_without_an_alias_and_deep_enough_nesting_are_read() -> None:
    assert read_yaml("a: &a 1") == {"a": 1}
    assert read_yaml("[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1))
    assert explain(NotStrict(problem="x")) == ("x", 1)


def _settings(path: Path) -> None:
    load_settings(path)


def _rules(path: Path) -> None:
    load_policy(path.parent)


def _key_service(path: Path) -> None:
    LocalKeyService(path).wrap(bytes(32), context=b"")


def _task(path: Path) -> None:
    parse_task(path.read_text(), where=path.name)


def _profile(path: Path) -> None:
    parse_profile(FlatProfile, path.read_text(), where=path.name)


def _job(path: Path) -> None:
    load_job(str(path))


@pytest.mark.parametrize("reader", [_settings, _rules, _key_service, _task, _profile, _job, load_keys])
def test_every_file_of_a_home_is_read_so(tmp_path: Path, reader: Callable[[Path], None]) -> None:
    path = tmp_path / "some.yaml"
    for text, _ in REFUSED.values():
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(VitaLakeError) as caught:
            reader(path)
        assert "MARKER" not in str(caught.value)


def test_nothing_reads_yaml_another_way() -> None:
    root = Path(__file__).parents[3]
    command = ["grep", "-rlE", r"yaml\.(safe_|full_|unsafe_)?load|YAML\(", "--include=*.py"]
    folders = ["vitalake", "governance", "pipelines", "models"]
    found = subprocess.run([*command, *folders], cwd=root, capture_output=True, text=True, check=False).stdout
    assert found.split() == ["vitalake/strict_yaml.py"]
