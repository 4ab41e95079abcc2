"""The first use of a wrapped key, for a purpose, is on record before anything is done with it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from governance.audit import AuditBroken, latest
from governance.keyuse import open_vault
from tests.unit.governance.vault.vault_samples import Place, people
from vitalake.keys import load_keys
from vitalake.settings import load_settings


def test_one_record_for_a_purpose_and_a_key_however_often_it_is_opened(home: Path) -> None:
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    for purpose in ("stream", "stream", "names"):
        with closing(open_vault(settings, keys, purpose=purpose)) as vault:
            vault.enrol(people(3))
            vault.check()
    found = latest(home / "audit", keys, limit=10)
    assert [(seen.action, seen.detail["purpose"]) for seen in found] == [("keys.use", "stream"), ("keys.use", "names")]
    assert {seen.detail["key"].partition("/")[0] for seen in found} == {"local"}


def test_what_cannot_be_recorded_is_not_used(home: Path) -> None:
    settings = load_settings(home)
    keys = load_keys(settings.path(settings.keys))
    with closing(open_vault(settings, keys, purpose="one")) as vault:
        vault.enrol(people(1))
    (home / "audit/keys.head").unlink()
    with closing(open_vault(settings, keys, purpose="two")) as vault:
        for _ in range(2):
            with pytest.raises(AuditBroken):
                vault.enrol(people(1))


def test_a_stores_key_is_made_once_kept_by_a_rotation_and_locked_with_the_vault(place: Place) -> None:
    with closing(place.open()) as one, closing(place.open()) as other:
        secret = one.store_secret("care")
        assert (other.store_secret("care"), one.store_secret("care")) == (secret, secret)
        assert one.store_secret("scores") != secret
        assert secret not in place.content()
        one.rotate()
        assert other.store_secret("care") == secret
        place.service.revoke()
        place.seconds.now += 1.0
        for vault in (one, other):
            with pytest.raises(Exception, match="Wrapping key is revoked"):
                vault.store_secret("care")
            with pytest.raises(Exception, match="Wrapping key is revoked"):
                vault.hold_keys()
        place.service.restore()
        assert other.store_secret("care") == secret
