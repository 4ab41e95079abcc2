"""The plan by which rows are masked: what stays hidden whatever the rules say, and what names of records tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from governance.policy.masking import MaskPlan, writing_plan
from governance.policy.rules import load_policy
from governance.policy.stand_ins import StandIns
from governance.samples import copy_samples
from tests.unit.governance.policy.test_rules import _rule
from tests.unit.vitalake.lake.test_message_tokens import KEYS
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset, parse_dataset
from vitalake.lake.unlinkable.own_times import marked

MOMENT = marked(1_795_000_000_000_000)


GOLDEN = [
    "e9ea528154c796afa18e347ec63392dc",
    "6c299128dc546d88566910102e14f2fc",
    "107ed335d5558e9748a1a2c7e8017178",
]


def _plan(folder: Path, dataset: Dataset, *rules: dict[str, Any]) -> MaskPlan:
    copy_samples(folder)
    (folder / "more.yaml").write_text(yaml.safe_dump({"version": 1, "rules": list(rules)}))
    return writing_plan(load_policy(folder), dataset, KEYS)


def _times(moments: list[int]) -> pa.Array:
    return pa.array(moments).cast(pa.timestamp("us", "UTC"))


def test_a_position_that_the_rules_drop_has_no_token(tmp_path: Path) -> None:
    dropped = _rule(id="no-positions", what={"column": "source_position"}, then={"mask": "drop"})
    plan = _plan(tmp_path, load_dataset("patient"), dropped)
    rows = plan.apply(pa.RecordBatch.from_pydict({"source": ["a[0]"], "source_position": pa.array([3])})).rows
    assert rows["source_position"].to_pylist() == [None]
    shown = {str(column["column"]): column for column in plan.describe()}["source_position"]
    assert (shown["mask"], shown["published"]) == ("drop", False)


def test_times_and_versions_of_rows_that_name_no_record_are_not_published(tmp_path: Path) -> None:
    plan = _plan(tmp_path, load_dataset("patient"))
    columns = {"available_at": _times([MOMENT]), "version": pa.array([7])}
    rows = plan.apply(pa.RecordBatch.from_pydict(columns)).rows
    assert rows.select(["available_at", "version"]).to_pylist() == [{"available_at": None, "version": None}]
    named = plan.apply(pa.RecordBatch.from_pydict(columns | {"patient_id": ["1"]})).rows
    assert named["available_at"].null_count == named["version"].null_count == 0


def _again(plan: MaskPlan, given: dict[str, Any], key: str) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Return rows as they are published, and as they are if only the published form of their names is known."""
    once = plan.apply(pa.RecordBatch.from_pydict(given)).rows
    return once, plan.apply(pa.RecordBatch.from_pydict(given | {key: once[key]})).rows


def test_times_and_versions_can_be_made_again_from_published_names(tmp_path: Path) -> None:
    plan = _plan(tmp_path, load_dataset("patient"))
    given = {"patient_id": ["1", "2", "3"], "available_at": _times([MOMENT] * 3), "version": pa.array([7] * 3)}
    once, again = _again(plan, given, "patient_id")
    for column in ("available_at", "version"):
        assert len(set(once[column].to_pylist())) == 3, "each record has noise of its own"
    assert again.equals(once)


def test_a_name_that_must_not_be_published_tells_nothing_by_its_times(tmp_path: Path) -> None:
    told = {"class": "measurement", "description": "x"}
    columns = [
        {"name": "name", "type": "string", "values": ["fits"], **told},
        {"name": "seen", "type": "timestamp", "ours": "where-marked", **told},
    ]
    dataset = parse_dataset({"name": "d", "kind": "record", "key": ["name"], "columns": columns}, where="test")
    plan = _plan(tmp_path, dataset)
    given = {"name": pa.array(["fits", "Maria", "Mario", None]), "seen": _times([MOMENT] * 4)}
    once, again = _again(plan, given, "name")
    assert once["name"].to_pylist() == ["fits", None, None, None]
    assert len(set(once["seen"].to_pylist())) == 2
    assert again.drop_columns(["unfit_key"]).equals(once.drop_columns(["unfit_key"]))


