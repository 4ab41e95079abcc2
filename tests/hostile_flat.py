"""Hostile device JSON, each with its documented outcome: a reason, or accepted by a stated rule."""

from __future__ import annotations

import json
from typing import Any

from pipelines.formats.shared.reasons import Reason

ACCEPTED = None
EMPTY = "nothing for the dataset"

_FLAT: dict[str, Any] = {
    "monitor": {"serial": "MX-1"}, "patient": "4711", "stay": "V-9", "seq": 1,
    "taken": "2025-06-01T10:00:00+02:00", "hr": 72, "spo2": 97, "nibp": {"sys": 121, "dia": 78, "map": 92},
}  # fmt: skip
_READING: dict[str, Any] = {"id": "r1", "kind": "HR", "value": "72", "unit": "bpm", "at": 1_748_764_800_000}


def flat(**changes: Any) -> bytes:
    """Return a message of the profile bedside-monitor; None removes an element."""
    document = {**_FLAT, **changes}
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def readings(*several: dict[str, Any], **changes: Any) -> bytes:
    """Return a message of the profile gateway-readings; ``several`` say what differs from a heart rate."""
    found = [{k: v for k, v in {**_READING, **one}.items() if v is not None} for one in several or ({},)]
    return json.dumps({"device": {"id": "p-77"}, "readings": found, **changes}).encode()


_GOOD = flat()


def _replaced(old: bytes, new: bytes, message: bytes = _GOOD) -> bytes:
    assert old in message
    return message.replace(old, new)


MONITOR: dict[str, tuple[bytes, Reason | str | None]] = {
    # not a document
    "empty": (b"", Reason.NOT_JSON),
    "truncated": (_GOOD[:-9], Reason.NOT_JSON),
    "two documents in one": (_GOOD * 2, Reason.NOT_JSON),
    "byte-order mark": (b"\xef\xbb\xbf" + _GOOD, Reason.NOT_JSON),
    "HL7": (b"MSH|^~\\&|", Reason.NOT_JSON),
    "NaN": (_replaced(b'"hr": 72', b'"hr": NaN'), Reason.NOT_JSON),
    "raw NUL": (_replaced(b"MX-1", b"MX\0"), Reason.NOT_JSON),
    "bad utf-8 in what is read": (_replaced(b"MX-1", b"MX\xff"), Reason.NOT_UTF8),
    "bad utf-8 in what is not read": (flat(note="N").replace(b'"N"', b'"\xff"'), ACCEPTED),
    "10k-deep nesting in what is not read": (
        flat(extra="X").replace(b'"X"', b"[" * 10_000 + b"]" * 10_000),
        Reason.TOO_DEEP,
    ),
    "too large": (flat(note="x" * 1_100_000), Reason.TOO_LARGE),
    # shape
    "null": (b"null", Reason.WRONG_SHAPE),
    "an array": (b"[" + _GOOD + b"]", Reason.WRONG_SHAPE),
    "a number": (b"7", Reason.WRONG_SHAPE),
    "an object where a value should be": (flat(hr={"value": 72}), Reason.WRONG_SHAPE),
    "a value where an object should be": (flat(nibp=121), Reason.WRONG_SHAPE),
    "a patient who is a list": (flat(patient=["4711"]), Reason.WRONG_SHAPE),
    "a patient who is true": (flat(patient=True), Reason.WRONG_SHAPE),
    "a patient who is 4711.0": (flat(patient=4711.0), Reason.WRONG_SHAPE),
    "a patient who is a number": (flat(patient=4711), ACCEPTED),
    "more elements": (flat(z=[1, {"y": None}]), ACCEPTED),
    # numbers
    "number as text, where the profile says none": (flat(hr="72"), Reason.WRONG_SHAPE),
    "boolean as number": (flat(hr=True), Reason.WRONG_SHAPE),
    "1e999": (_replaced(b'"hr": 72', b'"hr": 1e999'), Reason.WRONG_SHAPE),
    "a number of 400 digits": (_replaced(b'"hr": 72', b'"hr": ' + b"7" * 400), Reason.WRONG_SHAPE),
    "exponent": (_replaced(b'"hr": 72', b'"hr": 7.2e1'), ACCEPTED),
    # Rule: the last one wins, as in every common parser; the first is never seen.
    "duplicate key": (_GOOD[:-1] + b', "hr": 73}', ACCEPTED),
    "implausible": (flat(hr=1000), Reason.IMPLAUSIBLE_VALUE),
    "one bad value of several": (flat(spo2=300), Reason.IMPLAUSIBLE_VALUE),
    "null for what is not connected": (_replaced(b'"hr": 72', b'"hr": null'), ACCEPTED),
    "null for a whole part": (_replaced(b'{"sys": 121, "dia": 78, "map": 92}', b"null"), ACCEPTED),
    "what stands for nothing": (flat(hr=-1), ACCEPTED),
    # Rule: a message that says of all it measures that there is nothing is not wrong.
    "nothing but what stands for nothing": (flat(hr=-1, spo2=-32768, nibp=None), EMPTY),
    "nothing of it": (b"{}", Reason.NO_VALUE),
    "nothing measured": (flat(hr=None, spo2=None, nibp=None), Reason.NO_VALUE),
    # whose
    "no patient, but a device": (flat(patient=None), ACCEPTED),
    "a blank patient, but a device": (flat(patient=" "), ACCEPTED),
    "neither": (flat(patient=None, monitor=None), Reason.NO_SUBJECT),
    "escaped NUL in the patient": (flat(patient="a\0b"), Reason.CONTROL_CHARACTER),
    "escaped NUL in the device": (flat(monitor={"serial": "a\0b"}), Reason.CONTROL_CHARACTER),
    "a version below 0": (flat(seq=-1), Reason.WRONG_SHAPE),
    "a version of 2**63": (flat(seq=1 << 63), Reason.WRONG_SHAPE),
    # times
    "no time": (flat(taken=None), Reason.NO_TIME),
    "a time that is a number": (flat(taken=1_748_764_800), Reason.WRONG_SHAPE),
    "no zone": (flat(taken="2025-06-01T10:00:00"), Reason.BAD_TIME),
    "a day": (flat(taken="2025-06-01"), Reason.BAD_TIME),
    "year 1": (flat(taken="0001-01-01T00:00:00Z"), Reason.IMPLAUSIBLE_TIME),
}
"""Name → (message of bedside-monitor, reason, ACCEPTED or EMPTY)."""

