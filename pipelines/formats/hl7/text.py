"""Splits HL7 v2's text: framing, batches, segments, separators, escapes and character sets.

python-hl7 reads the separators of a message. Fields are split here, and only when they are used: python-hl7's tree of
the whole message takes twelve times as long (docs/decisions/0034). The tests compare the results with that tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from hl7.parser import create_parse_plan

from pipelines.formats.fhir.elements import checked
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.reasons import Reason

_ENDS = re.compile(rb"\r\n|\r|\n")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_MARKS = 5
"""MSH-2 has four characters, and since version 2.7 a fifth for truncation, which no field that is read uses."""

_NULL = '""'

_FRAME_BEGIN, _FRAME_END = b"\x0b", b"\x1c"
_ENVELOPE = frozenset({b"FHS", b"BHS", b"BTS", b"FTS"})

CHARSETS = {
    # An empty MSH-18 means ASCII. Senders that leave it empty often write UTF-8, and other encodings fail as UTF-8.
    "": "utf-8", "ASCII": "utf-8", "UNICODE UTF-8": "utf-8", "UTF-8": "utf-8",
    **{f"8859/{part}": f"iso8859-{part}" for part in range(1, 16) if part != 12},
    "ISO IR6": "ascii", "GB 18030-2000": "gb18030", "BIG-5": "big5", "KS X 1001": "euc_kr",
}  # fmt: skip
"""HL7 table 0211 → Python's codec. UTF-16 and UTF-32 are left out: a message must begin with the bytes MSH."""


class Separators(NamedTuple):
    """The characters that separate fields and their parts, and the escape character."""

    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """Separators and character set of a message; together with a text they determine its meaning.

    Equal dialects are one object (``_one_dialect``) compared by identity, which makes cache look-ups by dialect cheap.
    """

    separators: Separators
    charset: str

    def parts(self, text: str, separator: str) -> list[str]:
        """Return the unescaped parts of a text; HL7's null and absent parts are empty."""
        return [self.plain(part) for part in text.split(separator)]

    def components(self, text: str) -> list[str]:
        """Return the components of a text, still escaped and with their subcomponents."""
        return text.split(self.separators.component)

    def repetitions(self, text: str) -> list[str]:
        """Return the repetitions of a text, still escaped."""
        return text.split(self.separators.repetition)

    def plain(self, text: str) -> str:
        r"""Resolve the escapes of a text: \F\ \S\ \T\ \R\ \E\, hexadecimal bytes and line breaks; drop formatting.

        An unknown escape stays as it is, so that two different identifiers do not become equal.

        Raises:
            Refused: hexadecimal bytes are not valid in the message's character set, or the text contains U+0000.
        """
        if text == _NULL:
            return ""
        if self.separators.escape in text:
            mark = re.escape(self.separators.escape)
            text = re.sub(f"{mark}([^{mark}]*){mark}", self._escaped, text)
        return checked(text)

    def _escaped(self, found: re.Match[str]) -> str:
        s, code = self.separators, found[1]
        known = {"F": s.field, "S": s.component, "T": s.subcomponent, "R": s.repetition, "E": s.escape}
        if code in known:
            return known[code]
        if code in ("H", "N") or code[:3] in (".in", ".ti", ".fi", ".nf"):
            return ""
        if code[:3] in (".br", ".sp", ".ce"):
            return "\n"
        if code[:3] == ".sk":
            return " "
        if code[:1] == "X" and re.fullmatch(r"X([0-9A-Fa-f]{2})+", code):
            try:
                return bytes.fromhex(code[1:]).decode(self.charset)
            except UnicodeDecodeError:
                raise Refused(Reason.BAD_CHARSET) from None
        return found[0]


