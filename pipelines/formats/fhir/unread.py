"""Finds what refused Observations may have measured."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from pipelines.formats.fhir.elements import is_of_another
from pipelines.formats.fhir.records import instant_of
from pipelines.formats.shared.about import ANYTHING, NOTHING, About, joined
from pipelines.formats.shared.documents import keyed_values
from pipelines.formats.shared.encoded import Refused
from vitalake.clinical.vitals import may_be_vital_unit
from vitalake.vocabulary import load_vocabulary

NUMBER = re.compile(r"\s*[<>=]*\s*[-+]?[.,]?\d")
"""The beginning of a text that could be a number."""

_OTHER_CATEGORIES = frozenset({"laboratory", "imaging", "social-history", "procedure", "survey", "therapy", "activity"})
"""Values of HL7's observation-category that exclude vital signs.

Vital signs come as ``vital-signs``, as ``exam``, or under a hospital's own words.
"""

_WORDS = frozenset({"code", "display", "text"})

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def about_resource(message: dict[str, Any]) -> About:
    """Return what a resource may have measured; of a Bundle, what its Observations may have measured."""
    kind = message["resourceType"]
    if kind == "Observation":
        return about_observation(message)
    if kind != "Bundle":
        return NOTHING
    entries = message.get("entry")
    resources = [one.get("resource") for one in _dicts(entries)]
    read = [isinstance(one, dict) and isinstance(one.get("resourceType"), str) for one in resources]
    whole = isinstance(entries, list) and len(read) == len(entries) and all(read)
    found = [about_observation(one) for _, one in keyed_values(resources) if _is_observation(one)]
    return joined([*found, *([] if whole else [ANYTHING])])


def _is_observation(thing: Any) -> bool:
    return isinstance(thing, dict) and thing.get("resourceType") == "Observation"


def about_observation(observation: dict[str, Any]) -> About:
    """Return what an Observation may have measured.

    Its own code counts if it has a value or no components, or if no component has a known code.
    """
    if is_of_another(*(_raw(observation.get(name)) for name in ("focus", "subject"))):
        return NOTHING
    texts = [str(value) for name, value in keyed_values(observation.get("category")) if name in _WORDS]
    categories = {text.strip().lower().replace("_", "-").replace(" ", "-") for text in texts}
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
    return vocabulary.codes.keys() & {*own, *(str(v) for name, v in keyed_values(concept) if name == "code")}


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
        return NUMBER.match(text) is not None
    return "valueInteger" in item or not any(name.startswith("value") for name in item)


def _moment(observation: dict[str, Any]) -> int | None:
    period = observation.get("effectivePeriod")
    period = period if isinstance(period, dict) else {}
    times = [*map(observation.get, ("effectiveDateTime", "effectiveInstant")), *map(period.get, ("end", "start"))]
    return next(filter(None, map(instant_us, times)), None)


def instant_us(text: Any) -> int | None:
    """Return a FHIR dateTime in microseconds since 1970 UTC; None: it is not an instant."""
    with suppress(Refused):
        at = instant_of(text if isinstance(text, str) else None, "")
        return None if at is None else (at - _EPOCH) // _MICROSECOND
    return None


def _dicts(several: Any) -> list[dict[str, Any]]:
    return [one for one in several if isinstance(one, dict)] if isinstance(several, list) else []
