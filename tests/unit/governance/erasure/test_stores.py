"""The registry of stores of personal data: none is left out, and stores of other packages are asked too."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from governance.erasure import stores
from vitalake import plugins
from vitalake.errors import PrivacyError, SettingsError


class Notes:
    """A store of another package."""


def broken() -> Notes:
    """Raise an error when the store is made."""
    raise RuntimeError("secret")


def _register(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    entries = [EntryPoint(name, f"{__name__}:Notes", stores.GROUP) for name in names]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: entries if group == stores.GROUP else [])


def test_the_project_s_own_are_registered_by_its_installation() -> None:
    assert list(stores.personal_stores()) == ["care", "scores"]


def test_one_of_another_package_comes_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, "aardvark", "scores", "care")
    assert list(stores.personal_stores()) == ["care", "scores", "aardvark"]


@pytest.mark.parametrize("there", [(), ("care",), ("scores", "other")])
def test_where_one_of_ours_is_missing_it_is_named(monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]) -> None:
    _register(monkeypatch, *there)
    with pytest.raises(PrivacyError) as refused:
        stores.personal_stores()
    assert all((name in refused.value.where) != (name in there) for name in stores.OURS)


def test_two_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, "care", "scores", "care")
    with pytest.raises(SettingsError, match=r"under one name: entry point vitalake.stores: care = .* and entry point"):
        stores.personal_stores()


@pytest.mark.parametrize("value", ["no_such_package:Notes", f"{__name__}:Nothing", f"{__name__}:broken"])
def test_one_that_cannot_be_used_is_named_and_nobody_can_be_erased(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    good = [EntryPoint(name, f"{__name__}:Notes", stores.GROUP) for name in stores.OURS]
    entries = [*good, EntryPoint("notes", value, stores.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: entries)
    with pytest.raises(SettingsError, match=rf"entry point vitalake\.stores: notes = {value}") as refused:
        stores.personal_stores()
    assert refused.value.exit_code == 10
    assert "secret" not in str(refused.value)
