"""Finds what the results in refused HL7 v2 may have measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from pipelines.formats.fhir.unread import NUMBER
from pipelines.formats.hl7.lenient import segments
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.shared.about import ANYTHING, NOTHING, About, joined
from pipelines.formats.shared.documents import LINES
from pipelines.formats.shared.encoded import Refused
from vitalake.clinical.vitals import may_be_vital_unit
from vitalake.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from pipelines.formats.hl7.text import Segment

_NUMERIC = frozenset({"NM", "SN", ""})


def about(payload: bytes, profile: Hl7Profile) -> About:
    """Return what the results of ORU messages may have measured; messages of other types hold no results."""
    heads = [head for line in LINES.split(payload) if (head := _head(line.strip())) is not None]
    kinds = {kind for kind, _ in heads}
    if kinds and kinds.isdisjoint({"ORU", ""}):
        return NOTHING
    if heads and not any(profile.takes(processing) for _, processing in heads):
        return NOTHING
    found = [*_results(payload, profile)]
    return joined(found) if found or kinds else ANYTHING


def _head(line: bytes) -> tuple[str, str] | None:
    """Return the message type of MSH-9, and MSH-11; None: the line is not an MSH."""
    if not line.startswith(b"MSH") or len(line) < 5:
        return None
    fields = line.decode("latin-1").split(chr(line[3]))
    kind, _, processing = ([*fields[8:11], "", "", ""])[:3]
    return kind.split(chr(line[4]))[0].strip(), processing.split(chr(line[4]))[0].strip()


def _results(payload: bytes, profile: Hl7Profile) -> Iterator[About]:
    order: Segment | None = None
    for composer, segment in segments(payload, profile):
        if segment.name == "OBR":
            order = segment
        if segment.name != "OBX":
            continue
        code: str | None = ""
        with suppress(Refused):
            code = composer.code(segment.raw(3), segment.dialect)
        if code is None:  # the profile ignores it
            continue
        vocabulary = load_vocabulary()
        codes = vocabulary.codes.keys()
        others = {one for one, _, _ in composer.codings(segment.raw(3), segment.dialect)}
        # A known code under a missing or wrong system is refused by the decoder, but shows what was measured.
        if known := codes & {vocabulary.loinc_of(code)} or codes & others:
            yield About(dict.fromkeys(known, _time(segment, order, profile)), unnamed=False)
            continue
        unit = None
        with suppress(Refused):
            unit = composer.unit(segment.raw(6), segment.dialect)
        number = segment.raw(2) in _NUMERIC or (segment.raw(2) == "ST" and NUMBER.match(segment.raw(5)) is not None)
        yield About({}, unnamed=number and may_be_vital_unit((unit or "").rpartition("|")[2]))


def _time(obx: Segment, order: Segment | None, profile: Hl7Profile) -> int | None:
    from pipelines.formats.hl7.times import instant, read_time

    for text in (obx.first(14), order.first(7) if order is not None else ""):
        with suppress(Refused):
            if text:
                return instant(read_time(text), offset_minutes=None, clock=profile.clock).us
    return None
