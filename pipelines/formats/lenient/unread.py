"""What a message that was refused may have measured: read leniently, for it may be half broken.

A refused vital sign ends what was known of its part on the ward. What was measured is not looked at, only which codes
are named and of when they are; and whether what has no code that is known could be a vital sign at all: a smoking
status, a medication or an admission on the same topic says nothing of anybody's pulse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.formats.fhir.elements import is_of_another
from pipelines.formats.fhir.records import instant_of
from pipelines.formats.flat.profile import FlatProfile, Profile, When
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.lenient.naming import LINES, Naming, opened, places, segments, values_at
from pipelines.formats.shared.encoded import Refused
from vitalake.clinical.vitals import may_be_vital_unit
from vitalake.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from pipelines.formats.hl7.text import Segment

_NUMBER = re.compile(r"\s*[<>=]*\s*[-+]?[.,]?\d")
_NUMERIC = frozenset({"NM", "SN", ""})
_OTHER_CATEGORIES = frozenset({"laboratory", "imaging", "social-history", "procedure", "survey", "therapy", "activity"})
"""Of HL7's observation-category; beside it vital signs come as ``exam``, and as what a hospital calls them."""
_WORDS = frozenset({"code", "display", "text"})
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_MOST_US = 1 << 62
_PER_SECOND = {"epoch-s": 1_000_000, "epoch-ms": 1_000, "epoch-us": 1}


@dataclass(frozen=True, slots=True)
class About:
    """What a message may have measured.

    Attributes:
        codes: LOINC codes of the vocabulary that it names, with the time of each in microseconds since 1970 UTC; None:
            there is none that can be read.
        unnamed: it may hold a vital sign of which no code is known.
    """

    codes: Mapping[str, int | None]
    unnamed: bool


_NOTHING = About({}, unnamed=False)
_ANYTHING = About({}, unnamed=True)


def about(payload: bytes, format_name: str, naming: Naming) -> About:
    """Return what a message may have measured.

    Args:
        payload: the message.
        format_name: of its topic.
        naming: knows the profiles.
    """
    message, profile = opened(payload), naming.profile_of(format_name)
    if isinstance(message, bytes):
        return _of_hl7(message, profile)
    if isinstance(profile, FlatProfile):
        return _of_flat(message, profile)
    if isinstance(message, dict) and isinstance(message.get("resourceType"), str):
        return _of_fhir(message)
    inner = [
        about(value.encode(errors="replace"), format_name, naming)
        for _, value in places(message)
        if isinstance(value, str) and value.lstrip()[:3].startswith(("MSH", "{"))
    ]
    return _joined(inner or [_of_observation(message) if isinstance(message, dict) else _ANYTHING])


def _joined(several: Iterable[About]) -> About:
    codes: dict[str, int | None] = {}
    unnamed = False
    for one in several:
        unnamed |= one.unnamed
        for code, at_us in one.codes.items():
            before = codes.get(code)
            codes[code] = at_us if before is None else max(before, at_us or before)
    return About(codes, unnamed)


# -- FHIR --------------------------------------------------------------------------------------------------------


def _of_fhir(message: dict[str, Any]) -> About:
    kind = message["resourceType"]
    if kind == "Observation":
        return _of_observation(message)
    if kind != "Bundle":
        return _NOTHING
    entries = message.get("entry")
    resources = [one.get("resource") for one in _dicts(entries)]
    read = [isinstance(one, dict) and isinstance(one.get("resourceType"), str) for one in resources]
    whole = isinstance(entries, list) and len(read) == len(entries) and all(read)
    found = [_of_observation(one) for _, one in places(resources) if _is_observation(one)]
    return _joined([*found, *([] if whole else [_ANYTHING])])


def _is_observation(thing: Any) -> bool:
    return isinstance(thing, dict) and thing.get("resourceType") == "Observation"


def _of_observation(observation: dict[str, Any]) -> About:
    """Return what an Observation names; its own code counts for what it holds, or if no component names one."""
    if is_of_another(*(_raw(observation.get(name)) for name in ("focus", "subject"))):
        return _NOTHING
    told = [str(value) for name, value in places(observation.get("category")) if name in _WORDS]
    categories = {text.strip().lower().replace("_", "-").replace(" ", "-") for text in told}
    components = _dicts(observation.get("component"))
    own = [] if components and not any(key.startswith("value") for key in observation) else [observation]
    at_us, codes, unnamed = _moment(observation), dict[str, int | None](), False
    for item in [*own, *components]:
        known = _known_codes(item)
        codes |= dict.fromkeys(known, at_us)
        unnamed |= not known and _may_be_vital(item, categories)
    return About(codes or dict.fromkeys(_known_codes(observation), at_us), unnamed)


def _raw(element: Any) -> bytes:
    return b"" if element is None else msgspec.json.encode(element)


def _known_codes(item: dict[str, Any]) -> set[str]:
    vocabulary, concept = load_vocabulary(), item.get("code")
    codings = _dicts(concept.get("coding")) if isinstance(concept, dict) else []
    own = {vocabulary.loinc_of(f"{one.get('system')}|{one.get('code')}") for one in codings}
    return vocabulary.codes.keys() & {*own, *(str(v) for name, v in places(concept) if name == "code")}


