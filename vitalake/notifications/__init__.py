"""Notifications to people who do not watch a lane: they contain its state in words and counts, and no values.

Each rule is a module of its own.
"""

from vitalake.notifications.base import Notification, Rule, RuleKind, Seen, Tally
from vitalake.notifications.events import EventBus, LaneObserved
from vitalake.notifications.registry import Notifier, notified_events, rule_kinds
from vitalake.notifications.sending import Send, sender

__all__ = [
    "EventBus",
    "LaneObserved",
    "Notification",
    "Notifier",
    "Rule",
    "RuleKind",
    "Seen",
    "Send",
    "Tally",
    "notified_events",
    "rule_kinds",
    "sender",
]
