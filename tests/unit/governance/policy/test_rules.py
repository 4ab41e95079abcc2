"""Rule files: what is refused, and with which error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from governance.errors import RuleError
from governance.policy.masking import compile_masks
from governance.policy.rules import load_policy, read_then
from governance.samples import copy_samples
from vitalake.keys import create_key_file, load_keys
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset, parse_dataset

SECRET = "Zzmarker"


def _rule(**changes: Any) -> dict[str, Any]:
    rule = {
        "id": "r1",
        "what": {"class": "measurement"},
        "then": {"mask": "keep"},
        "reason": "why",
        "legal_basis": "law",
        "owner": "privacy officer",
    } | changes
    return {name: value for name, value in rule.items() if value is not None}


def _load(folder: Path, *rules: dict[str, Any], **document: Any) -> Any:
    (folder / "rules.yaml").write_text(yaml.safe_dump({"version": 1, "rules": list(rules)} | document))
    return load_policy(folder)


BAD = {
    "unknown field": _rule(colour=SECRET),
    "unknown field in what": _rule(what={"class": "measurement", "colour": SECRET}),
    "unknown field in an example": _rule(examples=[{"in": 1, "out": 1, "colour": SECRET}]),
    "unknown field in a filter": _rule(
        what={"dataset": "observation"}, then={"filter": {"column": "status", "in": ["x"], "colour": SECRET}}
    ),
    "unknown field beside a filter": _rule(
        what={"dataset": "observation"}, then={"filter": {"column": "status", "in": ["x"]}, "colour": SECRET}
    ),
    "filter of a column": _rule(what={"column": "status"}, then={"filter": {"column": "status", "in": [SECRET]}}),
    "who is not there yet": _rule(who={"role": SECRET}),
    "no reason": _rule(reason=None),
    "no owner": _rule(owner=None),
    "unknown mask": _rule(then={"mask": SECRET}),
    "unknown field in then": _rule(then={"mask": "keep", "salt": SECRET}),
    "mask and filter": _rule(then={"mask": "keep", "filter": {"column": "status", "in": [SECRET]}}),
    "neither mask nor filter": _rule(then={}),
    "generalise without unit": _rule(then={"mask": "generalise"}),
    "round without digits": _rule(then={"mask": "round"}),
    "cap out of range": _rule(then={"mask": "cap", "at": 10**6}),
    "cap without at": _rule(then={"mask": "cap"}),
    "at with another mask": _rule(then={"mask": "drop", "at": 90}),
    "unit with another mask": _rule(then={"mask": "drop", "unit": "day"}),
    "digits out of range": _rule(then={"mask": "round", "digits": 99}),
    "speaks of nothing": _rule(what=None),
    "id is no text": _rule(id=7),
    "filter of a class": _rule(what={"class": "free-text"}, then={"filter": {"column": "status", "in": [SECRET]}}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_rule_is_refused_with_its_place_and_without_its_values(tmp_path: Path, name: str) -> None:
    with pytest.raises(RuleError) as caught:
        _load(tmp_path, BAD[name])
    error = caught.value
    assert error.exit_code == 12
    assert "rules.yaml" in error.where
    assert "r1" in error.where or name == "id is no text"
    assert error.remedy
    assert SECRET not in str(error)


_RULE = """\
version: 1
rules:
  - id: fine
    reason: why
    legal_basis: law
    owner: privacy officer
    what: {class: measurement}
    then: {mask: keep}
  - id: r1
    reason: why
    legal_basis: law
    owner: privacy officer
