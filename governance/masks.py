"""The masks: vectorised Arrow functions that keep a column's type. Masking twice is masking once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from governance.rules import Then
from vitalake.keys import Key, KeyRing

Mask = Callable[[pa.Array], pa.Array]

REDACTED = "REDACTED"
CACHE_ENTRIES = 200_000
"""Pseudonyms remembered a domain, some 40 MB at the most; then the memory is emptied and filled anew."""

_TAG_BYTES = 16
_CHECK_BYTES = 4
_TOKEN = re.compile(r"(v\d+)\.([a-z2-7]{32})")


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
        self._by_version = {key.version: key for key in keys.versions("pseudonym")}
        self._domain = domain.encode()
        # Masks, sealers and the care store ask for the same tokens: each is made once in a process.
        self._cache = _tokens(
            self._key.id, self._digest(self._key, b"cache", b",".join(map(str.encode, self._by_version)))
        )

    def token(self, value: str) -> str:
        """Return the token of a value."""
        match = _TOKEN.fullmatch(value)
        if match and self._is_ours(match[1], match[2]):
            return value
        tag = self._digest(self._key, b"id", value.encode())[:_TAG_BYTES]
        text = base64.b32encode(tag + self._check(self._key, tag)).decode().lower()
        return f"{self._key.version}.{text}"

    def _is_ours(self, version: str, text: str) -> bool:
        key = self._by_version.get(version)
        if key is None:
            return False
        raw = base64.b32decode(text.upper())
        return hmac.compare_digest(raw[_TAG_BYTES:], self._check(key, raw[:_TAG_BYTES]))

    def _check(self, key: Key, tag: bytes) -> bytes:
        return self._digest(key, b"check", tag)[:_CHECK_BYTES]

    def _digest(self, key: Key, purpose: bytes, value: bytes) -> bytes:
        # The domain's length keeps (ab, c) and (a, bc) apart.
        return hmac.digest(key.secret, purpose + bytes([len(self._domain)]) + self._domain + value, hashlib.sha256)

    def __call__(self, column: pa.Array) -> pa.Array:
        """Return the column with every value replaced by its token; nulls stay."""
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        known = self._cache
        if len(known) > CACHE_ENTRIES:
            known.clear()
        tokens: list[str | None] = []
        for value in encoded.dictionary.to_pylist():
            token = known.get(value)
            if token is None and value is not None:
                token = known[value] = self.token(value)
            tokens.append(token)
        masked = pa.DictionaryArray.from_arrays(encoded.indices, pa.array(tokens, pa.string()))
        return masked if pa.types.is_dictionary(column.type) else masked.cast(column.type)


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
