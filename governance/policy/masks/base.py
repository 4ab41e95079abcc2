"""Defines masks: pure functions over an Arrow column, and their description (``MaskKind``).

Built-in masks and those of other packages are registered in the same way: a ``MaskKind`` in a module of its own, and a
line under ``vitalake.masks`` in the entry points of the package. docs/how-to/write-a-mask.md shows one.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from vitalake.keys import KeyRing

Mask = Callable[[pa.Array], pa.Array]
"""A mask with its options and key: takes a column, plain or dictionary-encoded, and returns one of the same length and
type, with nulls where there were nulls. It is idempotent, for published rows may be masked again."""

BY_TOKEN = frozenset({"patient-identifier", "encounter-identifier", "device-identifier"})
"""Data classes by whose tokens erasures, merges and the audit find rows. Only built-in masks may mask them."""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a mask that takes none."""


@dataclass(frozen=True, slots=True)
class MaskKey:
    """The key of a keyed mask.

    Attributes:
        mask: the mask's name.
        ring: the home's keys.
        domain: the data class: the same value has different outputs in two classes.
    """

    mask: str
    ring: KeyRing
    domain: str

    @property
    def secret(self) -> bytes:
        """Return a secret of 32 bytes for this mask and class, derived from the home's key for pseudonyms."""
        key = self.ring.current("pseudonym")
        return hmac.digest(key.secret, f"mask\0{self.mask}\0{self.domain}".encode(), "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskKind:
    """A mask as it is registered.

    Attributes:
        name: as rules name it.
        description: what happens to a value, in words, for docs/reference/rules.md.
        rank: how much the mask removes: of several rules for a column the one of the highest rank wins. ``keep`` has 0,
            ``drop`` 60; every other mask has a rank between them.
        options: a strict msgspec struct (frozen, unknown fields forbidden) of the fields next to ``mask`` in a rule.
        make: takes options and key, and returns the mask. A mask that is not keyed must not use the key.
        accepts: which types the mask can handle; a column of any other type is dropped.
        classes: data classes that the mask is for; a column of any other class is dropped; None: all.
        keyed: whether its output depends on the home's key.
        keeps: whether values, or parts of them, can survive. Text that is kept must be closed, as with ``keep``.
        distinct: whether different values always stay different, so that a record's key may have the mask.
        strictness: takes options; of two rules with this mask the one with the greater strictness removes more.
        revision: raise it when the mask's output for a value changes: it enters the version of the rules.
    """

    name: str
    description: str
    rank: int
    options: type[msgspec.Struct]
    make: Callable[[Any, MaskKey], Mask]
    accepts: Callable[[pa.DataType], bool]
    classes: frozenset[str] | None
    keyed: bool = False
    keeps: bool = False
    distinct: bool = False
    strictness: Callable[[Any], float] = lambda _options: 0.0
    revision: int = 1

    def fits(self, kind: pa.DataType, data_class: str) -> bool:
        """Return whether the mask can do anything with a column other than drop it."""
        return bool(self.accepts(kind)) and (self.classes is None or data_class in self.classes)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text, plain or dictionary-encoded."""
    return bool(pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type is of numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def over_texts(function: Callable[[str], str]) -> Mask:
    """Return a mask that applies a function to each distinct text of a column; nulls stay."""

    def mask(column: pa.Array) -> pa.Array:
        encoded = column.dictionary_encode()  # itself, if it is encoded
        texts = [None if text is None else function(text) for text in encoded.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(texts, pa.string())).cast(column.type)

    return mask
