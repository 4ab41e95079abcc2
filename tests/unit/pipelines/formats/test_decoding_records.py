"""Rows of datasets without measurements, from FHIR resources and ADT messages."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.attribution.timeline import OPEN_END, Fact, Owner, resolve
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.records import EXTRA_COLUMNS, Records
from pipelines.formats.shared.result import Decoded, Reject
from tests.decoding import BROKER_MS, decoder_of
from tests.fhir import observation
from tests.hl7 import PID, adt, oru
from tests.hostile import bundle
from tests.services.requirements import missing_service
from vitalake.lake.datasets.declared import load_dataset

SYNTHEA = Path(__file__).parents[5] / "shared" / "data" / "synthea"


def take(name: str, dataset: str, *messages: bytes | None) -> tuple[Decoded, list[dict[str, Any]], dict[int, Reject]]:
    """Decode messages; return the result, the finished rows, and the rejects by message."""
    decoded = decoder_of(name, dataset=dataset).decode(messages)
    records = Records(load_dataset(dataset), key=b"k" * 32, max_future_seconds=86_400, min_effective_year=1900)
    rows, message, rejects = records.finish(decoded, broker_ms=np.full(len(messages), BROKER_MS))
    later = {"ingested_at", "source", "source_position"}
    assert set(rows.schema.names) - set(EXTRA_COLUMNS) == set(load_dataset(dataset).schema.names) - later
    assert len(rows) == len(message)
    return decoded, rows.to_pylist(), {r.message: r for r in (*decoded.rejects, *rejects)}


def resource(kind: str, **elements: Any) -> dict[str, Any]:
    """Return a resource; an element that is None is left out."""
    whole = {"resourceType": kind, "id": "x-1", "meta": {"versionId": "3", "lastUpdated": "2025-06-01T10:00:00Z"}}
    return {name: value for name, value in {**whole, **elements}.items() if value is not None}


def one(dataset: str, kind: str, **elements: Any) -> dict[str, Any]:
    """Return the only row of a resource."""
    _, rows, rejects = take("fhir", dataset, json.dumps(resource(kind, **elements)).encode())
    assert not rejects, rejects
    (row,) = rows
    return row


def refused(dataset: str, kind: str, **elements: Any) -> Reject:
    """Return why a resource is rejected."""
    return take("fhir", dataset, json.dumps(resource(kind, **elements)).encode())[2][0]


SUBJECT = {"reference": "Patient/p-1"}
STAY = {"start": "2025-05-01T10:00:00Z", "end": "2025-05-09T10:00:00+02:00"}
ENCOUNTER: dict[str, Any] = {"status": "finished", "subject": SUBJECT, "period": STAY}
ICD = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "I50.9"}]}
CONDITION: dict[str, Any] = {
    "code": ICD, "subject": SUBJECT, "encounter": {"reference": "Encounter/e-1"},
    "recordedDate": "2025-05-02T10:00:00Z",
}  # fmt: skip
USE: dict[str, Any] = {
    "status": "active", "subject": SUBJECT, "device": {"reference": "Device/d-1"}, "timingPeriod": STAY,
}  # fmt: skip


def test_a_patient() -> None:
    row = one(
        "patient",
        "Patient",
        gender="female",
        birthDate="1950-02-03",
        name=[{"use": "old", "family": "Roe"}, {"use": "official", "family": "Doe", "given": ["Jane", "Q"]}],
        identifier=[{"value": "9"}, {"value": "4711", "type": {"coding": [{"code": "MR"}]}}],
        address=[{"line": ["Road 1"], "postalCode": "10115", "city": "Berlin", "country": "DE"}],
    )
    assert row == {
        "patient_id": "x-1", "version": 3, "sex": "female", "name": "Jane Q Doe", "mrn": "4711",
        "address": "Road 1, 10115 Berlin, DE", "birth_date": date(1950, 2, 3),
        "available_at": datetime(2025, 6, 1, 10, 0, 0, 999, tzinfo=UTC),
    }  # fmt: skip
    assert one("patient", "Patient", gender="other", birthDate="1950")["sex"] == "unknown"


def test_a_stay() -> None:
    stay = {
        "admitSource": {"coding": [{"code": "hosp-trans"}]},
        "dischargeDisposition": {"coding": [{"code": "exp"}]},
    }
    row = one("encounter", "Encounter", **ENCOUNTER, hospitalization=stay)
    assert (row["encounter_id"], row["patient_id"]) == ("x-1", "p-1")
    assert row["discharged_at"] == datetime(2025, 5, 9, 8, tzinfo=UTC)
    assert (row["admission_type"], row["discharge_disposition"]) == ("osh", "Expired")
    nubc = "https://www.nubc.org/CodeSystem/PatDischargeStatus"
    both = [{"system": nubc, "code": "01"}, {"system": "http://snomed.info/sct", "code": "419099009"}]
    said = one("encounter", "Encounter", **ENCOUNTER, hospitalization={"dischargeDisposition": {"coding": both}})
    assert said["discharge_disposition"] == f"{nubc}|01", (
        "its codings contradict each other, so it has no category and is not published"
    )
    row = one("encounter", "Encounter", **{**ENCOUNTER, "class": {"code": "EMER"}})
    assert (row["admission_type"], row["discharge_disposition"]) == ("ed", None)


def test_a_diagnosis() -> None:
    row = one("condition", "Condition", **CONDITION)
    assert (row["encounter_id"], row["code_system"], row["code"]) == ("e-1", "ICD10CM", "I509")


def test_a_device_that_is_with_a_patient() -> None:
    row = one("device_association", "Device", patient=SUBJECT)
    assert (row["device_id"], row["patient_id"], row["status"]) == ("x-1", "p-1", "active")
    assert row["valid_from"] == datetime(2025, 6, 1, 10, tzinfo=UTC)
    used = one("device_association", "DeviceUseStatement", **USE)
    assert (used["device_id"], used["valid_to"]) == ("d-1", datetime(2025, 5, 9, 8, tzinfo=UTC))
    mistake = one("device_association", "DeviceUseStatement", **{**USE, "status": "entered-in-error"})
    assert (mistake["association_id"], mistake["status"]) == (used["association_id"], "entered-in-error")
    assert len(used["association_id"]) == 16 != used["association_id"] != row["association_id"]


@pytest.mark.parametrize(
    ("dataset", "kind", "elements", "reason"),
    [
        ("patient", "Patient", {"id": None}, Reason.NO_KEY),
        ("patient", "Patient", {"birthDate": "1950-13-01"}, Reason.BAD_TIME),
        ("patient", "Patient", {"name": [{"family": "a\0b"}]}, Reason.CONTROL_CHARACTER),
        ("patient", "Patient", {"name": {"family": "Doe"}}, Reason.WRONG_SHAPE),
        ("patient", "Patient", {"meta": {"lastUpdated": "yesterday"}}, Reason.BAD_TIME),
        ("patient", "Patient", {"modifierExtension": [{"url": "x"}]}, Reason.MODIFIED),
        ("patient", "Patient", {"id": " "}, Reason.NO_KEY),
        ("encounter", "Encounter", {**ENCOUNTER, "id": ""}, Reason.NO_KEY),
        (
            "encounter",
            "Encounter",
            {**ENCOUNTER, "hospitalization": {"modifierExtension": [{"url": "x"}]}},
            Reason.MODIFIED,
        ),
        ("encounter", "Encounter", {**ENCOUNTER, "admission": {"modifierExtension": [{"url": "x"}]}}, Reason.MODIFIED),
        (
            "encounter",
            "Encounter",
            {**ENCOUNTER, "location": [{}, {"modifierExtension": [{"url": "x"}]}]},
            Reason.MODIFIED,
        ),
        ("patient", "Medication", {}, Reason.WRONG_RESOURCE),
        ("encounter", "Encounter", {**ENCOUNTER, "subject": None}, Reason.NO_SUBJECT),
        ("encounter", "Encounter", {**ENCOUNTER, "subject": 7}, Reason.WRONG_SHAPE),
        ("encounter", "Encounter", {**ENCOUNTER, "period": None}, Reason.NO_KEY),
        ("encounter", "Encounter", {**ENCOUNTER, "period": {"start": "2025-05-01"}}, Reason.BAD_TIME),
        ("encounter", "Encounter", {**ENCOUNTER, "period": {"start": "0001-01-01T00:00:00+14:00"}}, Reason.BAD_TIME),
        ("encounter", "Encounter", {**ENCOUNTER, "period": {"start": "1700-01-01T00:00:00Z"}}, Reason.IMPLAUSIBLE_TIME),
        ("encounter", "Encounter", {**ENCOUNTER, "period": {"start": "2200-01-01T00:00:00Z"}}, Reason.IMPLAUSIBLE_TIME),
        ("encounter", "Encounter", {**ENCOUNTER, "status": "entered-in-error"}, Reason.BAD_STATUS),
        ("condition", "Condition", {**CONDITION, "code": {"text": "words"}}, Reason.NO_CODE),
        ("condition", "Condition", {**CONDITION, "encounter": None}, Reason.NO_KEY),
        (
            "condition",
            "Condition",
            {**CONDITION, "verificationStatus": {"coding": [{"code": "entered-in-error"}]}},
            Reason.BAD_STATUS,
        ),
        ("device_association", "Device", {"patient": SUBJECT, "meta": None}, Reason.NO_TIME),
        ("device_association", "Device", {"patient": SUBJECT, "status": "entered-in-error"}, Reason.BAD_STATUS),
        ("device_association", "Device", {}, Reason.NO_SUBJECT),  # it may have been somebody's before
        ("device_association", "DeviceUseStatement", {**USE, "timingPeriod": None}, Reason.NO_TIME),
        ("device_association", "DeviceUseStatement", {**USE, "device": None}, Reason.WRONG_SHAPE),
    ],
)
def test_what_cannot_be_a_row(dataset: str, kind: str, elements: dict[str, Any], reason: Reason) -> None:
    assert refused(dataset, kind, **elements).reason is reason


@pytest.mark.parametrize(
    ("dataset", "kind", "elements"),
    [
        ("encounter", "Encounter", {**ENCOUNTER, "status": "planned"}),
        ("device_association", "Device", {"meta": None}),
        ("device_association", "Device", {"meta": {"versionId": "1"}}),
        ("device_association", "DeviceUseStatement", {**USE, "status": "intended"}),
    ],
)
def test_what_has_not_been_yet_is_nothing(dataset: str, kind: str, elements: dict[str, Any]) -> None:
    decoded, rows, rejects = take("fhir", dataset, json.dumps(resource(kind, **elements)).encode())
    assert (decoded.empty, rows, rejects) == ([0], [], {})


def test_a_bundle_gives_each_dataset_its_own() -> None:
    mixed = bundle(resource("Patient"), observation(1), resource("Encounter", **ENCOUNTER), resource("Location"))
    assert [row["patient_id"] for row in take("fhir", "patient", mixed)[1]] == ["x-1"]
    assert [row["encounter_id"] for row in take("fhir", "encounter", mixed)[1]] == ["x-1"]
    decoded, rows, rejects = take("fhir", "condition", mixed, None, b"{")
    assert (decoded.empty, decoded.tombstones, rows) == ([0], [1], [])
    assert rejects[2].reason is Reason.NOT_JSON
    observed = decoder_of("fhir").decode([mixed, bundle(resource("Patient"))])
    assert (observed.message.tolist(), observed.empty) == ([0], [1])


def test_a_modifier_extension_of_an_entry_rejects_its_bundle_for_the_dataset_of_its_resource() -> None:
    entries = [
        {"resource": resource("Patient")},
        {"resource": resource("Encounter", **ENCOUNTER), "modifierExtension": [{"url": "x"}]},
    ]
    bundle = json.dumps({"resourceType": "Bundle", "entry": entries}).encode()
    decoded, rows, _ = take("fhir", "patient", bundle)
    assert len(rows) == 1 and not decoded.rejects
    decoded, rows, rejects = take("fhir", "encounter", bundle)
    assert not rows and rejects[0].reason is Reason.MODIFIED


def test_one_bad_resource_rejects_its_bundle() -> None:
    mixed = bundle(resource("Encounter", **ENCOUNTER), resource("Encounter", **{**ENCOUNTER, "subject": None}))
    _, rows, rejects = take("fhir", "encounter", mixed)
    assert (rows, rejects[0].reason) == ([], Reason.NO_SUBJECT)


def test_synthea_bundles_are_rows_of_every_dataset() -> None:
    bundles = [gzip.decompress(path.read_bytes()) for path in sorted(SYNTHEA.glob("*.json.gz"))]
    if not bundles:
        missing_service("synthea", "put its bundles into ../shared/data/synthea")
    small = [b for b in bundles if len(b) <= 1_048_576]
    patients, stays, conditions = (take("fhir", dataset, *small) for dataset in ("patient", "encounter", "condition"))
    assert not patients[2] | stays[2] | conditions[2]
    assert len(patients[1]) == len(small)
    people, visits = {row["patient_id"] for row in patients[1]}, {row["encounter_id"] for row in stays[1]}
    assert {row["patient_id"] for row in stays[1]} <= people
    assert {row["encounter_id"] for row in conditions[1]} <= visits
    seen = decoder_of("fhir").decode(small)
    assert set(seen.rows["patient_id"].to_pylist()) <= people
    assert set(seen.rows["encounter_id"].to_pylist()) <= visits | {None}


# -- ADT -----------------------------------------------------------------------------------------------------------


def pv1(bed: str = "", prior: str = "", visit: str = "V-9", began: str = "", ended: str = "") -> str:
    """Return a PV1."""
    fields = [""] * 46
    fields[0], fields[1], fields[2] = "PV1", "1", "I"
    fields[3], fields[6], fields[19], fields[44], fields[45] = bed, prior, visit, began, ended
    return "|".join(fields)


X, Y = "ICU^1^1", "ICU^1^2"
OTHER = PID.replace("4711", "4712")
ADMIT = adt("A01", PID, pv1(X), at="20250601080000+0000")
MOVE = adt("A02", PID, pv1(Y, X), at="20250601100000+0000")
LEAVE = adt("A03", PID, pv1(Y), at="20250601120000+0000")


def whose(*messages: bytes, bed: str, hour: int) -> str | None:
    """Return the patient of a bed's value at an hour when all messages are known, in any order of arrival."""
    answers = set()
    for order in (messages, messages[::-1]):
        _, rows, rejects = take("hl7-v2", "device_association", *order)
        assert not rejects, rejects
        named = {row["association_id"] for row in rows if row["device_id"] == bed}
        facts = [
            Fact(
                row["association_id"],
                row["version"],
                Owner(row["patient_id"], row["encounter_id"]),
                int(row["valid_from"].timestamp() * 1e6) if row["device_id"] == bed else OPEN_END,
                OPEN_END if row["valid_to"] is None else int(row["valid_to"].timestamp() * 1e6),
                row["status"],
                int(row["available_at"].timestamp() * 1e6),
            )
            for row in rows
            if row["association_id"] in named  # of another device: it is not this one any more
        ]
        at = int(datetime(2025, 6, 1, hour, 30, tzinfo=UTC).timestamp() * 1e6)
        owner = resolve(facts, at, OPEN_END)
        answers.add(owner.patient if owner else None)
    (answer,) = answers
    return answer


