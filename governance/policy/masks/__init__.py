"""The masks, one in each module: vectorised Arrow functions that keep a column's type. They are idempotent."""

from governance.policy.masks.base import Mask, MaskKey, MaskKind, NoOptions, is_number, is_text, over_texts
from governance.policy.masks.making import fits, make_mask
from governance.policy.masks.pseudonym import CACHE_ENTRIES, Pseudonyms
from governance.policy.masks.registry import mask_kind, mask_kinds

__all__ = [
    "CACHE_ENTRIES",
    "Mask",
    "MaskKey",
    "MaskKind",
    "NoOptions",
    "Pseudonyms",
    "fits",
    "is_number",
    "is_text",
    "make_mask",
    "mask_kind",
    "mask_kinds",
    "over_texts",
]
