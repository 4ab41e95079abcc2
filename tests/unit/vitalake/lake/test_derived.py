"""Ages follow from dates of birth where the warehouse gives none."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.datasets.derived import completed_years, derive

_BORN = st.dates(date(1900, 1, 1), date(2020, 12, 31))
_AT = st.datetimes(datetime(1990, 1, 1), datetime(2030, 12, 31))  # noqa: DTZ001 - made aware below


def _plainly(born: date, at: datetime) -> int | None:
    years = at.year - born.year - ((at.month, at.day) < (born.month, born.day))
    return years if years >= 0 else None


@given(st.lists(st.tuples(st.none() | _BORN, st.none() | _AT), max_size=20))
def test_completed_years_are_the_birthdays_had(pairs: list[tuple[date | None, datetime | None]]) -> None:
    aware = [(born, at.replace(tzinfo=UTC) if at else None) for born, at in pairs]
    years = completed_years(
        pa.array([born for born, _ in aware], pa.date32()), pa.array([at for _, at in aware], pa.timestamp("us", "UTC"))
    )
    assert years.to_pylist() == [_plainly(born, at) if born and at else None for born, at in aware]


def test_an_age_that_is_given_stays_and_one_that_is_not_is_derived() -> None:
    born, at = date(1950, 6, 15), datetime(2026, 6, 14, 12, tzinfo=UTC)
    rows = pa.RecordBatch.from_pydict(
        {
            "birth_date": pa.array([born, born, None], pa.date32()),
            "admitted_at": pa.array([at] * 3, pa.timestamp("us", "UTC")),
            "age_at_admission": pa.array([80, None, None], pa.int64()),
        }
    )
    dataset = load_dataset("encounter")
    assert derive(rows, dataset)["age_at_admission"].to_pylist() == [80, 75, None]
    without = derive(rows.select(["birth_date", "admitted_at"]), dataset)
    assert without["age_at_admission"].to_pylist() == [75, 75, None]
    alone = derive(rows.select(["admitted_at"]), dataset)
    assert alone.schema.names == ["admitted_at"]
