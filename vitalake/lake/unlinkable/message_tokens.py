"""Message tokens: published rows have a token instead of their message's position; rows of one message share it.

Positions show the order in which a source sent its messages. If that is the order of identifiers in clear, as in a
query that is sorted by them, positions undo every pseudonym: anybody who knows the identifiers can sort them. A token
is 63 bits of AES over the position, with a key of its own for each source, so that it tells messages of a source apart
and shows nothing else. A token is always negative, a position never. So a position that an earlier release published
is recognised, and a token is never changed again.

A source is a partition. A message's partition is mostly a hash of its key, which is the patient's number, so published
rows name only the topic.
"""

from __future__ import annotations

import hmac

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

POSITION = "source_position"
"""The column of positions in identified rows, and of tokens in published rows."""

_PARTITION = r"\[[0-9]+\]$"

_SIGN = np.uint64(1 << 63)


class MessageTokens:
    """Makes tokens with one secret; to be used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._ciphers: dict[str, Cipher[modes.ECB]] = {}

    def __call__(self, sources: pa.Array, positions: pa.Array) -> pa.Array:
        """Return the positions as tokens; nulls and existing tokens stay.

        Args:
            sources: the source of each row: text, plain or in a dictionary.
            positions: int64.
        """
        encoded = sources if pa.types.is_dictionary(sources.type) else sources.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        given = positions.fill_null(-1).to_numpy(zero_copy_only=False)
        made = given.copy()
        if len(names) == 1 and not encoded.null_count:
            made = self._of(names[0], given)
        elif len(made):
            index = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
            for number in np.flatnonzero(np.bincount(index, minlength=len(names) + 1)).tolist():
                mine = index == number
                made[mine] = self._of(names[number] if number < len(names) else None, given[mine])
        made = np.where(given < 0, given, made)
        return pa.array(made, pa.int64(), mask=pc.is_null(positions).to_numpy(zero_copy_only=False))

    def _of(self, source: str | None, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        blocks = np.zeros((len(positions), 2), "<i8")
        blocks[:, 0] = positions
        # Each block is one position, and a source's key is used only here: so a plain permutation (ECB) is enough.
        made = self._cipher(source or "").encryptor().update(blocks.tobytes())
        return (np.frombuffer(made, "<u8")[::2] | _SIGN).view(np.int64)

    def _cipher(self, source: str) -> Cipher[modes.ECB]:
        if source not in self._ciphers:
            key = hmac.digest(self._secret, b"message\0" + source.encode(), "sha256")
            self._ciphers[source] = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - see _of
        return self._ciphers[source]


def without_partitions(sources: pa.Array) -> pa.Array:
    """Return sources as topics, in the same encoding; no text stands twice in a dictionary."""
    if not pa.types.is_dictionary(sources.type):
        return pc.replace_substring_regex(sources, pattern=_PARTITION, replacement="")
    topics = pc.replace_substring_regex(sources.dictionary, pattern=_PARTITION, replacement="").dictionary_encode()
    indices = topics.indices.take(sources.indices)
    return pa.DictionaryArray.from_arrays(indices.cast(sources.type.index_type), topics.dictionary)


def says_partition(sources: pa.Array) -> pa.Array:
    """Return which published sources still name a partition: an earlier release wrote these rows."""
    return pc.fill_null(pc.match_substring_regex(sources.cast(pa.string()), _PARTITION), False)


def in_clear(positions: pa.Array | pa.ChunkedArray) -> int:
    """Return how many published positions are in clear: an earlier release wrote these rows."""
    return int(pc.sum(pc.greater_equal(positions, 0)).as_py() or 0)
