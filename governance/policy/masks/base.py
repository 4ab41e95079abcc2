"""What a mask is: a pure function over an Arrow column, with what it needs, what it is for and what it leaves.

Built-in masks and those of other packages are the same thing: a ``MaskKind`` in a module of its own, and a line under
``vitalake.masks`` in the entry points of the package. docs/how-to/write-a-mask.md shows one.
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
"""A mask with its options and key: a column → one of the same length and type, nulls where there were nulls. The column
may be plain or dictionary-encoded. Masking twice is masking once: what is published may be published anew."""

BY_TOKEN = frozenset({"patient-identifier", "encounter-identifier", "device-identifier"})
"""Data classes whose tokens erasures, merges and the audit find a person's rows by: no other package masks them."""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a mask that takes none."""


@dataclass(frozen=True, slots=True)
class MaskKey:
    """What a keyed mask makes its output with.

    Attributes:
        mask: its name.
        ring: the home's keys.
        domain: the data class: the same value of two classes gets two outputs.
    """

    mask: str
    ring: KeyRing
    domain: str

    @property
    def secret(self) -> bytes:
        """Return 32 bytes of this mask's own, for this class: from the home's key for pseudonyms."""
        key = self.ring.current("pseudonym")
        return hmac.digest(key.secret, f"mask\0{self.mask}\0{self.domain}".encode(), "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskKind:
    """A mask as it is registered.

    Attributes:
        name: as rules name it.
        description: what becomes of a value, in words, for docs/reference/rules.md.
        rank: how much it takes away: of several rules for a column the one of the highest rank wins. ``keep`` has 0,
            ``drop`` 60; no other mask may have a rank outside.
        options: a strict msgspec struct (frozen, unknown fields forbidden): what stands beside ``mask`` in a rule.
        make: options and key → the mask. Of a mask that is not keyed the key must not be looked at.
        accepts: which types it can do something with; any other column is dropped.
        classes: data classes that it is for, any other column is dropped; None: all.
        keyed: its output depends on the home's key.
        keeps: values, or parts of them, may survive. Text that is kept must be closed, as with ``keep``.
        reversible: who has the key can get the value back.
        strictness: of two rules with this mask the one whose options give more takes more away.
        revision: counts up when the same value becomes another: the rules are other ones then.
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
    reversible: bool = False
    strictness: Callable[[Any], float] = lambda _options: 0.0
    revision: int = 1

    def fits(self, kind: pa.DataType, data_class: str) -> bool:
        """Return whether it can do something with a column other than drop it."""
        return bool(self.accepts(kind)) and (self.classes is None or data_class in self.classes)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text, plain or dictionary-encoded."""
    return bool(pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type is of numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def over_texts(function: Callable[[str], str]) -> Mask:
    """Return a mask of a function of one text: it is called once for each text of a column; nulls stay."""

    def mask(column: pa.Array) -> pa.Array:
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        texts = [None if text is None else function(text) for text in encoded.dictionary.to_pylist()]
        masked = pa.DictionaryArray.from_arrays(encoded.indices, pa.array(texts, pa.string()))
        return masked if pa.types.is_dictionary(column.type) else masked.cast(column.type)

    return mask
