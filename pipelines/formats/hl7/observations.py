"""Decodes HL7 v2 ORU^R01, results of monitors, devices and laboratories, to one row per OBX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipelines.formats.hl7.header import header_of
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.hl7.results import Result, ResultReader
from pipelines.formats.hl7.text import messages_of
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.parsing import collector_paused, decode_each, readable
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.refusals import whole_messages
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Reject

_OTHERS = frozenset({"ADT"})
"""Message types on the same feed that hold no results."""


class Hl7Decoder:
    """Decodes HL7 v2 messages, or batches of them, to measured values."""

    def __init__(self, profile: Hl7Profile, *, max_message_bytes: int = 1_048_576) -> None:
        """Make a decoder; not to be shared between threads.

        Args:
            profile: settles what the messages leave open.
            max_message_bytes: longer messages are rejected unread.
        """
        self.name, self.version = f"hl7-v2:{profile.name}", f"1-{profile.digest}"
        self._profile, self._most_bytes = profile, max_message_bytes
        self._reader = ResultReader(profile)

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            chosen = readable(values, list(range(len(values))), rejects, most_bytes=self._most_bytes)
            self._reader.people.clear()
            rows, message, empty = decode_each(((i, values[i] or b"") for i in chosen), self._results, rejects)
            decoded = whole_messages(
                _columns(rows), [row.identity for row in rows], np.array(message, np.int32), rejects
            )
            decoded = replace(decoded, stamped=True, people=[*self._reader.people])  # MSH-7 is the time of sending
            decoded.rejects.extend(rejects[i] for i in sorted(rejects))
            decoded.tombstones.extend(i for i, value in enumerate(values) if value is None)
            decoded.empty.extend(empty)
            return decoded

    def _results(self, payload: bytes) -> list[Result]:
        found: list[Result] = []
        for message in messages_of(payload):
            header = header_of(message[0], self._profile)
            if header.kind == "ORU" and header.event in ("R01", ""):
                found += self._reader.results(header, message)
            elif header.kind not in _OTHERS:
                raise Refused(Reason.WRONG_RESOURCE, "MSH-9")
        return found


def _columns(rows: list[Result]) -> dict[str, pa.Array]:
    columns = dict(zip(Result._fields, zip(*rows, strict=True), strict=True)) if rows else {}
    made: dict[str, pa.Array] = {"panel_code": pa.nulls(len(rows), pa.string()).dictionary_encode()}
    for field in DECODED_SCHEMA:
        if field.name != "panel_code":
            values = list(columns.get(field.name, ()))
            made[field.name] = (
                pa.array(values, pa.string()).dictionary_encode()
                if pa.types.is_dictionary(field.type)
                else pa.array(values, field.type)
            )
    return made
