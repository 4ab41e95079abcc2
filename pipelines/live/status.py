"""A worker's status, sent to its supervisor as JSON lines: the source of the live view, the metrics and the health."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from pipelines.formats.shared.result import Reject
from vitalake.lake.commits.latency import merge
from vitalake.lake.commits.span import Counts, Span

Cause = Literal["broker", "storage", "keys"]

TRANSIENT = 75
"""Exit code of a worker whose problem can pass by itself (EX_TEMPFAIL of sysexits)."""


class StatusLine(msgspec.Struct):
    """A worker's state; its counts are since the worker started.

    Attributes:
        shard: the lane's name and shard.
        state: what the worker does.
        reason: why it is paused, or has ended.
        taken: messages that were read, committed or not.
        spans: spans that were decided and added to all tables.
        counts: of their messages and rows.
        rejected_for: reason code → messages that were read and rejected.
        lag: partition → messages that were not read yet.
        latency: histogram of the time from the broker's timestamp to the decision.
        last_commit_us: when the last span was decided.
        rss_bytes: resident memory.
        idle: whether the worker ends because nothing has arrived for long enough.
        ended_for: only in the last line: which kind of problem ended the worker. A configuration can be corrected
            while the stream waits.
        where: only in the last line: where the problem is.
        remedy: only in the last line: what to do about it.
    """

    shard: str
    state: Literal["starting", "running", "paused"] = "starting"
    reason: str = ""
    taken: int = 0
    spans: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    rejected_for: dict[str, int] = msgspec.field(default_factory=dict)
    lag: dict[str, int] = msgspec.field(default_factory=dict)
    latency: dict[int, int] = msgspec.field(default_factory=dict)
    last_commit_us: int = 0
    rss_bytes: int = 0
    idle: bool = False
    ended_for: Literal["", "configuration", "service", "other"] = ""
    where: str = ""
    remedy: str = ""


class Status:
    """The live state of a lane; written by its threads, read by the reporter."""

    def __init__(self, *, shard: str) -> None:
        self._lock = threading.Lock()
        self._line = StatusLine(shard)
        self._waiting: dict[Cause, str] = {}
        self.idle = False
        self.open = False

    def taken(self, messages: int, rejects: Sequence[Reject] = ()) -> None:
        """Count messages that were read, and for which reasons some of them are rejected."""
        self._line.taken += messages
        if rejects:
            counts = Counter(str(reject.reason) for reject in rejects)
            with self._lock:
                self._line.rejected_for = dict(counts + Counter(self._line.rejected_for))

    def note_consumer(self, lag: dict[str, int], *, down: bool) -> None:
        """Note how far behind the consumer is, and whether its broker answers."""
        with self._lock:
            self._line.lag = lag
        if down:
            self.pause("broker", "Broker does not answer; waiting, goes on by itself")
        else:
            self.resume("broker")

    def pause(self, cause: Cause, reason: str) -> bool:
        """Note that the lane waits, and for what; return whether the reason is a new one."""
        with self._lock:
            before, self._waiting[cause] = self._waiting.get(cause), reason
        return before != reason

    def resume(self, cause: Cause) -> None:
        """Note that the lane no longer waits for this cause; others can remain."""
        with self._lock:
            self._waiting.pop(cause, None)

    def committed(self, span: Span) -> None:
        """Count a span that is decided and added everywhere."""
        self.resume("storage")
        with self._lock:
            self._line.spans += 1
            for part in span.parts:
                self._line.counts.add(part.counts)
            self._line.latency = merge(self._line.latency, span.latency)
            self._line.last_commit_us = span.decided_us

    def line(self, rss_bytes: int) -> bytes:
        """Return the state as one line of JSON."""
        with self._lock:
            line = self._line
            line.state = "paused" if self._waiting else "running" if self.open else "starting"
            line.reason = "; ".join(self._waiting.values())
            line.idle, line.rss_bytes = self.idle, rss_bytes
            return msgspec.json.encode(line) + b"\n"
