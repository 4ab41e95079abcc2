"""Local codes that a home maps become LOINC in every format and are counted; unmapped ones stay unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pipelines.formats.flat.decoder import FlatDecoder
from pipelines.formats.flat.profile import FlatProfile, parse_profile
from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.lenient.unread import about
from pipelines.formats.shared.reasons import Reason
from pipelines.history.gate import _understood
from pipelines.history.rows import decoded_rows
from tests.decoding import BROKER_MS, conformer, decoder_of, take, take_by
from tests.fhir import message
from tests.hl7 import obx, oru
from tests.vocabularies import declare
from vitalake.lake.commits.span import MOST_LOCAL, OTHERS, Counts, Part, PartId
from vitalake.settings import Settings
from vitalake.vocabulary import load_vocabulary

LAB, CITY, LOINC = "99LAB", "http://city.example/lab", "http://loinc.org"
MG = {"value": 90.0, "system": "http://unitsofmeasure.org", "code": "mg/dL"}


@pytest.fixture(autouse=True)
def laboratory(tmp_path: Path) -> None:
    """Declare a home that maps GLU and CK of its laboratory."""
    declare(tmp_path)


def sent(number: int, *codings: tuple[str, str], quantity: dict[str, Any] | None = None) -> bytes:
    """Return an Observation with these codings."""
    coded = [{"system": system, "code": code} for system, code in codings]
    return message(number, code={"coding": coded}, valueQuantity=quantity or MG)


@pytest.mark.parametrize(
    ("codings", "taken", "counted"),
    [
        ([(CITY, "GLU")], "2345-7", f"{CITY}|GLU → 2345-7"),
        ([("http://other.example", "GLU"), (CITY, "NEW"), (CITY, "GLU")], "2345-7", f"{CITY}|GLU → 2345-7"),
        ([(LOINC, "99999-5"), (CITY, "GLU")], "2345-7", f"{CITY}|GLU → 2345-7"),
        ([(CITY, "CK"), (LOINC, "2345-7")], "2345-7", None),
        ([("http://other.example", "GLU")], None, None),
        ([(CITY, "glu")], None, None),
        ([(LOINC, "99999-5"), (CITY, "NEW")], None, None),
    ],
)
def test_a_fhir_coding_counts_where_no_loinc_code_is_known(
    codings: list[tuple[str, str]], taken: str | None, counted: str | None
) -> None:
    _, conformed, rejects = take([sent(1, *codings)])
    assert conformed.rows["code"].to_pylist() == ([taken] if taken else [])
    assert [*conformed.local.mapped] == ([counted] if counted else [])
    assert not conformed.local.unmapped
    assert [reject.reason for reject in rejects.values()] == ([] if taken else [Reason.UNKNOWN_CODE])


def test_what_is_not_mapped_is_listed_by_its_code_only_if_it_has_the_form() -> None:
    values = [sent(1, (CITY, "NEW")), sent(2, (CITY, "Doe, Jane")), sent(3, (LAB, "NEW")), sent(4, (CITY, "NEW"))]
    _, conformed, rejects = take(values)
    assert {name: messages.tolist() for name, messages in conformed.local.unmapped.items()} == {
        f"{CITY}|NEW": [0, 3],
        f"{LAB}|NEW": [2],
    }
    assert {reject.reason for reject in rejects.values()} == {Reason.UNKNOWN_CODE}
    assert len(rejects) == 4


def test_units_ranges_and_identity_are_those_of_the_loinc_code() -> None:
    local = [sent(1, (CITY, "GLU"), quantity=MG | {"code": "mmol/L", "value": 5.0}), sent(2, (CITY, "GLU"))]
    plain = [v.replace(CITY.encode(), LOINC.encode()).replace(b'"GLU"', b'"2345-7"') for v in local]
    one, other = take(local)[1], take(plain)[1]
    assert one.rows.equals(other.rows)
    assert one.fingerprint.tolist() == other.fingerprint.tolist()
    assert one.rows["value"].to_pylist() == pytest.approx([90.08, 90.0])
    _, _, rejects = take([sent(1, (CITY, "GLU"), quantity=MG | {"value": 1e6})])
    assert rejects[0].reason == Reason.IMPLAUSIBLE_VALUE
    unnamed = take([message(1, identifier=None, code={"coding": [{"system": CITY, "code": "GLU"}]}, valueQuantity=MG)])
    named = take(
        [message(1, identifier=None, code={"coding": [{"system": LOINC, "code": "2345-7"}]}, valueQuantity=MG)]
    )
    assert unnamed[1].rows["observation_id"] == named[1].rows["observation_id"]


def test_a_codes_own_unit_counts_where_the_sender_gives_none() -> None:
    bare = [
        sent(1, (CITY, "GLU"), quantity={"value": 90.0}),
        sent(2, (CITY, "CK"), quantity={"value": 90.0}),
        message(3, code={"coding": [{"system": CITY, "code": "GLU"}]}, valueQuantity=None, valueString="5 mmol/L"),
        message(4, code={"coding": [{"system": CITY, "code": "GLU"}]}, valueQuantity=None, valueString="91"),
        sent(5, (LOINC, "2345-7"), quantity={"value": 90.0}),
    ]
    _, conformed, rejects = take(bare)
    assert conformed.rows["value"].to_pylist() == pytest.approx([90.0, 90.08, 91.0])
    assert {i: reject.reason for i, reject in rejects.items()} == dict.fromkeys((1, 4), Reason.UNKNOWN_UNIT)


def test_components_of_a_panel_are_mapped_and_the_panels_own_name_is_left() -> None:
    components = [{"code": {"coding": [{"system": CITY, "code": code}]}, "valueQuantity": MG} for code in ("GLU",)]
    panel = message(1, code={"coding": [{"system": CITY, "code": "CK"}]}, valueQuantity=None, component=components)
    decoded, conformed, _ = take([panel])
    assert conformed.rows["code"].to_pylist() == ["2345-7"]
    assert decoded.rows["panel_code"].to_pylist() == [f"{CITY}|CK"]


@pytest.mark.parametrize(
    ("code", "taken"),
    [
        ("GLU^Glucose^99LAB", "2345-7"),
        ("X^other^99OTHER^GLU^Glucose^99LAB", "2345-7"),
        ("99999-5^new^LN^GLU^Glucose^99LAB", "2345-7"),
        ("2345-7^Glucose^LN^CK^ck^99LAB", "2345-7"),
        ("GLU^Glucose^L", None),
        ("NEW^new^99LAB", None),
    ],
)
def test_an_obx_is_named_by_its_local_code(code: str, taken: str | None) -> None:
    _, conformed, rejects = take_by(decoder_of("hl7-v2"), [oru(obx(code=code, value="90", unit="mg/dL"))])
    assert conformed.rows["code"].to_pylist() == ([taken] if taken else [])
    assert [reject.reason for reject in rejects.values()] == ([] if taken else [Reason.UNKNOWN_CODE])


def test_an_obx_of_a_mapped_code_without_a_value_is_none_that_names_a_device() -> None:
    empty = oru(obx(code="GLU^Glucose^99LAB", value="", unit="", kind=""))
    _, _, rejects = take_by(decoder_of("hl7-v2"), [empty])
    assert rejects[0].reason == Reason.NO_VALUE


def test_what_a_profile_says_of_a_code_comes_first() -> None:
    text = "format: hl7-v2\ndescription: d\ncodes: {99LAB|GLU: 2339-0}\n"
    from pipelines.formats.hl7.observations import Hl7Decoder

    decoder = Hl7Decoder(parse_profile(Hl7Profile, text, where="own.yaml"))
    rows = take_by(decoder, [oru(obx(code="GLU^Glucose^99LAB", value="90", unit="mg/dL"))])[1].rows
    assert rows["code"].to_pylist() == ["2339-0"]


PROFILE = """\
format: flat
description: the laboratory's own
patient: $.p
time: $.t
absent: ["--"]
values:
- {path: $.glu, code: 99LAB|GLU, unit: mmol/L}
- {path: $.ck, code: 2157-6, unit: U/L}
"""


def test_a_profile_of_device_json_may_name_a_local_code() -> None:
    decoder = FlatDecoder(parse_profile(FlatProfile, PROFILE, where="own.yaml"))
    told = {"p": "1", "t": "2025-06-01T10:00:00Z", "glu": 5, "ck": 7}
    _, conformed, _ = take_by(decoder, [json.dumps(told).encode()])
    assert conformed.rows["code"].to_pylist() == ["2345-7", "2157-6"]
    assert [*conformed.local.mapped] == ["99LAB|GLU → 2345-7"]
    gone = json.dumps(told | {"glu": "--"}).encode()
    refused = take_by(decoder, [gone])[1].refused
    assert refused is not None
    assert refused.rows["code"].to_pylist() == ["2345-7"]


def test_a_refused_message_says_by_its_local_code_what_it_was_about(tmp_path: Path) -> None:
    declare(tmp_path, "local: {L: {name: a, form: HR, codes: {HR: {loinc: 8867-4, source: s}}}}", name="ward")
    naming = Naming(Settings())
    broken = message(1, code={"coding": [{"system": "L", "code": "HR"}]}, status="FINAL")
    assert [*about(broken, "fhir", naming).codes] == ["8867-4"]
    assert [*about(oru(obx(code="HR^rate^L", value="x")), "hl7-v2", naming).codes] == ["8867-4"]


def test_rows_of_a_warehouse_may_name_a_local_code() -> None:
    query = (
        "SELECT 'p' AS patient_id, unnest(['99LAB|GLU', '99LAB|NEW', '2345-7']) AS code, 'final' AS status, "
        "90.0::double AS value, TIMESTAMP '2020-01-01' AS effective_at"
    )
    table = duckdb.sql(query).to_arrow_table()
    understood = _understood(table, load_vocabulary())
    assert understood["code_known"].tolist() == [True, False, True]
    assert understood["unit_known"].tolist() == [True, True, False]
    decoded = decoded_rows(table, np.arange(3))
    conformed = conformer().conform(decoded, broker_ms=np.full(3, BROKER_MS))
    assert conformed.rows["code"].to_pylist() == ["2345-7"]
    assert [*conformed.local.unmapped] == ["99LAB|NEW"]
    assert pa.types.is_dictionary(conformed.rows["code"].type)


def test_a_sender_that_numbers_everything_anew_does_not_fill_the_ledger() -> None:
    _, conformed, _ = take([sent(i, (CITY, f"N{i}")) for i in range(MOST_LOCAL + 7)])
    assert len(conformed.local.unmapped) == MOST_LOCAL + 1
    assert len(conformed.local.unmapped[OTHERS]) == 7
    part = Part(PartId("t", "i", 0), 0, 0, 1, Counts())
    for first in (0, 300, 600):
        part.count_local({}, {f"{CITY}|N{i}": 2 for i in range(first, first + 300)} | {OTHERS: 1})
    assert len(part.unmapped) == MOST_LOCAL + 1
    assert sum(part.unmapped.values()) == 3 * 601
