"""``vitalake keys``: keys are shown, rotated, revoked and restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance.audit import latest
from governance.belonging import open_vault
from governance.keyservice.local import create_local_service
from governance.vault import Vault
from tests.unit.governance.vault.vault_samples import WHO, people
from vitalake import clock
from vitalake.cli.app import main
from vitalake.keys import load_keys
from vitalake.settings import load_settings


def _vault(home: Path) -> Vault:
    return open_vault(load_settings(home), load_keys(home / "keys.yaml"))


def _run(home: Path, *arguments: str) -> int:
    return main(["keys", arguments[0], "--home", str(home), *arguments[1:]])


def _json(home: Path, capfdbinary: pytest.CaptureFixture[bytes], *arguments: str) -> Any:
    assert _run(home, *arguments, "--json") == 0
    return msgspec.json.decode(capfdbinary.readouterr().out)


def _actions(home: Path) -> list[str]:
    settings = load_settings(home)
    found = latest(settings.path(settings.audit), load_keys(home / "keys.yaml"), limit=20)
    return [entry.action for entry in found if entry.action != "keys.use"]


def test_init_makes_what_is_missing_and_tries_it(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (home / "vault-keys.yaml").unlink()
    (home / "keys.yaml").unlink()
    assert _json(home, capfdbinary, "init") == {"made": ["keys.yaml", "vault-keys.yaml", "vault key v1"]}
    assert _run(home, "init") == 0
    assert b"Nothing was missing" in capfdbinary.readouterr().out


def test_init_never_replaces_a_key_that_the_vault_needs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(home, "init") == 0
    assert "made  vault key v1" in capsys.readouterr().out
    away = (home / "vault-keys.yaml").rename(home / "away")
    assert _run(home, "init") == 12
    assert "the vault needs it: vault-keys.yaml. Restore the file with local/" in capsys.readouterr().err
    assert not (home / "vault-keys.yaml").exists()
    away.rename(home / "vault-keys.yaml")
    assert _run(home, "init") == 0


def test_status_shows_versions_states_and_counts_and_no_secret(
    home: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert _json(home, capfdbinary, "status")["vault"] is None
    assert not (home / "vault.db").exists(), "looking makes none"
    assert _run(home, "status") == 0
    assert b"there is none yet" in capfdbinary.readouterr().out
    vault = _vault(home)
    vault.enrol(people(3))
    vault.put([(people(2)[1][1], 1, WHO)])
    vault.erase(vault.subject_of("Zzp-2"), "c-1")
    found = _json(home, capfdbinary, "status")
    assert [(v["state"], v["current"]) for v in found["key_service"]["versions"]] == [("enabled", True)]
    assert [(key["version"], key["patients"]) for key in found["vault"]["keys"]] == [(1, 2)]
    assert (found["vault"]["identities"], found["vault"]["erased"]) == (1, 1)
    assert found["key_file"]["pseudonym"] == ["v1"]
    assert _run(home, "status") == 0
    shown = capfdbinary.readouterr().out.decode()
    assert f"made {clock.now():%Y-%m-%d} (today)" in shown
    assert "v1: keys of 2 patients; wrapped by local/" in shown
    assert "2 patients, 1 with a name; 1 erased, 0 of them not completely; 0 on legal hold" in shown
    secrets = [line.split()[-1] for line in (home / "vault-keys.yaml").read_text().splitlines() if "secret:" in line]
    assert secrets
    assert not any(secret in shown + msgspec.json.encode(found).decode() for secret in secrets)


def test_status_of_a_rotation_that_was_killed_and_of_old_keys(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vault = _vault(home)
    vault.enrol(people(1))
    vault._store.read("UPDATE vault SET rotating = 1")
    file = home / "vault-keys.yaml"
    file.write_text(file.read_text().replace(f"{clock.now():%Y-}", "2020-"))
    assert _run(home, "status") == 0
    shown = capsys.readouterr().out
    assert "not finished: run 'vitalake keys rotate'" in shown
    assert "days ago)" in shown


def test_status_ends_as_the_key_services_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _vault(home).enrol(people(1))
    (home / "vault-keys.yaml").unlink()
    assert _run(home, "status") == 12
    shown = capsys.readouterr().out
    assert "Wrapping key is out of reach (No such file or directory): vault-keys.yaml" in shown
    assert "keys of 1 patients" in shown


@pytest.mark.parametrize("fault", ["gone", "cut", "changed"])
def test_status_says_that_the_erasure_log_is_not_whole(
    home: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    vault, log = _vault(home), home / "erasures.jsonl"
    vault.enrol(people(3))
    for number in (1, 2):
        vault.erase(vault.subject_of(f"Zzp-{number}"), f"c-{number}")
    assert _run(home, "status") == 0
    assert "Erasure log: 2 entries" in capsys.readouterr().out
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes({"gone": b"", "cut": lines[0], "changed": lines[0] + lines[1].replace(b"c-2", b"c-9")}[fault])
    assert _run(home, "status") == 12
    shown = capsys.readouterr().out
    assert "erasures.jsonl" in shown
    assert "keys of 1 patients" in shown


def test_rotate_says_what_was_done_and_is_on_record(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    keys = _vault(home).enrol(people(3))
    found = _json(home, capfdbinary, "rotate")
    assert (found["wrapped"], found["patients"], found["version"]) == (3, 3, 2)
    assert _run(home, "rotate") == 0
    shown = capfdbinary.readouterr()
    assert b"Vault key v3, wrapped by " in shown.out
    assert b"Back up vault and key service now" in shown.err
    assert _vault(home).enrol(people(3)) == keys
    assert _actions(home) == ["keys.rotate"] * 4


def test_a_long_rotation_says_how_far_it_is(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _vault(home).enrol(people(2500))
    monkeypatch.setattr("governance.commands.keys._SHOW_EVERY", 2000)
    assert _run(home, "rotate") == 0
    assert "2,000 patients' keys wrapped …\nBack up" in capsys.readouterr().err


def test_revoke_locks_and_undo_opens_and_both_are_on_record(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = _vault(home).enrol(people(1))
    assert _run(home, "revoke") == 0
    assert "To undo this: vitalake keys revoke --undo" in capsys.readouterr().out
    assert _run(home, "rotate") == 12
    assert "Error: Wrapping key is revoked: vault-keys.yaml" in capsys.readouterr().err
    assert _run(home, "status") == 0
    assert ": revoked, in use" in capsys.readouterr().out
    assert _run(home, "revoke", "--undo") == 0
    assert "paused streams go on by themselves" in capsys.readouterr().out
    assert _vault(home).enrol(people(1)) == keys
    assert _actions(home) == ["keys.revoke", "keys.rotate", "keys.rotate", "keys.restore"]
    settings = load_settings(home)
    ends = [entry.detail for entry in latest(settings.path(settings.audit), load_keys(home / "keys.yaml"), limit=20)
            if entry.action == "keys.rotate"]  # fmt: skip
    assert [(end.get("outcome"), end.get("error")) for end in ends][-1] == ("stopped", "KeyRevoked")


def test_revoke_before_there_is_a_vault(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert _json(home, capfdbinary, "revoke") == {"kind": "local", "state": "revoked"}
    assert _json(home, capfdbinary, "revoke", "--undo") == {"kind": "local", "state": "enabled"}


def _doctor(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> dict[str, str]:
    main(["doctor", "--home", str(home), "--json"])
    checks = msgspec.json.decode(capfdbinary.readouterr().out)["checks"]
    (found,) = (check for check in checks if check["name"] == "key service")
    return {name: found[name] for name in ("result", "finding", "remedy")}


def test_doctor_says_whether_the_vaults_keys_can_be_had(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert _doctor(home, capfdbinary)["finding"] == "local, usable; the vault is still empty"
    vault = _vault(home)
    vault.enrol(people(2))
    assert _doctor(home, capfdbinary)["finding"] == "local, opens the vault's key v1 of 2 patients"
    vault._store.read("UPDATE vault SET rotating = 1")
    assert "a rotation is not finished" in _doctor(home, capfdbinary)["finding"]
    assert _run(home, "revoke") == 0
    capfdbinary.readouterr()
    found = _doctor(home, capfdbinary)
    assert (found["result"], found["finding"]) == ("fail", "Wrapping key is revoked (vault-keys.yaml)")
    assert "keys revoke --undo" in found["remedy"]
    (home / "vault-keys.yaml").unlink()
    create_local_service(home / "vault-keys.yaml")
    assert "this file does not contain it" in _doctor(home, capfdbinary)["finding"]
