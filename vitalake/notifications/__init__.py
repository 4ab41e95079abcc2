"""Telling people who are not looking: never more than the lane's state in words. Each rule is a module."""

from vitalake.notifications.base import Notification, Rule, RuleKind, Seen, Tally
from vitalake.notifications.registry import Notifier, rule_kinds
from vitalake.notifications.sending import Send, sender

__all__ = ["Notification", "Notifier", "Rule", "RuleKind", "Seen", "Send", "Tally", "rule_kinds", "sender"]
