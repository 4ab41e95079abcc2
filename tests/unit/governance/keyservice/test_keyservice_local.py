"""The key service of one machine: a file with versions and states."""

from __future__ import annotations

import pickle
import stat
import threading
from pathlib import Path

import pytest
import yaml

from governance.keyservice import KeyRevoked, Wrapped, open_key_service
from governance.keyservice.local import LocalKeyService, create_local_service
from vitalake.errors import PrivacyError, ServiceUnavailable
from vitalake.settings import load_settings

PLAIN, PLACE = b"k" * 32, b"vault x v1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_local_service(tmp_path / "vault-keys.yaml")
    return tmp_path / "vault-keys.yaml"


@pytest.fixture
def service(path: Path) -> LocalKeyService:
    return LocalKeyService(path)


def test_what_is_wrapped_unwraps_at_its_place_only(service: LocalKeyService) -> None:
    wrapped = service.wrap(PLAIN, context=PLACE)
    assert PLAIN not in wrapped.sealed
    assert service.unwrap(wrapped, context=PLACE) == PLAIN
    changed = Wrapped(wrapped.key_id, wrapped.sealed[:-1] + bytes([wrapped.sealed[-1] ^ 1]))
    for other, place in ((wrapped, b"vault y v1"), (changed, PLACE), (Wrapped(wrapped.key_id, b""), PLACE)):
        with pytest.raises(PrivacyError, match="cannot be opened") as caught:
            service.unwrap(other, context=place)
        assert not caught.value.transient


def test_the_file_is_for_its_owner_only_and_never_overwritten(path: Path, service: LocalKeyService) -> None:
    assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    with pytest.raises(FileExistsError):
        create_local_service(path)
    service.rotate()
    assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    path.chmod(0o640)
    with pytest.raises(PrivacyError, match="open to others") as caught:
        service.wrap(PLAIN, context=PLACE)
    assert "chmod 600" in caught.value.remedy


def test_a_home_gets_a_service_of_its_own(home: Path) -> None:
    service = open_key_service(load_settings(home))
    assert service.kind == "local"
    assert [(version.state, version.current) for version in service.status()] == [("enabled", True)]


def test_an_older_version_still_unwraps_until_it_is_destroyed(service: LocalKeyService) -> None:
    wrapped = service.wrap(PLAIN, context=PLACE)
    newer = service.rotate()
    assert service.wrap(PLAIN, context=PLACE).key_id == newer
    assert service.unwrap(wrapped, context=PLACE) == PLAIN
    assert service.destroy(wrapped.key_id)
    assert not service.destroy(wrapped.key_id)
    with pytest.raises(KeyRevoked, match="does not contain it"):
        service.unwrap(wrapped, context=PLACE)
    assert [(v.state, v.current) for v in service.status()] == [("destroyed", False), ("enabled", True)]
    with pytest.raises(PrivacyError, match="keys rotate' first"):
        service.destroy(newer)


def test_revoked_it_does_nothing_until_it_is_restored(path: Path, service: LocalKeyService) -> None:
    wrapped = service.wrap(PLAIN, context=PLACE)
    LocalKeyService(path).revoke()
    for use in (
        lambda: service.wrap(PLAIN, context=PLACE),
        lambda: service.unwrap(wrapped, context=PLACE),
        service.rotate,
    ):
        with pytest.raises(KeyRevoked, match="is revoked") as caught:
            use()
        assert caught.value.transient
        assert caught.value.exit_code == 12
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301
    assert [version.state for version in service.status()] == ["revoked"]
    LocalKeyService(path).restore()
    assert service.unwrap(wrapped, context=PLACE) == PLAIN


def test_a_file_that_was_taken_away_is_a_revoked_key(path: Path, service: LocalKeyService) -> None:
    wrapped = service.wrap(PLAIN, context=PLACE)
    away = path.rename(path.with_name("away"))
    with pytest.raises(KeyRevoked, match=r"out of reach \(No such file or directory\)"):
        service.unwrap(wrapped, context=PLACE)
    with pytest.raises(KeyRevoked, match="out of reach"):
        service.revoke()
    away.rename(path)
    assert service.unwrap(wrapped, context=PLACE) == PLAIN


def test_a_file_made_anew_is_not_taken_for_the_old_one(path: Path, service: LocalKeyService) -> None:
    wrapped = service.wrap(PLAIN, context=PLACE)
    path.unlink()
    create_local_service(path)
    with pytest.raises(KeyRevoked, match="Restore the key service's file"):
        service.unwrap(wrapped, context=PLACE)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(state="asleep"),
        lambda d: d.update(current="v9"),
        lambda d: d["versions"]["v1"].update(secret="Zz!"),
        lambda d: d["versions"]["v1"].update(secret="Zzzz"),
        lambda d: d["versions"]["v1"].update(made_at="Zz"),
        lambda d: d["versions"]["v1"].pop("secret"),
        lambda d: d.pop("versions"),
        lambda d: d.pop("service"),
        lambda d: d.update(versions="Zz"),
    ],
)
def test_a_file_that_is_none_says_so_and_is_not_echoed(path: Path, service: LocalKeyService, change: object) -> None:
    document = yaml.safe_load(path.read_text())
    change(document)  # type: ignore[operator]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(PrivacyError, match="file is not valid") as caught:
        service.wrap(PLAIN, context=PLACE)
    assert "Zz" not in str(caught.value)


def test_text_that_is_no_yaml_or_no_text_says_so(path: Path, service: LocalKeyService) -> None:
    path.write_text("Zz: [")
    with pytest.raises(PrivacyError, match="file is not valid"):
        service.status()
    path.write_bytes(b"\xff")
    with pytest.raises(PrivacyError, match="file is not valid"):  # trying again would not help
        service.status()


def test_a_change_that_cannot_be_written_leaves_the_file_as_it_was(
    path: Path, service: LocalKeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ServiceUnavailable, match="No space left"):
        service.revoke()
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_changes_at_once_are_made_one_after_the_other(path: Path) -> None:
    threads = [threading.Thread(target=LocalKeyService(path).rotate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(LocalKeyService(path).status()) == 9
