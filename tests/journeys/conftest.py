"""The browser fixture of all journeys."""

from __future__ import annotations

from tests.journeys.browser import chromium

__all__ = ["chromium"]
