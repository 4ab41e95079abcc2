"""The vault: each patient's key, the identity behind each pseudonym, and nothing of them in clear."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance.belonging import open_vault
from governance.vault import Identity, PatientKey
from governance.vault import patients as patients_module
from governance.vault.on_sqlite import SqliteStore
from governance.vault.opening import look_at_vault
from tests.unit.governance.vault.vault_samples import KEY, WHO, Place, people
from vitalake.errors import PrivacyError, ServiceUnavailable, SettingsError
from vitalake.keys import Key, load_keys
from vitalake.sealing import Sealer
from vitalake.settings import load_settings
from vitalake.sqlite import DatabaseDamaged

# -- keys ------------------------------------------------------------------------------------------------------------


def test_each_patient_has_one_key_for_ever(place: Place) -> None:
    vault = place.open()
    first = vault.enrol(people(3))
    assert len({key.secret for key in first if key}) == 3
    assert vault.enrol([*people(2), people(1)[0]]) == [*first[:2], first[0]]
    assert place.open().enrol(people(4))[:3] == first
    assert [key.subject for key in first if key] == [vault.subject_of(patient) for patient, _ in people(3)]
    assert "secret" not in repr(first[0])


def test_two_that_meet_a_patient_at_once_get_the_key_of_the_first(place: Place) -> None:
    one, other = place.open(), place.open()
    one.check()
    other.check()
    made = one.enrol(people(3))
    assert other.enrol(people(4))[:3] == made


def test_a_key_that_came_between_look_and_insert_wins(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = place.open(), place.open()
    made: list[PatientKey | None] = []
    transaction = one._store.transaction

    def between() -> Any:
        made.extend(other.enrol(people(2)))
        return transaction()

    one.check()
    monkeypatch.setattr(one._store, "transaction", between)
    assert one.enrol(people(2)) == made


def test_of_two_that_open_a_new_vault_at_once_one_makes_its_key(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = place.open(), place.open()
    transaction = one._store.transaction

    def between() -> Any:
        other.check()
        return transaction()

    monkeypatch.setattr(one._store, "transaction", between)
    one.check()
    assert [key.version for key in one.status().keys] == [1]
    assert one._lease.current == other._lease.current == 1


def test_who_is_erased_between_key_and_identity_gets_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, other = place.open(), place.open()
    vault.enrol(people(1))
    enrol = vault._patients.enrol

    def erasing(*arguments: Any) -> Any:
        keys = enrol(*arguments)
        other.erase(other.subject_of("Zzp-0"), "c-1")
        return keys

    monkeypatch.setattr(vault._patients, "enrol", erasing)
    vault.put([(people(1)[0][1], 1, Identity("Zzp-0", "Zzname"))])
    assert vault.status().identities == 0


def test_secrets_are_those_of_the_known(place: Place) -> None:
    vault = place.open()
    keys = [key for key in vault.enrol(people(2)) if key]
    unknown = vault.subject_of("Zzstranger")
    expected = {key.subject: key.secret for key in keys}
    assert vault.secrets([unknown, *expected]) == expected
    assert place.open().secrets(iter([unknown, *expected])) == expected
    assert place.open().patient_ids([unknown, *expected]) == {vault.subject_of(p): p for p, _ in people(2)}
    assert vault.tokens() == {vault.subject_of(p): token for p, token in people(2)}
    assert vault.subject_of_token(people(1)[0][1]) == vault.subject_of(people(1)[0][0])
    assert vault.subject_of_token("v1.stranger") is None


def test_a_full_cache_is_emptied_and_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patients_module, "CACHE_PATIENTS", 2)
    vault = place.open()
    keys = vault.enrol(people(3))
    assert not vault._patients._by_id
    assert vault.secrets([key.subject for key in keys if key]) == {key.subject: key.secret for key in keys if key}
    assert not vault._patients._by_subject
    assert vault.enrol(people(3)) == keys


def test_a_new_pseudonym_key_gives_new_tokens_and_keeps_all_else(place: Place) -> None:
    vault = place.open()
    keys = vault.enrol(people(2))
    vault.put([(people(2)[1][1], 1, WHO_1)])
    assert vault.retoken(lambda patient: f"v2.{patient}") == 2
    assert vault.retoken(lambda patient: f"v2.{patient}") == 0
    assert vault.look_up("v2.Zzp-1") == WHO_1
    assert vault.look_up(people(2)[1][1]) is None
    assert place.open().patient_ids(vault.tokens()) == {vault.subject_of(p): p for p, _ in people(2)}
    assert place.open().enrol(people(2)) == keys


def test_former_pseudonyms_are_kept_sealed_and_lead_to_the_patient(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(2))
    subject, former = vault.subject_of("Zzp-1"), people(2)[1][1]
    assert vault.keep_former("v1", dict(people(2)).__getitem__) == 0, "what is in use is no former one"
    vault.retoken(lambda patient: f"v2.{patient}")
    vault.retoken(lambda patient: f"v3.{patient}")
    assert vault.tokens_of(subject) == {former, "v2.Zzp-1", "v3.Zzp-1"}
    assert all(former.encode() not in bytes(sealed) for (sealed,) in vault._store.read("SELECT sealed FROM former"))
    for token in (former, "v2.Zzp-1", "v3.Zzp-1"):
        assert place.open().subject_of_token(token) == subject
    assert vault.subject_of_token("v2.stranger") is None
    assert vault.tokens_of(vault.subject_of("stranger")) == set()


def test_former_pseudonyms_that_an_earlier_release_did_not_keep_can_be_kept_later(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(3))
    vault.retoken(lambda patient: f"v2.{patient}")
    with vault._store.transaction() as transaction:
        transaction.run("DELETE FROM former WHERE key_version = ?", ("v1",))
    assert vault.subject_of_token(people(2)[1][1]) is None
    assert vault.keep_former("v1", dict(people(3)).__getitem__) == 3
    assert vault.keep_former("v1", dict(people(3)).__getitem__) == 0
    assert vault.subject_of_token(people(2)[1][1]) == vault.subject_of("Zzp-1")


WHO_1 = Identity("Zzp-1", "Zzname, Zzgiven")


def test_a_wrapped_key_that_was_moved_to_another_patient_does_not_open(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(2))
    vault._store.read("UPDATE patient SET wrapped = (SELECT wrapped FROM patient WHERE token = ?)", (people(1)[0][1],))
    with pytest.raises(PrivacyError, match="cannot be opened"):
        place.open().enrol(people(2))


# -- identities ------------------------------------------------------------------------------------------------------


def test_a_pseudonym_and_a_record_number_lead_to_the_same_person(place: Place) -> None:
    vault = place.open()
    vault.put([("v1.a", 1, WHO), ("v1.b", 1, Identity("Zzp-2"))])
    vault.close()
    vault = place.open()
    assert vault.look_up("v1.a") == WHO
    assert vault.token_of_mrn("ZZMRN-1") == "v1.a"
    assert vault.look_up("v1.b") == Identity("Zzp-2")
    assert vault.look_up("v1.c") is None
    assert vault.token_of_mrn("ZZMRN-2") is None


def test_who_has_a_key_and_no_identity_yet_is_nobody_known(place: Place) -> None:
    vault = place.open()
    vault.enrol([("Zzp-1", "v1.a")])
    assert vault.look_up("v1.a") is None
    vault.put([("v1.a", 1, WHO)])
    assert vault.look_up("v1.a") == WHO


def test_an_older_version_changes_nothing_and_a_newer_one_replaces(place: Place) -> None:
    vault = place.open()
    vault.put([("v1.a", 2, WHO)])
    vault.put([("v1.a", 1, Identity("Zzp-1", "Older, Name"))])
    assert vault.look_up("v1.a") == WHO
    vault.put([("v1.a", 3, Identity("Zzp-1", "Newer, Name", "ZZMRN-9"))])
    found = vault.look_up("v1.a")
    assert found is not None
    assert found.name == "Newer, Name"
    assert vault.token_of_mrn("ZZMRN-1") is None


def test_nothing_stands_in_clear_and_only_the_owner_may_read(place: Place) -> None:
    vault = place.open()
    vault.put([("v1.a", 1, WHO)])
    keys = vault.enrol([("Zzp-1", "v1.a")])
    vault.hold(vault.subject_of("Zzp-1"), "Zz against Zz")
    content = place.content()
    assert b"v1.a" in content
    for planted in (
        b"Zzp-",
        b"Zzname",
        b"Zzroad",
        b"Zz against",
        b"ZZMRN",
        b"1958-03",
        *(key.secret for key in keys if key),
    ):
        assert planted not in content
    assert all(not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for path in place.folder.iterdir())
    assert "Zz" not in repr(WHO)


def test_an_identity_moved_to_another_pseudonym_does_not_open(place: Place) -> None:
    vault = place.open()
    vault.put([("v1.a", 1, WHO)])
    vault._store.read("UPDATE patient SET token = 'v1.b'")
    with pytest.raises(PrivacyError, match="cannot be opened"):
        vault.look_up("v1.b")
    with pytest.raises(PrivacyError, match="cannot be opened"):
        vault.patient_ids([vault.subject_of("Zzp-1")])


def test_another_key_finds_nobody(place: Place) -> None:
    place.open().put([("v1.a", 1, WHO)])
    other = place.open(Key("vault", "v2", bytes(32)))
    assert other.token_of_mrn("ZZMRN-1") is None


def test_a_batch_is_stored_whole_or_not_at_all(place: Place) -> None:
    vault = place.open()
    with pytest.raises(ServiceUnavailable):
        vault.put([("v1.a", 1, WHO), ("v1.b", object(), Identity("Zzp-2"))])  # type: ignore[list-item]
    assert vault.look_up("v1.a") is None


def test_a_file_that_is_none_says_so(sqlite_place: Place) -> None:
    (sqlite_place.folder / "vault.db").write_bytes(b"Zzmarker" * 1000)
    with pytest.raises(DatabaseDamaged, match="back-up") as caught:  # not tried again for ever
        sqlite_place.open()
    assert "Zzmarker" not in str(caught.value)


def test_a_vault_that_cannot_be_read_says_so_and_quotes_nothing(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(1))
    vault._store.read("DROP TABLE patient")
    with pytest.raises((ServiceUnavailable, DatabaseDamaged), match=r"Vault refuses|Vault is damaged") as caught:
        vault.look_up("v1.Zz")
    assert "Zz" not in str(caught.value)


# -- opening ---------------------------------------------------------------------------------------------------------

_OLD = """
CREATE TABLE identity (token TEXT PRIMARY KEY, version INTEGER NOT NULL, mrn_digest BLOB, sealed BLOB NOT NULL)
WITHOUT ROWID;
CREATE INDEX identity_mrn ON identity (mrn_digest);
"""


def _old_vault(path: Path, key: Key) -> bytes:
    """Write a vault of the first form; return the values sealed in it."""
    sealed = Sealer(key).seal(msgspec.json.encode(WHO), context=b"v1.a")
    with sqlite3.connect(path) as db:
        db.executescript(_OLD)
        db.execute("INSERT INTO identity VALUES ('v1.a', 7, ?, ?)", (b"digest", sealed))
    return sealed


def test_a_vault_of_the_first_form_is_taken_over_and_the_old_form_is_gone(home: Path) -> None:
    settings = load_settings(home)
    keys = load_keys(home / "keys.yaml")
    sealed = _old_vault(home / "vault.db", keys.current("vault"))
    vault = open_vault(settings, keys)
    assert vault.look_up("v1.a") == WHO
    assert vault.token_of_mrn("ZZMRN-1") == "v1.a"
    vault.put([("v1.a", 6, WHO_1)])
    assert vault.look_up("v1.a") == WHO, "its version came along"
    vault.close()
    assert sealed not in (home / "vault.db").read_bytes()
    assert open_vault(settings, keys).look_up("v1.a") == WHO


def test_a_vault_of_the_first_form_with_another_key_is_left_as_it_is(home: Path) -> None:
    sealed = _old_vault(home / "vault.db", KEY)
    with pytest.raises(PrivacyError, match="Restore the key file"):
        open_vault(load_settings(home), load_keys(home / "keys.yaml"))
    assert sealed in (home / "vault.db").read_bytes()


@pytest.mark.parametrize(
    "address", ["postgresql://u:Zzword@h/d", "postgresql://h/d?password=Zzword", "postgresql://[u:Zz@"]
)
def test_a_password_in_the_configuration_is_refused(home: Path, address: str) -> None:
    (home / "vitalake.yaml").write_text(f"vault: '{address}'\n")
    with pytest.raises(SettingsError, match="Write env:NAME or file:PATH") as caught:
        open_vault(load_settings(home), load_keys(home / "keys.yaml"))
    assert "Zz" not in str(caught.value)
    assert "Zz" not in repr(load_settings(home))


def test_a_vault_that_nobody_has_opened_yet_is_none(home: Path) -> None:
    assert look_at_vault(load_settings(home)) is None
    SqliteStore(home / "vault.db").close()
    assert look_at_vault(load_settings(home)) is None


def test_a_reference_that_leads_nowhere_is_refused(home: Path) -> None:
    (home / "vitalake.yaml").write_text("vault: env:VITALAKE_TEST_NO_SUCH\n")
    with pytest.raises(SettingsError, match="Reference cannot be resolved"):
        open_vault(load_settings(home), load_keys(home / "keys.yaml"))
