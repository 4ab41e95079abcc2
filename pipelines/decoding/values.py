"""The values of observations and of their components, as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.decoding.elements import concept_of
from pipelines.decoding.fhir_structs import UCUM, Observation, Valued
from pipelines.decoding.raw import Refused, dictionary
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
        item.valueQuantity is not None
        or item.valueCodeableConcept is not None
        or item.valueString is not None
        or item.valueInteger is not None
        or item.valueBoolean is not None
    )


def value_columns(items: Items, mark: Mark) -> dict[str, pa.Array]:
    """Return the columns that a value fills, marking what cannot be used."""
    things = items.items
    quantities = [item.valueQuantity for item in things]
    if None in quantities or any([item.dataAbsentReason for item in things]):
        return _unusual(items, mark)
    numbers = [q.value for q in quantities]  # type: ignore[union-attr]
    if None in numbers:
        return _unusual(items, mark)
    units = [q.code for q in quantities]  # type: ignore[union-attr]
    systems = {q.system for q in quantities}  # type: ignore[union-attr]
    if not systems <= {UCUM, None}:
        foreign = np.array([q.system not in (UCUM, None) for q in quantities], np.bool_)  # type: ignore[union-attr]
        units = [None if bad else unit for unit, bad in zip(units, foreign.tolist(), strict=True)]
    comparators = [q.comparator for q in quantities]  # type: ignore[union-attr]
    _mark_components(items, mark)
    count = len(things)
    return {
        "value": pa.array(numbers, pa.float64()),
        "unit": _encoded(units),
        "comparator": _encoded(comparators),
        "value_code": dictionary(np.full(count, -1, np.int32), []),
        "value_text": pa.nulls(count, pa.string()),
        "data_absent_reason": dictionary(np.full(count, -1, np.int32), []),
    }


def _encoded(texts: Sequence[str | None]) -> pa.DictionaryArray:
    """Return a dictionary array of texts that are few and repeat."""
    distinct = {text: i for i, text in enumerate(t for t in dict.fromkeys(texts) if t is not None)}
    index = np.array([-1 if text is None else distinct[text] for text in texts], np.int32)
    return dictionary(index, list(distinct))


def _mark_components(items: Items, mark: Mark) -> None:
    """Refuse components that say they mean something else; the observations themselves are looked at elsewhere."""
    if items.plain:
        return
    modified = np.fromiter((bool(bytes(item.modifierExtension)) for item in items.items), np.bool_, len(items.items))
    mark(modified & items.panels, Reason.MODIFIED, "Observation.component.modifierExtension", items.owner)


@dataclass(slots=True)
class _Cell:
    value: float | None = None
    unit: str | None = None
    comparator: str | None = None
    code: str | None = None
    text: str | None = None
    absent: str | None = None
    refused: Refused | None = None


def _unusual(items: Items, mark: Mark) -> dict[str, pa.Array]:
    """Do the same for a batch with values of other kinds, one by one."""
    cells = [_cell(item) for item in items.items]
    _mark_components(items, mark)
    for reason in {cell.refused.reason for cell in cells if cell.refused}:
        bad = np.array([cell.refused is not None and cell.refused.reason is reason for cell in cells], np.bool_)
        mark(bad, reason, "Observation.value[x]", items.owner)

    return {
        "value": pa.array([cell.value for cell in cells], pa.float64()),
        "unit": _encoded([cell.unit for cell in cells]),
        "comparator": _encoded([cell.comparator for cell in cells]),
        "value_code": _encoded([cell.code for cell in cells]),
        "value_text": pa.array([cell.text for cell in cells], pa.string()),
        "data_absent_reason": _encoded([cell.absent for cell in cells]),
    }


def _cell(item: Valued) -> _Cell:
    cell = _Cell()
    try:
        quantity = item.valueQuantity
        if quantity is not None and quantity.value is not None:
            cell.value, cell.comparator = quantity.value, quantity.comparator
            cell.unit = quantity.code if quantity.system in (UCUM, None) else None
        elif item.valueInteger is not None:
            cell.value, cell.unit = float(item.valueInteger), "1"
        elif item.valueCodeableConcept is not None:
            cell.code, cell.text = concept_of(item.valueCodeableConcept), item.valueCodeableConcept.text
        elif item.valueBoolean is not None:
            cell.code = _TRUE[item.valueBoolean]
        elif item.valueString is not None:
            cell.text = item.valueString
        if item.dataAbsentReason is not None:
            cell.absent = concept_of(item.dataAbsentReason) or "text"
        if cell.text is not None and "\0" in cell.text:
            raise Refused(Reason.CONTROL_CHARACTER)
    except Refused as refused:
        cell.refused = refused
    if cell.value is None and cell.code is None and cell.text is None and cell.absent is None:
        cell.refused = cell.refused or Refused(Reason.NO_VALUE)
    return cell
