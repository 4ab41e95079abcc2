"""The one place where training reads: published rows, as columns of numbers, the latest version of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.tasks import Task
from vitalake.care.records import History, Stay, code_number
from vitalake.errors import ModelError
from vitalake.lake.dataset import load_dataset
from vitalake.lake.lake import published_name
from vitalake.lake.storage import open_storage
from vitalake.lake.table import Table
from vitalake.settings import Settings

TAKEN_BACK = ("entered-in-error", "cancelled")
"""Statuses that take a value back; the care store leaves such values out as well."""

_VALUES = np.dtype(
    [("code", "<u4"), ("patient", "<i4"), ("value", "<f8"), ("effective_us", "<i8"), ("available_us", "<i8")]
)
_OBSERVATION = ["observation_id", "version", "patient_id", "code", "value", "status", "effective_at", "available_at"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stay that has ended, and how."""

    patient: str
    stay: Stay
    event: bool
    source: str


class Published:
    """Published values of many patients, sorted by patient and time; 32 bytes a value."""

    def __init__(self, patients: Sequence[str], values: npt.NDArray[np.void]) -> None:
        self._patients = {patient: i for i, patient in enumerate(patients)}
        order = np.lexsort((values["code"], values["effective_us"], values["patient"]))
        self._values = values[order]
        self._edges = np.searchsorted(self._values["patient"], np.arange(len(patients) + 1))

    def __len__(self) -> int:
        return len(self._values)

    def history(self, patient: str) -> History:
        """Return a patient's values; empty for one of whom nothing is published."""
        number = self._patients.get(patient)
        mine = self._values[0:0] if number is None else self._values[self._edges[number] : self._edges[number + 1]]
        return History(*(np.ascontiguousarray(mine[name]) for name in History.__dataclass_fields__))


def read_outcomes(settings: Settings, task: Task, *, source: str | None = None) -> tuple[list[Outcome], int]:
    """Return the stays that have ended, by patient and time, and how many have not.

    Args:
        settings: of the home.
        task: says what the event is.
        source: only stays from this source of the history lane; None: of all.

    Raises:
        ModelError: none that has ended is published.
    """
    label = task.label
    wanted = ["patient_id", "admitted_at", "discharged_at", "age_at_admission", "source", "version"]
    rows = _current(read(settings, label.dataset, ["encounter_id", *wanted, label.column]), "encounter_id")
    sexes = _current(read(settings, "patient", ["patient_id", "version", "sex"]), "patient_id")
    sex_of = dict(zip(sexes["patient_id"].to_pylist(), sexes["sex"].to_pylist(), strict=True))
    found, going_on = [], 0
    for row in _with_microseconds(rows).to_pylist():
        origin = str(row["source"] or "").partition(".")[0]
        if source not in (None, origin):
            continue
        if row[label.column] is None or row["discharged_at"] is None:
            going_on += 1
            continue
        stay = Stay(
            encounter=row["encounter_id"],
            admitted_us=row["admitted_at"],
            discharged_us=row["discharged_at"],
            age_years=row["age_at_admission"],
            sex=sex_of.get(row["patient_id"]) or "unknown",
            unit="",
            bed="",
        )
        found.append(Outcome(row["patient_id"], stay, row[label.column] in label.positive, origin))
    if not found:
        raise ModelError(
            "No stay that has ended is published",
            where=f"{published_name(label.dataset)}{f', source {source}' if source else ''}",
            remedy="Run 'vitalake history load mimic-demo' first.",
        )
    return sorted(found, key=lambda o: (o.patient, o.stay.admitted_us, o.stay.encounter)), going_on


def read_values(settings: Settings, task: Task, patients: Sequence[str]) -> Published:
    """Return the values of a task's codes of some patients: of each the latest version, and none taken back.

    Raises:
        ModelError: nothing is published.
    """
    codes = sorted({code for item in task.features.items for code in item.codes} | set(NEWS2_CODES))
    numbers = {patient: i for i, patient in enumerate(patients)}
    parts, ids, versions, back = [], [], [], []
    for batch in batches(settings, "observation", _OBSERVATION, codes=codes):
        rows, identity, version, taken = _numbers(batch, numbers)
        parts.append(rows)
        ids.append(identity)
        versions.append(version)
        back.append(taken)
    if not parts:
        return Published(patients, np.zeros(0, _VALUES))
    values, identity = np.concatenate(parts), np.concatenate(ids)
    del parts, ids
    order = np.lexsort((np.concatenate(versions), identity))
    latest = np.append(identity[order][1:] != identity[order][:-1], True)
    kept = order[latest]
    return Published(patients, values[kept[~np.concatenate(back)[kept]]])


