"""Codes of a hospital's or laboratory's own systems, as the home declares them: taken as LOINC, and counted.

A code is shown where its system is declared and it has the form of that system's codes; anything else may be words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.commits.spans import MOST_LOCAL, OTHERS
from vitalake.vocabulary import Vocabulary

Rows = Mapping[str, npt.NDArray[np.int32]]
"""What is counted → index of the message of every such row."""


@dataclass(frozen=True, slots=True)
class LocalCodes:
    """Codes of local systems among the rows of a poll.

    Attributes:
        mapped: ``<system>|<code> → <LOINC>`` of those that were taken as a LOINC code.
        unmapped: ``<system>|<code>`` of those that nobody has mapped yet; beyond MOST_LOCAL of them OTHERS.
        units: of each row the unit that its code has where the sender gives none; None: no row has one.
    """

    mapped: Rows = field(default_factory=dict)
    unmapped: Rows = field(default_factory=dict)
    units: pa.Array | None = None

    def with_units(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows, numbers without a unit with that of their code."""
        if self.units is None:
            return rows
        unit = rows["unit"].cast(pa.string())
        lacking = pc.and_(unit.is_null(), rows["value"].is_valid())
        return _with(rows, "unit", pc.if_else(lacking, self.units, unit))


NO_LOCAL_CODES = LocalCodes()


def with_local_codes(
    rows: pa.RecordBatch, message: npt.NDArray[np.int32], vocabulary: Vocabulary
) -> tuple[pa.RecordBatch, LocalCodes]:
    """Return the rows with the LOINC codes that local codes are mapped to, and which local codes there were.

    Args:
        rows: DECODED_SCHEMA.
        message: of each row the index of its message.
        vocabulary: knows the local systems.
    """
    if not vocabulary.local or not rows.num_rows:
        return rows, NO_LOCAL_CODES
    texts, index = rows["code"].dictionary.to_pylist(), rows["code"].indices.to_numpy(zero_copy_only=False)
    mapped, unmapped, others = dict[str, npt.NDArray[np.int32]](), dict[str, npt.NDArray[np.int32]](), list[int]()
    places: dict[str, list[int]] = {}
    for i in np.unique(index[index >= 0]).tolist():  # a dictionary may hold codes of messages that were refused,
        places.setdefault(texts[i], []).append(i)  # and one code twice: as it came, and chosen among several
    for text, of in places.items():
        taken_as = vocabulary.mapped.get(text)
        if taken_as is not None:
            mapped[f"{text} → {taken_as.loinc}"] = message[np.isin(index, of)]
        elif vocabulary.is_local_code(text):
            if len(unmapped) < MOST_LOCAL:
                unmapped[text] = message[np.isin(index, of)]
            else:
                others += of
    if others:
        unmapped[OTHERS] = message[np.isin(index, others)]
    if not mapped:
        return rows, LocalCodes(unmapped=unmapped)
    loinc = pa.array([vocabulary.loinc_of(text) for text in texts], pa.string())
    units = [entry.unit if (entry := vocabulary.mapped.get(text)) else None for text in texts]
    told = pa.array(units, pa.string()).take(rows["code"].indices) if any(units) else None
    return _with(rows, "code", loinc.take(rows["code"].indices)), LocalCodes(mapped, unmapped, told)


def _with(rows: pa.RecordBatch, name: str, texts: pa.Array) -> pa.RecordBatch:
    columns = dict(zip(rows.schema.names, rows.columns, strict=True)) | {name: texts.dictionary_encode()}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
