"""Times of ours: our clock's times that replace those a sender does not give, and how they are published.

If a sender sends in the order of identifiers in clear, our clock records that order: published to the second, it
would undo every pseudonym. So identified rows have a mark on a time of ours, and published rows have the end of its day
in UTC instead: a day's rows cannot be ordered, and no row is known too early.

Up to an hour is added to the end of the day. It shows only which of the rows of *one* record came first. It is noise,
keyed by the column, the record and the day, plus the time of day, scaled by the same key so that a second becomes 1 to
16 microseconds. The noise is the sum of four numbers, so that its distribution has no sharp edges: near an edge, the
largest value among many rows of a patient would show what was added. So the times show nothing about the order of two
records' rows of a day. For rows of one record they show the order, to the second, and roughly the distance.

The time at which a sender's system sent a message is treated like one of ours; see ``given_or_ours``.

The mark: a time of ours ends in 999 microseconds. Brokers count milliseconds, and a message has certainly arrived by
the end of its millisecond. A sender's time that happens to end in 999 is moved one microsecond later.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitalake.lake.datasets.dataset import ALWAYS, MARKED, Dataset
from vitalake.lake.unlinkable.record_noise import Names, Noise, RecordNoise

DAY_US = 86_400_000_000

_MARK, _MILLISECOND = 999, 1_000
_SECOND_US = 1_000_000
_PARTS, _PART_US = 4, 900_000_000
"""The noise of an hour is the sum of four numbers below a quarter of an hour each."""
_STEEPEST = 16.0
"""Microseconds to which a second of the time of day is scaled at most."""
_CHANGES = "[1]"
"""Suffix, after the dataset, of the source of rows that replace earlier rows of a load."""

_MOMENT = pa.timestamp("us", "UTC")

Times = npt.NDArray[np.int64]


def marked(us: int) -> int:
    """Return a time of ours with its mark, the end of its millisecond; in microseconds since 1970 UTC."""
    return us // _MILLISECOND * _MILLISECOND + _MARK


def is_ours(us: Times) -> npt.NDArray[np.bool_]:
    """Return which times have the mark."""
    ours: npt.NDArray[np.bool_] = us % _MILLISECOND == _MARK
    return ours


def given(times: pa.Array) -> pa.Array:
    """Return a sender's times, changed so that none has the mark of ours; nulls stay."""
    us = _microseconds(times)
    ours = is_ours(us)
    return _as_times(us + ours, times) if ours.any() else times


def given_or_ours(times: pa.Array, ours_us: Times, *, mark: bool = True, stamped: bool = False) -> pa.Array:
    """Return a sender's times, and times of ours where it gave none.

    Args:
        times: null where the sender gave none.
        ours_us: our clock's time of every row.
        mark: whether to mark times that could show the order in which rows came.
        stamped: whether the times are those at which the sender's system wrote or sent a message (MSH-7,
            ``meta.lastUpdated``), and not clinical times. They show the order of sending as our clock does, so they are
            marked like times of ours.
    """
    return marked_or_ours(_marked(times) if stamped and mark else given(times), ours_us, mark=mark)


def marked_or_ours(times: pa.Array, ours_us: Times, *, mark: bool = True) -> pa.Array:
    """Return times that are marked already, and times of ours where there is none; see ``given_or_ours``."""
    if not times.null_count:
        return times
    ours = ours_us // _MILLISECOND * _MILLISECOND + (_MARK if mark else 0)
    return pc.coalesce(times.cast(_MOMENT), pa.array(ours).cast(_MOMENT))


