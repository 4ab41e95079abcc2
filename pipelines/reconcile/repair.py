"""Finds rows whose patient has changed, by their device, and makes the rows that withdraw and replace them."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from governance.vault.sealed_rows import RowSealer
from pipelines.attribution.associations import AssociationMap
from pipelines.attribution.ownership_rows import OwnershipRow, ownership_rows
from pipelines.attribution.rows import ATTRIBUTION, TOLD_AT, with_owners
from pipelines.attribution.timeline import Owner
from pipelines.core.poll import Outcome, Poll
from pipelines.reconcile.changes import Stretches, by_day
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.dataset import DEVICE_KEY
from vitalake.lake.tables.schema import conform
from vitalake.lake.tables.table import StagedFile, Table

BATCH_ROWS = 200_000
"""How many rows are examined together: they are unsealed in memory."""

_PROVENANCE = ("ingested_at", "source", "source_position")


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of one version of an observation that come from one message and became known at one time.

    A message that gives two values for one version is rejected. Earlier releases accepted such messages; their rows
    differ in when they became known.
    """

    rows: list[int]
    written: list[OwnershipRow]
    device: bytes
    at_us: int
    told_us: int


class Repair:
    """Looks for rows whose owner has changed; used by one thread at a time."""

    def __init__(
        self, table: Table, sealer: RowSealer, associations: AssociationMap, key_of: Callable[[str], bytes], *, job: str
    ) -> None:
        """Prepare.

        Args:
            table: the restricted rows, at the table's current version.
            sealer: unseals them.
            associations: of devices with patients, as of now.
            key_of: returns the keyed hash of a device id, by which the device is found.
            job: job and shard under which rows are written.
        """
        self._table, self._sealer, self._associations = table, sealer, associations
        self._key_of, self._job = key_of, job

    def outcomes(self, stretches: Stretches) -> Iterator[Outcome]:
        """Yield the missing rows, identified, day by day; nothing if all rows are correct.

        Raises:
            FileNotFoundError: the table was rewritten meanwhile, and the replaced files were deleted: start again.
            KeyRevoked: patients' keys are not available.
        """
        files: dict[str | None, list[StagedFile]] = defaultdict(list)
        for file in self._table.snapshot().files.values():
            files[file.day].append(file)
        for day, touched in sorted(by_day(stretches, files).items(), key=lambda item: str(item[0])):
            if touched:
                yield from self._of_day(files[day], stretches)

    def _of_day(self, files: list[StagedFile], stretches: Stretches) -> Iterator[Outcome]:
        candidates = [(file, mask) for file in files if (mask := self._candidates(file, stretches)) is not None]
        count = sum(int(mask.sum()) for _, mask in candidates)
        parts = count // BATCH_ROWS + 1
        for part in range(parts):  # divided by device, so that all rows of an observation are in the same part
            rows = [self._read(file, mask, part, parts) for file, mask in candidates]
            whole = pa.concat_tables([r for r in rows if r.num_rows] or rows[:1]) if rows else None
            if whole is not None and whole.num_rows:
                outcome = self._outcome(self._sealer.open(whole))
                if outcome is not None:
                    yield outcome

    def _candidates(self, file: StagedFile, stretches: Stretches) -> npt.NDArray[np.bool_] | None:
        """Return which rows of a file could have to change; None: none."""
        with self._table.storage.open(file.path, read_dictionary=[DEVICE_KEY.name]) as reader:
            if ATTRIBUTION not in reader.schema_arrow.names or not _overlaps(reader, stretches.bounds):
                return None
            devices = reader.read([DEVICE_KEY.name])[DEVICE_KEY.name].unify_dictionaries().combine_chunks()
            if not stretches.by_device.keys() & set(devices.dictionary.to_pylist()):
                return None
            rows = reader.read(["effective_at", ATTRIBUTION])
        at_us = pc.fill_null(rows["effective_at"].cast(pa.int64()), 0).to_numpy()
        mask = rows[ATTRIBUTION].is_valid().to_numpy() & stretches.hit(devices, at_us, at_us)
        return mask if mask.any() else None

    def _read(self, file: StagedFile, mask: npt.NDArray[np.bool_], part: int, parts: int) -> pa.Table:
        schema = pa.schema([self._table.state.columns.field(name) for name in self._table.dataset.schema.names])
        with self._table.storage.open(file.path) as reader:
            there = [name for name in schema.names if name in reader.schema_arrow.names]
            rows = conform(reader.read(there).filter(pa.array(mask)), schema)
        if parts == 1:
            return rows
        mine = [zlib.crc32(key or b"") % parts == part for key in rows[DEVICE_KEY.name].to_pylist()]
        return rows.filter(pa.array(mine, pa.bool_()))

    # -- missing rows --------------------------------------------------------------------------------------------

    def _outcome(self, rows: pa.Table) -> Outcome | None:
        owners: dict[Owner, int] = {}
        missing: list[tuple[int, int, int, int, int, bool]] = []
        groups = self._groups(rows)
        devices = list({group.device for group in groups})
        numbers = dict(zip(devices, self._associations.numbers(devices), strict=True))
        for group in groups:
            number = numbers[group.device]
            steps = self._associations.steps(number, group.at_us) if number >= 0 else ()
            facts = self._associations.count(number) if number >= 0 else 0
            base = self._base(group)
            for row in ownership_rows(steps, group.told_us, facts=facts, written=group.written):
                owner = owners.setdefault(row.owner, len(owners))
                missing.append((base, owner, row.available_us, group.told_us, row.attribution, row.withdrawn))
        if not missing:
            return None
        index, owner_index, available_us, told_us, attribution, withdrawn = np.array(missing, np.int64).T
        made = with_owners(
            rows.take(pa.array(index)).combine_chunks().to_batches()[0],
            list(owners),
            owner_index,
            available_us=available_us,
            told_us=told_us,
            attribution=attribution,
            withdrawn=withdrawn.astype(np.bool_),
        )
        return self._as_outcome(made)

    @staticmethod
    def _base(group: _Group) -> int:
        """Return the row from which others are made: one that was not withdrawn and so has its value."""
        return next(i for i, row in zip(group.rows, group.written, strict=True) if not row.withdrawn)

    def _groups(self, rows: pa.Table) -> list[_Group]:
        key = ("observation_id", "version", "source", "source_position", TOLD_AT)
        names = (*key, "patient_id", "encounter_id", "device_id", ATTRIBUTION)
        plain = {name: rows[name].to_pylist() for name in names}
        times = {name: rows[name].cast(pa.int64()).to_pylist() for name in ("effective_at", "available_at", TOLD_AT)}
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for i, name in enumerate(zip(*(plain[part] for part in key), strict=True)):
            groups[name].append(i)
        made = []
        for members in groups.values():
            written = [
                OwnershipRow(
                    Owner(plain["patient_id"][i], plain["encounter_id"][i]),
                    times["available_at"][i],
                    plain[ATTRIBUTION][i],
                    plain[ATTRIBUTION][i] % 2 == 0,
                )
                for i in members
            ]
            if all(row.withdrawn for row in written):  # the row with the value was of a patient who is forgotten
                continue
            first = members[0]
            told = min(t if (t := times[TOLD_AT][i]) is not None else times["available_at"][i] for i in members)
            device = self._key_of(plain["device_id"][first] or "")
            made.append(_Group(members, written, device, times["effective_at"][first], told))
        return sorted(made, key=lambda group: group.told_us)

    def _as_outcome(self, rows: pa.RecordBatch) -> Outcome:
        """Return the rows as the outcome of a poll in which each row is a message of its own."""
        count = rows.num_rows
        sources = rows["source"].dictionary_encode()
        parts = tuple(PartId(*_topic_and_partition(text)) for text in sources.dictionary.to_pylist())
        message = np.arange(count, dtype=np.int32)
        poll = Poll(
            shard=self._job,
            format="attribution",
            values=[b""] * count,
            parts=parts,
            part=sources.indices.to_numpy().astype(np.int32),
            offset=rows["source_position"].to_numpy().astype(np.int64),
            broker_ms=rows["available_at"].cast(pa.int64()).to_numpy() // 1000,
        )
        return Outcome(
            poll=poll,
            rows=rows.drop_columns(list(_PROVENANCE)),
            message=message,
            row_message=message,
            rejects=[],
            tombstones=[],
            fingerprints=np.zeros((0, 2), np.uint64),
            effective_us=rows["effective_at"].cast(pa.int64()).to_numpy(),
            associations=self._associations.version,
        )


def _overlaps(reader: pq.ParquetFile, bounds: tuple[int, int]) -> bool:
    """Return whether a file's times can lie within bounds, by its statistics; without statistics they can."""
    metadata = reader.metadata
    place = metadata.schema.names.index("effective_at")
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(place).statistics
        if statistics is None or not statistics.has_min_max:
            return True
        if _us(statistics.min) < bounds[1] and _us(statistics.max) >= bounds[0]:
            return True
    return False


def _us(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _topic_and_partition(source: str) -> tuple[str, str, int]:
    topic, _, partition = source.rpartition("[")
    return (topic, "", int(partition.rstrip("]"))) if topic else (source, "", 0)
