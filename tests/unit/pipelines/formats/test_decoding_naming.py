"""The patients that messages name: all whom a decoder reads, and none because a value equals a number."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.erasure.plain_words import words_in
from governance.vault import Identity
from pipelines.erasure.quarantine_store import Search
from pipelines.formats.fhir.records import FhirRecordDecoder
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.lenient.searched import to_search
from pipelines.formats.shared.named import Named, behind_system, system_of
from pipelines.formats.shared.records import MERGED
from pipelines.history.rows import RowTexts
from pipelines.reprocess.rows import RowsDecoder
from tests import hostile, hostile_flat, hostile_hl7
from tests.decoding import decoder_of
from tests.fhir import message, observation
from tests.golden.decoding import FOLDER, FORMATS, inputs
from tests.hl7 import MSH, PID, adt, obx, oru
from vitalake.settings import Settings

SETTINGS = Settings(profiles=FOLDER / "profiles")
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=12)
BUNDLE = {"resourceType": "Bundle", "type": "transaction"}


def _read(payload: bytes, name: str, dataset: str = "observation") -> set[str]:
    """Return the patients that a decoder reads, including those of merges."""
    rows = decoder_of(name, dataset=dataset, settings=SETTINGS).decode([payload]).rows.to_pylist()
    devices = [str(row.get("device_id") or "") for row in rows]
    given_up = {device.removeprefix(MERGED) for device in devices if device.startswith(MERGED)}
    return given_up | {row["patient_id"] for row in rows if row["patient_id"]}


def _named(payload: bytes, name: str = "") -> set[str] | None:
    return Naming(SETTINGS).named_in(payload, name)


def _finds(patient: str, payload: bytes) -> bool:
    return Search([patient], None).names(payload)  # type: ignore[arg-type]


# -- no patient is missed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", inputs(), ids=lambda path: path.name)
def test_everybody_whom_a_decoder_reads_is_named(path: Path) -> None:
    kind, dataset = FORMATS[path.parents[1].name]
    name = f"{kind}:{path.name.partition('--')[0]}"
    messages = path.read_bytes().removesuffix(b"\n").split(b"\n" if kind == "flat" else b"\n\n")
    for payload in messages:
        assert _read(payload, name, dataset) <= (_named(payload, f"{name}/1-digest") or set())
    assert (
        any(_read(payload, name, dataset) for payload in messages)
        or "without-a-patient" in path.name
        or (name == "flat:gateway-readings")
    )


@pytest.mark.parametrize("name", hostile_hl7.CORPUS)
def test_a_hostile_hl7_message_is_found_wherever_the_number_stands_in_it(name: str) -> None:
    payload, _ = hostile_hl7.CORPUS[name]
    there = b"4711" in payload.replace(b"\0", b"") and name != "letters as separators"
    assert _finds("HOSP|4711", payload) is there


@pytest.mark.parametrize("name", hostile.CORPUS)
def test_a_hostile_fhir_message_is_found_wherever_the_patient_stands_in_it(name: str) -> None:
    payload, _ = hostile.CORPUS[name]
    assert _finds("p-1", payload) is (b"Patient/p-1" in payload.replace(b"\0", b""))


@pytest.mark.parametrize("name", hostile_flat.MONITOR)
def test_a_hostile_message_of_a_device_is_found_wherever_the_number_stands_in_it(name: str) -> None:
    payload, _ = hostile_flat.MONITOR[name]
    search = Search(["4711"], None, settings=None)  # type: ignore[arg-type]
    if b'"patient": "4711"' in payload:
        assert search.names(payload, ["flat:bedside-monitor"])


@given(system=TEXTS, value=TEXTS, escaped=st.booleans())
def test_a_logical_identifier_is_named_however_it_is_written(system: str, value: str, *, escaped: bool) -> None:
    subject = {"identifier": {"system": system, "value": value}}
    payload = json.dumps(observation(1, subject=subject), ensure_ascii=escaped).replace("/", "\\/").encode()
    (patient,) = _read(payload, "fhir")
    assert _named(payload) == {patient}
    assert _finds(patient, payload)


@given(authority=TEXTS, value=TEXTS)
def test_a_number_of_hl7_is_named_however_it_is_escaped(authority: str, value: str) -> None:
    def written(text: str) -> str:
        for mark, code in zip(r"\|^~&", "EFSRT", strict=True):
            text = text.replace(mark, f"\\{code}\\")
        return text

    payload = oru(pid=f"PID|1|| {written(value)} ^^^{written(authority)}")
    read = _read(payload, "hl7-v2")
    assert read
    assert read <= (_named(payload) or set())


@pytest.mark.parametrize(
    ("payload", "patients"),
    [
        (oru(pid="PID|1|old^^^A|X^^^A~Y^^^B^MR|alt^^^C"), {"A|old", "A|X", "B|Y", "Y", "C|alt"}),
        (oru(PID.replace("4711", "9")), {"HOSP|4711", "4711", "HOSP|9", "9"}),
        (adt("A40", "PID|1||new^^^H", "MRG|old^^^H"), {"H|new", "H|old"}),
        (b'{"envelope": {"body": "' + oru(pid="PID|1||8^^^H").replace(b"\r", b"\\r").replace(b"\\&", b"\\\\&") + b'"}}',
         {"H|8"}),
    ],
)  # fmt: skip
def test_all_numbers_of_an_hl7_message_are_named(payload: bytes, patients: set[str]) -> None:
    assert _named(payload) == patients


def test_numbers_are_composed_as_the_profile_says_and_as_it_said_nothing() -> None:
    named = _named(oru(pid="PID|1||1^^^LAB^MR~2^^^HOSP"), "hl7-v2:laboratory") or set()
    read = _read(oru(pid="PID|1||2^^^HOSP^MR"), "hl7-v2:laboratory")
    assert read | {"LAB|1", "HOSP|2"} <= named


@pytest.mark.parametrize(
    ("document", "patients"),
    [
        ({"resourceType": "Patient", "id": "p-72", "identifier": [
            {"system": "urn:h", "value": "9", "type": {"coding": [{"code": "MR"}]}}, {"system": "urn:i", "value": 4}]},
         {"p-72", "urn:h|9", "9", "urn:i|4"}),
        ({**BUNDLE, "entry": [{"fullUrl": "urn:uuid:1-2", "resource": {"resourceType": "Patient", "id": "x"}},
                              {"resource": {"resourceType": "Encounter", "subject": {"reference": "urn:uuid:1-2"}}}]},
         {"urn:uuid:1-2", "x"}),
        ({"resourceType": "Device", "patient": {"reference": "Patient/7/_history/2"}}, {"7"}),
        ({"resourceType": "Appointment", "participant": [{"actor": {"reference": "http://h/fhir/Patient/7"}}]},
         {"http://h/fhir/Patient/7"}),
        ({"resourceType": "Observation", "subject": {"type": "Patient", "identifier": {"value": "7"}}}, {"|7"}),
        ({"resourceType": "Observation", "subject": {"reference": "Patient?identifier=urn:h%7C7"}}, {"urn:h|7"}),
        ({"resourceType": "Observation", "contained": [{"resourceType": "Patient", "id": "c",
            "identifier": [{"value": "7"}]}], "subject": {"reference": "#c"}}, {"c", "|7"}),
        ({"resourceType": "Observation", "subject": "Patient/7"}, {"7"}),
        ({"resourceType": "Observation", "patientId": 7, "value": 8}, {"7"}),
        ({"resourceType": "Observation", "subject": {"type": "Device", "identifier": {"value": "7"}}}, set()),
        ({"resourceType": "Observation", "device": {"identifier": {"value": "7"}}}, set()),
        ([{"patient_id": 72, "mrn": "m-1", "value": 5.0, "code": "8867-4"}], {"72", "m-1"}),
        ({"patient": {"id": "72"}, "rapid": 9, "hr": "60"}, {"72"}),
    ],
)  # fmt: skip
def test_all_patients_of_a_json_message_are_named(document: Any, patients: set[str]) -> None:
    assert _named(json.dumps(document).encode()) == patients


@pytest.mark.parametrize("dataset", ["patient", "encounter", "condition", "device_association"])
def test_patients_of_other_resources_are_named_as_they_are_read(dataset: str) -> None:
    subject = {"identifier": {"system": "urn:h", "value": "7"}}
    coding = [{"system": "http://snomed.info/sct", "code": "1"}]
    resources = {
        "patient": {"resourceType": "Patient", "id": "p-7"},
        "encounter": {"resourceType": "Encounter", "status": "finished", "id": "e", "subject": subject,
                      "period": {"start": "2025-06-01T10:00:00Z"}},
        "condition": {"resourceType": "Condition", "code": {"coding": coding}, "subject": subject},
        "device_association": {"resourceType": "Device", "id": "d", "patient": {"reference": "http://h/Patient/7"},
                               "meta": {"lastUpdated": "2025-06-01T10:00:00Z"}},
    }  # fmt: skip
    payload = json.dumps(resources[dataset]).encode()
    read = set(FhirRecordDecoder(dataset).decode([payload]).rows["patient_id"].to_pylist())
    assert read
    assert _named(payload) == read


def test_patients_of_a_warehouses_rows_are_named_as_they_are_read() -> None:
    import numpy as np
    import pyarrow as pa

    rows = pa.table({"patient_id": [72, 73], "code": ["8867-4"] * 2, "value": [1.0, 2.0]})
    payload = RowTexts(rows, np.array([0]))[0]
    assert payload is not None
    assert _named(payload, "sql/1") == {"72", "73"}
    assert RowsDecoder("observation").decode([payload]).rejects, "it lacks the time"


def test_what_a_profile_says_counts_before_names_of_keys() -> None:
    payload = json.dumps({"user": {"name": "7"}, "patient": {"id": "8"}, "hr": 72}).encode()
    assert _named(payload, "flat:nobody-knows-it") == {"8"}
    assert _named(json.dumps({"patient": "8", "hr": 72}).encode(), "flat:bedside-monitor") == {"8"}


# -- a value is not taken for a patient --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        oru(obx(value="72", unit="zzz"), pid="PID|1||another^^^HOSP^MR"),
        oru(obx(value="72", unit="zzz"), pid=""),
        message(1, patient="another", value=72),
        message(1, patient="another", valueString="72"),
        message(1, subject=None, valueString="72"),
        json.dumps({"patient": "another", "hr": "72", "note": "72"}).encode(),
        json.dumps({"device": {"id": "72"}, "readings": [{"value": "72"}]}).encode(),
    ],
)
def test_a_message_is_nobodys_because_of_a_value(payload: bytes) -> None:
    assert not _finds("72", payload)
    assert not _finds("HOSP|72", payload)


# -- messages that cannot be parsed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patient", "payload"),
    [
        ("urn:oid:1.2.3|72", b'{"subject":{"identifier":{"system":"urn:oid:1.2.3","value":"72"}},'),
        ("http://h/fhir/Patient/72", b'{"subject":{"reference":"http:\\/\\/h\\/fhir\\/Patient\\/72"},'),
        ("p-72", b'{"subject":{"reference":"Patient/p\\u002d72"},'),
        ("|M\u00fc-7", '{"subject":{"identifier":{"value":"M\u00fc-7"}},'.encode()),
        ("|M\u00fc-7", '{"subject":{"identifier":{"value":"M\u00fc-7"}},'.encode("latin-1")),
        ("p-72", '{"subject":{"reference":"Patient/p-72"},'.encode("utf-16")),
        ("HOSP|4711", b"PID|1|| 4711 ^^^HOSP^MR"),
        ("HOSP|4~711", rb"PID|1||4\R\711^^^HOSP^MR"),
        ("HOSP|4711", rb"PID|1||\X34373131\^^^HOSP^MR"),
        ("HOSP|4711", oru().replace(b"\rPID", b" PID")),
        ("HOSP|4711", oru().replace(b"PID|", b"PID#")),
        ("p-72", b'<Observation><subject><reference value="Patient/p-72"/></subject></Observation>'),
    ],
)
def test_what_cannot_be_taken_apart_is_searched_for_the_text(patient: str, payload: bytes) -> None:
    assert _named(payload) is None
    assert _finds(patient, payload)
    assert not _finds("HOSP|471", payload)


def test_nothing_raises_for_what_a_message_holds() -> None:
    deep = b"[" * 100_000
    for payload in (b"", b"null", b"7", b'"x"', deep, b"MSH", b"MSH|", b"MSH||||", b"\rMSH|^~\\&|\rPID", b"\x00\xff"):
        Naming().named_in(payload)
        assert not _finds("72", payload)


@pytest.mark.parametrize(
    ("payload", "stays"),
    [
        (b'{"encounter": {"reference": "Encounter/e-1/_history/2"}}', {"e-1"}),
        (b'{"encounter": {"identifier": {"system": "urn:oid:1.2", "value": "72"}}}', {"urn:oid:1.2|72"}),
        (b'{"resourceType": "Encounter", "id": "e-1"}', {"e-1"}),
        (b'{"visit_id": "V-1", "pulse": 72}', {"V-1"}),
        (b'{"value": "72", "subject": {"reference": "Patient/72"}}', set()),
        (b"MSH|^~\\&|A|B\rPV1||I|||||||||||||||||V-1^^^HOSP\rOBX|1|NM|x||72", {"HOSP|V-1"}),
        (b"PV1||I|||||||||||||||||V-1", set()),
        (b"\xff{ not a message", set()),
    ],
)
def test_stays_are_composed_as_decoders_compose_them(payload: bytes, stays: set[str]) -> None:
    assert Naming().stays_in(payload) == stays


# -- wrongly written ids are found nevertheless ------------------------------------------------------------------


ID = "1303122"
QUOTED = json.dumps(observation(1, subject={"reference": f"Patient/{ID}"}))
WRONG: dict[str, bytes] = {
    **{
        reference: json.dumps(observation(1, subject={"reference": reference})).encode()
        for reference in (f"patient/{ID}", ID, f"#{ID}", f"Person/{ID}", f"Patient?_id={ID}", f"Patient {ID}")
    },
    "display": json.dumps(observation(1, subject={"display": f"Quartermaine, Zebulon ({ID})"})).encode(),
    "another key": json.dumps({"pt": ID, "patient_name": "Quartermaine"}).encode(),
    "a number": json.dumps({"pat": int(ID), "value": 61}).encode(),
    "deep": json.dumps({"patient": {"no": ID, "name": "Zebulon"}}).encode(),
    "PID-18": oru(pid=f"PID|1||||Quartermaine^Zebulon|||||||||||||{ID}^^^HOSP"),
    "ZPD": oru(pid=f"PID|1||\rZPD|1|{ID}"),
    "base64": json.dumps({"data": b64encode(QUOTED.encode()).decode()}).encode(),
    "base64 of what cannot be read": json.dumps({"data": b64encode(f"patient no. {ID}".encode()).decode()}).encode(),
    "base64 for addresses": json.dumps({"data": urlsafe_b64encode(QUOTED.encode()).decode().rstrip("=")}).encode(),
    "torn": QUOTED[:-9].replace("Patient/", "pt ").encode(),
}


class Knows:
    """A vault that knows some patients."""

    def __init__(self, *numbers: str) -> None:
        self.numbers = set(numbers)

    def knows(self, named: set[str]) -> bool:
        return not self.numbers.isdisjoint(named)

    def hold_keys(self) -> None:
        """Hold none."""

    def identities(self) -> list[Identity]:
        """Return who they are."""
        return [Identity(number, None, None, None, None) for number in self.numbers]


@pytest.mark.parametrize("name", WRONG)
def test_somebody_who_is_written_wrongly_is_found(name: str) -> None:
    payload = WRONG[name]
    assert Search([ID], None, vault=Knows(ID)).tells(payload) is True  # type: ignore[arg-type]
    assert Search([ID[:-1]], None, vault=Knows(ID)).tells(payload) is not True  # type: ignore[arg-type]
    assert Search([ID[1:]], None, vault=Knows(ID)).tells(payload) is not True  # type: ignore[arg-type]
    assert ID in words_in(payload)


@pytest.mark.parametrize(
    "text",
    [f"{ID}.0,72,bpm", f"MRN:{ID}.0;hr=x", f"Bett 3:{ID}", f"{ID}:3", f"no {ID}.", "1.303122E6;hr=60", f"{ID}.00",
     json.dumps({"mrn": float(ID)}), json.dumps({"nr": float(ID), "patient": "?"}), '{"pat": 1.303122E6}'],
)  # fmt: skip
def test_a_number_is_found_with_a_point_or_beside_a_colon(text: str) -> None:
    assert Search([ID], None, vault=Knows(ID)).tells(text.encode()) is True  # type: ignore[arg-type]
    assert ID in words_in(text.encode())


@pytest.mark.parametrize("text", [f"{ID}.5", f"7.{ID}", f"1.{ID}E3", "1.303122E5", f"10:00:00.{ID}", f"{ID}.0.1"])
def test_a_fraction_is_no_number_of_a_patient(text: str) -> None:
    assert Search([ID], None, vault=Knows(ID)).tells(text.encode()) is None  # type: ignore[arg-type]
    assert ID not in words_in(text.encode())


@pytest.mark.parametrize("text", ["1" * 1_000_000, "a1." * 300_000, "1" * 1_000_000 + ".0", "1.0E9," * 100_000])
def test_words_are_found_in_a_time_that_goes_with_the_length(text: str) -> None:
    """A run of a million letters, for example of a picture, blocked a lane for hours."""
    assert words_in(f"{text} {ID}".encode()) >= {ID}


def test_a_number_with_a_point_where_a_decoder_reads_it_names_the_patient() -> None:
    assert _named(b'{"patient": 72.0, "hr": 60}', "flat:bedside-monitor") == {"72"}
    assert _named(b'{"mrn": 7.2E1, "hr": 60, "subject": NaN}') == {"72"}


@pytest.mark.parametrize("id_", ["61", "p-72", "1234"])
def test_a_short_number_that_stands_anywhere_takes_no_message_that_may_be_anothers(id_: str) -> None:
    payload = json.dumps({"pt": id_, "value": id_, "text": f"no {id_}"}).encode()
    assert Search([id_], None, vault=Knows(id_)).tells(payload) is None, "it is counted"  # type: ignore[arg-type]


def test_a_message_that_names_somebody_else_is_theirs_whatever_numbers_stand_in_it() -> None:
    payload = json.dumps(observation(1, patient="p-8", note=[{"text": ID}], valueString=ID)).encode()
    assert Search([ID], None, vault=Knows("p-8", ID)).tells(payload) is False  # type: ignore[arg-type]
    assert Search([ID], None, vault=Knows(ID)).tells(payload) is None, "nobody knows p-8 yet"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(observation(1, patient="20007", id="10001")).encode(),
        json.dumps(observation(1, patient="20007", value=10001)).encode(),
        json.dumps({"patient": "20007", "hr": 10001, "monitor": {"serial": "10001"}}).encode(),
        json.dumps({"message": json.dumps({"patient": "20007", "hr": 10001})}).encode(),
        oru(msh=MSH.replace("|1|P|", "|10001|P|"), pid="PID|1||20007^^^HOSP^MR"),
        json.dumps({"hr": 10001.5}).encode(),
        json.dumps({"at": "2025-06-01T10:00:00.10001Z"}).encode(),
    ],
)
def test_a_number_of_something_else_takes_nobodys_message(payload: bytes) -> None:
    """A new feed is rejected before its patients are enrolled, and small serial numbers coincide."""
    search = Search(["10001"], None, settings=SETTINGS, vault=Knows("10001"))  # type: ignore[arg-type]
    assert search.tells(payload, ["flat:bedside-monitor"]) is None


def test_a_number_of_a_row_of_a_warehouse_takes_no_message_of_who_is_new() -> None:
    payload = json.dumps([{"patient_id": "20007", "value": 10001}]).encode()
    assert Search(["10001"], None, vault=Knows("10001")).tells(payload, ["sql/1"]) is None  # type: ignore[arg-type]
    assert Search(["10001"], None, vault=Knows("10001")).tells(payload) is True, "a key is a guess"  # type: ignore[arg-type]


NO_PATIENTS: list[dict[str, Any]] = [
    {"patientType": "inpatient"}, {"patient_status": "4"}, {"personnel": "20007"}, {"subject": "vitals"},
    {"patientRoom": "12"}, {"patient": "unknown"}, {"patient": "Meier, Berta"}, {"patient": "Bett 3"}, {"patient": "0"},
    {"patient": "UNK-1"}, {"patient": {"reference": "#1"}}, {"note": "as Patient/20007"}, {"patient": None},
    {"resourceType": "Observation", "subject": {"reference": "Patient/unknown"}},
    {"resourceType": "Observation", "subject": {"reference": "#1"},
     "contained": [{"resourceType": "Patient", "id": "1"}]},
    {"resourceType": "Bundle", "entry": [{"fullUrl": "urn:uuid:1-2", "resource": {"resourceType": "Patient"}}]},
]  # fmt: skip


@pytest.mark.parametrize("told", NO_PATIENTS)
def test_what_is_no_patient_hides_nobody_whose_number_stands_under_another_key(told: dict[str, Any]) -> None:
    """The sender renamed the number's key: 'inpatient' was taken for another patient, so nothing was searched."""
    payload = json.dumps({**told, "nr": ID}).encode()
    search = Search([ID], None, settings=SETTINGS, vault=Knows(ID, "1", "4", "12"))  # type: ignore[arg-type]
    for name in ("", "flat:bedside-monitor", "fhir"):
        assert search.tells(payload, [name]) is True
    assert search.tells(payload.replace(ID.encode(), b"1303123")) is None
    assert _forgotten_in(payload, "flat:bedside-monitor", ID)


