"""The values of observations and of their components, as columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.decoding.elements import Measured, checked, concept_of
from pipelines.decoding.fhir_structs import Observation, Valued
from pipelines.decoding.raw import Encoded, Refused, dictionary
from pipelines.decoding.reasons import Reason

Mark = Callable[[npt.NDArray[np.bool_], Reason, str, npt.NDArray[np.int32]], None]
_TRUE = {True: "true", False: "false"}


@dataclass(frozen=True, slots=True)
class Items:
    """What becomes a row each: an observation, or each component of a panel.

    Attributes:
        items: in order.
        owner: int32 per item, index of its observation.
        panels: bool per item: it is a component.
        plain: no panel among them: item i is observation i.
    """

    items: list[Valued]
    owner: npt.NDArray[np.int32]
    panels: npt.NDArray[np.bool_]
    plain: bool


def flatten(observations: list[Observation]) -> Items:
    """Return the observations' rows-to-be. A panel that has a value of its own has a row for that as well."""
    count = len(observations)
    if not any([o.component for o in observations]):
        return Items(list(observations), np.arange(count, dtype=np.int32), np.zeros(count, np.bool_), plain=True)
    items: list[Valued] = []
    owner: list[int] = []
    panels: list[bool] = []
    for i, observation in enumerate(observations):
        components = observation.component or []
        if not components or _has_value(observation):
            items.append(observation)
            owner.append(i)
            panels.append(False)
        items += components
        owner += [i] * len(components)
        panels += [True] * len(components)
    return Items(items, np.array(owner, np.int32), np.array(panels, np.bool_), plain=False)


def _has_value(item: Valued) -> bool:
    return (
        bool(bytes(item.valueQuantity))
        or item.valueCodeableConcept is not None
        or item.valueString is not None
        or item.valueInteger is not None
        or item.valueBoolean is not None
    )


def value_columns(items: Items, quantities: Encoded[Measured], mark: Mark) -> dict[str, pa.Array]:
    """Return the columns that a value fills, marking what cannot be used.

    Args:
        items: observations and components.
        quantities: their valueQuantity.
        mark: tells which messages cannot be used, and why.
    """
    things, count = items.items, len(items.items)
    _mark_components(items, mark)
    known = quantities.values
    values = np.array([*(np.nan if q is None or q.value is None else q.value for q in known), np.nan])[quantities.index]
    units = [None if q is None else q.unit for q in known]
    comparators = [None if q is None else q.comparator for q in known]
    columns = {
        "unit": _repeated(units, quantities.index),
        "comparator": _repeated(comparators, quantities.index),
        "value_code": dictionary(np.full(count, -1, np.int32), []),
        "value_text": pa.nulls(count, pa.string()),
        "data_absent_reason": dictionary(np.full(count, -1, np.int32), []),
    }
    unmeasured = np.isnan(values)
    if unmeasured.any() or any([item.dataAbsentReason for item in things]):
        columns |= _others(items, unmeasured, values, columns["unit"], mark)
    empty = np.isnan(values)
    return columns | {"value": pa.array(values, mask=empty if empty.any() else None)}


def _repeated(texts: list[str | None], index: npt.NDArray[np.int32]) -> pa.DictionaryArray:
    """Return a dictionary array of the texts of each distinct quantity, by the quantity's index."""
    distinct = list(dict.fromkeys(text for text in texts if text is not None))
    place = {text: i for i, text in enumerate(distinct)}
    table = np.array([*(-1 if text is None else place[text] for text in texts), -1], np.int32)
    return dictionary(table[index], distinct)


def _mark_components(items: Items, mark: Mark) -> None:
    """Refuse components that say they mean something else; the observations themselves are looked at elsewhere."""
    if items.plain:
        return
    modified = np.fromiter((bool(bytes(item.modifierExtension)) for item in items.items), np.bool_, len(items.items))
    mark(modified & items.panels, Reason.MODIFIED, "Observation.component.modifierExtension", items.owner)


def _others(
    items: Items, unmeasured: npt.NDArray[np.bool_], values: npt.NDArray[np.float64], unit: pa.Array, mark: Mark
) -> dict[str, pa.Array]:
    """Return the columns of values of other kinds; a whole number is filled into ``values``."""
    count = len(items.items)
    codes: list[str | None] = [None] * count
    texts: list[str | None] = [None] * count
    absent: list[str | None] = [None] * count
    units: list[str | None] = unit.to_pylist()
    refused: dict[Reason, list[int]] = {}
    for i, item in enumerate(items.items):
        if not unmeasured[i] and item.dataAbsentReason is None:
            continue
        try:
            if item.dataAbsentReason is not None:
                absent[i] = concept_of(item.dataAbsentReason) or "text"
            if unmeasured[i]:
                codes[i], texts[i] = _in_words(item)
            if unmeasured[i] and item.valueInteger is not None:
                values[i], units[i] = float(item.valueInteger), "1"
            elif unmeasured[i] and codes[i] is None and texts[i] is None and absent[i] is None:
                refused.setdefault(Reason.NO_VALUE, []).append(i)
        except Refused as why:
            refused.setdefault(why.reason, []).append(i)
    for reason, where in refused.items():
        bad = np.zeros(count, np.bool_)
        bad[where] = True
        mark(bad, reason, "Observation.value[x]", items.owner)
    return {
        "unit": pa.array(units, pa.string()).dictionary_encode(),
        "value_code": pa.array(codes, pa.string()).dictionary_encode(),
        "value_text": pa.array(texts, pa.string()),
        "data_absent_reason": pa.array(absent, pa.string()).dictionary_encode(),
    }


def _in_words(item: Valued) -> tuple[str | None, str | None]:
    """Return the coded value and the text of an item that has no number."""
    if item.valueCodeableConcept is not None:
        text = item.valueCodeableConcept.text
        return concept_of(item.valueCodeableConcept), None if text is None else checked(text)
    if item.valueBoolean is not None:
        return _TRUE[item.valueBoolean], None
    return None, None if item.valueString is None else checked(item.valueString)
