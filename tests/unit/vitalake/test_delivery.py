"""Delivery of notifications: each address gets all of them in order, whatever the others do, and nobody waits."""

from __future__ import annotations

import logging
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.services.waiting import until
from vitalake.errors import SettingsError
from vitalake.notifications import (
    Address,
    Delivery,
    LaneObserved,
    Notification,
    Notifier,
    Outbox,
    Seen,
    Tally,
    addresses,
    notified_events,
)
from vitalake.notifications.delivery import MOST_WAITING
from vitalake.settings import Settings

WAITS, GOES_ON = "vitalake: vitals waits", "vitalake: vitals goes on"


class Pager:
    """An address of a simulated clock.

    Attributes:
        now: the time.
        failure: what happens when it is asked: it refuses (False), or it raises; None: it takes everything.
        slow: seconds that an attempt takes.
        asked: when it was asked.
        took: what it has taken: time and title.
    """

    def __init__(self, failure: bool | type[Exception] | None = None, *, slow: float = 0.0) -> None:
        self.now, self.failure, self.slow = 0.0, failure, slow
        self.asked: list[float] = []
        self.took: list[tuple[float, str]] = []
        self.outbox = Outbox(Address("notify[0]", self._send), clock=lambda: self.now)

    def _send(self, title: str, _text: str) -> bool:
        self.asked.append(self.now)
        self.now += self.slow
        if isinstance(self.failure, type):
            raise self.failure("json://user:zzsecret@pager")
        if self.failure is None:
            self.took.append((self.now, title))
        return self.failure is None

    @property
    def titles(self) -> list[str]:
        """Return the titles that it has taken."""
        return [title for _, title in self.took]

    def add(self, rule: str, title: str) -> None:
        """Let a rule notify."""
        self.outbox.add(rule, Notification(title, "text"))

    def run(self, seconds: float) -> None:
        """Let time pass, and deliver whenever the outbox said that the next attempt is due."""
        end = self.now + seconds
        while (pause := self.outbox.deliver()) is not None and self.now + pause <= end:
            self.now += pause
        self.now = max(self.now, end)


@pytest.mark.parametrize("failure", [False, ConnectionError])
def test_what_is_not_delivered_is_sent_again_and_before_what_came_later(failure: bool | type[Exception]) -> None:
    """The first attempt failed, and an hour later "goes on" came alone."""
    pager = Pager(failure)
    pager.add("pause", WAITS)
    pager.run(3_600)
    pager.add("pause", GOES_ON)
    pager.failure = None
    pager.run(300)
    assert pager.titles == [WAITS, GOES_ON]


def test_an_address_that_is_gone_is_asked_less_and_less_often() -> None:
    pager = Pager(False)
    pager.add("pause", WAITS)
    pager.run(3_600)
    assert [after - before for before, after in pairwise(pager.asked)][:5] == [10, 30, 60, 300, 300]
    assert len(pager.asked) == 15


def test_the_wait_counts_from_the_end_of_an_attempt() -> None:
    """An attempt that took a minute was followed by the next one at once."""
    pager = Pager(False, slow=60)
    pager.add("pause", WAITS)
    pager.run(100)
    assert pager.asked == [0, 70]


def test_an_address_that_was_reached_again_begins_with_short_waits() -> None:
    pager = Pager(False)
    pager.add("pause", WAITS)
    pager.run(900)
    pager.failure = None
    pager.run(300)
    pager.failure, pager.asked = False, []
    pager.add("pause", GOES_ON)
    pager.run(40)
    assert [after - before for before, after in pairwise(pager.asked)] == [10, 30]


def test_a_dead_address_neither_delays_nor_repeats_what_another_one_gets() -> None:
    """The pager got "waits" 27 times in two hours, never "goes on", and never the second "waits"."""
    pager, chat = Pager(), Pager(False)
    script = {100: WAITS, 200: GOES_ON, 3_000: WAITS, 3_100: GOES_ON}
    for second in range(0, 7_200, 10):
        for address in (pager, chat):
            if second in script:
                address.add("pause", script[second])
            address.run(10)
    assert pager.took == [*script.items()]
    assert chat.took == []
    chat.failure = None
    chat.run(300)
    assert chat.titles == [*script.values()]
    assert len(pager.took) == 4


