"""Device JSON by profile: hostile messages, times, units, identity."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from pipelines.formats.flat.decoder import FlatDecoder
from pipelines.formats.flat.profile import FlatProfile, parse_profile
from pipelines.formats.shared.reasons import UNDECODABLE, Reason
from tests.decoding import decoder_of, take_by
from tests.hostile_flat import ACCEPTED, EMPTY, GATEWAY, MONITOR, flat, readings

CASES = [("flat:bedside-monitor", MONITOR, name) for name in MONITOR]
CASES += [("flat:gateway-readings", GATEWAY, name) for name in GATEWAY]


@pytest.mark.parametrize(("profile", "corpus", "name"), CASES, ids=lambda part: part if isinstance(part, str) else "")
def test_outcome(profile: str, corpus: dict[str, tuple[bytes, Reason | str | None]], name: str) -> None:
    hostile, outcome = corpus[name]
    neighbours = (flat(hr=60), flat(hr=61)) if corpus is MONITOR else (readings({"id": "a"}), readings({"id": "b"}))
    decoder = decoder_of(profile)
    decoded, conformed, rejects = take_by(decoder, [neighbours[0], hostile, neighbours[1]])
    if isinstance(outcome, Reason):
        assert rejects[1].reason is outcome
        assert (rejects[1].rows == 0) == (outcome in UNDECODABLE)
        assert re.fullmatch(r"(\$[\w.\[\]*]*|Observation[.\w\[\]]+( \(8867-4 in [\w/ ]+\))?)?", rejects[1].path)
    else:
        assert 1 not in rejects, rejects[1]
        assert decoded.empty == ([1] if outcome == EMPTY else [])
    assert (1 in conformed.message) == (outcome is ACCEPTED)
    alone = take_by(decoder, neighbours)[1]
    with_it = conformed.rows.filter([i in (0, 2) for i in conformed.message.tolist()])
    assert with_it.to_pylist() == alone.rows.to_pylist()


@pytest.mark.parametrize(("profile", "corpus"), [("flat:bedside-monitor", MONITOR), ("flat:gateway-readings", GATEWAY)])
def test_a_batch_of_nothing_but_hostile_messages_is_survived(
    profile: str, corpus: dict[str, tuple[bytes, Reason | str | None]]
) -> None:
    decoded, conformed, rejects = take_by(decoder_of(profile), [*(m for m, _ in corpus.values()), None])
    outcomes = [outcome for _, outcome in corpus.values()]
    assert set(rejects) == {i for i, outcome in enumerate(outcomes) if isinstance(outcome, Reason)}
    assert set(conformed.message.tolist()) == {i for i, outcome in enumerate(outcomes) if outcome is ACCEPTED}
    assert decoded.tombstones == [len(corpus)]


def test_no_marker_of_a_message_reaches_a_path() -> None:
    marker = "Zzmarker"
    hostile = [
        m.replace(b"MX-1", marker.encode()).replace(b"4711", marker.encode()).replace(b'"z"', f'"{marker}"'.encode())
        for m, _ in MONITOR.values()
    ]
    hostile += [flat(**{marker: {marker: 1}}, hr=marker), flat(nibp=marker), flat(patient=[marker])]
    _, _, rejects = take_by(decoder_of("flat:bedside-monitor"), hostile)
    assert rejects
    assert not [r.path for r in rejects.values() if marker in r.path]


def test_values_units_and_names() -> None:
    _, conformed, _ = take_by(decoder_of("flat:bedside-monitor"), [flat(temp_f=98.6, hr=None, spo2=None)])
    rows = {row["code"]: row for row in conformed.rows.to_pylist()}
    assert {code: row["value"] for code, row in rows.items()} == {
        "8480-6": 121.0, "8462-4": 78.0, "8478-0": 92.0, "8310-5": pytest.approx(37.0),
    }  # fmt: skip
    row = rows["8310-5"]
    assert (row["unit"], row["status"], row["version"]) == ("Cel", "final", 1)
    assert (row["patient_id"], row["encounter_id"]) == ("4711", "V-9")
    assert row["device_id"] == "urn:example:monitor|MX-1"
    assert row["effective_at"] == datetime(2025, 6, 1, 8, tzinfo=UTC)
    assert row["effective_offset_minutes"] == 120


def _ids(profile: str, message: bytes) -> list[bytes]:
    return take_by(decoder_of(profile), [message])[1].rows["observation_id"].to_pylist()


def test_an_identifier_names_each_value_of_its_message() -> None:
    ids = _ids("flat:bedside-monitor", flat(id="m-1"))
    assert len(set(ids)) == 5
    assert _ids("flat:bedside-monitor", flat(id="m-1", hr=99, taken="2025-06-01T11:00:00Z")) == ids
    assert not set(_ids("flat:bedside-monitor", flat(id="m-2"))) & set(ids)


def test_without_an_identifier_patient_code_and_time_name_a_value() -> None:
    ids = _ids("flat:bedside-monitor", flat())
    assert _ids("flat:bedside-monitor", flat(hr=99)) == ids
    assert not set(_ids("flat:bedside-monitor", flat(patient="4712"))) & set(ids)


def test_a_reading_that_is_corrected_meets_its_first_version() -> None:
    first, fixed = readings({"rev": 1}), readings({"rev": 2, "value": "73", "state": "FIXED"})
    _, conformed, _ = take_by(decoder_of("flat:gateway-readings"), [first, fixed])
    rows = conformed.rows.to_pylist()
    assert rows[0]["observation_id"] == rows[1]["observation_id"]
    assert [(row["version"], row["status"], row["value"]) for row in rows] == [
        (1, "final", 72.0),
        (2, "corrected", 73.0),
    ]


def _profile(text: str) -> FlatDecoder:
    return FlatDecoder(parse_profile(FlatProfile, text, where="test.yaml"))


LOCAL = """
format: flat
description: a clock on the wall
zone: Europe/Berlin
repeated_hour: {repeated}
patient: $.p
time: {{path: $.t, format: local}}
values:
  - {{path: $.hr, code: 8867-4, unit: /min}}