def _forgotten_in(payload: bytes, name: str, *known: str) -> bool:
    """Return whether a lane attributes a rejected message to the patient ID."""
    named = Naming(SETTINGS).whose(payload, name)
    assert named is not None
    part = to_search(payload, named, lambda number: number in known)
    return ID in (named.all | words_in(part or b""))


@pytest.mark.parametrize(
    ("payload", "tells"),
    [
        ({"patient": "20007", "patNr": ID}, True),
        ({"patient": "20007", "id": ID, "patch": ID, "hr": int(ID)}, None),
        ({"resourceType": "Observation", "subject": {"reference": "Patient/p-8", "display": f"No. {ID}"}}, True),
        (oru(pid=f"PID|1||20007|||||||||||||||{ID}"), True),
        (oru(pid=f"PID|1||20007\rZPD|1|{ID}"), True),
        ({"body": oru(pid=f"PID|1||20007|||||||||||||||{ID}").decode()}, True),
        (oru(obx(value=ID), pid="PID|1||20007"), None),
    ],
)
def test_of_who_may_be_new_only_what_is_about_patients_is_searched(
    payload: bytes | dict[str, Any], tells: bool | None
) -> None:
    written = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    search = Search([ID], None, settings=SETTINGS, vault=Knows(ID))  # type: ignore[arg-type]
    assert search.tells(written, ["flat:bedside-monitor"]) is tells
    assert _forgotten_in(written, "flat:bedside-monitor", ID) is bool(tells)
    known = Search([ID], None, settings=SETTINGS, vault=Knows(ID, "20007", "p-8"))  # type: ignore[arg-type]
    assert known.tells(written, ["flat:bedside-monitor"]) is False
    assert not _forgotten_in(written, "flat:bedside-monitor", ID, "20007", "p-8")


