"""HL7 v2's text: framing, batches, segments, separators, escapes and character sets.

python-hl7 reads which separators a message uses; fields are split here only where somebody asks for them. Its tree of
the whole message takes twelve times as long (docs/decisions/0034), and it is what the tests compare with.
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
"""MSH-2 has four, and since 2.7 one for truncation, which nothing that is read uses."""

_NULL = '""'

_FRAME_BEGIN, _FRAME_END = b"\x0b", b"\x1c"
_ENVELOPE = frozenset({b"FHS", b"BHS", b"BTS", b"FTS"})

CHARSETS = {
    # ASCII is what is meant where nothing is said; senders that say nothing write UTF-8, and nothing else passes as it.
    "": "utf-8", "ASCII": "utf-8", "UNICODE UTF-8": "utf-8", "UTF-8": "utf-8",
    **{f"8859/{part}": f"iso8859-{part}" for part in range(1, 16) if part != 12},
    "ISO IR6": "ascii", "GB 18030-2000": "gb18030", "BIG-5": "big5", "KS X 1001": "euc_kr",
}  # fmt: skip
"""HL7 table 0211 → Python's codec. Those of two bytes a letter cannot be: a message must begin with MSH."""


class Separators(NamedTuple):
    """What parts fields, and what stands before and behind an escape."""

    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """Separators and character set: what a text means depends on nothing else.

    Equal ones are one object, so that what is remembered by them is found by looking at where they are.
    """

    separators: Separators
    charset: str

    def parts(self, text: str, separator: str) -> list[str]:
        """Return unescaped parts, HL7's null and what is absent as empty texts."""
        return [self.plain(part) for part in text.split(separator)]

    def components(self, text: str) -> list[str]:
        """Return components, with their subcomponents still in one."""
        return text.split(self.separators.component)

    def repetitions(self, text: str) -> list[str]:
        """Return repetitions."""
        return text.split(self.separators.repetition)

    def plain(self, text: str) -> str:
        r"""Return a text without escapes: \F\ \S\ \T\ \R\ \E\, hexadecimal bytes, line breaks; not formatting.

        An escape that is not known stays as it is written: two identifiers must not become one.

        Raises:
            Refused: hexadecimal bytes are no text of the message's character set, or U+0000.
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
    """One segment: its fields, by HL7's numbers."""

    __slots__ = ("dialect", "fields", "name")

    def __init__(self, line: str, dialect: Dialect) -> None:
        self.dialect = dialect
        self.fields = line.split(dialect.separators.field)
        self.name = self.fields[0]
        if self.name == "MSH":
            self.fields.insert(1, dialect.separators.field)

    def raw(self, number: int) -> str:
        """Return a field as it is written; empty where it is absent or HL7's null."""
        if number >= len(self.fields):
            return ""
        text = self.fields[number]
        return "" if text == _NULL else text

    def is_deleted(self, number: int) -> bool:
        """Return whether a field is HL7's null: what was there is deleted. An empty field leaves it as it was."""
        return number < len(self.fields) and self.fields[number] == _NULL

    def first(self, number: int) -> str:
        """Return the first component of a field's first repetition."""
        text = self.raw(number)
        if not text or text.isalnum():  # no separator is
            return text
        dialect = self.dialect
        return dialect.plain(dialect.components(dialect.repetitions(text)[0])[0])


def messages_of(payload: bytes) -> Iterator[list[Segment]]:
    """Yield the messages of a payload, each as its segments, MSH first.

    A payload is one message, or a file or batch of them; MLLP's frame may be around it.

    Raises:
        Refused: it is none of these.
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
        raise Refused(Reason.NOT_HL7)  # the end is missing
    body = body.removesuffix(_FRAME_END) if closed else payload
    body = body.removeprefix(_FRAME_BEGIN)
    if _FRAME_BEGIN in body or _FRAME_END in body:
        raise Refused(Reason.NOT_HL7)
    return body


def _check_counts(lines: list[bytes]) -> None:
    """Hold that a batch has as many messages as its trailer says."""
    count = 0
    for line in lines:
        if line[:3] == b"BHS":
            count = 0
        elif line[:3] == b"MSH":
            count += 1
        elif line[:3] == b"BTS":
            said = line[4:].split(line[3:4] or b"|")[0].strip()
            if said.isdigit() and int(said[:9]) != count:
                raise Refused(Reason.WRONG_SHAPE, "BTS-1")


def _dialect(header: bytes) -> Dialect:
    text = header.decode("latin-1")
    end = text.find(text[3:4], 4) if len(text) > 4 else -1
    if not 0 < end <= len("MSH|") + _MARKS:
        raise Refused(Reason.NOT_HL7)
    separators = _separators(text[: end + 1])
    fields = text.split(separators.field)
    said = fields[17].split(separators.repetition)[0].strip() if len(fields) > 17 else ""
    charset = CHARSETS.get(said.upper())
    if charset is None:
        raise Refused(Reason.BAD_CHARSET, "MSH-18")
    return _one_dialect(separators, charset)


@lru_cache(maxsize=64)
def _one_dialect(separators: Separators, charset: str) -> Dialect:
    return Dialect(separators, charset)


@lru_cache(maxsize=64)
def _separators(beginning: str) -> Separators:
    r"""Return what ``MSH|^~\&|`` says; python-hl7's usual ones stand for those it leaves out."""
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
