"""Buckets: rows of closed days are grouped by patient, so that one patient's rows of a day are in one file of many.

A file's name says which bucket it holds, as in ``….b7of64.parquet``, because neither log nor footer may carry the
minimum and maximum patient of a file. An engine that does not know buckets reads it like any other file. Files of
different numbers of buckets, and files without a bucket, may lie side by side.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.tables.table import Snapshot, StagedFile

MOST_BUCKETS = 4096
"""Largest number of buckets: more would give more files a day than a listing should have."""

Bucket = tuple[int, int]
"""(index, number of buckets)."""

_SUFFIX = re.compile(r"\.b(\d+)of(\d+)\.parquet$")


def patient_column(dataset: Dataset) -> str | None:
    """Return the column that names the patient: ``subject`` in identified rows, else the pseudonym; None: no column."""
    names = dataset.schema.names
    if "subject" in names:
        return "subject"
    return next((column.name for column in dataset.columns if column.data_class == "patient-identifier"), None)


def bucket_of(path: str) -> Bucket | None:
    """Return the bucket that a file holds; None: rows of any bucket."""
    match = _SUFFIX.search(path)
    return (int(match[1]), int(match[2])) if match else None


def suffix_of(bucket: Bucket | None) -> str:
    """Return the suffix in the names of a bucket's files."""
    return f".b{bucket[0]}of{bucket[1]}" if bucket else ""


def bucket_of_value(value: str | bytes | None, count: int) -> int:
    """Return the index of a patient's bucket; rows without a patient get that of an empty name."""
    return zlib.crc32(value.encode() if isinstance(value, str) else value or b"") % count


def buckets_of_values(values: pa.Array | pa.ChunkedArray, count: int) -> npt.NDArray[np.int32]:
    """Return the index of every row's bucket; each patient is hashed once."""
    column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(column, pa.ChunkedArray):  # an array of no chunk, or too large for one
        parts = [buckets_of_values(chunk, count) for chunk in column.chunks]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    of_values = [bucket_of_value(value, count) for value in encoded.dictionary.to_pylist()]
    # One more entry, for rows without a patient.
    of_index = np.array([*of_values, bucket_of_value(None, count)], np.int32)
    indices = encoded.indices.fill_null(len(of_values)).to_numpy(zero_copy_only=False)
    found: npt.NDArray[np.int32] = of_index[indices]
    return found


def files_for(snapshot: Snapshot, value: str | bytes) -> list[StagedFile]:
    """Return the files that may hold a patient's rows: those of the patient's bucket and those without a bucket."""
    return [file for file in snapshot.files.values() if may_hold(file.path, value)]


def may_hold(path: str, value: str | bytes) -> bool:
    """Return whether a file may hold a patient's rows; this is decided by its name."""
    bucket = bucket_of(path)
    return bucket is None or bucket[0] == bucket_of_value(value, bucket[1])


def bounds_of(buckets: npt.NDArray[np.int32], count: int) -> Iterator[tuple[Bucket, int, int]]:
    """Yield each bucket with the begin and end of its rows; ``buckets`` holds the sorted index of every row."""
    bounds = np.searchsorted(buckets, np.arange(count + 1)).tolist()
    for number, (begin, end) in enumerate(pairwise(bounds)):
        if begin < end:
            yield (number, count), begin, end
