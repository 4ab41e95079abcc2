"""Fences the decoder of another package: a message at which it fails is a dead letter, and the lane goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.formats.shared.reasons import UNDECODABLE, Reason
from pipelines.formats.shared.records import EXTRA_COLUMNS
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Decoder, Reject
from vitalake.lake.datasets.dataset import Dataset

_log = logging.getLogger(__name__)


class FencedDecoder:
    """Gives what a decoder gives, as long as it keeps to the contract; see docs/how-to/write-a-format.md."""

    def __init__(self, decoder: Decoder, dataset: Dataset, format_name: str) -> None:
        """Fence a decoder; not to be shared between threads.

        Args:
            decoder: of another package.
            dataset: the dataset of its rows.
            format_name: what a dead letter names.
        """
        self.name, self.version = decoder.name, decoder.version
        self._decoder, self._dataset, self._format = decoder, dataset, format_name
        self._logged: set[str] = set()

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; a message at which the decoder fails is rejected with the format's name.

        If a poll fails, it is halved until the messages at fault are alone; the others are then decoded together.
        """
        if (decoded := self._tried(values)) is not None:
            return decoded
        bad = set(self._failing(values, 0))
        left = [None if i in bad else value for i, value in enumerate(values)]
        decoded = self._tried(left)
        if decoded is None:  # each half is decoded, the whole is not: a decoder that depends on what came before
            bad = {i for i, value in enumerate(values) if value is not None}
            decoded = self._nothing([i for i, value in enumerate(values) if value is None])
        decoded.tombstones[:] = [i for i in decoded.tombstones if i not in bad]
        rejects = [*decoded.rejects, *(Reject(i, Reason.DECODER_FAILED, self._format) for i in bad)]
        decoded.rejects[:] = sorted(rejects, key=lambda reject: reject.message)
        return decoded

    def _failing(self, values: Sequence[bytes | None], begin: int) -> list[int]:
        """Return the indices of the messages at which the decoder fails, of some that fail together or not."""
        if self._tried(values) is not None:
            return []
        if len(values) == 1:
            return [begin]
        half = len(values) // 2
        return [*self._failing(values[:half], begin), *self._failing(values[half:], begin + half)]

    def _tried(self, values: Sequence[bytes | None]) -> Decoded | None:
        """Return what the decoder gives; None: it fails. The error's text, which can quote a message, is not logged."""
        try:
            decoded = self._decoder.decode(values)
            fault = self._fault(decoded, values)
        except MemoryError:
            raise
        except Exception as error:
            fault = type(error).__name__
        if not fault:
            return decoded
        if fault not in self._logged:
            self._logged.add(fault)
            _log.error(
                "decoder failed",
                extra={
                    "what": self._format,
                    "reason": fault,
                    "remedy": "Its messages are dead letters. Correct the format's package, then replay them.",
                },
            )
        return None

    def _fault(self, decoded: Decoded, values: Sequence[bytes | None]) -> str:
        """Return what does not fit the contract; empty: all of it does."""
        rows, count = decoded.rows, len(values)
        message = np.asarray(decoded.message)
        if not rows.num_rows == len(message) == len(decoded.identities) or (np.diff(message) < 0).any():
            return "rows and messages do not fit together"
        rejected = [reject.message for reject in decoded.rejects]
        fates = [*np.unique(message).tolist(), *rejected, *decoded.empty, *decoded.tombstones]
        if sorted(fates) != list(range(count)):
            return "a message has no fate, or two"
        if sorted(decoded.tombstones) != [i for i, value in enumerate(values) if value is None]:
            return "tombstones are not those of the poll"
        if any(reject.reason not in UNDECODABLE or reject.rows for reject in decoded.rejects):
            return "a reject has a reason that decoders do not give"
        if not self._columns_fit(rows.schema, unfinished=decoded.unfinished):
            return "rows do not have the dataset's columns"
        rows.validate(full=True)
        return ""

    def _columns_fit(self, schema: pa.Schema, *, unfinished: bool) -> bool:
        if self._dataset.measures:
            return not unfinished and bool(schema.equals(DECODED_SCHEMA))
        declared = {field.name: field.type for field in self._dataset.schema} | dict.fromkeys(
            EXTRA_COLUMNS, pa.string()
        )
        available = "available_at" not in declared or "available_at" in schema.names
        return unfinished and available and all(declared.get(field.name) == _plain(field.type) for field in schema)

    def _nothing(self, tombstones: list[int]) -> Decoded:
        """Return what a poll gives of which no message is decoded."""
        schema = DECODED_SCHEMA
        if not self._dataset.measures:
            names = [field for field in self._dataset.schema if field.name != self._dataset.hashed]
            schema = pa.schema(names)
        rows = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
        return Decoded(rows, [], np.zeros(0, np.int32), [], tombstones, unfinished=not self._dataset.measures)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
