"""The command line as people use it: help, usage, wrong configuration, and no half-written output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import typer
import yaml
from deltalake import DeltaTable, Schema, write_deltalake
from typer.core import TyperGroup

from tests.services.lane import LaneUnderTest
from vitalake.cli.app import make_app
from vitalake.lake.datasets.declared import load_dataset, published_datasets

HEAVY = ("apache_beam", "pyarrow", "deltalake", "vitalake.settings", "confluent_kafka", "numpy", "cryptography")


def _vitalake(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitalake", *arguments],
        capture_output=True, text=True, timeout=90, check=False, env=os.environ | (env or {}),
    )  # fmt: skip


def _paths(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, TyperGroup):
        return [path]
    return [path, *[p for name, child in command.commands.items() for p in _paths(child, (*path, name))]]


def test_help_answers_without_loading_anything_heavy() -> None:
    """All in one process: after each command's help none of these is imported."""
    program = (
        "import contextlib, io, json, sys\n"
        "from vitalake.cli.app import main\n"
        "found = {}\n"
        "for path in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        code = main([*path, '--help'])\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    found[' '.join(path)] = [code, 'Usage: vitalake' in said.getvalue(), heavy]\n"
        "print(json.dumps(found))\n"
    )
    paths = _paths(typer.main.get_command(make_app()))
    command = [sys.executable, "-c", program, msgspec.json.encode(paths).decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout)
    assert len(found) == len(paths) > 50
    assert {path: said for path, said in found.items() if said != [0, True, []]} == {}


def test_generated_pages_and_the_lock_are_fresh() -> None:
    # In a process of its own: the tests' settings have other defaults.
    done = subprocess.run([sys.executable, "-m", "docs.check"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nonsense"], 2), (["stream", "--workers", "0"], 2), (["stream", "--until-idle", "soon"], 2),
     (["stream", "--from", "yesterday"], 2), (["stream", "--runner", "prism"], 2), (["--version"], 0)],
)  # fmt: skip
def test_usage(arguments: list[str], code: int) -> None:
    assert _vitalake(*arguments).returncode == code


# -- wrong configuration ---------------------------------------------------------------------------------------------


def _configure(home: Path, bootstrap: str, topic: str, **changes: Any) -> None:
    document: dict[str, Any] = {
        "kafka": {"bootstrap_servers": bootstrap},
        "jobs": {"vitals": {"topics": {topic: "fhir"}}},
        "observability": {"port": 0},
    } | changes
    (home / "vitalake.yaml").write_text(yaml.safe_dump(document))


