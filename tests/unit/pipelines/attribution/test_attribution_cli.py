"""``vitalake devices``: who is allowed to see which names, what is recorded, and that it does what it reports."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.attribution import Ward
from vitalake.cli.app import main

MARKERS = ("bed-MARKER", "A-MARKER", "e-MARKER")


@pytest.fixture
def ward(home: Path) -> Ward:
    return Ward(home)


def run(ward: Ward, capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> Any:
    """Run a command and return its JSON."""
    assert main(["devices", *arguments, "--home", str(ward.home), "--json"]) == expect
    said = capsys.readouterr()
    return msgspec.json.decode(said.out) if expect == 0 else said.err


def associate(ward: Ward, capsys: pytest.CaptureFixture[str], *more: str, patient: str = MARKERS[1]) -> None:
    arguments = ["--device", MARKERS[0], "--patient", patient, "--encounter", MARKERS[2]]
    run(ward, capsys, "associate", *arguments, "--from", ward.at(-5).isoformat(), *more)


def test_a_ward_without_devices_has_none(ward: Ward, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ward, capsys, "list") == {"devices": [], "total": 0, "held": 0}
    assert run(ward, capsys, "attribute")["spans"] == 0
    assert not (ward.home / "lake" / "restricted").exists()
    assert "No such device" in run(ward, capsys, "show", "bed-1", expect=11)


def test_from_held_to_somebodys(ward: Ward, capsys: pytest.CaptureFixture[str]) -> None:
    ward.stream([ward.bed(second, MARKERS[0]) for second in range(3)] + [ward.bed(0, "bed-2")])
    listed = run(ward, capsys, "list")
    assert [(row["associations"], row["held"]) for row in listed["devices"]] == [(0, 3), (0, 1)]
    token = listed["devices"][0]["device"]
    assert token.startswith("v1.")
    associate(ward, capsys)
    assert run(ward, capsys, "attribute") == {"devices": 1, "released": 3, "rows": 3, "moved": 0, "spans": 1}
    assert ward.everywhere([MARKERS[1]]) == dict.fromkeys(range(3), MARKERS[1])
    listed = run(ward, capsys, "list")["devices"]
    assert [(row["device"], row["associations"], row["held"]) for row in listed][1] == (token, 1, 0)
    shown = run(ward, capsys, "show", token)
    assert [row["patient"] for row in shown["versions"]] == [ward.token(MARKERS[1])]
    assert run(ward, capsys, "show", MARKERS[0]) == shown
    assert not [marker for marker in MARKERS if marker in str((listed, shown))]


def test_who_may_not_see_ids_sees_none(
    ward: Ward, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    associate(ward, capsys)
    for command in (["list"], ["show", MARKERS[0]]):
        said = run(ward, capsys, *command, "--identified", expect=12)
        assert not [marker for marker in MARKERS if marker in said]
    document = {"privacy_officers": [pwd.getpwuid(1).pw_name]}
    monkeypatch.setattr(os, "getuid", lambda: 1)  # an account that does not own the configuration
    (ward.home / "vitalake.yaml").write_text(yaml.safe_dump(document))
    assert [row["device"] for row in run(ward, capsys, "list", "--identified")["devices"]] == [MARKERS[0]]
    versions = run(ward, capsys, "show", MARKERS[0], "--identified")["versions"]
    assert [(row["patient"], row["encounter"]) for row in versions] == [MARKERS[1:]]
    recorded = b"".join(path.read_bytes() for path in (ward.home / "audit").rglob("*") if path.is_file())
    for action in (b"devices.associate", b"devices.identify", b"denied"):
        assert action in recorded
    assert b"MARKER" not in recorded


def test_said_again_takes_the_others_place_and_may_be_taken_back(
    ward: Ward, capsys: pytest.CaptureFixture[str]
) -> None:
    associate(ward, capsys)
    ward.stream([ward.bed(0, MARKERS[0])])
    associate(ward, capsys, patient="B")
    assert run(ward, capsys, "attribute")["moved"] == 2
    assert ward.everywhere([MARKERS[1], "B"]) == {0: "B"}
    associate(ward, capsys, "--entered-in-error", patient="B")
    run(ward, capsys, "attribute")
    assert ward.everywhere([MARKERS[1], "B"]) == {}
    assert [row["associations"] for row in run(ward, capsys, "list")["devices"]] == [1]


@pytest.mark.parametrize("since", ["yesterday", "2026-03-01T10:00:00"])
def test_a_time_has_its_zone(ward: Ward, capsys: pytest.CaptureFixture[str], since: str) -> None:
    arguments = ["--device", "d", "--patient", "p", "--from", since]
    assert main(["devices", "associate", *arguments, "--home", str(ward.home)]) == 2
    assert "zone" in capsys.readouterr().err


def test_what_is_no_identifier_is_refused_without_a_word_of_it(ward: Ward, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "d", "--patient", "MARKER\n", "--from", "2026-03-01T10:00:00Z"]
    assert "MARKER" not in run(ward, capsys, "associate", *arguments, expect=11)
    assert not (ward.home / "audit").exists()
