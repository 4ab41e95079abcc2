"""A learnt score is shown after approval by two accounts, for one model and one unit, with a sufficient validation."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from governance.audit import latest
from models.approvals import FILE, Approvals, approval, is_approved, standing_approvals, withdrawal
from tests.services.serving import WardUnderTest
from vitalake.cli.app import main
from vitalake.errors import PrivacyError, SettingsError
from vitalake.keys import load_keys
from vitalake.settings import load_settings

pytestmark = pytest.mark.slow


def _approve(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "task": "mortality", "model": "mortality/1", "digest": "d1", "unit": "icu", "account": 1, "by": "local:a",
        "events": 120, "report": "V-7", "reason": "",
    }  # fmt: skip
    return approval(**(fields | changes))


def _holds(entries: list[Any], *, digest: str = "d1", unit: str = "icu") -> bool:
    return is_approved(entries, task="mortality", digest=digest, unit=unit)


def test_one_account_is_not_enough_however_often_it_approves() -> None:
    assert not _holds([])
    assert not _holds([_approve(), _approve()])
    assert _holds([_approve(), _approve(account=2)])


def test_it_is_of_one_model_and_one_unit() -> None:
    both = [_approve(), _approve(account=2)]
    assert not _holds(both, digest="d2")
    assert not _holds(both, unit="ward")
    assert not is_approved(both, task="sepsis", digest="d1", unit="icu")
    assert not _holds(both, unit=""), "of a unit that is not known nobody has approved"
    assert not _holds([_approve(), _approve(account=2, digest="d2")])


def test_a_withdrawal_ends_all_and_one_account_cannot_undo_it() -> None:
    end = withdrawal(task="mortality", unit="icu", account=3, by="local:c", reason="drift")
    entries = [_approve(), _approve(account=2), end]
    assert not _holds(entries)
    assert not _holds([*entries, _approve()])
    assert _holds([*entries, _approve(), _approve(account=2)])
    other = withdrawal(task="mortality", unit="ward", account=3, by="local:c", reason="drift")
    assert len(standing_approvals([_approve(), other], task="mortality", digest="d1", unit="icu")) == 1


@pytest.mark.parametrize(
    "changes", [{"events": 99}, {"unit": ""}, {"report": " "}, {"report": "x" * 501}, {"events": 0, "reason": "  "}]
)
def test_it_says_what_it_rests_on(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        _approve(**changes)


def test_few_events_need_a_reason_and_then_do() -> None:
    assert _approve(events=17, reason="a rare unit").reason == "a rare unit"
    with pytest.raises(SettingsError):
        withdrawal(task="mortality", unit="icu", account=1, by="local:a", reason=" ")


def test_an_entry_that_was_not_written_by_the_home_counts_for_nothing(home: Path) -> None:
    settings = load_settings(home)
    book = Approvals(home, load_keys(settings.path(settings.keys)))
    book.add(_approve())
    book.add(_approve(account=2))
    assert _holds(book.entries())
    with sqlite3.connect(home / FILE) as db:
        db.execute("UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE number = 1) WHERE number = 2")
    with pytest.raises(PrivacyError):
        book.entries()
    book.close()


def test_the_command_approves_lists_and_withdraws_on_record(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ward = WardUnderTest(home)
    command = ["models", "approve", "mortality", "--unit", "medical_icu", "--report", "V-7", "--home", str(home)]
    assert main([*command, "--events", "120"]) == 15, "there is no model yet"
    ward.register_model(tmp_path / "model")
    assert main([*command, "--events", "20"]) == 10
    assert "fewer than 100" in capsys.readouterr().err
    assert main([*command, "--events", "120"]) == 0
    assert "stays in shadow mode" in capsys.readouterr().out
    assert main([*command, "--events", "120", "--json"]) == 0
    assert '"approvals":1' in capsys.readouterr().out, "of one account"
    assert (
        main(["models", "withdraw", "mortality", "--unit", "medical_icu", "--reason", "drift", "--home", str(home)])
        == 0
    )
    assert main(["models", "approvals", "--home", str(home)]) == 0
    listed = capsys.readouterr().out
    assert "withdraw" in listed
    assert "120 events, V-7" in listed
    settings = ward.settings
    seen = latest(settings.path(settings.audit), ward.keys, limit=100)
    actions = [one.action for one in seen]
    assert actions.count("models.approve") == 2
    assert actions.count("models.withdraw") == 1
    assert {one.detail.get("account") for one in seen if one.action.startswith("models")} == {str(os.getuid())}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another account")
def test_two_accounts_of_the_system_are_told_apart_whatever_they_call_themselves(home: Path, tmp_path: Path) -> None:
    ward = WardUnderTest(home)
    ward.register_model(tmp_path / "model")
    code = (
        "import os, pwd, sys; import governance.access.principal; from models.commands.models import _who; "
        "os.setuid(int(sys.argv[1])); print(_who()[0].number)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, account], env=os.environ | {"LOGNAME": "root"},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for account in ("0", "65534")
    }  # fmt: skip
    assert found == {"0", "65534"}
