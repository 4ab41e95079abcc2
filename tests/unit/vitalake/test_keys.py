"""The key file: made once, for its owner only, and never echoed."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from governance.home import init_home
from governance.samples import copy_samples
from vitalake.errors import PrivacyError
from vitalake.keys import KEY_NAMES, add_version, create_key_file, load_keys, next_version, retire_version


def test_a_new_file_holds_version_one_of_every_key_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    create_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    keys = load_keys(path)
    assert [keys.current(name).id for name in KEY_NAMES] == [f"{name}/v1" for name in KEY_NAMES]
    assert len({keys.current(name).secret for name in KEY_NAMES}) == len(KEY_NAMES)
    assert str(keys.current("pseudonym").secret) not in repr(keys)
    with pytest.raises(FileExistsError):
        create_key_file(path)


def test_a_file_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    create_key_file(path)
    path.chmod(0o640)
    with pytest.raises(PrivacyError, match="open to others"):
        load_keys(path)


@pytest.mark.parametrize("change", ["short", "not base64", "no current", "missing", "not yaml", "gone", "list"])
def test_a_broken_file_is_refused_without_its_content(tmp_path: Path, change: str) -> None:
    path = tmp_path / "keys.yaml"
    create_key_file(path)
    document = yaml.safe_load(path.read_text())
    entry = document["keys"]["pseudonym"]
    secret = entry["versions"]["v1"]
    if change == "short":
        entry["versions"]["v1"] = "QUJD"
    elif change == "not base64":
        entry["versions"]["v1"] = "§§§" + secret
    elif change == "no current":
        entry["current"] = "v7"
    elif change == "missing":
        del document["keys"]["quarantine"]
    text = {"not yaml": "keys: [", "list": "[]"}.get(change, yaml.safe_dump(document))
    path.write_text(text)
    if change == "gone":
        path.unlink()
    with pytest.raises(PrivacyError) as caught:
        load_keys(path)
    assert secret not in str(caught.value)
    assert caught.value.remedy


def test_init_gives_an_old_key_file_what_a_newer_release_needs_and_keeps_the_rest(home: Path) -> None:
    path = home / "keys.yaml"
    document = yaml.safe_load(path.read_text())
    kept = document["keys"]["pseudonym"]
    for name in ("care", "vault"):
        del document["keys"][name]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(PrivacyError, match="lacks care, vault"):
        load_keys(path)
    assert init_home(home, copy_samples) == ["keys.yaml: care", "keys.yaml: vault"]
    assert init_home(home, copy_samples) == []
    assert yaml.safe_load(path.read_text())["keys"]["pseudonym"] == kept
    assert load_keys(path).current("vault").secret != load_keys(path).current("care").secret
    assert not path.stat().st_mode & 0o077


def test_a_new_version_is_made_once_and_old_ones_stay_until_they_are_retired(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    create_key_file(path)
    first = load_keys(path).current("pseudonym")
    assert next_version(load_keys(path), "pseudonym") == "v2"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: add_version(path, "pseudonym", "v2"), range(8)))
    keys = load_keys(path)
    assert [key.version for key in keys.versions("pseudonym")] == ["v1", "v2"]
    second = keys.current("pseudonym")
    assert keys.get("pseudonym/v1") == first != second and second.version == "v2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(PrivacyError, match="in use"):
        retire_version(path, "pseudonym", "v2")
    retire_version(path, "pseudonym", "v1")
    assert load_keys(path).versions("pseudonym") == (second,)
    with pytest.raises(PrivacyError, match="not there"):
        retire_version(path, "pseudonym", "v1")