def test_when_too_many_wait_the_newest_of_each_rule_stays_and_the_log_counts_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While a lane waited and went on all night, the notification that it rejects all its rows was dropped."""
    pager = Pager(False)
    pager.add("share", "rejects 100%")
    for i in range(30):
        pager.add("pause", f"{WAITS} {i}")
    dropped = [
        vars(r)["count"] for r in caplog.records if r.getMessage() == "notifications were dropped, too many wait"
    ]
    assert dropped == [*range(1, 12)]
    pager.failure = None
    pager.run(0)
    assert pager.titles == ["rejects 100%", *(f"{WAITS} {i}" for i in range(11, 30))]
    assert len(pager.took) == MOST_WAITING


def test_what_is_dropped_while_it_is_sent_costs_no_other_one() -> None:
    took = list[str]()

    def send(title: str, _text: str) -> bool:
        if not took:
            for i in range(MOST_WAITING):
                outbox.add("pause", Notification(str(i), ""))
        took.append(title)
        return True

    outbox = Outbox(Address("notify[0]", send))
    outbox.add("pause", Notification("first", ""))
    outbox.deliver()
    assert took == ["first", *map(str, range(MOST_WAITING))]


def test_a_failure_is_logged_once_by_the_place_of_the_address_and_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pager = Pager(ConnectionError)
    pager.add("pause", WAITS)
    pager.run(900)
    pager.outbox.give_up()
    first, last = caplog.records
    assert (first.getMessage(), vars(first)["reason"]) == ("notification was not delivered", "ConnectionError")
    assert (last.getMessage(), last.levelno) == (
        "notifications were not delivered before the stream ended",
        logging.ERROR,
    )
    assert [(vars(r)["where"], vars(r)["what"]) for r in (first, last)] == [("notify[0]", WAITS)] * 2
    assert vars(last)["count"] == 1
    assert all("zzsecret" not in str(vars(record)) and not record.exc_info for record in caplog.records)


def test_an_address_that_never_ends_its_answer_delays_nobody(
    tmp_path: Path,
    receiver: tuple[str, list[dict[str, str]]],
    dripping_receiver: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker that was killed was started again after two minutes, and Ctrl-C did not end the stream."""
    address, received = receiver
    configured = [dripping_receiver.replace("json://", "json://user:zzsecret@"), address]
    looks = [(0.0, True), (20.0, True), (21.0, False), (30.0, True), (50.0, True), (51.0, False)]
    with Delivery(addresses(configured, home=tmp_path), end_seconds=0.5) as delivery:
        lane = Notifier(Settings(), "vitals", delivery.add)
        began = time.monotonic()
        for now, paused in looks:
            lane.observe(Seen(paused, ["Disk is full"], Tally(), now))
        assert time.monotonic() - began < 1, "the supervisor waits for no address"
        until(lambda: len(received) == 4, seconds=5)
        ended = time.monotonic()
    assert time.monotonic() - ended < 2, "the end waits for no address for ever"
    assert [got["title"] for got in received] == [WAITS, GOES_ON, WAITS, GOES_ON]
    (lost,) = [record for record in caplog.records if record.name.startswith("vitalake")]
    assert (vars(lost)["where"], vars(lost)["count"]) == ("notify[0]", 4)
    assert vars(lost)["what"] == "; ".join([WAITS, GOES_ON, WAITS, GOES_ON])
    assert "zzsecret" not in str(vars(lost))


def test_the_end_sends_once_more_what_an_address_has_refused_a_moment_ago() -> None:
    refused, took = threading.Event(), list[str]()

    def send(title: str, _text: str) -> bool:
        if not refused.is_set():
            refused.set()
            return False
        took.append(title)
        return True

    with Delivery([Address("notify[0]", send)]) as delivery:
        delivery.add("pause", Notification(WAITS, ""))
        assert refused.wait(10)
        delivery.add("pause", Notification(GOES_ON, ""))
    assert took == [WAITS, GOES_ON]


def test_an_address_that_fails_does_not_end_the_lane(caplog: pytest.LogCaptureFixture) -> None:
    def send(_title: str, _text: str) -> bool:
        raise OSError

    with Delivery([Address("notify[0]", send)]) as delivery:
        lane = Notifier(Settings(), "vitals", delivery.add)
        for second in (0.0, 60.0, 120.0):
            lane.observe(Seen(True, ["Disk is full"], Tally(), second))
        until(lambda: caplog.records)
    assert [record.getMessage() for record in caplog.records][-1].endswith("before the stream ended")


def test_it_reaches_a_real_address_given_by_reference(
    tmp_path: Path, receiver: tuple[str, list[dict[str, str]]]
) -> None:
    address, received = receiver
    (tmp_path / "address").write_text(f"{address}\n")
    with notified_events(Settings(home=tmp_path, notify=["file:address"]), "vitals") as events:
        for second in (0.0, 60.0):
            events.publish(LaneObserved("vitals", Seen(True, ["Disk is full"], Tally(), second)))
    assert [got["title"] for got in received] == [WAITS], "the end has waited until it was sent"
    assert received[0]["message"].startswith("Disk is full.")


def test_several_addresses_in_one_entry_are_several(tmp_path: Path) -> None:
    found = addresses(["json://127.0.0.1:1/a, json://127.0.0.1:1/b", "json://127.0.0.1:1/c"], home=tmp_path)
    assert [address.where for address in found] == ["notify[0]", "notify[0]", "notify[1]"]


def test_an_address_that_is_none_is_refused_and_not_echoed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        addresses(["no-such-scheme://token"], home=tmp_path)
    assert "token" not in str(caught.value)
    assert addresses([], home=tmp_path) == []
