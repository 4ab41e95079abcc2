"""Follows the online store and sends changes to all open boards; one task, however many boards are open."""

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
from models.serving.health import Trouble, trouble_of
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
"""The pause between two looks at the store: a look takes two microseconds while nothing has changed."""

CALM_SECONDS = 0.25
"""The least time between two changes of a patient's row. The first change is shown at once, and the last one is
never lost."""

BOARD_SECONDS = 0.0005
"""Time reserved for sending an event to one board. Sending takes 0.2 to 0.3 ms; the rest is for scores. One board gets
up to twenty events a second, each of five hundred boards four."""

BOARDS_PER_TURN = 25
"""Boards that are served before waiting requests get their turn: about five milliseconds."""

SWEEP_SECONDS = 10.0
"""How often all patients are looked at again: some leave the board by the clock, not by a message."""

BEAT_SECONDS = 5.0
"""Boards get a heartbeat at least this often; when three are missing they say "NOT UPDATED" (SILENT_MS in live.js)."""

STUCK_SECONDS = 15.0
"""After so long without a look at the ward, a disk or a lock must be blocking it."""

QUEUE_EVENTS = 128
"""A browser that is this many events behind is disconnected; it reconnects and gets what it missed."""


_NONE = Event("none", {})


@dataclass(frozen=True, slots=True)
class Change:
    """A batch of changes.

    Attributes:
        number: 1, 2, 3 …
        ward_us: the ward's time when it was sent.
        rows: changed rows.
        gone: patients that are no longer shown.
        whole: whether ``rows`` are all rows; a board then removes every other row.
        event: the server-sent event; made once for all boards.
    """

    number: int
    ward_us: int
    rows: tuple[Row, ...]
    gone: tuple[str, ...]
    whole: bool = False
    event: Event = field(default=_NONE, repr=False, compare=False)

    @property
    def beats(self) -> bool:
        """Return whether it is only a heartbeat."""
        return not self.rows and not self.gone

    @property
    def patients(self) -> set[str]:
        """Return the patients of the rows."""
        return {row.patient for row in self.rows}


