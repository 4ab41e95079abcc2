"""A home declares its own tasks in folders; the error for an invalid declaration names the line."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from models.serving.ward import _task
from models.tasks import FOLDER, load_task, parse_task, task_names, task_schema, tell_declared
from models.tasks.labels import Ended, Measured, NextStay, TimeToEvent
from pipelines.commands.doctor import _registered
from tests.documented import blocks
from vitalake.errors import SettingsError
from vitalake.settings import Settings, load_settings
from vitalake.strict_yaml import read_yaml

READMISSION, *LABELS = blocks("declare-a-task.md", "yaml")
SHIPPED = (FOLDER / "mortality" / "task.yaml").read_text()


def declare(home: Path, name: str, text: str) -> Settings:
    """Write a task into a home, and load the home's settings."""
    (home / "tasks" / name).mkdir(parents=True, exist_ok=True)
    (home / "tasks" / name / "task.yaml").write_text(text)
    return load_settings(home)


def test_the_digest_of_the_task_that_ships_is_that_of_the_models_that_were_trained_for_it() -> None:
    assert load_task("mortality").digest == "df942c047200152f"


def test_a_home_declares_a_task_and_another_home_does_not_have_it(home: Path, tmp_path: Path) -> None:
    settings = declare(home, "readmission", READMISSION)
    task = load_task("readmission")
    assert isinstance(task.label, NextStay)
    assert task_names() == ("mortality", "readmission")
    assert tell_declared(settings) == "mortality (shipped), readmission (tasks/readmission/task.yaml)"
    assert task.reads["encounter"][-2:] == ("admission_type", "discharge_disposition")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vitalake.yaml").write_text("")
    load_settings(tmp_path / "other")
    assert task_names() == ("mortality",)
    with pytest.raises(SettingsError, match="Unknown task"):
        load_task("readmission")


def test_a_task_that_ships_is_replaced_by_one_that_says_so_only(home: Path) -> None:
    changed = SHIPPED.replace("window_hours: 48", "window_hours: 24")
    declare(home, "mortality", f"{changed}replaces: true\n")
    found = load_task("mortality")
    assert found.window_hours == 24
    assert found.digest == parse_task(changed, where="test").digest, "that it replaces is not what it predicts"


def test_one_of_the_same_name_that_does_not_say_so_is_refused(home: Path) -> None:
    declare(home, "mortality", SHIPPED)
    with pytest.raises(SettingsError, match=r"one that ships.*tasks/mortality/task\.yaml:5 \(name\).*replaces: true"):
        load_task("mortality")


