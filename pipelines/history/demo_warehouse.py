"""The MIMIC-IV demo as a warehouse: its CLIF tables in a DuckDB file of the home, with the anchors beside them."""

from __future__ import annotations

import secrets
from pathlib import Path

import pyarrow as pa

from pipelines.simulator import demo_data
from pipelines.simulator.anchors import load_or_create

TABLES = {
    "vitals": ["hospitalization_id", "recorded_dttm", "vital_name", "vital_category", "vital_value"],
    "hospitalization": [
        "patient_id",
        "hospitalization_id",
        "admission_dttm",
        "discharge_dttm",
        "age_at_admission",
        "admission_type_category",
        "discharge_category",
    ],
    "patient": ["patient_id", "sex_category"],
    "adt": ["hospitalization_id", "in_dttm", "location_name"],
}
"""CLIF table → the columns that queries read."""


def make_demo_warehouse(home: Path) -> Path:
    """Return the warehouse's file; made when it is not there, whole or not at all.

    Raises:
        SettingsError: the demo's data are not installed.
        InputError: the anchors cannot be read or written.
    """
    import duckdb

    path = home / "mimic-demo.duckdb"
    if path.exists():
        return path
    anchors = load_or_create(home)
    moves = pa.table(
        {
            "hospitalization_id": list(anchors.shift_seconds),
            "shift_seconds": pa.array(anchors.shift_seconds.values(), pa.int64()),
            "reference": [anchors.reference.replace(tzinfo=None)] * len(anchors.shift_seconds),
        }
    )
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with duckdb.connect(str(staged)) as connection:
        for name, columns in TABLES.items():
            connection.register("incoming", demo_data.read(name, columns))
            connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming')  # noqa: S608 - names of ours
        connection.register("incoming", moves)
        connection.execute("CREATE TABLE anchors AS SELECT * FROM incoming")
    staged.chmod(0o600)
    staged.replace(path)
    return path