@pytest.mark.parametrize("encoded", [False, True])
def test_codes_that_do_not_fit_keep_the_diagnoses_of_a_stay_apart_and_join_the_versions_of_one(
    tmp_path: Path, *, encoded: bool
) -> None:
    plan = _plan(tmp_path, load_dataset("condition"))
    words = ["I10 Mary", "I10 Mary", "J44 Paul", "I10 Mary", "I10"]
    given = {"encounter_id": ["e1", "e1", "e1", "e2", "e1"], "code_system": ["ICD10CM"] * 5, "code": words,
             "version": pa.array([1, 2, 1, 1, 1])}  # fmt: skip
    batch = pa.RecordBatch.from_pydict(given)
    masked = plan.apply(batch, encoded=encoded)
    assert masked.rows["code"].to_pylist() == [None, None, None, None, "I10"]
    keys = masked.rows["unfit_key"].to_pylist()
    assert keys[0] == keys[1], "versions of one diagnosis"
    assert len(set(keys)) == 4 and keys[4] is None
    assert keys[0] != keys[3], "the same words of another stay"
    alone = [plan.apply(batch.slice(i, 1), encoded=encoded).rows["unfit_key"][0].as_py() for i in range(5)]
    assert alone == keys, "it does not depend on neighbours"


def test_of_records_whose_name_is_dropped_each_has_noise_of_its_own(tmp_path: Path) -> None:
    dropped = _rule(id="no-names", what={"dataset": "patient", "column": "patient_id"}, then={"mask": "drop"})
    plan = _plan(tmp_path, load_dataset("patient"), dropped)
    given = {"patient_id": ["1", "2", "1"], "available_at": _times([MOMENT] * 3)}
    rows = plan.apply(pa.RecordBatch.from_pydict(given)).rows
    first, second, third = rows["available_at"].to_pylist()
    assert rows["patient_id"].null_count == 3
    assert first == third != second


def test_stand_ins_stay_what_they_are_from_release_to_release() -> None:
    """With another form, the versions of a record that different releases published would be two records."""
    key = [pa.array(["e1", "e1", "e", None]), pa.array(["a", "a", "1a", "-"])]
    made = StandIns(b"secret")(np.array([True, False, True, True]), "condition", key).to_pylist()
    assert made[1] is None
    assert [each.hex() for each in made if each is not None] == GOLDEN


def test_parts_of_a_key_are_not_taken_for_one_another() -> None:
    pairs = [("ab", "c"), ("a", "bc"), (None, "c"), ("-", "c"), ("", "c"), ("+1:a", "c"), ("abc", None)]
    key = [pa.array([first for first, _ in pairs]), pa.array([second for _, second in pairs])]
    assert len(set(StandIns(b"secret")(np.ones(len(pairs), np.bool_), "d", key).to_pylist())) == len(pairs)


@pytest.mark.parametrize(
    ("column", "then", "unclear"),
    [
        ("in_at", {"mask": "generalise", "unit": "day"}, ["in_at"]),
        ("in_at", {"mask": "keep"}, []),
        ("encounter_id", {"mask": "drop"}, ["encounter_id"]),
        ("encounter_id", {"mask": "pseudonym"}, []),
        ("version", {"mask": "round", "digits": 0}, ["version"]),
        ("out_at", {"mask": "generalise", "unit": "year"}, []),
    ],
)
def test_masks_that_hide_which_rows_count_are_known(
    tmp_path: Path, column: str, then: dict[str, Any], unclear: list[str]
) -> None:
    rule = _rule(id="r", what={"dataset": "ward_movement", "column": column}, then=then)
    plan = _plan(tmp_path, load_dataset("ward_movement"), rule)
    assert [each.column.name for each in plan.unclear] == unclear