BED_X, BED_Y = "bed:ICU/1/1", "bed:ICU/1/2"
JANE, MARY = "HOSP|4711", "HOSP|4712"


def test_admission_transfer_and_discharge() -> None:
    stay = (ADMIT, MOVE, LEAVE)
    assert [whose(*stay, bed=BED_X, hour=h) for h in (7, 8, 9, 10, 12)] == [None, JANE, JANE, None, None]
    assert [whose(*stay, bed=BED_Y, hour=h) for h in (9, 10, 11, 12)] == [None, JANE, JANE, None]


def test_who_leaves_late_does_not_take_the_bed_from_who_came() -> None:
    came = adt("A01", OTHER, pv1(Y, visit="V-10"), at="20250601110000+0000")
    assert [whose(ADMIT, MOVE, LEAVE, came, bed=BED_Y, hour=h) for h in (10, 11, 12, 13)] == [JANE, MARY, MARY, MARY]


def test_who_comes_back_to_a_bed_has_it_twice() -> None:
    back = adt("A02", PID, pv1(X, Y), at="20250601110000+0000")
    assert [whose(ADMIT, MOVE, back, bed=BED_X, hour=h) for h in (8, 10, 11)] == [JANE, None, JANE]


def test_what_is_cancelled_never_was() -> None:
    not_admitted = adt("A11", PID, pv1(X, began="20250601080000+0000"), at="20250601090000+0000")
    assert whose(ADMIT, not_admitted, bed=BED_X, hour=8) is None

    def cancelled(event: str, *segments: str) -> bytes:
        happened = {"A12": "20250601100000+0000", "A13": "20250601120000+0000"}[event]
        told = "20250601130000+0000"
        return adt(event, *segments, at=told).replace(f"EVN||{told}".encode(), f"EVN||{told}||||{happened}".encode())

    not_moved = cancelled("A12", PID, pv1(X, Y))
    assert [whose(ADMIT, MOVE, not_moved, bed=bed, hour=10) for bed in (BED_X, BED_Y)] == [JANE, None]
    for place in (Y, "LOUNGE", "ICU"):
        not_left = cancelled("A13", PID, pv1(place))
        assert whose(ADMIT, MOVE, LEAVE, not_left, bed=BED_Y, hour=12) == JANE


