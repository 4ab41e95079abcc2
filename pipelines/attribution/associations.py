"""The association table as a map from a device to its history, read file by file as the table grows."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from governance.vault.sealed_rows import PatientKeys, open_value
from pipelines.attribution.histories import Histories
from pipelines.attribution.timeline import OPEN_END, Fact, Owner, Step
from pipelines.formats.shared.records import MERGED
from vitalake.causes import unavailable
from vitalake.lake.commits.lake import Lake, restricted_name
from vitalake.lake.datasets.dataset import DEVICE_KEY, SUBJECT
from vitalake.lake.tables.schema import conform
from vitalake.lake.tables.table import StagedFile, Table

_log = logging.getLogger(__name__)

TABLE = restricted_name("device_association")

LOOK_SECONDS = 1.0
"""How old the map can be before the table is looked at again: a look costs a listing of the table's log."""

_COLUMNS = (
    SUBJECT.name, DEVICE_KEY.name, "association_id", "version", "device_id", "patient_id", "encounter_id", "valid_from",
    "valid_to", "status", "available_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _File:
    """The rows of one file by device, and a table of the association and device of each row."""

    by_device: dict[bytes, pa.Table]
    names: pa.Table


class AssociationMap:
    """The association table, read file by file as it grows; a device's facts are unsealed when they are first needed.

    Used by one thread at a time.

    Attributes:
        version: the version of the table that was read, plus one; 0: nothing was read yet.
        frozen: the table is read only on request, so that a whole batch is attributed by the same version.
    """

    def __init__(self, lake: Lake, keys: PatientKeys, key_of: Callable[[str], bytes]) -> None:
        """Prepare; the table is opened, and created if missing, at the first look.

        Args:
            lake: of this thread.
            keys: the vault.
            key_of: returns the keyed hash of a device id, by which the device is found.
        """
        self._lake, self._keys, self._key_of = lake, keys, key_of
        self._table: Table | None = None
        self._files: dict[str, _File] = {}
        self._moved: dict[bytes, set[bytes]] = {}
        self._merged: dict[bytes, set[bytes]] = defaultdict(set)
        self._histories = Histories()
        self._looked = -LOOK_SECONDS
        self._out_of_reach = False
        self.version = 0
        self.frozen = False

    # -- reading -------------------------------------------------------------------------------------------------

    def look(self, *, now: bool = False) -> int:
        """Read new files if the last look was more than LOOK_SECONDS ago; return the version that was read, 1 or more.

        While the table cannot be reached, the map stays as it is. Rows that were attributed by an old version are
        attributed again by the attributor.

        Args:
            now: look in any case, even while the map is frozen.

        Raises:
            ServiceUnavailable: the table cannot be reached, and either nothing was read yet or ``now`` is set.
        """
        if not now and (self.frozen or time.monotonic() - self._looked < LOOK_SECONDS):
            return self.version
        try:
            self._look()
        except (OSError, DeltaError) as error:
            if now or not self.version:
                raise unavailable(
                    error,
                    "Associations cannot be read",
                    where=TABLE,
                    remedy="Check the lake's storage; vitalake tries again.",
                ) from None
            if not self._out_of_reach:  # logged once, because it is tried again every few seconds
                _log.warning("associations cannot be reached", extra={"table": TABLE, "version": self.version})
            self._out_of_reach = True
        else:
            self._out_of_reach = False
        self._looked = time.monotonic()
        return self.version

    def _look(self) -> None:
        if self._table is None:
            self._table = self._lake.table(TABLE)
        self._table.refresh()
        version = self._table.delta.version() + 1
        if version != self.version:
            self._take(self._table.snapshot().files)
            self.version = version

    @property
    def table(self) -> Table:
        """The association table as of the last look."""
        assert self._table is not None
        return self._table

    def _take(self, files: dict[str, StagedFile]) -> None:
        """Read the new files of a version; if one cannot be read, nothing is changed."""
        only_added = self._files.keys() <= files.keys()  # else the table was rewritten: rows of a patient can be gone
        kept = self._files if only_added else {}
        new = {path: self._read(path) for path in files.keys() - kept.keys()}
        names = [part.names for part in (kept | new).values()]
        moved = _moved(names)
        if not only_added or moved != self._moved:
            self._histories = Histories()
        self._files, self._moved = kept | new, moved
        changed = {device for part in new.values() for device in part.by_device}
        changed |= {device for several in moved.values() if not changed.isdisjoint(several) for device in several}
        for device in changed | {device for name in changed for device in self._merged.get(name, ())}:
            self._histories.outdate(device)

    def _read(self, path: str) -> _File:
        assert self._table is not None
        schema = pa.schema([self._table.state.columns.field(name) for name in _COLUMNS])
        rows = conform(self._table.storage.read_parquet(path, columns=list(_COLUMNS)), schema).combine_chunks()
        devices = pc.fill_null(rows[DEVICE_KEY.name], b"").combine_chunks().dictionary_encode()
        index = devices.indices.to_numpy()
        order = np.argsort(index, kind="stable")
        bounds = np.flatnonzero(np.append(True, np.diff(index[order]) != 0)) if len(order) else np.zeros(0, np.int64)
        ordered = rows.take(pa.array(order))
        names = devices.dictionary.to_pylist()
        by_device = {
            names[index[order[begin]]]: ordered.slice(begin, end - begin)
            for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(order)], strict=True)
        }
        return _File(by_device, rows.select(["association_id", DEVICE_KEY.name]))

    def forget(self) -> None:
        """Drop the histories, which are all identifying data that this map has in memory."""
        self._histories = Histories()

    # -- asking --------------------------------------------------------------------------------------------------

    def numbers(self, devices: Sequence[bytes]) -> list[int]:
        """Return the devices' numbers among the histories, which are unsealed if necessary; -1: no history.

        Raises:
            KeyRevoked: patients' keys are not available.
        """
        rows = {device: self._rows(device) for device in devices if device not in self._histories}
        new = {device: part for device, part in rows.items() if part is not None}
        if new:
            secrets = self._secrets(pa.concat_tables(new.values()))  # in one request: the vault can be far away
            for device, part in new.items():
                self._histories.put(device, self._facts_of(device, part, secrets))
        return [self._histories.number(device) for device in devices]

    def _secrets(self, rows: pa.Table) -> dict[bytes, bytes]:
        return self._keys.secrets(set(rows[SUBJECT.name].to_pylist()) - {None})

    def _facts_of(self, device: bytes, rows: pa.Table, secrets: dict[bytes, bytes]) -> list[Fact]:
        facts = read_facts(rows, secrets)
        for name in {fact.association for fact in facts} & self._moved.keys():
            for other in self._moved[name] - {device}:  # a version for another device ends the one for this device
                others_rows = self._rows(other)
                assert others_rows is not None
                versions = others_rows.filter(pc.equal(others_rows["association_id"], pa.scalar(name, pa.binary())))
                facts += [
                    replace(fact, owner=Owner(None), valid_from=OPEN_END, valid_to=OPEN_END)
                    for fact in read_facts(versions, {})
                ]
        return facts + self._merges(device, {fact.owner.patient for fact in facts})

    def _merges(self, device: bytes, patients: set[str | None]) -> list[Fact]:
        """Return the merges of a device's patients into others, followed along the chain."""
        merges: list[Fact] = []
        seen: set[str | None] = {None}
        while patients := patients - seen:
            seen |= patients
            new: list[Fact] = []
            for patient in patients:
                name = self._key_of(f"{MERGED}{patient}")
                self._merged[name].add(device)
                rows = self._rows(name)
                if rows is not None:
                    new += [replace(fact, merged=patient) for fact in read_facts(rows, self._secrets(rows))]
            merges += new
            patients = {fact.owner.patient for fact in new}
        return merges

    def _rows(self, device: bytes) -> pa.Table | None:
        parts = [file.by_device[device] for file in self._files.values() if device in file.by_device]
        return pa.concat_tables(parts) if parts else None

    def find(
        self, number: npt.NDArray[np.int64], at_us: npt.NDArray[np.int64], available_us: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """See Histories.find. The sealer drops the rows of a patient who was forgotten since the last look."""
        return self._histories.find(number, at_us, available_us)

    def owners(self, index: Iterable[int]) -> list[Owner]:
        """Return owners by their index."""
        return [self._histories.owners[i] for i in index]

    def facts(self, number: int) -> Sequence[Fact]:
        """See Histories.facts."""
        return self._histories.facts(number)

    def steps(self, number: int, at_us: int) -> tuple[Step, ...]:
        """See Histories.steps."""
        return self._histories.steps(number, at_us)

    def count(self, number: int) -> int:
        """Return how many facts of a device are known."""
        return self._histories.count(number)

    def counts(self, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many facts of each device are known; 0 for -1."""
        return self._histories.counts(number)

    def devices(self) -> dict[bytes, pa.Table]:
        """Return the sealed rows of every device."""
        rows: dict[bytes, list[pa.Table]] = defaultdict(list)
        for file in self._files.values():
            for device, part in file.by_device.items():
                rows[device].append(part)
        return {device: pa.concat_tables(parts) for device, parts in rows.items()}


def _moved(names: list[pa.Table]) -> dict[bytes, set[bytes]]:
    """Return the associations whose versions name different devices, with those devices."""
    if not names:
        return {}
    pairs = pa.concat_tables(names).group_by(["association_id", DEVICE_KEY.name]).aggregate([])
    counts = pairs.group_by("association_id").aggregate([(DEVICE_KEY.name, "count")])
    several = counts.filter(pc.greater(counts[f"{DEVICE_KEY.name}_count"], 1))["association_id"]
    moved: dict[bytes, set[bytes]] = defaultdict(set)
    for row in pairs.filter(pc.is_in(pairs["association_id"], value_set=several.combine_chunks())).to_pylist():
        moved[row["association_id"]].add(row[DEVICE_KEY.name])
    return dict(moved)


def read_facts(rows: pa.Table, secrets: dict[bytes, bytes]) -> list[Fact]:
    """Return the facts of sealed rows; a fact of a patient whose secret is not given has no patient.

    Raises:
        PrivacyError: a value was changed.
    """
    opened = {
        name: [
            None if sealed is None else open_value(sealed, secrets, context=f"device_association.{name}".encode())
            for sealed in rows[name].to_pylist()
        ]
        for name in ("patient_id", "encounter_id")
    }
    plain = {name: rows[name].to_pylist() for name in ("association_id", "version", "status")}
    times = {name: rows[name].cast(pa.int64()).to_pylist() for name in ("valid_from", "valid_to", "available_at")}
    return [
        Fact(
            association=plain["association_id"][i],
            version=plain["version"][i],
            owner=_owner(opened["patient_id"][i], opened["encounter_id"][i]),
            valid_from=times["valid_from"][i],
            valid_to=OPEN_END if times["valid_to"][i] is None else times["valid_to"][i],
            status=plain["status"][i] or "active",
            available_us=times["available_at"][i] or 0,
        )
        for i in range(rows.num_rows)
    ]


def _owner(patient: bytes | None, encounter: bytes | None) -> Owner:
    if patient is None:
        return Owner(None)
    return Owner(patient.decode(), None if encounter is None else encounter.decode())
