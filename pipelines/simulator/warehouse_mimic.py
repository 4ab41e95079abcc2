"""Makes a warehouse of the MIMIC-IV demo: its CLIF tables in a DuckDB file of the home, with a table of the anchors.

The demo has neither names nor birth dates. It gets made-up ones, so that there is something to mask: names of plants
and colours, record numbers that start with DEMO, and birth dates that agree with the ages to a year.
"""

from __future__ import annotations

import zlib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.simulator import demo_data
from pipelines.simulator.anchors import Anchors, load_or_create
from pipelines.simulator.make_once import make_once

TABLES = {
    "vitals": ("vitals", ["hospitalization_id", "recorded_dttm", "vital_name", "vital_category", "vital_value"]),
    "labs": (
        "labs",
        ["hospitalization_id", "lab_collect_dttm", "lab_result_dttm", "lab_category", "lab_value_numeric"],
    ),
    "assessments": (
        "patient_assessments",
        ["hospitalization_id", "recorded_dttm", "assessment_category", "numerical_value"],
    ),
    "respiratory": ("respiratory_support", ["hospitalization_id", "recorded_dttm", "fio2_set", "lpm_set"]),
    "diagnosis": (
        "hospital_diagnosis",
        ["hospitalization_id", "diagnosis_code", "diagnosis_code_format", "diagnosis_primary"],
    ),
    "hospitalization": (
        "hospitalization",
        [
            "patient_id",
            "hospitalization_id",
            "admission_dttm",
            "discharge_dttm",
            "age_at_admission",
            "admission_type_category",
            "discharge_category",
        ],
    ),
    "medication": (
        "medication_admin_intermittent",
        ["hospitalization_id", "med_order_id", "admin_dttm", "med_category", "med_dose", "med_dose_unit"],
    ),
    "procedure_coded": (
        "patient_procedures",
        ["hospitalization_id", "procedure_code", "procedure_code_format", "procedure_billed_dttm"],
    ),
    "adt": ("adt", ["hospitalization_id", "in_dttm", "out_dttm", "location_name", "location_category"]),
}
"""Table → CLIF table and the columns that queries read; each table also gets ``line``, the number of the row."""

FORMAT = 3
"""Format of the file; a file of another format is replaced."""

_FAMILY = (
    "Alder",
    "Birch",
    "Cedar",
    "Elder",
    "Hazel",
    "Juniper",
    "Laurel",
    "Maple",
    "Rowan",
    "Sorrel",
    "Tansy",
    "Willow",
)
_GIVEN = ("Amber", "Azure", "Coral", "Indigo", "Ivory", "Jade", "Ochre", "Olive", "Ruby", "Russet", "Sienna", "Teal")
_DAYS = 360
_DAY = 86_400


def make_demo_warehouse(home: Path) -> Path:
    """Return the warehouse's file; make it if it is missing, see make_once.

    Raises:
        SettingsError: the demo's data are not installed.
        InputError: the anchors cannot be read or written.
        ServiceUnavailable: there is no room for it.
    """

    def fill(connection: Any) -> None:
        for name, table in demo_tables(load_or_create(home)).items():
            connection.register("incoming", table)
            connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming')  # noqa: S608 - names of ours
            connection.unregister("incoming")

    return make_once(home, "mimic-demo", format=FORMAT, fill=fill)


def demo_tables(anchors: Anchors) -> dict[str, pa.Table]:
    """Return the tables of the warehouse; times are UTC without a zone, as in the demo, not moved by the anchors."""
    tables = {name: _plain(demo_data.read(clif, columns)) for name, (clif, columns) in TABLES.items()}
    tables["patient"] = _patients(tables["hospitalization"], anchors)
    tables["anchors"] = pa.table(
        {
            "hospitalization_id": list(anchors.shift_seconds),
            # Two numbers, because neither DuckDB nor PostgreSQL multiplies an interval by more than 32 bits.
            "shift_days": pa.array([shift // _DAY for shift in anchors.shift_seconds.values()], pa.int32()),
            "shift_seconds": pa.array([shift % _DAY for shift in anchors.shift_seconds.values()], pa.int32()),
            "reference": [anchors.reference.replace(tzinfo=None)] * len(anchors.shift_seconds),
        }
    )
    return tables


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with UTC times without a zone, and with numbered rows."""
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(
                place, field.name, pc.local_timestamp(table[field.name].cast(pa.timestamp("us", "UTC")))
            )
    return table.append_column("line", pa.array(range(table.num_rows), pa.int64()))


def _patients(stays: pa.Table, anchors: Anchors) -> pa.Table:
    sexes = demo_data.read("patient", ["patient_id", "sex_category"]).to_pydict()
    born: dict[str, date] = {}
    for stay in stays.sort_by("admission_dttm").to_pylist():
        shift = anchors.shift_seconds.get(stay["hospitalization_id"])
        if shift is not None and stay["patient_id"] not in born:
            admitted = (stay["admission_dttm"] + timedelta(seconds=shift)).date()
            days = 1 + _number(stay["patient_id"], "day") % _DAYS
            born[stay["patient_id"]] = _years_before(admitted, stay["age_at_admission"]) - timedelta(days=days)
    ids = sexes["patient_id"]
    return pa.table(
        {
            "patient_id": ids,
            "sex_category": sexes["sex_category"],
            "name": [f"{_choose(_FAMILY, i, 'family')}, {_choose(_GIVEN, i, 'given')}" for i in ids],
            "mrn": [f"DEMO-{_number(i, 'mrn') % 10**8:08d}" for i in ids],
            "address": [f"{1 + _number(i, 'house') % 99} {_choose(_FAMILY, i, 'street')} Lane, Nowhere" for i in ids],
            "birth_date": pa.array([born.get(i) for i in ids], pa.date32()),
        }
    )


def _years_before(day: date, years: int) -> date:
    return day.replace(year=day.year - years, day=min(day.day, 28))


def _number(patient: str, purpose: str) -> int:
    return zlib.crc32(f"{purpose}|{patient}".encode())


def _choose(words: tuple[str, ...], patient: str, purpose: str) -> str:
    return words[_number(patient, purpose) % len(words)]
