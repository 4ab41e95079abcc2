"""The mask that replaces identifiers by keyed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from governance.policy.masks.base import Mask, MaskKey, MaskKind, NoOptions, is_text
from vitalake.keys import Key, KeyRing
from vitalake.pseudonyms import CHECK_BYTES, TAG_BYTES, framed, is_token

CACHE_ENTRIES = 200_000
"""The most pseudonyms in the cache of one domain, some 40 MB; a cache that is full is emptied and filled again."""

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)


@cache
def _tokens(_key_id: str, _digest: bytes) -> dict[str, str]:
    """Return the cache of tokens for one domain and one set of keys, shared in this process."""
    return {}


class Pseudonyms:
    """Keyed tokens for identifiers: the same in every worker, different for every domain and key version.

    A token is ``<key version>.<base32 of 20 bytes>``: 16 bytes of HMAC-SHA256 of the value, and a check of 4 bytes over
    those 16, made with the key as well. So the mask recognises a real token and leaves it as it is, while a made-up
    look-alike is masked like any other value.
    """

    def __init__(self, keys: KeyRing, domain: str) -> None:
        self._key = keys.current("pseudonym")
        self._keys, self._name, self._domain = keys, domain, framed(domain)
        self._id, self._mark = self._begun(self._key, b"id"), self._begun(self._key, b"check")
        # Masks, sealers and the online store need the same tokens: a shared cache makes each once in a process.
        versions = b",".join(key.version.encode() for key in keys.versions("pseudonym"))
        self._cache = _tokens(self._key.id, _digest(self._begun(self._key, b"cache"), versions))

    def token(self, value: str) -> str:
        """Return the token of a value."""
        return self._made([value])[0]

    def _made(self, values: Sequence[str]) -> list[str]:
        tags = [_digest(self._id, value.encode())[:TAG_BYTES] for value in values]
        raw = b"".join(tag + _digest(self._mark, tag)[:CHECK_BYTES] for tag in tags)
        texts = zip(values, _in_base32(raw), strict=True)
        return [
            value if is_token(value, self._keys, self._name) else f"{self._key.version}.{text}" for value, text in texts
        ]

    def _begun(self, key: Key, purpose: bytes) -> HMAC:
        """Return an HMAC that has consumed key, purpose and domain; copying it saves most of the work for a token."""
        begun = HMAC(key.secret, SHA256())
        begun.update(purpose + self._domain)
        return begun

    def __call__(self, column: pa.Array) -> pa.Array:
        """Return the column with every value replaced by its token; nulls stay."""
        encoded = column.dictionary_encode()  # itself, if it is encoded
        cache, values = self._cache, encoded.dictionary.to_pylist()
        if len(cache) > CACHE_ENTRIES:
            cache.clear()
        tokens = [cache.get(value) for value in values]  # get: another thread may empty the cache at any time
        missing = [index for index, token in enumerate(tokens) if token is None and values[index] is not None]
        for index, token in zip(missing, self._made([values[index] for index in missing]), strict=True):
            tokens[index] = cache[values[index]] = token
        return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(tokens, pa.string())).cast(column.type)


def _digest(begun: HMAC, value: bytes) -> bytes:
    digest = begun.copy()
    digest.update(value)
    return digest.finalize()


def _in_base32(raw: bytes) -> list[str]:
    """Return texts of 32 letters, each of 20 bytes."""
    fives = np.frombuffer(raw, np.uint8).reshape(-1, 5).astype(np.uint64)  # 40 bits each, 8 letters
    numbers = fives @ (np.uint64(1) << np.arange(32, -1, -8, dtype=np.uint64))
    letters = (numbers[:, None] >> np.arange(35, -1, -5, dtype=np.uint64)) & np.uint64(31)
    text = _LETTERS[letters].tobytes().decode()
    return [text[at : at + 32] for at in range(0, len(text), 32)]


def _make(_options: NoOptions, key: MaskKey) -> Mask:
    return Pseudonyms(key.ring, key.domain)


MASK = MaskKind(
    name="pseudonym",
    description="a keyed token: the same in every worker, different for each data class and key version",
    rank=40,
    options=NoOptions,
    make=_make,
    accepts=is_text,
    classes=None,
    distinct=True,
    keyed=True,
)
