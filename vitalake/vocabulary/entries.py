"""What the files of the vocabulary may say: the structure of those that ship, and of a home's ``vocabulary/*.yaml``."""

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
        description="A regular expression that a whole code matches, of RE2: without look-around and back-references.",
    ),
]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Nothing but what is named."""


class Code(_Strict, frozen=True):
    """A LOINC code: its unit, and the range a living body can show.

    Attributes:
        name: for people.
        unit: UCUM unit in which values are published.
        low, high: plausible range in that unit.
        source: where the range comes from.
        least: the lowest value that is taken; below ``low`` it is an event.
        zero: ``counts``: 0 is taken as such an event, too.
        general: the more general code that this one is a case of.
        scale: of a code that is answered and not measured.
        molar_mass, valence, formula: of a substance, for units in mol and eq.
        replaces: of a home's: it stands in the place of the code that ships.
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
    """An answer of a scale: its codes as ``<system>|<code>``, and words that mean it."""

    codes: Annotated[list[Text], Meta(min_length=1)]
    words: list[Text] = []


class Conversion(_Strict, frozen=True):
    """What a unit becomes: value × factor + offset.

    Attributes:
        given: the unit that is sent.
        to: the unit of the codes it is converted for.
        codes: which; none named: all of that unit.
        source: who says so.
    """

    given: Text = msgspec.field(name="from")
    to: Text
    factor: Annotated[float, Meta(ge=-1e30, le=1e30)]
    offset: Number = 0.0
    codes: list[Text] | None = None
    source: Text | None = None


class Units(_Strict, frozen=True):
    """Units a sender may use.

    Attributes:
        families: dimension → unit → how many of the family's base unit it is.
        units: conversions that no family has.
        spellings: unit → the same in other words.
        dimensionless: units of which a number without any is one.
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
    """The form of a system's codes, which a column of a dataset may name."""

    form: Pattern
    source: Text


class LocalCode(_Strict, frozen=True):
    """What a local code is taken as.

    Attributes:
        loinc: a code of the vocabulary.
        source: who says so: the laboratory's directory, its date.
        unit: of values that come without one.
    """

    loinc: Text
    source: Text
    unit: Text | None = None


class LocalSystem(_Strict, frozen=True):
    """A code system of a hospital or laboratory.

    Attributes:
        name: for people.
        form: of its codes; a code of this form may be shown, others are somebody's words.
        also: other names of the same system, such as that in HL7 v2 beside a URI.
        codes: local code → what it is taken as; one that is not here stays unknown.
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
