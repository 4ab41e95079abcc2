"""A dataset with FHIRPath expressions: the rows of a feed, and what is refused instead of guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.formats.fhir import declared
from pipelines.formats.fhir.declared import FhirDeclaredDecoder
from pipelines.formats.registry import make_decoder
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Decoded
from tests.fhir import message
from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import load_dataset, parse_dataset
from vitalake.settings import StreamSettings, load_settings

RXNORM, SNOMED = "http://www.nlm.nih.gov/research/umls/rxnorm", "http://snomed.info/sct"
GIVEN: dict[str, Any] = {
    "resourceType": "MedicationAdministration",
    "id": "ma-1",
    "meta": {"versionId": "3", "lastUpdated": "2026-01-02T09:00:00Z"},
    "status": "completed",
    "subject": {"reference": "Patient/4711"},
    "context": {"reference": "Encounter/9"},
    "medicationCodeableConcept": {
        "coding": [{"system": "urn:own", "code": "X"}, {"system": RXNORM, "code": "313782"}, {"system": SNOMED}]
    },
    "effectivePeriod": {"start": "2026-01-02T10:00:00+02:00", "end": "2026-01-02T10:30:00+02:00"},
    "dosage": {"dose": {"value": 500, "unit": "milligram", "code": "mg"}, "text": "Zzname before meals"},
}


def _decode(*resources: object, dataset: str = "medication_administration") -> Decoded:
    decoder = FhirDeclaredDecoder(load_dataset(dataset))
    return decoder.decode([r if isinstance(r, bytes) else json.dumps(r).encode() for r in resources])


def _changed(**changes: object) -> dict[str, Any]:
    return {name: value for name, value in (GIVEN | changes).items() if value is not None}


def test_a_resource_is_a_row_of_what_its_columns_say() -> None:
    decoded = _decode(GIVEN)
    (row,) = decoded.rows.to_pylist()
    assert row == {
        "version": 3,
        "patient_id": "4711",
        "encounter_id": "9",
        "status": "completed",
        "code_system": RXNORM,
        "code": "313782",
        "dose": 500.0,
        "dose_unit": "mg",
        "route_code": None,
        "administered_at": datetime(2026, 1, 2, 8, tzinfo=UTC),
        "ended_at": datetime(2026, 1, 2, 8, 30, tzinfo=UTC),
        "available_at": datetime(2026, 1, 2, 9, tzinfo=UTC),
    }
    assert decoded.identities == [b"fhir|medication_administration|ma-1"]


def test_a_code_of_no_known_system_is_kept_and_counted_and_not_passed_over() -> None:
    decoded = _decode(_changed(medicationCodeableConcept={"coding": [{"system": "urn:own", "code": "X"}]}))
    (row,) = decoded.rows.to_pylist()
    assert (row["code_system"], row["code"]) == ("urn:own", "X"), "masking publishes neither, and counts them"


def test_a_choice_of_types_is_read_by_the_type_that_was_sent() -> None:
    decoded = _decode(_changed(effectivePeriod=None, effectiveDateTime="2026-01-02T10:00:00Z"))
    (row,) = decoded.rows.to_pylist()
    assert (row["administered_at"].hour, row["ended_at"]) == (10, None)


def test_a_bundle_gives_its_rows_and_what_it_has_besides_is_of_other_datasets() -> None:
    bundle = {
        "resourceType": "Bundle",
        "entry": [
            {"fullUrl": "urn:uuid:7", "resource": GIVEN},
            {"resource": {"resourceType": "Patient", "id": "4711"}},
            {"fullUrl": "http://server/MedicationAdministration/8", "resource": _changed(id="8")},
        ],
    }
    decoded = _decode(bundle, {"resourceType": "Patient"}, message(1))
    assert decoded.identities == [b"fhir|medication_administration|urn:uuid:7", b"fhir|medication_administration|8"]
    assert (decoded.message.tolist(), decoded.empty) == ([0, 0], [1, 2])


@pytest.mark.parametrize(
    ("changes", "reason", "path"),
    [
        ({"subject": {"reference": "Group/1"}}, Reason.NO_SUBJECT, "medication_administration.patient_id"),
        ({"subject": {"reference": 5}}, Reason.WRONG_SHAPE, "medication_administration.patient_id"),
        ({"effectivePeriod": {"start": "2026-01-02"}}, Reason.BAD_TIME, "medication_administration.administered_at"),
        ({"effectivePeriod": {"start": "Zzname"}}, Reason.BAD_TIME, "medication_administration.administered_at"),
        ({"dosage": {"dose": {"value": "Zzname"}}}, Reason.WRONG_SHAPE, "medication_administration.dose"),
        ({"dosage": {"dose": {"value": True}}}, Reason.WRONG_SHAPE, "medication_administration.dose"),
        ({"status": ["completed", "stopped"]}, Reason.WRONG_SHAPE, "medication_administration.status"),
        ({"status": {"Zzname": 1}}, Reason.BAD_STATUS, "medication_administration.status"),
        ({"status": "a\0b"}, Reason.BAD_STATUS, "medication_administration.status"),
        ({"status": "entered in eror"}, Reason.BAD_STATUS, "medication_administration.status"),
        ({"id": "a\0b"}, Reason.CONTROL_CHARACTER, ""),
        ({"subject": "Patient/4711"}, Reason.WRONG_SHAPE, "medication_administration.patient_id"),
        ({"modifierExtension": [{"url": "x"}]}, Reason.MODIFIED, "MedicationAdministration.modifierExtension"),
        ({"implicitRules": "x"}, Reason.MODIFIED, "MedicationAdministration.modifierExtension"),
        (
            {"dosage": {"modifierExtension": [{"url": "urn:not-given"}], "dose": {"value": 900, "code": "mg"}}},
            Reason.MODIFIED,
            "MedicationAdministration.modifierExtension",
        ),
        (
            {"performer": [{"actor": {"display": "x"}}, {"modifierExtension": [{"url": "x"}]}]},
            Reason.MODIFIED,
            "MedicationAdministration.modifierExtension",
        ),
        (
            {"contained": [{"resourceType": "Medication", "ingredient": [{"modifierExtension": [{"url": "x"}]}]}]},
            Reason.MODIFIED,
            "MedicationAdministration.modifierExtension",
        ),
        (
            {"contained": [{"resourceType": "Medication", "implicitRules": "x"}]},
            Reason.MODIFIED,
            "MedicationAdministration.modifierExtension",
        ),
        ({"id": 4711}, Reason.WRONG_SHAPE, "MedicationAdministration.id"),
        ({"meta": {"lastUpdated": "Zzname"}}, Reason.BAD_TIME, "MedicationAdministration.meta.lastUpdated"),
        ({"meta": {"versionId": 3}}, Reason.WRONG_SHAPE, "MedicationAdministration.meta"),
        ({"meta": {"versionId": "3\n"}}, Reason.WRONG_SHAPE, "MedicationAdministration.meta"),
        ({"resourceType": "Zzname"}, Reason.WRONG_RESOURCE, ""),
        ({"resourceType": "MedicationRequest"}, Reason.WRONG_RESOURCE, ""),
    ],
)
def test_what_is_not_of_its_type_rejects_the_message_and_says_where(
    changes: dict[str, object], reason: Reason, path: str
) -> None:
    decoded = _decode(_changed(**changes), GIVEN)
    assert [(reject.message, reject.reason, reject.path) for reject in decoded.rejects] == [(0, reason, path)]
    assert decoded.message.tolist() == [1], "its neighbour is not harmed"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", Reason.NOT_JSON),
        (b"[]", Reason.WRONG_SHAPE),
        (b'{"a": "\xff"}', Reason.NOT_UTF8),
        (b'{"a":' * 100_000, Reason.TOO_DEEP),
        (b'{"resourceType": "Bundle"}', Reason.NO_VALUE),
        (b'{"resourceType": "Bundle", "entry": {}}', Reason.NO_VALUE),
        (b'{"resourceType": "Bundle", "entry": [1]}', Reason.WRONG_RESOURCE),
        (b'{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Zz"}}]}', Reason.WRONG_RESOURCE),
    ],
)
def test_what_is_no_fhir_is_refused_with_its_reason(value: bytes, reason: Reason) -> None:
    (reject,) = _decode(value).rejects
    assert reject.reason is reason


@pytest.mark.parametrize("size", [2**63, -(2**63) - 1, 1e300, 1.5, "1"])
def test_a_number_that_its_column_cannot_hold_rejects_its_message_alone(size: object) -> None:
    """The number is too large for its column; converting the whole poll at once ended the lane."""
    of = {"resourceType": "DocumentReference", "id": "d", "subject": {"reference": "Patient/1"}}
    good, bad = ({**of, "content": [{"attachment": {"size": number}}]} for number in (2**63 - 1, size))
    decoded = _decode(bad, good, dataset="document_reference")
    assert [(reject.message, reject.path) for reject in decoded.rejects] == [(0, "document_reference.size_bytes")]
    assert decoded.rows["size_bytes"].to_pylist() == [2**63 - 1]


def test_a_modifier_extension_of_an_entry_of_the_resource_rejects_the_bundle() -> None:
    modified: dict[str, Any] = {"modifierExtension": [{"url": "urn:not-given"}]}
    other = {"resource": {"resourceType": "Patient", "id": "4711", **modified}, **modified}
    decoded = _decode(
        {"resourceType": "Bundle", "entry": [{"resource": GIVEN, **modified}]},
        {"resourceType": "Bundle", "entry": [{"resource": GIVEN}, other]},
    )
    assert [(r.message, r.reason, r.path) for r in decoded.rejects] == [
        (0, Reason.MODIFIED, "Bundle.entry.modifierExtension")
    ]
    assert decoded.message.tolist() == [1], "what belongs to another resource changes nothing of this one"


@pytest.mark.parametrize(
    ("own", "full_url"), [("", None), (" ", None), (None, None), ("", "urn:uuid:"), (None, "urn:"), ("", "http://x/1")]
)
def test_an_empty_id_names_nothing_as_a_missing_one(own: str | None, full_url: str | None) -> None:
    """All resources with an empty id were one record, and one of them was shown."""
    bundle = {"resourceType": "Bundle", "entry": [{"fullUrl": full_url, "resource": _changed(id=own)}]}
    assert _decode(bundle).identities == [None], "which is rejected as no-key"


def test_an_empty_urn_leaves_the_id_its_name() -> None:
    bundle = {"resourceType": "Bundle", "entry": [{"fullUrl": "urn:uuid:", "resource": GIVEN}]}
    assert _decode(bundle).identities == [b"fhir|medication_administration|ma-1"]


@pytest.mark.parametrize(
    ("skip", "rows", "reasons"),
    [
        ("status = 'completed'", 0, []),
        ("status = 'stopped'", 1, []),
        ("status", 0, []),
        ("status.where($this = 'completed')", 0, []),
        ("status.where($this = 'stopped')", 1, []),
        ("medication.coding", 0, [Reason.WRONG_SHAPE]),
        ("note.text", 1, []),
    ],
)
def test_a_result_skips_as_fhirpath_takes_it_for_a_boolean(skip: str, rows: int, reasons: list[Reason]) -> None:
    """A single item that is no boolean counts as true, nothing as false, and several are an error."""
    dataset = load_dataset("medication_administration")
    assert dataset.fhir is not None
    decoder = FhirDeclaredDecoder(replace(dataset, fhir=replace(dataset.fhir, skip=skip)))
    decoded = decoder.decode([json.dumps(GIVEN).encode()])
    assert (decoded.rows.num_rows, [reject.reason for reject in decoded.rejects]) == (rows, reasons)
    assert {reject.path for reject in decoded.rejects} <= {"MedicationAdministration"}


def test_a_number_that_no_float_holds_rejects_the_message() -> None:
    dataset = load_dataset("medication_administration")
    columns = tuple(replace(c, fhir=f"{c.fhir} * 1{'0' * 308}") if c.name == "dose" else c for c in dataset.columns)
    decoder = FhirDeclaredDecoder(replace(dataset, columns=columns))
    decoded = decoder.decode([json.dumps(_changed(dosage={"dose": {"value": v}})).encode() for v in (500, 1)])
    assert [(r.message, r.reason, r.path) for r in decoded.rejects] == [
        (0, Reason.WRONG_SHAPE, "medication_administration.dose")
    ]
    assert decoded.rows["dose"].to_pylist() == [1e308]


def test_a_resource_that_the_declaration_skips_has_no_row() -> None:
    prepared = {"resourceType": "Procedure", "id": "1", "status": "preparation", "subject": {"reference": "Patient/1"}}
    decoded = _decode(prepared, dataset="procedure")
    assert (decoded.rows.num_rows, decoded.empty, decoded.rejects) == (0, [0], [])


_NAMES = [*GIVEN, "coding", "dose", "value"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GIVEN, "coding", "dose", "value"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([name for name in GIVEN if name != "resourceType"]), _JSON, max_size=4))
def test_whatever_a_message_holds_it_is_a_row_or_a_reject_that_says_nothing_of_it(changes: dict[str, object]) -> None:
    decoded = _decode(GIVEN | changes)
    assert len(decoded.rejects) + decoded.rows.num_rows == 1
    names = {f"medication_administration.{column.name}" for column in load_dataset("medication_administration").columns}
    fixed = {
        "",
        *(f"MedicationAdministration.{name}" for name in ("id", "meta", "meta.lastUpdated", "modifierExtension")),
    }
    assert {reject.path for reject in decoded.rejects} <= names | fixed


@pytest.mark.parametrize(
    "path",
    [
        "status.", "nofunction()", "where(", "status = = 'a'", "status.trace('x')", "now()",
        "item.where(text.matches('^([a-z]+ ?)*$')).linkId", "repeat(item).linkId", "descendants().linkId.first()",
    ],
)  # fmt: skip
def test_an_expression_that_cannot_be_evaluated_is_named_with_file_and_line(home: Path, path: str) -> None:
    (home / "datasets").mkdir()
    (home / "datasets" / "answer.yaml").write_text(
        "name: answer\nkind: record\nkey: [patient_id, version]\nday_of: said_at\n"
        "fhir: {resource: QuestionnaireResponse}\ncolumns:\n"
        "  - {name: said_at, type: timestamp, class: date-of-service, description: when, fhir: authored}\n"
        f'  - {{name: words, type: string, class: free-text, description: x, fhir: "{path}"}}\n'
    )
    settings = load_settings(home)
    with pytest.raises(SettingsError, match=r"not valid FHIRPath.*answer\.yaml:8 \(columns\.1\.fhir\)"):
        make_decoder("fhir", dataset="answer", stream=StreamSettings(), settings=settings)


def test_a_dataset_without_paths_has_no_rows_in_this_format(home: Path) -> None:
    document = {"name": "d", "kind": "record", "key": ["version"], "columns": []}
    with pytest.raises(SettingsError):
        parse_dataset(document, where="d.yaml")
    with pytest.raises(SettingsError, match="no rows for this dataset"):
        make_decoder("fhir", dataset="ward_movement", stream=StreamSettings(), settings=load_settings(home))


@pytest.mark.parametrize(("spare", "reasons"), [(0, []), (-1, [Reason.TOO_MANY_ELEMENTS])])
def test_a_resource_of_too_many_elements_is_refused_before_any_expression_sees_it(
    spare: int, reasons: list[Reason], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def evaluated(_: object, resource: dict[str, Any], _where: str) -> list[Any]:
        seen.append(resource["id"])
        return []

    monkeypatch.setattr(declared, "_evaluated", evaluated)
    own = {"resourceType": "MedicationAdministration", "id": "ma-1", "note": [{"text": "a"}]}  # five elements
    nested: list[Any] = [[], {}] * ((declared.MOST_ELEMENTS - 6 - spare) // 2)
    nested += [1] * (declared.MOST_ELEMENTS - 6 - spare - len(nested))
    decoded = _decode(own | {"supportingInformation": nested})
    assert [(r.reason, r.path) for r in decoded.rejects] == [(reason, own["resourceType"]) for reason in reasons]
    assert bool(seen) is not bool(reasons)
