"""From parsed resources to plain lists, a small chunk at a time.

Every pass over the objects of a large poll fetches them from memory anew; taken a thousand at a time they are still in
the processor's cache for all passes, and are freed there. What is left are lists of texts for the whole poll, for
columns to be made of in one go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from pipelines.formats.fhir.elements import identity_of
from pipelines.formats.fhir.structs import Identifier, Observation, Valued
from pipelines.formats.shared.parsing import PARSE_ERRORS

Texts = list[bytes]


@dataclass(slots=True)
class Gathered:
    """What a poll's observations hold.

    One entry an observation: message, subjects, encounters, devices, metas, moments, issues, identities, statuses,
    modified. One entry an item (an observation with a value, or a component): observation, panel_codes (empty for a
    single value), codes, quantities. ``others`` has the items, by index, whose value is not just a quantity.
    """

    message: list[int] = field(default_factory=list)
    subjects: Texts = field(default_factory=list)
    encounters: Texts = field(default_factory=list)
    devices: Texts = field(default_factory=list)
    metas: Texts = field(default_factory=list)
    moments: list[str | None] = field(default_factory=list)
    issues: list[str | None] = field(default_factory=list)
    identities: list[bytes | None] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    modified: list[int] = field(default_factory=list)
    observation: list[int] = field(default_factory=list)
    panel_codes: Texts = field(default_factory=list)
    codes: Texts = field(default_factory=list)
    quantities: Texts = field(default_factory=list)
    others: dict[int, Valued] = field(default_factory=dict)
    modified_items: list[int] = field(default_factory=list)
    has_panels: bool = False

    def take(self, observations: list[Observation], message: list[int]) -> None:
        """Add observations and the index of the message of each."""
        begin = len(self.message)
        self.message += message
        self.subjects += texts_of([o.subject for o in observations])
        self.encounters += texts_of([o.encounter for o in observations])
        self.devices += texts_of([o.device for o in observations])
        self.metas += texts_of([o.meta for o in observations])
        self.moments += [o.effectiveDateTime or o.effectiveInstant or _period(o.effectivePeriod) for o in observations]
        self.issues += [o.issued for o in observations]
        self.identities += identities_of([o.identifier for o in observations])
        self.statuses += [o.status for o in observations]
        if b"".join([o.modifierExtension for o in observations]) or any([o.implicitRules for o in observations]):
            self.modified += [
                begin + i
                for i, o in enumerate(observations)
                if o.implicitRules is not None or bytes(o.modifierExtension)
            ]
        if any([o.component for o in observations]):
            self._take_panels(observations, begin)
        else:
            self._take_items(observations, range(begin, begin + len(observations)), [b""] * len(observations))

    def _take_panels(self, observations: list[Observation], begin: int) -> None:
        """Add the components of panels; a panel that has a value of its own is an item besides."""
        items: list[Valued] = []
        owner: list[int] = []
        panels: list[bytes] = []
        own = texts_of([o.code for o in observations])
        for i, observation in enumerate(observations):
            components = observation.component or []
            if not components or _has_value(observation):
                items.append(observation)
                owner.append(begin + i)
                panels.append(b"")
            items += components
            owner += [begin + i] * len(components)
            panels += [own[i] or b"null"] * len(components)
        self.has_panels = True
        first = len(self.observation)
        self.modified_items += [
            first + j
            for j, (item, panel) in enumerate(zip(items, panels, strict=True))
            if panel and bytes(item.modifierExtension)
        ]
        self._take_items(items, owner, panels)

    def _take_items(self, items: Iterable[Valued], owner: Iterable[int], panels: Texts) -> None:
        items = list(items)
        begin = len(self.observation)
        self.observation += owner
        self.panel_codes += panels
        self.codes += texts_of([item.code for item in items])
        quantities = texts_of([item.valueQuantity for item in items])
        self.quantities += quantities
        if b"" in quantities or b"null" in quantities or any([item.dataAbsentReason for item in items]):
            self.others |= {
                begin + j: item
                for j, (item, quantity) in enumerate(zip(items, quantities, strict=True))
                if quantity in (b"", b"null") or item.dataAbsentReason is not None
            }


def texts_of(raws: list[msgspec.Raw]) -> Texts:
    """Return raw JSON as bytes; an absent element as nothing.

    JSON that msgspec parsed holds no NUL, unread text included, so joining and splitting is exact; it takes half the
    time of bytes(raw). Should a release let one through, neighbours must not get each other's texts.
    """
    texts = b"\0".join(raws).split(b"\0") if raws else []
    return texts if len(texts) == len(raws) else [bytes(raw) for raw in raws]


class _Period(msgspec.Struct, gc=False):
    start: str | None = None
    end: str | None = None


_PERIOD = msgspec.json.Decoder(_Period)


def _period(raw: msgspec.Raw) -> str | None:
    """Return when a period ends, else when it begins: by then all was measured; None: it tells neither."""
    text = bytes(raw)
    try:
        period = _PERIOD.decode(text) if text not in (b"", b"null") else _Period()
    except PARSE_ERRORS:
        return None
    return period.end or period.start


def identities_of(identifiers: list[list[Identifier]]) -> list[bytes | None]:
    """Return identity_of for each; at a fifth of the cost where all have one identifier of one system."""
    if set(map(len, identifiers)) == {1}:
        firsts = [several[0] for several in identifiers]
        values = [first.value for first in firsts]
        systems = {first.system for first in firsts}
        if len(systems) == 1 and None not in values:
            system = systems.pop() or ""
            prefix = f"{len(system)}|{system}|".encode()
            texts = "\0".join(values).encode().split(b"\0")  # type: ignore[arg-type]
            if len(texts) == len(values):  # else one of them holds U+0000
                return [prefix + text for text in texts]
    return [identity_of(several) for several in identifiers]


def _has_value(item: Valued) -> bool:
    return (
        bool(bytes(item.valueQuantity))
        or item.valueCodeableConcept is not None
        or item.valueString is not None
        or item.valueInteger is not None
        or item.valueBoolean is not None
    )


def flags(count: int, where: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Return an array of so many flags, set at these indices."""
    marked = np.zeros(count, np.bool_)
    marked[list(where)] = True
    return marked