@dataclass(slots=True, eq=False)
class Subscription:
    """The connection of an open board or patient's page.

    Attributes:
        user: the account.
        queue: changes that were not sent yet; None ends it.
        dropped: it was too slow, or the server stops.
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
    """The result of a look at the ward."""

    now_us: int
    replay: Replay | None
    changed: set[str]
    troubles: tuple[Trouble, ...]


class BoardFeed:
    """Looks at the ward for all boards, and sends them the changes."""

    def __init__(self, ward: Ward, thread: OneThread) -> None:
        self._ward, self._thread = ward, thread
        self.epoch = secrets.token_hex(4)
        self.number = 0
        self._shown: dict[str, _Shown] = {}
        self._gone: dict[str, int] = {}
        self._pending: set[str] = set()
        self._noted: deque[set[str]] = deque()
        self._due: dict[str, int] = {}
        self._row_sent_at: dict[str, float] = {}
        self._inputs: tuple[object, ...] | None = None
        self._swept = self._checked = 0.0
        self._subscriptions: set[Subscription] = set()
        self._ready = asyncio.Event()
        self._closed = False
        self._looked_at = self._sent_at = time.monotonic()
        self._now_us = 0
        self._replay: Replay | None = None
        self._found: tuple[Trouble, ...] = ()
        self._refused: Trouble | None = None

    async def run(self) -> None:
        """Follow the ward until cancelled."""
        while True:
            before = self.troubles
            try:
                await self.tick()
                self._refused = None
            except PrivacyError as error:  # keys are revoked: remove all patients from the screens
                self._refuse(error)
                await self._clear()
            except (VitaLakeError, sqlite3.Error) as error:  # boards keep their rows and say that they are not updated
                self._refuse(error)
            except Exception as error:
                self._refused = Trouble("bug", "The values shown are not updated: an internal error was logged.")
                log.error("bug", extra={"reason": type(error).__qualname__, "where": "board"})
            if self.troubles != before or time.monotonic() - self._sent_at >= BEAT_SECONDS:
                await self._beat()
            await asyncio.sleep(LOOK_SECONDS)

    def _refuse(self, error: VitaLakeError | sqlite3.Error) -> None:
        trouble = trouble_of(error)
        if trouble != self._refused:
            self._refused = trouble
            where, remedy = getattr(error, "where", "online store"), getattr(error, "remedy", "Check its disk.")
            what = getattr(error, "what", type(error).__name__)
            log.error("board-stands", extra={"what": what, "where": where, "remedy": remedy})
        self._ready.set()  # a page that tells the trouble is better than a page that never loads

    async def tick(self) -> None:
        """Look at the ward once, and send what has changed."""
        look = await self._thread(self._look)
        self._looked_at, self._now_us, self._replay = time.monotonic(), look.now_us, look.replay
        self._found = look.troubles
        self._pending |= look.changed
        while self._noted:
            self._pending |= self._noted.popleft()
        self._pending |= {patient for patient, due_us in self._due.items() if due_us <= look.now_us}
        moment = time.monotonic()
        if moment - self._sent_at < self.pause and self._ready.is_set():
            return
        ready = [p for p in self._pending if moment - self._row_sent_at.get(p, -CALM_SECONDS) >= CALM_SECONDS]
        rows: list[Row] = []
        gone: list[str] = []
        for patient in ready:  # one call per patient, so that requests get their turn in between
            row, due_us = await self._thread(self._row, patient)
            self._pending.discard(patient)
            self._take(patient, row, due_us, rows, gone)
            if time.monotonic() - moment >= self.pause:  # on a full ward the first patients do not wait for the last
                await self._push(rows, gone)
                rows, gone, moment = [], [], time.monotonic()
        await self._push(rows, gone)
        self._ready.set()

    @property
    def pause(self) -> float:
        """Return the seconds between two changes that are sent to boards."""
        return max(LOOK_SECONDS, len(self._subscriptions) * BOARD_SECONDS)

    def _look(self) -> _Look:
        """Return the ward's time, the patients to look at and the troubles; runs in the ward's thread."""
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
        """Add patients whom a request has found changed; called in the ward's thread."""
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
            self._row_sent_at[patient] = time.monotonic()
            self._shown[patient] = _Shown(row, before.number if before else 0)
            rows.append(row)

    async def _push(self, rows: list[Row], gone: list[str]) -> None:
        if rows or gone:
            self._now_us = await self._thread(self._ward.now_us)
            await self._send_change(tuple(rows), tuple(gone), self._now_us)

    async def _send_change(self, rows: tuple[Row, ...], gone: tuple[str, ...], ward_us: int) -> None:
        self.number += 1
        for row in rows:
            self._shown[row.patient].number = self.number
        self._gone |= dict.fromkeys(gone, self.number)
        await self._send(self.encoded(Change(self.number, ward_us, rows, gone)))

    async def _beat(self) -> None:
        """Send a heartbeat to all boards: the time and the troubles."""
        await self._send(Change(self.number, self._now_us, (), (), event=self.beat()))

    async def _send(self, change: Change) -> None:
        self._sent_at = time.monotonic()
        for i, subscription in enumerate(list(self._subscriptions), 1):
            try:
                subscription.queue.put_nowait(change)
            except asyncio.QueueFull:
                self._drop(subscription)
            if i % BOARDS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _clear(self) -> None:
        """Remove all patients from the screens; they return when the keys allow it again."""
        gone = tuple(self._shown)
        self._pending |= set(gone)
        self._shown.clear()
        self._row_sent_at.clear()
        if gone:
            await self._send_change((), gone, self._now_us)

    def _drop(self, subscription: Subscription) -> None:
        subscription.dropped = True
        self._subscriptions.discard(subscription)
        while not subscription.queue.empty():
            subscription.queue.get_nowait()
        subscription.queue.put_nowait(None)

    def close(self) -> None:
        """End the streams of all boards, also of those that are just opening; their browsers reconnect."""
        self._closed = True
        for subscription in list(self._subscriptions):
            self._drop(subscription)

    # -- for boards ----------------------------------------------------------------------------------------------

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """Return the troubles of the ward, failing ones first; empty: the values shown are current."""
        found = list(self._found)
        if self._refused is not None:
            found.insert(0, self._refused)
        if time.monotonic() - self._looked_at > STUCK_SECONDS and not found:
            found.append(
                Trouble("stuck", "The values shown are not updated: the server is waiting for a disk or a lock.")
            )
        return tuple(sorted(found, key=lambda trouble: not trouble.failing))

    @property
    def speed(self) -> float:
        """Return how fast the ward's time runs: 1 is real time, 0 is a replay that has ended."""
        return 1.0 if self._replay is None else self._replay.speed if self._now_us < self._replay.end_us else 0.0

    @property
    def boards(self) -> int:
        """Return how many boards and patients' pages are open."""
        return len(self._subscriptions)

    async def rows(self) -> list[Row]:
        """Return all rows in their order, after the first look at the ward."""
        await self._ready.wait()
        return sorted((shown.row for shown in self._shown.values()), key=lambda row: row.order)

    def shown(self) -> set[str]:
        """Return the patients whom boards show now."""
        return set(self._shown)

    @property
    def position(self) -> str:
        """Return the position of a board that has just received all rows: the last event id it would have seen."""
        return f"{self.epoch}-{self.number}"

    def since(self, position: str, ward_us: int) -> Change:
        """Return what a board has missed since a position; all rows, if the position is from another process."""
        epoch, _, text = position.partition("-")
        known = epoch == self.epoch and text.isdecimal() and len(text) < 16
        number = int(text) if known else -1
        rows = tuple(shown.row for shown in self._shown.values() if shown.number > number)
        gone = tuple(patient for patient, when in self._gone.items() if when > number)
        return self.encoded(Change(self.number, ward_us, rows, gone, whole=not known))

    def subscribe(self, user: str = "", *, most: int = 0) -> Subscription:
        """Return a new subscription, which receives all changes from now on.

        Args:
            user: the account.
            most: how many may be open, at most half of them for one user; 0: no limit.

        Raises:
            Problem: too many are open.
        """
        if most and len(self._subscriptions) >= most:
            raise Problem(503, "Too many boards are open.", retry_after=BUSY_SECONDS)
        if most and sum(one.user == user for one in self._subscriptions) >= max(1, most // 2):
            raise Problem(429, "This user has too many boards open.", retry_after=BUSY_SECONDS)
        subscription = Subscription(user)
        self._subscriptions.add(subscription)
        if self._closed:
            self._drop(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """End a subscription."""
        self._subscriptions.discard(subscription)

    async def changes(self, subscription: Subscription) -> AsyncIterator[Change]:
        """Yield the changes of a subscription, heartbeats included; ends when it was dropped."""
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
        return replace(change, event=Event("rows", document, event_id=f"{self.epoch}-{change.number}"))

    def beat(self) -> Event:
        """Return the heartbeat: the ward's time, its speed, the build and the troubles."""
        now_us = clock.now_us()  # time goes on even if the store cannot be read
        document = {
            "ward_us": self._replay.at(now_us) if self._replay else now_us,
            "speed": self.speed,
            "build": build(),
            "troubles": [{"code": t.code, "text": t.text, "failing": t.failing} for t in self.troubles],
        }
        return Event("ward", document)