GATEWAY: dict[str, tuple[bytes, Reason | str | None]] = {
    "numbers as texts, where the profile says so": (readings({}), ACCEPTED),
    "a number too": (readings({"value": 72}), ACCEPTED),
    "a text with blanks": (readings({"value": " 72"}), Reason.WRONG_SHAPE),
    "a text with a comma": (readings({"value": "72,5"}), Reason.WRONG_SHAPE),
    "a text that is no number": (readings({"value": "high"}), Reason.WRONG_SHAPE),
    "a text that is NaN": (readings({"value": "NaN"}), Reason.WRONG_SHAPE),
    "a text of too much": (readings({"value": "1e999"}), Reason.WRONG_SHAPE),
    "a boolean": (readings({"value": True}), Reason.WRONG_SHAPE),
    "a word that stands for nothing": (readings({"value": "OFF"}), EMPTY),
    "a kind that nobody asks for": (readings({"kind": "ALARM", "value": "1"}), EMPTY),
    "a kind that nobody asks for is not looked at": (readings({}, {"kind": "X", "value": "?", "at": None}), ACCEPTED),
    "no readings": (b'{"device": {"id": "p"}, "readings": []}', Reason.NO_VALUE),
    "readings that are no list": (b'{"device": {"id": "p"}, "readings": {}}', Reason.WRONG_SHAPE),
    "readings that are null": (b'{"device": {"id": "p"}, "readings": null}', Reason.NO_VALUE),
    "a reading that is null": (_replaced(b"[", b"[null, ", readings({})), ACCEPTED),
    "a reading that is a number": (_replaced(b"[", b"[7, ", readings({})), Reason.WRONG_SHAPE),
    "one bad reading of two": (readings({}, {"id": "r2", "value": "x"}), Reason.WRONG_SHAPE),
    "one reading without a time": (readings({}, {"id": "r2", "at": None}), Reason.NO_TIME),
    "a unit the profile does not know": (readings({"unit": "furlong"}), Reason.UNKNOWN_UNIT),
    "no unit": (readings({"unit": None}), Reason.UNKNOWN_UNIT),
    "a status the profile does not know": (readings({"state": "?"}), Reason.BAD_STATUS),
    "no status": (readings({"state": None}), ACCEPTED),
    "an epoch of 400 digits": (_replaced(b"1748764800000", b"1" * 400, readings({})), Reason.BAD_TIME),
    "an epoch of 30 digits": (_replaced(b"1748764800000", b"1" * 30, readings({})), Reason.BAD_TIME),
    "an epoch of 1e300": (_replaced(b"1748764800000", b"1e300", readings({})), Reason.BAD_TIME),
    "an epoch in microseconds": (readings({"at": 1_748_764_800_000_000}), Reason.BAD_TIME),
    "an epoch with a fraction": (readings({"at": 1_748_764_800_000.5}), ACCEPTED),
    "no identifier": (readings({"id": None}), ACCEPTED),
    "escaped NUL in an identifier": (readings({"id": "a\0"}), Reason.CONTROL_CHARACTER),
    "a great many readings": (readings(*[{"id": str(i)} for i in range(2_100)]), Reason.TOO_MANY_ROWS),
}
"""Name → (message of gateway-readings, reason, ACCEPTED or EMPTY)."""