def test_an_update_tells_the_admission_anew() -> None:
    wrong = adt("A01", OTHER, pv1(X, began="20250601080000+0000"), at="20250601080000+0000")
    right = adt("A08", PID, pv1(X, began="20250601080000+0000"), at="20250601140000+0000")
    assert whose(wrong, right, bed=BED_X, hour=8) == JANE
    came = adt("A01", OTHER, pv1(Y, visit="V-10"), at="20250601120000+0000")
    moved = [pv1(Y, prior, began="20250601080000+0000") for prior in (X, "ER")]
    for late in (*moved, pv1(Y, ended="20250601120000+0000"), pv1(Y)):
        update = adt("A08", PID, late, at="20250602080000+0000")
        assert take("hl7-v2", "device_association", update)[0].empty == [0]
        assert whose(ADMIT, MOVE, LEAVE, came, update, bed=BED_Y, hour=13) == MARY


def test_an_admission_told_anew_takes_the_place_of_the_first() -> None:
    there = adt("A01", OTHER, pv1(X, visit="V-10"), at="20250601060000+0000")
    gone = adt("A03", OTHER, pv1(X, visit="V-10"), at="20250601090000+0000")
    update = adt("A08", PID, pv1(X, began="20250601090000+0000"), at="20250601140000+0000")
    again = adt("A01", PID, pv1(X, began="20250601090000+0000"), at="20250601140000+0000")
    for later in (update, again):
        assert [whose(there, gone, ADMIT, later, bed=BED_X, hour=h) for h in (7, 8, 9)] == [MARY, MARY, JANE]
    moved = (ADMIT, MOVE, LEAVE)
    kept = adt("A08", PID, pv1(Y, X, began="20250601070000+0000"), at="20250601130000+0000")
    assert [whose(*moved, kept, bed=BED_X, hour=h) for h in (7, 8, 9, 10)] == [None, JANE, JANE, None]
    assert [whose(*moved, kept, bed=BED_Y, hour=h) for h in (9, 10, 12)] == [None, JANE, None]
    never = adt("A11", PID, pv1(X, began="20250601075500+0000"), at="20250601140000+0000")
    assert whose(ADMIT, never, bed=BED_X, hour=8) is None  # the admission did not say PV1-44