HOSP, FHIR, HOST = f"HOSP|{ID}", f"urn:oid:1.2|{ID}", f"http://h/fhir/Patient/{ID}"


@pytest.mark.parametrize(
    ("patient", "payload"),
    [
        (HOSP, oru(pid=f"PID|1||{ID}")),
        (HOSP, oru(pid=f"PID|1||{ID}~V-99^^^VISITS")),
        (HOSP, oru(pid=f"PID|1||{ID}^^^HOSPITAL")),
        (HOSP, oru(pid=f"PID|1||{ID}.0^^^HOSP")),
        (HOSP, adt("A40", "PID|1||8^^^HOSP", f"MRG|{ID}")),
        (FHIR, json.dumps(observation(1, subject={"reference": f"Patient/{ID}"})).encode()),
        (FHIR, json.dumps(observation(1, subject={"identifier": {"value": ID}})).encode()),
        (HOST, json.dumps(observation(1, subject={"reference": f"Patient/{ID}"})).encode()),
    ],
)
def test_a_number_without_its_system_is_the_patients(patient: str, payload: bytes) -> None:
    assert Search([patient], None, vault=Knows(patient, "HOSP|8")).tells(payload) is True  # type: ignore[arg-type]


@pytest.mark.parametrize("patient", [HOSP, FHIR, HOST])
@pytest.mark.parametrize(
    "payload",
    [
        oru(pid=f"PID|1||{ID}"),
        json.dumps(observation(1, patient=ID)).encode(),
        json.dumps({"patient": ID, "hr": 60}).encode(),
    ],
)
def test_a_number_without_its_system_by_which_somebody_else_is_known_is_theirs(patient: str, payload: bytes) -> None:
    """An erasure deleted messages of another patient whose whole id equals the erased patient's number."""
    search = Search([patient], None, settings=SETTINGS, vault=Knows(patient, ID))  # type: ignore[arg-type]
    for name in ("flat:bedside-monitor", "fhir", ""):
        assert search.tells(payload, [name]) is False
    own = Search([patient, ID], None, vault=Knows(patient, ID))  # type: ignore[arg-type]
    assert own.tells(payload) is True, "it is the record number too"


