"""What refused messages may have measured: the codes they name, and those that cannot be vital signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.news2 import codes_read
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.lenient.unread import about
from tests import hostile, hostile_flat, hostile_hl7
from tests.decoding import decoder_of
from tests.fhir import message
from vitalake.clinical.vitals import may_be_vital_unit, vital_codes
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings, load_settings

SHIPPED = Naming(Settings())
AT = "2026-03-01T10:00:00Z"
AT_US = 1_772_359_200_000_000
SATURATION = {
    "code": {"coding": [{"code": "x", "system": "urn:own"}, {"code": "59408-5", "system": "http://loinc.org"}]}
}
STRANGE = {"code": {"coding": [{"code": "x", "system": "urn:own"}]}}


def _about(document: dict[str, Any] | bytes, format_name: str = "fhir") -> tuple[dict[str, int | None], bool]:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    found = about(payload, format_name, Naming())
    return dict(found.codes), found.unnamed


def _observation(**elements: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "effectiveDateTime": AT, **elements}


def _category(code: str) -> dict[str, Any]:
    return {"category": [{"coding": [{"code": code}]}]}


def test_vital_signs_are_what_the_score_reads() -> None:
    assert vital_codes() == set(codes_read())


@pytest.mark.parametrize(
    ("elements", "codes", "unnamed"),
    [
        (SATURATION | {"status": "FINAL"}, {"59408-5": AT_US}, False),
        (SATURATION | {"effectiveDateTime": "2026-03-01T10:00:00"}, {"59408-5": None}, False),
        (SATURATION | {"effectiveDateTime": None, "effectivePeriod": {"end": AT}}, {"59408-5": AT_US}, False),
        ({"code": {}, "component": [SATURATION, {"code": 7}]}, {"59408-5": AT_US}, True),
        (STRANGE | {"valueQuantity": {"value": 3, "code": "/min"}}, {}, True),
        (STRANGE | {"valueQuantity": {"value": 3, "unit": "nobody knows"}}, {}, True),
        (STRANGE | {"valueQuantity": {"value": 3}}, {}, True),
        (STRANGE | {"valueString": "82 %"}, {}, True),
        (STRANGE, {}, True),
        (STRANGE | {"valueQuantity": {"value": 3, "code": "mmol/L"}}, {}, False),
        (STRANGE | {"valueQuantity": {"value": 3, "code": "%"}} | _category("laboratory"), {}, False),
        (STRANGE | {"valueCodeableConcept": {}} | _category("vital-signs"), {}, True),
        (STRANGE | {"valueCodeableConcept": {}} | _category("Vital-Signs"), {}, True),
        (STRANGE | {"valueQuantity": {"value": 82, "code": "%"}} | _category("exam"), {}, True),
        (STRANGE | {"valueQuantity": {"value": 82, "code": "%"}} | _category("vitals"), {}, True),
        (STRANGE | {"valueQuantity": {"value": 3, "code": "mmol/L"}} | _category("vitals"), {}, False),
        (STRANGE | {"valueQuantity": {"value": 3, "code": "%"}} | _category("Social History"), {}, False),
        (STRANGE | {"valueQuantity": {"value": 3, "code": "%"}, "category": [{"text": "Laboratory"}]}, {}, False),
        (STRANGE | {"valueQuantity": {"value": 3, "code": "%"}, "category": [{"text": "Vital Signs"}]}, {}, True),
        ({"code": SATURATION["code"], "component": [{"valueString": "no signal"}]}, {"59408-5": AT_US}, False),
        (STRANGE | {"valueCodeableConcept": {"coding": [{"code": "266919005"}]}}, {}, False),
        (STRANGE | {"valueString": "never smoked"}, {}, False),
    ],
)
def test_an_observation_names_what_it_measures(elements: dict[str, Any], codes: dict[str, int], unnamed: bool) -> None:
    assert _about(_observation(**elements)) == (codes, unnamed)
    assert _about({"resourceType": "Bundle", "entry": [{"resource": _observation(**elements)}]}) == (codes, unnamed)


@pytest.mark.parametrize("kind", ["Patient", "Encounter", "MedicationAdministration", "DiagnosticReport"])
def test_other_resources_measure_nothing(kind: str) -> None:
    other = {"resourceType": kind, **SATURATION}
    assert _about(other) == ({}, False)
    assert _about({"resourceType": "Bundle", "entry": [{"resource": other}]}) == ({}, False)


def test_of_what_cannot_be_taken_apart_everything_may_be() -> None:
    assert _about({"resourceType": "Bundle", "entry": 7}) == ({}, True)
    assert _about({"resourceType": "Bundle", "entry": [7]}) == ({}, True)
    assert _about(b"[7]") == ({}, True)
    assert _about(b"not a message") == ({}, True)
    envelope = {"payload": json.dumps(_observation(**SATURATION))}
    assert _about(envelope) == ({"59408-5": AT_US}, False)


def _hl7(*results: str, kind: str = "ORU^R01") -> bytes:
    head = f"MSH|^~\\&|M|H|V|H|20260301100000+0000||{kind}|1|P|2.5.1"
    return "\r".join([head, "PID|1||1^^^^MR", "OBR|1|||X|||20260301100000+0000", *results]).encode()


@pytest.mark.parametrize("processing", ["T", "D^A", "t ", " d^A"])
def test_a_training_message_measures_nothing(processing: str) -> None:
    assert _about(_hl7("OBX|1|NM|59408-5^S^LN||70|%|||||F").replace(b"|P|", f"|{processing}|".encode()), "hl7-v2") == (
        {},
        False,
    )


@pytest.mark.parametrize(
    ("obx", "codes", "unnamed"),
    [
        ("OBX|1|NM|59408-5^S^LN||-?-|%|||||F", {"59408-5": AT_US}, False),
        ('OBX|1|NM|59408-5^S^LN||""|%|||||F|||2026', {"59408-5": AT_US}, False),
        ("OBX|1|NM|own^S^99X||-?-|/min^^UCUM|||||F", {}, True),
        ("OBX|1|ST|own^S^99X||82|%^^UCUM|||||F", {}, True),
        ("OBX|1|NM|own^S^99X||7|mmol/L^^UCUM|||||F", {}, False),
        ("OBX|1|ST|own^S^99X||never||||||F", {}, False),
        ("OBX|1|NM|59408-5^S||70|%^^UCUM|||||F", {"59408-5": AT_US}, False),
        ("OBX|1|NM|own^S^99X^59408-5^S^99LNC||70|||||F", {"59408-5": AT_US}, False),
        ("OBX|1|CWE|own^S^99X||1^never||||||F", {}, False),
        ("OBX|1|NM|||7|%^^UCUM|||||F", {}, True),
    ],
)
def test_results_name_what_they_measure(obx: str, codes: dict[str, int], unnamed: bool) -> None:
    assert _about(_hl7(obx), "hl7-v2") == (codes, unnamed)
    assert _about(_hl7(obx, kind="RDE^O11"), "hl7-v2") == ({}, False)


KEYS = (
    "resourceType", "entry", "resource", "code", "coding", "category", "component", "valueQuantity", "effectivePeriod",
    "end", "unit", "value",
)  # fmt: skip
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["Observation", AT]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["fhir", "hl7-v2", "flat:bedside-monitor"]))
def test_no_message_stops_a_lane(document: Any, format_name: str) -> None:
    for payload in (json.dumps(document).encode(), json.dumps({"resourceType": "Bundle", "entry": document}).encode()):
        about(payload, format_name, SHIPPED)


@pytest.mark.parametrize("format_name", ["fhir", "hl7-v2", "flat:bedside-monitor"])
def test_no_hostile_message_stops_a_lane(format_name: str) -> None:
    for corpus in (hostile.CORPUS, hostile_hl7.CORPUS, hostile_flat.MONITOR, hostile_flat.GATEWAY):
        for payload, *_ in corpus.values():
            about(payload, format_name, SHIPPED)


@pytest.mark.parametrize("message", [b"MSH", b"MSH|^~\\&|A", b"PID|1", b"MSH|^~\\&|A\rOBX|1|NM|59408-5^S^LN||7"])
def test_a_broken_header_is_survived(message: bytes) -> None:
    assert _about(message, "hl7-v2")[1] in (True, False)


def test_a_device_s_own_json_names_codes_by_its_profile(home: Path) -> None:
    (home / "profiles").mkdir(exist_ok=True)
    (home / "profiles" / "own.yaml").write_text(
        """