def test_who_comes_to_treatments_has_been_at_each_of_them() -> None:
    """All visits of an outpatient to a treatment chair can have one number."""
    chair: list[bytes] = []
    for begin, end in (("08", "10"), ("12", "14")):
        chair.append(adt("A04", PID, pv1(X, began=f"20250601{begin}0000+0000"), at=f"20250601{begin}0000+0000"))
        chair.append(adt("A03", PID, pv1(X), at=f"20250601{end}0000+0000"))
    assert [whose(*chair, bed=BED_X, hour=h) for h in (8, 10, 12, 14)] == [JANE, None, JANE, None]
    never = adt("A11", PID, pv1(X, began="20250601120000+0000"), at="20250601150000+0000")
    assert [whose(*chair, never, bed=BED_X, hour=h) for h in (8, 12)] == [JANE, None]
    right = adt("A08", OTHER, pv1(X, began="20250601080000+0000"), at="20250601083000+0000")
    assert whose(chair[0], right, bed=BED_X, hour=8) == MARY


def test_of_what_is_recorded_in_one_minute_what_was_sent_last_counts() -> None:
    def recorded(message: bytes, sent: str, minute: str = "202506010800") -> bytes:
        return message.replace(f"EVN||{sent}".encode(), f"EVN||{minute}".encode())

    wrong = recorded(adt("A01", OTHER, pv1(X), at="20250601080010+0000"), "20250601080010+0000")
    never = recorded(
        adt("A11", OTHER, pv1(X, began="20250601080000+0000"), at="20250601080020+0000"), "20250601080020+0000"
    )
    right = recorded(adt("A01", PID, pv1(X), at="20250601080030+0000"), "20250601080030+0000")
    left = recorded(adt("A03", PID, pv1(X), at="20250601080240+0000"), "20250601080240+0000")
    assert whose(wrong, right, bed=BED_X, hour=8) == JANE
    assert whose(wrong, never, bed=BED_X, hour=8) is None
    assert whose(wrong, never, right, bed=BED_X, hour=8) == JANE
    assert whose(wrong, never, right, left, bed=BED_X, hour=8) is None
    came = recorded(adt("A01", OTHER, pv1(X, visit="V-10"), at="20250601080250+0000"), "20250601080250+0000")
    assert whose(right, left, came, bed=BED_X, hour=8) == MARY
    rows = take("hl7-v2", "device_association", wrong, never, right, left)[1]
    seconds = [row["version"] // 1_000_000 % 3600 for row in rows]
    assert seconds == [10, 20, 20, 30, 59], "never later than the minute"


def test_a_record_without_its_zone_has_the_messages() -> None:
    admit = adt("A01", PID, pv1(X), at="20250601100000+0200").replace(b"EVN||20250601100000+0200", b"EVN||202506011000")
    never = adt("A11", PID, pv1(X, began="20250601080000+0000"), at="20250601090000+0000")
    assert [whose(admit, bed=BED_X, hour=8), whose(admit, never, bed=BED_X, hour=8)] == [JANE, None]


def test_a_merge_says_whose_the_old_number_is() -> None:
    merge = adt("A40", PID, "MRG|0815^^^HOSP^MR")
    _, rows, _ = take("hl7-v2", "device_association", merge, adt("A40", PID, "MRG|4711^^^HOSP^MR"))
    assert [(row["device_id"], row["patient_id"]) for row in rows] == [("patient:HOSP|0815", JANE)]


def test_other_messages_tell_of_no_bed() -> None:
    messages = [adt("A31", PID), adt("A01", PID, pv1()), oru(), ADMIT]
    decoded, rows, rejects = take("hl7-v2", "device_association", *messages)
    assert (decoded.empty, len(rows), rejects) == ([0, 1, 2], 1, {})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (adt("A01", pv1(X)), Reason.NO_SUBJECT),
        (adt("A01", "PID|1||^^^HOSP", pv1(X)), Reason.NO_SUBJECT),
        (adt("A01", PID, pv1(X), at="2025"), Reason.BAD_TIME),
        (adt("A12", PID, pv1(X, Y)), Reason.NO_TIME),
        (adt("A12", PID, pv1(X)), Reason.WRONG_SHAPE),
        (adt("A11", PID, pv1(X)), Reason.NO_TIME),
        (adt("A02", PID, pv1(Y, visit="")), Reason.WRONG_SHAPE),
        (adt("A02", PID, pv1(Y)), Reason.WRONG_SHAPE),
        (adt("A02", PID, pv1()), Reason.WRONG_SHAPE),
        (adt("A03", PID, pv1()), Reason.WRONG_SHAPE),
        (adt("A03", PID), Reason.WRONG_SHAPE),
        (adt("A11", PID, pv1(began="20250601080000+0000")), Reason.WRONG_SHAPE),
        (adt("A13", PID, pv1('""')), Reason.WRONG_SHAPE),
        (adt("A40", PID), Reason.WRONG_SHAPE),
        (adt("A01", PID, pv1(X), at="18500101000000+0000"), Reason.IMPLAUSIBLE_TIME),
        (ADMIT.replace(b"ADT^A01", b"ORM^O01"), Reason.WRONG_RESOURCE),
        (b"", Reason.NOT_HL7),
    ],
)
def test_admissions_that_cannot_be_used(message: bytes, reason: Reason) -> None:
    _, rows, rejects = take("hl7-v2", "device_association", ADMIT, message, MOVE)
    assert rejects[1].reason is reason
    assert len(rows) == 3


