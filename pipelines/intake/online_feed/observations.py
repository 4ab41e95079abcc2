"""Takes observations, refused ones too, to the online store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.core.poll import Outcome, Poll
from pipelines.formats.shared.refused import RefusedRows
from pipelines.intake.online_feed.arrival import is_ours
from pipelines.intake.online_feed.columns import dictionary_of
from pipelines.intake.online_feed.destination import Destination
from pipelines.intake.online_feed.people import People
from pipelines.intake.online_feed.values import ValueReader
from pipelines.online_store.values import NO_VALUE, REFUSED, REFUSED_UNKNOWN_CODE, UNUSABLE, Values, stage_of
from vitalake.clinical.vitals import vital_numbers
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.dataset import Dataset


class Observations:
    """Takes polls of observations."""

    def __init__(self, dataset: Dataset, destination: Destination, people: People, *, left_out: Sequence[str]) -> None:
        """Prepare; see OnlineFeed for the arguments."""
        self._dataset, self._destination, self._people = dataset, destination, people
        self._reader = ValueReader(dataset, destination, left_out=left_out)

    def take(self, outcome: Outcome) -> None:
        """Store the values of a poll, also what its refused messages end, and what it says of patients."""
        taken = self._reader.read(outcome.rows, outcome.message, outcome.poll)
        if outcome.refused is not None:
            rejected = [reject.message for reject in outcome.rejects]
            taken = taken.and_also(self._refused(outcome.refused, rejected, outcome.poll))
        if outcome.newly_owned is not None:
            taken = taken.and_also(self._newly_owned(outcome.newly_owned, outcome.poll))
        ends = _ends(outcome, self._dataset.name)
        ours = is_ours(outcome.poll)
        writer, epoch = outcome.poll.shard, self._destination.epoch
        self._destination.write(lambda store: store.take(taken, writer=writer, ends=ends, ours=ours, epoch=epoch))
        if outcome.people:
            self._people.take_results(outcome.people)

    def _refused(self, refused: RefusedRows, rejected: Sequence[int], poll: Poll) -> Values:
        """Return rows that end the earlier values of refused measurements, and one row for each rejected message."""
        refused = refused.where(refused.rows["patient_id"].is_valid().to_numpy(zero_copy_only=False))
        was_rejected = np.isin(refused.message, rejected)
        without_value, refused = refused.where(~was_rejected), refused.where(was_rejected)
        values = self._reader.read(refused.rows, refused.message, poll)
        values.rows["stage"] |= UNUSABLE << 8
        values = values.and_also(self._reader.read(without_value.rows, without_value.message, poll))
        markers = self._rejection_markers(refused, refused.message, poll)
        markers.rows["id"] = _numbers_of(markers, poll)
        return values.and_also(markers)

    def _newly_owned(self, owned: RefusedRows, poll: Poll) -> Values:
        """Return the same rows for messages of earlier polls, at the position of this poll's last message."""
        was_rejected = owned.message > 0
        refused, without_value = owned.where(was_rejected), owned.where(~was_rejected)
        values = [self._reader.read(part.rows, _at_the_end(poll, part), poll) for part in (refused, without_value)]
        values[0].rows["stage"] |= UNUSABLE << 8
        markers = self._rejection_markers(refused, _at_the_end(poll, refused), poll)
        times = markers.rows["effective_us"].tolist()
        markers.rows["id"] = [_number_of(poll.parts[0], -time - i) for i, time in enumerate(times)]
        return values[0].and_also(values[1]).and_also(markers)

    def _rejection_markers(self, refused: RefusedRows, message: npt.NDArray[np.int32], poll: Poll) -> Values:
        """Return rows that say that messages were rejected, one for each message and patient; their ids are not set.

        Messages that cannot have held a vital sign get none.

        Args:
            refused: rows of rejected messages.
            message: for each row the message of the poll at whose position it is stored.
            poll: the messages.
        """
        code = self._reader.code_numbers(dictionary_of(refused.rows["code"]))
        vital = np.isin(code, (0, *vital_numbers()))
        refused, message, code = refused.where(vital), message[vital], code[vital]
        patient = dictionary_of(refused.rows["patient_id"]).indices.to_numpy(zero_copy_only=False)
        order = np.lexsort((code, patient, refused.message))  # rows with an unknown code (0) come first
        _, first = np.unique(np.stack([refused.message, patient])[:, order], axis=1, return_index=True)
        first = order[first]
        markers = self._reader.read(refused.rows.take(pa.array(first)), message[first], poll, any_code=True)
        markers.rows["code"] = np.where(markers.rows["code"] == 0, REFUSED_UNKNOWN_CODE, REFUSED)
        markers.rows["value"], markers.rows["stage"] = NO_VALUE, stage_of("final")
        return markers


def _numbers_of(markers: Values, poll: Poll) -> list[int]:
    """Return an id for the message of each value, by its original position even if the poll gives it another one."""
    origin, part, position = poll.origin or poll, markers.part, markers.position
    if poll.origin is not None:
        which = markers.position - poll.offset[0]  # positions without gaps, see Steps.tell_rejected
        part, position = origin.part[which], origin.offset[which]
    of = zip(part.tolist(), position.tolist(), strict=True)
    return [_number_of(origin.parts[i], offset) for i, offset in of]


def _number_of(part: PartId, offset: int) -> int:
    """Return an id for a message, the same whenever it is read again."""
    return int.from_bytes(hashlib.blake2b(f"{part} {offset}".encode(), digest_size=8).digest(), "little")


def _at_the_end(poll: Poll, late: RefusedRows) -> npt.NDArray[np.int32]:
    return np.full(len(late.message), len(poll.values) - 1, np.int32)


def _ends(outcome: Outcome, dataset: str) -> dict[str, int]:
    poll = outcome.poll
    ends = {}
    for i, part in enumerate(poll.parts):
        offsets = poll.offset[poll.part == i]
        if len(offsets):
            ends[part.app_id(dataset)] = int(offsets[-1]) + 1
    return ends