format: flat
description: test
patient: $.patient
time: {path: $.at, format: epoch-ms}
values:
  - {path: $.spo2, code: 59408-5, unit: "%"}
  - {path: "$.list[*].v", code: 8867-4, unit: /min, when: {path: "$.list[*].k", is: HR}}
"""
    )
    naming = Naming(load_settings(home))
    for document, codes in (
        ({"at": AT_US // 1000, "spo2": "x"}, {"59408-5": AT_US}),
        ({"at": "x", "list": [{"k": "HR", "v": {}}]}, {"8867-4": None}),
        ({"list": [{"k": "RR", "v": 7}]}, {}),
        ({"renamed": 7}, {}),
    ):
        found = about(json.dumps(document).encode(), "flat:own", naming)
        assert (dict(found.codes), found.unnamed) == (codes, not codes)


def test_units_of_vital_signs() -> None:
    assert all(map(may_be_vital_unit, ("%", "/min", "mm[Hg]", "Cel", "[degF]", "", None, "never heard of")))
    assert not any(map(may_be_vital_unit, ("mmol/L", "kg", "10*9/L")))


@pytest.mark.parametrize("dataset", ["observation", "patient", "encounter", "condition", "device_association"])
def test_one_topic_may_be_read_by_several_jobs(dataset: str) -> None:
    """A topic of three jobs made over a thousand dead letters: each resource was wrong for two of them."""
    decoder, own = decoder_of("fhir", dataset=dataset), load_dataset(dataset).name
    kinds = ["Patient", "Encounter", "Condition", "DeviceUseStatement", "Medication"]
    values = [json.dumps({"resourceType": kind, "unread": [7]}).encode() for kind in kinds]
    decoded = decoder.decode([message(1), *values])
    mine = {"observation": 0, "patient": 1, "encounter": 2, "condition": 3, "device_association": 4}[own]
    assert sorted({*decoded.empty}) == sorted({0, 1, 2, 3, 4} - {mine})
    assert [reject.message for reject in decoded.rejects if reject.reason == "wrong-resource"] == [5]