def test_one_that_replaces_nothing_is_refused(home: Path) -> None:
    declare(home, "readmission", READMISSION.replace("version: 1", "version: 1\nreplaces: true"))
    with pytest.raises(SettingsError, match=r"replaces nothing.*task\.yaml:3 \(replaces\)"):
        load_task("readmission")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: readmission", "name: return", r"another name than its folder.*:1 \(name\)"),
        ("kind: next_stay", "kind: secret", r"unknown kind.*outcome, next_stay, time_to_event.*"),
        ("within_days: 30", "within_days: 0", r"task\.yaml:15 \(label\.within_days\)"),
        ("within_days: 30", "within: 30", r"unknown field `within`.*task\.yaml:13 \(label\)"),
        (
            "[ed, direct]",
            "[secret]",
            r"admission_type cannot have this value.*task\.yaml:16 \(label\.admission_types\)",
        ),
        ("died: [Expired]", "died: [secret]", r"cannot have this value.*task\.yaml:17 \(label\.died\)"),
        ("min_age: 18", "min_age: -1", r"task\.yaml:5 \(cohort\.min_age\)"),
        ("needs: [heart_rate]", "needs: [pulse]", r"Cohort needs.*task\.yaml:7 \(cohort\.needs\)"),
        ("primary: 48", "primary: 47", r"primary moment.*task\.yaml:12 \(as_of\.primary\)"),
        ('unit: "/min"', "unit: bpm", r"another unit.*task\.yaml:24 \(features\.items\.heart_rate\.unit\)"),
        ("max_12h", "max_12d", r"task\.yaml:26 \(features\.items\.heart_rate\.statistics\.2\)"),
        ("max_12h", '"max_12h\\n"', r"task\.yaml:26 \(features\.items\.heart_rate\.statistics\.2\)"),
        ('["3094-0"]', '["secret"]', r"not in the vocabulary.*task\.yaml:30 \(.*urea_nitrogen\.codes\.0\)"),
        ('["3094-0"]', '["8867-4"]', r"unit.*task\.yaml:29|listed twice.*task\.yaml:30"),
        ("horizon: 30", "title: 30", r"names a key twice.*task\.yaml:19"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_named_with_file_and_line_and_not_quoted(
    home: Path, old: str, new: str, said: str
) -> None:
    assert old in READMISSION
    declare(home, "readmission", READMISSION.replace(old, new))
    with pytest.raises(SettingsError, match=said) as refused:
        load_task("readmission")
    assert "secret" not in str(refused.value)


def _label(text: str) -> str:
    before, _, rest = READMISSION.partition("label:\n")
    return f"{before}{text}horizon{rest.partition('horizon')[2]}"


def test_the_labels_of_the_page_hold(home: Path) -> None:
    measured, ended = (parse_task(_label(text), where="test").label for text in LABELS)
    assert isinstance(measured, TimeToEvent) and isinstance(measured.event, Measured)
    assert isinstance(ended, TimeToEvent) and isinstance(ended.event, Ended)
    assert "8480-6" in measured.codes and not ended.codes


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("8480-6", "secret", "not in the vocabulary"),
        ("mm[Hg]", "kPa", "has another unit"),
        ("below: 90", "below: 90, above: 200", "one limit"),
        (", below: 90", "", "one limit"),
        ("dataset: observation", "dataset: secret", "not one of those allowed"),
        ("within_hours: 12", "within_hours: 0", "label.within_hours"),
    ],
)
def test_an_event_that_does_not_hold_is_refused_with_its_line(old: str, new: str, said: str) -> None:
    text = _label(LABELS[0])
    assert old in text
    with pytest.raises(SettingsError, match=rf"{said}.*test:1[3-6]|test:1[3-6].*{said}") as refused:
        parse_task(text.replace(old, new), where="test")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("place", ["tasks/long-stay/task.yaml", "tasks/long_stay/label.yaml", "tasks/long_stay.yaml"])
def test_a_folder_that_would_be_passed_over_in_silence_is_refused(home: Path, place: str) -> None:
    (home / place).parent.mkdir(parents=True)
    (home / place).write_text(READMISSION)
    load_settings(home)
    with pytest.raises(SettingsError, match=r"task\.yaml"):
        task_names()


def test_doctor_names_a_task_that_does_not_hold(home: Path) -> None:
    settings = declare(home, "readmission", READMISSION.replace("version: 1", "version: one"))
    (found,) = (check for check in _registered(settings) if check.name == "tasks")
    assert (found.result, found.exit_code) == ("fail", 10)
    assert "task.yaml:2 (version)" in found.finding


def test_the_schema_for_editors_takes_what_is_declared_and_refuses_what_is_not() -> None:
    check = jsonschema.Draft202012Validator(task_schema())
    for text in (SHIPPED, READMISSION, *map(_label, LABELS)):
        check.validate(read_yaml(text))
    for old, new in [("kind: next_stay", "kind: next"), ("within_days", "within"), ("max_12h", "top")]:
        assert not check.is_valid(read_yaml(READMISSION.replace(old, new)))


def test_a_task_of_the_home_is_served_where_the_store_keeps_what_it_looks_back_at(home: Path) -> None:
    (home / "vitalake.yaml").write_text("serving: {task: readmission}\n")
    assert _task(declare(home, "readmission", READMISSION)).name == "readmission"
    (home / "vitalake.yaml").write_text("serving: {task: readmission}\ncare: {hours: 53}\n")
    with pytest.raises(
        SettingsError, match=r"looks back further.*care\.hours, task readmission\. Set care\.hours to 54 or more"
    ):
        _task(load_settings(home))
