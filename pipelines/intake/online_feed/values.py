"""Makes values for the online store of rows of observations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.poll import Poll
from pipelines.formats.base import WAREHOUSE
from pipelines.intake.online_feed.columns import dictionary_of
from pipelines.intake.online_feed.destination import Destination
from pipelines.online_store.values import COMPARATORS, MAX_ATTRIBUTION, ROW, UNUSABLE, Values, stage_of
from vitalake.clinical.records import code_number
from vitalake.clinical.statuses import WITHDRAWN, WITHOUT_RESULT
from vitalake.lake.datasets.dataset import Dataset
from vitalake.vocabulary import load_vocabulary


class ValueReader:
    """Makes values of rows; the patients get their pseudonyms."""

    def __init__(self, dataset: Dataset, destination: Destination, *, left_out: Sequence[str]) -> None:
        """Prepare.

        Args:
            dataset: of the rows.
            destination: says which patients go to the online store.
            left_out: LOINC codes that do not go there.
        """
        self._dataset, self._destination, self._left_out = dataset, destination, left_out
        self._numbers = {loinc: code_number(loinc) for loinc in load_vocabulary().codes}

    def read(
        self, rows: pa.RecordBatch, messages: npt.NDArray[np.int32], poll: Poll, *, any_code: bool = False
    ) -> Values:
        """Return the values of rows that the store has a use for, at the positions of their messages.

        Args:
            rows: identified.
            messages: for each row the message of the poll at whose position its value is stored.
            poll: the messages.
            any_code: take every row, whatever it is of.
        """
        status, code = dictionary_of(rows["status"]), dictionary_of(rows["code"])
        number = _with_answers(rows, pc.fill_null(rows["value"], np.nan).to_numpy(zero_copy_only=False))
        empty = np.isnan(number)
        numbers = self.code_numbers(code)  # a known measurement without a number is kept: it ends the value before it
        chosen = (~empty | (numbers > 0) | _is_among(status, WITHDRAWN)) & ~_is_among(status, WITHOUT_RESULT)
        if any_code:
            chosen[:] = True
        elif self._left_out:
            chosen &= ~_is_among(code, tuple(self._left_out))
        patients = dictionary_of(rows["patient_id"])
        tokens = self._destination.tokens("patient_id", patients.dictionary)
        owner = patients.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        if not self._destination.admits_all:
            chosen &= np.array([self._destination.admits(token) for token in tokens], np.bool_)[owner]
        which = np.flatnonzero(chosen)
        values = np.zeros(len(which), ROW)
        values["code"] = numbers[which]
        values["stage"] = _stages(status)[which]
        if "comparator" in rows.schema.names and rows["comparator"].null_count < len(rows):
            values["stage"] |= _comparators(dictionary_of(rows["comparator"]))[which] << 8
        if "data_absent_reason" in rows.schema.names and empty.any():
            values["stage"][_is_not_to_be_had(rows, status, empty)[which]] &= ~np.uint16(1)
            came = rows["data_absent_reason"].is_null().to_numpy(zero_copy_only=False) & empty
            values["stage"][came[which]] |= UNUSABLE << 8
        values["value"] = number[which]
        for name in ("effective_at", "available_at"):
            values[name.replace("_at", "_us")] = rows[name].cast(pa.int64()).to_numpy(zero_copy_only=False)[which]
        if poll.format != WAREHOUSE:  # the warehouse gives the times of storage; the time of this load means nothing
            values["came_us"] = poll.broker_ms[messages[which]] * 1000
        values["attribution"] = _attribution(rows)[which]
        values["id"] = _first_halves(rows["observation_id"])[which]
        values["version"] = pc.fill_null(rows["version"], 0).to_numpy(zero_copy_only=False)[which]
        message = messages[which]
        return Values(
            rows=values,
            patient=owner[which],
            patients=tokens,
            position=poll.offset[message],
            part=poll.part[message],
            parts=[part.app_id(self._dataset.name) for part in poll.parts],
        )

    def code_numbers(self, codes: pa.DictionaryArray) -> npt.NDArray[np.uint32]:
        """Return the number of each code; 0: it is not in the vocabulary."""
        # The dictionary also holds the codes of rejected rows, which can be any text.
        numbers = np.array([self._numbers.get(text, 0) for text in codes.dictionary.to_pylist()], np.uint32)
        found: npt.NDArray[np.uint32] = numbers[codes.indices.to_numpy(zero_copy_only=False)]
        return found


def _with_answers(rows: pa.RecordBatch, number: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the numbers, and for an answer on a scale its place, the best answer 0: see Vocabulary.answers."""
    coded = rows["value_code"]
    if coded.null_count == len(coded):
        return number
    answers, number = load_vocabulary().answers, number.copy()
    given = coded.to_pylist()
    for i, code in enumerate(rows["code"].to_pylist()):
        if code in answers and given[i] is not None and np.isnan(number[i]):
            number[i] = answers[code].score.get(given[i], np.nan)
    return number


def _attribution(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Return the attribution of each row, limited to what fits; 0: the message named the patient.

    Odd stays odd, because an even number marks a row that withdraws.
    """
    if "attribution" not in rows.schema.names:
        return np.zeros(rows.num_rows, np.int64)
    known = pc.fill_null(rows["attribution"], 0).to_numpy(zero_copy_only=False)
    return np.where(known > MAX_ATTRIBUTION, MAX_ATTRIBUTION + known % 2, known)


def _is_among(column: pa.DictionaryArray, texts: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    hit = np.array([text in texts for text in column.dictionary.to_pylist()], np.bool_)
    found: npt.NDArray[np.bool_] = hit[column.indices.to_numpy(zero_copy_only=False)]
    return found


def _stages(status: pa.DictionaryArray) -> npt.NDArray[np.uint16]:
    stages = np.array([stage_of(text) for text in [*status.dictionary.to_pylist(), None]], np.uint16)
    found: npt.NDArray[np.uint16] = stages[pc.fill_null(status.indices, -1).to_numpy(zero_copy_only=False)]
    return found


def _comparators(column: pa.DictionaryArray) -> npt.NDArray[np.uint16]:
    known = [COMPARATORS.index(text) if text in COMPARATORS else 0 for text in column.dictionary.to_pylist()]
    found: npt.NDArray[np.uint16] = np.array([*known, 0], np.uint16)[pc.fill_null(column.indices, -1).to_numpy()]
    return found


def _is_not_to_be_had(
    rows: pa.RecordBatch, status: pa.DictionaryArray, empty: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return the results that were started and could not be obtained, as HL7's status X; each ends the value before it.

    A cancelled result that was never started ends nothing.
    """
    cancelled = _is_among(status, ("cancelled",)) & empty
    if not cancelled.any():
        return cancelled
    found: npt.NDArray[np.bool_] = cancelled & np.array(
        [reason == "unknown" for reason in rows["data_absent_reason"].to_pylist()], np.bool_
    )
    return found


def _first_halves(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each observation_id, which are enough to tell one patient's values apart."""
    whole = ids.cast(pa.binary(16))
    return np.frombuffer(whole.buffers()[1], np.uint64).reshape(-1, 2)[whole.offset : whole.offset + len(whole), 0]
