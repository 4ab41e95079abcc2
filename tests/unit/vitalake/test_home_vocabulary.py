"""What a home adds to the vocabulary is used like what ships, is checked as strictly, and changes nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from docs.check import stale_pages
from docs.generate import pages
from models.features.declaration import parse_features
from models.news2 import MEASURED, codes_read, parts_in
from models.serving.formatting import SYSTOLIC
from pipelines.formats.flat.profile import FlatProfile, parse_profile
from tests.vocabularies import LAB, declare
from vitalake import declarations
from vitalake.clinical.records import code_number
from vitalake.clinical.vitals import may_be_vital_unit, vital_codes
from vitalake.errors import SettingsError
from vitalake.vocabulary import load_vocabulary, shipped_vocabulary
from vitalake.vocabulary.forms import fits_of, load_forms, unit_to_show
from vitalake.vocabulary.home import check_forms, counts, own_files

CK = "{name: Creatine kinase, unit: U/L, low: 0, high: 5, source: s"
ANSWERED = CK.replace("U/L", "'{answer}'")
PRESSURE = CK.replace("U/L", "'mm[Hg]'")
MAPS = "local:\n  L:\n    name: a\n    form: '[A-Z]'\n    codes:\n      "
NEAR = """\
codes:
  "8450-9": {name: Systolic pressure on exercise, unit: "mm[Hg]", low: 20, high: 370, as: 8480-6, source: s}
