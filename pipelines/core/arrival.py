"""When messages arrived: by the broker's time, or by our own clock where the broker's time cannot be right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.core.poll import DecodedPoll, Poll
from pipelines.formats.shared.result import Decoded
from vitalake import clock

EARLIEST_MS = 1_293_840_000_000
"""2011-01-01, just before Kafka's first release: no broker can have received a message earlier (-1 means *no time*)."""

CONTRADICTED_US = 366 * 86_400 * 1_000_000
"""How far a value's time may lie after the broker's time before the broker's time counts as wrong.

A value whose time is already past, but more than a year after its message arrived, was not measured by a clock that
runs ahead: the clock of the broker, or of the producer that set the time, is years behind. With a smaller difference
it is unclear which time is wrong, and the message is rejected.
"""


def with_arrival(
    item: DecodedPoll, *, day_of: str | None, max_future_seconds: float, now_us: int | None = None
) -> DecodedPoll:
    """Return the poll with our clock's time for messages whose broker's time cannot be right.

    The broker's time cannot be right when it is missing, older than Kafka itself, further ahead of our clock than rows
    may be, or more than a year before a time in the message that is already past. The decision depends only on the
    message and on our clock.

    Args:
        item: a poll and what was decoded of it.
        day_of: the column with the time that a row describes; None: the dataset has none.
        max_future_seconds: how far ahead of our clock a time may be.
        now_us: our clock's time; None: now.
    """
    poll = item.poll
    now_us = clock.now_us() if now_us is None else now_us
    latest_us = now_us + int(max_future_seconds * 1e6)
    wrong = (poll.broker_ms < EARLIEST_MS) | (poll.broker_ms > latest_us // 1000)
    contradicted = _contradicted(item.decoded, poll, day_of, latest_us)
    if contradicted is not None:
        wrong[contradicted] = True
    if not wrong.any():
        return item
    return DecodedPoll(_corrected(poll, wrong, now_us), item.decoded)


def _corrected(poll: Poll, wrong: npt.NDArray[np.bool_], now_us: int) -> Poll:
    return replace(poll, broker_ms=np.where(wrong, now_us // 1000, poll.broker_ms), ours=wrong)


def _contradicted(decoded: Decoded, poll: Poll, day_of: str | None, latest_us: int) -> npt.NDArray[np.int32] | None:
    """Return the messages with a time that is past by our clock, but over a year after the broker received them."""
    if day_of is None or not decoded.rows.num_rows or day_of not in decoded.rows.schema.names:
        return None
    at = decoded.rows[day_of].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    ahead = at > poll.broker_ms[decoded.message] * 1000 + CONTRADICTED_US
    if not ahead.any():
        return None
    return np.unique(decoded.message[ahead & (at <= latest_us)])
