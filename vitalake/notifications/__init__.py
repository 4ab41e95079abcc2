"""Notifications to people who do not watch a lane: they contain its state in words and counts, and no values.

Each rule is a module of its own.
"""

from vitalake.notifications.base import Notification, Rule, RuleKind, Seen, Tally
from vitalake.notifications.delivery import Delivery, Outbox
from vitalake.notifications.events import EventBus, LaneObserved
from vitalake.notifications.registry import Notifier, notified_events, rule_kinds
from vitalake.notifications.sending import Address, Send, addresses

__all__ = [
    "Address",
    "Delivery",
    "EventBus",
    "LaneObserved",
    "Notification",
    "Notifier",
    "Outbox",
    "Rule",
    "RuleKind",
    "Seen",
    "Send",
    "Tally",
    "addresses",
    "notified_events",
    "rule_kinds",
]
