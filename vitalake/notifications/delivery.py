"""Delivers notifications to every address, to each in a thread of its own: nobody waits for an address."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from vitalake.notifications.base import Notification
from vitalake.notifications.sending import Address

RETRY_SECONDS = (10.0, 30.0, 60.0, 300.0)
"""Waits before a notification that was not delivered is sent again, after the first, second … attempt."""

MOST_WAITING = 20
"""Notifications that wait for an address; while it is gone for days, older ones are dropped."""

END_SECONDS = 5.0
"""How long the end of a stream waits for all addresses together: a server that does not answer takes apprise 4 s."""

_log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    """A notification, and the rule that it is of."""

    rule: str
    notification: Notification


class Outbox:
    """What one address has not taken yet, oldest first; one thread adds, another one delivers.

    They are sent in their order: a "goes on" never comes before its "waits".
    """

    def __init__(self, address: Address, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._clock = address, clock
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._failures, self._next, self._dropped = 0, 0.0, 0

    def add(self, rule: str, notification: Notification) -> None:
        """Take over a notification of a rule; does not wait.

        When too many wait, the oldest one is dropped for which a newer one of the same rule waits: the newest one of
        each rule stays, because it describes the state that is still true.
        """
        with self._lock:
            self._waiting.append(_Waiting(rule, notification))
            old = self._superseded() if len(self._waiting) > MOST_WAITING else None
            if old is None:
                return
            del self._waiting[old]
            self._dropped += 1
        _log.warning("notifications were dropped, too many wait", extra=self._about(count=self._dropped))

    def _superseded(self) -> int | None:
        """Return the place of the oldest one for which a newer one of the same rule waits."""
        newest = {waiting.rule: place for place, waiting in enumerate(self._waiting)}
        return next((place for place, waiting in enumerate(self._waiting) if newest[waiting.rule] != place), None)

    def deliver(self, *, at_once: bool = False) -> float | None:
        """Send what waits until the address refuses.

        Args:
            at_once: do not wait after an attempt that failed a moment ago.

        Returns:
            The seconds until the next attempt; None: nothing waits.
        """
        if at_once:
            self._next = self._clock()
        while (first := self._first()) is not None:
            seconds = self._next - self._clock()
            if seconds > 0:
                return seconds
            if self._is_taken(first.notification):
                self._failures = 0
                self._remove(first)
                continue
            # From the end of the attempt: it can have taken minutes.
            self._next = self._clock() + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
            self._failures += 1
        return None

    def give_up(self) -> None:
        """Drop what waits, and log what nobody will read."""
        with self._lock:
            titles = [waiting.notification.title for waiting in self._waiting]
            self._waiting = []
        if titles:
            extra = self._about(what="; ".join(titles), count=len(titles))
            _log.error("notifications were not delivered before the stream ended", extra=extra)

    def _first(self) -> _Waiting | None:
        with self._lock:
            return self._waiting[0] if self._waiting else None

    def _remove(self, taken: _Waiting) -> None:
        """Remove what was taken, if it was not dropped while it was sent."""
        with self._lock:
            self._dropped = 0
            if self._waiting and self._waiting[0] is taken:
                del self._waiting[0]

    def _is_taken(self, notification: Notification) -> bool:
        try:
            taken, reason = self._address.send(notification.title, notification.text), "refused"
        except Exception as error:  # of the library or of an address's plug-in; its text may hold a token
            taken, reason = False, type(error).__name__
        if not taken and not self._failures:
            _log.warning("notification was not delivered", extra=self._about(what=notification.title, reason=reason))
        return taken

    def _about(self, **fields: object) -> dict[str, object]:
        """Return the fields of a log line; they name the address by its place, because it can contain a token."""
        return {"where": self._address.where, **fields}


class Delivery:
    """Delivers to several addresses, within a ``with`` block.

    At the block's end what waits is sent once more, for at most ``end_seconds``; what is left then is logged.
    """

    def __init__(self, addresses: Sequence[Address], *, end_seconds: float = END_SECONDS) -> None:
        self._couriers = [_Courier(address) for address in addresses]
        self._end_seconds = end_seconds

    def __enter__(self) -> Self:
        for courier in self._couriers:
            courier.start()
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + self._end_seconds
        for courier in self._couriers:
            courier.end()
        for courier in self._couriers:
            courier.join(max(0.0, deadline - time.monotonic()))
        for courier in self._couriers:
            courier.outbox.give_up()

    def add(self, rule: str, notification: Notification) -> None:
        """Deliver a notification of a rule to every address; does not wait for any."""
        for courier in self._couriers:
            courier.add(rule, notification)


class _Courier(threading.Thread):
    """The thread of one address. A daemon: an address that never ends its answer does not keep the process alive."""

    def __init__(self, address: Address) -> None:
        super().__init__(name=f"notifications to {address.where}", daemon=True)
        self.outbox = Outbox(address)
        self._awake = threading.Event()
        self._ending = False

    def add(self, rule: str, notification: Notification) -> None:
        """Deliver a notification soon."""
        self.outbox.add(rule, notification)
        self._awake.set()

    def end(self) -> None:
        """Send what waits once more, and end."""
        self._ending = True
        self._awake.set()

    def run(self) -> None:
        """Deliver whenever something was added, and when the next attempt is due."""
        seconds: float | None = None
        ending = False
        while not ending:
            self._awake.wait(seconds)
            self._awake.clear()
            ending = self._ending
            seconds = self.outbox.deliver(at_once=ending)