"""


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("    what: {class: measurement}\n    then:\n      mask: cap\n      at: -1", "rules.yaml:16 rule r1 then.at"),
        ("    what: {class: measurement}\n    then:\n      mask: cap", "rules.yaml:14 rule r1 then"),
        ("    what: {class: measurement}\n    then:\n      mask: Zz", "rules.yaml:15 rule r1 then.mask"),
        ("    what: {class: measurement}\n    then:\n      mask: 7", "rules.yaml:14 rule r1 then"),
        ("    then:\n      filter:\n        column: a\n        in: Zz", "rules.yaml:16 rule r1 then.filter.in"),
        ("    then:\n      filter:\n        column: a\n        in: [7]", "rules.yaml:16 rule r1 then.filter.in[0]"),
        ("    then:\n      filter:\n        column: a", "rules.yaml:14 rule r1 then.filter"),
        ("    then:\n      filter: {column: a, in: []}\n      at: 9", "rules.yaml:13 rule r1 then"),
        ("    then:\n      at: 9", "rules.yaml:9 rule r1"),
        ("    then: {mask: keep}", "rules.yaml:9 rule r1 what"),
        ("    what:\n      column: a\n    then: {filter: {column: a, in: []}}", "rules.yaml:13 rule r1 what"),
        ("    then: {mask: keep}\n    what:\n      column: 7", "rules.yaml:15 rule r1 $.rules[1].what.column"),
        ("    then: {mask: keep}\n    examples:\n      - {in: 7}", "rules.yaml:14 rule r1 $.rules[1].examples[0]"),
        ("    then: {mask: keep}\n    what: {column: a}\n    who: Zz", "rules.yaml:15 rule r1"),
        ("    what: {column: a}", "rules.yaml:9 rule r1 $.rules[1]"),
        ("  - Zz", "rules.yaml:9 rule r1 $.rules[1]"),
        ("    then: {mask: keep}\n    what: {column: a}\ncolour: Zz", "rules.yaml:1"),
    ],
)
def test_a_mistake_is_told_with_its_file_line_rule_and_field(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "rules.yaml").write_text(f"{_RULE}{text}\n")
    with pytest.raises(RuleError) as caught:
        load_policy(tmp_path)
    assert caught.value.where == where
    assert "Zz" not in str(caught.value)
    if " then." in where:
        assert caught.value.what.startswith("Filter" if "filter" in where else ("Mask and", "Rule names a mask"))


def test_a_mistake_is_told_with_the_field_or_the_type_that_it_should_have(tmp_path: Path) -> None:
    for text, remedy in (
        ("[]", "Expected `object`, got `array`. See docs/reference/rules.md."),
        ("version: 2\nrules: []", "The value is not one of the allowed values. See docs/reference/rules.md."),
        ("version: 1\nlists: {wards: [7]}", "Expected `str`, got `int`. See docs/reference/rules.md."),
        ("version: 1\ncolour: Zz", "Object contains unknown field `colour`. See docs/reference/rules.md."),
    ):
        (tmp_path / "rules.yaml").write_text(text)
        with pytest.raises(RuleError) as caught:
            load_policy(tmp_path)
        assert caught.value.remedy == remedy
    with pytest.raises(RuleError, match="one of the allowed values") as caught:
        read_then({"mask": "generalise", "unit": SECRET})
    assert caught.value.where == "then.unit"


def test_a_list_has_texts_of_up_to_120_letters(tmp_path: Path) -> None:
    longest = "w" * 120
    assert _load(tmp_path, _rule(), lists={"wards": [longest]}).lists == {"wards": frozenset({longest})}
    with pytest.raises(RuleError, match="length <= 120"):
        _load(tmp_path, _rule(), lists={"wards": [f"{longest}w"]})


def test_files_that_are_no_rules(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="No rules found"):
        load_policy(tmp_path)
    path = tmp_path / "rules.yaml"
    for text in ("version: 1\nrules: [", "version: 2\nrules: []", "[]", f"version: {SECRET}\nrules: []", "version: 1"):
        path.write_text(text)
        with pytest.raises(RuleError) as caught:
            load_policy(tmp_path)
        assert "rules.yaml" in caught.value.where
        assert SECRET not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RuleError, match="cannot be read"):
        load_policy(tmp_path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = yaml.safe_dump({"version": 1, "rules": [_rule(then={"mask": "drop"})]})
    (tmp_path / "rules.yaml").write_text(text.replace("mask: drop", "mask: drop\n    mask: keep"))
    with pytest.raises(RuleError, match="twice") as caught:
        load_policy(tmp_path)
    assert caught.value.where.startswith("rules.yaml:")


@pytest.mark.parametrize("name", ["stricter.YAML", "stricter.yml", "stricter.Yml"])
def test_a_file_of_another_ending_is_refused_because_its_rules_would_protect_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(yaml.safe_dump({"version": 1, "rules": [_rule(id="other")]}))
    with pytest.raises(RuleError, match=rf"does not end in \.yaml: .*{name}\. Rename it to stricter\.yaml"):
        _load(tmp_path, _rule())
    (tmp_path / name).rename(tmp_path / "stricter.md")
    assert [rule.id for rule in _load(tmp_path, _rule()).rules] == ["r1"]


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ({"column": "pateint_id"}, "column"),
        ({"dataset": "observatoin"}, "dataset"),
        ({"dataset": "spans", "class": "patient-identifier"}, "data class"),
        ({"dataset": "spans", "column": "value"}, "column"),
    ],
)
def test_a_rule_that_names_what_is_not_there_protects_nothing_and_is_refused(
    folder: Path, keys: Any, what: dict[str, str], named: str
) -> None:
    with pytest.raises(RuleError, match=f"unknown {named}") as caught:
        _plans(_load(folder, _rule(), _rule(id="typo", what=what, then={"mask": "drop"})), keys)
    assert "typo" in caught.value.where


def test_a_class_that_is_not_one_is_named_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="'patient-identifier'") as caught:
        _load(tmp_path, _rule(), _rule(id="typo", what={"class": "pateint-identifier"}, then={"mask": "drop"}))
    assert caught.value.where == "rules.yaml:17 rule typo what.class"
    assert "pateint" not in str(caught.value)


def test_a_rule_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rules.yaml")
    with pytest.raises(RuleError, match=r"cannot be read \(it is not a regular file\): rules\.yaml"):
        load_policy(tmp_path)


def test_two_rules_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="same id"):
        _load(tmp_path, _rule(), _rule())


@pytest.fixture
def keys(tmp_path: Path) -> Any:
    create_key_file(tmp_path / "keys.yaml")
    return load_keys(tmp_path / "keys.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a rule that keeps dates, without which nothing can be partitioned."""
    path = tmp_path / "governance"
    path.mkdir()
    (path / "dates.yaml").write_text(
        yaml.safe_dump({"version": 1, "rules": [_rule(id="dates", what={"class": "date-of-service"})]})
    )
    return path


