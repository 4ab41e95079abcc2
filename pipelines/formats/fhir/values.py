"""Makes columns of the values of Observations and components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.fhir.elements import MeasuredQuantity, checked, concept_of
from pipelines.formats.fhir.structs import STATUSES, Valued
from pipelines.formats.shared.encoded import Encoded, Refused, dictionary
from pipelines.formats.shared.reasons import Reason

Refuse = Callable[[int, Reason, str], None]
_PATH = "Observation.value[x]"
_TRUE = {True: "true", False: "false"}


_WITHOUT_VALUE = {"registered": "temp-unknown", "cancelled": "unknown", "entered-in-error": "unknown"}
"""Status that needs no value → the reason for its absence.

If a message without a value were refused, the value that it takes back would go on to count.
"""


def value_columns(
    quantities: Encoded[MeasuredQuantity], others: dict[int, Valued], statuses: npt.NDArray[np.int32], refuse: Refuse
) -> dict[str, pa.Array]:
    """Return the columns that a value fills, and refuse items that cannot be used.

    Args:
        quantities: valueQuantity of every item.
        others: items, by index, without a valueQuantity or with a dataAbsentReason.
        statuses: per item, its index in STATUSES.
        refuse: called for each item that cannot be used, with reason and path, in order.
    """
    count, distinct = len(quantities.index), quantities.values
    values = np.array([*(np.nan if q is None or q.value is None else q.value for q in distinct), np.nan])[
        quantities.index
    ]
    columns = {
        "unit": _repeated([None if q is None else q.unit for q in distinct], quantities.index),
        "comparator": _repeated([None if q is None else q.comparator for q in distinct], quantities.index),
        "value_code": dictionary(np.full(count, -1, np.int32), []),
        "value_text": pa.nulls(count, pa.string()),
        "data_absent_reason": dictionary(np.full(count, -1, np.int32), []),
    }
    unmeasured = np.isnan(values)
    if unmeasured.any() or others:
        columns |= _others(others, unmeasured, values, columns["unit"], statuses, refuse)
    empty = np.isnan(values)
    return columns | {"value": pa.array(values, mask=empty if empty.any() else None)}


def _repeated(texts: list[str | None], index: npt.NDArray[np.int32]) -> pa.DictionaryArray:
    """Return a dictionary array from one text per distinct quantity and the index of each item's quantity."""
    distinct = list(dict.fromkeys(text for text in texts if text is not None))
    place = {text: i for i, text in enumerate(distinct)}
    table = np.array([*(-1 if text is None else place[text] for text in texts), -1], np.int32)
    return dictionary(table[index], distinct)


def _others(
    others: dict[int, Valued],
    unmeasured: npt.NDArray[np.bool_],
    values: npt.NDArray[np.float64],
    unit: pa.Array,
    statuses: npt.NDArray[np.int32],
    refuse: Refuse,
) -> dict[str, pa.Array]:
    """Return the columns of values of other types; a whole number is written into ``values``."""
    count = len(values)
    codes: list[str | None] = [None] * count
    texts: list[str | None] = [None] * count
    absent: list[str | None] = [None] * count
    units: list[str | None] = unit.to_pylist()
    for i in sorted({*others, *np.flatnonzero(unmeasured).tolist()}):
        item = others.get(i)
        try:
            if item is not None and item.dataAbsentReason is not None:
                absent[i] = concept_of(item.dataAbsentReason) or "text"
            if unmeasured[i] and item is not None:
                codes[i], texts[i] = _in_words(item)
                if item.valueInteger is not None:
                    values[i], units[i] = float(item.valueInteger), "1"
            if np.isnan(values[i]) and codes[i] is None and texts[i] is None and absent[i] is None:
                absent[i] = _WITHOUT_VALUE.get(STATUSES[statuses[i]])
            if np.isnan(values[i]) and codes[i] is None and texts[i] is None and absent[i] is None:
                refuse(i, Reason.NO_VALUE, _PATH)
        except Refused as why:
            refuse(i, why.reason, _PATH)
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
