"""The data that flow through both lanes: a whole poll at a time, from raw messages to masked rows."""

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
from vitalake.lake.commits.span import PartId


@dataclass(slots=True)
class Poll:
    """The messages of one poll, all of one format. Payloads stay Python bytes: the decoder reads them one by one.

    Attributes:
        shard: the lane it belongs to, ``<job>/<i>of<n>``.
        format: of its messages.
        values: payloads; None is a tombstone.
        parts: the partitions that ``part`` refers to.
        part: int32 per message, index into ``parts``.
        offset: int64 per message.
        broker_ms: int64 per message, the broker's or producer's timestamp.
        ours: for which messages ``broker_ms`` is our own clock's time, because the broker's time could not be right or
            is not known any more; None: for none. See arrival.
        origin: the same messages with the partitions and offsets at which they were read first, if they are read from
            elsewhere now; None: they are read there.
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
        """Return a rough estimate of its size, which Beam's sampling of elements asks for."""
        return 700 * len(self.values)


@dataclass(slots=True)
class DecodedPoll:
    """A poll and what the decoder made of it."""

    poll: Poll
    decoded: Decoded


@dataclass(slots=True)
class Outcome:
    """What became of every message and row of a poll: the writer only counts the rows and stages them.

    Attributes:
        poll: the poll.
        rows: the rows that are left: identified until they are masked, then masked.
        message: int32 per row of ``rows``, index of its message.
        row_message: int32 per *decoded* row, index of its message.
        rejects: messages that go to the dead letters.
        tombstones: indices of messages without a value.
        empty: indices of decoded messages that have no row for this dataset.
        duplicate: index of the message of every duplicate row.
        filtered: index of the message of every filtered row.
        fingerprints: of the rows; once duplicates are removed, only those that the look-back files are to remember.
        older: fingerprints of the same rows in the form of an earlier release, while its look-back files are used.
        effective_us: int64 per row of ``rows``: the unmasked time, to find late rows; never written.
        held: index of the message of every row that is held until its patient is known.
        extra: rows for further tables, by the table's name: the same rows unmasked, held messages, resolutions.
        associations: version of the table of associations by which the rows were attributed.
        recognised: whether duplicates were removed already.
        refused: what the rejected messages were about, as far as it is known.
        newly_owned: what earlier rejected messages were about whose patient is known only now.
        told: rows of rejected messages that the online store can use; see Decoded.
        people: what messages of results also say about patients; see Decoded.
        unfit: column → index of the message of every published row whose text there may not be published.
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
    newly_owned: RefusedRows | None = None
    told: Sequence[tuple[int, Mapping[str, Any]]] = ()
    people: Sequence[tuple[str, int, Person]] = ()
    mapped: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    unmapped: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)

    def keep(self, new: npt.NDArray[np.bool_]) -> None:
        """Keep the rows that are new, and count the others as duplicates; the rows are not masked yet."""
        self.duplicate = np.concatenate([self.duplicate, self.message[~new]]).astype(np.int32)
        self.rows, self.message = self.rows.filter(pa.array(new)), self.message[new]
        self.fingerprints, self.effective_us = self.fingerprints[new], self.effective_us[new]
        self.older = self.older[new] if self.older is not None else None
