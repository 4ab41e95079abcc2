"""Whom a command answers: programs one JSON object and nothing else, people words on both streams."""

from __future__ import annotations

import pytest

from vitalake.cli.output import Output


def _speak(*, json: bool) -> None:
    out = Output(json)
    out.tell("working")
    out.show("so far")
    out.answer({"rows": 2}, "two rows", lambda: print("a grid"), *(f"row {n}" for n in range(2)))
    out.answer([1])


def test_people_read_words_in_the_order_they_are_said(capfd: pytest.CaptureFixture[str]) -> None:
    _speak(json=False)
    assert capfd.readouterr() == ("so far\ntwo rows\na grid\nrow 0\nrow 1\n", "working\n")


def test_programs_read_lines_of_json_and_no_word(capfd: pytest.CaptureFixture[str]) -> None:
    _speak(json=True)
    assert capfd.readouterr() == ('{"rows":2}\n[1]\n', "")


def test_what_json_lacks_is_written_as_text(capfd: pytest.CaptureFixture[str]) -> None:
    Output(json=True).answer({"what": ValueError("text")})
    assert capfd.readouterr().out == '{"what":"text"}\n'