@pytest.mark.parametrize(
    "told",
    [{"patient_id": "20007"}, {"patient_id": 20007, "hr": "x"}, {"mrn": "20007"}, {"note": "as Patient/20007"},
     {"patient": {"id": "20007"}}, {"nurseCall": {"mrn": "20007"}}],
)  # fmt: skip
def test_who_is_known_under_a_key_that_looks_like_a_patients_keeps_the_message(told: dict[str, Any]) -> None:
    payload = json.dumps({**told, "seq": int(ID)}).encode()
    assert Search([ID], None, vault=Knows(ID, "20007")).tells(payload) is None, "it counts"  # type: ignore[arg-type]
    other = payload.replace(ID.encode(), b"1303123")
    assert Search([ID], None, vault=Knows(ID, "20007")).tells(other) is False  # type: ignore[arg-type]
    assert Search([ID], None, vault=Knows(ID)).tells(payload) is True  # type: ignore[arg-type]
    assert not _forgotten_in(payload, "", "20007")
    assert _forgotten_in(payload, "")
    short = json.dumps({"patient_id": "2000", "seq": int(ID)}).encode()
    assert Search([ID], None, vault=Knows(ID, "2000")).tells(short) is True, "a room"  # type: ignore[arg-type]


OF_STAY = {"reference": "Encounter/V-1000"}


