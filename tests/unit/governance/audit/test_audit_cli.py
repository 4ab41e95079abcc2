"""``vitalake audit`` and ``vitalake token``: their output and exit codes, and that their use is recorded."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance.access import open_verifier
from governance.audit import AuditBroken, AuditEvent, beginning_mismatch, forget_beginning, open_audit
from governance.audit.lake_mark import keep_beginning
from governance.belonging import open_vault
from governance.belonging.fingerprints import fingerprints_of, write_fingerprints
from governance.policy.masks import Pseudonyms
from governance.vault import Identity
from pipelines.republish.rekey import retire
from vitalake.cli.app import main
from vitalake.keys import KeyRing, add_version, create_key_file, load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.tables.storage import open_storage
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


def _saw(home: Path, capsys: pytest.CaptureFixture[str], asked: str) -> tuple[list[str], bool]:
    """Return who read a name, as who-saw lists it, and whether it says that it searched for all pseudonyms."""
    assert main(["audit", "who-saw", asked, "--home", str(home), "--json"]) == 0
    document = _json(capsys)
    actors = [entry["actor"] for entry in document["records"] if entry["action"] == "identity.read"]
    return actors, document["all_pseudonyms"]


def _rekeyed(home: Path, settings: Settings, version: str) -> None:
    add_version(home / "keys.yaml", "pseudonym", version)
    keys = load_keys(home / "keys.yaml")
    with closing(open_vault(settings, keys)) as vault:
        vault.retoken(Pseudonyms(keys, "patient-identifier").token)


@pytest.mark.parametrize("kept", [True, False])
def test_who_saw_finds_accesses_under_every_pseudonym_that_a_patient_ever_had(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str], *, kept: bool
) -> None:
    """Asked by any of them, by the record number and by the id; also after the old key is retired.

    Kept or not: an earlier release has given new pseudonyms without keeping the old ones.
    """
    tokens = []
    with closing(open_vault(settings, keys)) as vault:
        first = Pseudonyms(keys, "patient-identifier").token("p-1")
        vault.put([(first, 1, Identity("p-1", "Zzname", "ZZMRN-1"))])
    for version in ("v1", "v2", "v3"):
        if version != "v1":
            _rekeyed(home, settings, version)
        ring = load_keys(home / "keys.yaml")
        tokens.append(Pseudonyms(ring, "patient-identifier").token("p-1"))
        event = AuditEvent("identity.read", version, "clinician", (tokens[-1],), {})
        open_audit(settings, ring, writer="serving").record(event)
    if not kept:
        with closing(open_vault(settings, ring)) as vault, vault._store.transaction() as transaction:
            transaction.run("DELETE FROM former")
    for asked in (*tokens, "ZZMRN-1", "p-1"):
        assert _saw(home, capsys, asked) == (["v1", "v2", "v3"], True)
    for version in ("v1", "v2"):
        retire(settings, version)
    assert len(load_keys(home / "keys.yaml").versions("pseudonym")) == 1
    for asked in (*tokens, "ZZMRN-1", "p-1"):
        assert _saw(home, capsys, asked) == (["v1", "v2", "v3"], True)


def test_a_vault_put_back_to_a_day_before_a_rekey_follows_the_new_pseudonyms(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(open_vault(settings, keys)) as vault:
        vault.enrol([("p-1", Pseudonyms(keys, "patient-identifier").token("p-1"))])
    add_version(home / "keys.yaml", "pseudonym", "v2")
    token = Pseudonyms(load_keys(home / "keys.yaml"), "patient-identifier").token("p-1")
    assert token.startswith("v2.")
    event = AuditEvent("identity.read", "v1", "clinician", (Pseudonyms(keys, "patient-identifier").token("p-1"),), {})
    open_audit(settings, keys, writer="serving").record(event)
    assert _saw(home, capsys, token) == (["v1"], True)


def test_who_saw_says_where_it_cannot_follow_a_pseudonym(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    assert main(["audit", "who-saw", PATIENT, "--home", str(home)]) == 0
    assert "only accesses under this one pseudonym" in capsys.readouterr().err
    assert main(["audit", "who-saw", "ZZMRN-9", "--home", str(home)]) == 11
    told = capsys.readouterr().err
    assert "No patient has this number or id" in told and "ZZMRN-9" not in told
    with closing(open_vault(settings, keys)) as vault:
        vault.enrol([("p-1", PATIENT)])
    assert main(["keys", "revoke", "--home", str(home)]) == 0
    capsys.readouterr()
    assert main(["audit", "who-saw", PATIENT, "--home", str(home)]) == 0, "an incident is when it is asked"
    shown = capsys.readouterr()
    assert "vault cannot be asked" in shown.err and "identity.read" in shown.out
    assert main(["audit", "who-saw", "p-1", "--home", str(home)]) == 12


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
    assert "The audit is intact." in capsys.readouterr().out
    kept.write_text("{}")
    assert main(["audit", "verify", "--home", str(home), "--known", str(kept)]) == 11
    assert "File is not a report of the audit" in capsys.readouterr().err


def test_verify_ends_with_12_when_a_record_was_changed(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    path = home / "audit/serving.jsonl"
    path.write_bytes(path.read_bytes().replace(b"clinician", b"clinicias"))
    assert main(["audit", "verify", "--home", str(home)]) == 12
    output = capsys.readouterr().out
    assert "NOT INTACT: records are changed" in output
    assert "The audit is NOT intact." in output


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
    assert checks["audit"]["finding"].endswith("heads are not copied to settings.anchors")


def test_verify_says_when_the_heads_were_last_kept_on_other_storage(
    home: Path, keys: KeyRing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (home / "vitalake.yaml").write_text(f"anchors: {outside}\n")
    _record(load_settings(home), keys)
    assert main(["audit", "verify", "--home", str(home)]) == 0
    assert "last copied to settings.anchors at" in capsys.readouterr().out


def test_an_audit_that_is_gone_with_its_heads_is_missed_by_the_lake_until_a_new_one_is_begun(
    home: Path, settings: Settings, keys: KeyRing, capsys: pytest.CaptureFixture[str]
) -> None:
    _record(settings, keys)
    assert beginning_mismatch(settings) == ""  # there is no lake that could know
    Lake(settings.lake_uri, settings.storage_options).open_all()
    _record(settings, keys)
    (known,) = (home / "lake").glob("audit*")
    began = known.read_bytes()
    assert main(["audit", "verify", "--home", str(home)]) == 0
    for folder in ("audit", "audit.heads"):
        shutil.rmtree(home / folder)
    capsys.readouterr()
    for _ in range(2):
        assert main(["audit", "verify", "--home", str(home)]) == 12
        assert "there is no audit, where the lake knows of one" in capsys.readouterr().out
        for writer in ("door", "serving"):
            with pytest.raises(AuditBroken, match="the lake knows of one"):
                open_audit(settings, keys, writer=writer)
    assert not (home / "audit").exists()  # another one does not take its place in silence
    (home / "lake" / "audit.txt").rename(home / "aside")
    _record(settings, keys)
    (home / "aside").rename(home / "lake" / "audit.txt")
    assert main(["audit", "verify", "--home", str(home)]) == 12
    assert "it is not the audit that the lake knows" in capsys.readouterr().out
    with pytest.raises(AuditBroken, match="not the audit that the lake knows"):
        open_audit(settings, keys, writer="door")
    assert known.read_bytes() == began
    assert main(["audit", "begin", "--reason", "incident 7", "--home", str(home)]) == 0
    assert main(["audit", "verify", "--home", str(home)]) == 0
    assert known.read_bytes() != began


def test_another_homes_lake_is_told_nothing_of_this_audit(home: Path, settings: Settings, keys: KeyRing) -> None:
    Lake(settings.lake_uri, settings.storage_options).open_all()
    storage = open_storage(settings.lake_uri, settings.storage_options)
    create_key_file(home / "others.yaml")
    write_fingerprints(storage, fingerprints_of(load_keys(home / "others.yaml"), ""))
    _record(settings, keys)
    assert not list((home / "lake").glob("audit*"))
    write_fingerprints(storage, fingerprints_of(keys, ""))
    _record(settings, keys)
    assert list((home / "lake").glob("audit*"))


def test_a_lake_that_cannot_be_read_or_is_elsewhere_keeps_nobody_from_recording(
    settings: Settings, keys: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("vitalake.lake.tables.storage.Storage.read_small", unreadable)
    log = Path(settings.lake_uri.removeprefix("file://"), "spans/_delta_log")
    log.mkdir(parents=True)
    (log / "00000000000000000000.json").touch()
    _record(settings, keys)
    assert beginning_mismatch(settings) == "the lake cannot be read, and may know of another audit"
    (settings.home / "vitalake.yaml").write_text("lake: {uri: 's3://bucket/lake', storage_options: {region: eu-1}}\n")
    far = load_settings(settings.home)
    keep_beginning(far, keys)
    forget_beginning(far)
    assert beginning_mismatch(far) == ""
