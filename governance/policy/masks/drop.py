"""The mask that replaces every value by null."""

from __future__ import annotations

import pyarrow as pa

from governance.policy.masks.base import MaskKind, NoOptions


def drop(column: pa.Array) -> pa.Array:
    """Return nulls."""
    return pa.nulls(len(column), column.type)


MASK = MaskKind(
    name="drop",
    description="null",
    rank=60,
    options=NoOptions,
    make=lambda _options, _key: drop,
    accepts=lambda _kind: True,
    classes=None,
)
