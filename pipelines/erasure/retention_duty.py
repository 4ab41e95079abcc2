"""The duty to keep records: a patient whose newest rows must still be kept is not erased."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from governance.vault import Vault
from pipelines.intake.steps import make_sealer
from vitalake import clock
from vitalake.errors import PrivacyError
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.datasets.dataset import SUBJECT, Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.deletion import has_value
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.tables.buckets import may_hold
from vitalake.lake.tables.table import StagedFile, Table
from vitalake.settings import Settings

_KNOWN_AT = ("available_at", "ingested_at")
"""The times that stand for the day of a row without one: when it could be known, else when the lake received it."""


def refuse_before_retention_ends(settings: Settings, vault: Vault, keys: KeyRing, subject: bytes) -> None:
    """Refuse to erase a patient whose newest rows are of days that must be kept (``settings.records``).

    Raises:
        PrivacyError: names the legal basis, and the day on which the duty ends.
    """
    records = settings.records
    if not records.keep_days:
        return
    horizon = str((clock.now() - timedelta(days=records.keep_days)).date())
    for name, table in Home(settings).lake().present().items():
        if name.startswith("restricted/") and (day := newest_day(table, subject, vault, keys, after=horizon)):
            until = date.fromisoformat(day) + timedelta(days=records.keep_days)
            raise PrivacyError(
                f"Records must be kept at least until {until} ({records.basis or 'records.keep_days'})",
                where=name,
                remedy="Request the erasure again after that day, or correct settings.records if it is wrong.",
            )


def newest_day(table: Table, subject: bytes, vault: Vault, keys: KeyRing, *, after: str) -> str | None:
    """Return the newest day, later than ``after``, of a patient's rows in a restricted table; days are ISO dates."""
    table.refresh()
    files = [file for file in table.snapshot().files.values() if may_hold(file.path, subject)]
    dataset = load_dataset(table.name.rpartition("/")[2])
    days = [*_of_days(table, files, subject, after), *_of_undated(table, files, subject)]
    if dataset.ends:
        days += _of_ends(table, files, dataset, subject, vault, keys)
    return max((day for day in days if day > after), default=None)


def _of_days(table: Table, files: Sequence[StagedFile], subject: bytes, after: str) -> Iterator[str]:
    for file in sorted(files, key=lambda file: file.day or "", reverse=True):
        if file.day is None or file.day <= after:
            return
        if any(part.num_rows for part in _mine(table, file, subject, [SUBJECT.name])):
            yield file.day
            return


def _of_undated(table: Table, files: Sequence[StagedFile], subject: bytes) -> Iterator[str]:
    for file in [file for file in files if file.day is None]:
        for part in _mine(table, file, subject, [SUBJECT.name, *_KNOWN_AT]):
            yield from map(_day, pc.coalesce(*(part[name] for name in _KNOWN_AT)).to_pylist())


def _of_ends(
    table: Table, files: Sequence[StagedFile], dataset: Dataset, subject: bytes, vault: Vault, keys: KeyRing
) -> Iterator[str]:
    """Yield the day on which each stay or other period of a patient ended, by its last version; today if it lasts."""
    assert dataset.ends is not None
    last: dict[tuple[object, ...], tuple[int, datetime | None]] = {}
    sealer = make_sealer(dataset, vault, keys)
    for part in [part for file in files for part in _mine(table, file, subject)]:
        for row in sealer.open(part).to_pylist():
            key = tuple(row[name] for name in dataset.key if name != "version")
            version = (row["version"] or 0, row[dataset.ends])
            if key not in last or last[key][0] <= version[0]:
                last[key] = version
    for _, end in last.values():
        yield _day(end or clock.now())


def _mine(table: Table, file: StagedFile, subject: bytes, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a patient's rows of a file; if there are none, only the column of subjects is read."""
    if columns is None and not any(part.num_rows for part in _mine(table, file, subject, [SUBJECT.name])):
        return
    for part in read_file(table, file, columns=columns):
        yield part.filter(has_value(part[SUBJECT.name].combine_chunks(), {subject}))


def _day(moment: datetime | None) -> str:
    return "" if moment is None else str(moment.date())
