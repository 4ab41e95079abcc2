"""The mask that rounds numbers."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pyarrow.compute as pc

from governance.policy.masks.base import Mask, MaskKey, MaskKind, is_number


class RoundOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The number of digits after the decimal point."""

    digits: Annotated[int, msgspec.Meta(ge=0, le=12)]


def _make(options: RoundOptions, _key: MaskKey) -> Mask:
    """Return a mask that rounds numbers to so many digits; ties go to the even neighbour, as Arrow's default does."""
    return lambda column: pc.round(column, ndigits=options.digits, round_mode="half_to_even")


MASK = MaskKind(
    name="round",
    description="numbers rounded to `digits` digits after the point; ties to the even neighbour",
    rank=10,
    options=RoundOptions,
    make=_make,
    accepts=is_number,
    classes=None,
    keeps=True,
    strictness=lambda options: -options.digits,
)
