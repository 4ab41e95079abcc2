"""Decodes a device's JSON by a profile, which says where each value stands, with its unit and its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.fhir.gathering import flags
from pipelines.formats.flat.profile import FlatProfile
from pipelines.formats.flat.profile_paths import Path
from pipelines.formats.flat.rows import Items, rows_of
from pipelines.formats.shared.parsing import JsonMessages, collector_paused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.refusals import whole_messages, without_messages
from pipelines.formats.shared.result import Decoded, Reject


@dataclass(slots=True)
class _Taken:
    """The values at the profile's paths in a poll's messages.

    Attributes:
        columns: path → the values there; one entry per message, or per reading for a path with ``[*]``.
        message: index of each message that was parsed.
        owner: per reading, the position in ``message`` of its message.
    """

    columns: dict[Path, list[Any]]
    message: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)


class FlatDecoder:
    """Decodes messages of one device profile."""

    def __init__(self, profile: FlatProfile, *, max_message_bytes: int = 1_048_576) -> None:
        """Make a decoder; not to be shared between threads.

        Args:
            profile: the meaning of the messages.
            max_message_bytes: longer messages are rejected unread.
        """
        self._profile = profile
        self.name, self.version = f"flat:{profile.name}", f"1-{profile.digest}"
        layout = profile.layout
        self._messages: JsonMessages[Any] = JsonMessages(
            layout.decode, max_message_bytes=max_message_bytes, refused=_refused
        )
        paths = list(dict.fromkeys(path for _, path, _ in profile.places()))
        self._outer = [(path, layout.outer(path)) for path in paths if path.inner is None]
        self._inner = [(path, layout.inner(path)) for path in paths if path.inner is not None]
        self._readings = layout.outer(self._inner[0][0]) if self._inner else None

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            taken = _Taken({path: [] for path, _ in (*self._outer, *self._inner)})
            for parsed, message in self._messages.parse(values, rejects):
                self._take(taken, parsed, message)
            decoded = self._rows(taken, rejects, len(values))
            decoded.tombstones.extend(i for i, value in enumerate(values) if value is None)
            decoded.rejects.extend(rejects[i] for i in sorted(rejects))
            return decoded

    def _take(self, taken: _Taken, parsed: list[Any], message: list[int]) -> None:
        begin = len(taken.message)
        taken.message += message
        for path, take in self._outer:
            taken.columns[path] += take(parsed)
        if self._readings is None:
            return
        lists = self._readings(parsed)
        if any([several is None or None in several for several in lists]):
            lists = [[reading for reading in several or () if reading is not None] for several in lists]
        readings = list(chain.from_iterable(lists))
        taken.owner += np.repeat(np.arange(begin, begin + len(lists)), list(map(len, lists))).tolist()
        for path, take in self._inner:
            taken.columns[path] += take(readings)

    def _rows(self, taken: _Taken, rejects: dict[int, Reject], count: int) -> Decoded:
        message, owner = np.array(taken.message, np.int32), np.array(taken.owner, np.int32)
        whole = Items(self._profile, taken.columns, message, None)
        each = Items(self._profile, taken.columns, message[owner], owner)
        columns, identities, rows_message = rows_of([whole, each], rejects)
        seen = np.zeros(count, np.bool_)
        for items in (whole, each):
            seen[items.message[items.seen]] = True
        without_values = ~seen & flags(count, message)
        for i in np.flatnonzero(without_values).tolist():
            rejects.setdefault(i, Reject(i, Reason.NO_VALUE))
        decoded = _split_off_absent(columns, identities, rows_message, rejects)
        with_rows = flags(count, decoded.message) | flags(count, rejects)
        decoded.empty.extend(np.flatnonzero(seen & ~with_rows).tolist())
        return decoded


def _split_off_absent(
    columns: dict[str, pa.Array],
    identities: list[bytes | None],
    message: npt.NDArray[np.int32],
    rejects: dict[int, Reject],
) -> Decoded:
    """Return the rows of the messages that are not refused.

    Rows whose value is reported as absent are not for the lake: they are returned in ``ended``.
    """
    lacking = columns["data_absent_reason"].is_valid().to_numpy(zero_copy_only=False)
    if not lacking.any():
        return whole_messages(columns, identities, message, rejects)
    parts = [
        (
            {name: column.filter(pa.array(mask)) for name, column in columns.items()},
            [identity for identity, chosen in zip(identities, mask.tolist(), strict=True) if chosen],
            message[mask],
        )
        for mask in (~lacking, lacking)
    ]
    decoded = whole_messages(*parts[0], rejects)
    return replace(decoded, ended=without_messages(*parts[1], rejects))


def _refused(error: Exception) -> tuple[Reason, str]:
    """Return the reason for an error of msgspec, and its path.

    The path holds only names of the profile's paths, never of the message: msgspec reads nothing else.
    """
    text = str(error)
    if isinstance(error, RecursionError):
        return Reason.TOO_DEEP, ""
    if isinstance(error, msgspec.ValidationError):
        return Reason.WRONG_SHAPE, text.rpartition(" - at `")[2].rstrip("`") if " - at `" in text else ""
    utf8 = isinstance(error, UnicodeDecodeError) or "utf-8" in text.lower()
    return Reason.NOT_UTF8 if utf8 else Reason.NOT_JSON, ""
