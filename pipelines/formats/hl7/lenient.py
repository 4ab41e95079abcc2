"""Finds patients, stays and devices in refused HL7 v2, segment by segment: other segments can be damaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from governance.erasure.plain_words import SHORTEST
from pipelines.formats.base import Lenient
from pipelines.formats.hl7.profile import Hl7Profile, PatientNumber
from pipelines.formats.shared.about import About
from pipelines.formats.shared.documents import LINES, parse_document
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.named import Named

if TYPE_CHECKING:
    from pipelines.formats.hl7.fields import FieldReader
    from pipelines.formats.hl7.text import Dialect, Segment

_NUMBERS = {b"PID": (2, 3, 4), b"MRG": (1, 4)}
"""Fields of patient numbers. Decoders read PID-3 and MRG-1; older versions of HL7 used the others."""

_VISIT = 19
"""Field of PV1 with the stay's number."""

_BED = 3
"""Field of PV1 with the bed."""

_DEVICES = {"OBX": 18, "PRT": 10}
"""Segment → its field of a device."""

_RECORD_NUMBER = "MR"

_HEADER = re.compile(rb"(?:^|[\r\n\x0b])[^\S\r\n\x0b]*MSH")

_MARKS = r"^~\&"


@cache
def plain() -> Hl7Profile:
    """Return an empty profile: numbers are composed as they are written."""
    return Hl7Profile(format="hl7-v2", description="")


class Hl7Lenient(Lenient):
    """Reads refused HL7 v2 by one profile.

    The general reader also reads it by ``plain()``: the profile can have been shorter when the patient was enrolled.
    """

    def __init__(self, profile: Hl7Profile) -> None:
        self._profile = profile

    def whose(self, payload: bytes) -> Named | None:
        """Return the numbers of all patients; None if the header or a patient's segment cannot be parsed."""
        text = _text(payload)
        return None if text is None or not _HEADER.search(text) else _whose(text, self._profile)

    def stays(self, payload: bytes) -> set[str]:
        """Return the ids of stays of PV1-19."""
        text = _text(payload)
        return set() if text is None else _stays(text, self._profile)

    def devices(self, payload: bytes) -> set[str]:
        """Return the ids of the devices of OBX-18 and PRT-10, and of the beds of PV1-3."""
        text = _text(payload)
        return set() if text is None else _devices(text, self._profile)

    def about(self, payload: bytes) -> About | None:
        """Return what the results of messages may have measured; None: the message is JSON."""
        from pipelines.formats.hl7.unread import about

        text = _text(payload)
        return None if text is None else about(text, self._profile)


def _text(payload: bytes) -> bytes | None:
    """Return a message without surrounding blanks and MLLP's frame; None: it is JSON."""
    message = parse_document(payload)
    return message if isinstance(message, bytes) else None


def _whose(payload: bytes, profile: Hl7Profile) -> Named | None:
    try:
        from pipelines.formats.hl7.fields import FieldReader
    except ImportError:  # the extra 'hl7' is not installed
        return None
    # All numbers count here: the profile can have chosen another one earlier.
    composer = FieldReader(profile.model_copy(update={"patient": PatientNumber()}))
    found = Named()
    dialect: Dialect | None = None
    identified = False
    for line in map(bytes.strip, LINES.split(payload)):
        if line[:3] == b"MSH":
            dialect = _dialect(line.decode("latin-1"))
        identified |= line[:3] in _NUMBERS
        numbers = _of_segment(line, dialect, composer) if line[:3] in (b"MSH", *_NUMBERS) else Named()
        if numbers is None:
            return None
        found |= numbers
    return found if identified or b"PID" not in payload else None


def _of_segment(line: bytes, dialect: Dialect | None, composer: FieldReader) -> Named | None:
    """Return the patient numbers in a segment; None if it cannot be parsed."""
    from pipelines.formats.hl7.text import Segment

    if dialect is None or line[3:4].decode("latin-1") != dialect.separators.field:
        return None
    segment = Segment(_decoded(line, dialect.charset), dialect)
    found = Named()
    for text in [text for n in _NUMBERS.get(line[:3], ()) for text in dialect.repetitions(segment.raw(n))]:
        try:
            parts = composer.numbered(text, dialect)
            proper = {name} if parts and (name := composer.patient(text, dialect)) else set()
        except Refused:
            return None
        if parts and parts[3] == _RECORD_NUMBER:
            proper.add(parts[0])
        check = dialect.plain([*dialect.components(text), ""][1]).strip()
        found |= Named(proper, secondary=_otherwise_written(proper, check))
    return found


def _otherwise_written(numbers: Iterable[str], check: str) -> set[str]:
    """Return other spellings of numbers: without leading zeros, and without the check digit at the end.

    Args:
        numbers: with and without their system.
        check: the check digit, from the second component of the number.
    """
    found: set[str] = set()
    for name in numbers:
        system, mark, number = name.rpartition("|")
        bare = number.lstrip("0")
        forms = {bare, *(form[:-1] for form in (number, bare) if len(check) == 1 and form.endswith(check))} - {number}
        found |= {written for form in forms if len(form) >= SHORTEST for written in (form, f"{system}{mark}{form}")}
    return found


def _stays(payload: bytes, profile: Hl7Profile) -> set[str]:
    return {
        stay
        for composer, segment in segments(payload, profile)
        if segment.name == "PV1" and (stay := _read(composer.visit, segment, _VISIT))
    }


def _devices(payload: bytes, profile: Hl7Profile) -> set[str]:
    found: set[str | None] = set()
    for composer, segment in segments(payload, profile):
        if segment.name == "PV1":
            found.add(_read(composer.bed, segment, _BED))
        elif segment.name in _DEVICES:
            found.add(_read(composer.device, segment, _DEVICES[segment.name]))
    return {device for device in found if device}


def _read(compose: Callable[[str, Dialect], str | None], segment: Segment, number: int) -> str | None:
    with suppress(Refused):
        return compose(segment.raw(number), segment.dialect)
    return None


def segments(payload: bytes, profile: Hl7Profile) -> Iterator[tuple[FieldReader, Segment]]:
    """Yield each segment with a reader that composes ids by the profile."""
    try:
        from pipelines.formats.hl7.fields import FieldReader
        from pipelines.formats.hl7.text import Segment
    except ImportError:  # the extra 'hl7' is not installed
        return
    composer = FieldReader(profile)
    dialect: Dialect | None = None
    for line in map(bytes.strip, LINES.split(payload)):
        if line[:3] == b"MSH":
            dialect = _dialect(line.decode("latin-1"))
        elif dialect is not None:
            yield composer, Segment(_decoded(line, dialect.charset), dialect)


def _dialect(header: str) -> Dialect | None:
    """Return separators and character set of MSH, with the usual ones for missing ones; None: MSH is unusable."""
    from pipelines.formats.hl7.text import CHARSETS, Dialect, Separators

    field = header[3:4]
    marks = header[4:].split(field)[0] if field else ""
    separators = Separators(field, *(marks + _MARKS[len(marks) :])[:4])
    if len(set(separators)) < len(separators) or any(mark.isalnum() or not mark for mark in separators):
        return None
    charset = [*header.split(field), *[""] * 17][17].split(separators.repetition)[0]
    return Dialect(separators, CHARSETS.get(charset.strip().upper(), "utf-8"))


def _decoded(line: bytes, charset: str) -> str:
    try:
        return line.decode(charset)
    except UnicodeDecodeError:
        return line.decode("latin-1")
