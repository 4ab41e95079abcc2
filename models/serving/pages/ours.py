"""The project's pages with routes of their own.

They find out whom they show while they answer: the board and a patient's page stream changes, and the audit looks up
whom a form names. So they record each access themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.serving.pages.base import RoutedPage

if TYPE_CHECKING:
    from fastapi import APIRouter


def _ward() -> APIRouter:
    from models.serving.pages import ward

    return ward.router


def _audit() -> APIRouter:
    from models.serving.pages import audit

    return audit.router


BOARD = RoutedPage(
    name="board",
    path="/board",
    title="Ward board",
    permission="risk:read",
    description="All patients, ranked by NEWS2; each has a page.",
    router=_ward,
)

AUDIT = RoutedPage(
    name="audit",
    path="/audit",
    title="Audit",
    permission="audit:read",
    description="Who saw a patient, and whether the audit is intact.",
    router=_audit,
)
