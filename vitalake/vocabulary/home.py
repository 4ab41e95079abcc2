"""Reads the vocabulary files of a home, checks the structure of each entry, and that no entry is declared twice."""

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
from vitalake.vocabulary.forms import (
    Form,
    LinearPattern,
    UnsafeForm,
    is_taken,
    own_form,
)

KIND = "vocabulary"
PAGE = "See docs/how-to/declare-codes.md."

_ENTRIES: dict[str, Any] = {
    "codes": Code, "scales": list[Answer], "systems": System, "local": LocalSystem, "forms": Shape,
}  # fmt: skip
"""Structure of the entries of each section that is a mapping; they are converted one by one, so errors name them."""

_FORM_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

Claim = tuple[str, ...]
"""What an entry defines, such as a code or the spelling of a unit. It may be defined only once."""


@dataclass(frozen=True, slots=True)
class File:
    """A vocabulary file of a home, read.

    Attributes:
        found: the declaration that the file is.
        text: text of the file, to find lines.
        raw: what the YAML says, as plain types.
        sections: the same, converted to its structure.
    """

    found: Declared
    text: str
    raw: Mapping[str, Any]
    sections: Sections

    def refused(self, what: str, *at: str | int, remedy: str = PAGE) -> SettingsError:
        """Return the error of an entry that is not valid."""
        return declarations.refused(what, where=self.found.where, text=self.text, at=at, remedy=remedy)


@per_home
def own_files() -> tuple[File, ...]:
    """Return the vocabulary files of the home in use, with each entry checked by itself.

    Raises:
        SettingsError: an entry does not fit its structure, or is declared twice.
    """
    files = tuple(map(_read, declarations.declared(KIND, declarations.in_use()).values()))
    _refuse_twice(files)
    return files


@per_home
def own_forms() -> dict[str, Form]:
    """Return the forms of codes that the home in use declares, by name.

    Raises:
        SettingsError: one of them is not valid.
    """
    found = {}
    for file in own_files():
        for name, shape in file.sections.forms.items():
            if is_taken(name):
                raise file.refused("Form ships with the project", "forms", name, remedy="Give it another name.")
            if not _FORM_NAME.fullmatch(name):
                raise file.refused(
                    "Name of the form is not allowed",
                    "forms",
                    name,
                    remedy="Begin it with a small letter, and use only small letters, digits and -.",
                )
            found[name] = form_in(file, shape.form, shape.source, "forms", name, "form")
    return found


def form_in(file: File, pattern: str, source: str, *at: str | int) -> Form:
    """Return the form that a pattern of a file declares.

    It is a refused one if the pattern is not a regular expression of RE2, or if names and numbers of patients can have
    it, too.
    """
    try:
        return own_form(pattern, source)
    except UnsafeForm as error:
        refused = file.refused(f"Pattern cannot be used: {error.why}", *at, remedy=error.remedy)
    except ValueError:
        refused = file.refused(
            "Pattern cannot be used: it is not a regular expression that RE2 and Python read alike",
            *at,
            remedy="Write which characters a code has and how many, such as [A-Z][0-9]{2,4}; no look-around, no \\1, "
            "no flags, no [:alpha:], no \\p; put \\ before a bracket that is meant as it stands.",
        )
    return Form(LinearPattern(pattern), source=source, refused=refused)


@per_home
def refused_systems() -> tuple[SettingsError, ...]:
    """Return why forms of code systems and of local systems of the home in use cannot be used."""
    forms = (
        form_in(file, entry.form, "", section, name, "form")
        for file in own_files()
        for section, entries in (("systems", file.sections.systems), ("local", file.sections.local))
        for name, entry in entries.items()
    )
    return tuple(form.refused for form in forms if form.refused is not None)


def check_forms() -> None:
    """Raise an error if the home in use declares a form that cannot be used.

    Commands that only check call it. The others work without that form: see ``Form.refused``.

    Raises:
        SettingsError: the first such form, with the places of the others.
    """
    found = [*(form.refused for form in own_forms().values() if form.refused is not None), *refused_systems()]
    if not found:
        return
    first, others = found[0], ", ".join(error.where for error in found[1:])
    remedy = f"{first.remedy} Until then no text is published by this form; what is published already stays until "
    remedy += "'vitalake lake rewrite --republish DATASET'."
    raise SettingsError(
        first.what, where=first.where, remedy=f"{remedy} Of other forms too: {others}." if others else remedy
    )


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
            raise declarations.refused("Section is not a mapping", where=where, text=text, at=at, remedy=PAGE)
        _refuse_other_keys(section, where=where, text=text, at=at)
        _check_inner(name, section, where=where, text=text)
        parts[name] = (
            declarations.convert(section, Units, where=where, text=text, at=at)
            if name == "units"
            else declarations.entries(section, _ENTRIES[name], where=where, text=text, at=at)
        )
    return File(found, text, document, Sections(**parts))


def _check_inner(name: str, section: Mapping[str, Any], *, where: str, text: str) -> None:
    """Check the mappings inside of entries one by one, so that an error names the local code, or the unit."""
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
    """Return a mapping inside of an entry; empty if there is none: checking the whole entry reports that."""
    inner = entry.get(name) if isinstance(entry, dict) else None
    return inner if isinstance(inner, dict) else {}


def _refuse_other_keys(section: Mapping[Any, Any], *, where: str, text: str, at: tuple[str, ...]) -> None:
    """Refuse keys that YAML reads as a number, a date or a boolean: codes such as 0815 and NO need quotes."""
    for key in section:
        if not isinstance(key, str):
            raise declarations.refused(
                "Key is read as a number, a date or a boolean", where=where, text=text, at=(*at, key),
                remedy="Write it in quotes.",
            )  # fmt: skip


def _one_of(names: tuple[str, ...]) -> str:
    return f"The sections are: {', '.join(names)}."


# -- what may be declared only once --------------------------------------------------------------------------------


def claims(sections: Sections) -> Iterator[tuple[Claim, tuple[str | int, ...]]]:
    """Yield what each entry defines, and the keys and indexes that lead to it in the file."""
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
                raise file.refused(
                    "It is declared twice", *at, remedy=f"It is also declared in {before}: remove one of the two."
                )
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
