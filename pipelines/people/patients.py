"""Finds a person by pseudonym or number, with all current and former pseudonyms of all merged numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from governance.policy.masks import Pseudonyms
from governance.vault import Vault
from pipelines.people.linked_ids import linked_ids_of
from vitalake.keys import KeyRing
from vitalake.pseudonyms import is_token
from vitalake.settings import Settings

_DOMAIN = "patient-identifier"


@dataclass(frozen=True, slots=True)
class Person:
    """A person whom the vault knows.

    Attributes:
        pseudonym: the current one, of the number that was asked for.
        pseudonyms: all of them, with former ones and those of the other numbers.
        numbers: how many numbers the person has.
    """

    pseudonym: str = field(repr=False)
    pseudonyms: frozenset[str] = field(repr=False)
    numbers: int


def former_versions(keys: KeyRing) -> list[str]:
    """Return the former versions of the pseudonym key that are still in the key file."""
    return [key.version for key in keys.versions("pseudonym") if key != keys.current("pseudonym")]


def pseudonyms_by(keys: KeyRing, version: str) -> Pseudonyms:
    """Return the maker of patients' pseudonyms for one version of the key."""
    return Pseudonyms(replace(keys, current_versions=keys.current_versions | {"pseudonym": version}), _DOMAIN)


def pseudonyms_of(keys: KeyRing, vault: Vault, patient: str) -> set[str]:
    """Return all current and former pseudonyms of a source id, from vault and key file; if erased, from the file only.

    Raises:
        KeyRevoked, ServiceUnavailable: the vault does not open.
    """
    by_keys = {pseudonyms_by(keys, key.version).token(patient) for key in keys.versions("pseudonym")}
    return by_keys | vault.tokens_of(vault.subject_of(patient))


class Patients:
    """Finds persons by pseudonym or number; used by one thread."""

    def __init__(self, settings: Settings, keys: KeyRing, vault: Vault) -> None:
        """Prepare.

        Args:
            settings: of the home.
            keys: the home's.
            vault: opened.
        """
        self._settings, self._keys, self._vault = settings, keys, vault

    def by_pseudonym(self, token: str) -> Person | None:
        """Return the person who has or had a pseudonym; None: the vault knows nobody by it.

        Raises:
            KeyRevoked, ServiceUnavailable: the vault does not open.
        """
        subject = self._vault.subject_of_token(token)
        if subject is None and is_token(token, self._keys, _DOMAIN):
            # The vault lacks this former pseudonym: an earlier release replaced it without keeping it, or the vault was
            # restored from before a re-key.
            version = token.partition(".")[0]
            self._vault.keep_former(version, pseudonyms_by(self._keys, version).token)
            subject = self._vault.subject_of_token(token)
        return None if subject is None else self._person(subject)

    def by_number(self, number: str) -> Person | None:
        """Return the person with a record number or source id; None: the vault knows nobody by it.

        Raises:
            KeyRevoked, ServiceUnavailable: the vault does not open.
        """
        token = self._vault.token_of_mrn(number)
        return self.by_pseudonym(token) if token else self._person(self._vault.subject_of(number))

    def _person(self, subject: bytes) -> Person | None:
        patient = self._vault.patient_ids([subject]).get(subject)
        if patient is None:
            return None
        numbers = linked_ids_of(self._settings, self._keys, self._vault).of(patient)
        every = frozenset().union(*(pseudonyms_of(self._keys, self._vault, number) for number in numbers))
        return Person(Pseudonyms(self._keys, _DOMAIN).token(patient), every, len(numbers))