"""


def test_what_is_declared_is_used_like_what_ships(tmp_path: Path) -> None:
    declare(tmp_path)
    found = load_vocabulary()
    row = found.codes["2157-6"]
    assert (found.names[row], found.unit_of[row], found.high[row]) == ("Creatine kinase", "U/L", 500_000)
    assert found.factor[row, found.unit_index("kat/L")] == pytest.approx(6e7)
    assert found.converts("2157-6", "ukat/L"), "its unit's family is that of what ships"
    assert found.unit_index("MilliOsmol / kg") == found.unit_index("mosm/kg") >= 0
    assert unit_to_show("mosm/kg") == "mosm/kg"
    assert found.loinc_of("http://city.example/lab|GLU") == found.loinc_of("99LAB|GLU") == "2345-7"
    assert fits_of("icd-10-gm")("E11.90")
    assert not fits_of("icd-10-gm")("E11.900")
    assert not fits_of("icd-10-gm")("E11.90\n")
    profile = "format: flat\ndescription: d\npatient: $.p\ntime: $.t\nvalues: [{path: $.v, code: 2157-6, unit: kat/L}]"
    assert parse_profile(FlatProfile, profile, where="own.yaml").values[0].code == "2157-6"
    item = {"label": "CK", "unit": "U/L", "codes": ["2157-6"], "statistics": ["last"]}
    assert parse_features({"items": {"ck": item}}, where="t").item_of_code[code_number("2157-6")] == 0


def test_each_home_in_a_process_has_its_own(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    declare(first)
    assert "2157-6" in load_vocabulary().codes
    assert load_forms()["icd-10-gm"].fits("E11.90") and not fits_of("icd-10-gm")("E11.90G")
    declare(second, NEAR)
    assert "2157-6" not in load_vocabulary().codes
    assert fits_of("icd-10-gm")("E11.90G"), "the form that ships is in use where the home has none of this name"
    for has in (vital_codes(), codes_read(), MEASURED["systolic_pressure"].codes):
        assert "8450-9" in has
    assert code_number("8450-9") in SYSTOLIC.codes
    assert parts_in(np.array([code_number("8450-9")], np.uint32)).tolist() == [3]
    declarations.use(first)
    assert load_vocabulary().mapped
    assert not may_be_vital_unit("mosm/kg")
    for has in (vital_codes(), codes_read(), MEASURED["systolic_pressure"].codes):
        assert "8450-9" not in has
    declarations.use(None)
    assert may_be_vital_unit("mosm/kg"), "of a unit that nobody knows it cannot be told"
    assert load_vocabulary() is shipped_vocabulary()


def test_a_file_that_changed_is_read_when_the_home_is_taken_into_use_again(tmp_path: Path) -> None:
    path = declare(tmp_path)
    assert "99LAB|CK" in load_vocabulary().mapped
    path.write_text(LAB.replace("CK:", "CPK:"))
    os.utime(path, ns=(1, 1))
    assert "99LAB|CK" in load_vocabulary().mapped, "not in the midst of something"
    declarations.use(tmp_path)
    assert {"99LAB|CPK"} == load_vocabulary().mapped.keys() & {"99LAB|CK", "99LAB|CPK"}


def test_what_a_file_holds_is_counted(tmp_path: Path) -> None:
    declare(tmp_path)
    (file,) = own_files()
    assert counts(file) == "1 codes, 3 units, 1 local systems, 2 local codes, 1 forms"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f'codes:\n  "2157-6": {CK}, hihg: 7}}', 2, "unknown field"),
        (f'codes:\n  "2157-6": {CK.replace("U/L", "U/l")}}}', 2, "Unit is not known"),
        (f'codes:\n  "2157-6": {CK.replace("U/L", "IU/L")}}}', 2, "Unit is not known"),
        ('codes:\n  "2157-6": {name: CK, unit: U/L, low: 0, high: 5}', 2, "missing required field `source`"),
        ('codes:\n  "2157-6":\n    {name: a, unit: U/L, source: s,\n     high: 1,\n     low: 2}', 5, "not below high"),
        (f'codes:\n  "2157-6": {CK.replace("low: 0", "low: .nan")}}}', 2, "Expected `float`"),
        (f'codes:\n  "2157-6": {CK}, least: 1}}', 2, "lowest accepted value"),
        (f'codes:\n  "2157-7": {CK}}}', 2, "not a LOINC code"),
        (f"codes:\n  CK: {CK}}}", 2, "not a LOINC code"),
        (f"codes:\n  2157: {CK}}}", 2, "read as a number"),
        (f'codes:\n  "2157-6": {CK}, as: 9-9}}', 2, "not known"),
        (f'codes:\n  "2157-6": {CK}, as: 8480-6}}', 2, "another unit"),
        (f'codes:\n  "2157-6": {CK}, scale: ACVPU}}', 2, "A code with a scale"),
        (f'codes:\n  "2157-6": {ANSWERED}, scale: none}}', 2, "Scale is not known"),
        (f'codes:\n  "2157-6": {CK}, replaces: true}}', 2, "does not replace one that ships"),
        (f'codes:\n  "2345-7": {CK}}}', 2, "ships with the project"),
        (f'codes:\n  "85354-9": {CK}}}', 2, "ships with the project"),
        (f'codes:\n  "2345-7": {CK}, replaces: true}}', 2, "differs here from the one that it replaces"),
        (f'codes:\n  "76215-3": {PRESSURE}, replaces: true}}', 2, "(codes.76215-3.as)"),
        ("units:\n  families:\n    mass: {kg: 1}", 3, "ships with the project"),
        ("units:\n  families:\n    mass: {stone: -6}", 3, "Expected `float` > 0"),
        ("units:\n  families:\n    mass: {stone: 1.0e6}", 3, "with its sign"),
        ("units:\n  families:\n    mass: {KGS: 1}", 3, "unit exists already"),
        ("units:\n  families:\n    pressure: {Cel: 1}", 3, "unit exists already"),
        ("units:\n  families:\n    amount concentration: {mg/dL: 1}", 3, "unit exists already"),
        ("units:\n  spellings:\n    mg/dL: [mg per dL]\n    zz: [z]", 4, "Unit is not known"),
        ("units:\n  spellings:\n    mg/dL: [MG%, G/DL]", 3, "stands for another unit already"),
        ("units:\n  spellings:\n    mg/dL: [mg%]", 3, "ships with the project"),
        ("units:\n  units:\n  - {from: stone, to: kg, factor: 6.35}", 3, "has no source"),
        ("units:\n  units:\n  - {from: stone, to: kg, factor: 0, source: s}", 3, "factor of 0"),
        ("units:\n  units:\n  - {from: stone, to: pound, factor: 1, source: s}", 3, "No code is published"),
        ("units:\n  units:\n  - {from: stone, to: kg, factor: 1, source: s, codes: [8480-6]}", 3, "has another unit"),
        ("units:\n  units:\n  - {from: g, to: kg, factor: 2, source: s}", 3, "converted already"),
        ("units:\n  dimensionless: [mg/dL]", 2, "can be dimensionless"),
        ("systems:\n  http://snomed.info/sct: {name: a, form: '[0-9]+'}", 2, "ships with the project"),
        ("systems:\n  http://x.example: {name: a, form: '.*'}", 2, "Pattern cannot be used"),
        ("scales:\n  S:\n  - codes: [http://x.example|A]", 3, "not a code of a known system"),
        ("local:\n  L: {name: a, form: '(a+)+\\1'}", 2, "Pattern cannot be used"),
        ("local:\n  L: {name: a, form: '(?=A)A'}", 2, "Pattern cannot be used"),
        ("local:\n  L: {name: a, form: 'A)|(B'}", 2, "Pattern cannot be used"),
        ("local:\n  L: {name: a, form: '[A-Za-z ]+'}", 2, "Pattern cannot be used"),
        ("local:\n  http://loinc.org: {name: a, form: A}", 2, "local system cannot have this name"),
        ("local:\n  L: {name: a, form: A, also: [M|N]}", 2, "local system cannot have this name"),
        (MAPS + "Mary: {loinc: 2345-7, source: s}", 6, "does not have the form of its system"),
        (MAPS + "G: {loinc: 9999-9, source: s}", 6, "the vocabulary does not have"),
        (MAPS + "G: {loinc: 2345-7}", 6, "`source`"),
        (MAPS + "N: {loinc: 2345-7, unit: kg, source: s}", 6, "does not fit this code"),
        (MAPS + "4711: {loinc: 2345-7, source: s}", 6, "in quotes"),
        ("local:\n  L: {name: a, form: A}\n  M: {name: a, form: A, also: [L]}", 3, "declared twice"),
        ("forms:\n  loinc: {form: A, source: s}", 2, "ships with the project"),
        ("forms:\n  coded-value: {form: A, source: s}", 2, "ships with the project"),
        ("forms:\n  ICD: {form: A, source: s}", 2, "Name of the form is not allowed"),
        ("forms:\n  icd: {form: A}", 2, "`source`"),
        ("code:\n  a: b", 1, "no such section"),
        ("codes: [1]", 1, "not a mapping"),
        ("# nothing yet", 1, "has no section"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_named_with_file_line_and_field(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = declare(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        _ = load_forms(), load_vocabulary()
        check_forms()
    assert said in str(refused.value)
    assert f"{path}:{line}" in str(refused.value), str(refused.value)
    assert "Mary" not in f"{refused.value.what}{refused.value.remedy}"


def test_what_two_files_declare_names_both(tmp_path: Path) -> None:
    declare(tmp_path, name="a")
    declare(tmp_path, LAB.replace("99LAB", "98LAB").replace("icd-10-gm", "ops"), name="b")
    with pytest.raises(SettingsError, match=r"twice: .*b\.yaml:2 \(codes\.2157-6\).*a\.yaml:2 \(codes") as refused:
        load_vocabulary()
    assert refused.value.exit_code == 10


def test_a_code_that_ships_is_replaced_where_the_home_says_so(tmp_path: Path) -> None:
    entry = "{name: Glucose, unit: mg/dL, low: 1, high: 4000, molar_mass: 180.16, source: ours, replaces: true}"
    declare(tmp_path, f'codes: {{"2345-7": {entry}}}')
    found, before = load_vocabulary(), shipped_vocabulary()
    assert found.high[found.codes["2345-7"]] == 4000 > before.high[before.codes["2345-7"]]
    assert [*found.codes] == [*before.codes]
    assert (np.isnan(found.factor) == np.isnan(before.factor)).all()


def test_a_code_in_place_of_another_takes_the_same_units(tmp_path: Path) -> None:
    path = declare(tmp_path, 'codes: {"2345-7": {name: G, unit: mg/dL, low: 1, high: 4000, source: s, replaces: true}}')
    said = rf"accepts other units than the one that it replaces: {path}:1 \(codes.2345-7\). Write the same molar_mass"
    with pytest.raises(SettingsError, match=said):
        load_vocabulary()


def test_a_conversion_of_the_home_holds_for_the_codes_it_names(tmp_path: Path) -> None:
    declare(tmp_path, "units: {units: [{from: stone, to: kg, factor: 6.35029318, source: s, codes: [29463-7]}]}")
    found = load_vocabulary()
    assert found.factor[found.codes["29463-7"], found.unit_index("STONE")] == pytest.approx(6.35029318)
    assert not found.converts("3141-9", "stone")


def test_the_schema_for_editors_is_that_of_the_files_and_is_seen_to_be_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "schemas/vocabulary.json"
    schema = msgspec.json.decode(pages()[page])
    assert {"codes", "scales", "units", "systems", "local", "forms"} == schema["$defs"]["Sections"]["properties"].keys()
    assert schema["$defs"]["Sections"]["additionalProperties"] is False
    monkeypatch.setattr("docs.check.FOLDER", tmp_path)
    for name, text in pages().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert stale_pages() == []
    (tmp_path / page).write_text("{}")
    assert stale_pages() == [page]


def test_a_pattern_that_would_take_ages_elsewhere_takes_none(tmp_path: Path) -> None:
    declare(tmp_path, "forms: {slow: {form: '(-|-)*b|(-*)*c', source: s}}")
    assert not any(map(fits_of("slow"), ("-" * 190, "-" * 5_000_000)))
    assert fits_of("slow")("-" * 190 + "b")


@pytest.mark.parametrize(
    "form",
    [
        "[A-Z]{2,5}", "[A-Z][A-Z0-9]{1,7}", "[A-Z][a-z]{2,5}", ".{1,6}", ".{13,16}", r"\w+", r"\S{3}", "[^0-9]{3}",
        "(A|B|C|DE){2,6}", "(A?B?C?){4}", "(?i:[a-z]{3})", "[0-9]{6}", "[0-9]{8}", "[0-9]{9}", r"\d{3}-\d{2}-\d{4}",
        "[A-Z][0-9]{7}", r"\p{L}{3,6}", "[[:alpha:]]{3}", r"X\d{3,}", "[Α-Ω]{2,20}", "[А-ЯЁ][а-яё]+", "[א-ת]{2,9}",
        "[ا-ي]{2,9}", "[가-힣]{2,4}", "[一-龥]{2}", "[٠-٩]{8,12}", "[０-９]{8}", "[^A-Z]{2}", "..",
        "[0-9]{2}/[0-9]{2}/(19|20)[0-9]{2}", "(19|20)[0-9]{2}/[0-9]{2}/[0-9]{2}", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}",
        "[0-9]{1,2}-[0-9]{1,2}-19[0-9]{2}", "[7][0-9]{5}", "[0-3][0-9] [01][0-9] 19[0-9]{2}",
        "(?:0|1|2|3|4|5|6|7|8|9|)" * 9 + "M", "?".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ") + "?", "(AN|BE)(DO|RE)(NA|LA)",
        "A[A-Z]{2}|B[A-Z]{2}", "[A0][N0][N0]",
        "[0-9]{2}(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)[0-9]{4}", "[0-9]{1,2}[.] (Mär|Mai|Okt|Dez) 198[0-9]",
        "(mai|jun) [0-9]{1,2}, [0-9]{4}", "[0-9]{2}MRZ19[0-9]{2}", "19[0-9]{2}_[0-9]{2}_[0-9]{2}",
        "[0-9]{2}:[0-9]{2}:[0-9]{2}", "[0-9]{2}, [0-9]{2}, [0-9]{2}", "198[0-9][-_][0-9]{2}[_/][0-9]{2}",
        "19[0-9]{2}[!-/][0-9]{2}[:-@][0-9]{2}", "[0-9]{2}[./][0-9]{4}", "[0-9]{4}-[0-9]{2}", "[0-9]{1,2} [0-9]{4}",
        r"[0-9]{2}\. [0-9]{2}\. [0-9]{2}-?/?\+?", r"[0-9]{2}\. [0-9]{2}\. [0-9]{2}=?(-|/)?\+?",
        "[0-9]{2}T[0-9]{2}T[0-9]{2}", "[0-9]{4}W[0-9]{2}", "[0-9]{4}-W[0-9]{2}-[0-9]", "1[5-7] (Jan|Feb) 19[0-9]{2}",
        r"2[5-9]\. (Januar|März) (19|20)[0-9]{2}", "[0-9]{2} SEPTEMBER [0-9]{2}", "Oktober (19|20)[0-9]{2}-?",
        r"1[5-7]\.[0-9]{2}\.196[1-4]", "[1-9][0-9]{4}", "[0-9]{5}",
    ],
)  # fmt: skip
def test_a_form_that_names_or_numbers_of_patients_can_have_is_refused(tmp_path: Path, form: str) -> None:
    """SMITH was published as a code of the form [A-Z]{2,5}."""
    declare(tmp_path, f"forms: {{open: {{form: '{form}', source: s}}}}")
    with pytest.raises(
        SettingsError, match=r"lab\.yaml:1 .*Pattern cannot be used|Pattern cannot be used.*lab\.yaml:1"
    ):
        check_forms()


@pytest.mark.parametrize(
    "form",
    [
        "[A-Z][A-Z[:digit:]]{2,20}", "LAB-[A-Z[:digit:]]+", "L[0-9[:upper:]]{2,12}", "K[^[:space:]]{3,20}",
        "[]A]", "[A&&B]", "[+--]", "[A||B]", "[A~~B]", "A{,3}", "(?i)A", "(?s:.)", r"\x41", r"\QA\E", r"\pL", r"A\b",
        "(?P<code>A)", "A++", "(?>A)",
    ],
)  # fmt: skip
def test_a_form_that_two_readers_could_take_in_two_ways_is_refused(tmp_path: Path, form: str) -> None:
    """MUELLER was published as a code of the form [A-Z][A-Z[:digit:]]{2,20}, of which Python read two letters."""
    declare(tmp_path, f"forms: {{open: {{form: '{form}', source: s}}}}")
    with pytest.raises(SettingsError, match=r"RE2 and Python read alike: .*lab\.yaml:1"):
        check_forms()


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ("LAB-[0-9]{4}", "LAB-0815"), ("GLU|CREA|HBA1C", "HBA1C"), ("I[0-9]{1,6}", "I123456"),
        (r"[A-Z][0-9]{2}(\.([0-9]{1,2}|-))?[+*!]?", "E11.90"), ("[A-Z]{2}[0-9]{2,4}", "NA01"),
        ("M[A-Z]{2}[0-9]{3}", "MRI123"), ("S[A-Z]{2}[0-9]{4}", "SEP1234"),
        ("[A-Z]{2}R[0-9]{3}", "CTR123"), ("A{3}[0-9]", "AAA7"),
        ("GLÜ|KREA-[A-Z]{2}|N[0-9]{4}", "GLÜ"), (r"[0-9]{1,5}-[0-9]", "2345-7"), ("20[0-9]{4}", "200101"),
        (r"[1-9]-[0-9]{3}(\.[0-9]{1,2})?", "5-511.11"), ("LAB_:[0-9]{6}", "LAB_:123456"),
        ("LAB-(?:GLU|CREA)", "LAB-CREA"), (r"\w\d\.[_\]]", "A1.]"),
        # Code systems and numbers of rooms, as hospitals have them.
        (r"[A-Z][0-9]{2}(\.[0-9]{1,2})? [AGVZ]", "E11.90 G"), ("[A-Z][0-9]{2}[A-Z]", "F62A"),
        (r"[A-Z][0-9]{2}\.[0-9]", "K40.2"),
        ("[A-Z][0-9]{2}", "A97"), ("[A-V][0-9]{4}", "J0171"), (r"[bsde][0-9]{3,5}(\.[0-9])?", "b28010.1"),
        (r"[ABC]\*[0-9]{2}:[0-9]{2}", "A*02:01"), (r"(A|B|C|DRB1|DQB1)\*[0-9]{2}:[0-9]{2,3}", "DRB1*15:01"),
        (r"\d{1,5}-\d", "1950-5"), ("ORPHA:[0-9]{1,6}", "ORPHA:558"), ("MDC:[0-9]{5,6}", "MDC:150456"),
        ("[89][0-9]{3}/[0-9]", "8140/3"), ("E[0-9]{4}", "E0305"),
        (r"[A-F][0-9]\.[0-9]{3}", "B2.034"), (r"H[0-9]{2}-[0-9]\.[0-9]{3}", "H12-3.045"), ("[0-9]{3}[A-Z]?", "214B"),
        ("(ICU|IMC)-[0-9]{1,2}-[AB]", "ICU-12-A"), ("[0-9]{2}[A-Z]-[0-9]{3}", "10A-010"), ("0[0-9]{4}", "00132"),
        ("E[1-4]V[1-5T]M[1-6]", "E4V5M6"), ("<?1:[0-9]{1,5}", "1:1950"), ("[0-9]{4}[FTU]", "0001F"),
        ("[0-9]-[0-9]-[0-9](-[0-9])?", "1-0-1"), ("[0-9]{2,3}/[0-9]{2,3}", "120/80"), ("SN-[0-9]{6}", "SN-500505"),
    ],
)  # fmt: skip
def test_a_form_that_writes_out_all_but_few_characters_is_taken(tmp_path: Path, form: str, code: str) -> None:
    declare(tmp_path, f"forms: {{near: {{form: '{form}', source: s}}}}")
    assert fits_of("near")(code)


def test_a_scale_of_the_home_is_answered(tmp_path: Path) -> None:
    text = """\
