"""Reads HL7 v2's composite fields: patients, stays, devices, beds, codes and units; caches each distinct text."""

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
"""HL7's unit tables from before UCUM. Their units are common abbreviations, so they are kept without a system."""

LONGEST = 1_000
"""Longer texts are not cached, so that no sender can exhaust memory."""


class CachedReader(Generic[_Found]):
    """Caches the results, and the refusals, of a function that reads a text in a dialect."""

    def __init__(self, read: Callable[[str, Dialect], _Found]) -> None:
        self._read = read
        self._cache: dict[tuple[str, Dialect], _Found | Refused] = {}

    def __call__(self, text: str, dialect: Dialect) -> _Found:
        """Return the function's result for a text.

        Raises:
            Refused: the function refused this text.
        """
        found = self._cache.get((text, dialect), ...)
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
        if len(self._cache) >= REMEMBERED:
            self._cache.clear()
        if len(text) <= LONGEST:
            self._cache[text, dialect] = found
        return found


class FieldReader:
    """Reads identifiers, codes and units by a profile."""

    def __init__(self, profile: Hl7Profile) -> None:
        self._profile, self._vocabulary = profile, load_vocabulary()

    def numbered(self, text: str, dialect: Dialect) -> tuple[str, str, str, str] | None:
        """Return id, namespace, universal id and type of a CX; None if it is empty.

        The assigning authority, with namespace and universal id, is the fourth component.
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
        """Return the patient of PID-3 or MRG-1; None if the field is empty.

        Raises:
            Refused: the field has numbers, but not the one that the profile chooses.
        """
        wanted, has_numbers = self._profile.patient, False
        for repetition in dialect.repetitions(text):
            found = self.numbered(repetition, dialect)
            if found is None:
                continue
            has_numbers = True
            identifier, namespace, universal, kind = found
            if wanted.authority is not None and wanted.authority not in (namespace, universal):
                continue
            if wanted.type is None or wanted.type == kind:
                return self._qualified(identifier, namespace, universal)
        if has_numbers:
            raise Refused(Reason.NO_SUBJECT, "PID-3")
        return None

    def visit(self, text: str, dialect: Dialect) -> str | None:
        """Return the stay of PV1-19; None if the field is empty."""
        found = self.numbered(dialect.repetitions(text)[0], dialect)
        return self._qualified(*found[:3]) if found else None

    def device(self, text: str, dialect: Dialect) -> str | None:
        """Return the device of OBX-18 or PRT-10, an entity identifier; None if the field is empty."""
        for repetition in dialect.repetitions(text):
            parts = [*dialect.parts(repetition, dialect.separators.component), "", "", ""]
            identifier, namespace, universal = (part.strip() for part in parts[:3])
            if identifier and identifier != universal:
                return self._qualified(identifier, namespace, universal)
            if universal:
                return universal
        return None

    def bed(self, text: str, dialect: Dialect) -> str | None:
        """Return ``bed:<point of care>/<room>/<bed>`` of a PL; None if it names no bed: a room can have several."""
        location = self._location(text, dialect)
        return bed_name(*location) if location[2] else None

    def place(self, text: str, dialect: Dialect) -> str | None:
        """Return the same name of a PL, with or without a bed; None if the PL is empty."""
        location = self._location(text, dialect)
        return bed_name(*location) if any(location) else None

    def _location(self, text: str, dialect: Dialect) -> tuple[str, str, str]:
        """Return point of care, room and bed of a PL; each is empty if not given."""
        parts = [*dialect.components(dialect.repetitions(text)[0]), "", ""][:3]
        unit, room, bed = (dialect.plain(part.split(dialect.separators.subcomponent)[0]).strip() for part in parts)
        return unit, room, bed

    def code(self, text: str, dialect: Dialect) -> str | None:
        """Return the LOINC code of OBX-3, else ``<system>|<code>``; None for a code that the profile ignores.

        A LOINC code in either coding counts first, then the first code that the profile maps, then a code of the home's
        local systems.

        Raises:
            Refused: OBX-3 has no code.
        """
        codings = [coding for coding in self.codings(text, dialect) if coding[0]]
        if not codings:
            raise Refused(Reason.NO_CODE, "OBX-3")
        keys = [f"{system}|{code}" for code, _, system in codings]
        if not self._profile.ignore.isdisjoint(keys):
            return None
        loinc = next((code for code, _, system in codings if system == "LN"), None)
        qualified = [f"{SYSTEMS.get(system, system)}|{code}" for code, _, system in codings]
        chosen = self._vocabulary.choose_coding(loinc, dict.fromkeys((*keys, *qualified)))
        if loinc is not None:
            return chosen
        for key in keys:
            if key in self._profile.codes:
                return self._profile.codes[key]
        return qualified[0] if chosen is None else chosen

    def codings(self, text: str, dialect: Dialect) -> list[tuple[str, str, str]]:
        """Return code, text and system of the first and the alternate coding of a coded element."""
        parts = [*dialect.parts(text, dialect.separators.component), *[""] * 6]
        return [(parts[i], parts[i + 1], parts[i + 2]) for i in (0, 3)]

    def unit(self, text: str, dialect: Dialect) -> str | None:
        """Return the UCUM code of OBX-6; ``<system>|<code>`` for a code of another system that no profile maps."""
        codings = [coding for coding in self.codings(text, dialect) if coding[0]]
        if not codings:
            return None
        for code, _, system in codings:
            if system == "UCUM":
                return code
        for code, _, system in codings:
            for key in (f"{system}|{code}", *((code,) if not system else ())):
                if key in self._profile.units:
                    return self._profile.units[key]
        code, _, system = codings[0]
        return f"{system}|{code}" if system and system not in _AS_WRITTEN else code

    def value(self, text: str, dialect: Dialect) -> tuple[str | None, str | None]:
        """Return ``<system>|<code>`` and the text of a coded value; known systems by their FHIR URI."""
        codings = [coding for coding in self.codings(text, dialect) if coding[0] or coding[1]]
        if not codings:
            return None, None
        code, words, system = codings[0]
        original = [*dialect.components(text), *[""] * 9][8]
        return (f"{SYSTEMS.get(system, system)}|{code}" if code else None), (words or dialect.plain(original) or None)
