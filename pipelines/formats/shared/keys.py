"""Names of keys, in JSON of which nothing else is known, and whose numbers stand under them."""

from __future__ import annotations

import re
from typing import Any

from pipelines.formats.shared.documents import text_of
from pipelines.formats.shared.named import Named

KEYS = re.compile(r"patient|subject|person|mrn|(?<![a-z])pid(?![a-z])", re.IGNORECASE)
"""Names of keys that hold a patient's number, in JSON of which nothing else is known."""

_RELATIVES = re.compile(
    r"mother|father|parent|twin|sibling|spouse|wife|husband|of_?kin|relative|related_?person|guardian|guarantor"
    r"|donor|contact_?person|emergency_?contact",
    re.IGNORECASE,
)
"""Names of keys that hold numbers of those who belong to a patient."""

_STAFF = re.compile(
    r"personnel|staff|employee|nurse|physician|doctor|clinician|practitioner|performer|attending|entered_?by",
    re.IGNORECASE,
)
"""The same of those who work for them."""

_OF_PATIENT = re.compile(r"patient|mrn", re.IGNORECASE)
"""Names of keys that nobody gives a number of staff."""

NO_NUMBERS = re.compile(
    r"name|birth|dob|sex|gender|(?<![a-z])age(?![a-z])|address|phone|mail|unit|class", re.IGNORECASE
)
"""Names of keys in which something else of a patient stands."""

_INSIDE = ("id", "value", "identifier", "number")


def is_beside(name: str) -> bool:
    """Return whether what stands under a key of this name is of staff or relatives."""
    return _RELATIVES.search(name) is not None or _STAFF.search(name) is not None


def by_keys(document: Any) -> Named:
    """Return the numbers that stand under keys which by their names are a patient's, or just inside of those."""
    found = Named()
    left: list[tuple[str, Any, bool, bool]] = [("", document, False, False)]
    while left:
        name, value, of_relative, of_staff = left.pop()
        of_relative = of_relative or _RELATIVES.search(name) is not None
        of_staff = of_staff or _STAFF.search(name) is not None
        if KEYS.search(name) and not NO_NUMBERS.search(name):
            inner = [value.get(key) for key in _INSIDE] if isinstance(value, dict) else [value]
            # What staff do for one, as a physician's order, names the patient.
            beside = of_relative or (of_staff and not _OF_PATIENT.search(name))
            (found.beside if beside else found.guessed).update(map(text_of, inner))
        if isinstance(value, dict):
            left.extend((key, item, of_relative, of_staff) for key, item in value.items())
        elif isinstance(value, list):
            left.extend((name, item, of_relative, of_staff) for item in value)
    return found
