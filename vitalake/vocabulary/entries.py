"""The structure of vocabulary files: of those that ship, and of a home's ``vocabulary/*.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1, max_length=400)]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Factor = Annotated[float, Meta(gt=0, le=1e30)]
Pattern = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=400,
        description="A regular expression of RE2 that matches the whole code; no look-around, no back-references.",
    ),
]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A structure that refuses unknown fields."""


class Code(_Strict, frozen=True):
    """A LOINC code: its unit, and the range a living body can show.

    Attributes:
        name: name for people.
        unit: UCUM unit in which values are published.
        low, high: plausible range in that unit.
        source: where the range comes from.
        least: lowest value that is accepted; a value below ``low`` is an event.
        zero: ``counts``: 0 is accepted as such an event, too.
        general: the more general code that this one is a case of.
        scale: name of the scale, for a code that is answered and not measured.
        molar_mass, valence, formula: those of a substance, to convert from units in mol and eq.
        replaces: for a code of a home: it replaces the code that ships.
    """

    name: Text
    unit: Text
    low: Number
    high: Number
    source: Text
    least: Number | None = None
    zero: Literal["counts"] | None = None
    general: Text | None = msgspec.field(default=None, name="as")
    scale: Text | None = None
    molar_mass: Factor | None = None
    valence: Factor | None = None
    formula: Text | None = None
    replaces: bool = False


class Answer(_Strict, frozen=True):
    """An answer of a scale: its codes as ``<system>|<code>``, and the words for it."""

    codes: Annotated[list[Text], Meta(min_length=1)]
    words: list[Text] = []


class Conversion(_Strict, frozen=True):
    """The conversion of a unit to another: value × factor + offset.

    Attributes:
        given: the unit that is sent.
        to: the unit in which the codes are published.
        codes: the codes that it applies to; without it all codes that are published in that unit.
        source: where factor and offset come from.
    """

    given: Text = msgspec.field(name="from")
    to: Text
    factor: Annotated[float, Meta(ge=-1e30, le=1e30)]
    offset: Number = 0.0
    codes: list[Text] | None = None
    source: Text | None = None


class Units(_Strict, frozen=True):
    """Units that a sender may use.

    Attributes:
        families: dimension → unit → its size in the family's base unit.
        units: conversions between units that are not of one family.
        spellings: unit → its other spellings.
        dimensionless: units that a number without a unit is taken to have.
    """

    families: dict[Text, dict[Text, Factor]] = {}
    units: list[Conversion] = []
    spellings: dict[Text, list[Text]] = {}
    dimensionless: list[Text] = []


class System(_Strict, frozen=True):
    """A code system whose codes are published as coded values."""

    name: Text
    form: Pattern
    source: Text | None = None


class Shape(_Strict, frozen=True):
    """A form of codes, which a column of a dataset can name."""

    form: Pattern
    source: Text


class LocalCode(_Strict, frozen=True):
    """The mapping of a local code to a LOINC code.

    Attributes:
        loinc: the LOINC code; the vocabulary has it.
        source: where the mapping comes from, such as the laboratory's directory and its date.
        unit: unit of values that come without one.
    """

    loinc: Text
    source: Text
    unit: Text | None = None


class LocalSystem(_Strict, frozen=True):
    """A code system of a hospital or laboratory.

    Attributes:
        name: name for people.
        form: form of its codes. A code of this form may be shown; any other text is treated as free text.
        also: other names of the same system, such as its name in HL7 v2 beside its URI.
        codes: local code → its mapping; a code that is not listed stays unknown.
    """

    name: Text
    form: Pattern
    also: list[Text] = []
    codes: dict[Text, LocalCode] = {}


class Sections(_Strict, frozen=True):
    """A file of a home's ``vocabulary`` folder."""

    codes: dict[Text, Code] = {}
    scales: dict[Text, list[Answer]] = {}
    units: Units = Units()
    systems: dict[Text, System] = {}
    local: dict[Text, LocalSystem] = {}
    forms: dict[Text, Shape] = {}
