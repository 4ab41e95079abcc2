"""Reads the data of a training: current published rows, from the query service, as columns of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.access.principal import local_principal
from governance.query.service import QueryService
from models.tasks import Task
from models.tasks.labels import STAYS
from models.training.outcomes import Outcomes, Row, outcomes_of
from vitalake.clinical.records import History, Stay, code_number
from vitalake.clinical.statuses import WITHOUT_RESULT
from vitalake.errors import ModelError
from vitalake.lake.commits.lake import published_name
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_VALUES = np.dtype(
    [("code", "<u4"), ("patient", "<i4"), ("value", "<f8"), ("effective_us", "<i8"), ("available_us", "<i8")]
)
_OBSERVATION = ["patient_id", "code", "value", "status", "effective_at", "available_at"]
_STAY = ["encounter_id", "patient_id", "admitted_at", "discharged_at", "age_at_admission", "source"]


_COLUMNS = ("code", "value", "effective_us", "available_us")


class Published:
    """The published values of many patients, sorted by patient and time; 32 bytes a value."""

    def __init__(self, patients: Sequence[str], values: npt.NDArray[np.void]) -> None:
        self._patients = {patient: i for i, patient in enumerate(patients)}
        order = np.lexsort((values["code"], values["effective_us"], values["patient"]))
        self._values = values[order]
        self._edges = np.searchsorted(self._values["patient"], np.arange(len(patients) + 1))

    def __len__(self) -> int:
        return len(self._values)

    def history(self, patient: str) -> History:
        """Return a patient's values; empty if none are published."""
        number = self._patients.get(patient)
        mine = self._values[0:0] if number is None else self._values[self._edges[number] : self._edges[number + 1]]
        return History(*(np.ascontiguousarray(mine[name]) for name in _COLUMNS))


def read_outcomes(query_service: QueryService, task: Task, *, source: str | None = None) -> Outcomes:
    """Return the outcomes of stays that have ended, and how many stays cannot be used.

    Args:
        query_service: of the home's lake.
        task: its label defines the event.
        source: only stays from this source of the history lane; None: from all sources.

    Raises:
        ModelError: no usable stay is published.
    """
    label_columns = task.label.reads.get(STAYS, ())
    columns = [*dict.fromkeys([*_STAY, *label_columns])]
    sex_of = {
        row["patient_id"]: row["sex"]
        for batch in read(query_service, task, "patient", ["patient_id", "sex"])
        for row in batch.to_pylist()
    }
    rows = [
        Row(
            row["patient_id"],
            Stay(
                encounter=row["encounter_id"],
                admitted_us=microseconds(row["admitted_at"]) or 0,
                discharged_us=microseconds(row["discharged_at"]),
                age_years=row["age_at_admission"],
                sex=sex_of.get(row["patient_id"]) or "unknown",
                unit="",
                bed="",
            ),
            str(row["source"] or "").partition(".")[0],
            {name: row[name] for name in label_columns},
        )
        for batch in read(query_service, task, STAYS, columns)
        for row in batch.to_pylist()
    ]
    found = outcomes_of(task.label, rows, source=source)
    if not found.ended:
        raise ModelError(
            "No stay with a known outcome is published",
            where=f"{published_name(STAYS)}{f', source {source}' if source else ''}",
            remedy="Run 'vitalake history load mimic-demo' first.",
        )
    return found


def read_values(
    query_service: QueryService, task: Task, patients: Sequence[str], *, purpose: str = "train"
) -> Published:
    """Return some patients' current values of a task's codes: those of its features, of NEWS2 and of its label."""
    codes = sorted(task.codes.union(task.label.codes))
    numbers = {patient: i for i, patient in enumerate(patients)}
    batches = read(query_service, task, "observation", _OBSERVATION, where={"code": codes}, purpose=purpose)
    parts = [_numbers(batch, numbers) for batch in batches]
    return Published(patients, np.concatenate([np.zeros(0, _VALUES), *parts]))


def _numbers(batch: pa.RecordBatch, patients: dict[str, int]) -> npt.NDArray[np.void]:
    """Return the values of a batch that belong to the given patients."""
    who = _looked_up(batch.column("patient_id"), lambda token: patients.get(token, -1), np.int32)
    result = ~_looked_up(batch.column("status"), lambda status: status in WITHOUT_RESULT, np.bool_)
    chosen = (who >= 0) & batch.column("value").is_valid().to_numpy(zero_copy_only=False) & result
    rows = np.zeros(int(chosen.sum()), _VALUES)
    rows["patient"] = who[chosen]
    rows["code"] = _looked_up(batch.column("code"), code_number, np.uint32)[chosen]
    rows["value"] = batch.column("value").to_numpy(zero_copy_only=False)[chosen]
    for name in ("effective", "available"):
        times = batch.column(f"{name}_at").cast(pa.int64())
        rows[f"{name}_us"] = pc.fill_null(times, np.iinfo(np.int64).max).to_numpy(zero_copy_only=False)[chosen]
    return rows


def _looked_up(column: pa.Array, function: Any, kind: Any) -> npt.NDArray[Any]:
    """Return a function's result for every entry of a column; the function is called once for each distinct entry."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    results = np.array([function(text) for text in encoded.dictionary.to_pylist()] or [0], kind)
    indices = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return results[indices]


def microseconds(value: datetime | None) -> int | None:
    """Return a datetime as microseconds since 1970 UTC; None for None."""
    return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)


def read(
    query_service: QueryService,
    task: Task,
    dataset: str,
    columns: Sequence[str],
    *,
    where: Mapping[str, Sequence[str | int | float]] | None = None,
    purpose: str = "train",
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a dataset's current published rows, through the query service, which audits the access."""
    principal = local_principal()
    yield from query_service.read(
        dataset, columns=columns, principal=principal, purpose=f"{purpose}-{task.name}", where=where
    )


def data_versions(settings: Settings, task: Task) -> dict[str, int]:
    """Return the version of each published table that training reads."""
    storage = open_storage(settings.lake_uri, settings.storage_options)
    return {
        name: Table(load_dataset(name), storage, zone="published").delta.version()
        for name in sorted(task.reads)
        if storage.holds_table(published_name(name))
    }
