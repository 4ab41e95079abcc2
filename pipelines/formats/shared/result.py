"""What every decoder returns: the interface that every format implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.shared.reasons import Reason
from pipelines.online_store.facts import Person

DECODED_SCHEMA = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("patient_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("encounter_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("device_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("code", pa.dictionary(pa.int32(), pa.string())),  # LOINC of the value (the component's, in a panel)
        pa.field("panel_code", pa.dictionary(pa.int32(), pa.string())),  # LOINC of the panel; null for a single value
        pa.field("value", pa.float64()),
        pa.field("comparator", pa.dictionary(pa.int32(), pa.string())),
        pa.field("unit", pa.dictionary(pa.int32(), pa.string())),  # as sent: UCUM code
        pa.field("value_code", pa.dictionary(pa.int32(), pa.string())),
        pa.field("value_text", pa.string()),
        pa.field("data_absent_reason", pa.dictionary(pa.int32(), pa.string())),
        pa.field("status", pa.dictionary(pa.int32(), pa.string())),
        pa.field("effective_at", pa.timestamp("us", "UTC")),
        pa.field("effective_offset_minutes", pa.int16()),
        pa.field("issued_at", pa.timestamp("us", "UTC")),  # null: not given
    ]
)
"""The columns that a decoder fills, with patients' ids and the sender's units. Later steps add positions and keys."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that goes to the dead letters.

    Attributes:
        message: its index among the decoded messages.
        reason: one of the closed list.
        path: element names and indices in the format's own words; never a name taken from the message.
        rows: the number of rows that are lost; 0 for an undecodable message.
    """

    message: int
    reason: Reason
    path: str = ""
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows and rejects of one poll.

    Attributes:
        rows: DECODED_SCHEMA; all rows of a message, or none.
        identities: per row the business identifier, "<length of system>|<system>|<value>"; None without one.
            They are Python bytes because they are hashed one by one.
        message: int32, per row the index of its message, ascending.
        rejects: messages that could not be decoded (rows = 0).
        tombstones: indices of messages without a payload.
        empty: indices of messages that are decoded and hold nothing for this dataset: other resources, other events.
        unfinished: the rows are of another dataset than observation. They lack the names and times that follow from the
            identity and the broker; see records.Records.
        stamped: the times at which rows became available are those at which the sender's system wrote or sent them.
        ended: rows in which the sender reports a missing value. They are not published; on the ward they end the value
            from before. None: there are none.
        people: what messages of results say about patients themselves, in order: source id, version, and the facts.
        online_only: rows of rejected messages that the ward can use though the lake cannot, each with the index of its
            message; of other datasets than observation.
        of_others: index of the message of every Observation that is left out because it is about somebody else than its
            subject.
    """

    rows: pa.RecordBatch
    identities: list[bytes | None]
    message: npt.NDArray[np.int32]
    rejects: list[Reject] = field(default_factory=list)
    tombstones: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    unfinished: bool = False
    stamped: bool = False
    ended: Decoded | None = None
    online_only: Sequence[tuple[int, Mapping[str, Any]]] = ()
    of_others: list[int] = field(default_factory=list)
    people: Sequence[tuple[str, int, Person]] = ()


class Decoder(Protocol):
    """Decodes messages of one format to rows."""

    name: str
    version: str

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        ...
