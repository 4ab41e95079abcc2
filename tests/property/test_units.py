"""Units: what is converted comes back, keeps its order, and is what published tables say."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitalake.errors import SettingsError
from vitalake.strict_yaml import read_yaml
from vitalake.vocabulary import FILES, load_vocabulary, parse_vocabulary
from vitalake.vocabulary.spelling import fold, folded

VOCABULARY = load_vocabulary()
CODES, UNITS, SYSTEMS = (
    read_yaml((resources.files("vitalake.vocabulary") / f"{name}.yaml").read_text()) for name in FILES
)
PAIRS = [
    (code, unit)
    for code, i in VOCABULARY.codes.items()
    for unit, j in VOCABULARY.units.items()
    if not np.isnan(VOCABULARY.factor[i, j])
]
ATOMS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "Mg": 24.305, "P": 30.974, "Ca": 40.078}
"""IUPAC's standard atomic weights, abridged to five figures (2021)."""


def converted(code: str, value: float, unit: str) -> float:
    i, j = VOCABULARY.codes[code], VOCABULARY.unit_index(unit)
    return float(value * VOCABULARY.factor[i, j] + VOCABULARY.offset[i, j])


@given(pair=st.sampled_from(PAIRS), value=st.floats(-1e6, 1e6), more=st.floats(1e-3, 1e6))
def test_a_conversion_comes_back_and_keeps_the_order(pair: tuple[str, str], value: float, more: float) -> None:
    code, unit = pair
    i, j = VOCABULARY.codes[code], VOCABULARY.units[unit]
    there = converted(code, value, unit) if unit else value * VOCABULARY.factor[i, j]
    back = (there - VOCABULARY.offset[i, j]) / VOCABULARY.factor[i, j]
    assert back == pytest.approx(value, rel=1e-9, abs=1e-6)
    assert VOCABULARY.factor[i, j] * (value + more) + VOCABULARY.offset[i, j] > there


@pytest.mark.parametrize(
    ("code", "value", "unit", "expected"),
    [
        # AMA Manual of Style, 11th edition, table of SI conversion factors; Young, Ann Intern Med 1987;106:114.
        ("2160-0", 88.4, "umol/L", 1.0),
        ("14682-9", 1.0, "mg/dL", 88.4),
        ("2345-7", 5.55, "mmol/L", 100.0),
        ("3094-0", 0.357 * 10, "mmol/L", 10.0),
        ("1975-2", 17.104, "umol/L", 1.0),
        ("17861-6", 2.5, "mmol/L", 10.0),
        ("17863-2", 2.3, "meq/L", 4.6),
        ("19123-9", 0.8228, "mmol/L", 2.0),
        ("19123-9", 2.0, "meq/L", 2.43),
        ("2777-1", 0.3229, "mmol/L", 1.0),
        ("2093-3", 0.02586 * 200, "mmol/L", 200.0),
        ("2524-7", 9.008, "mg/dL", 1.0),
        ("2823-3", 4.1, "meq/L", 4.1),
        ("718-7", 140, "g/L", 14.0),
        ("718-7", 8.69, "mmol/L", 14.0),
        ("777-3", 210, "10*9/L", 210.0),
        ("777-3", 210_000, "/uL", 210.0),
        ("6690-2", 8, "G/L", 8.0),
        ("718-7", 140, "G/L", 14.0),
        ("1988-5", 1.2, "mg/dL", 12.0),
        ("1742-6", 1, "ukat/L", 60.0),
        ("4544-3", 0.42, "L/L", 42.0),
        ("4544-3", 0.42, "1", 42.0),
        ("3150-6", 0.4, "1", 40.0),
        ("59408-5", 0.97, "1", 97.0),
        ("59408-5", 97, "%{saturation}", 97.0),
        ("9279-1", 16, "{resp}/min", 16.0),
        ("9269-2", 14, "{GCS}", 14.0),
        ("6690-2", 8_000, "/mm³", 8.0),
        ("1959-6", 24, "meq/L", 24.0),
        ("2019-8", 5.33, "kPa", 40.0),
        ("60985-9", 10, "cmH2O", 7.36),
        ("8310-5", 98.6, "°F", 37.0),
    ],
)
def test_conversions_are_what_published_tables_say(code: str, value: float, unit: str, expected: float) -> None:
    assert converted(code, value, unit) == pytest.approx(expected, rel=2e-3)


def _mass(formula: str) -> float:
    return sum(ATOMS[atom] * int(count or 1) for atom, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula))


def test_molar_masses_follow_from_the_formulas() -> None:
    checked = {
        code: (float(entry["molar_mass"]), _mass(entry["formula"]))
        for code, entry in CODES["codes"].items()
        if re.fullmatch(r"([A-Z][a-z]?\d*)+", entry.get("formula", ""))
    }
    assert len(checked) > 20
    for code, (written, computed) in checked.items():
        assert written == pytest.approx(computed, rel=5e-5), code


