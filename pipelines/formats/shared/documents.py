"""Messages taken apart leniently, whatever their format: JSON documents, and lines of segments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from pipelines.formats.shared.parsing import PARSE_ERRORS

LINES = re.compile(rb"[\r\n\x0b\x1c]+")
"""Between the segments of HL7 v2, with the marks of MLLP."""

_BLANKS = b" \t\r\n\x0b\x1c\xef\xbb\xbf"

_NO_NUMBER = re.compile(
    r"(?<=[:,\[\s])-?(?:\d+(?:\.\d+)?[eE]\+?\d{3,}|\d{309,}(?:\.\d+)?|NaN|Infinity)(?=[,\]}\s])", re.ASCII
)
"""What stands where a number should and is more than a double can have, or none."""


def opened(payload: bytes) -> Any:
    """Return what a JSON message holds; the bytes of any other, HL7's among them."""
    body = payload.strip(_BLANKS)
    text = body.decode(errors="replace")  # decoders skip what they do not read
    try:
        return msgspec.json.decode(text)
    except PARSE_ERRORS:
        return _leniently(text, body)


def _leniently(text: str, body: bytes) -> Any:
    """Return what a message holds without its numbers that are none, such as 1e400 or NaN, else its bytes."""
    try:
        return msgspec.json.decode(_NO_NUMBER.sub("null", text))
    except PARSE_ERRORS:
        return body


def places(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value with the key that it stands under; what is in a list, with the list's."""
    left: list[tuple[str, Any]] = [("", document)]
    while left:
        name, value = left.pop()
        yield name, value
        if isinstance(value, dict):
            left.extend(value.items())
        elif isinstance(value, list):
            left.extend((name, item) for item in value)


def text_of(value: Any) -> str:
    """Return a text or whole number as decoders write it, 7.0 as 7; anything else is no number of a patient."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).replace("\0", "")


def listed(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as the one thing in a list."""
    return value if isinstance(value, list) else [value]
