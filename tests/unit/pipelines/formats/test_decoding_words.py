"""A number that is sent as text becomes a number, and every published row has a value or a reason."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.words import ParsedText, parse_text
from tests.decoding import decoder_of, take, take_by
from tests.fhir import message
from tests.hl7 import obx, oru

POTASSIUM = {"coding": [{"system": "http://loinc.org", "code": "2823-3"}]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4.2", ParsedText(4.2)),
        (" 4.2 ", ParsedText(4.2)),
        ("<0.01", ParsedText(0.01, "<")),
        ("> 10", ParsedText(10.0, ">")),
        ("≤5", ParsedText(5.0, "<=")),
        ("=<5", ParsedText(5.0, "<=")),
        ("=5", ParsedText(5.0)),
        ("+3", ParsedText(3.0)),
        ("−3.5", ParsedText(-3.5)),
        (".5", ParsedText(0.5)),
        ("1e3", ParsedText(1000.0)),
        ("4.2 mmol/L", ParsedText(4.2, None, "mmol/L")),
        ("80/min", ParsedText(80.0, None, "/min")),
        ("97%", ParsedText(97.0, None, "%")),
        ("4.2 H", ParsedText(4.2, None, "H")),
        ("1e999", ParsedText(unread=True)),
        ("1,5", ParsedText(unread=True)),
        ("1,500.0", ParsedText(unread=True)),
        ("1 500", ParsedText(unread=True)),
        ("3-5", ParsedText()),
        ("120/80", ParsedText()),
        ("1:160", ParsedText()),
        ("2+", ParsedText()),
        ("10^5", ParsedText()),
        ("3 to 5", ParsedText()),
        ("positive", ParsedText()),
        ("see note 3", ParsedText()),
        (">", ParsedText()),
        ("", ParsedText()),
        ("٣", ParsedText()),
    ],
)
def test_what_a_text_says(text: str, said: ParsedText) -> None:
    assert parse_text(text) == said


def _lab(value: str, unit: str = "mmol/L", kind: str = "ST", code: str = "2823-3^Potassium^LN") -> bytes:
    return oru(obx(code=code, value=value, unit=unit, kind=kind))


@pytest.mark.parametrize(
    ("payload", "number", "comparator"),
    [
        (_lab("4.2"), 4.2, None),
        (_lab(">10.0"), 10.0, ">"),
        (_lab("4.2 mmol/l"), 4.2, None),
        (_lab("<5", kind="NM"), 5.0, "<"),
        (_lab("^4.2", kind="CE"), 4.2, None),
        (_lab("<^0.8", kind="SN"), 0.8, "<"),
    ],
)
def test_an_hl7_number_in_words_is_taken(payload: bytes, number: float, comparator: str | None) -> None:
    _, conformed, rejects = take_by(decoder_of("hl7-v2"), [payload])
    assert not rejects
    row = conformed.rows.to_pylist()[0]
    assert (row["value"], row["comparator"], row["unit"]) == (number, comparator, "mmol/L")


def test_a_number_in_words_that_nobody_can_be_sure_of_is_counted() -> None:
    texts = ["4,2", "4.2 H", "4.2 mg/dL"]
    _, conformed, rejects = take_by(decoder_of("hl7-v2"), [*map(_lab, texts), _lab("4.2", unit=""), _lab("haemolysed")])
    assert [rejects[i].reason for i in range(4)] == [*[Reason.NUMBER_IN_WORDS] * 3, Reason.UNKNOWN_UNIT]
    assert (rejects[0].path, rejects[0].rows) == ("Observation.value[x]", 1)
    assert conformed.rows["value_text"].to_pylist() == ["haemolysed"]


def test_a_fhir_text_brings_its_unit_or_needs_none() -> None:
    inr = {"coding": [{"system": "http://loinc.org", "code": "6301-6"}]}
    _, conformed, rejects = take(
        [
            message(1, code=POTASSIUM, valueQuantity=None, valueString="<2.5 mmol/L"),
            message(2, code=inr, valueQuantity=None, valueString="1.1"),
            message(3, code=POTASSIUM, valueQuantity=None, valueString="4.2"),
            message(4, code=inr, valueQuantity={"value": 1.2}),
        ]
    )
    rows = conformed.rows
    assert rows["value"].to_pylist() == [2.5, 1.1, 1.2]
    assert rows["comparator"].to_pylist() == ["<", None, None]
    assert rows["value_text"].to_pylist() == ["<2.5 mmol/L", "1.1", None], "the words stay as they came"
    assert {i: r.reason for i, r in rejects.items()} == {2: Reason.UNKNOWN_UNIT}


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("A", "LA9340-6"),
        ("Alert", "LA9340-6"),
        ("new  confusion", "LA6560-2"),
        ("u", "LA9343-0"),
        ("la17108-4", "LA17108-4"),
    ],
)
def test_an_answer_in_words_is_its_code(said: str, answer: str) -> None:
    payload = oru(obx(code="67775-7^x^LN", value=said, unit="", kind="ST"))
    _, conformed, rejects = take_by(decoder_of("hl7-v2"), [payload])
    assert not rejects
    assert conformed.rows["value_code"].to_pylist() == [f"http://loinc.org|{answer}"]


def test_what_no_living_body_shows_is_taken_and_nonsense_is_not() -> None:
    rate = {"system": "http://unitsofmeasure.org", "code": "/min"}
    breaths = {"coding": [{"system": "http://loinc.org", "code": "9279-1"}]}
    saturation = {"coding": [{"system": "http://loinc.org", "code": "59408-5"}]}
    _, conformed, rejects = take(
        [
            message(1, value=0.0),
            message(2, code=breaths, valueQuantity=rate | {"value": 0}),
            message(3, value=3.0),
            message(4, code=saturation, valueQuantity=rate | {"value": 0, "code": "%"}),
            message(5, value=0.5),
        ]
    )
    assert conformed.rows["value"].to_pylist() == [0.0, 0.0, 3.0, 0.0]
    assert not np.signbit(conformed.rows["value"].to_numpy()).any()
    assert {i: r.reason for i, r in rejects.items()} == {4: Reason.IMPLAUSIBLE_VALUE}
