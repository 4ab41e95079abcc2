"""The page of the ledger, for data engineers and compliance officers."""

from __future__ import annotations

from models.serving.pages.base import Page, PageRequest, Show, Shown
from vitalake.home import Home
from vitalake.lake.commits.ledger import LiveLedger
from vitalake.settings import Settings

COLUMNS = (
    "messages", "decoded", "undecodable", "tombstones", "lost_upstream",
    "rows", "published", "rejected", "duplicate", "filtered", "held", "late",
)  # fmt: skip


def make(settings: Settings) -> Show:
    """Return the function that reads the ledger; it keeps the ledger between two requests, and reads only new entries.

    If there is no lake yet, the summary is None; reading does not create one.
    """
    live: LiveLedger | None = None

    def show(request: PageRequest) -> Shown:
        nonlocal live
        if live is None:
            lake = Home(settings).lake()
            if not lake.storage.holds_table("spans"):
                return Shown({"summary": None, "columns": COLUMNS})
            live = LiveLedger(lake.spans)
        return Shown({"summary": live.refresh().to_json(), "columns": COLUMNS})

    return show


PAGE = Page(
    name="ledger",
    path="/ledger",
    title="Ledger",
    permission="ledger:read",
    description="Show the outcome counts of all messages and rows, and whether they balance.",
    patients="none",
    template="models.serving:ledger.html",
    make=make,
)
