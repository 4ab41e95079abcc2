"""Makes the function by which a rule masks a column. If the function fails, nothing of the column is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from governance.errors import RuleError
from governance.policy.masks.base import Mask, MaskKey, MaskKind
from governance.policy.masks.drop import drop
from governance.policy.masks.registry import mask_kind
from vitalake.keys import KeyRing

if TYPE_CHECKING:
    from governance.policy.rules import Then


def fits(then: Then, kind: pa.DataType, data_class: str) -> bool:
    """Return whether a rule's mask can do something with a column other than drop it."""
    return mask_kind(str(then.mask)).fits(kind, data_class)


def make_mask(then: Then, *, keys: KeyRing, domain: str) -> Mask:
    """Return the mask of a rule; it drops columns that it does not fit (fail-closed).

    Args:
        then: the rule's action; a mask.
        keys: for keyed masks.
        domain: the data class: the same value of two classes gets two outputs.
    """
    kind = mask_kind(str(then.mask))
    try:
        mask = kind.make(then.options, MaskKey(kind.name, keys, domain))
    except Exception as error:  # raised by another package's code: its text may hold anything
        raise _failed(kind.name, error) from None
    return guarded(kind, mask, data_class=domain)


def guarded(kind: MaskKind, mask: Mask, *, data_class: str) -> Mask:
    """Return a mask that drops columns it is not for, and raises an error if it fails or changes length or type.

    Args:
        kind: says which columns the mask is for.
        mask: as made by the kind.
        data_class: of the columns.
    """

    def checked(column: pa.Array) -> pa.Array:
        if not kind.fits(column.type, data_class):
            return drop(column)
        try:
            masked = mask(column)
            same = len(masked) == len(column) and _plain(masked.type) == _plain(column.type)
        except Exception as error:  # its text may hold a value
            raise _failed(kind.name, error) from None
        if not same:
            raise RuleError(
                "Mask returned a column of another length or type than it was given",
                where=f"mask {kind.name}",
                remedy="Nothing was published by it. Correct the mask's code.",
            )
        return masked

    return checked


def _failed(name: str, error: Exception) -> RuleError:
    what = f"Mask failed ({type(error).__name__})"
    return RuleError(
        what, where=f"mask {name}", remedy="Nothing was published by it. Correct the mask's code, or the rule."
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
