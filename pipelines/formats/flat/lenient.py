"""Finds in refused device JSON the patients at the profile's paths, and what it may have measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.formats.base import Lenient
from pipelines.formats.fhir.unread import instant_us
from pipelines.formats.flat.columns import identifiers
from pipelines.formats.flat.profile import FlatProfile, IdentifierPlace, TimePlace
from pipelines.formats.flat.profile_paths import EACH, Step
from pipelines.formats.shared.about import About
from pipelines.formats.shared.documents import parse_document, text_of
from pipelines.formats.shared.named import Named
from vitalake.vocabulary import load_vocabulary

_MOST_US = 1 << 62
_PER_SECOND = {"epoch-s": 1_000_000, "epoch-ms": 1_000, "epoch-us": 1}


class FlatLenient(Lenient):
    """Reads refused messages of one device profile."""

    def __init__(self, profile: FlatProfile) -> None:
        self._profile = profile

    def whose(self, payload: bytes) -> Named | None:
        """Return the patients at the profile's path; None: the message is not JSON."""
        document = parse_document(payload)
        return None if isinstance(document, bytes) else Named(_composed(document, self._profile.patient))

    def stays(self, payload: bytes) -> set[str]:
        """Return the stays at the profile's path."""
        return _composed(parse_document(payload), self._profile.encounter)

    def devices(self, payload: bytes) -> set[str]:
        """Return the devices at the profile's path."""
        return _composed(parse_document(payload), self._profile.device)

    def about(self, payload: bytes) -> About | None:
        """Return the codes of the values at the profile's paths; None: the message is not JSON."""
        document = parse_document(payload)
        return None if isinstance(document, bytes) else _about(document, self._profile)


def _composed(document: Any, name: IdentifierPlace | None) -> set[str]:
    if name is None:
        return set()
    texts = [text_of(value) for value in _values_at(document, name.path.steps)]
    return {text for text in identifiers(texts, name).values if text}


def _about(document: Any, profile: FlatProfile) -> About:
    at_us = _time(document, profile.time)
    loinc_of = load_vocabulary().loinc_of
    codes = {
        loinc_of(value.code): at_us
        for value in profile.values
        if any(found is not None for found in _values_at(document, value.path.steps))
        and (value.when is None or value.when.word in map(str, _values_at(document, value.when.path.steps)))
    }
    return About(codes, unnamed=not codes)


def _time(document: Any, when: TimePlace) -> int | None:
    written = _values_at(document, when.path.steps)
    if when.format == "rfc3339":
        return max(filter(None, map(instant_us, written)), default=None)
    factor = _PER_SECOND.get(when.format, 0)
    times = [int(time * factor) for time in written if isinstance(time, int | float) and abs(time) < _MOST_US / 1e6]
    return max(times, default=None) if factor else None


def _values_at(document: Any, steps: Sequence[Step]) -> list[Any]:
    """Return all values at a profile's path, of whatever type; the decoder would refuse a message with a wrong one."""
    found = [document]
    for step in steps:
        if isinstance(step, int):
            found = [thing[step] for thing in found if isinstance(thing, list) and step < len(thing)]
        elif step == EACH:
            found = [item for thing in found if isinstance(thing, list) for item in thing]
        else:
            key = step.removeprefix(".")
            found = [thing[key] for thing in found if isinstance(thing, dict) and key in thing]
    return found
