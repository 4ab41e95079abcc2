"""The masks: vectorised Arrow functions that keep a column's type. Masking twice is masking once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from governance.policy.rules import Then
from vitalake.keys import Key, KeyRing
from vitalake.pseudonyms import CHECK_BYTES, TAG_BYTES, framed, is_token

Mask = Callable[[pa.Array], pa.Array]

REDACTED = "REDACTED"
CACHE_ENTRIES = 200_000
"""Pseudonyms remembered a domain, some 40 MB at the most; then the memory is emptied and filled anew."""

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)


@cache
def _tokens(_key_id: str, _digest: bytes) -> dict[str, str]:
    """Return the memory of one domain's tokens, of one set of keys."""
    return {}


class Pseudonyms:
    """Keyed tokens for identifiers: the same in every worker, different for every domain and key version.

    A token is ``<key version>.<base32 of 20 bytes>``: 16 bytes HMAC-SHA256 of the value, and 4 more that only the key
    can make from those 16. So a token is recognised for what it is and masked twice stays itself, while a look-alike
    that somebody made up is masked like anything else.
    """

    def __init__(self, keys: KeyRing, domain: str) -> None:
        self._key = keys.current("pseudonym")
        self._keys, self._name, self._domain = keys, domain, framed(domain)
        self._id, self._mark = self._begun(self._key, b"id"), self._begun(self._key, b"check")
        # Masks, sealers and the care store ask for the same tokens: each is made once in a process.
        whose = _digest(
            self._begun(self._key, b"cache"), b",".join(key.version.encode() for key in keys.versions("pseudonym"))
        )
        self._cache = _tokens(self._key.id, whose)

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
        """Return a digest that has the key, the purpose and the domain already: most of what each would take."""
        begun = HMAC(key.secret, SHA256())
        begun.update(purpose + self._domain)
        return begun

    def __call__(self, column: pa.Array) -> pa.Array:
        """Return the column with every value replaced by its token; nulls stay."""
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        known, values = self._cache, encoded.dictionary.to_pylist()
        if len(known) > CACHE_ENTRIES:
            known.clear()
        tokens = [known.get(value) for value in values]  # others may empty it meanwhile
        new = [place for place, token in enumerate(tokens) if token is None and values[place] is not None]
        for place, token in zip(new, self._made([values[place] for place in new]), strict=True):
            tokens[place] = known[values[place]] = token
        masked = pa.DictionaryArray.from_arrays(encoded.indices, pa.array(tokens, pa.string()))
        return masked if pa.types.is_dictionary(column.type) else masked.cast(column.type)


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


def keep(column: pa.Array) -> pa.Array:
    """Return the column as it is."""
    return column


def drop(column: pa.Array) -> pa.Array:
    """Return nulls."""
    return pa.nulls(len(column), column.type)


def redact(column: pa.Array) -> pa.Array:
    """Return a constant where there was text; nulls stay."""
    if pa.types.is_dictionary(column.type):
        return redact(column.cast(column.type.value_type))
    return pc.if_else(pc.is_valid(column), pa.scalar(REDACTED), pa.scalar(None, pa.string()))


def generalise(unit: str) -> Mask:
    """Return a mask that takes times down to the start of their minute, hour, day, month or year, in UTC."""

    def mask(column: pa.Array) -> pa.Array:
        return pc.floor_temporal(column, unit=unit).cast(column.type)

    return mask


def round_to(digits: int) -> Mask:
    """Return a mask that rounds numbers to so many digits; ties go to the even neighbour, as Arrow's default does."""

    def mask(column: pa.Array) -> pa.Array:
        if pa.types.is_integer(column.type):
            return column
        return pc.round(column, ndigits=digits, round_mode="half_to_even")

    return mask


def cap(at: int) -> Mask:
    """Return a mask that lets no number be greater: ages over 89 become one group with ``at: 90``."""

    def mask(column: pa.Array) -> pa.Array:
        most = pa.scalar(at).cast(column.type)
        # A null stays one, and so does what is no number: min would make 'at' of either.
        return pc.if_else(pc.greater(column, most), most, column)

    return mask


def fits(then: Then, kind: pa.DataType) -> bool:
    """Return whether a mask can do something with a column's type other than drop it."""
    numeric = bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    return {
        "keep": True,
        "round": numeric,
        "cap": numeric,
        "generalise": bool(pa.types.is_timestamp(kind)),
        "pseudonym": _is_text(kind),
        "redact": _is_text(kind),
        "drop": True,
    }[str(then.mask)]


def make_mask(then: Then, *, keys: KeyRing, domain: str) -> Mask:
    """Return the mask of a rule; one that does not fit a column's type drops it: closed, not open.

    Args:
        then: the rule's action; a mask.
        keys: for pseudonyms.
        domain: the data class: the same identifier of two classes gets two tokens.
    """
    mask = _mask(then, keys=keys, domain=domain)
    return lambda column: mask(column) if fits(then, column.type) else drop(column)


def _mask(then: Then, *, keys: KeyRing, domain: str) -> Mask:
    if then.mask == "pseudonym":
        return Pseudonyms(keys, domain)
    if then.mask == "generalise":
        assert then.unit is not None
        return generalise(then.unit)
    if then.mask == "round":
        assert then.digits is not None
        return round_to(then.digits)
    if then.mask == "cap":
        assert then.at is not None
        return cap(then.at)
    return {"keep": keep, "drop": drop, "redact": redact}[str(then.mask)]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))
