"""What flows through both lanes: a whole poll, from raw messages to masked rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.shared.refused import RefusedRows
from pipelines.formats.shared.result import Decoded, Reject
from pipelines.online_store.facts import Person
from vitalake.lake.commits.spans import PartId


@dataclass(slots=True)
class Poll:
    """The messages of one poll; one format. Payloads stay Python bytes: the decoder reads them one by one.

    Attributes:
        shard: the lane it belongs to, ``<job>/<i>of<n>``.
        format: of its messages.
        values: payloads; None is a tombstone.
        parts: partitions, in the order ``part`` refers to.
        part: int32 per message, index into ``parts``.
        offset: int64 per message.
        broker_ms: int64 per message, the broker's or producer's timestamp.
        ours: which of these are our own clock's, because the broker's could not be, or is not known any more; None:
            none. See arrival.
        origin: the same messages where they were read first, if they are taken from elsewhere now; None: from there.
    """

    shard: str
    format: str
    values: list[bytes | None]
    parts: tuple[PartId, ...]
    part: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    broker_ms: npt.NDArray[np.int64]
    ours: npt.NDArray[np.bool_] | None = None
    origin: Poll | None = None

    @property
    def nbytes(self) -> int:
        """Return roughly how much it holds; what the runner's sampling asks."""
        return 700 * len(self.values)


@dataclass(slots=True)
class DecodedPoll:
    """A poll and what the decoder made of it."""

    poll: Poll
    decoded: Decoded


@dataclass(slots=True)
class Outcome:
    """What became of every message and row of a poll: the writer only counts and stages.

    Attributes:
        poll: the poll.
        rows: rows to go on with: identified until masked, then masked.
        message: int32 per row of ``rows``, index of its message.
        row_message: int32 per *decoded* row, index of its message.
        rejects: messages to the dead letters.
        tombstones: indices of messages without a value.
        empty: indices of decoded messages that held nothing for this dataset.
        duplicate: index of the message of every duplicate row.
        filtered: index of the message of every filtered row.
        fingerprints: of the rows; once it is recognised which were seen before, those to be remembered.
        older: fingerprints of the same rows in the form of an earlier release, while its look-backs are used.
        effective_us: int64 per row of ``rows``: true time, for lateness; never written.
        held: index of the message of every row that waits to be told whose it is.
        extra: rows for further tables, by the table's name: the same rows as they came, held messages, resolutions.
        associations: version of the table of associations the rows were attributed by.
        recognised: rows that were seen before were taken out.
        refused: what the rejected messages were about, as far as it is known.
        late: of earlier rejected messages, what has turned out to be somebody's.
        told: of rejected messages rows that the care store can use; see Decoded.
        people: what messages of results tell of patients beside; see Decoded.
        unfit: column → index of the message of every published row whose text there was none that may be published.
        mapped, unmapped: codes of local systems, and what each was taken as, → index of the message of every row; see
            pipelines/formats/shared/local_codes.py.
    """

    poll: Poll
    rows: pa.RecordBatch
    message: npt.NDArray[np.int32]
    row_message: npt.NDArray[np.int32]
    rejects: list[Reject]
    tombstones: list[int]
    fingerprints: npt.NDArray[np.uint64]
    effective_us: npt.NDArray[np.int64]
    older: npt.NDArray[np.uint64] | None = None
    duplicate: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    filtered: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    empty: list[int] = field(default_factory=list)
    held: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    extra: dict[str, pa.RecordBatch] = field(default_factory=dict)
    associations: int = 0
    recognised: bool = False
    unfit: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    refused: RefusedRows | None = None
    late: RefusedRows | None = None
    told: Sequence[tuple[int, Mapping[str, Any]]] = ()
    people: Sequence[tuple[str, int, Person]] = ()
    mapped: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    unmapped: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)

    def keep(self, new: npt.NDArray[np.bool_]) -> None:
        """Keep the rows that are new, and count the others as duplicates; they are not masked yet."""
        self.duplicate = np.concatenate([self.duplicate, self.message[~new]]).astype(np.int32)
        self.rows, self.message = self.rows.filter(pa.array(new)), self.message[new]
        self.fingerprints, self.effective_us = self.fingerprints[new], self.effective_us[new]
        self.older = self.older[new] if self.older is not None else None
