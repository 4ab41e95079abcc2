"""Parses messages leniently, whatever their format: JSON documents, and lines of HL7 v2 segments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from pipelines.formats.shared.parsing import PARSE_ERRORS

LINES = re.compile(rb"[\r\n\x0b\x1c]+")
"""Separates the segments of HL7 v2; includes MLLP's frame bytes."""

_BLANKS = b" \t\r\n\x0b\x1c\xef\xbb\xbf"

_NO_NUMBER = re.compile(
    r"(?<=[:,\[\s])-?(?:\d+(?:\.\d+)?[eE]\+?\d{3,}|\d{309,}(?:\.\d+)?|NaN|Infinity)(?=[,\]}\s])", re.ASCII
)
"""A JSON number that msgspec rejects: NaN, Infinity, or beyond the range of a double such as 1e400."""


def parse_document(payload: bytes) -> Any:
    """Return the parsed JSON of a message; its bytes, stripped of blanks, if it is not JSON (HL7 v2, for example)."""
    body = payload.strip(_BLANKS)
    text = body.decode(errors="replace")  # decoders accept bad UTF-8 in elements that they skip
    try:
        return msgspec.json.decode(text)
    except PARSE_ERRORS:
        return _leniently(text, body)


def _leniently(text: str, body: bytes) -> Any:
    """Return the parsed JSON with null for numbers such as 1e400 or NaN; the bytes if it is still not JSON."""
    try:
        return msgspec.json.decode(_NO_NUMBER.sub("null", text))
    except PARSE_ERRORS:
        return body


def keyed_values(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value with its key; a list's items with the key of the list."""
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        name, value = pending.pop()
        yield name, value
        if isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((name, item) for item in value)


def text_of(value: Any) -> str:
    """Return a text or whole number as decoders write it (7.0 as 7); empty for anything else: it is no patient's id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).replace("\0", "")


def listed(value: Any) -> list[Any]:
    """Return a list unchanged, and anything else as a list of one."""
    return value if isinstance(value, list) else [value]
