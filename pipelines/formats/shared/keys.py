"""Recognises patient numbers in JSON of an unknown format by the names of its keys."""

from __future__ import annotations

import re
from typing import Any

from pipelines.formats.shared.documents import text_of
from pipelines.formats.shared.named import Named

KEYS = re.compile(r"patient|subject|person|mrn|(?<![a-z])pid(?![a-z])", re.IGNORECASE)
"""Key names that hold a patient's number, in JSON of an unknown format."""

_RELATIVES = re.compile(
    r"mother|father|parent|twin|sibling|spouse|wife|husband|of_?kin|relative|related_?person|guardian|guarantor"
    r"|donor|contact_?person|emergency_?contact",
    re.IGNORECASE,
)
"""Key names that hold numbers of a patient's relatives, donors and contacts."""

_STAFF = re.compile(
    r"personnel|staff|employee|nurse|physician|doctor|clinician|practitioner|performer|attending|entered_?by",
    re.IGNORECASE,
)
"""Key names that hold numbers of staff."""

_OF_PATIENT = re.compile(r"patient|mrn", re.IGNORECASE)
"""Key names that are never used for a number of staff."""

NO_NUMBERS = re.compile(
    r"name|birth|dob|sex|gender|(?<![a-z])age(?![a-z])|address|phone|mail|unit|class", re.IGNORECASE
)
"""Key names that hold something else about a patient than a number."""

_INSIDE = ("id", "value", "identifier", "number")


def is_staff_or_relative(name: str) -> bool:
    """Return whether a key of this name holds the number of a member of staff or a relative."""
    return _RELATIVES.search(name) is not None or _STAFF.search(name) is not None


def patients_by_keys(document: Any) -> Named:
    """Return the numbers under keys whose names mean a patient, or directly inside an object under such a key."""
    named = Named()
    pending: list[tuple[str, Any, bool, bool]] = [("", document, False, False)]
    while pending:
        name, value, of_relative, of_staff = pending.pop()
        of_relative = of_relative or _RELATIVES.search(name) is not None
        of_staff = of_staff or _STAFF.search(name) is not None
        if KEYS.search(name) and not NO_NUMBERS.search(name):
            inner = [value.get(key) for key in _INSIDE] if isinstance(value, dict) else [value]
            # Inside a key of staff, such as a physician's order, a key named "patient" still means the patient.
            secondary = of_relative or (of_staff and not _OF_PATIENT.search(name))
            (named.secondary if secondary else named.guessed).update(map(text_of, inner))
        if isinstance(value, dict):
            pending.extend((key, item, of_relative, of_staff) for key, item in value.items())
        elif isinstance(value, list):
            pending.extend((name, item, of_relative, of_staff) for item in value)
    return named