class Segment:
    """One segment, whose fields are read by HL7's numbers."""

    __slots__ = ("dialect", "fields", "name")

    def __init__(self, line: str, dialect: Dialect) -> None:
        self.dialect = dialect
        self.fields = line.split(dialect.separators.field)
        self.name = self.fields[0]
        if self.name == "MSH":
            self.fields.insert(1, dialect.separators.field)

    def raw(self, number: int) -> str:
        """Return a field as written; empty if it is absent or HL7's null."""
        if number >= len(self.fields):
            return ""
        text = self.fields[number]
        return "" if text == _NULL else text

    def is_deleted(self, number: int) -> bool:
        """Return whether a field is HL7's null, which deletes the earlier value; an empty field keeps it."""
        return number < len(self.fields) and self.fields[number] == _NULL

    def first(self, number: int) -> str:
        """Return the first component of a field's first repetition."""
        text = self.raw(number)
        if not text or text.isalnum():  # fast path: separators are never alphanumeric
            return text
        dialect = self.dialect
        return dialect.plain(dialect.components(dialect.repetitions(text)[0])[0])


def messages_of(payload: bytes) -> Iterator[list[Segment]]:
    """Yield the messages of a payload, each as a list of segments that begins with MSH.

    A payload is one message, or a file or batch of messages, with or without MLLP's frame.

    Raises:
        Refused: the payload is not valid HL7 v2.
    """
    lines = [line for line in _ENDS.split(_unframed(payload)) if line]
    begins = [i for i, line in enumerate(lines) if line[:3] == b"MSH"]
    if not begins or any(line[:3] not in _ENVELOPE for line in lines[: begins[0]]):
        raise Refused(Reason.NOT_HL7)
    _check_counts(lines)
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        dialect = _dialect(lines[begin])
        yield [_segment(line, dialect) for line in lines[begin:end] if line[:3] not in _ENVELOPE]


def _unframed(payload: bytes) -> bytes:
    body = payload.rstrip(b"\r\n")
    closed = body.endswith(_FRAME_END)
    if payload.startswith(_FRAME_BEGIN) and not closed:
        raise Refused(Reason.NOT_HL7)  # the end of the frame is missing
    body = body.removesuffix(_FRAME_END) if closed else payload
    body = body.removeprefix(_FRAME_BEGIN)
    if _FRAME_BEGIN in body or _FRAME_END in body:
        raise Refused(Reason.NOT_HL7)
    return body


def _check_counts(lines: list[bytes]) -> None:
    """Raise unless a batch has as many messages as its trailer says."""
    count = 0
    for line in lines:
        if line[:3] == b"BHS":
            count = 0
        elif line[:3] == b"MSH":
            count += 1
        elif line[:3] == b"BTS":
            declared = line[4:].split(line[3:4] or b"|")[0].strip()
            if declared.isdigit() and int(declared[:9]) != count:
                raise Refused(Reason.WRONG_SHAPE, "BTS-1")


def _dialect(header: bytes) -> Dialect:
    text = header.decode("latin-1")
    end = text.find(text[3:4], 4) if len(text) > 4 else -1
    if not 0 < end <= len("MSH|") + _MARKS:
        raise Refused(Reason.NOT_HL7)
    separators = _separators(text[: end + 1])
    fields = text.split(separators.field)
    name = fields[17].split(separators.repetition)[0].strip() if len(fields) > 17 else ""
    charset = CHARSETS.get(name.upper())
    if charset is None:
        raise Refused(Reason.BAD_CHARSET, "MSH-18")
    return _one_dialect(separators, charset)


@lru_cache(maxsize=64)
def _one_dialect(separators: Separators, charset: str) -> Dialect:
    return Dialect(separators, charset)


@lru_cache(maxsize=64)
def _separators(beginning: str) -> Separators:
    r"""Return the separators of ``MSH|^~\&|``; python-hl7 fills in the usual ones for missing ones."""
    plan = create_parse_plan(beginning)
    _, field, repetition, component, subcomponent = plan.separators
    separators = Separators(field, component, repetition, plan.esc, subcomponent)
    if len(set(separators)) < len(separators) or any(mark.isalnum() or not mark.isprintable() for mark in separators):
        raise Refused(Reason.NOT_HL7)
    return separators


def _segment(line: bytes, dialect: Dialect) -> Segment:
    try:
        text = line.decode(dialect.charset)
    except UnicodeDecodeError:
        raise Refused(Reason.NOT_UTF8 if dialect.charset == "utf-8" else Reason.BAD_CHARSET) from None
    if not _SEGMENT.fullmatch(text[:3]) or text[3:4] not in ("", dialect.separators.field):
        raise Refused(Reason.WRONG_SHAPE)
    return Segment(text, dialect)
