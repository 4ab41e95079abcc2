"""The vault: who is behind a pseudonym, sealed, and nothing of it in clear."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vitalake.errors import PrivacyError, ServiceUnavailable
from vitalake.keys import Key
from vitalake.keyservice.local import LocalKeyService, create_local_service
from vitalake.vault import Identity, Vault
from vitalake.vault.on_sqlite import SqliteStore

KEY = Key("vault", "v1", bytes(range(32)))
WHO = Identity("p-1", "Zzname, Zzgiven", "ZZMRN-1", "1958-03-09", "1 Zzroad")


def _vault(folder: Path, key: Key = KEY) -> Vault:
    if not (folder / "vault-keys.yaml").exists():
        create_local_service(folder / "vault-keys.yaml")
    return Vault(SqliteStore(folder / "vault.db"), key, LocalKeyService(folder / "vault-keys.yaml"))


def test_a_pseudonym_and_a_record_number_lead_to_the_same_person(tmp_path: Path) -> None:
    vault = _vault(tmp_path)
    vault.put([("v1.a", 1, WHO), ("v1.b", 1, Identity("p-2"))])
    vault.close()
    vault = _vault(tmp_path)
    assert vault.look_up("v1.a") == WHO
    assert vault.token_of_mrn("ZZMRN-1") == "v1.a"
    assert vault.look_up("v1.b") == Identity("p-2")
    assert vault.look_up("v1.c") is None
    assert vault.token_of_mrn("ZZMRN-2") is None


def test_an_older_version_changes_nothing_and_a_newer_one_replaces(tmp_path: Path) -> None:
    vault = _vault(tmp_path)
    vault.put([("v1.a", 2, WHO)])
    vault.put([("v1.a", 1, Identity("p-1", "Older, Name"))])
    assert vault.look_up("v1.a") == WHO
    vault.put([("v1.a", 3, Identity("p-1", "Newer, Name", "ZZMRN-9"))])
    found = vault.look_up("v1.a")
    assert found is not None
    assert found.name == "Newer, Name"
    assert vault.token_of_mrn("ZZMRN-1") is None


def test_nothing_stands_in_clear_and_only_the_owner_may_read(tmp_path: Path) -> None:
    vault = _vault(tmp_path)
    vault.put([("v1.a", 1, WHO)])
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"v1.a" in content
    for planted in (b"Zz", b"ZZMRN", b"1958", b"p-1"):
        assert planted not in content
    assert all(not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for path in tmp_path.iterdir())
    assert "Zz" not in repr(WHO)


def test_an_identity_moved_to_another_pseudonym_does_not_open(tmp_path: Path) -> None:
    vault = _vault(tmp_path)
    vault.put([("v1.a", 1, WHO)])
    vault._store.read("UPDATE patient SET token = 'v1.b'")
    with pytest.raises(PrivacyError, match="cannot be opened"):
        vault.look_up("v1.b")


def test_another_key_opens_nothing_and_finds_nobody(tmp_path: Path) -> None:
    _vault(tmp_path).put([("v1.a", 1, WHO)])
    other = _vault(tmp_path, Key("vault", "v2", bytes(32)))
    assert other.token_of_mrn("ZZMRN-1") is None


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    vault = _vault(tmp_path)
    with pytest.raises(ServiceUnavailable):
        vault.put([("v1.a", 1, WHO), ("v1.b", object(), Identity("p-2"))])  # type: ignore[list-item]
    assert vault.look_up("v1.a") is None


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "vault.db").write_bytes(b"Zzmarker" * 1000)
    with pytest.raises(ServiceUnavailable) as caught:
        _vault(tmp_path)
    assert "Zzmarker" not in str(caught.value)
