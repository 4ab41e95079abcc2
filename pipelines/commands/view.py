"""The live view of a stream in the terminal."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vitalake import clock

if TYPE_CHECKING:
    from pipelines.live.supervisor import View

RATE_SECONDS = 5.0
_STYLES = {"running": "bold green", "paused": "bold yellow", "starting": "bold blue", "stopped": "bold red"}
_EXPLAINED = {
    "published": "masked rows, in the lake",
    "rejected": "rows of messages with a value that is not valid",
    "duplicate": "sent again, and not published again",
    "filtered": "left out by a rule",
    "held": "waiting for an association",
    "late": "effective long before the newest of their partition",
    "undecodable": "messages in quarantine, encrypted",
    "tombstones": "messages without a value",
    "lost_upstream": "messages that Kafka deleted before they were read",
}


class LaneView:
    """Draws the state of a stream; keeps the counts of a few seconds to show rates."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._seen: deque[tuple[float, int, int]] = deque()

    def render(self, view: View, note: str = "") -> Panel:
        """Return the picture of this moment; ``note`` is an additional line."""
        now = time.monotonic()
        self._seen.append((now, view.counts.messages, view.counts.published))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        head = Text.assemble(
            (f" {view.state} ", _STYLES[view.state] + " reverse"),
            f"  {self._rate(1):,.0f} messages/s   {self._rate(2):,.0f} rows published/s   "
            f"last commit {_ago(view.last_commit_us)}\n",
            f"latency p50 {_ms(view.latency_ms(0.5))}, p99 {_ms(view.latency_ms(0.99))}   "
            f"{view.spans:,} spans   {view.rss_bytes / 2**20:,.0f} MiB   {view.restarts} restarts",
        )
        parts: list[RenderableType] = [
            head,
            *[Text(reason, style="yellow") for reason in view.reasons],
            *([Text(note, style="dim")] if note else []),
            Text(""),
            self._counts(view),
        ]
        if view.lag:
            parts += [Text(""), self._lag(view)]
        return Panel(Group(*parts), title=self._title, title_align="left", border_style="cyan")

    def _rate(self, column: int) -> float:
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else 0.0

    @staticmethod
    def _counts(view: View) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="bold")
        table.add_column("outcome")
        table.add_column("count", justify="right")
        table.add_column("", style="dim")
        counts = view.counts
        table.add_row("messages", f"{counts.messages:,}", f"decoded {counts.decoded:,}")
        for name in ("undecodable", "tombstones", "lost_upstream"):
            table.add_row(f"· {name}", f"{getattr(counts, name):,}", _EXPLAINED[name])
        table.add_row("rows", f"{counts.rows:,}", "one per measured value")
        for name in ("published", "rejected", "duplicate", "filtered", "held", "late"):
            table.add_row(f"· {name}", f"{getattr(counts, name):,}", _EXPLAINED[name])
        return table

    @staticmethod
    def _lag(view: View) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="bold")
        table.add_column("partition")
        table.add_column("lag", justify="right")
        table.add_column("")
        most = max(max(view.lag.values()), 1)
        for part, lag in sorted(view.lag.items()):
            table.add_row(part, f"{lag:,}", Text("█" * round(30 * lag / most) if lag else "up to date", style="blue"))
        return table


def _ms(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else f"{milliseconds:,.0f} ms"


def _ago(us: int) -> str:
    return "–" if not us else f"{max(0.0, (clock.now_us() - us) / 1e6):.1f} s ago"