def test_bundles_that_cannot_be_used() -> None:
    stay = resource("Encounter", **ENCOUNTER)
    crowd = bundle(*[{**stay, "id": str(i)} for i in range(2_001)])
    odd = bundle(stay)[:-1] + b',"implicitRules":"urn:x"}'
    _, rows, rejects = take(
        "fhir", "encounter", crowd, odd, bundle(), bundle({"resourceType": "Potion"}), b"x" * 1_100_000
    )
    assert rows == []
    reasons = [Reason.TOO_MANY_ROWS, Reason.MODIFIED, Reason.NO_VALUE, Reason.WRONG_RESOURCE, Reason.TOO_LARGE]
    assert [rejects[i].reason for i in range(5)] == reasons


def test_a_resource_is_called_by_its_bundles_urn() -> None:
    entry = {"fullUrl": "urn:uuid:0c5f0c5f-0000-4000-8000-000000000000", "resource": resource("Patient")}
    document = json.dumps({"resourceType": "Bundle", "entry": [entry]}).encode()
    assert take("fhir", "patient", document)[1][0]["patient_id"] == entry["fullUrl"]
    document = document.replace(b"urn:uuid:0c5f0c5f-0000-4000-8000-000000000000", b"https://a.example/Patient/x-1")
    assert take("fhir", "patient", document)[1][0]["patient_id"] == "x-1"


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z", "2025-06-01T10:00:00", "2025-13-01T10:00:00Z"]
)
def test_times_that_are_none(text: str) -> None:
    assert refused("encounter", "Encounter", **{**ENCOUNTER, "period": {"start": text}}).reason is Reason.BAD_TIME


