"""Who takes notifications in tests."""

from __future__ import annotations


class Titles(list[str]):
    """The titles of the notifications that it was given; an address that takes all of them."""

    def __call__(self, title: str, _text: str) -> bool:
        """Take a notification."""
        self.append(title)
        return True
