"""The registry of stores that hold personal data beside the lake, so that no erasure leaves one out.

A package registers a store as an entry point of the group ``vitalake.stores``: its name in certificates, and a class
without arguments that is a PersonalStore.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
"""Stores that every installation has; they are cleared first."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The patients whom a store has to erase, or whose entries it has to count, and the home they belong to.

    Attributes:
        settings: of the home.
        keys: the home's.
        vault: opened.
        forgotten: the patients, by SHA-256 of a pseudonym.
        patients: their pseudonyms, while one patient is being erased; None: the pseudonyms are not known any more.
    """

    settings: Settings
    keys: KeyRing
    vault: Vault
    forgotten: Forgotten
    patients: Sequence[str] | None = None

    def has(self, patient: str) -> bool:
        """Return whether a pseudonym is one of these patients'."""
        return hashlib.sha256(patient.encode()).hexdigest() in self.forgotten


class PersonalStore(Protocol):
    """What an erasure, an answer to a patient and a search for damage need of a store."""

    def forget(self, whom: Forgetting) -> int:
        """Delete every entry of these patients from a home's store for good, and refuse new ones.

        Safe to repeat. A store that does not exist is not created.

        Returns:
            How many entries were deleted.

        Raises:
            VitaLakeError: the store cannot be written; nothing changed, or the call can be repeated.
        """
        ...

    def held(self, whom: Forgetting) -> Mapping[str, int]:
        """Return how many entries of each kind the store has of these patients; change nothing.

        An erasure asks after ``forget``; if anything is left, the erasure is not finished.

        Returns:
            A kind, in the plural and in words for people, such as ``scores`` → how many. Only kinds of which there are
            some; empty for a store that does not exist.

        Raises:
            VitaLakeError: the store cannot be read.
        """
        ...

    def look(self, settings: Settings) -> None:
        """Check that a home's store is undamaged, or does not exist; change nothing.

        Raises:
            VitaLakeError: the store is damaged, or cannot be read.
        """
        ...


def personal_stores() -> dict[str, PersonalStore]:
    """Return every registered store, by name.

    Raises:
        SettingsError: two have the same name, or one cannot be loaded: an erasure would leave what it holds.
        PrivacyError: a store that every installation has is missing.
    """
    registered = plugins.registered(GROUP)
    if missing := [name for name in OURS if name not in registered]:
        raise PrivacyError(
            "A store of personal data is not registered",
            where=f"entry points {GROUP}: {', '.join(missing)}",
            remedy="Install vitalake again ('make setup'). Until then, no patient can be erased.",
        )
    return {name: _opened(registered[name]) for name in [*OURS, *(name for name in registered if name not in OURS)]}


def _opened(entry: EntryPoint) -> PersonalStore:
    made = plugins.load(entry)
    try:
        store: PersonalStore = made()
    except Exception as error:
        raise plugins.unusable(entry, f"cannot be made ({type(error).__name__})") from None
    return store
