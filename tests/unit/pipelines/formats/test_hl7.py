"""HL7 v2 ORU^R01: patient, value, time and version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pipelines.formats.flat.profile import parse_profile
from pipelines.formats.hl7.observations import Hl7Decoder
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Reject
from tests.decoding import decoder_of, take_by
from tests.hl7 import MSH, OBR, PID, adt, obx, oru
from vitalake.errors import SettingsError

UTC_10 = datetime(2025, 6, 1, 8, tzinfo=UTC)


def profile(**changes: object) -> Hl7Decoder:
    """Return a decoder whose profile has these keys."""
    lines = ["format: hl7-v2", "description: test", *(f"{name}: {value}" for name, value in changes.items())]
    return Hl7Decoder(parse_profile(Hl7Profile, "\n".join(lines), where="test.yaml"))


def rows(*messages: bytes, decoder: Hl7Decoder | None = None) -> list[dict[str, Any]]:
    """Return the conformed rows of messages, none of which is rejected."""
    _, conformed, rejects = take_by(decoder or decoder_of("hl7-v2"), messages)
    assert not rejects, rejects
    return conformed.rows.to_pylist()


def row(message: bytes, decoder: Hl7Decoder | None = None) -> dict[str, Any]:
    """Return the only row of a message."""
    (found,) = rows(message, decoder=decoder)
    return found


def rejected(message: bytes, decoder: Hl7Decoder | None = None) -> Reject:
    """Return why a message is rejected."""
    return take_by(decoder or decoder_of("hl7-v2"), [message])[2][0]


def test_a_result_is_a_row() -> None:
    found = row(oru())
    expected = {
        "patient_id": "HOSP|4711", "encounter_id": "V-9", "device_id": None, "code": "8867-4", "value": 72.0,
        "unit": "/min", "status": "final", "effective_at": UTC_10, "effective_offset_minutes": 120,
        "available_at": datetime(2025, 6, 1, 8, 0, 1, 999, tzinfo=UTC), "value_text": None, "data_absent_reason": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_blood_pressure_is_rows_of_its_own() -> None:
    systolic, diastolic = obx(1, "8480-6^Sys^LN", "120", "mm[Hg]"), obx(2, "8462-4^Dia^LN", "80", "mm[Hg]^^UCUM")
    found = rows(oru(systolic, diastolic))
    assert [(r["code"], r["value"], r["panel_id"]) for r in found] == [("8480-6", 120.0, None), ("8462-4", 80.0, None)]


# -- patient -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "said", "patient"),
    [
        ("4711^^^HOSP^MR", {}, "HOSP|4711"),
        ("4711", {}, "4711"),
        ("^^^HOSP^MR~0815^^^HOSP^PI", {}, "HOSP|0815"),
        ("1^^^SSA^SS~4711^^^HOSP^MR", {"patient": "{authority: HOSP}"}, "HOSP|4711"),
        ("1^^^HOSP^PI~4711^^^HOSP^MR", {"patient": "{type: MR}"}, "HOSP|4711"),
        ("4711^^^HOSP&2.16.840.1&ISO^MR", {"patient": "{authority: 2.16.840.1}"}, "HOSP|4711"),
        ("4711^^^&2.16.840.1&ISO^MR", {}, "2.16.840.1|4711"),
        ("4711^^^HOSP^MR", {"systems": "{HOSP: 'urn:oid:2.16'}"}, "urn:oid:2.16|4711"),
        ("4711^^^HOSP^MR", {"systems": "{HOSP: ''}"}, "4711"),
        (r"47\S\11^^^A\T\B^MR", {}, "A&B|47^11"),
    ],
)
def test_the_profile_says_which_number_is_the_patients(numbers: str, said: dict[str, str], patient: str) -> None:
    assert row(oru(pid=f"PID|1||{numbers}||DOE"), profile(**said))["patient_id"] == patient


def test_another_number_than_the_one_asked_for_is_nobodys() -> None:
    message = oru(obx(device="MX-1"), pid="PID|1||1^^^SSA^SS")
    found = rejected(message, profile(patient="{authority: HOSP}"))
    assert (found.reason, found.path) == (Reason.NO_SUBJECT, "PID-3")


def test_without_a_patient_the_device_or_the_bed_is_named() -> None:
    both = oru(obx(device="MX-1^VENDOR"), pid="")
    bed_only = oru(pid="")
    assert (row(both)["patient_id"], row(both)["device_id"]) == (None, "VENDOR|MX-1")
    assert row(both, profile(unassigned="bed"))["device_id"] == "bed:ICU/1/2"
    assert row(bed_only)["device_id"] == "bed:ICU/1/2"
    assert row(oru(pid="", pv1="PV1|1|I|A/B^^2&x"))["device_id"] == "bed:A%2FB//2"


def test_a_device_is_named_by_obx_18_by_prt_or_by_what_stands_before() -> None:
    participant = "PRT|1|UC||EQUIP||||||MX-2^VENDOR"
    assert row(oru(obx(device="MX-1^^0012^EUI-64"), participant))["device_id"] == "0012|MX-1"
    assert row(oru(obx(), participant))["device_id"] == "VENDOR|MX-2"
    assert row(oru(participant, obx()))["device_id"] == "VENDOR|MX-2"
    named = "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X|||||||^^001A^EUI-64"
    assert row(oru(named, obx(2)))["device_id"] == "001A"


def test_each_patient_of_a_message_has_their_own_results() -> None:
    second = [PID.replace("4711", "4712"), OBR.replace("F-1", "F-2"), obx(value="60")]
    assert [(r["patient_id"], r["encounter_id"], r["value"]) for r in rows(oru(obx(), *second))] == [
        ("HOSP|4711", "V-9", 72.0),
        ("HOSP|4712", None, 60.0),
    ]


# -- value ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("NM", "+72.50", {"value": 72.5}),
        ("SN", "<^72", {"value": 72.0, "comparator": "<"}),
        ("SN", "=^72", {"value": 72.0, "comparator": None}),
        ("SN", "^72", {"value": 72.0, "comparator": None}),
        ("ST", r"a\S\b \T\ c\R\d \E\F\E\ ", {"value_text": r"a^b & c~d \F\ "}),
        ("TX", "one~two", {"value_text": "one\ntwo"}),
        ("FT", r"\H\one\N\\.br\two\.sp+1\x", {"value_text": "one\ntwo\nx"}),
        ("ST", r"J\XC3A4\ne", {"value_text": "Jäne"}),
        ("ST", r"\Zlocal\ x", {"value_text": r"\Zlocal\ x"}),
        ("CWE", "271594007^Syncope^SCT", {"value_code": "http://snomed.info/sct|271594007", "value_text": "Syncope"}),
        ("CE", "X1^Odd^L", {"value_code": None, "value_text": "Odd"}),
        ("CWE", "^only words", {"value_code": None, "value_text": "only words"}),
    ],
)
def test_values_by_their_type(kind: str, text: str, expected: dict[str, object]) -> None:
    found = row(oru(obx(kind=kind, value=text)))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("/min", {}),
        ("/min^per minute^UCUM", {}),
        ("264864^MDC_DIM_BEAT_PER_MIN^MDC^/min^^UCUM", {}),
        ("264864^MDC_DIM_BEAT_PER_MIN^MDC", {"units": "{MDC|264864: /min}"}),
        ("BPM", {"units": "{BPM: /min}"}),
        ("BPM^x^99HOSP", {"units": "{99HOSP|BPM: /min}"}),
    ],
)
def test_units_become_ucum(unit: str, said: dict[str, str]) -> None:
    assert row(oru(obx(unit=unit)), profile(**said))["unit"] == "/min"


def test_a_unit_of_another_system_is_not_taken_for_ucum() -> None:
    assert rejected(oru(obx(unit="/min^x^99HOSP")), profile()).reason is Reason.UNKNOWN_UNIT
    assert [row["unit"] for row in rows(oru(obx(unit="BPM^x^ISO+")))] == ["/min"], "what HL7 had before UCUM"


def test_codes_that_are_ignored_are_no_rows_and_no_reason_to_reject() -> None:
    decoder = profile(ignore="[L|ALARM]", codes="{L|HR: 8867-4}")
    found = rows(oru(obx(1, "HR^x^L"), obx(2, "ALARM^x^L", "?")), decoder=decoder)
    assert [r["code"] for r in found] == ["8867-4"]
    decoded, _, rejects = take_by(decoder, [oru(obx(1, "ALARM^x^L"))])
    assert (decoded.empty, rejects) == ([0], {})


def test_admissions_on_the_same_topic_are_passed_over() -> None:
    decoded, _, rejects = take_by(decoder_of("hl7-v2"), [adt("A01", PID, "PV1|1|I|ICU^1^2"), oru()])
    assert (decoded.empty, rejects, decoded.message.tolist()) == ([0], {}, [1])


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("msh_7", "obx_14", "obr_7", "zone", "expected"),
    [
        ("20250601100001+0200", "20250601100000", "", None, UTC_10),
        ("20250601100001+0200", "20250601080000+0000", "", None, UTC_10),
        ("20250601100001+0200", "", "20250601100000", None, UTC_10),
        ("20250601100001", "20250601100000", "", "Europe/Berlin", UTC_10),
        ("20250601040001-0400", "202506010400", "", "Europe/Berlin", UTC_10),
        ("20250601100001", "20250601100000.1239", "", "Europe/Berlin", UTC_10.replace(microsecond=123_900)),
        ("20251026023100", "20251026023000", "", "Europe/Berlin", None),
        ("20250330033100", "20250330023000", "", "Europe/Berlin", None),
        ("20250601100001", "20250601100000", "", None, None),
    ],
)
def test_times_and_their_zones(
    msh_7: str, obx_14: str, obr_7: str, zone: str | None, expected: datetime | None
) -> None:
    message = oru(obx(at=obx_14), msh=MSH.replace("20250601100001+0200", msh_7), obr=f"OBR|1||F-1||||{obr_7}")
    decoder = profile(**({"zone": zone} if zone else {}))
    if expected is None:
        assert rejected(message, decoder).reason is Reason.BAD_TIME
    else:
        assert row(message, decoder)["effective_at"] == expected


# -- versions ------------------------------------------------------------------------------------------------------


def _sent(second: int, **changes: str) -> bytes:
    return oru(obx(**changes), msh=MSH.replace("100001", f"1000{second:02d}"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("letter", "status"),
    [
        ("P", "preliminary"), ("R", "preliminary"), ("S", "preliminary"), ("F", "final"), ("V", "final"),
        ("U", "final"), ("C", "corrected"), ("A", "amended"), ("D", "entered-in-error"), ("W", "entered-in-error"),
        ("X", "cancelled"), ("N", "cancelled"), ("I", "registered"), ("O", "registered"), ("", "unknown"),
    ],
)  # fmt: skip
def test_result_status(letter: str, status: str) -> None:
    found = row(oru(obx(status=letter)))
    assert found["status"] == status
    read = letter not in ("D", "W", "X", "N", "I", "O")
    assert (found["value"], found["data_absent_reason"] is None) == ((72.0 if read else None), read)


def test_the_orders_status_stands_in_for_the_results() -> None:
    assert row(oru(obx(status=""), obr=OBR + "|" * 18 + "C"))["status"] == "corrected"


def test_a_correction_is_a_higher_version_of_the_same_observation() -> None:
    found = rows(_sent(1), _sent(9, status="C", value="75"), _sent(9, status="D"), _sent(9, status="F", value="70"))
    assert len({r["observation_id"] for r in found}) == 1
    final, corrected, deleted, same_second = (r["version"] for r in found)
    assert final < same_second < corrected < deleted


def test_a_result_is_named_by_order_code_and_sub_identifier() -> None:
    first = row(oru())["observation_id"]
    assert row(oru(obx(value="80", device="MX-1", at="20250601110000")))["observation_id"] == first
    assert row(oru(obx(sub="2")))["observation_id"] != first
    assert row(oru(obr=OBR.replace("F-1", "F-2")))["observation_id"] != first
    assert row(oru(pid=PID.replace("4711", "4712")))["observation_id"] == first, "sent for the wrong patient"
    numbered = oru(obr="OBR|1||7||||20250601100000")
    elsewhere = oru(obr="OBR|1||7||||20250601100000", msh=MSH.replace("MON|ICU", "MON|ER"))
    assert row(numbered)["observation_id"] != row(elsewhere)["observation_id"], "each sender counts for itself"


def test_where_orders_are_sessions_the_time_is_part_of_the_name() -> None:
    decoder = profile(identity="time")
    found = rows(oru(obx(1, at="20250601100000"), obx(2, at="20250601100100")), decoder=decoder)
    assert len({r["observation_id"] for r in found}) == 2


def test_without_an_order_number_patient_code_and_time_name_a_result() -> None:
    nameless = OBR.replace("F-1^MON", "")
    assert row(oru(obr=nameless))["observation_id"] == row(oru(obx(value="80"), obr=nameless))["observation_id"]
    later = oru(obx(at="20250601110000"), obr=nameless)
    assert row(oru(obr=nameless))["observation_id"] != row(later)["observation_id"]


@pytest.mark.parametrize(
    "said",
    [
        {"codes": "{L|HR: 99999-9}"}, {"codes": "{HR: 8867-4}"}, {"units": "{bpm: furlong}"}, {"zone": "Mars/Base"},
        {"ignore": "[HR]"}, {"identity": "never"}, {"colour": "red"}, {"codes": "{L|HR: 8867-4}", "ignore": "[L|HR]"},
    ],
)  # fmt: skip
def test_a_profile_that_does_not_hold_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"test\.yaml"):
        profile(**said)


def test_without_a_filler_number_the_placers_names_a_result() -> None:
    placed = OBR.replace("F-1^MON", "").replace("OBR|1|", "OBR|1|P-7^HIS")
    assert row(oru(obr=placed))["observation_id"] == row(oru(obx(value="80"), obr=placed))["observation_id"]
    assert row(oru(obr=placed))["observation_id"] != row(oru(obr=OBR.replace("F-1^MON", "P-7^HIS")))["observation_id"]


def test_without_msh_7_the_order_says_when_its_status_changed() -> None:
    timeless, at = MSH.replace("20250601100001+0200", ""), obx(at="20250601100000+0200")

    def version(changed: str) -> int:
        found: int = row(oru(at, msh=timeless, obr=OBR + "|" * 15 + changed))["version"]
        return found

    assert version("20250601120000+0000") - version("20250601110000+0000") == 3_600_000_000
    assert version("") == 2
    assert rejected(oru(at, msh=timeless, obr=OBR + "|" * 15 + "now")).path == "OBR-22"


def test_versions_keep_their_order_in_the_hour_that_is_repeated() -> None:
    decoder = profile(zone="Europe/Berlin")

    def sent(at: str) -> bytes:
        return oru(obx(at="20251026010000+0000"), msh=MSH.replace("20250601100001+0200", at))

    found = rows(*map(sent, ("20251026015959", "20251026023000", "20251026030000")), decoder=decoder)
    versions = [r["version"] for r in found]
    assert versions == sorted(versions)
    assert len(set(versions)) == 3


def test_nothing_of_a_sender_fills_the_memory() -> None:
    decoder = profile()
    assert row(oru(pid=f"PID|1||{'9' * 5_000}"), decoder)["patient_id"] == "9" * 5_000
    assert row(oru(pid="PID|1||4711"), decoder)["patient_id"] == "4711"


def test_a_training_message_is_taken_where_the_profile_says_so() -> None:
    """An interface's test patient appeared on the board as a real one."""
    training = oru().replace(b"|P|2.6", b"|T|2.6")
    found = rejected(training, profile())
    assert (found.reason, found.path) == (Reason.WRONG_RESOURCE, "MSH-11")
    assert row(training, profile(processing="[P, T]"))["code"] == "8867-4"
