"""Makes a decoder from a function that reads one message, and does what every decoder must do besides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pyarrow as pa

from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.parsing import decode_each, readable
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.refusals import whole_messages
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Reject
from pipelines.formats.shared.times import names_a_place
from pipelines.formats.shared.words import COMPARATORS
from vitalake.clinical.statuses import STAGES

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_MOST = 1 << 63  # versions are int64
_STATUSES = frozenset(status for stage in STAGES for status in stage) - {"active", "ended"}
_COMPARATORS = frozenset(COMPARATORS.values())
_SPECIAL = ("value", "effective_at", "effective_offset_minutes", "issued_at")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value, identified and in the sender's units: a row of DECODED_SCHEMA.

    Attributes:
        code: LOINC, or ``<system>|<code>`` of a local system.
        effective_at, issued_at: aware datetimes; when it was measured, and when it was first available.
        patient_id, device_id: at least one of them.
        value, value_code, value_text, data_absent_reason: at least one of them.
        unit: UCUM, as sent.
        comparator: ``<``, ``<=``, ``>`` or ``>=``.
        version: higher for each correction of the same identity.
        status: a FHIR Observation status.
        identity: the sender's identifier as "<length of system>|<system>|<value>"; None: patient, code and time
            identify the value.
    """

    code: str
    effective_at: datetime
    patient_id: str | None = None
    encounter_id: str | None = None
    device_id: str | None = None
    panel_code: str | None = None
    value: float | None = None
    comparator: str | None = None
    unit: str | None = None
    value_code: str | None = None
    value_text: str | None = None
    data_absent_reason: str | None = None
    status: str = "final"
    issued_at: datetime | None = None
    version: int = 0
    identity: bytes | None = None


class OneByOne:
    """Decodes messages to measured values, one message at a time.

    Counts tombstones, refuses messages that are too large without reading them, and takes either all rows of a message
    or none. If the function raises UnicodeDecodeError, the reason is ``not-utf8``; any other exception than Refused is
    ``wrong-shape``.
    """

    def __init__(
        self, name: str, version: str, read: Callable[[bytes], Iterable[Measured]], *, max_message_bytes: int
    ) -> None:
        """Make a decoder.

        Args:
            name: the format's name, with its profile.
            version: raise it whenever a message decodes to other rows than before.
            read: returns the values of a message, none if it holds nothing for the dataset. Raises Refused with a path
                in the format's own words, never in the message's.
            max_message_bytes: longer messages are rejected unread.
        """
        self.name, self.version = name, version
        self._read, self._most_bytes = read, max_message_bytes

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        rejects: dict[int, Reject] = {}
        chosen = readable(values, list(range(len(values))), rejects, most_bytes=self._most_bytes)
        rows, message, empty = decode_each(((i, values[i] or b"") for i in chosen), self._rows, rejects)
        columns = {
            field.name: pa.array([getattr(row, field.name) for row in rows], _plain(field.type))
            for field in DECODED_SCHEMA
            if field.name not in _SPECIAL
        }
        columns["value"] = pa.array([None if row.value is None else float(row.value) for row in rows], pa.float64())
        columns["effective_at"] = _moments([row.effective_at for row in rows])
        columns["issued_at"] = _moments([row.issued_at for row in rows])
        columns["effective_offset_minutes"] = pa.array([_offset_minutes(row.effective_at) for row in rows], pa.int16())
        columns = {
            field.name: columns[field.name].dictionary_encode()
            if pa.types.is_dictionary(field.type)
            else columns[field.name]
            for field in DECODED_SCHEMA
        }
        decoded = whole_messages(columns, [row.identity for row in rows], np.array(message, np.int32), rejects)
        decoded.rejects.extend(rejects[i] for i in sorted(rejects))
        decoded.tombstones.extend(i for i, value in enumerate(values) if value is None)
        decoded.empty.extend(empty)
        return decoded

    def _rows(self, payload: bytes) -> list[Measured]:
        try:
            rows = list(self._read(payload))
            for row in rows:
                _check(row)
        except Refused:
            raise
        except UnicodeDecodeError:
            raise Refused(Reason.NOT_UTF8) from None
        except Exception:  # a package's code can raise anything for a message that it did not expect
            raise Refused(Reason.WRONG_SHAPE) from None
        return rows


def _check(row: Measured) -> None:
    """Refuse an invalid row; the path names its column."""
    for name in ("patient_id", "encounter_id", "device_id", "code", "panel_code", "unit", "value_code", "value_text"):
        text = getattr(row, name)
        if text is not None and "\0" in text:
            raise Refused(Reason.CONTROL_CHARACTER, name)
        if text is not None:
            text.encode()  # fails for half of a surrogate pair, for which Arrow would fail the whole poll
    if not (row.patient_id or row.device_id):
        raise Refused(Reason.NO_SUBJECT, "patient_id")
    if not row.code:
        raise Refused(Reason.NO_CODE, "code")
    if row.status not in _STATUSES:
        raise Refused(Reason.BAD_STATUS, "status")
    if all(value is None for value in (row.value, row.value_code, row.value_text, row.data_absent_reason)):
        raise Refused(Reason.NO_VALUE, "value")
    if row.value is not None and not math.isfinite(row.value):
        raise Refused(Reason.WRONG_SHAPE, "value")
    if row.comparator not in _COMPARATORS:
        raise Refused(Reason.WRONG_SHAPE, "comparator")
    if not isinstance(row.identity, bytes | None):
        raise Refused(Reason.WRONG_SHAPE, "identity")
    if not -_MOST <= row.version < _MOST:
        raise Refused(Reason.WRONG_SHAPE, "version")
    if not names_a_place(row.effective_at) or not (row.issued_at is None or names_a_place(row.issued_at)):
        raise Refused(Reason.BAD_TIME, "effective_at")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _moments(moments: Sequence[datetime | None]) -> pa.Array:
    us = [None if moment is None else (moment - _EPOCH) // _MICROSECOND for moment in moments]
    return pa.array(us, pa.int64()).cast(pa.timestamp("us", "UTC"))


def _offset_minutes(moment: datetime) -> int:
    return int((moment.utcoffset() or timedelta()) // timedelta(minutes=1))
