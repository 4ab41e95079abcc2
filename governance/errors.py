"""Errors of rules and masks."""

from __future__ import annotations

from vitalake.errors import PrivacyError


class RuleError(PrivacyError):
    """A rule file cannot be read, contradicts itself, or names something that does not exist."""

    correctable = True  # by whoever edits the rules