"""


@pytest.mark.parametrize(
    ("repeated", "text", "expected"),
    [
        ("reject", "2025-06-01T10:00:00", datetime(2025, 6, 1, 8, tzinfo=UTC)),
        ("reject", "2025-06-01 10:00:00.25", datetime(2025, 6, 1, 8, 0, 0, 250_000, tzinfo=UTC)),
        ("reject", "2025-12-01 10:00:00", datetime(2025, 12, 1, 9, tzinfo=UTC)),
        ("reject", "2025-10-26 02:30:00", None),
        ("first", "2025-10-26 02:30:00", datetime(2025, 10, 26, 0, 30, tzinfo=UTC)),
        ("second", "2025-10-26 02:30:00", datetime(2025, 10, 26, 1, 30, tzinfo=UTC)),
        ("reject", "2025-10-26 03:00:00", datetime(2025, 10, 26, 2, tzinfo=UTC)),
        ("reject", "2025-03-30 02:30:00", None),
        ("first", "2025-03-30 02:30:00", None),
        ("second", "2025-03-30 02:00:00", None),
        ("reject", "2025-03-30 03:00:00", datetime(2025, 3, 30, 1, tzinfo=UTC)),
        ("reject", "2025-06-01T10:00:00Z", None),
        ("reject", "2025-06-01T10:00:00+02:00", None),
        ("reject", "2025-06-01", None),
        ("reject", "0001-01-01 00:00:00", None),
    ],
)
def test_local_times_follow_the_profiles_clock(repeated: str, text: str, expected: datetime | None) -> None:
    message = b'{"p": "1", "t": "%s", "hr": 72}' % text.encode()
    decoded = _profile(LOCAL.format(repeated=repeated)).decode([message])
    if expected is None:
        assert decoded.rejects[0].reason is Reason.BAD_TIME
    else:
        row = decoded.rows.to_pylist()[0]
        assert row["effective_at"] == expected
        assert row["effective_offset_minutes"] in (60, 120)


def test_values_of_a_message_and_of_its_readings_keep_the_order_of_messages() -> None:
    decoder = _profile(
        """
format: flat
description: both
device: $.d
time: {path: $.t, format: epoch-s}
id: $.id
values:
  - {path: $.hr, code: 8867-4, unit: /min}
  - {path: "$.more[*].v", code: 8310-5, unit: Cel}
"""
    )

    def message(i: int, **more: Any) -> bytes:
        return flat(d="x", t=1_748_764_800 + i, id=f"m{i}", hr=60 + i, **more)

    decoded = decoder.decode([message(0, more=[{"v": 37}]), b"{", message(1), message(2, more=[{"v": 38}, {"v": 39}])])
    assert decoded.message.tolist() == [0, 0, 2, 3, 3, 3]
    assert decoded.rows["value"].to_pylist() == [60.0, 37.0, 61.0, 62.0, 38.0, 39.0]
    assert decoded.identities[0] == b"0||m0|8867-4"
    assert decoded.identities[1] == b"0||m0|8310-5|1748764800000000", "a message's identifier names no reading"


def test_words_are_values_too() -> None:
    decoder = _profile(
        """
format: flat
description: words
device: $['serial no'][0]
time: $.t
absent: [none]
values:
  - {path: $.note, code: 72514-3, kind: text}
"""
    )
    good = b'{"serial no": ["a", "b"], "t": "2025-06-01T10:00:00Z", "note": "%s"}'
    decoded = decoder.decode([good % b"sore", good % b"none", good % b"a\\u0000", b'{"serial no": [], "note": "x"}'])
    assert decoded.rows["value_text"].to_pylist() == ["sore"]
    assert decoded.rows["device_id"].to_pylist() == ["a"]
    assert decoded.empty == [1]
    assert [r.reason for r in decoded.rejects] == [Reason.CONTROL_CHARACTER, Reason.NO_SUBJECT]


def test_a_profile_says_what_is_no_time_and_what_cannot_be() -> None:
    decoder = _profile(
        """
format: flat
description: a monitor whose clock may never have been set
device: $.dev
time: {path: $.t, format: epoch-ms, absent: [0, -1], earliest: 2020-01-01T00:00:00Z}
numbers_as_text: true
values:
  - {path: $.hr, code: 8867-4, unit: bpm}
"""
    )
    times = [0, -1, 1_577_836_799_999, 1_577_836_800_000, None]
    texts = ['"<72"', "72", "72", '"≥ 72"', "72"]
    payloads = [
        b'{"dev": "m", "t": %s, "hr": %s}' % (str("null" if t is None else t).encode(), text.encode())
        for t, text in zip(times, texts, strict=True)
    ]
    _, conformed, rejects = take_by(decoder, payloads)
    assert {i: (r.reason, r.path) for i, r in rejects.items()} == {
        **dict.fromkeys((0, 1, 4), (Reason.NO_TIME, "$.t")),
        2: (Reason.BAD_TIME, "$.t"),
    }
    row = conformed.rows.to_pylist()[0]
    assert (row["value"], row["comparator"], row["unit"]) == (72.0, ">=", "/min")
