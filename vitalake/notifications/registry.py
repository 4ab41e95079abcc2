"""Which notification rules there are, and those of a lane.

They are what installed packages register as entry points of the group ``vitalake.notifications``.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from vitalake import declarations, plugins
from vitalake.notifications.base import Rule, RuleKind, Seen
from vitalake.notifications.events import EventBus, LaneObserved
from vitalake.notifications.sending import Send, sender
from vitalake.settings import CONFIG_NAME, Settings

GROUP = "vitalake.notifications"
FIELD = "notify_when"

_log = logging.getLogger(__name__)


@cache
def rule_kinds() -> dict[str, RuleKind]:
    """Return every notification rule that is registered, by name.

    Raises:
        SettingsError: one cannot be loaded, is none or has another name than its entry point, or two have one name.
    """
    return {name: _loaded(entry) for name, entry in plugins.registered(GROUP).items()}


class Notifier:
    """The rules of a lane, and whom they tell."""

    def __init__(self, settings: Settings, job: str, send: Send) -> None:
        """Make the rules: ``pause``, ``share`` by ``alerts``, and those that ``notify_when`` names.

        Raises:
            SettingsError: a name or an option does not fit; names file and line. A plug-in cannot be loaded.
        """
        kinds, text = rule_kinds(), _text(settings)
        ours: dict[str, dict[str, Any]] = {"pause": {}, "share": settings.alerts.model_dump()}
        self._job, self._send = job, send
        self._rules: dict[str, Rule] = {}
        for name in [*ours, *(name for name in settings.notify_when if name not in ours)]:
            if name not in kinds:
                raise declarations.refused(
                    "Notification rule is not installed",
                    where=CONFIG_NAME,
                    text=text,
                    at=(FIELD, name),
                    remedy=f"The rules are: {', '.join(kinds)}.",
                )
            given = ours.get(name, {}) | settings.notify_when.get(name, {})
            options = declarations.convert(given, kinds[name].options, where=CONFIG_NAME, text=text, at=(FIELD, name))
            self._rules[name] = kinds[name].make(job, options)

    @property
    def names(self) -> list[str]:
        """Return the names of the rules."""
        return list(self._rules)

    def subscribe_to(self, events: EventBus) -> None:
        """Observe the lane from now on, whenever somebody publishes how it is."""
        events.subscribe(LaneObserved, self._take)

    def _take(self, event: LaneObserved) -> None:
        if event.job == self._job:
            self.observe(event.state)

    def observe(self, seen: Seen) -> None:
        """Show the lane to every rule, and send what each has to say; one that fails is not asked again."""
        for name, rule in list(self._rules.items()):
            try:
                found = rule.observe(seen)
            except Exception as error:  # a package's own: the lane goes on without it
                del self._rules[name]
                _log.error("notification rule failed", extra={"rule": name, "error": type(error).__name__})
                continue
            if found is not None:
                self._send(found.title, found.text)


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
        raise plugins.unusable(entry, "is no RuleKind")
    if kind.name != entry.name:
        raise plugins.unusable(entry, "has another name than its entry point")
    plugins.check_options(entry, kind.options)
    return kind


def _text(settings: Settings) -> str:
    """Return the configuration's text, to find lines in it; empty: it is not there."""
    try:
        return (settings.home / CONFIG_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
