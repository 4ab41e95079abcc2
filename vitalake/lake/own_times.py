"""Times of ours that stand in for those a sender does not give, and what is published of them.

Who sends in the order of clear identifiers has our clock write down that order: published to the second, it undoes
every pseudonym. So where rows are identified a time of ours is marked, and published it becomes the end of its day in
UTC: a day's rows are one set, and none is known before it was. Behind the end of the day comes up to an hour that says
nothing but which of the rows of *one* record came first: keyed noise, of the record and the day, plus the time of day,
a tenth of a second as a microsecond. Within the noise of an hour that tells nothing of the rows of two records.

The mark: a time of ours ends in 999 microseconds. Brokers count milliseconds, and the end of its millisecond is when a
message had come for certain. A time that a sender gives and that ends so is taken a microsecond later.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vitalake.lake.dataset import Dataset

ALWAYS, MARKED = "always", "where-marked"
"""What a dataset says of a column of times: all are ours, or those that are marked."""

DAY_US = 86_400_000_000

_MARK, _MILLISECOND = 999, 1_000
_TENTH_US = 100_000
_NOISE_US = 3_600_000_000
_BLOCK = 16
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


def given_or_ours(times: pa.Array, ours_us: Times, *, mark: bool = True) -> pa.Array:
    """Return the times that a sender gave, and ours where it gave none: marked, or published as they are."""
    if not times.null_count:
        return given(times)
    ours = ours_us // _MILLISECOND * _MILLISECOND + (_MARK if mark else 0)
    return pc.coalesce(given(times), pa.array(ours).cast(_MOMENT))


def known_at(times: pa.Array, found: npt.NDArray[np.bool_], ours_us: int | None) -> pa.Array:
    """Return times that a sender gave, and of rows that we found to be changed ours, marked; None: no time."""
    moment = pa.scalar(None if ours_us is None else marked(ours_us), _MOMENT)
    return pc.if_else(pa.array(found), moment, given(times).cast(_MOMENT))


class OwnTimes:
    """Makes what is published of times of ours, with one secret; used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        self._hash_key = hmac.digest(secret, b"time\0names", "sha256")
        self._cipher = Cipher(algorithms.AES(hmac.digest(secret, b"time\0noise", "sha256")), modes.ECB())  # noqa: S305

    def __call__(self, times: pa.Array, names: pa.Array) -> pa.Array:
        """Return the times, those of ours after the end of their day, in no order but that of each record's rows.

        Args:
            times: microseconds, UTC.
            names: of the record each is of, text or bytes, in a dictionary or plain.
        """
        us = _microseconds(times)
        at = np.flatnonzero(is_ours(us) & times.is_valid().to_numpy(zero_copy_only=False))
        if not len(at):
            return times
        mine, day = us[at], -(-us[at] // DAY_US)
        blocks = self._blocks(names.take(pa.array(at)))
        blocks[:, 0] ^= day
        noise = np.frombuffer(self._cipher.encryptor().update(blocks.tobytes()), "<u8")[::2] % np.uint64(_NOISE_US)
        us = us.copy()
        us[at] = day * DAY_US + noise.astype(np.int64) + mine % DAY_US // _TENTH_US
        return _as_times(us, times)

    def _blocks(self, names: pa.Array) -> Times:
        """Return 16 bytes for each name; what is named by as many bytes, a keyed hash, is not hashed again."""
        if pa.types.is_binary(names.type) and not names.null_count:
            values = names.drop_null()  # copies nothing
            offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
            if (np.diff(offsets) == _BLOCK).all():
                data = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
                return data.view("<i8").reshape(-1, 2).copy()
        encoded = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
        digests = b"".join(self._digest(name) for name in encoded.dictionary.to_pylist()) + bytes(_BLOCK)
        index = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        return np.frombuffer(digests, "<i8").reshape(-1, 2)[index]

    def _digest(self, name: str | bytes | None) -> bytes:
        text = name if isinstance(name, bytes) else (name or "").encode()
        return hashlib.blake2b(text, key=self._hash_key, digest_size=_BLOCK).digest()


def end_of_day(times: pa.Array) -> pa.Array:
    """Return the end of each time's day in UTC: what is published of times that are all ours."""
    return _as_times(-(-_microseconds(times) // DAY_US) * DAY_US, times)


def of_before(times: pa.Array, came: pa.Array) -> pa.Array:
    """Return times of rows that an earlier release has written, which marked none, with marks on what can be ours.

    Ours were whole milliseconds, and mostly of just before the row came; so are some that senders gave. What can be
    either is taken for ours.

    Args:
        times: when something could be known.
        came: when its row came.
    """
    us = _microseconds(times)
    since = _microseconds(came) - us
    recent = (since >= 0) & (since < 600_000_000) & came.is_valid().to_numpy(zero_copy_only=False)
    ours = (us % _MILLISECOND == 0) & ((us % 1_000_000 != 0) | recent)
    return _as_times(np.where(ours, us + _MARK, us), times)


def with_marks(rows: pa.Table, dataset: Dataset) -> pa.Table:
    """Return rows that an earlier release has written with marks on their times; see of_before."""
    came = next((column.name for column in dataset.columns if column.ours == ALWAYS), None)
    for column in dataset.columns:
        if column.ours != MARKED or came is None:
            continue
        times = rows[column.name].combine_chunks()
        made = of_before(times, rows[came].combine_chunks())
        if not made.equals(times):
            rows = rows.set_column(rows.schema.get_field_index(column.name), column.name, made)
    return rows


def _microseconds(times: pa.Array) -> Times:
    us: Times = times.cast(_MOMENT).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return us


def _as_times(us: Times, like: pa.Array) -> pa.Array:
    mask = like.is_null().to_numpy(zero_copy_only=False) if like.null_count else None
    return pa.array(us, mask=mask).cast(_MOMENT)
