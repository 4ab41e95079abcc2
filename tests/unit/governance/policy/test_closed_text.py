"""Text that is published as it came: codes by their form, categories by their set, wards by the home's list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from governance.errors import RuleError
from governance.policy.closed_text import describe_allowed, make_unfit
from governance.policy.masking import MaskPlan, compile_masks
from governance.policy.rules import load_policy
from governance.samples import copy_samples
from pipelines.formats.shared.categories import category_of, load_categories, parse_categories
from tests.unit.governance.policy.test_rules import _rule
from tests.vocabularies import declare
from vitalake.errors import SettingsError
from vitalake.keys import Key, KeyRing
from vitalake.lake.datasets.dataset import Column, Dataset
from vitalake.lake.datasets.declared import load_dataset, parse_dataset, published_datasets
from vitalake.settings import load_settings
from vitalake.vocabulary.forms import fits_of, unit_to_show

KEYS = KeyRing({"pseudonym": (Key("pseudonym", "v1", b"1" * 32),)}, {"pseudonym": "v1"})

CODES = {
    "icd-10-cm": (
        ["I10", "I509", "I50.9", "S72.001A", "T36.0X1A", "Z3A.20", "C4A", "QA0142"],
        ["I10 pt", "I10JOHN", "i10", "I10.", "5550100", "MARIA", "I50.9 ", "I٥0", "", "I10\n"],
    ),
    "icd-9-cm": (["4280", "428.0", "V45.81", "E8889", "250"], ["E88", "4280 x", "428.000", "0100555", "V4", "428."]),
    "icd-10": (["I10", "U07.1", "K35.8"], ["I10-X", "J0", "I10.123", "Maria"]),
    "snomed-ct": (["271594007", "419099009", "371827001"], ["5550100", "271594006", "0271594007", "x"]),
    "loinc": (["8867-4", "3150-6"], ["555-0100", "8867", "08867-4", "8867-5", "4711001-3"]),
    "icd-10-gm": (
        ["E11.90", "I10.-", "A17.0+", "M90.-*", "C50.9GL", "F32.9V", "I25.1-"],
        ["E11.90GLR", "Maria", "E11.90 G", "G05JANE", "1950-05-05", "050550"],
    ),
    "icd-11": (
        ["1A00", "5A11", "BA00.Z", "2C60.Z", "MG30.01"],
        ["MARIA", "1950", "5I11", "JANE", "12345", "5A11&XS25"],
    ),
    "pzn": (
        ["27580899", "04877800", "4877800", "PZN-27580899", "PZN4877800", "0838973"],
        ["27580890", "PZN-27580890", "19570102", "04011957", "4011957", "12345679", "555010012", "PZN", "475010"],
    ),
    "hpo": (["HP:0001250"], ["HP:1250", "0001250", "HP:00012500"]),
    "topic-partition": (["vitals[0]", "city-hospital.encounter[1]"], ["of Maria Ficticia[0]", "vitals", "vitals[x]"]),
    "unit": (["mm[Hg]", "/min"], ["of Maria", "555"]),
    "absent-reason": (["error", "other"], ["she was asleep"]),
    "coded-value": (["http://snomed.info/sct|271594007", "true"], ["http://snomed.info/sct|5550100", "urn:x|1", "x"]),
}


@pytest.mark.parametrize("form", CODES)
def test_codes_fit_and_words_and_numbers_of_people_do_not(form: str) -> None:
    fits, (good, bad) = fits_of(form), CODES[form]
    assert [code for code in good if not fits(code)] == []
    assert [text for text in bad if fits(text)] == []


def test_every_column_of_every_published_dataset_says_what_it_may_hold(tmp_path: Path) -> None:
    """Under the sample rules all text that is published as it came is closed; otherwise compiling is refused."""
    copy_samples(tmp_path)
    policy = load_policy(tmp_path)
    for name in published_datasets():
        for plan in compile_masks(policy, load_dataset(name), KEYS).columns:
            text = str(plan.column.type) == "string"
            assert not (text and plan.mask_name == "keep" and plan.holds is None), (name, plan.column.name)


def _folder(tmp_path: Path, *rules: dict[str, Any], **lists: list[Any]) -> Path:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"version": 1, "rules": list(rules), "lists": lists}))
    return tmp_path


def _dataset(**column: Any) -> Dataset:
    columns = [
        {"name": "a", "type": "string", "class": "measurement", "description": "x", **column},
        {"name": "by", "type": "string", "class": "measurement", "description": "x", "values": ["s"]},
    ]
    return parse_dataset({"name": "d", "kind": "record", "key": ["a"], "columns": columns}, where="test")


def _compiled(tmp_path: Path, **column: Any) -> MaskPlan:
    folder = _folder(tmp_path, _rule(what={"class": "measurement"}))
    return compile_masks(load_policy(folder), _dataset(**column), KEYS)


def test_text_of_which_nothing_is_said_is_refused_whatever_dataset_declares_it(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="nothing says what it may be") as caught:
        _compiled(tmp_path)
    assert caught.value.where.startswith("d.a")
    with pytest.raises(SettingsError, match="form"):
        _compiled(tmp_path, form="no-such-form")
    assert _compiled(tmp_path, values=["x"]).columns[0].holds == "one of 1 values"


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"values": ["x"], "list": "wards"}, "in two ways.*columns.0.list.*Keep one of values and list"),
        ({"form": {"by": "nobody", "s": "loinc"}}, "form.by does not name a text column.*Name another column: by"),
        ({"type": "float64", "form": "loinc"}, "and is not text.*columns.0.form"),
    ],
)
def test_a_column_that_says_it_twice_or_is_no_text_is_refused(column: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        _dataset(**column)


def test_a_list_that_the_rules_do_not_have_is_told_with_the_line_of_the_column(home: Path) -> None:
    """Every text of the column became null, in silence."""
    (home / "datasets").mkdir()
    (home / "datasets" / "bed.yaml").write_text(
        "name: bed\nkind: record\nkey: [bed_id, version]\nday_of: seen_at\ncolumns:\n"
        "  - {name: bed_id, type: binary, class: record-identifier, hashed: true, description: x}\n"
        "  - {name: seen_at, type: timestamp, class: date-of-service, description: x}\n"
        "  - {name: room, type: string, class: care-location, list: rooms, description: x}\n"
    )
    load_settings(home)
    rules = home / "rules"
    copy_samples(rules)
    said = r"a list that the rules do not have: .*bed\.yaml:8 \(columns\.2\.list\)\. .*lists are: wards\."
    with pytest.raises(RuleError, match=said):
        compile_masks(load_policy(rules), load_dataset("bed"), KEYS)
    (rules / "rooms.yaml").write_text("version: 1\nlists: {rooms: [A1]}\n")
    assert compile_masks(load_policy(rules), load_dataset("bed"), KEYS).columns[2].unfit is not None


def test_a_pseudonym_or_a_redacted_column_needs_no_form(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _rule(what={"class": "measurement"}, then={"mask": "redact"}))
    plan = compile_masks(load_policy(folder), _dataset(), KEYS)
    assert [column.mask_name for column in plan.columns[:2]] == ["redact", "redact"]


def test_lists_are_read_from_the_rules_folder_and_change_no_rule(tmp_path: Path) -> None:
    copy_samples(tmp_path)
    policy = load_policy(tmp_path)
    assert "Medicine" in policy.lists["wards"]
    versions = []
    for wards in ("[ICU 1]", "[ICU 1, ICU 2]", "[]"):
        (tmp_path / "wards.yaml").write_text(f"version: 1\nlists: {{wards: {wards}}}\n")
        other = load_policy(tmp_path)
        assert other.version == policy.version, "a model trained under these rules is still of these rules"
        plans = [compile_masks(other, load_dataset(name), KEYS).version for name in ("ward_movement", "encounter")]
        versions.append(plans)
    assert len({ward for ward, _ in versions}) == 3
    assert len({encounter for _, encounter in versions}) == 1


def test_a_list_that_stands_twice_or_that_nothing_is_held_to_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _rule(), wards=["A"])
    (folder / "more.yaml").write_text("version: 1\nlists: {wards: [B]}\n")
    with pytest.raises(RuleError, match="Two files"):
        load_policy(folder)
    (folder / "more.yaml").write_text("version: 1\nlists: {ward: [B]}\n")
    with pytest.raises(RuleError, match="No column uses this list"):
        compile_masks(load_policy(folder), load_dataset("ward_movement"), KEYS)
    (folder / "more.yaml").write_text("version: 1\n")
    with pytest.raises(RuleError, match="neither rules nor lists"):
        load_policy(folder)
    (folder / "more.yaml").write_text("version: 1\nlists: {wards: ['']}\n")
    with pytest.raises(RuleError, match="is not valid"):
        load_policy(folder)


def test_what_a_column_may_hold_is_told() -> None:
    encounter, movement, condition = (load_dataset(name) for name in ("encounter", "ward_movement", "condition"))
    assert describe_allowed(encounter.column("discharge_disposition"), {}) == "one of 18 values"
    assert (
        describe_allowed(movement.column("unit"), {"wards": frozenset("ab")}) == "what the list 'wards' has (2 texts)"
    )
    assert describe_allowed(condition.column("code"), {}) == "codes of the form that belongs to code_system"
    assert describe_allowed(load_dataset("observation").column("code"), {}) == "texts of the form 'loinc'"
    assert describe_allowed(encounter.column("encounter_id"), {}) is None


def test_a_home_without_a_list_publishes_nothing_of_it() -> None:
    unfit = make_unfit(load_dataset("ward_movement").column("unit"), {})
    found = unfit(pa.RecordBatch.from_pydict({"unit": ["ICU 1", None]}))
    assert found is not None
    assert found.tolist() == [True, False]


@pytest.mark.parametrize("encoded", [False, True])
def test_a_code_fits_by_the_system_beside_it(encoded: bool) -> None:
    rows = [
        ("ICD10CM", "I10", False),
        ("ICD10CM", "Maria", True),
        ("ICD9CM", "4280", False),
        ("ICD9CM", "I10", True),
        ("SNOMEDCT", "271594007", False),
        ("ICD10CM", None, False),
        ("of Maria", "I10", True),
        (None, "4280", True),
        (None, None, False),
    ]
    columns = [pa.array(column, pa.string()) for column in zip(*[row[:2] for row in rows], strict=True)]
    arrays = [column.dictionary_encode() for column in columns] if encoded else columns
    batch = pa.RecordBatch.from_arrays(arrays, names=["code_system", "code"])
    unfit = make_unfit(load_dataset("condition").column("code"), {})
    found = unfit(batch)
    assert found is not None
    assert found.tolist() == [bad for _, _, bad in rows]
    fitting = pa.array([not bad for _, _, bad in rows])
    assert unfit(batch.filter(fitting)) is None, "nothing to count, whatever a dictionary still holds"


def test_text_that_stands_in_no_row_any_more_is_not_counted_and_null_is_no_text() -> None:
    unfit = make_unfit(load_dataset("ward_movement").column("unit"), {"wards": frozenset({"ICU"})})
    units = pa.DictionaryArray.from_arrays([0, 1, None, 2], pa.array(["ICU", None, "of Maria"]))
    batch = pa.RecordBatch.from_arrays([units], names=["unit"])
    assert unfit(batch[:3]) is None
    found = unfit(batch)
    assert found is not None
    assert found.tolist() == [False, False, False, True]


def test_text_that_must_not_be_published_is_not_in_a_dictionary_either(tmp_path: Path) -> None:
    copy_samples(tmp_path)
    plan = compile_masks(load_policy(tmp_path), load_dataset("ward_movement"), KEYS)
    units = pa.array(["Medicine", "of Maria"]).dictionary_encode()
    published = plan.apply(pa.RecordBatch.from_arrays([units], names=["unit"]), encoded=True).rows["unit"]
    assert published.to_pylist() == ["Medicine", None]
    assert published.dictionary.to_pylist() == ["Medicine"]


# -- categories ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "code", "category"),
    [
        ("https://www.nubc.org/CodeSystem/PatDischargeStatus", "20", "Expired"),
        ("https://www.nubc.org/CodeSystem/PatDischargeStatus", "1", "Home"),
        ("https://www.nubc.org/CodeSystem/PatDischargeStatus", "41", "Expired"),
        ("https://www.nubc.org/CodeSystem/PatDischargeStatus", "21", "Jail"),
        ("http://terminology.hl7.org/CodeSystem/v2-0112", "20", "Expired"),
        ("http://terminology.hl7.org/CodeSystem/v2-0112", "21", None),
        ("http://terminology.hl7.org/CodeSystem/discharge-disposition", "exp", "Expired"),
        ("http://snomed.info/sct", "419099009", "Expired"),
        ("http://snomed.info/sct", "371827001", "Alive"),
        (None, "exp", "Expired"),
        (None, "20", None),
        ("urn:hospital", "20", None),
        ("http://snomed.info/sct", "exp", None),
    ],
)
def test_dispositions_by_their_system(system: str | None, code: str, category: str | None) -> None:
    assert load_categories()["encounter.discharge_disposition"].of_code(system, code) == category


def test_words_stand_for_categories_only_as_a_whole() -> None:
    column = "encounter.discharge_disposition"
    for text in ("Expired", "EXPIRED", " died ", "Deceased"):
        assert category_of(column, text) == "Expired"
    for text in ("not expired", "Home, call son 555-0100", "20", ""):
        assert category_of(column, text) == text
    assert category_of("observation.code", "x") == "x"


@pytest.mark.parametrize(
    "document",
    [
        {"systems": [], "words": {}},
        {"systems": [{"uris": ["a", "a"], "codes": {}}], "words": {"texts": {}}},
        {"systems": [{"uris": ["a"], "codes": {"1": "Nowhere"}}], "words": {"texts": {}}},
        {"systems": [], "words": {"texts": {"x": "Nowhere"}}},
    ],
)
def test_categories_that_contradict_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        parse_categories(document, ("Home",))


def test_a_unit_is_shown_only_if_it_looks_like_one() -> None:
    shown = ["mg/dl", "kg", "ug/kg/min", "x10^9/L", "mL/min/1.73", "bpm", "{score}", "°C"]
    assert [unit for unit in shown if unit_to_show(unit) != unit] == []
    for words in (
        "Maria",
        "Dr. Ficticia",
        "555-0100",
        "{of Maria}",
        "mg" * 20,
        "mg of Maria",
        "0176/5550/199",
        "1950/05/05",
        "kg/1950/05",
    ):
        assert unit_to_show(words) == "a unit that is not shown"
    assert not Column("a", pa.string(), None, "").closed


def test_a_column_whose_form_is_refused_publishes_no_text_and_says_so(tmp_path: Path) -> None:
    declare(tmp_path, "forms:\n  wide: {form: '[A-Z]{2,9}', source: s}\n  near: {form: 'N[0-9]{3}', source: s}\n")
    one, other = _dataset(form="wide").column("a"), _dataset(form={"by": "by", "s": "wide", "t": "near"}).column("a")
    assert describe_allowed(one, {}) == "no text: the form 'wide' is refused"
    assert (
        describe_allowed(other, {})
        == "codes of the form that belongs to by, but none where it is s: that form is refused"
    )
    batch = pa.RecordBatch.from_pydict({"a": ["SMITH", "N123", None], "by": ["s", "t", "s"]})
    for column, expected in ((one, [True, True, False]), (other, [True, False, False])):
        rows = make_unfit(column, {})(batch)
        assert rows is not None and rows.tolist() == expected