@pytest.mark.parametrize(
    "payload",
    [
        {"patientId": ID, "motherMrn": "5550123"},
        {"patientId": ID, "mrn": "5550123"},
        {"nr": ID, "motherMrn": "5550123"},
        {"nr": ID, "nextOfKinPersonId": "5550123"},
        {"nr": ID, "mother": {"mrn": "5550123"}},
        {"nr": ID, "mother": {"patientId": "5550123"}},
        {"nr": ID, "mother": "Patient/5550123"},
        {"nr": ID, "staff": [{"person": {"id": "20007"}}]},
        {"nr": ID, "personnelId": "20007"},
        {"visit": "V-1000", "personnelId": "20007"},
        {"visit": "V-1000", "patientId": "20007"},
        observation(1, subject=None, encounter=OF_STAY, note=[{"text": "twin of Patient/20007"}]),
        observation(1, subject={"reference": "Patient/p-9", "display": ID}, note=[{"text": "twin of Patient/20007"}]),
        oru(pid=f"PID|1||00020007^^^DEV^MR|||||||||||||||{ID}"),
        oru(pid=f"PID|1||200077^7^M10^DEV|||||||||||||||{ID}"),
    ],
)
def test_who_is_known_by_a_guess_hides_nobody_whose_number_or_stay_is_named(payload: bytes | dict[str, Any]) -> None:
    """A known number of the mother, of staff or in a note protected an erased patient's messages, uncounted."""
    written = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    known = ("5550123", "20007", "DEV|20007", "CLINIC|7")
    search = Search([HOSP], None, stays=["V-1000"], settings=SETTINGS, vault=Knows(HOSP, *known))  # type: ignore[arg-type]
    assert search.tells(written) is True
    vault = Knows("HOSP|1303123", *known)
    assert Search(["HOSP|1303123"], None, stays=["V-2000"], vault=vault).tells(written) is not True  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "payload",
    [
        {"patientId": ID, "motherMrn": "5550123"},
        {"physicianOrder": {"patientId": "20007", "orderNo": ID}},
        {"correlatedPatientId": "20007", "seq": ID},
        {"visit": "2", "patientId": "20007"},
        oru(pid=f"PID|1||{ID}^^^CLINIC^MR"),
        oru(pid=f"PID|1||00{ID}^^^CLINIC^MR"),
        observation(1, subject={"identifier": {"system": "CLINIC", "value": ID}}, note=[{"text": "as Patient/20007"}]),
    ],
)
def test_a_message_of_another_who_is_known_by_the_number_stays(payload: bytes | dict[str, Any]) -> None:
    written = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    known = (HOSP, ID, f"CLINIC|{ID}", "5550123", "20007")
    assert Search([HOSP], None, stays=["2"], vault=Knows(*known)).tells(written) is not True  # type: ignore[arg-type]


