"""Units, ranges, identity and times of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.formats.shared.reasons import Reason
from tests.decoding import BROKER_MS, conformer, take
from tests.fhir import message, observation
from tests.hostile import bundle, panel
from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.unlinkable.own_times import is_ours
from vitalake.vocabulary import load_vocabulary, parse_vocabulary

UCUM = "http://unitsofmeasure.org"
SYSTEMS = {"systems": {}, "absent": {"system": "urn:x", "codes": []}}
ALONE, BESIDE = [6809730759904835181, 15108119286908787346], [9752567862686171761, 15010356744702541241]
DEVICE_ONLY_CHANGED = message(1, device={"reference": "Device/other"})


def _measured(code: str, value: float, unit: str) -> bytes:
    return message(
        1,
        code={"coding": [{"system": "http://loinc.org", "code": code}]},
        valueQuantity={"value": value, "system": UCUM, "code": unit},
    )


@pytest.mark.parametrize(
    ("code", "value", "unit", "expected", "published"),
    [
        ("8310-5", 98.6, "[degF]", 37.0, "Cel"),
        ("8310-5", 310.15, "K", 37.0, "Cel"),
        ("8480-6", 16.0, "kPa", 120.0099, "mm[Hg]"),
        ("29463-7", 154.3236, "[lb_av]", 70.0, "kg"),
        ("8302-2", 70.0, "[in_i]", 177.8, "cm"),
        ("2339-0", 5.0, "mmol/L", 90.08, "mg/dL"),
        ("15074-8", 90.08, "mg/dL", 5.0, "mmol/L"),
        ("8867-4", 72.0, "{beats}/min", 72.0, "/min"),
        ("9269-2", 15.0, "{score}", 15.0, "{score}"),
    ],
)
def test_units_become_the_vocabularys(code: str, value: float, unit: str, expected: float, published: str) -> None:
    _, conformed, rejects = take([_measured(code, value, unit)])
    assert not rejects
    row = conformed.rows.to_pylist()[0]
    assert row["value"] == pytest.approx(expected, rel=1e-5)
    assert row["unit"] == published


def test_a_glucose_unit_does_not_fit_another_code() -> None:
    _, _, rejects = take([_measured("8867-4", 5.0, "mmol/L")])
    assert rejects[0].reason is Reason.UNKNOWN_UNIT


def test_one_bad_row_rejects_all_rows_of_its_message() -> None:
    component = {"code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]}}
    good = component | {"valueQuantity": {"value": 120, "system": UCUM, "code": "mm[Hg]"}}
    bad = component | {"valueQuantity": {"value": 9_000, "system": UCUM, "code": "mm[Hg]"}}
    _, conformed, rejects = take([panel(good, good, bad), message(2)])
    assert rejects[0].rows == 3
    assert conformed.message.tolist() == [1]


def _ids(payload: bytes) -> list[bytes]:
    return take([payload])[1].rows["observation_id"].to_pylist()


def test_a_correction_meets_the_id_of_what_it_corrects() -> None:
    first = _ids(message(1))
    assert _ids(message(1, value=99.0, status="corrected", device={"reference": "Device/other"})) == first
    assert _ids(message(1, effectiveDateTime="2025-06-01T11:00:00Z")) == first, "the identifier decides"
    assert _ids(message(2)) != first


def test_without_an_identifier_patient_code_and_time_decide() -> None:
    plain = _ids(message(1, identifier=None))
    assert _ids(message(1, identifier=None, value=99.0)) == plain
    assert _ids(message(1, identifier=None, patient="p-2")) != plain
    assert _ids(message(1, identifier=None, effectiveDateTime="2025-06-01T10:00:02Z")) != plain
    assert _ids(message(1, identifier=[{"system": "only"}])) == plain, "an identifier without a value is none"


def test_of_several_identifiers_the_order_says_nothing() -> None:
    a, b = {"system": "a", "value": "1"}, {"system": "b", "value": "2"}
    assert _ids(message(1, identifier=[a, b])) == _ids(message(1, identifier=[b, a]))
    official = {"system": "b", "value": "2", "use": "official"}
    assert _ids(message(1, identifier=[a, official])) == _ids(message(1, identifier=[b]))


def test_system_and_value_cannot_be_shifted_into_each_other() -> None:
    left = _ids(message(1, identifier=[{"system": "a|b", "value": "c"}]))
    assert left != _ids(message(1, identifier=[{"system": "a", "value": "b|c"}]))


def test_components_share_their_panel_and_have_ids_of_their_own() -> None:
    def component(code: str) -> dict[str, object]:
        return {
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
            "valueQuantity": {"value": 100, "system": UCUM, "code": "mm[Hg]"},
        }

    _, conformed, _ = take([panel(component("8480-6"), component("8462-4")), message(2)])
    rows = conformed.rows.to_pylist()
    assert len({row["observation_id"] for row in rows}) == 3
    assert rows[0]["panel_id"] == rows[1]["panel_id"] is not None
    assert rows[2]["panel_id"] is None


def test_a_message_that_says_two_things_of_one_version_is_refused() -> None:
    """Two different rows for one version reject the message; another version or an equal row does not."""
    first, other, next_one, elsewhere = (
        observation(1),
        observation(1, status="preliminary"),
        observation(1, status="amended", meta={"versionId": "2"}),
        observation(2, status="preliminary"),
    )
    payloads = [
        bundle(first, other),
        bundle(first, next_one),
        bundle(elsewhere, first, first),
        message(1, status="preliminary"),
        bundle(elsewhere, other, next_one, first),
    ]
    _, conformed, rejects = take(payloads)
    assert {i: (r.reason, r.path, r.rows) for i, r in rejects.items()} == dict.fromkeys(
        (0, 4), (Reason.WRONG_SHAPE, "Observation.identifier", 0)
    )
    assert conformed.message.tolist() == [1, 1, 2, 2, 2, 3]
    assert len(conformed.fingerprint) == 6
    assert conformed.fingerprint[3].tolist() == conformed.fingerprint[4].tolist()


def test_fingerprints_tell_a_resend_from_a_correction() -> None:
    payloads = [
        message(1),
        DEVICE_ONLY_CHANGED,
        message(1, value=73.0),
        message(1, status="amended"),
        message(1, meta={"versionId": "2"}),
        message(1, patient="p-2"),
        message(1, encounter={"reference": "Encounter/e-2"}),
        message(1, effectiveDateTime="2025-06-01T11:00:00Z"),
        message(2),
    ]
    _, conformed, _ = take(payloads)
    prints = [tuple(p) for p in conformed.fingerprint.tolist()]
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(payloads) - 1


def test_versions_come_from_the_message() -> None:
    payloads = [
        message(1, meta={"versionId": "7"}),
        message(1, meta={"versionId": "x", "lastUpdated": "2025-06-01T10:00:00Z"}),
        message(1, meta=None),
        message(1, meta={"versionId": "99999999999999999999"}),
    ]
    rows = take(payloads)[1].rows
    assert rows["version"].to_pylist() == [7, 1_748_772_000_000_000, 0, 0]


def test_a_row_is_available_when_issued_else_when_the_broker_had_it() -> None:
    rows = take([message(1, issued="2025-06-01T10:05:00+02:00"), message(2)])[1].rows
    assert rows["available_at"].to_pylist() == [
        datetime(2025, 6, 1, 8, 5, tzinfo=UTC),
        datetime.fromtimestamp(1_795_000_000, tz=UTC) + timedelta(microseconds=999),  # ours
    ]


def test_words_in_the_place_of_a_code_are_text() -> None:
    sct, name = "http://snomed.info/sct", "DOE^JANE"

    def coded(number: int, **coding: str) -> bytes:
        return message(number, valueQuantity=None, valueCodeableConcept={"coding": [coding]})

    payloads = [
        coded(1, system=sct, code="271594007"),
        coded(2, system=sct, code=name),
        coded(3, system="urn:x", code="271594007"),
        coded(4, code=name),
        message(5, valueQuantity=None, valueBoolean=True),
    ]
    rows = take(payloads)[1].rows
    assert rows["value_code"].to_pylist() == [f"{sct}|271594007", None, None, None, "true"]
    assert rows["value_text"].to_pylist() == [None, f"{sct}|{name}", "urn:x|271594007", f"|{name}", None]


def test_a_reason_for_no_value_is_one_of_the_list_or_other() -> None:
    def absent(number: int, **reason: object) -> bytes:
        return message(number, valueQuantity=None, dataAbsentReason=reason)

    system = load_vocabulary().absent_system
    payloads = [
        absent(1, coding=[{"system": system, "code": "error"}]),
        absent(2, coding=[{"code": "masked"}]),
        absent(3, coding=[{"system": system, "code": "DOE^JANE"}]),
        absent(4, text="DOE^JANE pulled it off"),
        message(5),
    ]
    rows = take(payloads)[1].rows
    assert rows["data_absent_reason"].to_pylist() == ["error", "masked", "other", "other", None]


@pytest.mark.parametrize(
    ("reference", "patient"),
    [
        ("Patient/9", "9"),
        ("Patient/9/_history/2", "9"),
        ("https://a.example/fhir/Patient/9/_history/2", "https://a.example/fhir/Patient/9"),
        ("urn:uuid:0c5f0c5f-0000-4000-8000-000000000000", "urn:uuid:0c5f0c5f-0000-4000-8000-000000000000"),
        ("#contained", None),
        ("Patient/", None),
        (" ", None),
        ("9", None),
        ("Group/9", None),
        ("https://a.example/fhir/Device/9", None),
        ("Patient?identifier=urn:x|9", None),
        ("Patient/9#part", None),
    ],
)
def test_only_what_names_one_patient_is_a_subject(reference: str, patient: str | None) -> None:
    _, conformed, rejects = take([message(1, subject={"reference": reference}), message(2)])
    found = dict(zip(conformed.message.tolist(), conformed.rows["patient_id"].to_pylist(), strict=True))
    assert found == {1: "p-1"} | ({0: patient} if patient else {})
    assert bool(patient) or rejects[0].reason is Reason.NO_SUBJECT


def test_a_subject_of_another_type_is_none() -> None:
    _, _, rejects = take([message(1, subject={"type": "Group", "identifier": {"system": "urn:x", "value": "9"}})])
    assert rejects[0].reason is Reason.NO_SUBJECT


def test_a_device_in_words_or_inside_the_message_is_no_device_and_no_reason_to_reject() -> None:
    payloads = [message(1, device={"display": "monitor"}), message(2, device={"reference": "#d"}), message(3)]
    rows = take(payloads)[1].rows
    assert rows["device_id"].to_pylist() == [None, None, "d-1"]


def test_rows_have_the_datasets_columns() -> None:
    later = {"ingested_at", "source", "source_position", "attribution", "told_at"}
    rows = take([message(1), bundle()])[1].rows
    assert set(rows.schema.names) | later == set(load_dataset("observation").schema.names)


def test_a_vocabulary_that_contradicts_itself_is_refused() -> None:
    entry = {"name": "x", "unit": "/min", "low": 5, "high": 1, "source": "x"}
    with pytest.raises(SettingsError):
        parse_vocabulary({"codes": {"1-1": entry}, "panels": {}}, {"units": []}, SYSTEMS)
    with pytest.raises(SettingsError):
        parse_vocabulary({"codes": {"1-1": {}}, "panels": {}}, {"units": []}, SYSTEMS)
    assert len(load_vocabulary().codes) >= 15


def test_when_the_broker_had_it_may_be_published_only_where_a_job_says_so() -> None:
    """A marked time is published as the end of its day; a job of monitors can publish it unchanged."""
    decoded, stamp = FhirDecoder(precise=False).decode([message(1)]), np.array([BROKER_MS])
    known = {
        says: conformer(publish_arrival=says).conform(decoded, broker_ms=stamp).rows["available_at"].cast(pa.int64())
        for says in (False, True)
    }
    assert is_ours(known[False].to_numpy()).all()
    assert known[True].to_pylist() == [BROKER_MS * 1000]


def test_a_time_without_issued_has_one_fingerprint_beside_whatever_neighbours() -> None:
    bare, issued = message(1), message(2, issued="2025-06-01T10:05:00+02:00")
    alone, beside = take([bare])[1].fingerprint, take([bare, issued])[1].fingerprint
    assert alone[0].tolist() == beside[0].tolist()


def test_the_older_form_is_what_earlier_releases_gave_beside_an_issued_neighbour() -> None:
    """The constants are the previous release's fingerprints: alone, and in a poll with a row that has ``issued``."""
    bare, issued = message(1), message(2, issued="2025-06-01T10:05:00+02:00")
    decoded = FhirDecoder(precise=False).decode([bare, issued])
    found = conformer().conform(decoded, broker_ms=np.full(2, BROKER_MS), older=True)
    assert found.older is not None
    assert found.fingerprint[0].tolist() == ALONE
    assert found.older[0].tolist() == BESIDE
    assert found.older[1].tolist() == found.fingerprint[1].tolist()
    assert conformer().conform(decoded, broker_ms=np.full(2, BROKER_MS)).older is None
