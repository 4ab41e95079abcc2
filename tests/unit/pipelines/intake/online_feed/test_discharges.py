"""Discharges, and what takes them back: the later known counts."""

from __future__ import annotations

from contextlib import closing
from itertools import permutations
from pathlib import Path

import pytest

from tests.unit.pipelines.intake.online_feed.feed_samples import (
    hl7_hours_ago,
    iso_minutes_ago,
    lies_in,
    open_store,
    run_admissions,
    run_records,
    stay_resource,
    visit_message,
)


@pytest.mark.parametrize(
    ("recorded", "ended", "number", "is_open"),
    [(1, 3.2, "V-1", False), (1, 3.2, "", False), (1, 2, "V-1", False), (4, 4, "V-1", True), (4, 4, "", True)],
)
def test_a_discharge_as_of_before_the_last_transfer_ends_the_stay_if_it_was_told_after(
    home: Path, recorded: float, ended: float, number: str, is_open: bool
) -> None:
    """Backdated, or by another clock, it ended nothing: discharged patients stayed on the board for ever."""
    of = [
        visit_message("A01", "MED^1^A", 5), visit_message("A02", "LOUNGE^1^1", 3, prior="MED^1^A"),
        visit_message("A03", "LOUNGE^1^1" if recorded < 3 else "MED^1^A", recorded, end=hl7_hours_ago(ended)),
    ]  # fmt: skip
    messages: list[bytes | None] = [one.replace(b"V-1", number.encode()) for one in of]
    token = run_admissions(home, messages).rows["patient_id"][0].as_py()
    assert lies_in(home, token)[2] is is_open
    with closing(open_store(home)) as store:
        store.prune()
    assert lies_in(home, token)[2] is is_open


@pytest.mark.parametrize("hours", [1, 4])
def test_the_end_of_a_record_before_a_later_transfer_of_its_number_counts_if_it_was_told_after(
    home: Path, hours: int
) -> None:
    told = visit_message("A01", "MED^1^A", 5), visit_message("A02", "MED^1^B", 3, prior="MED^1^A")
    token = run_admissions(home, [*told]).rows["patient_id"][0].as_py()
    over = {"id": "V-1", "status": "finished", "period": {"start": iso_minutes_ago(300), "end": iso_minutes_ago(190)}}
    run_records(home, "encounter", stay_resource() | over | {"meta": {"lastUpdated": iso_minutes_ago(60 * hours)}})
    assert lies_in(home, token)[2] is (hours == 4)


@pytest.mark.parametrize(("days", "is_open"), [(365, True), (0, False)])
def test_a_discharge_before_anything_known_of_a_stay_ends_nothing(home: Path, days: int, is_open: bool) -> None:
    """With a wrong year it ended a stay known by transfers only: a patient in bed left the board."""
    told = (
        visit_message("A02", "MED^1^B", 5, prior="MED^1^A"),
        visit_message("A03", "MED^1^B", 1, end=hl7_hours_ago(1 + 24 * days)),
    )
    token = run_admissions(home, [*told]).rows["patient_id"][0].as_py()
    assert lies_in(home, token)[2] is is_open


def test_of_a_transfer_and_a_discharge_of_one_second_the_discharge_counts(home: Path) -> None:
    told = (
        visit_message("A02", "LOUNGE^^", 1, prior="MED^1^A"),
        visit_message("A03", "LOUNGE^^", 1, end=hl7_hours_ago(1.1)),
    )
    token = run_admissions(home, [visit_message("A01", "MED^1^A", 5), *told]).rows["patient_id"][0].as_py()
    assert lies_in(home, token)[2] is False


def test_what_takes_back_a_discharge_takes_back_those_that_were_told_before_it(home: Path) -> None:
    """With another time than the discharge's it cancelled nothing; a valid, backdated discharge was cancelled, too."""
    there = visit_message("A01", "MED^1^A", 5)
    wrong, back = (
        visit_message("A03", "MED^1^A", 3, end=hl7_hours_ago(3.1)),
        visit_message("A13", "MED^1^A", 2, end=hl7_hours_ago(3.5)),
    )
    true = visit_message("A03", "MED^1^A", 1, end=hl7_hours_ago(2.5))
    seen = []
    for messages in ([there, wrong], [there, wrong, back], [there, wrong, back, true], [there, true, back, wrong]):
        token = run_admissions(home, [*messages]).rows["patient_id"][0].as_py()
        seen.append(lies_in(home, token)[2])
    assert seen == [False, True, False, False]


@pytest.mark.parametrize("minutes", [3, 30])
def test_who_is_taken_back_within_the_second_of_their_discharge_is_there(home: Path, minutes: int) -> None:
    """The sender writes no seconds, or gives both messages the same time: a patient in bed was on no board."""
    there, wrong = visit_message("A01", "MED^1^A", 5), visit_message("A03", "MED^1^A", 1, end=hl7_hours_ago(1.01))
    back = visit_message("A13", "MED^1^A", 1, end=hl7_hours_ago(1 + minutes / 60))
    for messages in permutations([there, wrong, back]):
        token = run_admissions(home, [*messages]).rows["patient_id"][0].as_py()
        assert lies_in(home, token)[2]


@pytest.mark.parametrize(
    "back",
    [visit_message("A13", "MED^1^A", 2, end=hl7_hours_ago(3.5)), visit_message("A02", "MED^1^B", 2, prior="OR^1^1")],
)
def test_a_discharge_that_is_sent_again_takes_nobody_away_who_is_back(home: Path, back: bytes) -> None:
    """With a later MSH-7 it became known after the patient came back."""
    wrong = visit_message("A03", "MED^1^A", 3, end=hl7_hours_ago(3.1))
    sent_at = hl7_hours_ago(3).encode()
    again = wrong.replace(b"|" + sent_at + b"||ADT", b"|" + hl7_hours_ago(1).encode() + b"||ADT")
    assert again != wrong
    token = run_admissions(home, [visit_message("A01", "MED^1^A", 5), wrong, back]).rows["patient_id"][0].as_py()
    before = lies_in(home, token)
    assert before[2]
    run_admissions(home, [again])
    assert lies_in(home, token) == before
    run_admissions(home, [visit_message("A01", "MED^1^A", 5), wrong, back, again])
    assert lies_in(home, token) == before, "read again, in one poll"


@pytest.mark.parametrize("at_once", [True, False])
def test_who_is_discharged_again_at_the_same_time_within_a_minute_is_gone(home: Path, at_once: bool) -> None:
    """Discharged, cancelled, discharged again with the same entered time: the second counted as the first."""
    end = hl7_hours_ago(1.1)
    told = [visit_message("A01", "MED^1^A", 5)]
    for second, (event, time) in enumerate([("A03", end), ("A13", hl7_hours_ago(1.2)), ("A03", end)]):
        told.append(visit_message(event, "MED^1^A", 1 - second * 20 / 3600, end=time))
    for messages in [told] if at_once else [told[:count] for count in range(1, 5)]:
        token = run_admissions(home, [*messages]).rows["patient_id"][0].as_py()
    assert lies_in(home, token)[2] is False


def test_a_discharge_without_number_or_time_that_was_none_brings_back_no_former_stay(home: Path) -> None:
    """Cancelling a discharge from a lounge cancelled all without a number: patients gone for days were back."""
    former = [visit_message("A01", "MED^1^A", 50), visit_message("A03", "MED^1^A", 40)]
    messages = [one.replace(b"V-1", b"") for one in (*former, visit_message("A13", "LOUNGE^^", 1))]
    token = run_admissions(home, [*messages]).rows["patient_id"][0].as_py()
    assert lies_in(home, token)[2] is False