@pytest.mark.parametrize("id_", ["123456/2026", "26/004711"])
def test_an_id_with_a_slash_is_not_cut_there(id_: str) -> None:
    behind = id_.partition("/")[2]
    for other in (b'{"at": "11/29/%s", "hr": ' % behind.encode(), oru(pid=f"PID|1||27/{behind}"),
                  oru(pid=f"PID|1||{behind}"), json.dumps({"no": f"27/{behind}"}).encode()):  # fmt: skip
        for patient in (id_, f"HOSP|{id_}", f"urn:a/b|{id_}"):
            assert Search([patient], None, vault=Knows(patient)).tells(other) is None  # type: ignore[arg-type]
    torn = json.dumps({"patient": id_}).replace("/", "\\/")[:-1].encode()
    for mine in (torn, oru(pid=f"PID|1||{id_}"), json.dumps({"no": id_}).encode()):
        for patient in (id_, f"HOSP|{id_}", f"urn:a/b|{id_}"):
            assert Search([patient], None, vault=Knows(patient)).tells(mine) is True  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("http://h/fhir/Patient/7", "7"), ("Patient/7", "7"), ("http://h/Patient/26/7", "26/7"), ("http://h/7", "7"),
        ("26/7", "26/7"), ("OutPatient/7", "OutPatient/7"), ("urn:a/b|26/7", "26/7"), ("http://h/a|7", "7"), ("7", "7"),
    ],
)  # fmt: skip
def test_a_number_is_what_stands_behind_the_system_or_server(name: str, number: str) -> None:
    assert behind_system(name) == number
    assert system_of(name) + number == name


