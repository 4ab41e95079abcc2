"""A broker's time that cannot be is not used: not for times of rows, not to refuse them, not for latency."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.arrival import with_arrival
from pipelines.core.poll import DecodedPoll, Poll
from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.formats.shared.reasons import Reason
from tests.decoding import conformer
from tests.fhir import message
from tests.services.polls import LaneWithoutKafka
from vitalake import clock
from vitalake.lake.commits.span import PartId

DAY_MS = 86_400_000


def _decoded(stamps: list[int], payloads: list[bytes]) -> DecodedPoll:
    count = len(stamps)
    part = np.zeros(count, np.int32)
    poll = Poll("v/0of1", "fhir", list(payloads), (PartId("t", "u", 0),), part, np.arange(count), np.array(stamps))
    return DecodedPoll(poll, FhirDecoder(precise=False).decode(payloads))


def _ago(**ago: float) -> str:
    moment = datetime.fromtimestamp(clock.now_us() / 1e6 - ago.get("days", 0.0) * 86_400, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def test_our_clock_stands_in_for_times_that_cannot_be() -> None:
    now = clock.now_us() // 1000
    recent = message(1, effectiveDateTime=_ago(days=1))
    stamps = [-1, 0, 1_000_000_000_000, now + 40 * DAY_MS, now - 500 * DAY_MS, now - 300 * DAY_MS, now]
    item = with_arrival(_decoded(stamps, [recent] * 7), day_of="effective_at", max_future_seconds=86_400)
    assert item.poll.ours is not None
    assert item.poll.ours.tolist() == [True, True, True, True, True, False, False]
    assert (np.abs(item.poll.broker_ms[:5] - now) < 600_000).all()
    assert item.poll.broker_ms[5:].tolist() == stamps[5:]


def test_a_time_that_can_be_is_left_alone() -> None:
    now = clock.now_us() // 1000
    given = _decoded([now, now - 900 * DAY_MS], [message(1), message(2, effectiveDateTime="2015-01-01T10:00:00Z")])
    assert with_arrival(given, day_of="effective_at", max_future_seconds=86_400) is given
    assert with_arrival(given, day_of=None, max_future_seconds=86_400) is given


def test_the_reason_names_whose_time_is_wrong() -> None:
    now_us = clock.now_us()
    payloads = [message(1, effectiveDateTime=_ago(days=5)), message(2, effectiveDateTime=_ago(days=-5))]
    decoded = FhirDecoder(precise=False).decode(payloads)
    arrived = np.full(2, now_us // 1000 - 20 * DAY_MS)
    rejects = conformer().conform(decoded, broker_ms=arrived, now_us=now_us).rejects
    assert [(r.reason, r.path) for r in rejects] == [
        (Reason.IMPLAUSIBLE_TIME, "Observation.effective[x], record.timestamp"),
        (Reason.IMPLAUSIBLE_TIME, "Observation.effective[x]"),
    ]


@pytest.mark.parametrize(
    ("at", "taken"),
    [
        ("1970-01-01T00:00:00Z", False),
        ("1969-12-31T23:59:59.999Z", False),
        ("1969-12-31T00:00:00Z", True),
        ("2000-01-01T00:00:00-10:00", False),
        ("2000-01-01T00:10:00+14:00", False),
        ("2000-01-03T00:00:00Z", True),
        ("2025-06-01T00:00:00Z", True),
    ],
)
def test_a_clock_that_nobody_set_is_counted_as_such(at: str, taken: bool) -> None:
    decoded = FhirDecoder(precise=False).decode([message(1, effectiveDateTime=at), message(2)])
    strict = conformer(unset_clock_days=(date(1970, 1, 1), date(2000, 1, 1)))
    found = strict.conform(decoded, broker_ms=np.full(2, 1_795_000_000_000))
    assert found.message.tolist() == ([0, 1] if taken else [1])
    assert [r.reason for r in found.rejects] == ([] if taken else [Reason.IMPLAUSIBLE_TIME])


def test_the_job_may_say_how_old_a_value_may_be() -> None:
    stamp = 1_795_000_000_000
    at = [datetime.fromtimestamp(stamp / 1000 - days * 86_400, UTC).isoformat() for days in (29, 31)]
    decoded = FhirDecoder(precise=False).decode([message(i, effectiveDateTime=text) for i, text in enumerate(at)])
    found = conformer(max_past_days=30).conform(decoded, broker_ms=np.full(2, stamp))
    assert [(r.message, r.reason) for r in found.rejects] == [(1, Reason.IMPLAUSIBLE_TIME)]


def test_latency_is_of_times_that_can_be(home: Path) -> None:
    lane = LaneWithoutKafka(home)
    now = clock.now_us() // 1000
    lane.stamps = [-1, now - 40, now + 90 * DAY_MS]
    lane.send([(0, message(i)) for i in range(3)], cut=True)
    (span,) = lane.lane.lake.spans.all_spans()
    assert sum(span.latency.values()) == 1
    assert max(span.latency) < 200, "less than a minute"
