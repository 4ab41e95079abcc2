"""Follows the care store and tells every open board what has changed; one task, however many boards are open."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from models.serving.connections import BUSY_SECONDS
from models.serving.events import Event
from models.serving.health import Trouble, of_error
from models.serving.problems import Problem
from models.serving.rendering import build
from models.serving.rows import Row, make_row
from models.serving.threads import OneThread
from models.serving.ward import NEVER_US, Ward
from pipelines.online_store.playback import Replay
from vitalake import clock
from vitalake.errors import PrivacyError, VitaLakeError

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
"""Between two looks at the store: a look costs two microseconds while nothing has changed."""

CALM_SECONDS = 0.25
"""A patient's row changes at most this often; the first change is shown at once, the last one always."""

BOARD_SECONDS = 0.0005
"""What it takes to send an event to one board (0.2 to 0.3 ms), with room for scores: five hundred boards are told four
times a second, where one is told twenty times."""

TOLD_AT_ONCE = 25
"""Boards that are woken before requests get their turn: some five milliseconds."""

SWEEP_SECONDS = 10.0
"""All patients are looked at again: some are discharged by the clock, not by a message."""

BEAT_SECONDS = 5.0
"""Boards hear at least this often that the ward is watched; silent for longer than three of them, they say so."""

STUCK_SECONDS = 15.0
"""Without a look at the ward: a disk or a lock holds it up."""

QUEUE_EVENTS = 128
"""A browser this far behind is let go; it comes back and asks for what it missed."""


_NONE = Event("none", {})


@dataclass(frozen=True, slots=True)
class Change:
    """A batch of changes.

    Attributes:
        number: 1, 2, 3 …
        ward_us: the ward's time when it was pushed.
        rows: changed rows.
        gone: patients that are no longer shown.
        whole: whether these are all rows there are: what else a board shows is gone.
        event: what boards are sent; made once, however many there are.
    """

    number: int
    ward_us: int
    rows: tuple[Row, ...]
    gone: tuple[str, ...]
    whole: bool = False
    event: Event = field(default=_NONE, repr=False, compare=False)

    @property
    def beats(self) -> bool:
        """Return whether it only says that the ward is watched."""
        return not self.rows and not self.gone

    @property
    def patients(self) -> set[str]:
        """Return whom the rows show."""
        return {row.patient for row in self.rows}


@dataclass(slots=True, eq=False)
class Subscription:
    """An open board, or a patient's page.

    Attributes:
        user: whose.
        queue: what it has not been sent yet.
        dropped: it was too slow, or the server ends.
    """

    user: str = ""
    queue: asyncio.Queue[Change | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_EVENTS))
    dropped: bool = False