NEWS2_CODES = ("9279-1", "2708-6", "59408-5", "3151-8", "3150-6", "8480-6", "8867-4", "8889-8", "9269-2", "8310-5")
"""What the baseline reads; most of it stands in the tasks too."""


def _numbers(
    batch: pa.RecordBatch, patients: dict[str, int]
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return a batch's values, identities, versions and which are taken back; of the wanted patients only."""
    who = _looked_up(batch.column("patient_id"), lambda token: patients.get(token, -1), np.int32)
    back = _looked_up(batch.column("status"), lambda status: status in TAKEN_BACK, np.bool_)
    chosen = (who >= 0) & (batch.column("value").is_valid().to_numpy(zero_copy_only=False) | back)
    rows = np.zeros(int(chosen.sum()), _VALUES)
    rows["patient"] = who[chosen]
    rows["code"] = _looked_up(batch.column("code"), code_number, np.uint32)[chosen]
    rows["value"] = pc.fill_null(batch.column("value"), np.nan).to_numpy(zero_copy_only=False)[chosen]
    for name in ("effective", "available"):
        times = batch.column(f"{name}_at").cast(pa.int64())
        rows[f"{name}_us"] = pc.fill_null(times, np.iinfo(np.int64).max).to_numpy(zero_copy_only=False)[chosen]
    version = pc.fill_null(batch.column("version"), 0).to_numpy(zero_copy_only=False)
    whole = batch.column("observation_id").cast(pa.binary(16))
    identity = np.frombuffer(whole.buffers()[1], np.uint64).reshape(-1, 2)[whole.offset :][: len(whole), 0]
    return rows, identity[chosen], version[chosen], back[chosen]


def _looked_up(column: pa.Array, function: Any, kind: Any) -> npt.NDArray[Any]:
    """Return a function's result for every entry of a column, called once for each text."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    results = np.array([function(text) for text in encoded.dictionary.to_pylist()] or [0], kind)
    indices = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return results[indices]


def _current(table: pa.Table, key: str) -> pa.Table:
    """Return the latest version of each row."""
    ordered = table.sort_by([(key, "ascending"), ("version", "ascending")])
    keys = ordered[key].combine_chunks()
    if len(keys) < 2:
        return ordered
    return ordered.filter(pa.concat_arrays([pc.not_equal(keys[1:], keys[:-1]), pa.array([True])]))


def _with_microseconds(table: pa.Table) -> pa.Table:
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(i, field.name, table[field.name].cast(pa.int64()))
    return table


def read(settings: Settings, dataset: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns of all published rows of a dataset.

    Raises:
        ModelError: nothing of it is published.
    """
    return pa.Table.from_batches(list(batches(settings, dataset, columns)), _schema(dataset, columns))


def batches(
    settings: Settings, dataset: str, columns: Sequence[str], *, codes: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of all published rows of a dataset, all versions.

    Args:
        settings: of the home.
        dataset: its name.
        columns: theirs.
        codes: only rows with one of these in the column ``code``.

    Raises:
        ModelError: nothing of it is published.
    """
    storage = open_storage(settings.lake_uri, settings.storage_options)
    name = published_name(dataset)
    if not storage.holds_table(name):
        raise ModelError(
            "Nothing is published", where=name, remedy="Run 'vitalake history load mimic-demo' first."
        ) from None
    table = Table(load_dataset(dataset), storage, zone="published")
    for path in sorted(table.snapshot().files):
        rows = table.storage.read_parquet(path, columns=list(columns)).cast(_schema(dataset, columns))
        if codes is not None:
            rows = rows.filter(pc.is_in(rows["code"], value_set=pa.array(codes)))
        yield from rows.combine_chunks().to_batches()


def data_versions(settings: Settings) -> dict[str, int]:
    """Return the version of each published table that training reads."""
    storage = open_storage(settings.lake_uri, settings.storage_options)
    names = ("encounter", "observation", "patient")
    return {
        name: Table(load_dataset(name), storage, zone="published").delta.version()
        for name in names
        if storage.holds_table(published_name(name))
    }


def _schema(dataset: str, columns: Sequence[str]) -> pa.Schema:
    declared = load_dataset(dataset)
    return pa.schema([pa.field(name, declared.column(name).type) for name in columns])
