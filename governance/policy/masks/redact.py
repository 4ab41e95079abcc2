"""The mask that replaces text by a fixed word."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from governance.policy.masks.base import MaskKind, NoOptions, is_text

REDACTED = "REDACTED"


def redact(column: pa.Array) -> pa.Array:
    """Return a constant where there was text; nulls stay."""
    if pa.types.is_dictionary(column.type):
        return redact(column.cast(column.type.value_type))
    return pc.if_else(pc.is_valid(column), pa.scalar(REDACTED), pa.scalar(None, pa.string()))


MASK = MaskKind(
    name="redact",
    description="the word REDACTED for text, null for the rest",
    rank=50,
    options=NoOptions,
    make=lambda _options, _key: redact,
    accepts=is_text,
    classes=None,
)
