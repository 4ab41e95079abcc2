"""Rotation: new keys wrap the same patients' keys and the old ones are destroyed, also after a kill."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from governance.keyservice import KeyRevoked, Wrapped
from governance.vault import PatientKey, Vault
from tests.unit.governance.vault.vault_samples import TOKENS, WHO, Place, people, run
from vitalake.errors import PrivacyError


def _wrapped(vault: Vault) -> list[Any]:
    return vault._store.read("SELECT version, key_id, wrapped FROM vault_key ORDER BY version")


def _context(vault: Vault) -> bytes:
    return f"vault {vault._store.read('SELECT id FROM vault')[0][0]} v1".encode()  # noqa: S608 - it is no SQL


def _check_rotated(place: Place, vault: Vault, old: list[Any], context: bytes) -> None:
    """Assert that the vault has one key, of one version of the service, and that the older one is destroyed."""
    ((version, key_id, _),) = _wrapped(vault)
    assert version > old[-1][0]
    assert [v.key_id for v in place.service.status() if v.state != "destroyed"] == [key_id]
    assert not any(wrapped in place.content() for _, _, wrapped in old)
    for _, old_id, wrapped in old:
        with pytest.raises(KeyRevoked, match="does not contain it"):
            place.service.unwrap(Wrapped(old_id, wrapped), context=context)
    assert not vault.status().rotating


def test_everything_opens_after_a_rotation_and_only_the_vault_was_touched(place: Place) -> None:
    vault = place.open()
    keys = vault.enrol(people(5000))
    vault.put([(TOKENS[1], 1, WHO)])
    vault.begin_erasure(vault.subject_of("Zzp-2"), "c-1", ["Zzp-2"])
    old = _wrapped(vault)
    seen: list[int] = []
    log = place.log.read_bytes()
    other = place.open()
    other.check()
    assert vault.rotate(seen.append) == 4999
    assert seen == [2000, 4000, 4999]
    _check_rotated(place, vault, old, _context(vault))
    assert place.log.read_bytes() == log
    keys[2] = None
    for after in (vault, other, place.open()):  # the other one still has the old key in memory
        assert after.enrol(people(5000)) == keys
        assert after.look_up(TOKENS[1]) == WHO
        assert [pending.identifiers for pending in after.pending_erasures()] == [("Zzp-2",)]
    assert vault.rotate() == 4999
    assert [key.version for key in vault.status().keys] == [3]


def test_who_enrols_while_it_rotates_wraps_with_the_new_key(place: Place) -> None:
    vault, other = place.open(), place.open()
    vault.enrol(people(3000))
    other.check()
    met: list[PatientKey | None] = []

    def meet(_: int) -> None:
        met.append(other.enrol([(f"Zznew-{len(met)}", f"v1.new{len(met)}")])[0])

    assert vault.rotate(meet) == 3000
    assert [place.open().enrol([(f"Zznew-{i}", "")])[0] for i in range(2)] == met
    assert [(key.version, key.patients) for key in vault.status().keys] == [(2, 3002)]


@pytest.mark.parametrize("point", ["keys-rewrapped", "keys-rewrapped:2", "keys-destroying"])
def test_a_killed_rotation_goes_on(place: Place, point: str) -> None:
    vault = place.open()
    keys = vault.enrol(people(3000))
    old, context = _wrapped(vault), _context(vault)
    ended = run(place, "place.open().rotate()", VITALAKE_CRASH_AT=point)
    assert ended == [-signal.SIGKILL]
    assert vault.status().rotating
    place.seconds.now += 1
    assert vault.enrol(people(3000)) == keys
    vault.rotate()
    assert [key.version for key in vault.status().keys] == [2], "the one that was begun"
    _check_rotated(place, vault, old, context)
    assert place.open().enrol(people(3000)) == keys


def test_a_rotation_killed_between_service_and_vault_leaves_no_key_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = place.open()
    keys = vault.enrol(people(3))

    def die(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(vault._lease, "add_version", die)
    with pytest.raises(KeyboardInterrupt):
        vault.rotate()
    monkeypatch.undo()
    assert len(place.service.status()) == 2
    assert not vault.status().rotating
    vault.rotate()
    assert [version.state for version in place.service.status()] == ["destroyed", "destroyed", "enabled"]
    assert place.open().enrol(people(3)) == keys


def test_status_counts_and_tells_no_secret(place: Place) -> None:
    vault = place.open()
    assert vault.status().keys == []
    vault.enrol(people(3))
    vault.put([(TOKENS[1], 1, WHO)])
    vault.erase(vault.subject_of("Zzp-0"), "c-1")
    status = vault.status()
    assert (status.patients, status.identities, status.erased, status.pending) == (2, 1, 1, 0)
    assert [(key.version, key.patients) for key in status.keys] == [(1, 2)]
    assert status.keys[0].key_id == place.service.status()[0].key_id


def test_an_older_service_file_cannot_bring_a_destroyed_version_into_use(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(1))
    file = place.service_file.read_bytes()
    vault.rotate()
    place.service_file.write_bytes(file)
    with pytest.raises(KeyRevoked, match="does not contain it"):
        vault.check()
    with pytest.raises(PrivacyError, match="keys rotate' first"):
        place.service.destroy(place.service.status()[0].key_id)