systems:
  http://city.example/rass: {name: RASS, form: CALM|RSTL}
scales:
  RASS:
  - {codes: ["http://city.example/rass|CALM"], words: [calm, alert and calm]}
  - {codes: ["http://city.example/rass|RSTL"], words: [restless]}
codes:
  "80288-4": {name: Agitation, unit: "{answer}", low: 0, high: 1, scale: RASS, source: the scale}
"""
    declare(tmp_path, text)
    answers = load_vocabulary().answers["80288-4"]
    assert answers.code_of("Alert and  calm") == "http://city.example/rass|CALM"
    assert answers.score["http://city.example/rass|RSTL"] == 1
    assert load_vocabulary().is_known_code("http://city.example/rass|RSTL")


def test_the_error_of_a_form_says_what_has_it_and_what_to_write(tmp_path: Path) -> None:
    """A dot was said to be a name, and a form of five digits to leave more than six open."""
    for form, why, remedy in (
        ("[A-Z][0-9]{2}.[0-9]", r"a dot without \ before it is any sign", r"Write \. where the code has a dot"),
        ("[0-9]{5}", "dates, such as a date or a month of birth,", "such as LAB-[0-9]{5}; or list the codes"),
        ("[A-Z]{3}", "names of people,", "Leave 2 letters and 6 digits open at most"),
    ):
        declare(tmp_path, f"forms: {{open: {{form: '{form}', source: s}}}}")
        with pytest.raises(SettingsError) as refused:
            check_forms()
        assert why in refused.value.what and remedy in refused.value.remedy


def test_a_form_that_is_refused_takes_nothing_and_stops_nobody_who_reads(tmp_path: Path) -> None:
    """A form that a release before took locked the home: nothing could be read, verified or erased."""
    text = """\
