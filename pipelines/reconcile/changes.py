"""Finds what has changed in the association table: the devices, and the time of each that must be looked at again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.vault.sealed_rows import PatientKeys, open_value
from pipelines.attribution.timeline import OPEN_END
from pipelines.formats.shared.records import MERGED
from vitalake.lake.commits.transactions import REPAIRED
from vitalake.lake.datasets.dataset import DEVICE_KEY, SUBJECT
from vitalake.lake.tables.schema import conform
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import Table

EARLIEST = -(1 << 63)

_COLUMNS = (SUBJECT.name, DEVICE_KEY.name, "association_id", "device_id", "valid_from", "valid_to")


@dataclass(slots=True)
class Stretches:
    """For each device the time from its earliest to its latest change; microseconds since 1970."""

    by_device: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def add(self, device: bytes, begin: int, end: int) -> None:
        """Extend a device's time by an interval; its end is exclusive."""
        first, last = self.by_device.get(device, (begin, end))
        self.by_device[device] = min(first, begin), max(last, end)

    def __bool__(self) -> bool:
        """Return whether any device has changed."""
        return bool(self.by_device)

    @property
    def bounds(self) -> tuple[int, int]:
        """Return the earliest and the latest moment over all devices."""
        firsts, lasts = zip(*self.by_device.values(), strict=True)
        return min(firsts), max(lasts)

    def hit(
        self,
        device: pa.ChunkedArray | pa.DictionaryArray,
        first_us: npt.NDArray[np.int64],
        last_us: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """Return for each row whether its time overlaps the changed time of its device.

        Args:
            device: key of each row's device; null: several devices, which could be any.
            first_us: the first moment of each row.
            last_us: the last moment of each row, inclusive.
        """
        encoded = device if isinstance(device, pa.DictionaryArray) else device.combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        nothing = (OPEN_END, EARLIEST)
        spans = [self.by_device.get(name, nothing) for name in names] + [self.bounds if self.by_device else nothing]
        begin, end = (np.array(column, np.int64) for column in zip(*spans, strict=True))
        index = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
        overlaps: npt.NDArray[np.bool_] = (last_us >= begin[index]) & (first_us < end[index])
        return overlaps


class Subjects(PatientKeys, Protocol):
    """The part of the vault that is used here."""

    def subject_of(self, patient_id: str) -> bytes:
        """Return the subject of a source id."""
        ...


def changed_since(table: Table, known: int, vault: Subjects) -> Stretches:
    """Return the times of devices that have changed in the association table since an earlier version.

    Args:
        table: at its current version; it is not refreshed here.
        known: the earlier version, as AssociationMap.version; 0: none.
        vault: unseals merges of patients.

    Raises:
        KeyRevoked: patients' keys are not available.
    """
    rows = _rows_since(table, known)
    stretches = Stretches()
    if not rows.num_rows:
        return stretches
    _widen(stretches, rows)
    # An older version of the same association can have been longer, or of another device.
    ids = rows["association_id"].combine_chunks()
    for file in table.snapshot().files.values():
        others = _read(table, file.path)
        _widen(stretches, others.filter(pc.is_in(others["association_id"], value_set=ids)))
    _widen_merged(stretches, table, rows, vault)
    return stretches


def _widen_merged(stretches: Stretches, table: Table, rows: pa.Table, vault: Subjects) -> None:
    """Add the whole time of all devices that were with a patient who has been merged into another one."""
    seen: set[str] = set()
    while patients := _merged_patients(rows, vault) - seen:
        seen |= patients
        subjects = pa.array([vault.subject_of(patient) for patient in patients], pa.binary())
        files = [_read(table, path) for path in table.snapshot().files]
        rows = pa.concat_tables([part.filter(pc.is_in(part[SUBJECT.name], value_set=subjects)) for part in files])
        _widen(stretches, rows)


def _merged_patients(rows: pa.Table, vault: Subjects) -> set[str]:
    """Return the patient numbers that were given up by the merges among these rows."""
    secrets = vault.secrets(set(rows[SUBJECT.name].to_pylist()) - {None})
    sealed = [value for value in rows["device_id"].to_pylist() if value is not None]
    opened = [open_value(value, secrets, context=b"device_association.device_id") for value in sealed]
    names = [name.decode() for name in opened if name is not None]
    return {name.removeprefix(MERGED) for name in names if name.startswith(MERGED)}


def _widen(stretches: Stretches, rows: pa.Table) -> None:
    begin = rows["valid_from"].cast(pa.int64()).to_pylist()
    end = pc.fill_null(rows["valid_to"].cast(pa.int64()), OPEN_END).to_pylist()
    for device, first, last in zip(rows[DEVICE_KEY.name].to_pylist(), begin, end, strict=True):
        if device is not None:
            stretches.add(device, first, last)


def _read(table: Table, path: str) -> pa.Table:
    schema = pa.schema([table.state.columns.field(name) for name in _COLUMNS])
    return conform(table.storage.read_parquet(path, columns=list(_COLUMNS)), schema)


def _rows_since(table: Table, known: int) -> pa.Table:
    """Return the rows added by commits since a version; all rows if the log does not reach back that far.

    Nor does it where a repair has set entries of that version aside: it had other rows.
    """
    repaired = table.transaction(REPAIRED)
    lost = repaired is not None and known - 1 <= repaired
    added = None if lost else added_since(table.storage, known, table.delta.version())
    paths: Iterable[str] = table.snapshot().files if added is None else added
    try:
        parts = [_read(table, path) for path in paths]
    except FileNotFoundError:  # the table was rewritten since, and the replaced files were deleted
        parts = [_read(table, path) for path in table.snapshot().files]
    schema = pa.schema([table.state.columns.field(name) for name in _COLUMNS])
    return pa.concat_tables(parts) if parts else schema.empty_table()


def added_since(storage: Storage, first: int, last: int) -> list[str] | None:
    """Return the files that a table's commits have added, except by rewrites; None: the log does not reach back so far.

    Args:
        storage: the table's.
        first: the first commit.
        last: the last one, inclusive.
    """
    paths: list[str] = []
    for version in range(first, last + 1):
        try:
            with storage.fs.open_input_stream(f"{storage.root}/_delta_log/{version:020d}.json") as stream:
                actions = [msgspec.json.decode(line) for line in stream.read().splitlines()]
        except FileNotFoundError:
            return None
        paths += [unquote(a["add"]["path"]) for a in actions if "add" in a and a["add"].get("dataChange", True)]
    return paths


def by_day(stretches: Stretches, days: Iterable[str | None]) -> Mapping[str | None, bool]:
    """Return for each day of a table whether it overlaps the changed times; days are UTC, None is undated."""
    first, last = stretches.bounds
    found: dict[str | None, bool] = defaultdict(bool)
    for day in days:
        if day is None:
            found[day] = True
            continue
        begin = int(np.datetime64(day, "us").astype(np.int64))
        found[day] = begin < last and begin + 86_400_000_000 > first
    return found
