"""Merges the vocabulary of a home into the one that ships: additions must not change the meaning of what ships."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from vitalake.vocabulary.entries import Code, Conversion, LocalCode, Sections, Units
from vitalake.vocabulary.forms import shipped_forms
from vitalake.vocabulary.home import File, claims, form_in

if TYPE_CHECKING:
    from vitalake.vocabulary import Vocabulary

Documents = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""Codes, units and systems as parse_vocabulary takes them."""

RESERVED = frozenset({"LN", "http://loinc.org", "urn:oid:2.16.840.1.113883.6.1"})
"""Names of LOINC itself, which cannot be a local system: its codes are used as they are."""

ANSWER = "{answer}"
"""Unit of codes that are answered and not measured."""


def with_home(
    shipped: Documents, base: Vocabulary, files: Sequence[File], parse: Callable[..., Vocabulary]
) -> Vocabulary:
    """Return the vocabulary that ships, with the additions of a home's files.

    Args:
        shipped: the documents that ship.
        base: the vocabulary that they make.
        files: the vocabulary files of the home.
        parse: builds a vocabulary from documents.

    Raises:
        SettingsError: an entry is not valid; names file, line and field.
    """
    _refuse_shipped(shipped, files)
    codes, units, _ = merged = _merged(shipped, files)
    entries = {code: msgspec.convert(entry, Code) for code, entry in codes["codes"].items()}
    known = _canonical(shipped[0], units)
    for file in files:
        _check_units(file, base, known, entries)
        for code in file.sections.codes:
            _check_code(file, code, entries, known, base)
        for code, entry in file.sections.codes.items():
            if entry.scale is not None and entry.scale not in codes["scales"]:
                raise file.refused("Scale is not known", "codes", code, "scale")
    own = {
        uri: form_in(file, system.form, system.source or "", "systems", uri, "form")
        for file in files
        for uri, system in file.sections.systems.items()
    }
    found = parse(*merged)
    found = replace(found, systems=found.systems | own)
    for file in files:
        _check_scales(file, found)
    _refuse_changes(files, base, found)
    return _with_local(found, files)


def _refuse_shipped(shipped: Documents, files: Sequence[File]) -> None:
    """Refuse entries that ship already. A code of a home may replace one that ships if it says ``replaces: true``."""
    codes, units, systems = shipped
    taken = {
        *(("codes", name) for name in (*codes["codes"], *codes["panels"])),
        *(("scales", name) for name in codes["scales"]),
        *(("systems", name) for name in (*systems["systems"], systems["absent"]["system"])),
        *(claim for claim, _ in claims(Sections(units=msgspec.convert(_without(units, "version"), Units)))),
    }
    for file in files:
        for claim, at in claims(file.sections):
            code = file.sections.codes.get(claim[1]) if claim[0] == "codes" else None
            if code is not None and code.replaces and claim[1] in codes["codes"]:
                continue
            if code is not None and code.replaces:
                raise file.refused("Code does not replace one that ships", *at, remedy="Remove 'replaces'.")
            if claim in taken:
                more = " To replace the code, write 'replaces: true'." if claim[1] in codes["codes"] else ""
                raise file.refused("It ships with the project", *at, remedy=f"Remove it.{more}")


def _merged(shipped: Documents, files: Sequence[File]) -> Documents:
    """Return the documents that ship with the entries of all files; forms and local systems are added later."""
    codes, units, systems = ({**document} for document in shipped)
    for file in files:
        own = file.sections.codes
        plain = {code: _without(entry, "replaces") for code, entry in file.raw.get("codes", {}).items() if code in own}
        codes |= {"codes": codes["codes"] | plain, "scales": codes["scales"] | file.raw.get("scales", {})}
        more = file.sections.units
        families = {name: {**members} for name, members in units["families"].items()}
        for name, members in more.families.items():
            families[name] = families.get(name, {}) | members
        spellings = {unit: [*several] for unit, several in units["spellings"].items()}
        for unit, several in more.spellings.items():
            spellings[unit] = [*spellings.get(unit, ()), *several]
        units |= {
            "families": families,
            "spellings": spellings,
            "units": [*units["units"], *(msgspec.to_builtins(given) for given in more.units)],
            "dimensionless": [*units["dimensionless"], *more.dimensionless],
        }
    return codes, units, systems


