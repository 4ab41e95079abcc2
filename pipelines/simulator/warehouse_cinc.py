"""Makes a warehouse of the PhysioNet/CinC Challenge 2012: its sets A and B in a DuckDB file of the home."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipelines.simulator.make_once import make_once
from vitalake.errors import InputError, SettingsError

SETS = ("a", "b")
FORMAT = 2
"""Format of the file; a file of another format is replaced. The job's incarnation names it, because the file numbers
its rows."""

KNOWN = {
    "cinc2012_set_a.parquet": "426a36bbbe9a7f1fd35e6c6bc953a924c0c29aac0d7f5639b1f87b1a15a29130",
    "cinc2012_set_b.parquet": "ce9d300e81a59bc72036640f0b9f5f7c03872344e87a809dadede22f70d0f08d",
    "cinc2012_outcomes_a.parquet": "f6ce65bee438506f6156004789564d57058c1ae40dd309237c8240bf17eb72e1",
    "cinc2012_outcomes_b.parquet": "447229ae87f172e92d8cdf7c7848ffdbd6b87b1e2854ff80bace09f1af6bf89b",
}
"""SHA-256 of the files: other files would have other patients under the same numbers."""

_MEASURED = """
CREATE TABLE measured AS
SELECT row_number() OVER (ORDER BY record_id, minute, parameter, value) AS line,
    CAST(record_id AS bigint) AS record_id, CAST(minute AS bigint) AS minute,
    parameter, value
FROM (SELECT * FROM read_parquet(?) UNION ALL SELECT * FROM read_parquet(?))
"""
_OUTCOME = """
CREATE TABLE outcome AS
SELECT "RecordID" AS record_id, "Length_of_stay" AS length_of_stay, "In-hospital_death" AS died
FROM (SELECT * FROM read_parquet(?) UNION ALL SELECT * FROM read_parquet(?))
"""


def make_cinc_warehouse(home: Path, folder: Path | None) -> Path:
    """Return the warehouse's file; make it from the folder's files if it is missing, see make_once.

    Raises:
        SettingsError: no folder is given, or it lacks a file.
        InputError: a file has another SHA-256 than expected.
        ServiceUnavailable: there is no room for it.
    """

    def fill(connection: Any) -> None:
        if folder is None:
            raise SettingsError("Source needs its files", where="cinc-2012", remedy="Name their folder with --data.")
        for name in KNOWN:
            _check(folder / name)
        for statement, kind in ((_MEASURED, "set"), (_OUTCOME, "outcomes")):
            connection.execute(statement, [str(folder / f"cinc2012_{kind}_{part}.parquet") for part in SETS])

    return make_once(home, "cinc-2012", format=FORMAT, fill=fill)


def _check(path: Path) -> None:
    if not path.is_file():
        raise SettingsError(
            "File of the source is missing",
            where=path.name,
            remedy="Sets A and B are those of the PhysioNet/CinC Challenge 2012, in long form as Parquet.",
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != KNOWN[path.name]:
        raise InputError(
            "File of the source is not the expected one (its SHA-256 differs)",
            where=path.name,
            remedy="Download it again.",
        )
