"""The vocabulary files of a home: read, each entry in its structure, none twice, and none that ships already."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vitalake import declarations
from vitalake.declarations import Declared, per_home
from vitalake.errors import SettingsError
from vitalake.vocabulary.entries import (
    Answer,
    Code,
    Factor,
    LocalCode,
    LocalSystem,
    Sections,
    Shape,
    System,
    Text,
    Units,
)
from vitalake.vocabulary.forms import OF_VOCABULARY, Form, own_form, shipped_forms

KIND = "vocabulary"
PAGE = "See docs/how-to/declare-codes.md."

_ENTRIES: dict[str, Any] = {
    "codes": Code, "scales": list[Answer], "systems": System, "local": LocalSystem, "forms": Shape,
}  # fmt: skip
"""Sections that are mappings of entries: an error in one names the entry."""

_FORM_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

Claim = tuple[str, ...]
"""What an entry gives a meaning to; it has one."""


@dataclass(frozen=True, slots=True)
class File:
    """A vocabulary file of a home, read.

    Attributes:
        found: where it lies.
        text: of it, to find lines.
        raw: what its YAML says.
        sections: the same in its structure.
    """

    found: Declared
    text: str
    raw: Mapping[str, Any]
    sections: Sections

    def refused(self, what: str, *at: str | int, remedy: str = PAGE) -> SettingsError:
        """Return the error of an entry that does not hold."""
        return declarations.refused(what, where=self.found.where, text=self.text, at=at, remedy=remedy)


@per_home
def own_files() -> tuple[File, ...]:
    """Return the vocabulary files of the home in use; each entry by itself is as it should be.

    Raises:
        SettingsError: one is not, or stands in two files.
    """
    files = tuple(map(_read, declarations.declared(KIND, declarations.in_use()).values()))
    _refuse_twice(files)
    return files


@per_home
def own_forms() -> dict[str, Form]:
    """Return the forms of codes that the home in use declares, by name.

    Raises:
        SettingsError: one of them does not hold.
    """
    found = {}
    for file in own_files():
        for name, shape in file.sections.forms.items():
            if name in shipped_forms() or name in OF_VOCABULARY:
                raise file.refused("Form ships with the project", "forms", name, remedy="Give it another name.")
            if not _FORM_NAME.fullmatch(name):
                raise file.refused(
                    "Form has a name that is none", "forms", name, remedy="Use small letters, digits and -."
                )
            found[name] = form_in(file, shape.form, shape.source, "forms", name, "form")
    return found


def form_in(file: File, pattern: str, source: str, *at: str | int) -> Form:
    """Return the form that a pattern of a file declares.

    Raises:
        SettingsError: it is no pattern that can be matched safely, or words have the form, too.
    """
    try:
        return own_form(pattern, source)
    except ValueError:
        raise file.refused(
            "Pattern cannot be used: it is no regular expression of RE2, or words of people match it, too",
            *at,
            remedy="Say which characters a code has and how many, such as [A-Z]{2,5}; no look-around, no \\1.",
        ) from None


def _read(found: Declared) -> File:
    document, text = declarations.read(found)
    where = found.where
    known = Sections.__struct_fields__
    if not isinstance(document, dict) or not document:
        raise declarations.refused("Vocabulary file has no section", where=where, text=text, remedy=_one_of(known))
    parts: dict[str, Any] = {}
    for name, section in document.items():
        at = (name,)
        if name not in known:
            raise declarations.refused(
                "Vocabulary has no such section", where=where, text=text, at=at, remedy=_one_of(known)
            )
        if not isinstance(section, dict):
            raise declarations.refused("Section is no mapping", where=where, text=text, at=at, remedy=PAGE)
        _refuse_other_keys(section, where=where, text=text, at=at)
        _check_inner(name, section, where=where, text=text)
        parts[name] = (
            declarations.convert(section, Units, where=where, text=text, at=at)
            if name == "units"
            else declarations.entries(section, _ENTRIES[name], where=where, text=text, at=at)
        )
    return File(found, text, document, Sections(**parts))


def _check_inner(name: str, section: Mapping[str, Any], *, where: str, text: str) -> None:
    """Look at mappings inside of entries one by one, so that an error names the local code, or the unit."""
    inner: list[tuple[tuple[str, ...], Any, Any]] = []
    if name == "local":
        inner = [((system, "codes"), _of(entry, "codes"), LocalCode) for system, entry in section.items()]
    elif name == "units":
        families = _of(section, "families")
        inner = [(("families",), families, dict[str, Any])]
        inner += [(("families", str(family)), _of(families, family), Factor) for family in families]
        inner.append((("spellings",), _of(section, "spellings"), list[Text]))
    for way, mapping, form in inner:
        _refuse_other_keys(mapping, where=where, text=text, at=(name, *way))
        declarations.entries(mapping, form, where=where, text=text, at=(name, *way))


def _of(entry: Any, name: Any) -> Mapping[Any, Any]:
    """Return a mapping inside of an entry; of what is none nothing: that is found where the whole is looked at."""
    found = entry.get(name) if isinstance(entry, dict) else None
    return found if isinstance(found, dict) else {}


def _refuse_other_keys(section: Mapping[Any, Any], *, where: str, text: str, at: tuple[str, ...]) -> None:
    """Refuse keys that YAML reads as numbers, dates or truths: 0815 and NO are codes like others, in quotes."""
    for key in section:
        if not isinstance(key, str):
            raise declarations.refused(
                "Key is read as a number, date or truth", where=where, text=text, at=(*at, key),
                remedy="Write it in quotes.",
            )  # fmt: skip


def _one_of(names: tuple[str, ...]) -> str:
    return f"The sections are: {', '.join(names)}."


# -- what stands once ----------------------------------------------------------------------------------------------


def claims(sections: Sections) -> Iterator[tuple[Claim, tuple[str | int, ...]]]:
    """Yield what each entry gives a meaning to, and where it stands."""
    for section in ("codes", "scales", "systems", "forms"):
        for name in getattr(sections, section):
            yield (section, name), (section, name)
    for name, system in sections.local.items():
        yield ("local", name), ("local", name)
        for i, other in enumerate(system.also):
            yield ("local", other), ("local", name, "also", i)
    units = sections.units
    for family, members in units.families.items():
        for unit in members:
            yield ("units", "families", family, unit), ("units", "families", family, unit)
    for i, given in enumerate(units.units):
        for code in given.codes or ("",):
            yield ("units", "units", given.given, given.to, code), ("units", "units", i)
    for unit, several in units.spellings.items():
        for i, text in enumerate(several):
            yield ("units", "spellings", text), ("units", "spellings", unit, i)
    for i, unit in enumerate(units.dimensionless):
        yield ("units", "dimensionless", unit), ("units", "dimensionless", i)


def _refuse_twice(files: tuple[File, ...]) -> None:
    seen: dict[Claim, tuple[File, tuple[str | int, ...]]] = {}
    for file in files:
        for claim, at in claims(file.sections):
            if claim in seen:
                other, there = seen[claim]
                before = other.refused("", *there).where
                raise file.refused("It is declared twice", *at, remedy=f"It stands in {before}, too: take one out.")
            seen[claim] = file, at


def counts(file: File) -> str:
    """Return how many entries of each kind a file has, in words."""
    sections, units = file.sections, file.sections.units
    codes = sum(len(system.codes) for system in sections.local.values())
    several = {
        "codes": len(sections.codes),
        "scales": len(sections.scales),
        "units": sum(map(len, (*units.families.values(), *units.spellings.values(), units.units))),
        "code systems": len(sections.systems),
        "local systems": len(sections.local),
        "local codes": codes,
        "forms": len(sections.forms),
    }
    return ", ".join(f"{count:,} {name}" for name, count in several.items() if count) or "nothing"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a home's vocabulary files, for editors."""
    return msgspec.json.schema(Sections)