def test_what_was_sent_when_says_when_it_could_be_known() -> None:
    row = one("patient", "Patient", meta=None)
    assert (row["version"], row["available_at"]) == (0, datetime.fromtimestamp(BROKER_MS / 1000 + 0.000999, tz=UTC))
    _, rows, _ = take("hl7-v2", "device_association", ADMIT.replace(b"|20250601080000+0000||ADT", b"|||ADT"))
    assert rows[0]["available_at"] == datetime.fromtimestamp(BROKER_MS / 1000 + 0.000999, tz=UTC)


def test_what_tells_of_no_bed_and_what_moves_two() -> None:
    quiet = [adt("A01", PID), adt("A02", PID, pv1(X, X)), adt("A02", PID, pv1("ER", "ER")), adt("A08", PID)]
    quiet.append(adt("A04", "PV1|1|O", PID))
    decoded, rows, rejects = take("hl7-v2", "device_association", *quiet)
    assert (decoded.empty, rows, rejects) == (list(range(len(quiet))), [], {})
    swap = adt("A17", PID, pv1(X, Y), OTHER, pv1(Y, X, visit="V-10"))
    _, rows, _ = take("hl7-v2", "device_association", swap)
    assert [(row["patient_id"], row["device_id"], row["status"]) for row in rows] == [
        (JANE, BED_Y, "ended"), (JANE, BED_X, "active"), (MARY, BED_X, "ended"), (MARY, BED_Y, "active"),
    ]  # fmt: skip