@pytest.mark.parametrize(
    ("spellings", "unit"),
    [
        ("MMOL/L|mmol/l|Mmol/L| mmol / L", "mmol/L"),
        ("mmHg|mm Hg|MMHG|mm(Hg)|MM[HG]", "mm[Hg]"),
        ("bpm|BPM|beats/min|Beats per minute|min-1|rpm", "/min"),
        ("°C|℃|ºC|degC|deg C|C", "Cel"),
        ("°F|℉|F|DegF", "[degF]"),
        ("K/uL|k/ul|K/µL|K/μL|x10^3/uL|10^3/µL|10³/µL|x10E3/uL|10e3/ul|10*3/UL|x10(3)/uL|thou/uL", "10*3/uL"),
        ("x10^9/L|10^9/l|10⁹/L|x 10^9 / L|10E9/L|10E+9/L|10**9/L", "10*9/L"),
        ("10^3/mm^3|10³/mm³|10*3/mm3|x10^3/mm3", "10*3/mm3"),
        ("Gpt/L|gpt/l|10*9/L", "10*9/L"),
        ("µmol/L|μmol/L|umol/l|UMOL/L|mcmol/L", "umol/L"),
        ("mEq/L|MEQ/L|mval/l", "meq/L"),
        ("IU/L|iu/l|U/l|units/L", "U/L"),
        ("kg/m²|KG/M2|kg/m^2 ", "kg/m2"),
        ("ug/L|µg/l|mcg/L", "ug/L"),
        ("sec|SEC", "s"),
    ],
)
def test_units_are_read_as_people_write_them(spellings: str, unit: str) -> None:
    meant = {float(VOCABULARY.factor[i, VOCABULARY.unit_index(unit)]) for i in range(len(VOCABULARY.codes))}
    for text in spellings.split("|"):
        index = VOCABULARY.unit_index(text)
        assert index >= 0, text
        found = {float(VOCABULARY.factor[i, index]) for i in range(len(VOCABULARY.codes))}
        assert {x for x in found if x == x} == {x for x in meant if x == x}, text


@pytest.mark.parametrize("text", ["M", "S", "G", "L/", "mol", "beats", "10*4/uL", "mmol", "", "x", "mmol/LL", "h", "k"])
def test_what_could_be_another_unit_is_none(text: str) -> None:
    assert VOCABULARY.unit_index(text) < 0


def test_every_ucum_unit_is_itself_before_any_spelling() -> None:
    for unit in {*VOCABULARY.unit_of, *(u for family in UNITS["families"].values() for u in family)}:
        assert next(text for text, i in VOCABULARY.units.items() if i == VOCABULARY.unit_index(unit)) == unit


def test_a_folded_spelling_of_two_units_is_neither() -> None:
    assert folded({"mS/L": 1, "MS/L": 2, "ab/c": 3}) == {"ab/c": 3}
    assert fold("ab") == "ab"


def test_near_codes_are_published_in_the_general_codes_unit_and_range() -> None:
    assert set(VOCABULARY.with_near_codes("8480-6")) >= {"8480-6", "76215-3", "76534-7"}
    assert VOCABULARY.with_near_codes("2777-1") == ("2777-1",)
    for code, general in VOCABULARY.counts_as.items():
        i, j = VOCABULARY.codes[code], VOCABULARY.codes[general]
        assert (VOCABULARY.low[i], VOCABULARY.high[i]) == (VOCABULARY.low[j], VOCABULARY.high[j])
        assert (VOCABULARY.zero_counts[i], VOCABULARY.least[i]) == (VOCABULARY.zero_counts[j], VOCABULARY.least[j])


def test_codes_by_mass_and_by_amount_have_the_same_range() -> None:
    """What is plausible in one unit is plausible in the other: a limit that was written wrong shows here."""
    for mass, amount in [
        ("2160-0", "14682-9"), ("2345-7", "14749-6"), ("3094-0", "14937-7"), ("3091-6", "22664-7"),
        ("1975-2", "14631-6"), ("1968-7", "14629-0"), ("1971-1", "14630-8"), ("17861-6", "2000-8"),
        ("17863-2", "1995-0"), ("19123-9", "2601-3"), ("2777-1", "14879-1"), ("718-7", "59260-0"),
        ("2093-3", "14647-2"),
    ]:  # fmt: skip
        i, j = VOCABULARY.codes[mass], VOCABULARY.codes[amount]
        high = converted(mass, float(VOCABULARY.high[j]), VOCABULARY.unit_of[j])
        assert high == pytest.approx(VOCABULARY.high[i], rel=0.05), mass


@pytest.mark.parametrize(
    "change",
    [
        {"as": "9-9"}, {"as": "8310-5"}, {"as": "8459-0"}, {"scale": "none"}, {"molar_mass": "heavy"},
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_is_refused(change: dict[str, str]) -> None:
    entries = {code: dict(entry) for code, entry in CODES["codes"].items()}
    entries["2160-0"] |= change
    with pytest.raises(SettingsError):
        parse_vocabulary(CODES | {"codes": entries}, UNITS, SYSTEMS)
    with pytest.raises(SettingsError):
        parse_vocabulary(CODES, UNITS | {"spellings": {"kg": ["g"]}}, SYSTEMS)
