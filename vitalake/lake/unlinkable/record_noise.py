"""Noise for published times and numbers, which only the rows of one record share.

It is keyed by the dataset, the column and everything that names the record. Two columns of a row, two diagnoses of a
stay, and a patient's rows in two datasets have different noise, so no difference between published values shows a true
difference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Names = Callable[[], Sequence[pa.Array]]
"""Returns the columns that name records, as they are published; called only if some value needs noise."""

Words = npt.NDArray[np.int64]
Noise = npt.NDArray[np.uint64]

_BLOCK = 16
"""Bytes of an AES block, and of a keyed hash."""


class RecordNoise:
    """Makes noise with one secret; to be used by one thread at a time."""

    def __init__(self, secret: bytes, use: bytes) -> None:
        """Prepare.

        Args:
            secret: a secret of the home, which is never rotated.
            use: what the noise is for; different uses get independent noise.
        """
        self._secret, self._use = secret, use
        self._hash_key = hmac.digest(secret, use + b"\0names", "sha256")
        self._ciphers: dict[str, Cipher[modes.ECB]] = {}

    def __call__(self, of: str, names: Sequence[pa.Array], of_each: Words | int = 0, *, blocks: int = 1) -> Noise:
        """Return two numbers of 64 bits for each row and block, of shape (n, 2 · blocks).

        Args:
            of: dataset and column.
            names: the columns that name the record, at least one: text, bytes or times, plain or in a dictionary.
            of_each: a number, such as a day, for each value of which a record has different noise.
            blocks: how many pairs of numbers; the first pair does not depend on this.
        """
        named = self._blocks(names[0])
        for name in names[1:]:
            named = self._encrypted(of, named) ^ self._blocks(name)
        if len(names) > 1:
            named = self._encrypted(of, named)
        named[:, 0] ^= of_each
        made = [self._encrypted(of, named)]
        while len(made) < blocks:
            made.append(self._encrypted(of, made[-1] ^ len(made)))
        return np.hstack(made).view(np.uint64) if blocks > 1 else made[0].view(np.uint64)

    def _encrypted(self, of: str, blocks: Words) -> Words:
        if of not in self._ciphers:
            key = hmac.digest(self._secret, self._use + b"\0noise\0" + of.encode(), "sha256")
            self._ciphers[of] = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - one block at a time
        made = self._ciphers[of].encryptor().update(blocks.tobytes())
        return np.frombuffer(made, "<i8").reshape(-1, 2).copy()

    def _blocks(self, names: pa.Array) -> Words:
        """Return 16 bytes for each name; names of 16 bytes are keyed hashes already and are not hashed again."""
        if pa.types.is_timestamp(names.type):
            names = names.cast(pa.int64()).cast(pa.string())
        if pa.types.is_binary(names.type) and not names.null_count:
            values = names.drop_null()  # copies nothing
            offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
            if (np.diff(offsets) == _BLOCK).all():
                data = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
                return data.view("<i8").reshape(-1, 2).copy()
        encoded = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
        digests = b"".join(self._digest(name) for name in encoded.dictionary.to_pylist()) + bytes(_BLOCK)
        index = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        return np.frombuffer(digests, "<i8").reshape(-1, 2)[index]

    def _digest(self, name: str | bytes | None) -> bytes:
        text = name if isinstance(name, bytes) else (name or "").encode()
        return hashlib.blake2b(text, key=self._hash_key, digest_size=_BLOCK).digest()
