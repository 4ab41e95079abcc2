"""The mask that truncates times to a unit."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from governance.policy.masks.base import Mask, MaskKey, MaskKind

Unit = Literal["minute", "hour", "day", "month", "year"]


class GeneraliseOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The unit to which a time is truncated."""

    unit: Unit


def _make(options: GeneraliseOptions, _key: MaskKey) -> Mask:
    """Return a mask that truncates times to the start of their minute, hour, day, month or year, in UTC."""
    return lambda column: pc.floor_temporal(column, unit=options.unit).cast(column.type)


MASK = MaskKind(
    name="generalise",
    description="times truncated to the start of their `unit` (minute, hour, day, month, year), in UTC",
    rank=30,
    options=GeneraliseOptions,
    make=_make,
    accepts=lambda kind: bool(pa.types.is_timestamp(kind)),
    classes=None,
    keeps=True,
    strictness=lambda options: get_args(Unit).index(options.unit),
)
