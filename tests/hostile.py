"""A corpus of hostile messages, each with its documented outcome: a reason, or accepted by a stated rule."""

from __future__ import annotations

import json
from typing import Any

from pipelines.formats.shared.reasons import Reason
from tests.fhir import message, observation

ACCEPTED = None

_GOOD = message(1)
_LOINC, _UCUM = "http://loinc.org", "http://unitsofmeasure.org"


def _with(**changes: Any) -> bytes:
    return message(1, **changes)


def _quantity(**changes: Any) -> bytes:
    return _with(valueQuantity={"value": 72, "system": _UCUM, "code": "/min"} | changes)


def _replaced(old: bytes, new: bytes) -> bytes:
    assert old in _GOOD
    return _GOOD.replace(old, new)


def _component(code: str, value: float, unit: str = "mm[Hg]") -> dict[str, Any]:
    return {
        "code": {"coding": [{"system": _LOINC, "code": code}]},
        "valueQuantity": {"value": value, "system": _UCUM, "code": unit},
    }


def panel(*components: dict[str, Any]) -> bytes:
    """Return a blood-pressure panel."""
    return _with(
        code={"coding": [{"system": _LOINC, "code": "85354-9"}]}, valueQuantity=None, component=list(components)
    )


def bundle(*resources: Any) -> bytes:
    """Return a Bundle of resources."""
    document = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in resources]}
    return json.dumps(document).encode()


