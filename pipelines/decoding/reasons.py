"""The closed list of reasons for which a message is rejected."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a message went to the dead letters. Documented in docs/reference/reasons.md, made from here."""

    NOT_JSON = "not-json"  # truncated, NaN, BOM, two documents in one, …
    NOT_UTF8 = "not-utf8"
    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    WRONG_RESOURCE = "wrong-resource"  # not an Observation or a Bundle of Observations
    WRONG_SHAPE = "wrong-shape"  # a field is missing or of the wrong type


# The decoding work replaces this list; every member carries a docstring-like comment.
