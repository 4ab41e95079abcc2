"""What is made of the FHIR elements that are decoded by text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from pipelines.decoding.fhir_structs import LOINC, UCUM, Concept, Identifier, Quantity, Reference, ResourceMeta
from pipelines.decoding.parsing import PARSE_ERRORS
from pipelines.decoding.raw import Refused
from pipelines.decoding.reasons import Reason
from pipelines.decoding.times import names_a_place

_CONCEPT = msgspec.json.Decoder(Concept)
_REFERENCE = msgspec.json.Decoder(Reference)
_REFERENCES = msgspec.json.Decoder(list[Reference])
_QUANTITY = msgspec.json.Decoder(Quantity)
_META = msgspec.json.Decoder(ResourceMeta)
_URN = re.compile(r"urn:(uuid|oid):\S+")
_LITERAL = re.compile(r"(?P<server>https?://\S+/)?(?P<kind>[A-Za-z]+)/(?P<id>[^\s/?#]+)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_VERSION = 1 << 31


def checked(text: str) -> str:
    """Return a text that is kept, if it holds no U+0000: databases cut there, so it would name somebody else."""
    if "\0" in text:
        raise Refused(Reason.CONTROL_CHARACTER)
    return text


def code_of(raw: bytes) -> str:
    """Return the LOINC code of a CodeableConcept, or ``<system>|<code>`` of its first coding where it has none.

    Of several LOINC codings the first counts: senders put their own choice first, and broader ones behind.
    """
    codings = [c for c in _CONCEPT.decode(raw).coding if c.code]
    if not codings:
        raise Refused(Reason.NO_CODE)
    for coding in codings:
        if coding.system == LOINC:
            return checked(str(coding.code))
    return checked(f"{codings[0].system or ''}|{codings[0].code}")


def concept_of(concept: Concept) -> str | None:
    """Return the first coded value of a concept as ``<system>|<code>``; None where it is only text."""
    for coding in concept.coding:
        if coding.code:
            return checked(f"{coding.system or ''}|{coding.code}")
    return None


def subject_of(raw: bytes) -> str:
    """Return whose Observation it is: what ``reference_of`` returns, which must name a patient."""
    subject = reference_of("Patient", raw)
    if subject is None:
        raise Refused(Reason.NO_SUBJECT)
    return subject


def encounter_of(raw: bytes) -> str | None:
    """Return the stay; None where the reference names none."""
    return reference_of("Encounter", raw)


def device_of(raw: bytes) -> str | None:
    """Return the device; None where the reference names none."""
    return reference_of("Device", raw)


def reference_of(kind: str, raw: bytes) -> str | None:
    """Return the logical identifier, else the literal reference: ``<kind>/`` and a version are taken off.

    An absolute address stays whole: two servers may give one number to two people. What means something only inside
    its own message (a contained resource), is a question (a conditional reference) or names another type of resource
    is no reference to this kind: one text would stand for many.
    """
    reference = _REFERENCE.decode(raw)
    if reference.type not in (None, kind):
        return None
    identifier = reference.identifier
    if identifier is not None and identifier.value and identifier.value.strip():
        return checked(f"{identifier.system or ''}|{identifier.value}")
    literal = checked(reference.reference or "").partition("/_history/")[0]
    if _URN.fullmatch(literal):
        return literal
    found = _LITERAL.fullmatch(literal)
    if found is None or found["kind"] != kind:
        return None
    return literal if found["server"] else found["id"]


def is_of_another(focus: bytes, subject: bytes) -> bool:
    """Return whether an Observation is of somebody or something else than its subject: of a fetus, or a device."""
    if focus in (b"", b"null", b"[]"):
        return False
    try:
        of, whose = _REFERENCES.decode(focus), _REFERENCE.decode(subject or b"{}")
    except PARSE_ERRORS:
        return True
    return any(
        (one.reference is None or one.reference != whose.reference)
        and (one.identifier is None or one.identifier != whose.identifier)
        for one in of
    )


class Measured(NamedTuple):
    """A quantity: its number, its unit (the UCUM code, else what people read), its comparator."""

    value: float | None
    unit: str | None
    comparator: str | None


def quantity_of(raw: bytes) -> Measured:
    """Return a measured amount; bedside values repeat, so that this is asked once for many."""
    quantity = _QUANTITY.decode(raw)
    unit = quantity.code if quantity.system in (UCUM, None) else None
    return Measured(quantity.value, unit or quantity.unit or None, quantity.comparator)


def version_of(raw: bytes) -> int:
    """Return ``meta.versionId`` if it is a number, else ``meta.lastUpdated`` in microseconds, else 0."""
    meta = _META.decode(raw)
    if meta.versionId and meta.versionId.isascii() and meta.versionId.isdigit() and int(meta.versionId) < _MOST_VERSION:
        return int(meta.versionId)
    if not meta.lastUpdated:
        return 0
    try:
        moment = datetime.fromisoformat(meta.lastUpdated)
    except ValueError:
        moment = None
    if moment is None or not names_a_place(moment):
        raise Refused(Reason.BAD_TIME, "Observation.meta.lastUpdated")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def identity_of(identifiers: list[Identifier]) -> bytes | None:
    """Return what names the Observation in its source; None without a business identifier.

    Of several the official one counts, then the least: the order in a message says nothing.
    """
    usable = [i for i in identifiers if i.value]
    if not usable:
        return None
    best = min(usable, key=lambda i: (i.use != "official", i.system or "", i.value or ""))
    system = best.system or ""
    return f"{len(system)}|{system}|{best.value}".encode()
