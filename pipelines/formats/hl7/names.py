"""Who, where, what and in which unit: HL7 v2's composite fields, each distinct text read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pipelines.formats.hl7.profile import SYSTEMS, Hl7Profile
from pipelines.formats.hl7.text import Dialect
from pipelines.formats.shared.encoded import REMEMBERED, Refused
from pipelines.formats.shared.reasons import Reason
from pipelines.online_store.placing import bed_name
from vitalake.vocabulary import load_vocabulary

_Found = TypeVar("_Found")

_AS_WRITTEN = frozenset({"ISO+", "ANS+"})
"""HL7's own tables of units before UCUM: abbreviations as everybody writes them."""

LONGEST = 1_000
"""Texts longer than this are not remembered: nobody can fill the memory with them."""


class Remembered(Generic[_Found]):
    """Reads texts by a function of text and dialect, each once; refusals too."""

    def __init__(self, read: Callable[[str, Dialect], _Found]) -> None:
        self._read = read
        self._known: dict[tuple[str, Dialect], _Found | Refused] = {}

    def __call__(self, text: str, dialect: Dialect) -> _Found:
        """Return what the text means.

        Raises:
            Refused: as the function did.
        """
        found = self._known.get((text, dialect), ...)
        if found is ...:
            found = self._look_up(text, dialect)
        if isinstance(found, Refused):
            raise Refused(found.reason, found.path)
        return found

    def _look_up(self, text: str, dialect: Dialect) -> _Found | Refused:
        found: _Found | Refused
        try:
            found = self._read(text, dialect)
        except Refused as refused:
            found = Refused(refused.reason, refused.path)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        if len(text) <= LONGEST:
            self._known[text, dialect] = found
        return found


class Names:
    """Reads identifiers, codes and units as a profile says."""

    def __init__(self, profile: Hl7Profile) -> None:
        self._profile, self._vocabulary = profile, load_vocabulary()

    def numbered(self, text: str, dialect: Dialect) -> tuple[str, str, str, str] | None:
        """Return id, namespace, universal id and type of a CX or EI; None where it is empty.

        Of a CX the authority is its fourth component; of an EI the components after the first are.
        """
        components = dialect.components(text)
        identifier = dialect.plain(components[0]).strip()
        if not identifier:
            return None
        parts = [*components, "", "", "", "", ""]
        authority = dialect.parts(parts[3], dialect.separators.subcomponent)
        return identifier, authority[0], (*authority, "")[1], dialect.plain(parts[4])

    def _qualified(self, identifier: str, *authorities: str) -> str:
        for authority in authorities:
            if authority in self._profile.systems:
                system = self._profile.systems[authority]
                return f"{system}|{identifier}" if system else identifier
        system = next((authority for authority in authorities if authority), "")
        return f"{system}|{identifier}" if system else identifier

    def patient(self, text: str, dialect: Dialect) -> str | None:
        """Return the patient of PID-3, MRG-1; None where it is empty.

        Raises:
            Refused: numbers are there, and not the one that the profile asks for.
        """
        wanted, there = self._profile.patient, False
        for repetition in dialect.repetitions(text):
            found = self.numbered(repetition, dialect)
            if found is None:
                continue
            there = True
            identifier, namespace, universal, kind = found
            if wanted.authority is not None and wanted.authority not in (namespace, universal):
                continue
            if wanted.type is None or wanted.type == kind:
                return self._qualified(identifier, namespace, universal)
        if there:
            raise Refused(Reason.NO_SUBJECT, "PID-3")
        return None

    def visit(self, text: str, dialect: Dialect) -> str | None:
        """Return the stay of PV1-19; None where it is empty."""
        found = self.numbered(dialect.repetitions(text)[0], dialect)
        return self._qualified(*found[:3]) if found else None

    def device(self, text: str, dialect: Dialect) -> str | None:
        """Return the device of OBX-18 or PRT-10, an entity identifier; None where it is empty."""
        for repetition in dialect.repetitions(text):
            parts = [*dialect.parts(repetition, dialect.separators.component), "", "", ""]
            identifier, namespace, universal = (part.strip() for part in parts[:3])
            if identifier and identifier != universal:
                return self._qualified(identifier, namespace, universal)
            if universal:
                return universal
        return None

    def bed(self, text: str, dialect: Dialect) -> str | None:
        """Return ``bed:<point of care>/<room>/<bed>`` of a PL; None where no bed is said: a room may have many."""
        said = self._location(text, dialect)
        return bed_name(*said) if said[2] else None

    def place(self, text: str, dialect: Dialect) -> str | None:
        """Return the same of a PL that may say no bed; None where it says nothing."""
        said = self._location(text, dialect)
        return bed_name(*said) if any(said) else None

    def _location(self, text: str, dialect: Dialect) -> tuple[str, str, str]:
        """Return point of care, room and bed of a PL; empty: not said."""
        parts = [*dialect.components(dialect.repetitions(text)[0]), "", ""][:3]
        unit, room, bed = (dialect.plain(part.split(dialect.separators.subcomponent)[0]).strip() for part in parts)
        return unit, room, bed

    def code(self, text: str, dialect: Dialect) -> str | None:
        """Return the LOINC code of OBX-3, else ``<system>|<code>``; None for one that the profile ignores.

        LOINC may stand in either of the codings; then the profile's map is asked for the first that it knows, then the
        local systems of the home.

        Raises:
            Refused: there is no code.
        """
        codings = [coding for coding in self.codings(text, dialect) if coding[0]]
        if not codings:
            raise Refused(Reason.NO_CODE, "OBX-3")
        keys = [f"{system}|{code}" for code, _, system in codings]
        if not self._profile.ignore.isdisjoint(keys):
            return None
        loinc = next((code for code, _, system in codings if system == "LN"), None)
        named = [f"{SYSTEMS.get(system, system)}|{code}" for code, _, system in codings]
        chosen = self._vocabulary.choose_coding(loinc, dict.fromkeys((*keys, *named)))
        if loinc is not None:
            return chosen
        for key in keys:
            if key in self._profile.codes:
                return self._profile.codes[key]
        return named[0] if chosen is None else chosen

    def codings(self, text: str, dialect: Dialect) -> list[tuple[str, str, str]]:
        """Return code, text and system of the first and the alternate coding of a coded element."""
        parts = [*dialect.parts(text, dialect.separators.component), *[""] * 6]
        return [(parts[i], parts[i + 1], parts[i + 2]) for i in (0, 3)]

    def unit(self, text: str, dialect: Dialect) -> str | None:
        """Return the UCUM code of OBX-6; one of another system as ``<system>|<code>``, if no profile maps it."""
        codings = [coding for coding in self.codings(text, dialect) if coding[0]]
        if not codings:
            return None
        for code, _, system in codings:
            if system == "UCUM":
                return code
        for code, _, system in codings:
            for said in (f"{system}|{code}", *((code,) if not system else ())):
                if said in self._profile.units:
                    return self._profile.units[said]
        code, _, system = codings[0]
        return f"{system}|{code}" if system and system not in _AS_WRITTEN else code

    def value(self, text: str, dialect: Dialect) -> tuple[str | None, str | None]:
        """Return ``<system>|<code>`` and the words of a coded value; systems by FHIR's names where they are known."""
        codings = [coding for coding in self.codings(text, dialect) if coding[0] or coding[1]]
        if not codings:
            return None, None
        code, words, system = codings[0]
        original = [*dialect.components(text), *[""] * 9][8]
        return (f"{SYSTEMS.get(system, system)}|{code}" if code else None), (words or dialect.plain(original) or None)
