"""Notifications: one when a lane waits, one when it goes on, and nothing but our own words."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.notified import Titles
from vitalake.notifications import Notification, Notifier, Seen, Tally
from vitalake.settings import AlertSettings, Settings

WINDOW = 60.0
RUNBOOK = "https://wiki.example/dead-letters"


def watch(deliver: Callable[[str, Notification], None], *, share: float = 0.05, least: int = 100) -> Notifier:
    """Return a watch of windows of a minute."""
    alerts = AlertSettings(window_seconds=WINDOW, share=share, min_messages=least, runbook_url=RUNBOOK)
    return Notifier(Settings(alerts=alerts), "vitals", deliver)


def look(shares: Notifier, tally: Tally, *, now: float) -> None:
    """Show a lane that runs."""
    shares.observe(Seen(False, (), tally, now))


def feed(shares: Notifier, windows: list[tuple[int, int, int]], *, begin: float = 0.0) -> None:
    """Show it windows of (messages, rejected, held), in four looks each."""
    total = Tally()
    look(shares, total, now=begin)
    for i, (messages, rejected, held) in enumerate(windows):
        for quarter in range(1, 5):
            seen = Tally(
                total.messages + messages * quarter // 4,
                total.rows + messages * quarter // 4,
                total.rejected + rejected * quarter // 4,
                total.held + held * quarter // 4,
                {"unknown-code": total.rejected + rejected * quarter // 4},
            )
            look(shares, seen, now=begin + (i + quarter / 4) * WINDOW)
        total = seen


def test_a_pause_is_told_once_and_so_is_its_end() -> None:
    told = Titles()
    pauses = Notifier(Settings(), "vitals", told)
    for now, paused in [(0, False), (1, True), (5, True), (6, False), (7, True), (16, True), (17, True), (90, True)]:
        pauses.observe(Seen(paused, ["Disk is full"], Tally(), now))
    assert told == ["vitalake: vitals waits"]
    pauses.observe(Seen(False, [], Tally(), 91))
    pauses.observe(Seen(False, [], Tally(), 92))
    assert told == ["vitalake: vitals waits", "vitalake: vitals goes on"]


def test_a_lane_that_goes_on_claims_nothing_about_losses() -> None:
    """After a topic was made again, or a loss accepted, it said that nothing was lost; the ledger listed the losses."""
    sent = list[Notification]()
    pauses = Notifier(Settings(), "vitals", lambda _rule, notification: sent.append(notification))
    for now, paused in [(0, True), (60, True), (61, False)]:
        pauses.observe(Seen(paused, ["Topic was deleted"], Tally(), now))
    assert [one.title for one in sent] == ["vitalake: vitals waits", "vitalake: vitals goes on"]
    assert sent[1].text == "The lane runs again. 'vitalake ledger' says whether messages were lost."


def test_a_lane_that_ends_for_good_is_told_at_once_with_its_reason_also_without_a_pause_before() -> None:
    told = list[Notification]()
    pauses = Notifier(Settings(), "vitals", lambda _rule, notification: told.append(notification))
    pauses.observe(Seen(False, [], Tally(), 1))
    pauses.observe(Seen(True, ["Audit is broken (audit/7)"], Tally(), 2, ended=True))
    assert [one.title for one in told] == ["vitalake: vitals has ended"]
    assert told[0].text.startswith("Audit is broken (audit/7). It does not go on by itself")


def test_too_great_a_share_is_told_once_with_reasons_and_a_way_out_and_so_is_its_end() -> None:
    told = list[Notification]()
    feed(
        watch(lambda _rule, notification: told.append(notification)),
        [(1000, 10, 0), (1000, 120, 0), (1000, 700, 0), (1000, 51, 0), (1000, 20, 0), (1000, 0, 0)],
    )
    assert [one.title for one in told] == [
        "vitalake: vitals rejects 12% of its rows",
        "vitalake: vitals takes its rows again",
    ]
    assert told[0].text == (
        "Of 1,000 rows 120 (12.0%) were rejected and 0 (0.0%) held in the last 60 seconds. "
        f"Most often: unknown-code (120). What to do: {RUNBOOK}"
    )
    assert "20 (2.0%) were rejected" in told[1].text


def test_what_is_held_counts_too() -> None:
    told = Titles()
    feed(watch(told), [(200, 0, 150), (200, 0, 0)])
    assert told == ["vitalake: vitals holds 75% of its rows", "vitalake: vitals takes its rows again"]


def test_a_trickle_is_judged_when_enough_has_come() -> None:
    told = Titles()
    feed(watch(told), [(40, 40, 0), (40, 40, 0), (40, 40, 0), (40, 40, 0)])
    assert told == ["vitalake: vitals rejects 100% of its rows"]
    told.clear()
    feed(watch(told), [(40, 40, 0), (0, 0, 0), (0, 0, 0)])
    assert told == []


def test_totals_that_begin_again_are_a_new_window() -> None:
    told = Titles()
    shares = watch(told)
    feed(shares, [(1000, 0, 0)])
    feed(shares, [(500, 0, 0)], begin=10 * WINDOW)
    assert told == []


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1), st.floats(0, 1)), max_size=12),
    st.floats(0.01, 0.9),
    st.integers(1, 300),
)
def test_never_more_than_one_a_window_and_by_turns(
    windows: list[tuple[int, float, float]], share: float, least: int
) -> None:
    told = Titles()
    counted: list[int] = []
    shares = watch(told, share=share, least=least)
    total = Tally()
    look(shares, total, now=0.0)
    for i, (messages, rejected, held) in enumerate(windows):
        gone = int(messages * rejected)
        total = Tally(
            total.messages + messages,
            total.rows + messages,
            total.rejected + gone,
            total.held + int((messages - gone) * held),
        )
        look(shares, total, now=(i + 1) * WINDOW)
        counted.append(len(told))
    assert all(later - before <= 1 for before, later in pairwise([0, *counted]))
    assert all(title.endswith("again") == (i % 2 == 1) for i, title in enumerate(told))
