"""``vitalake audit`` and ``vitalake token``: what they answer, how they end, and that asking leaves a trace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance.access import open_verifier
from governance.audit import AuditEvent, forget_beginning, missed, open_audit
from governance.audit.lake_mark import keep_beginning
from vitalake.cli.app import main
from vitalake.keys import KeyRing, load_keys
from vitalake.lake.lake import Lake
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


def test_an_audit_that_is_gone_with_its_heads_is_missed_by_the_lake_until_a_new_one_is_begun(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    assert missed(settings) == ""  # there is no lake that could know
    Lake(settings.lake_uri, settings.storage_options).open_all()
    _record(settings, keys)
    (known,) = (home / "lake").glob("audit*")
    began = known.read_bytes()
    assert main(["audit", "verify", "--home", str(home)]) == 0
    for folder in ("audit", "audit.heads"):
        shutil.rmtree(home / folder)
    capsys.readouterr()
    for wrong in ("there is no audit, where the lake knows of one", "it is not the audit that the lake knows"):
        assert main(["audit", "verify", "--home", str(home)]) == 12
        assert wrong in capsys.readouterr().out
        assert known.read_bytes() == began  # another one does not take its place in silence
    assert main(["audit", "begin", "--reason", "incident 7", "--home", str(home)]) == 0
    assert main(["audit", "verify", "--home", str(home)]) == 0
    assert known.read_bytes() != began


def test_a_lake_that_cannot_be_read_or_is_elsewhere_keeps_nobody_from_recording(
    settings: Settings, keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("vitalake.lake.storage.Storage.read_small", unreadable)
    Path(settings.lake_uri.removeprefix("file://"), "spans/_delta_log").mkdir(parents=True)
    _record(settings, keys)
    assert missed(settings) == "the lake cannot be read, which may know of another one"
    (settings.home / "vitalake.yaml").write_text("lake: {uri: 's3://bucket/lake', storage_options: {region: eu-1}}\n")
    far = load_settings(settings.home)
    keep_beginning(far)
    forget_beginning(far)
    assert missed(far) == ""