@pytest.mark.parametrize(
    "identifier", [{"value": ID}, {"value": int(ID)}, {"system": "urn:new", "value": ID}, {"value": f"No. {ID}"}]
)
def test_a_patient_of_fhir_who_is_new_is_searched_for_the_number(identifier: dict[str, Any]) -> None:
    resource = {"resourceType": "Patient", "id": "f-77", "identifier": [identifier], "name": [{"family": "X"}]}
    bundle = {**BUNDLE, "entry": [{"resource": resource}]}
    for document in (resource, bundle, {"body": json.dumps(bundle)}):
        payload = json.dumps(document).encode()
        assert Search([HOSP], None, vault=Knows(HOSP)).tells(payload) is True  # type: ignore[arg-type]
        assert Search([HOSP], None, vault=Knows(HOSP, "f-77")).tells(payload) is not True  # type: ignore[arg-type]
        assert _forgotten_in(payload, "fhir")
    device = {"resourceType": "Device", "identifier": [identifier]}
    entries = [{"resource": device}, {"resource": {"resourceType": "Patient", "id": "f-77"}}]
    payload = json.dumps({**BUNDLE, "entry": entries}).encode()
    assert Search([HOSP], None, vault=Knows(HOSP)).tells(payload) is None, "a device's"  # type: ignore[arg-type]


def test_names_of_many_parts_are_added_in_place() -> None:
    """The names were copied for each segment and envelope: a message with 200,000 patients took minutes."""
    found = added = Named({"7"}, {"8"})
    added |= Named({"9"}, {"10"})
    assert added is found
    assert found == Named({"7", "9"}, {"8", "10"})


def test_what_is_about_patients_is_searched_once_however_deep_it_lies() -> None:
    """A message of 100 kB with 200 nested keys of patients was expanded to 20 MB and searched."""
    inner: dict[str, Any] = {"no": ID, "text": "x" * 1000}
    for _ in range(200):
        inner = {"patient": [inner]}
    payload = json.dumps({"resourceType": "Patient", "id": "20007", "link": inner}).encode()
    named = Naming().whose(payload)
    assert named is not None
    part = to_search(payload, named, lambda _: False)
    assert part is not None
    assert ID in words_in(part)
    assert len(part) <= len(payload)


