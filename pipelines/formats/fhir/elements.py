"""Functions that decode single FHIR elements from their raw text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from pipelines.formats.fhir.structs import (
    LOINC,
    RESOURCES,
    UCUM,
    Concept,
    Identifier,
    Quantity,
    Reference,
    ResourceMeta,
)
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.parsing import PARSE_ERRORS
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.times import names_a_place
from vitalake.vocabulary import Vocabulary

_CONCEPT = msgspec.json.Decoder(Concept)
_REFERENCE = msgspec.json.Decoder(Reference)
_QUANTITY = msgspec.json.Decoder(Quantity)
_META = msgspec.json.Decoder(ResourceMeta)
_URN = re.compile(r"urn:(uuid|oid):\S+")
_LITERAL = re.compile(r"(?P<server>https?://\S+/)?(?P<kind>[A-Za-z]+)/(?P<id>[^\s/?#]+)")
_BODIES = frozenset(
    "Patient RelatedPerson Group Person Practitioner PractitionerRole FamilyMemberHistory BodyStructure Specimen "
    "Observation".split()
)
_THINGS = RESOURCES - _BODIES
"""Resources that are no person: things, orders, and what is done with the subject. A BodyStructure can be a fetus."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_VERSION = 1 << 31


def checked(text: str) -> str:
    """Return a text; refuse U+0000, at which databases cut texts, so that an id would become another patient's."""
    if "\0" in text:
        raise Refused(Reason.CONTROL_CHARACTER)
    return text


def own_name(given: str | None, full_url: str | None) -> str | None:
    """Return the name by which references mean a resource: the ``urn:`` of its entry, else its id.

    None if neither says anything: an empty name would be the same for all resources without one.
    """
    urn = full_url is not None and full_url.startswith("urn:") and full_url.rpartition(":")[2].strip()
    name = full_url if urn else given
    return checked(name) if name and name.strip() else None


def code_of(raw: bytes, vocabulary: Vocabulary | None = None) -> str:
    """Return the LOINC code of a CodeableConcept, or ``<system>|<code>`` of its first coding if it has none.

    The first of several LOINC codings counts: senders put their own choice first, and broader codes behind it. Without
    a known LOINC code, a coding of a local system of the home counts before others.

    Args:
        raw: the element.
        vocabulary: has the local systems; None: no system counts before others.
    """
    codings = [c for c in _CONCEPT.decode(raw).coding if c.code]
    if not codings:
        raise Refused(Reason.NO_CODE)
    loinc = next((str(coding.code) for coding in codings if coding.system == LOINC), None)
    qualified = [f"{coding.system or ''}|{coding.code}" for coding in codings]
    chosen = loinc if vocabulary is None else vocabulary.choose_coding(loinc, qualified)
    return checked(qualified[0] if chosen is None else chosen)


def concept_of(concept: Concept) -> str | None:
    """Return the first code of a concept as ``<system>|<code>``; None if it has only a text."""
    for coding in concept.coding:
        if coding.code:
            return checked(f"{coding.system or ''}|{coding.code}")
    return None


def subject_of(raw: bytes) -> str:
    """Return the patient of an Observation's subject; refuse a subject that is not a usable reference to a patient."""
    subject = reference_of("Patient", raw)
    if subject is None:
        raise Refused(Reason.NO_SUBJECT)
    return subject


def encounter_of(raw: bytes) -> str | None:
    """Return the stay; None if it is not a usable reference to an Encounter."""
    return reference_of("Encounter", raw)


def device_of(raw: bytes) -> str | None:
    """Return the device; None if it is not a usable reference to a Device."""
    return reference_of("Device", raw)


def reference_of(kind: str, raw: bytes) -> str | None:
    """Return a reference's logical identifier, else its literal reference without ``<kind>/`` and version.

    An absolute URL is kept whole: two servers can give one number to two people. None for a contained resource, a
    conditional reference, and a reference to another type of resource: the same text could mean different people.
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
    """Return whether an Observation's focus is, or could be, somebody else than its subject, such as a fetus.

    One reference can be written in several ways: with or without its server, or a version. A device, a stay or an order
    is not a person; a body structure, a specimen or a text could be one.
    """
    if focus in (b"", b"null", b"[]"):
        return False
    try:
        focuses, subject_reference = _FOCUS.decode(focus), _REFERENCE.decode(subject or b"{}")
    except PARSE_ERRORS:
        return True
    return any(_is_another(one, subject_reference) for one in focuses)


class _Focus(Reference, gc=False):
    display: Any = None


_FOCUS = msgspec.json.Decoder(list[_Focus])


def _is_another(one: _Focus, subject_reference: Reference) -> bool:
    """Return whether a focus differs from the subject, and is or could be a person."""
    literal, subject = _literal(one), _literal(subject_reference)
    kind = literal[1] or (one.type or "").rpartition("/")[2]
    if kind in _THINGS:
        return False
    if not (kind or one.reference or one.identifier):
        return one.display is not None
    named = _named(one)
    if named is not None and named == _named(subject_reference):
        return False
    # A reference without a server is relative to the message's own server.
    one_server = literal[0] == subject[0] or "" in (literal[0], subject[0])
    return not literal[2] or literal[1:] != subject[1:] or not one_server


def _named(reference: Reference) -> tuple[str, str] | None:
    found = reference.identifier
    return (found.system or "", found.value.strip()) if found and found.value and found.value.strip() else None


def _literal(reference: Reference) -> tuple[str, str, str]:
    """Return server, type and id of a literal reference; if it has another form, all of it as the id."""
    text = (reference.reference or "").partition("/_history/")[0]
    found = _LITERAL.fullmatch(text)
    return (found["server"] or "", found["kind"], found["id"]) if found else ("", "", text)


class MeasuredQuantity(NamedTuple):
    """A quantity: its number, its unit (the UCUM code, else the printed unit), its comparator."""

    value: float | None
    unit: str | None
    comparator: str | None


def quantity_of(raw: bytes) -> MeasuredQuantity:
    """Return a measured amount; bedside values repeat, so a cached result serves many."""
    quantity = _QUANTITY.decode(raw)
    unit = quantity.code if quantity.system in (UCUM, None) else None
    return MeasuredQuantity(quantity.value, unit or quantity.unit or None, quantity.comparator)


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
    """Return the identity of an Observation in its source; None without a business identifier.

    Of several identifiers the official one counts, then the alphabetically first: their order says nothing.
    """
    usable = [i for i in identifiers if i.value]
    if not usable:
        return None
    best = min(usable, key=lambda i: (i.use != "official", i.system or "", i.value or ""))
    system = best.system or ""
    return f"{len(system)}|{system}|{best.value}".encode()