def test_a_clinics_messages_tell_of_no_place_without_a_bed() -> None:
    """Such visits stayed open for ever, and a cancelled one without its time became a dead letter."""
    clinic = [adt(event, PID, pv1("CARD").replace("|I|", "|O|")) for event in ("A01", "A04", "A08", "A11")]
    clinic += [adt(event, PID, pv1("CARD").replace("|I|", "||")) for event in ("A04", "A08")]
    decoded, rows, rejects = take("hl7-v2", "device_association", *clinic)
    assert (decoded.empty, rows, rejects) == (list(range(len(clinic))), [], {})
    unsaid = adt("A01", PID, pv1("MED").replace("|I|", "||"))
    assert len(take("hl7-v2", "device_association", unsaid)[1]) == 1


def test_a_place_without_a_bed_is_told() -> None:
    """A patient who was admitted to a ward without a bed had no place at all."""
    at, later = "20250601080000+0000", "20250601090000+0000"
    admit, move = adt("A01", PID, pv1("ER"), at=at), adt("A02", PID, pv1("OR^3", "ER"), at=later)
    _, rows, _ = take("hl7-v2", "device_association", admit, move, adt("A02", PID, pv1(X, "OR^3"), at=later))
    assert [(row["device_id"], row["status"]) for row in rows] == [
        ("bed:ER//", "active"), ("bed:ER//", "ended"), ("bed:OR/3/", "active"), ("bed:OR/3/", "ended"),
        (BED_X, "active"),
    ]  # fmt: skip


