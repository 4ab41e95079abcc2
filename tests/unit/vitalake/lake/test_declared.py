"""A dataset that a home declares is checked as strictly as the project's; an error names file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.vitalake.lake.sql_words import words_taken
from vitalake import declarations
from vitalake.errors import SettingsError
from vitalake.lake.datasets import declared
from vitalake.lake.datasets.classes import CLASSES
from vitalake.lake.datasets.dataset import IDENTIFYING, holds_codes
from vitalake.lake.datasets.declared import dataset_names, load_dataset, published_datasets, where_declared
from vitalake.lake.datasets.names import OWN_COLUMNS, SQL_WORDS
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import refuse_new
from vitalake.settings import load_settings

OWN = """\
name: answer
kind: record
key: [answer_id, version]
day_of: answered_at
columns:
  - {name: answer_id, type: binary, class: record-identifier, hashed: true, description: "x"}
  - {name: score, type: float64, class: measurement, description: "points"}
  - {name: answered_at, type: timestamp, class: date-of-service, description: "when"}
"""
STAY = "name: encounter_id, type: string, class: encounter-identifier"
SCORE, OPEN = "name: score, type: float64, class: measurement", None
"""The declaration of a column; and what is said of a declaration that holds."""
STANDARD = ["version", "patient_id", "available_at", "ingested_at", "source", "source_position"]


@pytest.fixture
def own(home: Path) -> Path:
    """The file of a home in which a dataset is declared."""
    (home / "datasets").mkdir()
    path = home / "datasets" / "answer.yaml"
    path.write_text(OWN)
    load_settings(home)
    return path


def test_it_stands_beside_those_of_the_project_and_has_what_every_record_has(own: Path) -> None:
    assert "answer" in published_datasets()
    assert (where_declared()["answer"].of_home, where_declared()["observation"].of_home) == (True, False)
    dataset = load_dataset("answer")
    assert [column.name for column in dataset.columns] == ["answer_id", "score", "answered_at", *STANDARD]
    assert (dataset.restricted, dataset.hashed, dataset.sources) == (True, "answer_id", frozenset({"source"}))


def test_each_of_two_homes_has_its_own_and_a_changed_one_is_read_again(own: Path, tmp_path: Path) -> None:
    declarations.use(tmp_path)
    assert "answer" not in dataset_names()
    with pytest.raises(SettingsError, match="Unknown dataset"):
        load_dataset("answer")
    declarations.use(own.parents[1])
    assert len(load_dataset("answer").columns) == 3 + len(STANDARD)
    own.write_text(OWN + '  - {name: grade, type: int64, class: measurement, description: "grade"}\n')
    load_settings(own.parents[1])
    assert load_dataset("answer").column("grade").data_class == "measurement"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("type: float64", "type: float",
         r"not one of those allowed.*answer\.yaml:7 \(columns\.1\.type\)\. Write one of: binary, bool, .*timestamp\."),
        ("description: \"points\"", "descripton: x", r"unknown field.*answer\.yaml:7 \(columns\.1\)"),
        ("kind: record", "kind: records", r"answer\.yaml:2 \(kind\)"),
        ("kind: record", "kind: measurement", r"cannot declare a dataset of the kind measurement: .*answer\.yaml:2"),
        ("key: [answer_id, version]", "key: [answer_id]", r"Key lacks version.*answer\.yaml:3"),
        ("key: [answer_id, version]", "key: [answr_id, version]", r"Key names an unknown column.*answer\.yaml:3"),
        ("day_of: answered_at\n", "", r"day_of is missing.*answer\.yaml:1"),
        ("day_of: answered_at", "day_of: score", r"day_of is not a timestamp.*answer\.yaml:4"),
        ("name: answer\n", "name: other\n", r"name differs from its file.*answer\.yaml:1"),
        ("class: measurement, ", "", r"Column has no class.*answer\.yaml:7 \(columns\.1\)"),
        ("name: score", "name: answered_at", r"A column is declared twice.*answer\.yaml:8 \(columns\.2\.name\)"),
        ("type: binary", "type: string", r"hashed is not binary.*answer\.yaml:6"),
        ("name: score, type: float64", "name: address, type: string", r"another class or type.*answer\.yaml:7"),
        ("name: score, type: float64", "name: patient_id, type: string",
         r"standard column of every record.*answer\.yaml:7"),
        ("type: float64", "type: float64, values: [a]", r"which texts it may hold, and is not text.*answer\.yaml:7"),
        ("description: \"points\"", "description: \"points\", hashed: true", r"Two columns are hashes.*answer\.yaml:5"),
        ("name: score, type: float64, class: measurement", "name: version, type: int64, class: record-version",
         r"standard column of every record.*answer\.yaml:7"),
        ("name: score, type: float64, class: measurement", "name: source_position, type: int64, class: provenance",
         r"standard column of every record.*answer\.yaml:7"),
        ("name: score, type: float64, class: measurement", "name: mother_id, type: string, class: patient-identifier",
         r"names a second patient.*answer\.yaml:7"),
        ("name: score, type: float64, class: measurement", "name: order_id, type: int64, class: record-identifier",
         r"published in clear.*answer\.yaml:7"),
        ("name: score, type: float64, class: measurement", "name: image, type: binary, class: measurement",
         r"binary and not a hash.*answer\.yaml:7"),
        (SCORE, "name: phone, type: string, class: measurement", r"kept in clear.*answer\.yaml:7"),
        ("class: measurement", "class: mesurement",
         r"Class is not known.*answer\.yaml:7 \(columns\.1\.class\).*nearest .*'measurement'.*datasets\.md"),
        (SCORE, "name: born, type: date, class: date-of-brith", r"not known.*answer\.yaml:7.*are 'date-of-birth' and"),
        (SCORE, "name: phone, type: int64, class: telephone", r"not known.*answer\.yaml:7.*it\. docs/reference"),
        ("class: measurement", "class: encrypted", r"Only the lake's own columns.*answer\.yaml:7"),
        ("key: [answer_id, version]", "key: [score, version]", OPEN),
        ("key: [answer_id, version]", "key: [version]", r"no column that names the record.*answer\.yaml:3"),
        ("day_of: answered_at", "day_of: answered_at\nends: score", r"ends is not a timestamp.*answer\.yaml:5"),
        ("class: date-of-service", "class: date-of-birth", r"day_of has a class that is sealed.*answer\.yaml:4"),
        ("key: [answer_id, version]", f"retention_days: {'9' * 400}\nkey: [answer_id, version]", r"answer\.yaml:"),
        ("kind: record", f"kind: record\nretention_days: {declared.MOST_DAYS + 1}", r"answer\.yaml:3 \(retention_days"),
        ("type: float64", "type: string, token_with: source, values: [a]", r"token_with is not of.*answer\.yaml:7"),
        ("type: float64", "type: int64, token_with: version", r"token_with is not of.*answer\.yaml:7"),
        ("type: float64", "type: int64, token_with: source", r"columns that every record has.*answer\.yaml:7"),
        ("type: float64", "type: float64, ours: always", r"ours is of a column without times.*answer\.yaml:7"),
        ("type: float64", "type: timestamp, ours: always", r"columns that every record has.*answer\.yaml:7"),
        ("type: float64", "type: float64, counts: true", r"counts is of a column without whole.*answer\.yaml:7"),
        ("type: float64", "type: int64, counts: pairs", r"columns that every record has.*answer\.yaml:7"),
        ("class: record-identifier", "class: free-text", r"hashed has a class that is sealed.*answer\.yaml:6"),
        (SCORE, "name: years, type: date, class: age", r"An age is not a number.*answer\.yaml:7"),
        (SCORE, "name: stay, type: int64, class: encounter-identifier", r"is not text.*answer\.yaml:7"),
        (SCORE, "name: status, type: int64, class: measurement", r"says whether a row counts.*answer\.yaml:7"),
        (SCORE, "name: status, type: string, class: free-text", r"says whether a row counts.*answer\.yaml:7"),
        (SCORE, "name: status, type: string, class: care-event, values: [completed, entered-in-error]",
         r"says whether a row counts.*answer\.yaml:7 \(columns\.1\)\. Declare type: string, class: record-ver"),
        (SCORE, "name: status, type: string, class: record-version, form: absent-reason",
         r"says whether a row counts.*answer\.yaml:7"),
        (SCORE, "name: status, type: string, class: record-version, values: [completed, entered-in-error]", OPEN),
        (SCORE, "name: current_user, type: int64, class: measurement", r"a word of its own.*answer\.yaml:7"),
        (SCORE, "name: mother, type: string, class: medical-record-number",
         r"an erasure takes for the patient's own.*answer\.yaml:7.*class free-text"),
        (SCORE, "name: mrn, type: string, class: medical-record-number", r"an erasure takes.*answer\.yaml:7"),
        (SCORE, "name: mrn, type: string, class: free-text",
         r"another class or type.*answer\.yaml:7 \(columns\.1\)\. Give it another name\.$"),
        (SCORE, "name: encounter_id, type: string, class: encounter-identifier", OPEN),
        (SCORE, f"{STAY}, description: x}}\n  - {{{STAY.replace('encounter_id', 'stay_of_the_mother')}",
         r"A second column .*answer\.yaml:8 \(columns\.2\.class\).*free-text"),
        (SCORE, "name: code, type: string, class: procedure-code, form: icd10",
         r"no such form: .*answer\.yaml:7 \(columns\.1\.form\)\. The forms are: icd-10-cm, .*coded-value"),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: system, ICD: icd10}",
         r"form\.by does not name a text.*yaml:7 \(columns\.1\.form\.by\)\. Name another column: patient_id, source\."),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: source, ICD: icd10}",
         r"no such form: .*answer\.yaml:7 \(columns\.1\.form\.ICD\)\. The forms are: "),
        (SCORE, "name: code, type: string, class: procedure-code, form: {ICD: loinc}",
         r"form\.by does not.*answer\.yaml:7"),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: code, ICD: loinc}",
         r"form\.by does not name a text column: .*answer\.yaml:7"),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: version, ICD: loinc}",
         r"form\.by does not name a text column: .*answer\.yaml:7"),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: source}",
         r"names no value.*answer\.yaml:7.*\{by: source, VALUE: FORM\}"),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: source, ICD: loinc}", OPEN),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: source, 10: icd-10}",
         r"a key is read as a number.*answer\.yaml:7 \(columns\.1\.form\)\. Write it in quotes\."),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: system, A: loinc, C: loinc}, "
         "description: x}\n  - {name: system, type: string, class: procedure-code, values: [A, B]",
         r"system has no such value.*answer\.yaml:7 \(columns\.1\.form\.C\)\. Its values are: A, B\."),
        (SCORE, "name: code, type: string, class: procedure-code, form: {by: system, A: loinc}, "
         "description: x}\n  - {name: system, type: string, class: procedure-code, values: [A, B]", OPEN),
        (SCORE, "name: code, type: string, class: procedure-code, form: loinc, values: [a]",
         r"in two ways.*answer\.yaml:7 \(columns\.1\.form\)\. Keep one of values and form"),
        (SCORE, "name: years, type: int64, class: measurement, derived: {completed_years: [version, answered_at]}",
         r"a column without times.*answer\.yaml:7"),
        (SCORE, "name: years, type: float64, class: age, derived: {completed_years: [answered_at, answered_at]}",
         r"not a whole number.*answer\.yaml:7"),
        ("day_of: answered_at", "day_of: answered_at\none_of: {columns: [score], reason: score, words: score}",
         r"reason is not a text that can be published.*answer\.yaml:5"),
        ("name: score", '"name": "mrn\\n"', r"does not fit.*answer\.yaml:7 \(columns\.1\.name\)"),
        ("name: answer\n", '"name": "answer\\n"\n', r"does not fit.*answer\.yaml:1 \(name\)"),
        ("class: measurement", 'class: "measurement\\n"', r"does not fit.*answer\.yaml:7 \(columns\.1\.class\)"),
        ("day_of: answered_at", 'day_of: answered_at\nfhir: {resource: "Observation\\n"}',
         r"does not fit.*answer\.yaml:5 \(fhir\.resource\)"),
        ("name: score", "name: identity", r"the lake uses itself.*answer\.yaml:7"),
        ("type: float64", "type: float64, ours: sometimes",
         r"answer\.yaml:7 \(columns\.1\.ours\).*always, where-marked"),
        ("type: float64", "type: int64, counts: some", r"answer\.yaml:7 \(columns\.1\.counts\)"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_named_with_its_line(own: Path, old: str, new: str, said: str | None) -> None:
    assert old in OWN
    own.write_text(OWN.replace(old, new, 1))
    load_settings(own.parents[1])
    if said is None:
        assert load_dataset("answer").refused_if_new is None
        return
    with pytest.raises(SettingsError, match=said):
        refuse_new(load_dataset("answer"), open_storage(str(own.parents[1] / "lake"), {}))


@pytest.mark.parametrize("name", sorted(OWN_COLUMNS | {"who__", "moment__"}))
def test_a_column_of_a_home_has_no_name_that_code_treats_specially(own: Path, name: str) -> None:
    own.write_text(OWN.replace("name: score", f"name: {name}"))
    load_settings(own.parents[1])
    with pytest.raises(SettingsError, match=r"the lake uses itself.*answer\.yaml:7"):
        load_dataset("answer")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("restricted_observation", "begins with restricted_"), ("observation_versions", "ends with _versions"),
        ("observation_as_known_at", "ends with _as_known_at"), ("cte__0", "two underscores"),
        ("pg_class", "tables of a database"), ("order", "word of SQL itself"), ("values", "word of SQL itself"),
        ("join", "word of SQL itself"), ("install", "word of SQL itself"), ("notnull", "word of SQL itself"),
    ],
)  # fmt: skip
def test_a_dataset_of_a_home_has_no_name_that_queries_make(own: Path, name: str, said: str) -> None:
    own.rename(own.with_name(f"{name}.yaml")).write_text(OWN.replace("name: answer\n", f"name: {name}\n"))
    load_settings(own.parents[1])
    with pytest.raises(SettingsError, match=rf"name .*{said}.*/{name}\.yaml:1 \(name\)"):
        refuse_new(load_dataset(name), open_storage(str(own.parents[1] / "lake"), {}))


@pytest.mark.slow
def test_the_words_that_need_quotes_are_those_of_the_engines_and_no_name_of_the_project_is_one() -> None:
    """SELECT current_user was the name of the account, and a dataset named values could not be queried."""
    assert {*SQL_WORDS} == {*words_taken()}
    columns = {column.name for name in published_datasets() for column in load_dataset(name).columns}
    assert not SQL_WORDS & {*published_datasets(), *columns}


def test_an_age_from_a_date_that_is_sealed_has_a_class_that_rules_cap(own: Path) -> None:
    """It was published as 104."""
    text = (
        OWN
        + '  - {name: born, type: date, class: date-of-birth, description: "x"}\n'
        + (
            "  - {name: years, type: int16, class: measurement, derived: {completed_years: [born, answered_at]}, "
            'description: "x"}\n'
        )
    )
    own.write_text(text)
    load_settings(own.parents[1])
    with pytest.raises(SettingsError, match=r"An age has another class.*answer\.yaml:10"):
        load_dataset("answer")
    own.write_text(text.replace("int16, class: measurement", "int16, class: age"))
    load_settings(own.parents[1])
    assert load_dataset("answer").column("years").completed_years == ("born", "answered_at")


@pytest.mark.parametrize("data_class", ["free-text", "name", "date-of-birth", "encounter-identifier"])
def test_a_key_has_no_column_whose_sealed_values_differ_each_time(own: Path, data_class: str) -> None:
    text = OWN.replace(SCORE, f"name: words, type: string, class: {data_class}")
    own.write_text(text.replace("[answer_id, version]", "[answer_id, words, version]"))
    load_settings(own.parents[1])
    if data_class == "encounter-identifier":
        assert load_dataset("answer").key == ("answer_id", "words", "version")
        return
    with pytest.raises(SettingsError, match=r"Key has a column whose class is sealed.*answer\.yaml:3 \(key\.1\)"):
        load_dataset("answer")


def test_only_the_lakes_own_source_keeps_every_text_in_clear(own: Path) -> None:
    """Words in a closed column of the class provenance stayed in clear in the restricted zone."""
    own.write_text(OWN.replace(SCORE, "name: sent_by, type: string, class: provenance, values: [ward]"))
    load_settings(own.parents[1])
    dataset = load_dataset("answer")
    assert [column.name for column in dataset.columns if holds_codes(dataset, column)] == ["sent_by"]


def test_every_class_of_the_projects_datasets_is_listed_and_no_other() -> None:
    used = {column.data_class for name in dataset_names() for column in load_dataset(name).columns}
    assert used == CLASSES.keys()


def test_a_name_that_the_project_has_is_refused_with_the_file(own: Path) -> None:
    own.rename(own.with_name("observation.yaml"))
    load_settings(own.parents[1])
    with pytest.raises(SettingsError, match=r"ships with the project: .*datasets/observation\.yaml"):
        dataset_names()


def test_columns_that_identify_are_guarded_wherever_the_project_declares_them() -> None:
    """Under another class a home would publish them."""
    identifying = {
        column.name
        for name in published_datasets()
        for column in load_dataset(name).columns
        if column.data_class in IDENTIFYING
    }
    assert identifying >= {"patient_id", "encounter_id", "device_id", "name", "mrn", "address", "birth_date"}
    assert identifying <= declared._shipped_columns().keys()


@pytest.mark.parametrize("section", ["systems", "local"])
def test_a_system_whose_form_is_refused_makes_no_new_table_of_its_codes(own: Path, section: str) -> None:
    storage = open_storage(str(own.parents[1] / "lake"), {})
    words = own.parents[1] / "vocabulary" / "own.yaml"
    words.parent.mkdir()
    words.write_text(f"{section}:\n  X: {{name: x, form: '[0-9]{{5}}'}}\n")
    load_settings(own.parents[1])
    with pytest.raises(SettingsError, match=rf"dates.*own\.yaml:2 \({section}\.X\.form\)"):
        refuse_new(load_dataset("observation"), storage)
    refuse_new(load_dataset("answer"), storage)
    words.write_text("systems: [1]\n")
    load_settings(own.parents[1])
    refuse_new(load_dataset("observation"), storage)  # whoever writes observations reads the vocabulary, and its error
