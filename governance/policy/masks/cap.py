"""The mask that replaces large numbers by a maximum."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from governance.policy.masks.base import Mask, MaskKey, MaskKind, is_number


class CapOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The maximum."""

    at: Annotated[int, msgspec.Meta(ge=0, le=10_000)]


def _make(options: CapOptions, _key: MaskKey) -> Mask:
    """Return a mask that replaces greater numbers by the maximum: with ``at: 90`` ages over 89 are one group."""

    def mask(column: pa.Array) -> pa.Array:
        most = pa.scalar(options.at).cast(column.type)
        # Nulls and NaN stay as they are: a minimum function would turn both into 'at'.
        return pc.if_else(pc.greater(column, most), most, column)

    return mask


MASK = MaskKind(
    name="cap",
    description="numbers no greater than `at`: with 90, ages over 89 are one group",
    rank=20,
    options=CapOptions,
    make=_make,
    accepts=is_number,
    classes=None,
    keeps=True,
    strictness=lambda options: -options.at,
)
