"""Where a message is searched for patients whom it does not name as it should."""

from __future__ import annotations

import re
from collections.abc import Callable, Set

import msgspec

from pipelines.decoding.named import Named, behind_system
from pipelines.decoding.naming import KEYS, LINES, NO_NUMBERS, in_envelope, opened, places

_PATIENTS = re.compile(rf"{KEYS.pattern}|(?<![a-z])pat(?!h|t|ch)", re.IGNORECASE)
_SEGMENTS = (b"PID", b"PD1", b"MRG", b"NK1", b"Z")


def to_search(
    payload: bytes, named: Named, knows: Callable[[str], bool], numbers: Set[str] = frozenset()
) -> bytes | None:
    """Return the part of a message in which a number that has no place may be that of somebody who is not named.

    That is all of it, unless decoders would read another patient in it: of one who is known nothing is searched, of
    one who may be new what is about patients: elsewhere values and devices may have the same number. A number without
    its system that is the one of who is looked for is no other patient, known or not.

    Args:
        payload: the message; it can be taken apart.
        named: whom it names; not who is looked for.
        knows: whether somebody has this id or record number.
        numbers: of who is looked for, without systems.

    Returns:
        The part, maybe empty; None: it is of somebody else who is known.
    """
    bare = named.proper & numbers
    known = set(filter(knows, named.proper - bare))
    if known and bare <= set(map(behind_system, known)):
        return None
    others = {name for name in named.somebody if behind_system(name) not in numbers}
    return _of_patients(payload) if others and not bare else payload


def _of_patients(payload: bytes) -> bytes:
    """Return what stands in segments of patients, or under keys that by their names are about patients."""
    message = opened(payload)
    if isinstance(message, bytes):
        return b"\r".join(line for line in map(bytes.strip, LINES.split(message)) if line.startswith(_SEGMENTS))
    found = [
        _of_patients(inner) for _, text in places(message) if isinstance(text, str) and (inner := in_envelope(text))
    ]
    told = [value for name, value in places(message) if _PATIENTS.search(name) and not NO_NUMBERS.search(name)]
    return b"\n".join([*found, *map(msgspec.json.encode, told)])