def _plans(policy: Any, keys: Any, dataset: Dataset | None = None) -> dict[str, dict[str, Any]]:
    plan = compile_masks(policy, dataset or load_dataset("observation"), keys)
    return {str(column["column"]): column for column in plan.describe()}


def test_a_rule_applies_only_where_all_that_it_names_agrees(folder: Path, keys: Any) -> None:
    keep = _rule(id="keep", what={"class": "date-of-service"})
    for what in (
        {"dataset": "encounter", "class": "date-of-service"},
        {"dataset": "encounter", "column": "admitted_at"},
    ):
        policy = _load(folder, keep, _rule(id="year", what=what, then={"mask": "generalise", "unit": "year"}))
        assert _plans(policy, keys)["effective_at"]["rule"] != "year", "another dataset"
        assert _plans(policy, keys, load_dataset("encounter"))["admitted_at"]["rule"] == "year"
    narrow = _rule(id="year", what={"column": "effective_at", "class": "measurement"}, then={"mask": "drop"})
    assert _plans(_load(folder, keep, narrow), keys)["effective_at"]["rule"] != "year", "another class"


def test_what_no_rule_speaks_of_is_not_published(folder: Path, keys: Any) -> None:
    columns = _plans(_load(folder, _rule()), keys)
    assert columns["value"]["published"]
    assert not columns["patient_id"]["published"]
    assert columns["patient_id"]["rule"] is None


def test_a_column_without_a_class_is_not_published_even_if_a_rule_names_it(folder: Path, keys: Any) -> None:
    dataset = parse_dataset(
        {
            "name": "d",
            "kind": "record",
            "key": ["a"],
            "columns": [
                {"name": "a", "type": "string", "description": "x"},
                {"name": "b", "type": "string", "class": "measurement", "description": "x", "values": ["x"]},
            ],
        },
        where="test",
    )
    columns = _plans(
        _load(folder, _rule(what={"class": "measurement"}), _rule(id="a", what={"column": "a"})), keys, dataset
    )
    assert not columns["a"]["published"]
    assert columns["b"]["published"]


