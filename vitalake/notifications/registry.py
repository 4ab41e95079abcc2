"""Finds the notification rules, which packages register under the entry points ``vitalake.notifications``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from vitalake import declarations, plugins
from vitalake.notifications.base import Notification, Rule, RuleKind, Seen
from vitalake.notifications.delivery import Delivery
from vitalake.notifications.events import EventBus, LaneObserved
from vitalake.notifications.sending import addresses
from vitalake.settings import CONFIG_NAME, Settings

GROUP = "vitalake.notifications"
FIELD = "notify_when"

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
    """Shows a lane's state to its rules, and passes on their notifications."""

    def __init__(self, settings: Settings, job: str, deliver: Callable[[str, Notification], None]) -> None:
        """Make the rules: ``pause``, ``share`` with the options under ``alerts``, and those under ``notify_when``.

        Args:
            settings: of the home.
            job: the lane's name.
            deliver: takes the name of a rule and its notification; must not wait, because the lane's supervisor does.

        Raises:
            SettingsError: a name or an option is not valid (the error names file and line), or a plug-in cannot be
                loaded.
        """
        kinds, text = rule_kinds(), _configuration_text(settings)
        defaults: dict[str, dict[str, Any]] = {"pause": {}, "share": settings.alerts.model_dump()}
        self._job, self._deliver = job, deliver
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
        """Show the lane to every rule, and pass on the notifications; a rule that fails is not asked again."""
        for name, rule in list(self._rules.items()):
            try:
                notification = rule.observe(seen)
            except Exception as error:  # the rule can be another package's: the lane runs on without it
                del self._rules[name]
                _log.error("notification rule failed", extra={"what": name, "reason": type(error).__name__})
                continue
            if notification is not None:
                self._deliver(name, notification)


@contextmanager
def notified_events(settings: Settings, job: str) -> Iterator[EventBus]:
    """Yield an event bus on which a lane's notification rules are subscribed; they notify the configured addresses.

    The end of the block waits some seconds for addresses that have not taken everything yet.

    Raises:
        SettingsError: a rule, an option or an address is not valid, or a plug-in cannot be loaded.
    """
    with Delivery(addresses(settings.notify, home=settings.home)) as delivery:
        events = EventBus()
        Notifier(settings, job, delivery.add).subscribe_to(events)
        yield events


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