def _may_be_vital(item: dict[str, Any], categories: set[str]) -> bool:
    if "vital-signs" in categories:
        return True
    if not categories.isdisjoint(_OTHER_CATEGORIES):
        return False
    quantity, text = item.get("valueQuantity"), item.get("valueString")
    if isinstance(quantity, dict):
        units = [quantity.get(name) for name in ("code", "unit")]
        return may_be_vital_unit(next((unit for unit in units if isinstance(unit, str) and unit), None))
    if isinstance(text, str):
        return _NUMBER.match(text) is not None
    return "valueInteger" in item or not any(name.startswith("value") for name in item)


def _moment(observation: dict[str, Any]) -> int | None:
    period = observation.get("effectivePeriod")
    period = period if isinstance(period, dict) else {}
    told = [*map(observation.get, ("effectiveDateTime", "effectiveInstant")), *map(period.get, ("end", "start"))]
    return next(filter(None, map(_instant, told)), None)


def _instant(text: Any) -> int | None:
    with suppress(Refused):
        at = instant_of(text if isinstance(text, str) else None, "")
        return None if at is None else (at - _EPOCH) // _MICROSECOND
    return None


def _dicts(several: Any) -> list[dict[str, Any]]:
    return [one for one in several if isinstance(one, dict)] if isinstance(several, list) else []


# -- devices' own JSON -------------------------------------------------------------------------------------------


def _of_flat(message: Any, profile: FlatProfile) -> About:
    at_us = _flat_time(message, profile.time)
    loinc_of = load_vocabulary().loinc_of
    codes = {
        loinc_of(value.code): at_us
        for value in profile.values
        if any(said is not None for said in values_at(message, value.path.steps))
        and (value.when is None or value.when.word in map(str, values_at(message, value.when.path.steps)))
    }
    return About(codes, unnamed=not codes)


def _flat_time(message: Any, when: When) -> int | None:
    told = values_at(message, when.path.steps)
    if when.format == "rfc3339":
        return max(filter(None, map(_instant, told)), default=None)
    factor = _PER_SECOND.get(when.format, 0)
    times = [int(said * factor) for said in told if isinstance(said, int | float) and abs(said) < _MOST_US / 1e6]
    return max(times, default=None) if factor else None


# -- HL7 v2 ------------------------------------------------------------------------------------------------------


def _of_hl7(payload: bytes, profile: Profile | None) -> About:
    """Return what the results of messages name; None of other messages: they hold no results."""
    heads = [head for line in LINES.split(payload) if (head := _head(line.strip())) is not None]
    kinds = {kind for kind, _ in heads}
    if kinds and kinds.isdisjoint({"ORU", ""}):
        return _NOTHING
    said = profile if isinstance(profile, Hl7Profile) else Hl7Profile(format="hl7-v2", description="")
    if heads and not any(said.takes(processing) for _, processing in heads):
        return _NOTHING
    found = [*_results(payload, profile)]
    return _joined(found) if found or kinds else _ANYTHING


def _head(line: bytes) -> tuple[str, str] | None:
    """Return the kind of message that MSH-9 says, and MSH-11; None: it is no MSH."""
    if not line.startswith(b"MSH") or len(line) < 5:
        return None
    fields = line.decode("latin-1").split(chr(line[3]))
    kind, _, processing = ([*fields[8:11], "", "", ""])[:3]
    return kind.split(chr(line[4]))[0].strip(), processing.split(chr(line[4]))[0].strip()


def _results(payload: bytes, profile: Profile | None) -> Iterator[About]:
    order: Segment | None = None
    first = None
    for composer, segment in segments(payload, profile):
        first = first or composer
        if segment.name == "OBR":
            order = segment
        if segment.name != "OBX" or composer is not first:  # the others compose as no profile says
            continue
        code: str | None = ""
        with suppress(Refused):
            code = composer.code(segment.raw(3), segment.dialect)
        if code is None:  # the profile ignores it
            continue
        vocabulary = load_vocabulary()
        codes = vocabulary.codes.keys()
        others = {one for one, _, _ in composer.codings(segment.raw(3), segment.dialect)}
        # What stands under a system that is missing or wrong is no code, but says what was measured.
        if known := codes & {vocabulary.loinc_of(code)} or codes & others:
            yield About(dict.fromkeys(known, _hl7_time(segment, order, profile)), unnamed=False)
            continue
        unit = None
        with suppress(Refused):
            unit = composer.unit(segment.raw(6), segment.dialect)
        number = segment.raw(2) in _NUMERIC or (segment.raw(2) == "ST" and _NUMBER.match(segment.raw(5)) is not None)
        yield About({}, unnamed=number and may_be_vital_unit((unit or "").rpartition("|")[2]))


def _hl7_time(obx: Segment, order: Segment | None, profile: Profile | None) -> int | None:
    from pipelines.formats.hl7.times import instant, read_time

    for text in (obx.first(14), order.first(7) if order is not None else ""):
        with suppress(Refused):
            if text:
                return instant(read_time(text), offset_minutes=None, clock=profile.clock if profile else None).us
    return None