def _without(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


def _canonical(codes: Mapping[str, Any], units: Mapping[str, Any]) -> frozenset[str]:
    """Return the UCUM names of units: those of families and conversions, and those of codes that ship."""
    families = {unit for members in units["families"].values() for unit in members}
    converted = {given[side] for given in units["units"] for side in ("from", "to")}
    return frozenset(families | converted | {str(entry["unit"]) for entry in codes["codes"].values()})


def _check_code(file: File, code: str, entries: Mapping[str, Code], known: frozenset[str], base: Vocabulary) -> None:
    """Refuse a code whose range, unit, scale or general code is not valid."""
    entry, at = file.sections.codes[code], ("codes", code)
    if not shipped_forms()["loinc"].fits(code):
        raise file.refused(
            "Code is not a LOINC code", *at, remedy="Check its digits: the last one is a check digit of the others."
        )
    if not entry.low < entry.high:
        raise file.refused("Range has no width: low is not below high", *at, "low")
    if entry.least is not None and entry.least > entry.low:
        raise file.refused("The lowest accepted value, least, is above low", *at, "least")
    if (entry.scale is None) == (entry.unit == ANSWER):
        raise file.refused(f"A code with a scale must have the unit {ANSWER}, and no other code may", *at, "unit")
    if entry.unit not in known:
        raise file.refused(
            "Unit is not known", *at, "unit", remedy="Write it as UCUM does, or declare it under units: families."
        )
    general = entries.get(entry.general or code)
    if general is None:
        raise file.refused("The general code is not known", *at, "as")
    if entry.general is not None and (general.general is not None or general.unit != entry.unit):
        raise file.refused("The general code has another unit, or has a general code itself", *at, "as")
    if entry.replaces:
        _check_replacing(file, code, base)


def _check_replacing(file: File, code: str, base: Vocabulary) -> None:
    """Refuse a replacing code that means something else: rows are published in its unit, and scores read its cases."""
    entry = file.sections.codes[code]
    unit, general = base.unit_of[base.codes[code]], base.counts_as.get(code)
    for name, same in (
        ("unit", entry.unit == unit),
        ("as", entry.general == general),
        ("scale", (entry.scale is None) == (code not in base.answers)),
    ):
        if not same:
            raise file.refused(
                "Code differs here from the one that it replaces", "codes", code, name,
                remedy="Write the same as the one that ships: only range, name and source may differ.",
            )  # fmt: skip


def _check_units(file: File, base: Vocabulary, known: frozenset[str], entries: Mapping[str, Code]) -> None:
    """Refuse units and spellings that mean something else already, and conversions that are not valid."""
    units, own = file.sections.units, _own_units(file)
    for text, at in _new_texts(file):
        there, means = base.unit_index(text), text
        if at[1] == "spellings":
            means = str(at[2])
        elif at[1] == "families" and there >= 0:
            raise file.refused("The unit exists already, maybe with other upper or lower case", *at)
        if there >= 0 and there != base.units.get(means, -1):
            raise file.refused("It stands for another unit already, maybe with other upper or lower case", *at)
    for unit in units.spellings:
        if unit not in known:
            raise file.refused("Unit is not known", "units", "spellings", unit)
    of_codes = {entry.unit for entry in entries.values()}
    for i, given in enumerate(units.units):
        _check_conversion(file, i, given, of_codes, entries)
    for i, unit in enumerate(units.dimensionless):
        if unit not in own:
            raise file.refused("Only a unit that this file declares can be dimensionless", "units", "dimensionless", i)


def _check_conversion(file: File, i: int, given: Conversion, of_codes: set[str], entries: Mapping[str, Code]) -> None:
    at = ("units", "units", i)
    if given.factor == 0:
        raise file.refused("A factor of 0 makes all values equal", *at, "factor")
    if given.source is None:
        raise file.refused(
            "Conversion has no source", *at, remedy="Write under source where factor and offset come from."
        )
    if given.to not in of_codes:
        raise file.refused("No code is published in this unit", *at, "to")
    for n, code in enumerate(given.codes or ()):
        if code not in entries or entries[code].unit != given.to:
            raise file.refused("Code is not known, or has another unit", *at, "codes", n)


def _own_units(file: File) -> frozenset[str]:
    """Return the units that a file declares in families and conversions."""
    units = file.sections.units
    return frozenset(
        (*(unit for members in units.families.values() for unit in members), *(g.given for g in units.units))
    )


def _new_texts(file: File) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Yield the texts that a file declares as units or spellings, and the keys and indexes that lead to them."""
    units = file.sections.units
    for family, members in units.families.items():
        for unit in members:
            yield unit, ("units", "families", family, unit)
    for i, given in enumerate(units.units):
        yield given.given, ("units", "units", i, "from")
    for unit, several in units.spellings.items():
        for i, text in enumerate(several):
            yield text, ("units", "spellings", unit, i)


def _check_scales(file: File, found: Vocabulary) -> None:
    """Refuse answers whose code is of an unknown system, and codes or words that occur twice in a scale."""
    for name, scale in file.sections.scales.items():
        seen: set[str] = set()
        for i, answer in enumerate(scale):
            for n, coded in enumerate(answer.codes):
                if not _is_known(found, coded) or coded in seen:
                    raise file.refused(
                        "Answer is not a code of a known system, or occurs twice", "scales", name, i, "codes", n,
                        remedy="Write <system>|<code> once, and declare the system under systems.",
                    )  # fmt: skip
                seen.add(coded)
            for n, word in enumerate(answer.words):
                if (folded := word.casefold()) in seen:
                    raise file.refused("Word stands for two answers", "scales", name, i, "words", n)
                seen.add(folded)


def _is_known(found: Vocabulary, coded: str) -> bool:
    """Return whether a scale may list a code; of a system whose form is refused it may: nothing is published by it."""
    form = found.systems.get(coded.rpartition("|")[0])
    return found.is_known_code(coded) or (form is not None and form.refused is not None)


def _refuse_changes(files: Sequence[File], base: Vocabulary, found: Vocabulary) -> None:
    """Refuse entries that change or end a conversion which works without the home."""
    changed = _changed(base, found)
    for file in files:
        for code, entry in file.sections.codes.items():
            if entry.replaces and changed[base.codes[code]].any():
                raise file.refused(
                    "Code accepts other units than the one that it replaces", "codes", code,
                    remedy="Write the same molar_mass and valence as the one that ships.",
                )  # fmt: skip
    units = {text for text, i in base.units.items() if changed[:, i].any()}
    units |= {text for text in base.folded if text not in found.folded}
    same = {found.units.get(unit) for unit in units}
    for file in files:
        for text, at in _new_texts(file):
            if text in units or found.unit_index(text) in same:
                raise file.refused(
                    "Unit is converted already for codes that ship", *at, remedy="Remove it, or name your own codes."
                )
    assert not units, "nothing else changes units"


def _changed(base: Vocabulary, found: Vocabulary) -> npt.NDArray[np.bool_]:
    """Return for each code and unit that ship whether the home changes a conversion that exists without it."""
    rows = np.array([found.codes[code] for code in base.codes], np.intp)
    columns = np.zeros(base.factor.shape[1], np.intp)
    for text, i in base.units.items():
        columns[i] = found.units[text]
    old, new = (table[: len(rows)] for table in (base.factor, base.offset)), np.ix_(rows, columns)
    factor, offset = old
    changed: npt.NDArray[np.bool_] = ~np.isnan(factor) & ((factor != found.factor[new]) | (offset != found.offset[new]))
    return changed


def _with_local(found: Vocabulary, files: Sequence[File]) -> Vocabulary:
    """Return the vocabulary with the local systems of all files, under each of their names."""
    local, mapped = {}, dict[str, LocalCode]()
    for file in files:
        for name, system in file.sections.local.items():
            at = ("local", name)
            form = form_in(file, system.form, "", *at, "form")
            names = (name, *system.also)
            for each in names:
                if each in RESERVED or "|" in each:
                    raise file.refused(
                        "A local system cannot have this name", *at, remedy="Use another name than LOINC's, without |."
                    )
                local[each] = form
            for code, entry in system.codes.items():
                _check_local(file, found, form.refused is not None or form.fits(code), entry, *at, "codes", code)
                mapped |= {f"{each}|{code}": entry for each in names}
    return replace(found, local=local, mapped=mapped)


def _check_local(file: File, found: Vocabulary, fits: bool, entry: LocalCode, *at: str | int) -> None:
    if not fits:
        raise file.refused("Code does not have the form of its system", *at)
    if entry.loinc not in found.codes:
        raise file.refused(
            "Local code is mapped to a code that the vocabulary does not have", *at, "loinc",
            remedy="Declare that code under codes, with unit and range.",
        )  # fmt: skip
    if entry.unit is not None and (found.unit_index(entry.unit) < 0 or not found.converts(entry.loinc, entry.unit)):
        raise file.refused("Unit is not known, or does not fit this code", *at, "unit")
