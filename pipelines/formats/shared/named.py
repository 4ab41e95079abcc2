"""Whom a message names, and where."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field

_SOMEBODY = re.compile(r"(?!unk|anon|none|test|dummy|temp)[^\s,;1-9]*[1-9][^\s,;]*", re.IGNORECASE)
_SERVER = re.compile(r"(?:.*/)?Patient/|[\w+.-]+://.*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Named:
    """The patients whom a message names.

    Attributes:
        proper: where decoders read patients: HL7's PID and MRG, FHIR's patients and references, a profile's path.
        guessed: anywhere else: under a key that by its name is a patient's, in a text, within the message only.
        beside: under keys of staff and relatives, and numbers written in other forms: who is known so hides nobody.
    """

    proper: set[str] = field(default_factory=set)
    guessed: set[str] = field(default_factory=set)
    beside: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        """Return them all."""
        return self.proper | self.guessed | self.beside

    @property
    def somebody(self) -> set[str]:
        """Return who is named where decoders read patients, by what may be an identifier."""
        return set(filter(is_somebody, self.proper))

    def __or__(self, other: Named) -> Named:
        """Return whom one of two names."""
        return Named(self.proper | other.proper, self.guessed | other.guessed, self.beside | other.beside)

    def __ior__(self, other: Named) -> Named:
        """Add whom another names; in place, for a message may have thousands of parts."""
        self.proper.update(other.proper)
        self.guessed.update(other.guessed)
        self.beside.update(other.beside)
        return self

    def __sub__(self, names: Set[str]) -> Named:
        """Return the others."""
        return Named(self.proper - names, self.guessed - names, self.beside - names)


def is_somebody(name: str) -> bool:
    """Return whether a name may be an identifier: not "unknown", "0", "Meier, Berta", or one within a message only."""
    local = name.startswith("urn:") and "|" not in name
    return not local and _SOMEBODY.fullmatch(behind_system(name)) is not None


def behind_system(name: str) -> str:
    """Return the number of an identifier, without the system or server before it; it may have a slash, as 26/004711."""
    if "|" in name:
        return name.rpartition("|")[2]
    server = _SERVER.match(name)
    return name[server.end() :] if server else name


def system_of(name: str) -> str:
    """Return the system or server before the number of an identifier; empty: it has none."""
    return name.removesuffix(behind_system(name))
