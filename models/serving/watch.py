"""Follows the care store and tells every open board what has changed; one task, however many boards are open."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from models.serving.rows import Row, make_row
from models.serving.threads import OneThread
from models.serving.ward import NEVER_US, Ward
from vitalake.errors import VitaLakeError

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
"""Between two looks at the store: a look costs two microseconds while nothing has changed."""

CALM_SECONDS = 0.25
"""A patient's row changes at most this often; the first change is shown at once, the last one always."""

SWEEP_SECONDS = 10.0
"""All patients are looked at again: some are discharged by the clock, not by a message."""

BEAT_SECONDS = 5.0
QUEUE_EVENTS = 128
"""A browser this far behind is let go; it comes back and asks for what it missed."""


@dataclass(frozen=True, slots=True)
class Change:
    """A batch of changes.

    Attributes:
        number: 1, 2, 3 …
        ward_us: the ward's time when it was pushed.
        rows: changed rows.
        gone: patients that are no longer shown.
    """

    number: int
    ward_us: int
    rows: tuple[Row, ...]
    gone: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Subscription:
    """An open board."""

    queue: asyncio.Queue[Change | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_EVENTS))
    dropped: bool = False


@dataclass(slots=True)
class _Shown:
    row: Row
    number: int


class Watch:
    """The shared watcher."""

    def __init__(self, ward: Ward, thread: OneThread) -> None:
        self._ward, self._thread = ward, thread
        self.epoch = secrets.token_hex(4)
        self.number = 0
        self._shown: dict[str, _Shown] = {}
        self._gone: dict[str, int] = {}
        self._pending: set[str] = set()
        self._noted: deque[set[str]] = deque()
        self._due: dict[str, int] = {}
        self._pushed: dict[str, float] = {}
        self._inputs: tuple[str, str] | None = None
        self._swept = self._checked = 0.0
        self._subscriptions: set[Subscription] = set()
        self._ready = asyncio.Event()
        self._refused = ""

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self.tick()
                self._refused = ""
            except VitaLakeError as error:  # the store is busy, or the rules do not hold: boards stay as they are
                if error.what != self._refused:
                    self._refused = error.what
                    log.error("board-stands", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
            except Exception as error:
                log.error("bug", extra={"reason": type(error).__qualname__, "where": "board"})
            await asyncio.sleep(LOOK_SECONDS)

    async def tick(self) -> None:
        """Take in what has changed, and push it."""
        now_us, changed = await self._thread(self._look)
        moment = time.monotonic()
        self._pending |= changed
        while self._noted:
            self._pending |= self._noted.popleft()
        self._pending |= {patient for patient, due_us in self._due.items() if due_us <= now_us}
        ready = [p for p in self._pending if moment - self._pushed.get(p, -CALM_SECONDS) >= CALM_SECONDS]
        rows: list[Row] = []
        gone: list[str] = []
        for patient in ready:  # one call each: requests get their turn in between
            row, due_us = await self._thread(self._row, patient)
            self._pending.discard(patient)
            self._take(patient, row, due_us, rows, gone)
            if time.monotonic() - moment >= LOOK_SECONDS:  # on a full ward the first need not wait for the last
                await self._push(rows, gone)
                rows, gone, moment = [], [], time.monotonic()
        await self._push(rows, gone)
        self._ready.set()

    def _look(self) -> tuple[int, set[str]]:
        """Return the ward's time, and who is to be looked at; in the ward's thread."""
        changed = self._ward.changed()
        moment = time.monotonic()
        if moment - self._checked >= 1.0:
            self._checked = moment
            inputs = self._ward.inputs()
            if inputs != self._inputs or moment - self._swept >= SWEEP_SECONDS:
                self._inputs, self._swept = inputs, moment
                changed |= self._ward.patients()
        return self._ward.now_us(), changed

    def note(self, patients: set[str]) -> None:
        """Take in patients that a request found changed; called in the ward's thread."""
        if patients:
            self._noted.append(patients)

    def _row(self, patient: str) -> tuple[Row | None, int]:
        chart = self._ward.chart(patient)
        if chart is None or (chart.stay is not None and chart.stay.discharged_us is not None):
            return None, self._ward.due_us(patient)
        return make_row(chart), chart.due_us

    def _take(self, patient: str, row: Row | None, due_us: int, rows: list[Row], gone: list[str]) -> None:
        self._due[patient] = due_us
        before = self._shown.get(patient)
        if row is None:
            if before is not None:
                del self._shown[patient]
                gone.append(patient)
            if due_us == NEVER_US:
                del self._due[patient]
        elif before is None or before.row.key != row.key:
            self._gone.pop(patient, None)
            self._pushed[patient] = time.monotonic()
            self._shown[patient] = _Shown(row, before.number if before else 0)
            rows.append(row)

    async def _push(self, rows: list[Row], gone: list[str]) -> None:
        if rows or gone:
            self._tell(tuple(rows), tuple(gone), await self._thread(self._ward.now_us))

    def _tell(self, rows: tuple[Row, ...], gone: tuple[str, ...], ward_us: int) -> None:
        self.number += 1
        for row in rows:
            self._shown[row.patient].number = self.number
        self._gone |= dict.fromkeys(gone, self.number)
        change = Change(self.number, ward_us, rows, gone)
        for subscription in list(self._subscriptions):
            try:
                subscription.queue.put_nowait(change)
            except asyncio.QueueFull:
                self._drop(subscription)

    def _drop(self, subscription: Subscription) -> None:
        subscription.dropped = True
        self._subscriptions.discard(subscription)
        while not subscription.queue.empty():
            subscription.queue.get_nowait()
        subscription.queue.put_nowait(None)

    def close(self) -> None:
        """End all boards' streams; their browsers try again."""
        for subscription in list(self._subscriptions):
            self._drop(subscription)

    # -- for boards ----------------------------------------------------------------------------------------------

    async def rows(self) -> list[Row]:
        """Return all rows in their order, once the ward has been looked at for the first time."""
        await self._ready.wait()
        return sorted((shown.row for shown in self._shown.values()), key=lambda row: row.order)

    @property
    def place(self) -> str:
        """Return where a board is that has just been shown all rows."""
        return f"{self.epoch}-{self.number}"

    def since(self, place: str, ward_us: int) -> Change:
        """Return what a board missed that was at a place; all rows, if the place is not of this watcher."""
        epoch, _, text = place.partition("-")
        number = int(text) if epoch == self.epoch and text.isdecimal() and len(text) < 16 else -1
        rows = tuple(shown.row for shown in self._shown.values() if shown.number > number)
        gone = tuple(patient for patient, when in self._gone.items() if when > number)
        return Change(self.number, ward_us, rows, gone)

    def subscribe(self) -> Subscription:
        """Return a new subscription; what happens from now on comes through it."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """End a subscription."""
        self._subscriptions.discard(subscription)

    async def changes(self, subscription: Subscription) -> AsyncIterator[Change | None]:
        """Yield what a subscription brings; None when nothing has come for a while; ends when it was dropped."""
        while not (subscription.dropped and subscription.queue.empty()):
            try:
                change = await asyncio.wait_for(subscription.queue.get(), BEAT_SECONDS)
            except TimeoutError:
                yield None
                continue
            if change is None:
                return
            yield change

    def event(self, change: Change, speed: float) -> bytes:
        """Return a change as a server-sent event."""
        document: dict[str, Any] = {
            "ward_us": change.ward_us,
            "speed": speed,
            "rows": [
                {
                    "patient": row.patient,
                    "revision": row.revision,
                    "newest_us": row.newest_us,
                    "ward_us": change.ward_us,
                    "order": row.order,
                    "html": row.html,
                }
                for row in change.rows
            ],
            "gone": list(change.gone),
        }
        return b"id: %s-%d\nevent: rows\ndata: %b\n\n" % (
            self.epoch.encode(),
            change.number,
            msgspec.json.encode(document),
        )


def beat(ward_us: int, speed: float) -> bytes:
    """Return the event that says the time, and that the line still stands."""
    return b"event: ward\ndata: %b\n\n" % msgspec.json.encode({"ward_us": ward_us, "speed": speed})
