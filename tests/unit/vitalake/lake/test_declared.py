"""A dataset that a home declares is checked as strictly as the project's; an error names file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitalake import declarations
from vitalake.errors import SettingsError
from vitalake.lake.datasets import declared
from vitalake.lake.datasets.dataset import IDENTIFYING
from vitalake.lake.datasets.declared import dataset_names, load_dataset, published_datasets, where_declared
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
        ("type: float64", "type: float", r"not one of those allowed.*answer\.yaml:7 \(columns\.1\.type\)"),
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
        ("type: float64", "type: float64, values: [a]", r"which texts it may hold.*answer\.yaml:7"),
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
        ("name: score, type: float64, class: measurement", "name: phone, type: string, class: telephone",
         r"kept in clear.*answer\.yaml:7"),
        ("name: score", "name: identity", r"the lake uses itself.*answer\.yaml:7"),
        ("type: float64", "type: float64, ours: sometimes", r"answer\.yaml:7 \(columns\.1\.ours\)"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_named_with_its_line(own: Path, old: str, new: str, said: str) -> None:
    assert old in OWN
    own.write_text(OWN.replace(old, new, 1))
    load_settings(own.parents[1])
    with pytest.raises(SettingsError, match=said):
        load_dataset("answer")


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
