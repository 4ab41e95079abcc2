"""Telling people who are not looking: never more than the lane's state in words. Each rule is a module."""

from vitalake.notifications.base import Notification, Rule, RuleKind, Seen, Tally
from vitalake.notifications.registry import Watch, rule_kinds
from vitalake.notifications.sending import Send, sender

__all__ = ["Notification", "Rule", "RuleKind", "Seen", "Send", "Tally", "Watch", "rule_kinds", "sender"]
