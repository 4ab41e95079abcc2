"""Errors of a query's columns say which one, in which dataset of which job, and repeat no name that a query made."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.history.columns import places
from pipelines.history.load import load_history
from vitalake.errors import InputError
from vitalake.settings import load_settings

WORDS = "Frau Zzelik klagt"
STAYS = "SELECT i::VARCHAR AS encounter_id, 'p' AS patient_id, now() AS admitted_at, {} FROM range(3) t(i)"


def _refused(home: Path, query: str) -> InputError:
    (home / "stay.sql").write_text(query)
    (home / "city.yaml").write_text("source: city\nwarehouse: 'duckdb::memory:'\ndatasets: {encounter: stay.sql}\n")
    with pytest.raises(InputError) as caught:
        load_history(load_settings(home), str(home / "city.yaml"))
    assert "Zz" not in str(caught.value)
    assert not (home / "lake").exists()
    return caught.value


def test_columns_that_a_pivot_names_by_a_patient_s_words_are_told_by_their_places(home: Path) -> None:
    remarks = STAYS.format(f"'{WORDS} ' || i AS remark")
    error = _refused(home, f"PIVOT ({remarks}) ON remark USING count(*)")
    assert error.what == "Query returns 3 columns that its dataset does not have"
    assert error.where == "city.encounter: columns 4, 5, 6 of 6"


@pytest.mark.parametrize(
    ("columns", "where"),
    [
        (f"1 AS \"{WORDS}\"", "city.encounter: column 4 of 4"),
        (f"[1] AS \"{WORDS}\"", "city.encounter: column 4 of 4"),
        (f"1 AS \"{WORDS}\", 2 AS \"{WORDS}\"", "city.encounter: column 4 of 5, column 5 of 5"),
        ("'p' AS patient_id", "city.encounter: patient_id"),
        ("'Zz' AS age_at_admission", "city.encounter: age_at_admission"),
        ("'Zz' AS discharged_at", "city.encounter: discharged_at"),
        ("1.5 AS admission_type", "city.encounter: admission_type"),
        (f"'infinity'::TIMESTAMP AS \"{WORDS}\"", "city.encounter: column 4 of 4"),
        ("'infinity'::TIMESTAMP AS discharged_at", "city.encounter: discharged_at"),
    ],
)  # fmt: skip
def test_an_error_names_job_and_dataset_and_only_columns_that_the_dataset_has(
    columns: str, where: str, home: Path
) -> None:
    assert _refused(home, STAYS.format(columns)).where == where


def test_of_very_many_columns_the_first_places_are_told() -> None:
    assert places(range(1, 40), 50) == "columns 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … of 50"
    assert places([0], 1) == "column 1 of 1"
