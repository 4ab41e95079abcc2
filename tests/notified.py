"""Who takes notifications in tests."""

from __future__ import annotations

from vitalake.notifications import Notification


class Titles(list[str]):
    """The titles of the notifications that rules gave; takes them as ``Delivery.add`` does."""

    def __call__(self, _rule: str, notification: Notification) -> None:
        """Take a notification."""
        self.append(notification.title)