def test_a_discharge_that_was_none_without_its_time_counts_from_now() -> None:
    not_left = adt("A13", PID, pv1(Y), at="20250601140000+0000")
    assert [whose(ADMIT, MOVE, LEAVE, not_left, bed=BED_Y, hour=h) for h in (13, 14)] == [None, JANE]
    lounge = adt("A13", PID, pv1("LOUNGE"), at="20250601140000+0000")
    _, rows, _ = take("hl7-v2", "device_association", lounge)
    assert {row["status"] for row in rows} == {"entered-in-error"}, "nobody lies in a lounge"


def test_a_discharge_that_an_earlier_release_named_by_its_bed_is_taken_back_too() -> None:
    """Otherwise a discharge from before the upgrade, cancelled after it, would keep the patient off the board."""
    left = adt("A02", PID, pv1("OR", Y), at="20250601120000+0000")  # is named as they named a discharge
    not_left = adt("A13", PID, pv1(Y, ended="20250601120000+0000"), at="20250601130000+0000")
    assert [whose(ADMIT, MOVE, *then, bed=BED_Y, hour=12) for then in ([left], [left, not_left])] == [None, JANE]


def test_without_a_visit_number_the_patient_names_the_stay() -> None:
    _, rows, _ = take(
        "hl7-v2", "device_association", adt("A01", PID, pv1(X, visit="")), adt("A01", OTHER, pv1(X, visit=""))
    )
    assert rows[0]["association_id"] != rows[1]["association_id"]
    assert rows[0]["encounter_id"] is None
