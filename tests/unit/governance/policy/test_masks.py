"""The built-in masks: what each does to a value, which one removes more, and which options a rule can give."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from governance.errors import RuleError
from governance.policy.masking import compile_masks
from governance.policy.masks import make_mask, mask_kinds
from governance.policy.rules import load_policy, read_then
from tests.contract.masks import KEYS
from tests.documented import HOW_TO
from tests.unit.governance.policy.test_rules import _rule
from vitalake.lake.datasets.declared import parse_dataset


def _masked(values: list[Any], then: dict[str, Any]) -> list[Any]:
    return make_mask(read_then(then), keys=KEYS, domain="measurement")(pa.array(values)).to_pylist()


def test_masks_have_the_ranks_that_writers_of_masks_are_told() -> None:
    told = re.findall(r"`(\w+)` (\d+)", (HOW_TO / "write-a-mask.md").read_text().replace("\n", " "))
    kinds = mask_kinds()
    assert {name: kind.rank for name, kind in kinds.items()} == {name: int(rank) for name, rank in told}
    assert not any(kinds[name].keeps for name in ("pseudonym", "redact", "drop"))
    assert all(kinds[name].keeps for name in ("keep", "round", "cap", "generalise"))


@pytest.mark.parametrize(
    ("column", "weaker", "stricter"),
    [
        ("number", {"mask": "cap", "at": 90}, {"mask": "cap", "at": 80}),
        ("number", {"mask": "round", "digits": 2}, {"mask": "round", "digits": 1}),
        ("time", {"mask": "generalise", "unit": "minute"}, {"mask": "generalise", "unit": "hour"}),
        ("time", {"mask": "generalise", "unit": "hour"}, {"mask": "generalise", "unit": "day"}),
        ("time", {"mask": "generalise", "unit": "day"}, {"mask": "generalise", "unit": "month"}),
        ("time", {"mask": "generalise", "unit": "month"}, {"mask": "generalise", "unit": "year"}),
    ],
)
def test_of_two_rules_with_one_mask_the_one_that_removes_more_wins(
    tmp_path: Path, column: str, weaker: dict[str, Any], stricter: dict[str, Any]
) -> None:
    told = {"class": "measurement", "description": "x"}
    columns = [{"name": "number", "type": "float64", **told}, {"name": "time", "type": "timestamp", **told}]
    dataset = parse_dataset({"name": "d", "kind": "record", "key": ["number"], "columns": columns}, where="test")
    rules = [_rule(id=name, what={"column": column}, then=then) for name, then in (("w", weaker), ("s", stricter))]
    for order in (rules, rules[::-1]):
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"version": 1, "rules": order}))
        plan = compile_masks(load_policy(tmp_path), dataset, KEYS)
        assert {shown["column"]: shown["rule"] for shown in plan.describe()}[column] == "s"


@pytest.mark.parametrize(("mask", "option", "least", "most"), [("cap", "at", 0, 10_000), ("round", "digits", 0, 12)])
def test_an_option_outside_of_its_range_is_refused(mask: str, option: str, least: int, most: int) -> None:
    for value in (least, most):
        assert read_then({"mask": mask, option: value}).mask == mask
    for value in (least - 1, most + 1):
        with pytest.raises(RuleError, match="do not fit") as caught:
            read_then({"mask": mask, option: value})
        assert caught.value.where == f"then.{option}"


def test_numbers_above_the_maximum_become_the_maximum_and_no_others() -> None:
    nan = float("nan")
    assert str(_masked([89.9, 90.0, 90.1, None, nan, -1.0], {"mask": "cap", "at": 90})) == str(
        [89.9, 90.0, 90.0, None, nan, -1.0]
    )


def test_whole_numbers_stay_whole_and_ties_go_to_the_even_neighbour() -> None:
    assert _masked([2**53 + 1, None, -3], {"mask": "round", "digits": 1}) == [2**53 + 1, None, -3]
    assert _masked([0.5, 1.5, 2.5, 2.6, None], {"mask": "round", "digits": 0}) == [0.0, 2.0, 2.0, 3.0, None]


def test_a_time_is_told_to_its_unit_and_no_further() -> None:
    given = datetime(2026, 5, 17, 12, 34, 56, 789, UTC)
    starts = {
        "minute": datetime(2026, 5, 17, 12, 34, tzinfo=UTC),
        "hour": datetime(2026, 5, 17, 12, tzinfo=UTC),
        "day": datetime(2026, 5, 17, tzinfo=UTC),
        "month": datetime(2026, 5, 1, tzinfo=UTC),
        "year": datetime(2026, 1, 1, tzinfo=UTC),
    }
    for unit, start in starts.items():
        column = pa.array([given, None], pa.timestamp("us", "UTC"))
        masked = make_mask(read_then({"mask": "generalise", "unit": unit}), keys=KEYS, domain="d")(column)
        assert masked.to_pylist() == [start, None]


@pytest.mark.parametrize(("mask", "out"), [("keep", "a"), ("redact", "REDACTED"), ("drop", None)])
def test_text_is_kept_redacted_or_dropped_and_a_null_in_a_dictionary_is_null(mask: str, out: str | None) -> None:
    masked = make_mask(read_then({"mask": mask}), keys=KEYS, domain="d")
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array([None, "a"]))
    for column in (dictionary, pa.array([None, "a", None])):
        assert masked(column).to_pylist() == [None, out, None]


def test_a_null_in_a_dictionary_has_no_pseudonym() -> None:
    masked = make_mask(read_then({"mask": "pseudonym"}), keys=KEYS, domain="d")
    first, second, third = masked(pa.DictionaryArray.from_arrays([0, 1, None], pa.array([None, "a"]))).to_pylist()
    assert (first, third) == (None, None)
    assert [second] == masked(pa.array(["a"])).to_pylist()
