"""Chooses the part of a message that is searched as text for patients who are not named in the usual places."""

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
    """Return the part of a message in which a number of the sought patient could stand in an unusual place.

    - If the message names nobody else, all of it is searched.
    - If it names another patient who is known, it is that patient's, and nothing is searched.
    - If decoders read another patient who may be new, only what is about patients is searched: elsewhere a value or a
      device can have the same number.

    The sought patient's number without its system does not count as another patient, unless a patient is known by it.
    A guessed name counts only if decoders read nobody and no number of the sought patient is guessed in the message.

    Args:
        payload: the message; it can be parsed.
        named: the patients that it names, without the sought one.
        knows: returns whether a patient has this id or record number.
        numbers: numbers of the sought patient, without systems.

    Returns:
        The part, possibly empty; None: the message is another, known patient's.
    """
    known = set(filter(knows, named.proper))
    others = {name for name in named.likely_ids if behind_system(name) not in numbers}
    own = set(named.proper)
    if not (known or others):
        known = set(filter(knows, [name for name in named.guessed if len(name) >= SHORTEST]))
        own |= set(map(behind_system, named.all - known))
    if known and numbers & own - known <= set(map(behind_system, known)):
        return None
    bare = named.proper & (numbers - known)
    return _of_patients(payload) if others and not bare else payload


def _of_patients(payload: bytes) -> bytes:
    """Return the contents of patients' segments, of FHIR Patients, and of keys whose names mean a patient."""
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
    """Yield each value that is about patients once, with everything inside: nested ones are not yielded again."""
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        name, value = pending.pop()
        is_patient = isinstance(value, dict) and value.get("resourceType") == "Patient"
        if is_patient or (_PATIENTS.search(name) and not NO_NUMBERS.search(name)):
            yield value
        elif isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((name, item) for item in value)