def test_the_most_restrictive_rule_wins_whatever_the_order(folder: Path, keys: Any) -> None:
    rules = [
        _rule(id="keep"),
        _rule(id="round-2", then={"mask": "round", "digits": 2}),
        _rule(id="round-0", what={"column": "value"}, then={"mask": "round", "digits": 0}),
    ]
    for order in (rules, rules[::-1]):
        columns = _plans(_load(folder, *order), keys)
        assert columns["value"]["rule"] == "round-0"
        assert columns["comparator"]["rule"] == "round-2"


def test_a_mask_that_does_not_fit_a_column_is_shown_for_what_it_does(folder: Path, keys: Any) -> None:
    rules = [_rule(id="k"), _rule(id="r", what={"column": "comparator"}, then={"mask": "cap", "at": 9})]
    columns = _plans(_load(folder, *rules), keys)
    assert columns["comparator"] | {"class": ""} == {
        "column": "comparator", "class": "", "rule": "r", "mask": "drop", "published": False, "holds": None,
        "overruled": None,
    }  # fmt: skip
    assert columns["value"]["published"]
    with pytest.raises(RuleError, match="partition"):
        _plans(_load(folder, _rule(what={"column": "effective_at"}, then={"mask": "redact"})), keys)


def test_a_rule_that_another_one_switches_off_is_shown(folder: Path, keys: Any) -> None:
    both = [_rule(id="round", then={"mask": "round", "digits": 1}), _rule(id="cap", then={"mask": "cap", "at": 90})]
    value = _plans(_load(folder, *both), keys)["value"]
    assert (value["rule"], value["overruled"]) == ("cap", "round")
    assert _plans(_load(folder, *both), keys)["unit"]["overruled"] is None


def test_rules_that_take_the_partitions_date_away_are_refused(tmp_path: Path, keys: Any) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    with pytest.raises(RuleError, match="partition"):
        _plans(_load(folder, _rule()), keys)


def test_a_rule_that_does_not_do_what_its_example_says_is_refused(folder: Path, keys: Any) -> None:
    good = _rule(then={"mask": "round", "digits": 0}, examples=[{"in": 36.6, "out": 37.0}])
    _plans(_load(folder, good), keys)
    bad = _rule(then={"mask": "round", "digits": 0}, examples=[{"in": 36.6, "out": 36.6}])
    with pytest.raises(RuleError, match="example"):
        _plans(_load(folder, bad), keys)
    for out in (["x"], "x", 2**80):
        with pytest.raises(RuleError, match="example"):
            _plans(_load(folder, _rule(examples=[{"in": 36.6, "out": out}])), keys)
    _plans(_load(folder, _rule(examples=[{"in": {"of": "another type"}, "out": 1}, {"in": 2**80, "out": 1}])), keys)
    leak = _rule(what={"class": "patient-identifier"}, then={"mask": "pseudonym"}, examples=[{"in": None, "out": "x"}])
    with pytest.raises(RuleError, match="example"):
        _plans(_load(folder, leak), keys)


def test_a_filter_on_a_column_that_is_not_there_is_refused(folder: Path, keys: Any) -> None:
    for column in ("nope", "value"):
        rule = _rule(what={"dataset": "observation"}, then={"filter": {"column": column, "in": ["x"]}})
        with pytest.raises(RuleError, match="does not name a text column"):
            _plans(_load(folder, rule), keys)


def test_the_version_follows_the_content_and_nothing_else(tmp_path: Path) -> None:
    first = _load(tmp_path, _rule()).version
    assert _load(tmp_path, _rule()).version == first
    assert _load(tmp_path, _rule(reason="another")).version != first


def test_samples_are_copied_once_and_hold(tmp_path: Path, keys: Any) -> None:
    folder = tmp_path / "rules"
    assert copy_samples(folder)
    assert copy_samples(folder) == []
    columns = _plans(load_policy(folder), keys)
    assert not columns["value_text"]["published"]
    for name in ("patient_id", "encounter_id", "device_id"):
        assert columns[name]["mask"] == "pseudonym"
