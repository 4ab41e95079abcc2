"""Stores of personal data beside the lake: each is registered, so that no erasure passes one over.

A package registers a store as an entry point of the group ``vitalake.stores``: its name in certificates, and a class
without arguments that is a PersonalStore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Protocol

from governance.erasure.forgotten import Forgotten
from governance.vault import Vault
from vitalake import plugins
from vitalake.errors import PrivacyError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

GROUP = "vitalake.stores"

OURS = ("care", "scores")
"""Stores that every installation has; they come first."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Who is to be forgotten, and in which home.

    Attributes:
        settings: of the home.
        keys: the home's.
        vault: opened.
        forgotten: who, by SHA-256 of a pseudonym.
        patients: the same by pseudonym, while one patient is being erased; None: not known any more.
    """

    settings: Settings
    keys: KeyRing
    vault: Vault
    forgotten: Forgotten
    patients: Sequence[str] | None = None


class PersonalStore(Protocol):
    """What erasure, and whoever looks for damage, asks of a store."""

    def forget(self, whom: Forgetting) -> int:
        """Delete all that a home's store has of those who are forgotten, for good, and take nothing of them any more.

        Safe to repeat; a store that is not there is not made.

        Returns:
            How many entries went.

        Raises:
            VitaLakeError: the store cannot be written; all is as it was, or the call can be repeated.
        """
        ...

    def look(self, settings: Settings) -> None:
        """Return if a home's store is whole, or not there; nothing is changed.

        Raises:
            VitaLakeError: it is damaged, or cannot be read.
        """
        ...


def personal_stores() -> dict[str, PersonalStore]:
    """Return every store that is registered, by name.

    Raises:
        SettingsError: two have one name, or one cannot be loaded: erasing without one would leave what it holds.
        PrivacyError: one of ours is missing.
    """
    found = plugins.registered(GROUP)
    if missing := [name for name in OURS if name not in found]:
        raise PrivacyError(
            "A store of personal data is not registered",
            where=f"entry points {GROUP}: {', '.join(missing)}",
            remedy="Install vitalake again ('make setup'); until then nobody can be erased.",
        )
    return {name: _opened(found[name]) for name in [*OURS, *(name for name in found if name not in OURS)]}


def _opened(entry: EntryPoint) -> PersonalStore:
    made = plugins.load(entry)
    try:
        store: PersonalStore = made()
    except Exception as error:
        raise plugins.unusable(entry, f"cannot be made ({type(error).__name__})") from None
    return store
