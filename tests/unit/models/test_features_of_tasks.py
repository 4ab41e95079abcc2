"""Declared tasks and their features: codes and units of the vocabulary, and declarations that are not valid."""

from __future__ import annotations

from typing import Any

import pytest

from models.features import parse_features
from models.tasks import FOLDER, load_task, parse_task, task_names
from vitalake.errors import SettingsError
from vitalake.vocabulary import load_vocabulary


def _text(name: str = "mortality") -> str:
    return (FOLDER / name / "task.yaml").read_text()


@pytest.mark.parametrize("name", task_names())
def test_every_code_is_published_in_its_item_s_unit(name: str) -> None:
    vocabulary = load_vocabulary()
    for item in load_task(name).features.items:
        for code in item.codes:
            assert vocabulary.unit_of[vocabulary.codes[code]] == item.unit, f"{item.name}: {code}"


@pytest.mark.parametrize("name", task_names())
def test_every_column_has_a_name_a_label_and_a_unit(name: str) -> None:
    found = load_task(name).features
    assert len(set(found.names)) == len(found.names) == len(found.labels) == len(found.units)
    assert all(label[:1].isupper() for label in found.labels)


def test_how_often_something_was_measured_is_no_feature() -> None:
    assert not [name for name in load_task("mortality").features.names if ".count" in name]


def test_another_declaration_has_another_digest() -> None:
    one = parse_task(_text(), where="test")
    other = parse_task(_text().replace("window_hours: 48", "window_hours: 24"), where="test")
    assert one.digest == load_task("mortality").digest != other.digest
    assert parse_task(f"# a comment\n{_text()}", where="test").digest == one.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("window_hours: 48", "window: 48"),
        ("needs: [heart_rate]", "needs: [nothing]"),
        ("primary: 48", "primary: 47"),
        ('codes: ["2524-7"]', 'codes: ["lactate"]'),
        ('codes: ["2524-7"]', 'codes: ["2160-0"]'),
        ("unit: Cel", "units: Cel"),
        ("mean_24h", "mean_24d"),
        ("ratio: [heart_rate.mean_6h,", "ratio: [heart_rate.mean_7h,"),
    ],
)
def test_a_declaration_that_does_not_hold_is_refused(old: str, new: str) -> None:
    assert old in _text()
    with pytest.raises(SettingsError, match=r"test"):
        parse_task(_text().replace(old, new), where="test")


_GOOD = {"items": {"pulse": {"label": "Pulse", "unit": "/min", "codes": ["8867-4"], "statistics": ["last"]}}}


def test_the_least_that_can_be_declared_is_one_feature() -> None:
    assert [item.name for item in parse_features(_GOOD, where="test").items] == ["pulse"]


@pytest.mark.parametrize(
    "document",
    [None, {}, {"items": {}}, {"items": {"a": None}}, [], _GOOD["items"], {"items": {"pulse": {}}},
     {"items": _GOOD["items"] | {"again": _GOOD["items"]["pulse"]}}],
)  # fmt: skip
def test_features_that_are_none_are_refused(document: Any) -> None:
    with pytest.raises(SettingsError, match=r"test"):
        parse_features(document, where="test")


def test_an_unknown_task_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match="mortality"):
        load_task("nothing")
