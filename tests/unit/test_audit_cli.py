"""``vitalake audit`` and ``vitalake token``: what they answer, how they end, and that asking leaves a trace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance.access import open_verifier
from governance.audit import AuditEvent, open_audit
from vitalake.cli.app import main
from vitalake.keys import KeyRing, load_keys
from vitalake.settings import Settings, load_settings

PATIENT = "v1." + "a" * 32


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home)


@pytest.fixture
def keys(home: Path) -> KeyRing:
    return load_keys(home / "keys.yaml")


def _record(settings: Settings, keys: KeyRing) -> None:
    event = AuditEvent("identity.read", "clinician", "clinician", (PATIENT,), {"page": "patient"})
    open_audit(settings, keys, writer="serving").record(event)


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return msgspec.json.decode(capsys.readouterr().out)


def test_who_saw_lists_accesses_and_the_asking_itself(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    assert main(["audit", "who-saw", PATIENT, "--home", str(home)]) == 0
    output = capsys.readouterr().out
    assert "identity.read" in output
    assert "page=patient" in output
    assert PATIENT not in output
    assert main(["audit", "who-saw", PATIENT, "--home", str(home), "--json"]) == 0
    records = _json(capsys)["records"]
    assert [(entry["action"], entry["role"]) for entry in records] == [
        ("identity.read", "clinician"),
        ("audit.read", "officer"),
        ("audit.read", "officer"),
    ]


def test_list_shows_the_newest_and_says_when_there_is_nothing(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    assert main(["audit", "list", "--home", str(home), "--limit", "1", "--json"]) == 0
    assert [entry["detail"] for entry in _json(capsys)["records"]] == [{"command": "list"}]


def test_verify_says_that_the_audit_holds_and_against_what_was_kept(
    home: Path, settings: Settings, keys: KeyRing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    assert main(["audit", "verify", "--home", str(home), "--json"]) == 0
    kept = tmp_path / "kept.json"
    kept.write_text(capsys.readouterr().out)
    assert main(["audit", "verify", "--home", str(home), "--known", str(kept)]) == 0
    assert "The audit holds." in capsys.readouterr().out
    kept.write_text("{}")
    assert main(["audit", "verify", "--home", str(home), "--known", str(kept)]) == 11
    assert "Not a report of the audit" in capsys.readouterr().err


def test_verify_ends_with_12_when_a_record_was_changed(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    path = home / "audit/serving.jsonl"
    path.write_bytes(path.read_bytes().replace(b"clinician", b"clinicias"))
    assert main(["audit", "verify", "--home", str(home)]) == 12
    output = capsys.readouterr().out
    assert "DOES NOT HOLD: records are changed" in output
    assert "The audit does not hold." in output


def test_verify_reports_also_when_its_own_chain_takes_no_record(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "list", "--home", str(home)]) == 0
    (home / "audit/cli.head").unlink()
    assert main(["audit", "verify", "--home", str(home), "--json"]) == 12
    captured = capsys.readouterr()
    assert "could not be recorded" in captured.err
    assert main(["audit", "who-saw", PATIENT, "--home", str(home)]) == 12


def test_a_token_is_printed_alone_and_recorded(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "clinician", "--home", str(home)]) == 0
    token = capsys.readouterr().out.strip()
    assert open_verifier(settings, keys).verify(token).role == "clinician"
    assert token not in (home / "audit/cli.jsonl").read_text()
    assert main(["audit", "list", "--home", str(home), "--json"]) == 0
    assert _json(capsys)["records"][0]["action"] == "sign-in"
    assert main(["token", "root", "--home", str(home)]) == 12
    assert "root" not in capsys.readouterr().err


def test_an_audit_whose_folder_is_gone_ends_verify_and_doctor_with_12_until_a_new_one_is_begun(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "vitalake.yaml").write_text("jobs: {}\n")  # no broker is asked
    _record(settings, keys)
    shutil.rmtree(home / "audit")
    for _ in range(2):  # looking does not begin another
        assert main(["audit", "verify", "--home", str(home)]) == 12
        assert "there is no audit, where there was one" in capsys.readouterr().out
    main(["doctor", "--home", str(home), "--json"])
    checks = {check["name"]: check for check in _json(capsys)["checks"]}
    assert (checks["audit"]["result"], checks["audit"]["exit_code"]) == ("fail", 12)
    assert main(["audit", "list", "--home", str(home)]) == 12
    assert main(["audit", "begin", "--reason", "incident 7", "--home", str(home)]) == 0
    assert main(["audit", "begin", "--reason", "<b>", "--home", str(home)]) == 2
    capsys.readouterr()
    assert main(["audit", "list", "--home", str(home), "--json"]) == 0
    begun = _json(capsys)["records"][0]
    assert begun["action"] == "audit.begin"
    assert begun["detail"]["before"].startswith("audit.2")
    assert main(["audit", "verify", "--home", str(home)]) == 0
    capsys.readouterr()
    main(["doctor", "--home", str(home), "--json"])
    checks = {check["name"]: check for check in _json(capsys)["checks"]}
    assert checks["audit"]["finding"].endswith("heads are not kept outside (settings.anchors)")


def test_verify_says_when_the_heads_were_last_kept_on_other_storage(
    home: Path, keys: KeyRing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (home / "vitalake.yaml").write_text(f"anchors: {outside}\n")
    _record(load_settings(home), keys)
    assert main(["audit", "verify", "--home", str(home)]) == 0
    assert "last kept outside at" in capsys.readouterr().out