CORPUS: dict[str, tuple[bytes, Reason | None]] = {
    # not a document
    "empty": (b"", Reason.NOT_JSON),
    "white space": (b"  \n ", Reason.NOT_JSON),
    "truncated": (_GOOD[:-30], Reason.NOT_JSON),
    "two documents in one": (_GOOD + _GOOD, Reason.NOT_JSON),
    "trailing garbage": (_GOOD + b"x", Reason.NOT_JSON),
    "byte-order mark": (b"\xef\xbb\xbf" + _GOOD, Reason.NOT_JSON),
    "utf-16": (_GOOD.decode().encode("utf-16"), Reason.NOT_JSON),
    "NaN": (_replaced(b'"value":72.0', b'"value":NaN'), Reason.NOT_JSON),
    "Infinity": (_replaced(b'"value":72.0', b'"value":Infinity'), Reason.NOT_JSON),
    "raw control character": (_replaced(b"mon-1", b"mon\x01"), Reason.NOT_JSON),
    "single quotes": (_GOOD.replace(b'"', b"'"), Reason.NOT_JSON),
    "raw NUL in what is read": (_replaced(b"mon-1", b"mon\0"), Reason.NOT_JSON),
    "raw NUL in what is decoded by its text": (_replaced(b"Patient/", b"Patient\0/"), Reason.NOT_JSON),
    "raw NUL in what is not read": (_with(note=[{"text": "X"}]).replace(b'"X"', b'"\0"'), Reason.NOT_JSON),
    "comment": (_GOOD[:-1] + b"/* x */}", Reason.NOT_JSON),
    # numbers
    "1e999": (_replaced(b'"value":72.0', b'"value":1e999'), Reason.WRONG_SHAPE),
    "minus 1e999": (_replaced(b'"value":72.0', b'"value":-1e999'), Reason.WRONG_SHAPE),
    "number as text": (_quantity(value="72"), Reason.WRONG_SHAPE),
    "boolean as number": (_quantity(value=True), Reason.WRONG_SHAPE),
    "negative zero pulse": (_quantity(value=-0.0), ACCEPTED),
    "denormal": (_quantity(value=5e-324), Reason.IMPLAUSIBLE_VALUE),
    "forty digits": (_replaced(b"72.0", b"72.0000000000000000000000000000000000000001"), ACCEPTED),
    "exponent": (_replaced(b"72.0", b"7.2e1"), ACCEPTED),
    # text
    "bad utf-8 in what is read": (_replaced(b"mon-1", b"mon\xff"), Reason.NOT_UTF8),
    # Not read, so not looked at: a neighbour's text cannot harm what is published.
    "bad utf-8 in what is not read": (_with(text={"div": "X"}).replace(b'"X"', b'"\xff"'), ACCEPTED),
    "escaped NUL in an identifier": (_with(identifier=[{"system": "s", "value": "a\0b"}]), Reason.CONTROL_CHARACTER),
    "escaped NUL in the subject": (_with(subject={"reference": "Patient/a\0b"}), Reason.CONTROL_CHARACTER),
    "escaped NUL in a text value": (_with(valueQuantity=None, valueString="a\0b"), Reason.CONTROL_CHARACTER),
    "lone surrogate": (_replaced(b"mon-1", b"mon\\ud800"), Reason.NOT_JSON),
    # Rule: the last one wins, as in every common parser; the first is never seen.
    "duplicate key": (_GOOD[:-1] + b',"status":"amended"}', ACCEPTED),
    # shape
    "top-level null": (b"null", Reason.WRONG_SHAPE),
    "top-level array": (b"[" + _GOOD + b"]", Reason.WRONG_SHAPE),
    "top-level number": (b"7", Reason.WRONG_SHAPE),
    "top-level text": (b'"x"', Reason.WRONG_SHAPE),
    "empty object": (b"{}", Reason.WRONG_RESOURCE),
    "no resourceType": (_with(resourceType=None), Reason.WRONG_RESOURCE),
    "a Medication": (_with(resourceType="Medication"), Reason.WRONG_RESOURCE),
    "resourceType is a number": (_with(resourceType=7), Reason.WRONG_RESOURCE),
    "10k-deep nesting": (b"[" * 10_000 + b"]" * 10_000, Reason.WRONG_SHAPE),
    "10k-deep nesting in what is not read": (
        _with(extension=0).replace(b'"extension":0', b'"extension":' + b"[" * 10_000 + b"]" * 10_000),
        Reason.TOO_DEEP,
    ),
    "1 MB string": (_with(note=[{"text": "x" * 1_100_000}]), Reason.TOO_LARGE),
    "large but allowed": (_with(note=[{"text": "x" * 900_000}]), ACCEPTED),
    "status missing": (_with(status=None), Reason.WRONG_SHAPE),
    "status unknown to FHIR": (_with(status="done"), Reason.BAD_STATUS),
    "modifierExtension": (_with(modifierExtension=[{"url": "urn:x", "valueBoolean": True}]), Reason.MODIFIED),
    "implicitRules": (_with(implicitRules="urn:x"), Reason.MODIFIED),
    # Whose it is follows from the device; without either it is nobody's.
    "subject missing": (_with(subject=None), ACCEPTED),
    "subject null": (_replaced(b'{"reference":"Patient/p-1"}', b"null"), ACCEPTED),
    "subject and device missing": (_with(subject=None, device=None), Reason.NO_SUBJECT),
    "subject missing, device in words": (_with(subject=None, device={"display": "x"}), Reason.NO_SUBJECT),
    "subject empty": (_with(subject={}), Reason.NO_SUBJECT),
    "subject by display only": (_with(subject={"display": "somebody"}), Reason.NO_SUBJECT),
    "subject inside the message": (_with(subject={"reference": "#p"}, contained=[]), Reason.NO_SUBJECT),
    "subject is a group": (_with(subject={"reference": "Group/1"}), Reason.NO_SUBJECT),
    "subject is a search": (_with(subject={"reference": "Patient?name=x"}), Reason.NO_SUBJECT),
    "subject is text": (_with(subject="Patient/1"), Reason.WRONG_SHAPE),
    "code missing": (_with(code=None), Reason.NO_CODE),
    "code in words only": (_with(code={"text": "pulse"}), Reason.NO_CODE),
    "value missing": (_with(valueQuantity=None), Reason.NO_VALUE),
    "value of a kind that is not read": (_with(valueQuantity=None, valueRange={"low": {"value": 1}}), Reason.NO_VALUE),
    "quantity without value": (_with(valueQuantity={"code": "/min", "system": _UCUM}), Reason.NO_VALUE),
    "no value, but the reason": (
        _with(valueQuantity=None, dataAbsentReason={"coding": [{"code": "error"}]}), ACCEPTED,
    ),
    "unknown elements": (_with(foo={"bar": [1, 2, {"baz": None}]}), ACCEPTED),
    # times
    "no time": (_with(effectiveDateTime=None), Reason.NO_TIME),
    "a period": (_with(effectiveDateTime=None, effectivePeriod={"start": "2025-06-01T10:00:00Z"}), ACCEPTED),
    "a period of nothing": (_with(effectiveDateTime=None, effectivePeriod={}), Reason.NO_TIME),
    "a period that is none": (_with(effectiveDateTime=None, effectivePeriod="today"), Reason.NO_TIME),
    "a period that ends without a zone": (
        _with(effectiveDateTime=None, effectivePeriod={"end": "2025-06-01T10:00:00"}), Reason.BAD_TIME,
    ),
    "date only": (_with(effectiveDateTime="2025-06-01"), Reason.BAD_TIME),
    "month only": (_with(effectiveDateTime="2025-06"), Reason.BAD_TIME),
    "no zone": (_with(effectiveDateTime="2025-06-01T10:00:00"), Reason.BAD_TIME),
    "no seconds": (_with(effectiveDateTime="2025-06-01T10:00Z"), Reason.BAD_TIME),
    "second 60": (_with(effectiveDateTime="2025-06-01T10:00:60Z"), Reason.BAD_TIME),
    "30 February": (_with(effectiveDateTime="2025-02-30T10:00:00Z"), Reason.BAD_TIME),
    "a blank for the T": (_with(effectiveDateTime="2025-06-01 10:00:00Z"), Reason.BAD_TIME),
    # Rule: what is finer than a microsecond is cut off.
    "nine fraction digits": (_with(effectiveDateTime="2025-06-01T10:00:00.123456789Z"), ACCEPTED),
    "year 1": (_with(effectiveDateTime="0001-01-01T00:00:00Z"), Reason.IMPLAUSIBLE_TIME),
    "year 9999": (_with(effectiveDateTime="9999-12-31T23:59:59Z"), Reason.IMPLAUSIBLE_TIME),
    "issued is no time": (_with(issued="yesterday"), Reason.BAD_TIME),
    "issued in the year 9999": (_with(issued="9999-12-31T23:59:59Z"), Reason.IMPLAUSIBLE_TIME),
    "issued in the year 1": (_with(issued="0001-01-01T00:00:00Z"), Reason.IMPLAUSIBLE_TIME),
    "lastUpdated is no time": (_with(meta={"lastUpdated": "yesterday"}), Reason.BAD_TIME),
    # vocabulary
    "unknown LOINC": (_with(code={"coding": [{"system": _LOINC, "code": "99999-9"}]}), Reason.UNKNOWN_CODE),
    "code of another system": (_with(code={"coding": [{"system": "urn:x", "code": "8867-4"}]}), Reason.UNKNOWN_CODE),
    "wrong unit": (_quantity(code="mg/dL"), Reason.UNKNOWN_UNIT),
    "unit in another case": (_quantity(code="/MIN"), ACCEPTED),
    "no unit code": (_with(valueQuantity={"value": 72, "unit": "bpm"}), ACCEPTED),
    "no unit": (_with(valueQuantity={"value": 72}), Reason.UNKNOWN_UNIT),
    "number in words without a unit": (_with(valueQuantity=None, valueString="72"), Reason.UNKNOWN_UNIT),
    "number in words with a comma": (_with(valueQuantity=None, valueString="72,5 /min"), Reason.NUMBER_IN_WORDS),
    "unit of another system": (_quantity(system="urn:x"), Reason.UNKNOWN_UNIT),
    "implausible": (_quantity(value=1000), Reason.IMPLAUSIBLE_VALUE),
    # panels and bundles
    "panel": (panel(_component("8480-6", 120), _component("8462-4", 80)), ACCEPTED),
    "panel with one bad component": (
        panel(_component("8480-6", 120), _component("8462-4", 9000)), Reason.IMPLAUSIBLE_VALUE,
    ),
    "panel with a component without code": (panel(_component("8480-6", 120), {"valueInteger": 1}), Reason.NO_CODE),
    "component with modifierExtension": (
        panel(_component("8480-6", 120) | {"modifierExtension": [{"url": "urn:x"}]}), Reason.MODIFIED,
    ),
    "huge panel": (panel(*[_component("8480-6", 120)] * 3_000), Reason.TOO_MANY_ROWS),
    "bundle": (bundle(observation(1), observation(2)), ACCEPTED),
    "bundle with one bad entry": (bundle(observation(1), observation(2, status="x")), Reason.BAD_STATUS),
    # Rule: in a Bundle the resources of other datasets are passed over, if R4 knows them.
    "bundle with another resource": (bundle({"resourceType": "Patient", "id": 7}, observation(1)), ACCEPTED),
    "bundle with an unknown resource": (bundle(observation(1), {"resourceType": "Potion"}), Reason.WRONG_RESOURCE),
    "bundle with parameters": (bundle(observation(1), {"resourceType": "Parameters"}), Reason.WRONG_RESOURCE),
    "bundle with an entry without resource": (
        bundle(observation(1))[:-2] + b',{"fullUrl":"urn:x"}]}', Reason.WRONG_SHAPE,
    ),
    "bundle with an entry with modifierExtension": (
        bundle(observation(1))[:-3] + b',"modifierExtension":[{"url":"urn:x"}]}]}', Reason.MODIFIED,
    ),
    "bundle with implicitRules": (bundle(observation(1))[:-1] + b',"implicitRules":"urn:x"}', Reason.MODIFIED),
    "empty bundle": (bundle(), Reason.NO_VALUE),
    "bundle in a bundle": (
        bundle({"resourceType": "Bundle", "entry": [{"resource": observation(1)}]}), Reason.WRONG_RESOURCE,
    ),
}  # fmt: skip
"""Name → (message, reason or ACCEPTED)."""
