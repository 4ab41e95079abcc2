"""Finds patients, stays and devices in FHIR's elements of a refused JSON message, even if they are written wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import msgspec

from governance.erasure.plain_words import SHORTEST
from pipelines.formats.fhir.elements import reference_of
from pipelines.formats.shared.documents import keyed_values, listed, text_of
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.keys import is_staff_or_relative
from pipelines.formats.shared.named import Named
from pipelines.formats.shared.parsing import PARSE_ERRORS

_PATIENT_ELEMENTS = frozenset({"subject", "patient", "individual", "beneficiary", "for", "other", "target", "who"})
"""FHIR's elements whose reference, if it has no type, means a patient."""

_SERVER = r"""https?://[^\s"']{1,256}/"""
"""The length is bounded: in a text that repeats ``http://``, each repetition would otherwise be read to the end."""

_LITERAL = re.compile(rf"""(?:{_SERVER})?\bPatient/[^\s/?#"']+""")

_STAY = re.compile(rf"""(?:{_SERVER})?\bEncounter/[^\s/?#"']+""")

_STAY_KEYS = re.compile(r"encounter|visit|stay|episode", re.IGNORECASE)

_CONDITIONAL = re.compile(r"\bPatient\?(?:[^\s\"']{0,256}&)?identifier=([^\s&\"']+)")

_RECORD_NUMBER = "MR"

_LOOSE = re.compile(r"(?:/?(?:patient|person)(?:/|\?(?:_?id|identifier)=)|#)?([\w.-]+)", re.IGNORECASE)
"""A wrongly written reference to a patient: another case, no type, a fragment, a search."""


def named_patients(document: Any) -> tuple[Named, bool]:
    """Return the patients in FHIR's elements of a document, and whether it holds a FHIR resource at all."""
    found = Named()
    is_fhir = False
    for name, value in keyed_values(document):
        if isinstance(value, str):
            is_reference = name in ("reference", "fullUrl")
            proper = is_reference or name in _PATIENT_ELEMENTS
            guessed = found.secondary if is_staff_or_relative(name) else found.guessed
            (found.proper if proper else guessed).update(_of_text(value, is_reference=is_reference))
        elif isinstance(value, dict):
            is_fhir |= "resourceType" in value
            if value.get("resourceType") == "Patient":
                (found.guessed if name == "contained" else found.proper).add(text_of(value.get("id")))
                found.proper.update(*map(_numbers, listed(value.get("identifier"))))
            elif value.get("type") == "Patient" or (
                name in _PATIENT_ELEMENTS and not isinstance(value.get("type"), str)
            ):
                found.proper.update(_numbers(value.get("identifier")))
            if name in _PATIENT_ELEMENTS and isinstance(loose := value.get("reference"), str):
                (found.guessed if loose.startswith("#") else found.proper).update(_loosely(loose))
        if name in _PATIENT_ELEMENTS:
            found.guessed.update(_misshapen(value))
    return found, is_fhir


def stays(document: Any) -> set[str]:
    """Return the ids of stays in a document."""
    found: set[str] = set()
    for name, value in keyed_values(document):
        if isinstance(value, str):
            found |= {_reference("Encounter", reference=literal) for literal in _STAY.findall(value)}
            found |= {value} if _STAY_KEYS.search(name) else set()
        elif isinstance(value, dict) and value.get("resourceType") == "Encounter":
            found |= {text_of(value.get("id"))}.union(*map(_numbers, listed(value.get("identifier"))))
        elif isinstance(value, dict) and "Encounter" in (value.get("type"), name.title()):
            found |= _numbers(value.get("identifier"))
    return found - {""}


def devices(document: Any) -> set[str]:
    """Return the ids of devices in a document."""
    found = {
        _reference("Device", **value)
        for name, value in keyed_values(document)
        if name == "device" and isinstance(value, dict)
    }
    return found - {""}


def _of_text(text: str, *, is_reference: bool) -> set[str]:
    """Return the patients of the literal and conditional references in a text."""
    literals = _LITERAL.findall(text) if "Patient/" in text else []
    if is_reference and text.startswith("urn:"):
        literals.append(text)
    found = {_reference(reference=written) for literal in literals for written in (literal, unquote(literal))}
    for query in _CONDITIONAL.findall(text) if "Patient?" in text else ():
        system, _, value = unquote(query).rpartition("|")
        found |= {_reference(identifier={"system": system, "value": value})}
    return found


def _loosely(reference: str) -> set[str]:
    """Return the id in a wrongly written reference to a patient, which no decoder would accept."""
    if _of_text(reference, is_reference=True) - {""}:
        return set()
    found = _LOOSE.fullmatch(reference)
    return {found[1]} if found else set()


def _misshapen(reference: Any) -> set[str]:
    """Return possible ids of a patient in the place of a reference: a bare number or text, an id, identifiers."""
    if not isinstance(reference, dict):
        return _ids([reference])
    if isinstance(kind := reference.get("type"), str) and kind != "Patient":
        return set()
    identifiers = listed(reference.get("identifier"))
    bare = [one.get("value") for one in identifiers if isinstance(one, dict) and not one.get("system")]
    composed = {name for one in identifiers for name in _numbers(one)}
    return composed | _ids([reference.get("id"), reference.get("reference"), *identifiers, *bare])


def _ids(values: Iterable[Any]) -> set[str]:
    """Return the values that have the form of an id, and are too long to be something else by chance."""
    return {name for value in values for name in _loosely(text_of(value)) if len(name) >= SHORTEST}


def _numbers(identifier: Any) -> set[str]:
    """Return an identifier, composed as a logical reference; a record number also without its system."""
    if not isinstance(identifier, dict):
        return set()
    value = text_of(identifier.get("value"))
    found = {_reference(identifier={"system": text_of(identifier.get("system")), "value": value})}
    if any(_RECORD_NUMBER == code for name, code in keyed_values(identifier.get("type")) if name == "code"):
        found.add(value)
    return found


def _reference(kind: str = "Patient", **elements: Any) -> str:
    """Return ``reference_of`` of these elements; empty instead of None or an error."""
    try:
        return reference_of(kind, msgspec.json.encode(elements)) or ""
    except (Refused, *PARSE_ERRORS):
        return ""
