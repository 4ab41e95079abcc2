"""The mask that keeps values as they are."""

from __future__ import annotations

from governance.policy.masks.base import MaskKind, NoOptions

MASK = MaskKind(
    name="keep",
    description="the value as it is",
    rank=0,
    options=NoOptions,
    make=lambda _options, _key: lambda column: column,
    accepts=lambda _kind: True,
    classes=None,
    distinct=True,
    keeps=True,
)
