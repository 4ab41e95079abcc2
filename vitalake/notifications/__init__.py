"""Telling people who are not looking: never more than the lane's state in words. Each rule is a module."""

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
