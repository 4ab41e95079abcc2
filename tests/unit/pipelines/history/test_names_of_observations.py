"""A declared dataset may have columns with the names of observations: there they mean nothing special."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pipelines.history.load import load_history
from vitalake import declarations
from vitalake.home import Home
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import load_settings

DECLARED = """
name: dose
kind: record
key: [dose_no, version]
day_of: given_at
columns:
  - {name: dose_no, type: binary, class: record-identifier, hashed: true, description: x}
  - {name: issued_at, type: ISSUED, description: x}
  - {name: amount, type: float64, class: measurement, description: x}
  - {name: given_at, type: timestamp, class: date-of-service, statistics: true, description: x}
"""


class Trusting:
    """A gate through which everything goes."""

    def judge(self, dataset: Dataset, tables: Iterable[pa.Table]) -> None:
        """Read what is to be judged."""
        for _ in tables:
            pass


@pytest.mark.parametrize(
    ("kind", "issued", "value"),
    [
        (
            "timestamp, class: date-of-service",
            "TIMESTAMPTZ '2026-01-05 07:30Z'",
            datetime(2026, 1, 5, 7, 30, tzinfo=UTC),
        ),
        ("string, class: care-event, values: [ward]", "'ward'", "ward"),
    ],
)
def test_a_row_that_changes_keeps_what_its_columns_say(home: Path, kind: str, issued: str, value: object) -> None:
    (home / "datasets").mkdir()
    (home / "datasets" / "dose.yaml").write_text(DECLARED.replace("ISSUED", kind))
    declarations.use(home)
    (home / "city.yaml").write_text("source: city\nwarehouse: duckdb:city.duckdb\ndatasets: {dose: dose.sql}\n")
    (home / "dose.sql").write_text(
        f"SELECT no AS dose_no, 'p' AS patient_id, {issued} AS issued_at, amount, "  # noqa: S608
        "TIMESTAMP '2026-01-05 08:00' AS given_at FROM dose ORDER BY no"
    )
    settings = load_settings(home)
    for amount, loaded in ((1.0, 3), (2.0, 1)):
        with duckdb.connect(str(home / "city.duckdb")) as db:
            db.execute(
                "CREATE OR REPLACE TABLE dose AS FROM (VALUES ('a', 5), ('b', 6), ('c', ?)) t(no, amount)", [amount]
            )
        assert load_history(settings, str(home / "city.yaml"), gate=Trusting()) == loaded
    rows = Home(settings).lake("dose").published.delta.to_pyarrow_table().to_pylist()
    assert sorted(row["amount"] for row in rows) == [1.0, 2.0, 5.0, 6.0]
    assert {row["issued_at"] for row in rows} == {value}