def _stream(home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return _vitalake("stream", "--home", str(home), "--until-idle", "1s", *more)


@pytest.fixture
def ready(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A home whose topic exists."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure()
    lane.create_topic()
    return lane


def _refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in done.stderr


def test_no_home(tmp_path: Path) -> None:
    _refused(_stream(tmp_path / "nowhere"), 10, "vitalake init")


def test_unknown_topic(ready: LaneUnderTest) -> None:
    _configure(ready.home, ready.bootstrap, "no-such-topic")
    _refused(_stream(ready.home), 11, "Topic not found", "no-such-topic")
    assert not (ready.home / "lake").exists()


def test_no_broker(ready: LaneUnderTest) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        _configure(ready.home, f"127.0.0.1:{probe.getsockname()[1]}", ready.topic)
        _refused(_stream(ready.home), 14, "Broker does not answer")
    assert not (ready.home / "lake").exists()


def test_missing_key(ready: LaneUnderTest) -> None:
    (ready.home / "keys.yaml").unlink()
    _refused(_stream(ready.home), 12, "Key file cannot be read", "vitalake init")
    assert not (ready.home / "lake").exists()


def test_bad_rule(ready: LaneUnderTest) -> None:
    (ready.home / "governance" / "more.yaml").write_text("version: 1\nrules: [{id: x}]\n")
    _refused(_stream(ready.home), 12, "more.yaml")
    assert not (ready.home / "lake").exists()


def test_unknown_field_and_job(ready: LaneUnderTest) -> None:
    _configure(ready.home, ready.bootstrap, ready.topic, colour="red")
    _refused(_stream(ready.home), 10, "colour")
    _configure(ready.home, ready.bootstrap, ready.topic)
    _refused(_stream(ready.home, "--job", "nope"), 10, "Unknown job")


def test_port_in_use(ready: LaneUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITALAKE_OBSERVABILITY__PORT")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _configure(ready.home, ready.bootstrap, ready.topic, observability={"port": port})
        _refused(_stream(ready.home), 10, str(port))
    assert not (ready.home / "lake").exists()


def test_a_lake_that_cannot_be_written(ready: LaneUnderTest) -> None:
    (ready.home / "file").write_text("")
    _configure(ready.home, ready.bootstrap, ready.topic, lake={"uri": "file/lake"})
    _refused(_stream(ready.home), 13, "lake.uri")


def test_an_incompatible_table_is_left_as_it_was(ready: LaneUnderTest) -> None:
    folder = ready.home / "lake" / "published" / "observation"
    write_deltalake(str(folder), pa.table({"something": ["else"]}))
    before = sorted(p.name for p in folder.rglob("*"))
    _refused(_stream(ready.home), 11, "published/observation")
    assert sorted(p.name for p in folder.rglob("*")) == before
    assert DeltaTable(str(folder)).schema() == Schema.from_arrow(pa.schema([("something", pa.string())]))
    assert not (ready.home / "lake" / "spans").exists()


def test_a_second_job_on_the_same_topic_is_refused(ready: LaneUnderTest) -> None:
    from tests.fhir import message

    ready.send([message(1)])
    assert _stream(ready.home).returncode == 0
    _configure(
        ready.home, ready.bootstrap, ready.topic,
        jobs={"vitals": {"topics": {ready.topic: "fhir"}}, "other": {"topics": {ready.topic: "fhir"}}},
    )  # fmt: skip
    done = _stream(ready.home, "--job", "other")
    assert done.returncode == 11
    assert "Another job reads this topic" in done.stderr


# -- init and doctor -------------------------------------------------------------------------------------------------


def test_init_makes_a_home_once_and_leaves_it_alone_then(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    assert _vitalake("init", "--home", str(home)).returncode == 0
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    assert {p.name for p in before} == {
        "vitalake.yaml", "keys.yaml", "vault-keys.yaml", "limited-data-set.yaml", "wards.yaml",
    }  # fmt: skip
    done = _vitalake("init", "--home", str(home), "--json")
    assert '"made":[]' in done.stdout
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before
    assert [p.name for p in home.parent.iterdir()] == ["home"], "nothing is left beside it"


def test_doctor_says_what_is_wrong_and_mends(ready: LaneUnderTest) -> None:
    assert _vitalake("doctor", "--home", str(ready.home)).returncode == 0
    (ready.home / "keys.yaml").chmod(0o644)
    done = _vitalake("doctor", "--home", str(ready.home))
    assert done.returncode == 12
    assert "chmod 600" in done.stdout
    assert not (ready.home / "lake").exists(), "looking makes nothing"


def test_an_unexpected_error_shows_its_frames_but_not_its_text(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from pipelines.commands import doctor
    from vitalake.cli import app

    def explode() -> None:
        message = "Zzmarker"
        raise RuntimeError(message)

    monkeypatch.setattr(doctor, "_python", explode)
    assert app.main(["doctor"]) == 1
    shown = capsys.readouterr().err
    assert "RuntimeError" in shown
    assert "Zzmarker" not in shown


# -- the officer's view of the rules ---------------------------------------------------------------------------------


def test_policy_check_names_each_column_its_class_and_what_happens(home: Path) -> None:
    done = _vitalake("policy", "check", "--home", str(home), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # noqa: TID251
    assert {*document["datasets"]} == {*published_datasets()} > {"observation", "procedure"}
    assert all(found["kept_identified"] for found in document["datasets"].values())
    for name, found in document["datasets"].items():
        assert [entry["column"] for entry in found["columns"]] == load_dataset(name).schema.names
    columns = {e["column"]: e for e in document["datasets"]["encounter"]["columns"]}
    assert columns["patient_id"]["mask"] == "pseudonym"
    assert columns["age_at_admission"]["mask"] == "cap"
    shown = _vitalake("policy", "check", "--home", str(home), "--dataset", "observation").stdout
    assert "value_text" in shown
    assert "not published" in shown


def test_policy_check_refuses_rules_that_do_not_hold(home: Path) -> None:
    path = home / "governance" / "limited-data-set.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("class: free-text", "class: fee-text"))
    done = _vitalake("policy", "check", "--home", str(home))
    assert done.returncode == 12
    assert "drop-free-text" in done.stderr
    path.write_text(whole)
    assert _vitalake("policy", "check", "--home", str(home), "--dataset", "nope").returncode == 10
