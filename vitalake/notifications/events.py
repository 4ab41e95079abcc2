"""A small event bus inside one process: who sees that something happened publishes it, who cares subscribes.

It is synchronous and keeps no history: an event reaches those that are subscribed when it is published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vitalake.notifications.base import Seen

_log = logging.getLogger(__name__)

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class LaneObserved:
    """Somebody looked at a running lane.

    Attributes:
        job: the lane's name.
        state: how the lane was at that moment.
    """

    job: str
    state: Seen


class EventBus:
    """Passes events to their subscribers, in the order in which these subscribed; used by one thread."""

    def __init__(self) -> None:
        self._subscribers: list[tuple[type[Any], Callable[[Any], None]]] = []
        self._failing: set[int] = set()

    def subscribe(self, kind: type[E], subscriber: Callable[[E], None]) -> None:
        """Call the subscriber with every event of this type that is published from now on."""
        self._subscribers.append((kind, subscriber))

    def publish(self, event: object) -> None:
        """Pass an event to all subscribers of its type.

        A subscriber that fails harms neither the publisher nor the other subscribers. Its failure is logged once until
        it succeeds again, by the type of the error: the text of the error may hold a value.
        """
        for number, (kind, subscriber) in enumerate(self._subscribers):
            if not isinstance(event, kind):
                continue
            try:
                subscriber(event)
            except Exception as error:
                if number not in self._failing:
                    self._failing.add(number)
                    what = {"what": type(event).__name__, "reason": type(error).__name__}
                    _log.error("event subscriber failed", extra=what)
            else:
                self._failing.discard(number)