systems:
  http://x.example: {name: x, form: '[A-Z]{3,9}'}
local:
  L: {name: l, form: '[0-9]{5}', codes: {"12345": {loinc: 2345-7, source: s}}}
scales:
  S: [{codes: [http://x.example|CALM], words: [calm]}]
forms:
  wide: {form: '[A-Z]{2,9}', source: s}
  near: {form: 'N[0-9]{3}', source: s}
"""
    path = declare(tmp_path, text)
    words = load_vocabulary()
    assert not fits_of("wide")("SMITH") and fits_of("near")("N123")
    assert not words.is_known_code("http://x.example|CALM") and not words.is_local_code("L|12345")
    assert words.loinc_of("L|12345") == "2345-7", "a code that is listed is no free text"
    with pytest.raises(SettingsError) as refused:
        check_forms()
    assert f"{path}:8 (forms.wide.form)" in refused.value.where
    assert (
        f"Of other forms too: {path}:2 (systems" in refused.value.remedy
        and f"{path}:4 (local.L.form)" in refused.value.remedy
    )
    assert "stays until 'vitalake lake rewrite --republish DATASET'" in refused.value.remedy
    path.write_text(
        text.replace("[A-Z]{2,9}", "W[0-9]{2}").replace("[A-Z]{3,9}", "X[0-9]{2}").replace("[0-9]{5}", "12345")
    )
    declarations.use(tmp_path)
    with pytest.raises(SettingsError, match="Answer is not a code"):
        load_vocabulary()
