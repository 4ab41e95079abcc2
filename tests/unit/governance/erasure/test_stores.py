"""The registry of stores that hold personal data: none is passed over, and one of another package is asked, too."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from governance.erasure import stores
from vitalake.errors import PrivacyError


class Notes:
    """A store of another package."""


def _register(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    entries = [EntryPoint(name, f"{__name__}:Notes", stores.GROUP) for name in names]
    monkeypatch.setattr(stores, "entry_points", lambda *, group: entries if group == stores.GROUP else [])


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
    with pytest.raises(PrivacyError, match="by one name"):
        stores.personal_stores()
