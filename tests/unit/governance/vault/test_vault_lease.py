"""The lease: keys in memory are usable for one second after the key service last unwrapped them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from governance.keyservice import KeyRevoked, Wrapped
from governance.vault import Vault
from governance.vault.lease import boot_seconds
from governance.vault.store import CHUNK
from tests.unit.governance.vault.vault_samples import WHO, Place, people
from vitalake.errors import LakeError, PrivacyError


def _is_empty(vault: Vault) -> bool:
    return not (vault._lease._ciphers or vault._patients._by_id or vault._patients._by_subject)


def test_a_revoked_key_is_used_for_a_second_at_most_and_then_by_nobody(place: Place) -> None:
    vault = place.open()
    keys = vault.enrol(people(2))
    vault.put([(people(1)[0][1], 1, WHO)])
    place.service.revoke()
    place.seconds.now += 0.999
    assert vault.enrol(people(2)) == keys
    place.seconds.now += 0.001
    for use in (
        lambda: vault.enrol(people(2)),
        lambda: vault.secrets([vault.subject_of("Zzp-1")]),
        lambda: vault.patient_ids([vault.subject_of("Zzp-1")]),
        lambda: vault.look_up(people(1)[0][1]),
        lambda: vault.token_of_mrn("ZZMRN-1"),
        lambda: vault.put([(people(1)[0][1], 2, WHO)]),
        lambda: vault.retoken(str),
        lambda: vault.begin_erasure(vault.subject_of("Zzp-1"), "c-1", []),
        vault.pending_erasures,
        vault.rotate,
        vault.check,
    ):
        with pytest.raises(KeyRevoked, match=r"revoked: .*'vitalake keys revoke --undo'"):
            use()
        assert _is_empty(vault)
    assert KeyRevoked.transient
    assert vault.tombstone(vault.subject_of("Zzp-1")) is None
    place.service.restore()
    assert vault.enrol(people(2)) == keys


def test_the_second_counts_from_the_question_not_from_the_answer(place: Place) -> None:
    vault = place.open()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(place.service, name)

        def unwrap(self, wrapped: Wrapped, *, context: bytes) -> bytes:
            place.seconds.now += 0.9
            return place.service.unwrap(wrapped, context=context)

    vault._lease._service = Slow()
    vault.enrol(people(1))
    place.service.revoke()
    place.seconds.now += 0.11
    with pytest.raises(KeyRevoked):
        vault.enrol(people(1))


def test_a_service_that_does_not_answer_locks_too(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(1))
    place.service_file.rename(place.folder / "away")
    (place.folder / "vault-keys.yaml").mkdir()
    with pytest.raises(LakeError, match="cannot be read"):
        vault.check()
    assert _is_empty(vault)


def test_a_large_batch_asks_again_on_its_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = place.open()
    enrol = vault._patients._enrol

    def slow(*arguments: Any) -> Any:
        place.seconds.now += 1
        place.service.revoke()
        return enrol(*arguments)

    monkeypatch.setattr(vault._patients, "_enrol", slow)
    with pytest.raises(KeyRevoked):
        vault.enrol(people(CHUNK + 1))
    assert vault.status().patients == CHUNK


def test_who_was_erased_by_another_process_is_forgotten_within_a_second(place: Place) -> None:
    vault, other = place.open(), place.open()
    vault.enrol(people(2))
    subject = vault.subject_of("Zzp-0")
    other.erase(subject, "c-1")
    place.seconds.now += 1
    assert [key is None for key in vault.enrol(people(2))] == [True, False]
    assert vault.secrets([subject]) == {}
    assert vault.generation == 1


def test_who_is_erased_while_a_batch_is_enrolled_does_not_come_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, other = place.open(), place.open()
    vault.enrol(people(CHUNK + 1))
    vault._patients.forget()
    enrol = vault._patients._enrol
    done: list[object] = []

    def erasing(*arguments: Any) -> Any:
        found = enrol(*arguments)
        if not done:
            done.append(other.erase(vault.subject_of("Zzp-0"), "c-1"))
            place.seconds.now += 1
        return found

    monkeypatch.setattr(vault._patients, "_enrol", erasing)
    assert [key is None for key in vault.enrol(people(CHUNK + 1))[:2]] == [True, False]


def test_the_same_of_secrets(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, other = place.open(), place.open()
    subjects = [key.subject for key in vault.enrol(people(CHUNK + 1)) if key]
    vault._patients.forget()
    keys_of = vault._patients._keys_of
    done: list[object] = []

    def erasing(*arguments: Any) -> Any:
        found = keys_of(*arguments)
        if not done:
            done.append(other.erase(subjects[0], "c-1"))
            place.seconds.now += 1
        return found

    monkeypatch.setattr(vault._patients, "_keys_of", erasing)
    assert set(vault.secrets(iter(subjects))) == set(subjects[1:])


def test_a_vaults_key_that_is_gone_says_so(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(1))
    vault._store.read("UPDATE patient SET vault_key = 7")
    with pytest.raises(PrivacyError, match=r"Vault's key is gone: vault key v7"):
        place.open().enrol(people(1))


def test_the_service_of_another_home_is_out_of_reach_not_a_broken_vault(place: Place, tmp_path: Path) -> None:
    place.open().enrol(people(1))
    other = tmp_path / "other"
    other.mkdir()
    place.service = Place(other).service
    with pytest.raises(KeyRevoked, match="does not contain it"):
        place.open().enrol(people(1))


def test_the_leases_clock_runs_forward() -> None:
    assert boot_seconds() <= boot_seconds()
