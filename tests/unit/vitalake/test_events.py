"""The event bus: events by type, in order, and a subscriber that fails harms nobody."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from tests.notified import Titles
from vitalake.notifications import EventBus, LaneObserved, Notifier, Seen, Tally, notified_events
from vitalake.settings import Settings


@dataclass(frozen=True)
class Came:
    what: str


@dataclass(frozen=True)
class Went:
    what: str


def test_a_subscriber_gets_the_events_of_its_type_in_order() -> None:
    events, got = EventBus(), list[tuple[str, str]]()
    events.publish(Came("before anybody subscribed"))
    events.subscribe(Came, lambda event: got.append(("first", event.what)))
    events.subscribe(Went, lambda event: got.append(("other", event.what)))
    events.subscribe(Came, lambda event: got.append(("second", event.what)))
    for event in (Came("a"), Went("b"), Came("c"), "of no type that is subscribed"):
        events.publish(event)
    assert got == [("first", "a"), ("second", "a"), ("other", "b"), ("first", "c"), ("second", "c")]


def test_a_subscriber_that_fails_is_logged_once_without_values_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, got = EventBus(), list[str]()

    def fail(event: Came) -> None:
        if event.what != "fine":
            message = f"patient {event.what}"
            raise ValueError(message)

    events.subscribe(Came, fail)
    events.subscribe(Came, lambda event: got.append(event.what))
    with caplog.at_level(logging.ERROR):
        for what in ("p-1", "p-2", "fine", "p-3"):
            events.publish(Came(what))
    assert got == ["p-1", "p-2", "fine", "p-3"]
    assert [record.message for record in caplog.records] == ["event subscriber failed"] * 2
    assert [(r.what, r.reason) for r in caplog.records] == [("Came", "ValueError")] * 2  # type: ignore[attr-defined]
    assert all("p-" not in str(vars(record)) and not record.exc_info for record in caplog.records)


def test_the_notifier_observes_its_own_lane() -> None:
    events, titles = EventBus(), Titles()
    Notifier(Settings(), "vitals", titles).subscribe_to(events)
    for second in (0.0, 60.0):
        events.publish(LaneObserved("others", Seen(True, ["Disk is full"], Tally(), second)))
    assert titles == []
    for second in (0.0, 60.0):
        events.publish(LaneObserved("vitals", Seen(True, ["Disk is full"], Tally(), second)))
    assert titles == ["vitalake: vitals waits"]


def test_without_addresses_events_are_taken_and_nobody_is_notified() -> None:
    with notified_events(Settings(), "vitals") as events:
        events.publish(LaneObserved("vitals", Seen(False, (), Tally(), 0.0)))
