"""The demo's warehouse with some of its stays: what a test finds in a few it need not look for in all."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

SHORTEST = "max(discharge_dttm) - min(admission_dttm)"
"""Order of stays: those with the fewest days first, for the files of each day cost a rewrite its time."""


def leave(warehouse: Path, *, stays: int, order: str = SHORTEST) -> dict[str, pa.Table]:
    """Delete all but some stays that have diagnoses and vital signs, and their patients; return the tables."""
    with duckdb.connect(str(warehouse)) as db:
        tables = db.sql("SELECT table_name, list(column_name) FROM information_schema.columns GROUP BY 1").fetchall()
        db.execute(
            "CREATE TEMP TABLE kept AS SELECT patient_id, hospitalization_id FROM hospitalization "  # noqa: S608
            "JOIN diagnosis USING (hospitalization_id) JOIN vitals USING (hospitalization_id) GROUP BY ALL "
            f"ORDER BY {order}, 1, 2 LIMIT ?",
            [stays],
        )
        for name, columns in tables:
            column = "hospitalization_id" if "hospitalization_id" in columns else "patient_id"
            db.execute(f"DELETE FROM {name} WHERE {column} NOT IN (SELECT {column} FROM kept)")  # noqa: S608
        return {name: db.table(name).to_arrow_table() for name, _ in tables}
