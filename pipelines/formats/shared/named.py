"""The patients that a message names, by how reliably it names them."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field

_LIKELY_ID = re.compile(r"(?!unk|anon|none|test|dummy|temp)[^\s,;1-9]*[1-9][^\s,;]*", re.IGNORECASE)
_SERVER = re.compile(r"(?:.*/)?Patient/|[\w+.-]+://.*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Named:
    """The ids of the patients that a message names.

    Attributes:
        proper: ids where decoders read patients: HL7's PID and MRG, FHIR's patients and references, a profile's path.
        guessed: ids anywhere else: under a key whose name means a patient, in a text, or valid in the message only.
        secondary: numbers of staff and relatives, and other spellings of a number. If such a number belongs to a known
            patient, the search for other patients in the message still goes on.
    """

    proper: set[str] = field(default_factory=set)
    guessed: set[str] = field(default_factory=set)
    secondary: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        """Return all ids."""
        return self.proper | self.guessed | self.secondary

    @property
    def likely_ids(self) -> set[str]:
        """Return the proper ids that have the form of an identifier."""
        return set(filter(is_likely_id, self.proper))

    def __or__(self, other: Named) -> Named:
        """Return the ids of both."""
        return Named(self.proper | other.proper, self.guessed | other.guessed, self.secondary | other.secondary)

    def __ior__(self, other: Named) -> Named:
        """Add the ids of another in place: a message can have thousands of parts."""
        self.proper.update(other.proper)
        self.guessed.update(other.guessed)
        self.secondary.update(other.secondary)
        return self

    def __sub__(self, names: Set[str]) -> Named:
        """Return the ids without these."""
        return Named(self.proper - names, self.guessed - names, self.secondary - names)


def is_likely_id(name: str) -> bool:
    """Return whether a text has the form of a patient's id.

    "unknown", "0" and "Meier, Berta" do not, nor does a ``urn:`` that is valid within one message only.
    """
    local = name.startswith("urn:") and "|" not in name
    return not local and _LIKELY_ID.fullmatch(behind_system(name)) is not None


def behind_system(name: str) -> str:
    """Return an identifier without its system or server; the number itself can hold a slash, as 26/004711."""
    if "|" in name:
        return name.rpartition("|")[2]
    server = _SERVER.match(name)
    return name[server.end() :] if server else name


def system_of(name: str) -> str:
    """Return the system or server before an identifier's number; empty if it has none."""
    return name.removesuffix(behind_system(name))
