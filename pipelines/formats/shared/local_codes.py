"""Maps codes of a hospital's or laboratory's own systems to LOINC, as the home declares, and counts them.

A code is shown in counts only if its system is declared and it has the form of that system's codes: anything else could
be free text about a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.commits.span import MOST_LOCAL, OTHERS
from vitalake.vocabulary import Vocabulary

Rows = Mapping[str, npt.NDArray[np.int32]]
"""Counted code → index of the message of every row that has it."""


@dataclass(frozen=True, slots=True)
class LocalCodes:
    """Codes of local systems among the rows of a poll.

    Attributes:
        mapped: ``<system>|<code> → <LOINC>`` of the codes that are mapped.
        unmapped: ``<system>|<code>`` of the codes that are not mapped yet; those beyond MOST_LOCAL count as OTHERS.
        units: per row, the unit that the home declares for its code if the sender gives none; None: no row needs one.
    """

    mapped: Rows = field(default_factory=dict)
    unmapped: Rows = field(default_factory=dict)
    units: pa.Array | None = None

    def with_units(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows, with the declared unit of their code where a number has no unit."""
        if self.units is None:
            return rows
        unit = rows["unit"].cast(pa.string())
        lacking = pc.and_(unit.is_null(), rows["value"].is_valid())
        return _with(rows, "unit", pc.if_else(lacking, self.units, unit))


NO_LOCAL_CODES = LocalCodes()


def with_local_codes(
    rows: pa.RecordBatch, message: npt.NDArray[np.int32], vocabulary: Vocabulary
) -> tuple[pa.RecordBatch, LocalCodes]:
    """Replace mapped local codes by LOINC codes; also return the local codes that occurred.

    Args:
        rows: DECODED_SCHEMA.
        message: per row, the index of its message.
        vocabulary: has the local systems.
    """
    if not vocabulary.local or not rows.num_rows:
        return rows, NO_LOCAL_CODES
    texts, index = rows["code"].dictionary.to_pylist(), rows["code"].indices.to_numpy(zero_copy_only=False)
    mapped, unmapped, others = dict[str, npt.NDArray[np.int32]](), dict[str, npt.NDArray[np.int32]](), list[int]()
    places: dict[str, list[int]] = {}
    # Only codes in use: a dictionary can also hold codes of refused messages. One code can be in it twice: once as it
    # was sent, and once as the chosen one of several codings.
    for i in np.unique(index[index >= 0]).tolist():
        places.setdefault(texts[i], []).append(i)
    for text, indices in places.items():
        mapping = vocabulary.mapped.get(text)
        if mapping is not None:
            mapped[f"{text} → {mapping.loinc}"] = message[np.isin(index, indices)]
        elif vocabulary.is_local_code(text):
            if len(unmapped) < MOST_LOCAL:
                unmapped[text] = message[np.isin(index, indices)]
            else:
                others += indices
    if others:
        unmapped[OTHERS] = message[np.isin(index, others)]
    if not mapped:
        return rows, LocalCodes(unmapped=unmapped)
    loinc = pa.array([vocabulary.loinc_of(text) for text in texts], pa.string())
    units = [entry.unit if (entry := vocabulary.mapped.get(text)) else None for text in texts]
    declared = pa.array(units, pa.string()).take(rows["code"].indices) if any(units) else None
    return _with(rows, "code", loinc.take(rows["code"].indices)), LocalCodes(mapped, unmapped, declared)


def _with(rows: pa.RecordBatch, name: str, texts: pa.Array) -> pa.RecordBatch:
    columns = dict(zip(rows.schema.names, rows.columns, strict=True)) | {name: texts.dictionary_encode()}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
