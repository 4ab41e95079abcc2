"""Rejected rows of a warehouse: what is sealed as JSON becomes again what the query gave."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from pipelines.core.open_letters import Source
from pipelines.formats.shared.reasons import Reason
from pipelines.history.rows import RowTexts, decoded_rows, message_starts, record_rows
from pipelines.reprocess.origins import lineages
from pipelines.reprocess.rows import RowsDecoder
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings, StreamSettings

NAIVE = pa.timestamp("us")


def observations() -> pa.Table:
    """Return what a warehouse gives: two single values and a panel of two rows, in a warehouse's types."""
    return pa.table(
        {
            "identity_system": ["urn:x"] * 4,
            "identity_value": ["1", "2", "3", "3"],
            "patient_id": [10, 11, 12, 12],
            "code": ["8867-4", "8310-5", "8480-6", "8462-4"],
            "panel_code": [None, None, "85354-9", "85354-9"],
            "value": pa.array([Decimal("72.5"), Decimal("37.1"), Decimal("120.0"), None], pa.decimal128(8, 2)),
            "unit": pa.array(["/min", "Cel", "mm[Hg]", "mm[Hg]"]).dictionary_encode(),
            "status": ["final"] * 4,
            "version": pa.array([1, 2, 3, 3], pa.int32()),
            "effective_at": pa.array([datetime(2150, 1, 1, 8, i, 0, 250_000) for i in range(4)], NAIVE),  # noqa: DTZ001
            "issued_at": pa.array([datetime(2150, 1, 1, 9, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC")),
            "value_text": [None, "warm", None, "unreadable"],
        }
    )


def test_observations_are_what_they_were() -> None:
    table = observations()
    starts = message_starts(table)
    texts = list(RowTexts(table, starts))
    expected = decoded_rows(table, starts)
    found = RowsDecoder("observation").decode(texts)
    assert found.rows.to_pylist() == expected.rows.to_pylist()
    assert found.rows.schema == expected.rows.schema
    assert found.identities == expected.identities
    assert found.message.tolist() == expected.message.tolist() == [0, 1, 2, 2]
    assert found.rejects == expected.rejects


@pytest.mark.parametrize("dataset", ["patient", "encounter"])
def test_records_are_what_they_were(dataset: str) -> None:
    table = pa.table(
        {
            "patient": {
                "patient_id": ["7", "8"],
                "version": [1, 2],
                "sex": ["female", None],
                "birth_date": pa.array([date(1950, 2, 3), None], pa.date32()),
            },
            "encounter": {
                "encounter_id": ["e-7", None],
                "version": [1, 2],
                "patient_id": ["7", "8"],
                "admitted_at": pa.array([datetime(2150, 1, 1, 8), None], NAIVE),  # noqa: DTZ001
            },
        }[dataset]
    )
    texts = list(RowTexts(table, message_starts(table)))
    expected, found = record_rows(table, load_dataset(dataset)), RowsDecoder(dataset).decode(texts)
    assert found.rows.to_pylist() == expected.rows.to_pylist()
    assert found.message.tolist() == expected.message.tolist()


def test_what_is_no_rows_is_rejected_and_the_others_keep_their_numbers() -> None:
    table = observations()
    first, *_, last = RowTexts(table, message_starts(table))
    missing = b'[{"patient_id":"1","code":"8867-4","status":"final","value":1}]'
    values = [b"{", first, b'[{"effective_at":"yesterday"}]', None, missing, b"[]", last]
    found = RowsDecoder("observation").decode(values)
    assert (found.message.tolist(), found.empty) == ([1, 6, 6], [5])
    assert [(r.message, r.reason) for r in found.rejects] == [
        (0, Reason.NOT_JSON),
        (2, Reason.NOT_JSON),
        (3, Reason.NOT_JSON),
        (4, Reason.NO_TIME),
    ]


def test_a_topic_belongs_to_the_job_of_the_dataset_it_was_put_aside_for() -> None:
    here = StreamSettings(topics={"bus": "fhir"})
    there = StreamSettings(topics={"bus": "fhir", "adt": "hl7-v2"}, dataset="encounter")
    settings = Settings(jobs={"a": here, "b": there})
    sources = {
        Source("observation", "bus[0]", "u"): "fhir/1",
        Source("encounter", "bus[0]", "u"): "fhir/1",
        Source("", "bus[1]", "u"): "fhir/1",
        Source("patient", "mimic.patient[0]", "v"): "sql/1",
        Source("observation", "gone[0]", "w"): "fhir/1",
        Source("observation", "adt[0]", "x"): "hl7-v2/1",
    }
    found, unknown = lineages(settings, sources, [])
    assert {lineage.job: sorted(s.source for s in lineage.sources) for lineage in found} == {
        "a": ["bus[0]", "bus[1]"],
        "b": ["bus[0]"],
        "history": ["mimic.patient[0]"],
    }
    assert [source.source for source in unknown] == ["adt[0]", "gone[0]"]
