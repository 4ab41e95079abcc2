"""A small published lake for queries, with rows of both lanes, a correction, and a value that was withdrawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from governance.access import Principal
from governance.audit import AuditEvent
from vitalake.errors import ServiceUnavailable
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import Table

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE, TWO = "v1." + "a" * 32, "v1." + "b" * 32
OFFICER = Principal("officer", "officer", "Officer")
CLINICIAN = Principal("clinician", "clinician", "Clinician")


class Recorder:
    """Stores events in memory, or fails as an audit that cannot be written."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.full = False

    def record(self, event: AuditEvent) -> None:
        """Keep an event."""
        if self.full:
            raise ServiceUnavailable("Audit cannot be written")
        self.events.append(event)


def publish(
    lake: Path | str, dataset: str, rows: list[dict[str, Any]], *, options: dict[str, str] | None = None
) -> None:
    """Add rows to a published table; columns that are not given are null."""
    declared = load_dataset(dataset)
    table = Table(declared, open_storage(str(lake), options or {}), zone="published")
    columns = {c.name: pa.array([row.get(c.name) for row in rows], c.type) for c in declared.columns}
    number = table.delta.version()
    staged = table.stage(pa.table(columns, schema=declared.schema), stem=f"part-{number}")
    table.refresh()
    table.commit(add=staged, transactions={"samples": number})


def observation(identity: int, value: float | None, **other: Any) -> dict[str, Any]:
    """Return a row as the live lane publishes it."""
    at = NOON + timedelta(minutes=identity)
    row = {
        "observation_id": identity.to_bytes(16, "big"), "version": 1, "patient_id": ONE, "code": "8867-4",
        "value": value, "unit": "/min", "status": "final", "effective_at": at, "available_at": at,
        "ingested_at": at, "source": "vitals[0]", "source_position": identity,
    }  # fmt: skip
    return {**row, **other}


def publish_samples(lake: Path | str, *, options: dict[str, str] | None = None) -> None:
    """Publish nine rows of five observations, of which four are current; and two patients."""
    later = NOON + timedelta(hours=2)
    publish(
        lake,
        "observation",
        [
            observation(1, 71.0),
            observation(2, 72.0, patient_id=TWO),
            observation(3, 73.0),
            observation(4, 74.0, code="2708-6"),
            observation(5, 75.0),
        ],
        options=options,
    )
    publish(
        lake,
        "observation",
        [
            # the same, from the warehouse, known later
            observation(1, 71.0, source="mimic.observation[0]", available_at=later, source_position=9),
            observation(2, 99.0, version=2, patient_id=TWO),  # corrected
            observation(3, None, version=2, status="entered-in-error"),  # taken back
            observation(1, 71.0, source="vitals[1]", source_position=0),  # sent twice, known at the same time
        ],
        options=options,
    )
    patients = [{"patient_id": name, "version": 1, "sex": sex} for name, sex in ((ONE, "female"), (TWO, "male"))]
    publish(lake, "patient", patients, options=options)