def _marked(times: pa.Array) -> pa.Array:
    return _as_times(_microseconds(times) // _MILLISECOND * _MILLISECOND + _MARK, times)


def known_at(times: pa.Array, found: npt.NDArray[np.bool_], ours_us: int | None) -> pa.Array:
    """Return a sender's times; for rows that we found to be changed, our marked time instead, or null if it is None."""
    moment = pa.scalar(None if ours_us is None else marked(ours_us), _MOMENT)
    return pc.if_else(pa.array(found), moment, given(times).cast(_MOMENT))


class OwnTimes:
    """Makes the published form of times of ours, with one secret; to be used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._noise = RecordNoise(secret, b"time")

    def __call__(self, times: pa.Array, names: Names, *, of: str) -> pa.Array:
        """Return the times, those of ours moved after the end of their day; only a record's own rows keep an order.

        Args:
            times: microseconds, UTC.
            names: gives the columns that name each row's record.
            of: dataset and column.
        """
        us = _microseconds(times)
        at = np.flatnonzero(is_ours(us) & times.is_valid().to_numpy(zero_copy_only=False))
        if not len(at):
            return times
        mine, day = us[at], -(-us[at] // DAY_US)
        noise = self._noise(of, [name.take(pa.array(at)) for name in names()], day, blocks=2)
        seconds, more = mine % DAY_US // _SECOND_US, _STEEPEST ** (noise[:, 2] / 2.0**64) - 1
        us = us.copy()
        us[at] = day * DAY_US + _without_edges(noise[:, :2]) + seconds + (seconds * more).astype(np.int64)
        return _as_times(us, times)


def _without_edges(noise: Noise) -> Times:
    """Return the sum of four numbers below a quarter of an hour each, from 128 bits of noise; extreme sums are rare."""
    parts = np.ascontiguousarray(noise).view(np.uint32).astype(np.uint64)
    assert parts.shape[1] == _PARTS
    made: Times = (parts * np.uint64(_PART_US) >> np.uint64(32)).sum(axis=1).astype(np.int64)
    return made


def end_of_day(times: pa.Array) -> pa.Array:
    """Return the end of each time's day in UTC, the published form of times that are all ours."""
    return _as_times(-(-_microseconds(times) // DAY_US) * DAY_US, times)


def mark_older_times(times: pa.Array, came: pa.Array, stamped: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Mark the times that may be ours in rows of an earlier release, which marked none.

    Times of ours were whole milliseconds, mostly shortly before the row came. Some senders' times are like that too; a
    time that can be either is treated as ours.

    Args:
        times: when something could be known.
        came: when its row came.
        stamped: which rows are of senders whose times are all times of sending, see ``given_or_ours``; None: unknown.
    """
    us = _microseconds(times)
    since = _microseconds(came) - us
    recent = (since >= 0) & (since < 600_000_000) & came.is_valid().to_numpy(zero_copy_only=False)
    can_be = (us % 1_000_000 != 0) | recent
    ours = (us % _MILLISECOND == 0) & (can_be if stamped is None else can_be | stamped)
    return _as_times(np.where(ours, us + _MARK, us), times)


def with_marks(rows: pa.Table, dataset: Dataset, *, stamping: Collection[str] = ()) -> pa.Table:
    """Return rows of an earlier release with marks on their times; see ``mark_older_times``.

    Args:
        rows: rows with their true sources.
        dataset: the dataset of the rows.
        stamping: topics of observations whose senders stamp their messages (HL7 v2). Messages of records are always
            stamped.
    """
    came = next((column.name for column in dataset.columns if column.ours == ALWAYS), None)
    if came is None:
        return rows
    rows, stamped = _with_versions_of_loads(rows, dataset), _stamped(rows, dataset, stamping)
    for column in dataset.columns:
        if column.ours != MARKED:
            continue
        times = rows[column.name].combine_chunks()
        made = mark_older_times(times, rows[came].combine_chunks(), stamped)
        if not made.equals(times):
            rows = rows.set_column(rows.schema.get_field_index(column.name), column.name, made)
    return rows


def _stamped(rows: pa.Table, dataset: Dataset, stamping: Collection[str]) -> npt.NDArray[np.bool_]:
    """Return which rows are of messages that their sender's system has stamped, and not from a warehouse."""
    topics = pc.replace_substring_regex(rows["source"].cast(pa.string()), pattern=r"\[[0-9]+\]$", replacement="")
    if dataset.measures:
        found = pc.is_in(topics, pa.array(sorted(stamping), pa.string()))
    else:
        found = pc.invert(pc.ends_with(topics, f".{dataset.name}"))
    mine: npt.NDArray[np.bool_] = pc.fill_null(found, False).combine_chunks().to_numpy(zero_copy_only=False)
    return mine


def _with_versions_of_loads(rows: pa.Table, dataset: Dataset) -> pa.Table:
    """Mark versions that are the time at which a load found a change, and the time at which such a row is known.

    Such a row is of a load's second partition, and its version is a time in microseconds within a day before the row
    could be known. A sender's version that looks like that is treated as one.
    """
    version_column = "version"
    known_at_column = next(column.name for column in dataset.columns if column.ours == MARKED)
    sources = pc.ends_with(rows["source"].cast(pa.string()), f".{dataset.name}{_CHANGES}")
    at = pc.fill_null(sources, False).combine_chunks().to_numpy(zero_copy_only=False)
    versions, times = rows[version_column].combine_chunks(), rows[known_at_column].combine_chunks()
    numbers = versions.fill_null(0).to_numpy(zero_copy_only=False)
    since = _microseconds(times) - numbers
    at = at & (numbers % _MILLISECOND != 0) & (since >= -_MILLISECOND) & (since < DAY_US)
    moments = pa.array(numbers // _MILLISECOND * _MILLISECOND + _MARK)
    for name, column, new in ((version_column, versions, moments), (known_at_column, times, moments.cast(_MOMENT))):
        if not (made := pc.if_else(pa.array(at), new, column)).equals(column):
            rows = rows.set_column(rows.schema.get_field_index(name), name, made)
    return rows


def _microseconds(times: pa.Array) -> Times:
    us: Times = times.cast(_MOMENT).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return us


def _as_times(us: Times, like: pa.Array) -> pa.Array:
    mask = like.is_null().to_numpy(zero_copy_only=False) if like.null_count else None
    return pa.array(us, mask=mask).cast(_MOMENT)
