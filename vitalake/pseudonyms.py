"""Recognises pseudonyms: by their form, and by the keys of the home that made them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from vitalake.keys import Key, KeyRing

TAG_BYTES = 16
CHECK_BYTES = 4
_TOKEN = re.compile(r"(v\d+)\.([a-z2-7]{32})")


def looks_like_token(text: str) -> bool:
    """Return whether a text has the form of a pseudonym, of this home or of another."""
    return _TOKEN.fullmatch(text) is not None


def is_token(text: str, keys: KeyRing, domain: str) -> bool:
    """Return whether a text is a pseudonym of a domain, made with some version of the home's pseudonym key.

    The last four of its twenty bytes are an HMAC of the others. A random text of the right form passes by chance once
    in four billion times.
    """
    match = _TOKEN.fullmatch(text)
    if match is None:
        return False
    key = next((key for key in keys.versions("pseudonym") if key.version == match[1]), None)
    if key is None:
        return False
    raw = base64.b32decode(match[2].upper())
    return hmac.compare_digest(raw[TAG_BYTES:], check_bytes(key, domain, raw[:TAG_BYTES]))


def check_bytes(key: Key, domain: str, tag: bytes) -> bytes:
    """Return the last bytes of a pseudonym: a check of the bytes before, which only the key can make."""
    return hmac.digest(key.secret, b"check" + framed(domain) + tag, hashlib.sha256)[:CHECK_BYTES]


def framed(domain: str) -> bytes:
    """Return a domain as it goes into a digest, its length first, so that (ab, c) and (a, bc) give different bytes."""
    return bytes([len(domain.encode())]) + domain.encode()
