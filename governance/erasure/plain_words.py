"""The words of a message that no decoder can read, or that names nobody for certain: any word may be a patient's id."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from decimal import Decimal

SHORTEST = 5
"""Characters that an identifier needs to be searched for in plain text: shorter ones match too much else."""

NOT_BEFORE, NOT_AFTER = r"(?<![0-9A-Za-z])(?<![0-9]\.)", r"(?![0-9A-Za-z])(?!\.[0-9])"
"""What must not stand before and after a match: letters and digits, or the digits of a decimal number.

A colon may stand there, as in a time: the parts of a time are shorter than SHORTEST."""

_WORD = re.compile(f"{NOT_BEFORE}[0-9A-Za-z]+{NOT_AFTER}")
_WORDS = re.compile(r"(?<![0-9A-Za-z])[0-9A-Za-z]+(?:[-._][0-9A-Za-z]+)+")
_DECIMAL = re.compile(r"(?<![0-9A-Za-z.])[0-9]+\.[0-9]+(?:[eE]\+?[0-9]{1,2})?(?![0-9A-Za-z]|\.[0-9])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_URL_SAFE = str.maketrans("-_", "+/")
_JSON_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/]))')
_HL7_ESCAPE = re.compile(r"\\(?:X((?:[0-9A-Fa-f]{2})+)|([FSTRE]))\\")
_HL7_MARKS = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}


def words_in(payload: bytes) -> set[str]:
    """Return every word of a message that is long enough to be an identifier, from all texts of ``plain_texts``."""
    texts = set(plain_texts(payload))
    words = {word for text in texts for pattern in (_WORD, _WORDS) for word in pattern.findall(text)}
    return {word for word in words if len(word) >= SHORTEST}


def plain_texts(payload: bytes) -> Iterator[str]:
    r"""Yield the texts that a message may contain: as it is, and with JSON escapes, HL7 escapes and base64 decoded.

    A text with whole numbers written as decimals, such as 4711.0 or 4.711E3, is also yielded with plain whole numbers.

    U+0000 is removed: UTF-16 text becomes readable, and no identifier can be hidden by one.
    """
    yield from _plain_texts(payload)
    for run in _BASE64.findall(_without_json_escapes(payload.decode("latin-1").replace("\0", ""))):
        if (inner := from_base64(run)) is not None:
            yield from _plain_texts(inner)


def _plain_texts(payload: bytes) -> Iterator[str]:
    for charset in ("utf-8", "latin-1"):
        text = payload.decode(charset, errors="replace").replace("\0", "")
        for plain in (text, _without_json_escapes(text), _without_hl7_escapes(text)):
            yield (bare := plain.replace("\0", ""))
            if (whole := _DECIMAL.sub(_whole, bare)) != bare:
                yield whole


def from_base64(text: str) -> bytes | None:
    """Return the bytes that a base64 text encodes, in the standard or the URL alphabet; None: it is not base64."""
    if not _BASE64.fullmatch(text):
        return None
    bare = text.rstrip("=").translate(_URL_SAFE)
    try:
        return b64decode(bare + "=" * (-len(bare) % 4))
    except ValueError:
        return None


def _whole(written: re.Match[str]) -> str:
    """Return a whole number without point and exponent, and any other number unchanged."""
    number = Decimal(written[0])
    return f"{number:.0f}" if number == number.to_integral_value() else written[0]


def _without_json_escapes(text: str) -> str:
    return _JSON_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else escape[2], text)


def _without_hl7_escapes(text: str) -> str:
    return _HL7_ESCAPE.sub(
        lambda escape: bytes.fromhex(escape[1]).decode(errors="replace") if escape[1] else _HL7_MARKS[escape[2]], text
    )