def test_a_number_in_a_system_of_others_is_not_the_patients() -> None:
    payload = oru(pid=f"PID|1||{ID}^^^CLINIC^MR")
    for vault in (Knows(HOSP, f"CLINIC|{ID}"), Knows(HOSP, "CLINIC|7")):
        assert Search([HOSP], None, vault=vault).tells(payload) is False  # type: ignore[arg-type]
    assert Search([HOSP], None, vault=Knows(HOSP)).tells(payload) is True, "HOSP renamed"  # type: ignore[arg-type]
    payload = json.dumps(observation(1, subject={"reference": f"http://lab/Patient/{ID}"})).encode()
    for vault, tells in ((Knows(HOST, "http://lab/Patient/7"), False), (Knows(HOST), True)):
        assert Search([HOST], None, vault=vault).tells(payload) is tells  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "subject",
    [int(ID), ID, f"PATIENT/{ID}", {"id": ID}, {"reference": int(ID)}, {"reference": f"patient/{ID}"},
     {"identifier": [{"value": ID}]}, {"identifier": [{"value": "V-99"}, {"value": int(ID)}]}, {"identifier": ID},
     {"reference": f"Patient/{ID[:-1]}%3{ID[-1]}"}],
)  # fmt: skip
def test_a_misshapen_subject_beside_another_patient_names_its_own(subject: Any) -> None:
    """Decoders read p-8 in the Bundle, so nothing else in it was searched or counted."""
    entries = [observation(1, patient="p-8"), observation(2, subject=subject)]
    payload = json.dumps({**BUNDLE, "entry": [{"resource": entry} for entry in entries]}).encode()
    assert Search([ID], None, vault=Knows(ID, "p-8")).tells(payload) is True  # type: ignore[arg-type]
    assert Search([f"{ID}0"], None, vault=Knows(f"{ID}0", "p-8")).tells(payload) is False  # type: ignore[arg-type]


def test_a_short_number_in_a_misshapen_subject_is_nobody_for_sure() -> None:
    payload = json.dumps({"patient": "20007", "target": 72, "hr": 60}).encode()
    assert "72" not in (_named(payload) or set())


@pytest.mark.parametrize(
    ("pid", "patient"),
    [
        (f"PID|1||00{ID}^^^HOSP^MR", ID), (f"PID|1||00{ID}^^^HOSP^MR", f"HOSP|{ID}"),
        (f"PID|1||{ID}7^7^M10^HOSP^MR", ID), (f"PID|1||{ID}7^7^M10^HOSP^MR", f"HOSP|{ID}"), (f"PID|1||000{ID}", ID),
    ],
)  # fmt: skip
def test_a_number_of_hl7_is_found_with_zeros_before_it_or_its_check_digit_behind(pid: str, patient: str) -> None:
    assert Search([patient], None, vault=Knows(patient)).tells(oru(pid=pid)) is True  # type: ignore[arg-type]
    other = oru(pid=pid.replace("^7^M10", "^8^M10").replace(ID, f"1{ID}"))
    assert Search([patient], None, vault=Knows(patient)).tells(other) is None  # type: ignore[arg-type]


def test_a_patient_of_another_server_is_not_ours_of_the_same_number() -> None:
    payload = json.dumps(observation(1, subject={"reference": f"http://elsewhere/Patient/{ID}"})).encode()
    assert _named(payload) == {f"http://elsewhere/Patient/{ID}"}


@pytest.mark.parametrize(
    "payload",
    [
        b'{"note": "Patient/ %s"}' % (b"https://" * 120_000),
        b'{"note": "Encounter/ %s"}' % (b",https://a" * 90_000),
        b'{"note": "%s"}' % (b"Patient?" * 120_000),
        b'{"resourceType": "Observation", "subject": {"identifier": {"value": "%s x"}}}' % (b"1" * 400_000),
        b"x" + b"\n" * 400_000 + b"x",
        b"x" + b"\r \n" * 100_000 + b"x",
        b'{"%s' % (b"patient" * 60_000),
        b'{"patient"%s' % (b" " * 400_000),
        b'{"patient":%s"x' % (b" " * 400_000),
    ],
    ids=["servers", "servers of a stay", "searches", "number", "lines", "blank lines", "keys", "blanks", "more blanks"],
)
def test_a_message_that_begins_something_again_and_again_does_not_hold_up_the_others(payload: bytes) -> None:
    """The message was read to its end from each possible beginning, which took minutes (this test timed out)."""
    assert "4711234" not in (Naming().named_in(payload) or set())
    assert not Naming().stays_in(payload) & {"4711234"}
    for known in (Knows(), Knows("4711234")):
        assert Search(["4711234"], None, vault=known).tells(payload) is None  # type: ignore[arg-type]
