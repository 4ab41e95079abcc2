"""Finds the notification rules, which packages register under the entry points ``vitalake.notifications``."""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from vitalake import declarations, plugins
from vitalake.notifications.base import Notification, Rule, RuleKind, Seen
from vitalake.notifications.events import EventBus, LaneObserved
from vitalake.notifications.sending import Send, sender
from vitalake.settings import CONFIG_NAME, Settings

GROUP = "vitalake.notifications"
FIELD = "notify_when"

RETRY_SECONDS = (10.0, 30.0, 60.0, 300.0)
"""Waits before a notification that was not delivered is sent again, after the first, second … attempt."""

MOST_WAITING = 20
"""Notifications that wait to be delivered; while an address is gone for days, the oldest ones are dropped."""

_log = logging.getLogger(__name__)


@cache
def rule_kinds() -> dict[str, RuleKind]:
    """Return every registered notification rule, by name.

    Raises:
        SettingsError: an entry point cannot be loaded, is not a rule, has another name than its rule, or two packages
            register the same name.
    """
    return {name: _loaded(entry) for name, entry in plugins.registered(GROUP).items()}


class Notifier:
    """Shows a lane's state to its rules, and sends their notifications."""

    def __init__(self, settings: Settings, job: str, send: Send) -> None:
        """Make the rules: ``pause``, ``share`` with the options under ``alerts``, and those under ``notify_when``.

        Raises:
            SettingsError: a name or an option is not valid (the error names file and line), or a plug-in cannot be
                loaded.
        """
        kinds, text = rule_kinds(), _configuration_text(settings)
        defaults: dict[str, dict[str, Any]] = {"pause": {}, "share": settings.alerts.model_dump()}
        self._job, self._outbox = job, _Outbox(send)
        self._rules: dict[str, Rule] = {}
        for name in [*defaults, *(name for name in settings.notify_when if name not in defaults)]:
            if name not in kinds:
                raise declarations.refused(
                    "Notification rule is not installed",
                    where=CONFIG_NAME,
                    text=text,
                    at=(FIELD, name),
                    remedy=f"The rules are: {', '.join(kinds)}.",
                )
            given = defaults.get(name, {}) | settings.notify_when.get(name, {})
            options = declarations.convert(given, kinds[name].options, where=CONFIG_NAME, text=text, at=(FIELD, name))
            self._rules[name] = kinds[name].make(job, options)

    @property
    def names(self) -> list[str]:
        """Return the names of the rules."""
        return list(self._rules)

    def subscribe_to(self, events: EventBus) -> None:
        """Observe the lane from now on, whenever its state is published."""
        events.subscribe(LaneObserved, self._take)

    def _take(self, event: LaneObserved) -> None:
        if event.job == self._job:
            self.observe(event.state)

    def observe(self, seen: Seen) -> None:
        """Show the lane to every rule, and send the notifications; a rule that fails is not asked again."""
        for name, rule in list(self._rules.items()):
            try:
                notification = rule.observe(seen)
            except Exception as error:  # the rule can be another package's: the lane runs on without it
                del self._rules[name]
                _log.error("notification rule failed", extra={"what": name, "reason": type(error).__name__})
                continue
            if notification is not None:
                self._outbox.add(notification)
        self._outbox.deliver(seen.now)


class _Outbox:
    """Notifications that no address, or not every address, has taken yet, oldest first.

    They are sent in their order: a "goes on" never comes before its "waits". A notification that one of several
    addresses refuses is sent to all of them again.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[Notification] = deque(maxlen=MOST_WAITING)
        self._failures, self._next = 0, 0.0

    def add(self, notification: Notification) -> None:
        """Take over a notification; the oldest is dropped when too many wait."""
        self._waiting.append(notification)

    def deliver(self, now: float) -> None:
        """Send what waits, unless the last attempt failed a moment ago.

        Args:
            now: seconds, of the clock of ``Seen.now``.
        """
        while self._waiting and now >= self._next:
            if self._is_sent(self._waiting[0]):
                self._waiting.popleft()
                self._failures = 0
                continue
            self._next = now + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
            self._failures += 1

    def _is_sent(self, notification: Notification) -> bool:
        try:
            sent, reason = self._send(notification.title, notification.text), "refused"
        except Exception as error:  # of the library or of an address's plug-in; its text may hold a token
            sent, reason = False, type(error).__name__
        if not sent and not self._failures:
            _log.warning("notification was not delivered", extra={"what": notification.title, "reason": reason})
        return sent


def notified_events(settings: Settings, job: str) -> EventBus:
    """Return an event bus on which a lane's notification rules are subscribed, and send to the configured addresses.

    Raises:
        SettingsError: a rule, an option or an address is not valid, or a plug-in cannot be loaded.
    """
    events = EventBus()
    Notifier(settings, job, sender(settings.notify, home=settings.home)).subscribe_to(events)
    return events


def _loaded(entry: EntryPoint) -> RuleKind:
    kind = plugins.load(entry)
    if not isinstance(kind, RuleKind):
        raise plugins.unusable(entry, "is not a RuleKind")
    if kind.name != entry.name:
        raise plugins.unusable(entry, "has another name than its entry point")
    plugins.check_options(entry, kind.options)
    return kind


def _configuration_text(settings: Settings) -> str:
    """Return the text of the configuration, in which errors look up their line; empty if it cannot be read."""
    try:
        return (settings.home / CONFIG_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
