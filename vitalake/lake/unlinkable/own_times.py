"""Times of ours that stand in for those a sender does not give, and what is published of them.

Who sends in the order of clear identifiers has our clock write down that order: published to the second, it undoes
every pseudonym. So where rows are identified a time of ours is marked, and published it becomes the end of its day in
UTC: a day's rows are one set, and none is known before it was. Behind the end of the day comes up to an hour that says
nothing but which of the rows of *one* record came first: keyed noise, of the column, the record and the day, plus the
time of day, a second as 1 to 16 microseconds, by the same key. The noise is the sum of four, so that it has no edges:
beside an edge, the largest of many rows of a patient would tell what was added. Within an hour of it that tells nothing
of the rows of two records; of those of one it tells the order, to the second, and roughly how far they are apart.

The time at which a sender's system sent is treated as one of ours; see ``given_or_ours``.

The mark: a time of ours ends in 999 microseconds. Brokers count milliseconds, and the end of its millisecond is when a
message had come for certain. A time that a sender gives and that ends so is taken a microsecond later.
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
"""Of the noise of an hour."""
_STEEPEST = 16.0
_CHANGES = "[1]"
"""Ends the source of rows that replace others of a load, behind the dataset."""

_MOMENT = pa.timestamp("us", "UTC")

Times = npt.NDArray[np.int64]


def marked(us: int) -> int:
    """Return a moment of ours with its mark: the end of its millisecond; microseconds since 1970 UTC."""
    return us // _MILLISECOND * _MILLISECOND + _MARK


def is_ours(us: Times) -> npt.NDArray[np.bool_]:
    """Return which moments have the mark."""
    ours: npt.NDArray[np.bool_] = us % _MILLISECOND == _MARK
    return ours


def given(times: pa.Array) -> pa.Array:
    """Return times that a sender gave, none of which looks like one of ours; nulls stay."""
    us = _microseconds(times)
    ours = is_ours(us)
    return _as_times(us + ours, times) if ours.any() else times


def given_or_ours(times: pa.Array, ours_us: Times, *, mark: bool = True, stamped: bool = False) -> pa.Array:
    """Return the times that a sender gave, and ours where it gave none: marked, or published as they are.

    Args:
        times: null where the sender gave none.
        ours_us: our clocks', of every row.
        mark: whether what could say in which order rows came is marked.
        stamped: whether the times are those at which the sender's system wrote or sent a message (MSH-7,
            ``meta.lastUpdated``), and none at which something was so, or was said by somebody. As our clocks do these
            write down the order in which it sent, so that they are marked as ours are.
    """
    return told_or_ours(_marked(times) if stamped and mark else given(times), ours_us, mark=mark)


def told_or_ours(times: pa.Array, ours_us: Times, *, mark: bool = True) -> pa.Array:
    """Return times that are marked as they should be, and ours where there is none; see given_or_ours."""
    if not times.null_count:
        return times
    ours = ours_us // _MILLISECOND * _MILLISECOND + (_MARK if mark else 0)
    return pc.coalesce(times.cast(_MOMENT), pa.array(ours).cast(_MOMENT))


def _marked(times: pa.Array) -> pa.Array:
    return _as_times(_microseconds(times) // _MILLISECOND * _MILLISECOND + _MARK, times)


def known_at(times: pa.Array, found: npt.NDArray[np.bool_], ours_us: int | None) -> pa.Array:
    """Return times that a sender gave, and of rows that we found to be changed ours, marked; None: no time."""
    moment = pa.scalar(None if ours_us is None else marked(ours_us), _MOMENT)
    return pc.if_else(pa.array(found), moment, given(times).cast(_MOMENT))


class OwnTimes:
    """Makes what is published of times of ours, with one secret; used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._noise = RecordNoise(secret, b"time")

    def __call__(self, times: pa.Array, names: Names, *, of: str) -> pa.Array:
        """Return the times, those of ours after the end of their day, in no order but that of each record's rows.

        Args:
            times: microseconds, UTC.
            names: of the record each is of.
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
    """Return of 128 bits of noise a sum of four numbers, each of a quarter of an hour: the outermost are rare."""
    parts = np.ascontiguousarray(noise).view(np.uint32).astype(np.uint64)
    assert parts.shape[1] == _PARTS
    made: Times = (parts * np.uint64(_PART_US) >> np.uint64(32)).sum(axis=1).astype(np.int64)
    return made


def end_of_day(times: pa.Array) -> pa.Array:
    """Return the end of each time's day in UTC: what is published of times that are all ours."""
    return _as_times(-(-_microseconds(times) // DAY_US) * DAY_US, times)


def of_before(times: pa.Array, came: pa.Array, stamped: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Return times of rows that an earlier release has written, which marked none, with marks on what can be ours.

    Ours were whole milliseconds, and mostly of just before the row came; so are some that senders gave. What can be
    either is taken for ours.

    Args:
        times: when something could be known.
        came: when its row came.
        stamped: which rows are of senders whose times are all stamps, see given_or_ours; None: none is known to be.
    """
    us = _microseconds(times)
    since = _microseconds(came) - us
    recent = (since >= 0) & (since < 600_000_000) & came.is_valid().to_numpy(zero_copy_only=False)
    can_be = (us % 1_000_000 != 0) | recent
    ours = (us % _MILLISECOND == 0) & (can_be if stamped is None else can_be | stamped)
    return _as_times(np.where(ours, us + _MARK, us), times)


def with_marks(rows: pa.Table, dataset: Dataset, *, stamping: Collection[str] = ()) -> pa.Table:
    """Return rows that an earlier release has written with marks on their times; see of_before.

    Args:
        rows: with their true sources.
        dataset: of them.
        stamping: topics of observations whose senders stamp their messages: HL7 v2. Messages of records all are.
    """
    came = next((column.name for column in dataset.columns if column.ours == ALWAYS), None)
    if came is None:
        return rows
    rows, stamped = _with_versions_of_loads(rows, dataset), _stamped(rows, dataset, stamping)
    for column in dataset.columns:
        if column.ours != MARKED:
            continue
        times = rows[column.name].combine_chunks()
        made = of_before(times, rows[came].combine_chunks(), stamped)
        if not made.equals(times):
            rows = rows.set_column(rows.schema.get_field_index(column.name), column.name, made)
    return rows


def _stamped(rows: pa.Table, dataset: Dataset, stamping: Collection[str]) -> npt.NDArray[np.bool_]:
    """Return which rows are of messages that their sender's system has stamped, and of no warehouse."""
    topics = pc.replace_substring_regex(rows["source"].cast(pa.string()), pattern=r"\[[0-9]+\]$", replacement="")
    if dataset.measures:
        found = pc.is_in(topics, pa.array(sorted(stamping), pa.string()))
    else:
        found = pc.invert(pc.ends_with(topics, f".{dataset.name}"))
    mine: npt.NDArray[np.bool_] = pc.fill_null(found, False).combine_chunks().to_numpy(zero_copy_only=False)
    return mine


def _with_versions_of_loads(rows: pa.Table, dataset: Dataset) -> pa.Table:
    """Return rows in which a version that is the moment at which a load found a change is marked, and when it is known.

    Such a row is of a load's second partition, and its version a moment to the microsecond within a day before it could
    be known. A sender's version that looks so is taken for one.
    """
    counted = next(column.name for column in dataset.columns if column.counts)
    known = next(column.name for column in dataset.columns if column.ours == MARKED)
    sources = pc.ends_with(rows["source"].cast(pa.string()), f".{dataset.name}{_CHANGES}")
    at = pc.fill_null(sources, False).combine_chunks().to_numpy(zero_copy_only=False)
    versions, times = rows[counted].combine_chunks(), rows[known].combine_chunks()
    found = versions.fill_null(0).to_numpy(zero_copy_only=False)
    since = _microseconds(times) - found
    at = at & (found % _MILLISECOND != 0) & (since >= -_MILLISECOND) & (since < DAY_US)
    moments = pa.array(found // _MILLISECOND * _MILLISECOND + _MARK)
    for name, column, new in ((counted, versions, moments), (known, times, moments.cast(_MOMENT))):
        if not (made := pc.if_else(pa.array(at), new, column)).equals(column):
            rows = rows.set_column(rows.schema.get_field_index(name), name, made)
    return rows


def _microseconds(times: pa.Array) -> Times:
    us: Times = times.cast(_MOMENT).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return us


def _as_times(us: Times, like: pa.Array) -> pa.Array:
    mask = like.is_null().to_numpy(zero_copy_only=False) if like.null_count else None
    return pa.array(us, mask=mask).cast(_MOMENT)