@dataclass(slots=True)
class _Shown:
    row: Row
    number: int


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at the ward found."""

    now_us: int
    replay: Replay | None
    changed: set[str]
    troubles: tuple[Trouble, ...]


class BoardFeed:
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
        self._inputs: tuple[object, ...] | None = None
        self._swept = self._checked = 0.0
        self._subscriptions: set[Subscription] = set()
        self._ready = asyncio.Event()
        self._closed = False
        self._looked = self._told = time.monotonic()
        self._now_us = 0
        self._replay: Replay | None = None
        self._found: tuple[Trouble, ...] = ()
        self._refused: Trouble | None = None

    async def run(self) -> None:
        """BoardFeed until cancelled."""
        while True:
            before = self.troubles
            try:
                await self.tick()
                self._refused = None
            except PrivacyError as error:  # keys were taken away: what is identified goes from the screens
                self._refuse(error)
                await self._clear()
            except (VitaLakeError, sqlite3.Error) as error:  # the store refuses, or the rules: boards stay, and say so
                self._refuse(error)
            except Exception as error:
                self._refused = Trouble("bug", "The ward is not watched: something went wrong here, and was noted.")
                log.error("bug", extra={"reason": type(error).__qualname__, "where": "board"})
            if self.troubles != before or time.monotonic() - self._told >= BEAT_SECONDS:
                await self._beat()
            await asyncio.sleep(LOOK_SECONDS)

    def _refuse(self, error: VitaLakeError | sqlite3.Error) -> None:
        trouble = of_error(error)
        if trouble != self._refused:
            self._refused = trouble
            where, remedy = getattr(error, "where", "care store"), getattr(error, "remedy", "Check its disk.")
            what = getattr(error, "what", type(error).__name__)
            log.error("board-stands", extra={"what": what, "where": where, "remedy": remedy})
        self._ready.set()  # a page that says what is wrong is better than none

    async def tick(self) -> None:
        """Take in what has changed, and push it."""
        look = await self._thread(self._look)
        self._looked, self._now_us, self._replay = time.monotonic(), look.now_us, look.replay
        self._found = look.troubles
        self._pending |= look.changed
        while self._noted:
            self._pending |= self._noted.popleft()
        self._pending |= {patient for patient, due_us in self._due.items() if due_us <= look.now_us}
        moment = time.monotonic()
        if moment - self._told < self.pause and self._ready.is_set():
            return
        ready = [p for p in self._pending if moment - self._pushed.get(p, -CALM_SECONDS) >= CALM_SECONDS]
        rows: list[Row] = []
        gone: list[str] = []
        for patient in ready:  # one call each: requests get their turn in between
            row, due_us = await self._thread(self._row, patient)
            self._pending.discard(patient)
            self._take(patient, row, due_us, rows, gone)
            if time.monotonic() - moment >= self.pause:  # on a full ward the first need not wait for the last
                await self._push(rows, gone)
                rows, gone, moment = [], [], time.monotonic()
        await self._push(rows, gone)
        self._ready.set()

    @property
    def pause(self) -> float:
        """Return the seconds between two changes that boards are told."""
        return max(LOOK_SECONDS, len(self._subscriptions) * BOARD_SECONDS)

    def _look(self) -> _Look:
        """Return the ward's time, and who is to be looked at; in the ward's thread."""
        changed, troubles = self._ward.changed(), self._found
        moment = time.monotonic()
        if moment - self._checked >= 1.0:
            self._checked = moment
            inputs = self._ward.inputs()
            if inputs != self._inputs or moment - self._swept >= SWEEP_SECONDS:
                self._inputs, self._swept = inputs, moment
                changed |= self._ward.patients()
            troubles = tuple(self._ward.troubles())
        return _Look(self._ward.now_us(), self._ward.replay(), changed, troubles)

    def note(self, patients: set[str]) -> None:
        """Take in patients that a request found changed; called in the ward's thread."""
        if patients:
            self._noted.append(patients)

    def _row(self, patient: str) -> tuple[Row | None, int]:
        chart = self._ward.chart(patient)
        if chart is None or chart.gone:
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
            self._now_us = await self._thread(self._ward.now_us)
            await self._tell(tuple(rows), tuple(gone), self._now_us)

    async def _tell(self, rows: tuple[Row, ...], gone: tuple[str, ...], ward_us: int) -> None:
        self.number += 1
        for row in rows:
            self._shown[row.patient].number = self.number
        self._gone |= dict.fromkeys(gone, self.number)
        await self._send(self.encoded(Change(self.number, ward_us, rows, gone)))

    async def _beat(self) -> None:
        """Tell all boards the time, and what is wrong; whoever hears nothing of the kind says that it is not live."""
        await self._send(Change(self.number, self._now_us, (), (), event=self.beat()))

    async def _send(self, change: Change) -> None:
        self._told = time.monotonic()
        for i, subscription in enumerate(list(self._subscriptions), 1):
            try:
                subscription.queue.put_nowait(change)
            except asyncio.QueueFull:
                self._drop(subscription)
            if i % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _clear(self) -> None:
        """Take all patients off the screens; they come back when they may be seen again."""
        gone = tuple(self._shown)
        self._pending |= set(gone)
        self._shown.clear()
        self._pushed.clear()
        if gone:
            await self._tell((), gone, self._now_us)

    def _drop(self, subscription: Subscription) -> None:
        subscription.dropped = True
        self._subscriptions.discard(subscription)
        while not subscription.queue.empty():
            subscription.queue.get_nowait()
        subscription.queue.put_nowait(None)

    def close(self) -> None:
        """End all boards' streams, also of those that are just opening; their browsers try again."""
        self._closed = True
        for subscription in list(self._subscriptions):
            self._drop(subscription)

    # -- for boards ----------------------------------------------------------------------------------------------

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """Return what is wrong with the ward, worst first; nothing: what is shown is what is known."""
        found = list(self._found)
        if self._refused is not None:
            found.insert(0, self._refused)
        if time.monotonic() - self._looked > STUCK_SECONDS and not found:
            found.append(Trouble("stuck", "The ward is not looked at any more: a disk or a lock holds it up."))
        return tuple(sorted(found, key=lambda trouble: not trouble.failing))

    @property
    def speed(self) -> float:
        """Return how fast the ward's time runs."""
        return 1.0 if self._replay is None else self._replay.speed if self._now_us < self._replay.end_us else 0.0

    @property
    def boards(self) -> int:
        """Return how many are open."""
        return len(self._subscriptions)

    async def rows(self) -> list[Row]:
        """Return all rows in their order, once the ward has been looked at for the first time."""
        await self._ready.wait()
        return sorted((shown.row for shown in self._shown.values()), key=lambda row: row.order)

    def shown(self) -> set[str]:
        """Return the patients that boards show now."""
        return set(self._shown)

    @property
    def place(self) -> str:
        """Return where a board is that has just been shown all rows."""
        return f"{self.epoch}-{self.number}"

    def since(self, place: str, ward_us: int) -> Change:
        """Return what a board missed that was at a place; all rows, if the place is not of this watcher."""
        epoch, _, text = place.partition("-")
        known = epoch == self.epoch and text.isdecimal() and len(text) < 16
        number = int(text) if known else -1
        rows = tuple(shown.row for shown in self._shown.values() if shown.number > number)
        gone = tuple(patient for patient, when in self._gone.items() if when > number)
        return self.encoded(Change(self.number, ward_us, rows, gone, whole=not known))

    def subscribe(self, user: str = "", *, most: int = 0) -> Subscription:
        """Return a new subscription; what happens from now on comes through it.

        Args:
            user: whose.
            most: that may be open, half of them one user's; 0: any number.

        Raises:
            Problem: so many are open.
        """
        if most and len(self._subscriptions) >= most:
            raise Problem(503, "As many boards are open as may be.", retry_after=BUSY_SECONDS)
        if most and sum(one.user == user for one in self._subscriptions) >= max(1, most // 2):
            raise Problem(429, "As many boards of this user are open as may be.", retry_after=BUSY_SECONDS)
        subscription = Subscription(user)
        self._subscriptions.add(subscription)
        if self._closed:
            self._drop(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """End a subscription."""
        self._subscriptions.discard(subscription)

    async def changes(self, subscription: Subscription) -> AsyncIterator[Change]:
        """Yield what a subscription brings, beats too; ends when it was dropped."""
        while not (subscription.dropped and subscription.queue.empty()):
            change = await subscription.queue.get()
            if change is None:
                return
            yield change

    def encoded(self, change: Change) -> Change:
        """Return a change with its server-sent event."""
        document: dict[str, Any] = {
            "ward_us": change.ward_us,
            "speed": self.speed,
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
            "whole": change.whole,
        }
        return replace(change, event=Event("rows", document, place=f"{self.epoch}-{change.number}"))

    def beat(self) -> Event:
        """Return the event that says the time, that the line still stands, and what is wrong."""
        now_us = clock.now_us()  # it goes on, whether or not the store can be looked at
        document = {
            "ward_us": self._replay.at(now_us) if self._replay else now_us,
            "speed": self.speed,
            "build": build(),
            "troubles": [{"code": t.code, "text": t.text, "failing": t.failing} for t in self.troubles],
        }
        return Event("ward", document)
