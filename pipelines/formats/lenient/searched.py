"""Where a message is searched for patients whom it does not name as it should."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from typing import Any

import msgspec

from governance.erasure.plain_words import SHORTEST
from pipelines.formats.lenient.naming import in_envelope
from pipelines.formats.shared.documents import LINES, keyed_values, parse_document
from pipelines.formats.shared.keys import KEYS, NO_NUMBERS
from pipelines.formats.shared.named import Named, behind_system

_PATIENTS = re.compile(rf"{KEYS.pattern}|(?<![a-z])pat(?!h|t|ch)", re.IGNORECASE)
_SEGMENTS = (b"PID", b"PD1", b"MRG", b"NK1", b"Z")


def to_search(
    payload: bytes, named: Named, knows: Callable[[str], bool], numbers: Set[str] = frozenset()
) -> bytes | None:
    """Return the part of a message in which a number that has no place may be that of somebody who is not named.

    That is all of it, unless another patient is named in it: of one who is known nothing is searched, of one who may be
    new, and whom decoders would read, what is about patients: elsewhere values and devices may have the same number. A
    number without its system that is the one of who is looked for is no other patient, unless somebody is known by it.
    A guess counts only where decoders read nobody, and no number of who is looked for is guessed beside it.

    Args:
        payload: the message; it can be taken apart.
        named: whom it names; not who is looked for.
        knows: whether somebody has this id or record number.
        numbers: of who is looked for, without systems.

    Returns:
        The part, maybe empty; None: it is of somebody else who is known.
    """
    known = set(filter(knows, named.proper))
    others = {name for name in named.somebody if behind_system(name) not in numbers}
    own = set(named.proper)
    if not (known or others):
        known = set(filter(knows, [name for name in named.guessed if len(name) >= SHORTEST]))
        own |= set(map(behind_system, named.all - known))
    if known and numbers & own - known <= set(map(behind_system, known)):
        return None
    bare = named.proper & (numbers - known)
    return _of_patients(payload) if others and not bare else payload


def _of_patients(payload: bytes) -> bytes:
    """Return what stands in segments of patients, in FHIR's patients, or under keys that are theirs by their names."""
    message = parse_document(payload)
    if isinstance(message, bytes):
        return b"\r".join(line for line in map(bytes.strip, LINES.split(message)) if line.startswith(_SEGMENTS))
    found = [
        _of_patients(inner)
        for _, text in keyed_values(message)
        if isinstance(text, str) and (inner := in_envelope(text))
    ]
    return b"\n".join([*found, *map(msgspec.json.encode, _about_patients(message))])


def _about_patients(document: Any) -> Iterator[Any]:
    """Yield each value that is about patients once, with what is inside of it: so depth does not multiply it."""
    left: list[tuple[str, Any]] = [("", document)]
    while left:
        name, value = left.pop()
        is_patient = isinstance(value, dict) and value.get("resourceType") == "Patient"
        if is_patient or (_PATIENTS.search(name) and not NO_NUMBERS.search(name)):
            yield value
        elif isinstance(value, dict):
            left.extend(value.items())
        elif isinstance(value, list):
            left.extend((name, item) for item in value)
