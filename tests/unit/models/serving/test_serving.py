"""Parts of serving without a server: texts, charts, the book of scores, and what a board has missed."""

from __future__ import annotations

import asyncio
import doctest
import html
import re
import sqlite3
import subprocess
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.audit import AuditEvent
from models.news2 import PARTS, News2, last_of_parts
from models.scoring import Reason, ScoreRecord, score
from models.serving import formatting as words
from models.serving import zone
from models.serving.board_feed import CALM_SECONDS, QUEUE_EVENTS, BoardFeed, Change
from models.serving.charts import MOST_POINTS, sparkline, trend
from models.serving.events import _GZIP_HEAD, RETRY, Event, pack
from models.serving.fhir import risk_assessment
from models.serving.patient import patient_now
from models.serving.recorder import Recorder
from models.serving.risk import STALE_SECONDS, band_of, risk_document
from models.serving.rows import (
    Row,
    latest_vitals,
    make_row,
    moved,
    partial_text,
    percent,
    reason_measured_us,
    reason_text,
    value_notes,
)
from models.serving.scores import KEEP_DAYS, ScoreBook, tidy
from models.serving.threads import OneThread
from models.serving.ward import NEVER_US, Chart, Ward
from models.serving.zone import clock_minute
from models.tasks import load_task
from pipelines.online_store.facts import Admission, Fact, Person, Placement
from pipelines.online_store.playback import Replay
from pipelines.online_store.values import REFUSED, REFUSED_UNKNOWN_CODE, ROW, UNUSABLE
from tests.services.serving import HOUR, ILL, MINUTE, STABLE, WardUnderTest
from vitalake import clock
from vitalake.clinical.records import History, code_number
from vitalake.errors import PrivacyError, ServiceUnavailable
from vitalake.keys import Key
from vitalake.sealing import Sealer

STATIC = Path(words.__file__).parent / "static"
SEALER = Sealer(Key("care", "v1", bytes(range(32))))


@contextmanager
def ward_of(ward: WardUnderTest) -> Iterator[Ward]:
    """Yield the ward as a server sees it."""
    charts = Ward(ward.settings, ward.keys)
    try:
        charts.changed()
        yield charts
    finally:
        charts.close()


def _news2(**parts: int | None) -> News2:
    found = {name: parts.get(name) for name in PARTS}
    known = [points for points in found.values() if points is not None]
    missing = tuple(name for name, points in found.items() if points is None)
    return News2(sum(known) if known else None, found, missing, bool(missing))


def _history(code: int, values: list[float]) -> History:
    times = np.arange(len(values), dtype=np.int64) * MINUTE + clock.now_us() - len(values) * MINUTE
    return History(np.full(len(values), code, np.uint32), np.array(values), times, times)


# -- words -----------------------------------------------------------------------------------------------------------


def test_doctests() -> None:
    assert doctest.testmod(words).failed == 0


def test_the_script_says_ages_in_the_same_words(tmp_path: Path) -> None:
    """Run the script's function if a JavaScript engine is installed."""
    script = (STATIC / "live.js").read_text()
    function = script[script.index("export function ago") : script.index("const clock")].replace("export ", "")
    ages = [0, 59, 60, 3_599, 3_600, 3_660, 7_200, 86_399, 86_400, 90_000, 200_000]
    try:
        done = subprocess.run(
            ["node", "-e", f"{function}console.log(JSON.stringify({ages}.map(ago)))"],
            capture_output=True, timeout=30, check=True,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("there is no node to run a script with; the journeys see the same ages in a browser")
    assert msgspec.json.decode(done.stdout) == [words.ago(age) for age in ages]


@given(st.floats(0, 1e9, allow_nan=False))
def test_brief_is_the_beginning_of_the_age(seconds: float) -> None:
    assert words.ago(seconds).startswith(words.brief(seconds))


@given(st.floats(-1e5, 1e5, allow_nan=False))
def test_laboratory_numbers_have_no_exponent(value: float) -> None:
    assert re.fullmatch(r"−?\d+(\.\d{1,3})?", words.significant(value))


def test_bands_follow_the_thresholds_and_a_single_part_of_three() -> None:
    assert words.band(_news2()) == "none"
    assert words.band(_news2(**dict.fromkeys(PARTS, 0) | {"pulse": 2})) == "low"
    assert words.band(_news2(**dict.fromkeys(PARTS, 0) | {"pulse": 2}), stale=True) == "unsure"
    assert words.band(_news2(pulse=2)) == "unsure", "what is missing may be what is wrong"
    assert words.band(_news2(pulse=3)) == "medium"
    assert words.band(_news2(pulse=2, temperature=2, respiratory_rate=1)) == "medium"
    assert words.band(_news2(pulse=3, consciousness=3, temperature=1)) == "high"


def test_a_partial_score_names_its_parts_in_the_fewest_words() -> None:
    assert partial_text(_news2(**dict.fromkeys(PARTS, 0))) == ""
    assert partial_text(_news2()) == ""
    assert partial_text(_news2(pulse=1)) == "partial: only HR"
    known = dict.fromkeys(PARTS, 0) | {"consciousness": None}
    assert partial_text(_news2(**known)) == "partial: no GCS"


def test_a_move_counts_only_parts_that_were_known_then_and_now() -> None:
    before = (_news2(pulse=0), _news2(pulse=0), _news2(pulse=0))
    assert moved(_news2(pulse=2, consciousness=3), before) == 2
    assert moved(_news2(pulse=2), ()) == 0


def test_small_probabilities_are_not_rounded_to_nothing() -> None:
    assert [percent(p) for p in (None, 0.001, 0.015, 0.5)] == ["", "<1 %", "2 %", "50 %"]


def test_of_two_values_of_one_moment_the_one_that_scores_is_shown() -> None:
    """With a cuff and an arterial line NEWS2 scores the worse; the board must not show the other beside its points."""
    code = words.SYSTOLIC.codes[0]
    for values in ([88.0, 141.0], [141.0, 88.0]):
        assert _pressure([code, code], values) == "88"
        lower = words.DIASTOLIC.codes[0]
        assert _pressure([lower, code, code], [52.0, *values]) == "88", "52 may belong to either"
        assert _pressure([lower, code], [52.0, values[0]]) == f"{values[0]:.0f}/52"


def _chart(history: History, **changes: Any) -> Chart:
    """Return the current chart of a patient with a history."""
    now, task = clock.now_us(), load_task("mortality")
    fields: dict[str, Any] = {
        "patient": "v1.p", "revision": 1, "now_us": now, "history": history, "stay": None, "trend": (),
        "due_us": NEVER_US,
        "record": score(history, None, patient="v1.p", as_of_us=now, model=None, task=task, policy=""),
    }  # fmt: skip
    return Chart(**(fields | changes))


def _pressure(codes: list[int], values: list[float]) -> str:
    times = np.full(len(codes), clock.now_us(), np.int64)
    found = _chart(History(np.array(codes, np.uint32), np.array(values), times, times))
    return next(cell["value"].text for cell in latest_vitals(found) if cell["short"] == "BP")


# -- charts ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1, 300), max_size=2000))
def test_a_trend_stays_within_its_picture_and_says_what_it_shows(values: list[float]) -> None:
    picture = str(trend(words.PULSE, _history(words.PULSE.codes[0], values), now_us=clock.now_us()))
    assert "style=" not in picture, "the content security policy forbids it"
    recent = values[-24 * 60 :]
    if recent:
        assert f"last {words.number(recent[-1], 0)}" in picture
        line = re.search(r'polyline points="([^"]*)"', picture)
        assert line is not None
        points = [tuple(map(float, point.split(","))) for point in line[1].split()]
        assert len(points) <= MOST_POINTS
        assert all(0 <= x <= 400 and 0 <= y <= 108 for x, y in points)
        lowest, highest = min(y for _, y in points), max(y for _, y in points)
        assert lowest <= highest
    else:
        assert "no value" in picture


def test_a_thinned_trend_keeps_its_peaks() -> None:
    values = [80.0] * 1400
    values[700] = 180.0
    picture = str(trend(words.PULSE, _history(words.PULSE.codes[0], values), now_us=clock.now_us()))
    assert "between 80 and 180" in picture
    line = re.search(r'polyline points="([^"]*)"', picture)
    assert line is not None
    assert min(float(point.split(",")[1]) for point in line[1].split()) == 8.0


@given(st.lists(st.none() | st.integers(0, 20), max_size=30), st.none() | st.integers(0, 20))
def test_a_sparkline_is_there_whatever_is_known(totals: list[int | None], now: int | None) -> None:
    picture = str(sparkline(totals, now))
    assert picture.startswith("<svg")
    assert ("not known" in picture) == (now is None and not any(total is not None for total in totals))


# -- the book --------------------------------------------------------------------------------------------------------


def _record(name: str, **changes: Any) -> ScoreRecord:
    fields: dict[str, Any] = {
        "id": name, "patient": "v1.p", "encounter": None, "as_of_us": 1, "computed_us": clock.now_us(),
        "task": "mortality", "model": "", "policy": "p", "probability": None, "abstained": "no-model",
        "news2": _news2(pulse=1), "reasons": [], "newest_us": 1,
    }  # fmt: skip
    return ScoreRecord(**(fields | changes))


def test_what_is_written_first_stays(tmp_path: Path) -> None:
    book = ScoreBook(tmp_path / "scores.db", SEALER)
    first = book.keep("place", _record("a", computed_us=1_000), np.array([1.0, np.nan]))
    assert book.keep("place", _record("b"), np.zeros(2)) == first, "of one place there is one record"
    assert book.keep("elsewhere", _record("a"), np.zeros(2)) == first, "of one id, too"
    assert book.find("place") == first
    assert book.find("nowhere") is None
    assert book.count() == 1
    features = book.features("a")
    assert features is not None
    assert np.array_equal(features, [1.0, np.nan], equal_nan=True)
    assert book.features("b") is None
    assert tidy(tmp_path / "scores.db") == 1, f"it was computed more than {KEEP_DAYS} days ago"


def test_a_record_cannot_be_passed_off_as_another(tmp_path: Path) -> None:
    book = ScoreBook(tmp_path / "scores.db", SEALER)
    book.keep("one", _record("a"), np.zeros(1))
    book.keep("two", _record("b"), np.zeros(1))
    book.close()
    with sqlite3.connect(tmp_path / "scores.db") as db:
        db.execute("UPDATE score SET record = (SELECT record FROM score WHERE id = 'b') WHERE id = 'a'")
    with pytest.raises(PrivacyError):
        ScoreBook(tmp_path / "scores.db", SEALER).find("one")


def test_who_is_forgotten_has_no_record_and_gets_none(tmp_path: Path) -> None:
    book = ScoreBook(tmp_path / "scores.db", SEALER)
    mine, other = _record("a"), _record("b", patient="v1.other")
    book.keep("one", mine, np.zeros(1))
    book.keep("two", other, np.zeros(1))
    assert book.forget(["v1.p"]) == 1
    assert book.find("one") is None
    assert book.keep("one", mine, np.zeros(1)) == mine, "a board that has not heard of it shows what it holds"
    assert book.count() == 1
    assert book.find("two") == other


def test_a_book_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match=r"scores\.db"):
        ScoreBook(tmp_path / "missing" / "scores.db", SEALER)


# -- ward and watcher ------------------------------------------------------------------------------------------------


@pytest.fixture
def ward(home: Path) -> WardUnderTest:
    return WardUnderTest(home)


def test_a_value_that_lies_ahead_is_due_and_not_shown(ward: WardUnderTest) -> None:
    now = clock.now_us()
    ward.store.time.set_replay(Replay(start_us=now, wall_us=now, speed=0.0, end_us=now + 48 * HOUR))
    patient = ward.admit("p-1")
    ward.measure(patient, STABLE, at_us=now - HOUR)
    ward.measure(patient, {"8867-4": 150}, at_us=now + HOUR, known_us=now + 2 * HOUR)
    seen = Ward(ward.settings, ward.keys)
    assert seen.changed() == {patient}
    assert seen.changed() == set()
    chart = seen.chart(patient)
    assert chart is not None
    assert chart.due_us == now + HOUR + 1, "what was measured an hour ago is called old then"
    assert chart.record.newest_us == now - HOUR
    ward.store.time.set_replay(Replay(start_us=now + 2 * HOUR, wall_us=now, speed=0.0, end_us=now + 48 * HOUR))
    later = seen.chart(patient)
    assert later is not None
    assert later.due_us > now + 2 * HOUR
    assert later.record.newest_us == now + HOUR
    assert make_row(later).order < make_row(chart).order, "150 beats a minute score more points"
    seen.close()


def test_history_that_comes_late_changes_the_trend(ward: WardUnderTest) -> None:
    now = clock.now_us()
    patient = ward.admit("p-1")
    ward.measure(patient, {"8867-4": 80}, at_us=now - MINUTE)
    seen = Ward(ward.settings, ward.keys)
    seen.changed()
    before = seen.chart(patient)
    assert before is not None
    assert before.trend[0].total is None
    ward.measure(patient, {"8867-4": 140}, at_us=now - 13 * HOUR)
    seen.changed()
    after = seen.chart(patient)
    assert after is not None
    assert after.trend[0].total == 3
    seen.close()


def test_a_new_value_scores_no_mark_of_the_trend_again(ward: WardUnderTest) -> None:
    """All 24 half-hour marks were scored again with every value, nine times as much work as the score itself."""
    patient = ward.admit("p-1")
    ward.measure(patient, STABLE, at_us=clock.now_us() - 3 * HOUR)
    seen = Ward(ward.settings, ward.keys)
    seen.changed()
    before = seen.chart(patient)
    ward.measure(patient, {"8867-4": 99})
    seen.changed()
    after = seen.chart(patient)
    assert before is not None
    assert after is not None
    assert after.revision > before.revision
    assert sum(now is then for now in after.trend[:-2] for then in before.trend) == len(after.trend) - 2
    seen.close()


def _row(patient: str, number: int = 1) -> Row:
    return Row(patient, number, number, f"{number}", "<tr></tr>", (patient, number))


def _watch(ward: WardUnderTest) -> BoardFeed:
    return BoardFeed(Ward(ward.settings, ward.keys), OneThread("ward"))


def test_a_board_gets_what_it_missed_and_everything_after_a_restart(ward: WardUnderTest) -> None:
    watch = _watch(ward)
    for number, patient in enumerate(("v1.a", "v1.b", "v1.c")):
        rows: list[Row] = []
        gone: list[str] = []
        watch._take(patient, _row(patient), NEVER_US, rows, gone)
        asyncio.run(watch._send_change(tuple(rows), tuple(gone), number))
    place = watch.position
    watch._take("v1.a", None, NEVER_US, [], gone := [])
    asyncio.run(watch._send_change((), tuple(gone), 9))
    missed = watch.since(place, 10)
    assert (missed.rows, missed.gone, missed.ward_us, missed.whole) == ((), ("v1.a",), 10, False)
    assert [row.patient for row in watch.since(f"{watch.epoch}-1", 0).rows] == ["v1.b", "v1.c"]
    for elsewhere in ("", "other-3", f"{watch.epoch}-", f"{watch.epoch}-x", f"{watch.epoch}-{'9' * 40}"):
        everything = watch.since(elsewhere, 0)
        assert [row.patient for row in everything.rows] == ["v1.b", "v1.c"]
        assert everything.whole, "who left while the server was down is not named: all others are"


def test_a_row_that_shows_the_same_is_not_pushed_again(ward: WardUnderTest) -> None:
    watch = _watch(ward)
    rows: list[Row] = []
    watch._take("v1.a", _row("v1.a"), NEVER_US, rows, [])
    watch._take("v1.a", _row("v1.a"), NEVER_US, rows, [])
    assert len(rows) == 1
    watch._take("v1.a", _row("v1.a", 2), NEVER_US, rows, [])
    assert len(rows) == 2


def test_a_slow_board_is_let_go(ward: WardUnderTest) -> None:
    async def run() -> list[Change]:
        watch = _watch(ward)
        slow = watch.subscribe()
        for number in range(QUEUE_EVENTS + 1):
            await watch._send_change((), ("v1.a",), number)
        assert slow.dropped
        return [change async for change in watch.changes(slow)]

    assert asyncio.run(run()) == []


def test_changes_reach_all_boards_and_a_busy_patient_is_calmed(ward: WardUnderTest) -> None:
    async def run() -> None:
        watch = _watch(ward)
        patient = ward.admit("p-1")
        ward.measure(patient, STABLE)
        boards = [watch.subscribe(), watch.subscribe()]
        await watch.tick()
        assert [row.patient for row in await watch.rows()] == [patient]
        first = [await anext(watch.changes(board)) for board in boards]
        assert first[0].event is first[1].event, "made once"
        newest = ward.measure(patient, {"8867-4": 99})
        await watch.tick()
        assert boards[0].queue.empty(), f"only {CALM_SECONDS} s later"
        while boards[0].queue.empty():
            await asyncio.sleep(0)
            await watch.tick()
        change = await anext(watch.changes(boards[0]))
        assert change.rows[0].newest_us == newest
        event = change.event.plain.decode()
        assert event.startswith(f"id: {watch.position}\nevent: rows\ndata: {{")
        document = msgspec.json.decode(event.split("data: ")[1])
        assert document["rows"][0].keys() == {"patient", "revision", "newest_us", "ward_us", "order", "html"}
        watch.close()
        assert all(board.dropped for board in boards)

    asyncio.run(run())


def test_events_packed_one_by_one_are_one_stream_wherever_a_board_came_in() -> None:
    events = [
        Event("rows", {"number": number, "text": "x" * 100 * number}, event_id=f"e-{number}") for number in range(4)
    ]
    for first in range(4):
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        read = [unpacker.decompress(_GZIP_HEAD + pack(RETRY))]
        read += [unpacker.decompress(event.packed) for event in events[first:]]
        assert read == [RETRY, *[event.plain for event in events[first:]]], "each is whole as soon as it has come"


class _SlowDisk:
    """An audit sink whose disk syncs only when the test allows it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.let = threading.Event()
        self.full = False

    def record(self, event: AuditEvent) -> None:
        self.record_all([event])

    def record_all(self, events: Sequence[AuditEvent]) -> None:
        assert self.let.wait(20)
        if self.full:
            raise ServiceUnavailable("Audit cannot be written", where="settings.audit", remedy="Make room.")
        self.batches.append([event.actor for event in events])


def test_records_that_come_while_the_disk_syncs_share_the_next_sync() -> None:
    disk = _SlowDisk()
    thread = OneThread("audit")

    async def run() -> None:
        recorder = Recorder(disk, thread)

        def soon(actor: str) -> asyncio.Future[None]:
            return asyncio.ensure_future(recorder.record(AuditEvent("board.read", actor, "clinician")))

        waiting = [
            asyncio.ensure_future(recorder.record(AuditEvent("board.read", f"{n}", "clinician"))) for n in range(60)
        ]
        await asyncio.sleep(0)
        first = next(iter(waiting))
        assert not any(one.done() for one in waiting), "nothing is answered before it is on record"
        waiting[59].cancel()  # a browser that leaves
        disk.let.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert first.done()
        await asyncio.gather(soon("late"), soon("late"))
        disk.full = True
        for one in [soon("x") for _ in range(3)]:
            with pytest.raises(ServiceUnavailable):
                await one

    asyncio.run(run())
    thread.close()
    assert len(disk.batches) <= 4
    assert sorted(actor for batch in disk.batches for actor in batch if actor != "late") == sorted(
        f"{n}" for n in range(60)
    )


def test_a_refused_message_and_an_unusable_value_are_read_on_the_row(ward: WardUnderTest) -> None:
    """The last normal values must not stay on the board after unusable ones."""
    patient, now = ward.admit("unusable"), clock.now_us()
    ward.measure(patient, STABLE, at_us=now - 10 * MINUTE)
    ward.measure(patient, {"8867-4": np.inf, "9279-1": np.nan}, at_us=now - 5 * MINUTE)
    rows = np.zeros(2, ROW)
    rows["value"], rows["effective_us"], rows["id"] = np.nan, [now - 4 * MINUTE, now - 3 * MINUTE], [7, 8]
    rows["available_us"] = rows["effective_us"]
    ward.write(patient, rows)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None
        assert chart.refused == (2, now - 3 * MINUTE)
        row = make_row(chart)
    assert row.order.startswith("3"), "before all others of whom nobody can say that they are well"
    since = clock_minute(now - 5 * MINUTE)
    for text in (
        f"HR implausibly high since {since}",
        f"RR no usable value since {since}: check the patient",
        f"2 messages refused, last {clock_minute(now - 3 * MINUTE)}",
        "may be higher",
        "implausible",
        "not usable",
    ):
        assert text in row.html, text


def test_a_refused_message_of_a_code_that_is_not_known_stands_until_all_parts_are_measured_again(
    ward: WardUnderTest,
) -> None:
    """Any newer vital sign removed the mark of a refused message, whatever its codes were."""
    patient, now = ward.admit("nameless"), clock.now_us()
    ward.measure(patient, STABLE, at_us=now - 10 * MINUTE)
    mark = np.zeros(1, ROW)
    mark["code"], mark["value"], mark["effective_us"] = REFUSED_UNKNOWN_CODE, np.nan, now - 4 * MINUTE
    mark["available_us"] = mark["effective_us"]
    ward.write(patient, mark)
    ward.measure(patient, {"8867-4": 75}, at_us=now - 2 * MINUTE)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None
        assert chart.refused == (1, now - 4 * MINUTE)
        assert band_of(chart) == "unsure"
        until = now - 4 * MINUTE + STALE_SECONDS * 1_000_000 + 1
        assert chart.due_us <= until
        for at_us, marked in ((until - 60_000_000, True), (until, False)):
            ward.store.time.set_replay(Replay(start_us=at_us, wall_us=clock.now_us(), speed=0.001, end_us=now + 10**12))
            charts.changed()
            chart = charts.chart(patient)
            assert chart is not None
            assert (chart.refused is not None) == marked
        ward.store.time.set_replay(None)
        ward.measure(patient, STABLE, at_us=now - MINUTE)
        charts.changed()
        chart = charts.chart(patient)
        assert chart is not None
        assert chart.refused is None


@pytest.mark.parametrize("code", [REFUSED_UNKNOWN_CODE, REFUSED])
def test_a_feed_of_refused_messages_is_looked_at_as_a_whole(
    ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A feed without codes blocked the board for half a minute per chart, because each mark was processed alone."""
    patient, now, count = ward.admit("feed"), clock.now_us(), 2000
    ward.measure(patient, STABLE, at_us=now - 50 * HOUR)
    rows = np.zeros(count, ROW)
    rows["code"], rows["value"] = code, np.nan
    rows["effective_us"] = rows["available_us"] = now - np.arange(count) * 90_000_000 - 1
    ward.write(patient, rows)
    looks: list[int] = []

    def counted(history: History) -> dict[str, int]:
        looks.append(len(history))
        return last_of_parts(history)

    monkeypatch.setattr("models.serving.ward.last_of_parts", counted)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
    assert chart is not None and chart.refused == (80, now - 1)
    assert len(looks) <= 1
    assert "80 messages refused" in make_row(chart).html
    assert words.refused_text(19_000, now, now).startswith("many messages refused")


@pytest.mark.parametrize("by_feed", [False, True])
def test_who_is_measured_after_the_discharge_is_back_until_that_is_old(ward: WardUnderTest, by_feed: bool) -> None:
    """A discharge recorded too early, or a readmission recorded late, hid an arrest."""
    patient, now = ward.token("p-1"), clock.now_us()
    facts: dict[str, Fact] = {"stay": Admission(now - 9 * HOUR, now - HOUR, 67)}
    if by_feed:
        facts = {
            "a": Placement("stay", now - 9 * HOUR, None, "bed:ICU//7", "active"),
            "b": Placement("stay", now - HOUR, None, "bed:ICU//7", "ended", discharged=True),
        }
    ward.store.put_facts([(patient, key, 1, fact) for key, fact in facts.items()])
    ward.measure(patient, STABLE, at_us=now - 2 * HOUR)
    ward.measure(patient, {"2823-3": 4.4}, at_us=now - 1)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None
        assert chart.gone, "a laboratory value is not measured at the bed"
        ward.measure(patient, {"8867-4": 0}, at_us=now - MINUTE)
        charts.changed()
        chart = charts.chart(patient)
        assert chart is not None
        assert not chart.gone
        row = make_row(chart)
        assert f"discharged at {clock_minute(now - HOUR)}, but vital signs since" in row.html
        assert "HR 0" in row.html
        assert chart.due_us <= now - MINUTE + STALE_SECONDS * 1_000_000 + 1
        then = now - MINUTE + STALE_SECONDS * 1_000_000 + 1
        ward.store.time.set_replay(Replay(start_us=then, wall_us=now, speed=0.001, end_us=now + 10**12))
        charts.changed()
        chart = charts.chart(patient)
        assert chart is not None
        assert chart.gone


def test_who_is_recorded_as_dead_is_not_low(ward: WardUnderTest) -> None:
    patient, now = ward.admit("p-1"), clock.now_us()
    ward.measure(patient, STABLE, at_us=now - MINUTE)
    ward.store.put_facts([(patient, "", 2, Person("female", died="yes"))])
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None
        row = make_row(chart)
    assert "recorded as dead" in row.html
    assert band_of(chart) == "unsure"


def test_one_fresh_part_among_old_ones_is_not_low_and_what_was_is_not_lost(ward: WardUnderTest) -> None:
    """A single new pulse must not turn a score of nine, half a day ago, into a reassuring one."""
    now = clock.now_us()
    old = ward.admit("old")
    ward.measure(old, STABLE, at_us=now - 11 * HOUR)
    ward.measure(old, {"8867-4": 72}, at_us=now - MINUTE)
    ill = ward.admit("was-ill")
    ward.measure(ill, ILL, at_us=now - 13 * HOUR)
    ward.measure(ill, {"8867-4": 72}, at_us=now - MINUTE)
    fresh = ward.admit("fresh")
    ward.measure(fresh, STABLE, at_us=now - MINUTE)
    with ward_of(ward) as charts:
        found = {name: charts.chart(patient) for name, patient in (("old", old), ("ill", ill), ("fresh", fresh))}
    rows = {name: make_row(chart) for name, chart in found.items() if chart is not None}
    assert "may be higher" in rows["old"].html
    assert "old: RR" in rows["old"].html
    assert found["ill"] is not None
    assert found["ill"].last is not None
    assert re.search(rf"was {found['ill'].last.total}, <time[^>]*>13 h</time> ago", rows["ill"].html)
    assert sorted(rows, key=lambda name: rows[name].order) == ["ill", "old", "fresh"]
    assert "may be higher" not in rows["fresh"].html


def _refuse(ward: WardUnderTest, patient: str, codes: Sequence[str], *, at_us: int) -> None:
    """Write the marks of a refused message: one for each code, and one for the message."""
    rows = np.zeros(len(codes) + 1, ROW)
    rows["code"][1:] = [code_number(code) for code in codes]
    rows["value"], rows["effective_us"], rows["available_us"] = np.nan, at_us, at_us
    rows["stage"][1:] |= UNUSABLE << 8
    ward.write(patient, rows)


def test_one_refused_message_does_not_make_the_sickest_disappear_nor_anybody_low(ward: WardUnderTest) -> None:
    """A score of 19 became "-" without any remark, below every medium row; a stable patient stayed "low"."""
    now = clock.now_us()
    names = ("ill", "medium", "undecoded", "low")
    ill, medium, undecoded, low = (ward.admit(name) for name in names)
    ward.measure(ill, ILL, at_us=now - 3 * MINUTE)
    _refuse(ward, ill, tuple(ILL), at_us=now - MINUTE)
    ward.measure(medium, STABLE | {"9279-1": 25}, at_us=now - MINUTE)
    for patient in (undecoded, low):
        ward.measure(patient, STABLE, at_us=now - 3 * MINUTE)
    _refuse(ward, undecoded, (), at_us=now - MINUTE)
    with ward_of(ward) as charts:
        found = {name: charts.chart(p) for name, p in zip(names, (ill, medium, undecoded, low), strict=True)}
        task = charts.task
    seen = {name: chart for name, chart in found.items() if chart is not None}
    rows = {name: make_row(chart) for name, chart in seen.items()}
    assert sorted(rows, key=lambda name: rows[name].order) == list(names)
    assert seen["ill"].record.news2.total is None
    last = seen["ill"].last
    assert last is not None and last.total is not None and last.total >= words.HIGH
    assert re.search(rf"was {last.total}, <time[^>]*>3 min</time> ago", rows["ill"].html)
    documents = {name: risk_document(chart) for name, chart in seen.items()}
    bands = {"ill": "unsure", "medium": "medium", "undecoded": "unsure", "low": "low"}
    assert {name: document["band"] for name, document in documents.items()} == bands, "the API says what the board does"
    assert ["may be higher" in rows[name].html for name in names] == [True, False, True, False]
    assert documents["ill"]["was"]["total"] == last.total
    assert documents["undecoded"]["refused"]["count"] == 1
    predictions = {name: risk_assessment(chart, task)["prediction"][0] for name, chart in seen.items()}
    assert ["qualitativeRisk" in predictions[name] for name in names] == [False, True, False, True]
    assert f"; was {last.total}, 3 min ago" in predictions["ill"]["rationale"]
    assert "1 message refused" in predictions["undecoded"]["rationale"]


def test_api_and_fhir_say_what_the_board_says_of_age_and_clock(ward: WardUnderTest) -> None:
    chart = _chart(_history(words.PULSE.codes[0], [0.0]), ahead=10_800.0)
    document, prediction = risk_document(chart), risk_assessment(chart, load_task("mortality"))["prediction"][0]
    assert (document["age_known"], document["clock_ahead_seconds"]) == (False, 10_800.0)
    for text in (words.AGE_NOT_KNOWN, "clock is 3 h ahead of ours", "no beat detected, or probe off, 1 min ago"):
        assert text in prediction["rationale"]
        assert text in re.sub("<[^>]*>", "", make_row(chart).html).replace("&#39;", "'"), text


@pytest.mark.parametrize(("age", "withheld"), [(67, ""), (8, "child")])
def test_board_page_and_fhir_have_the_same_findings_also_where_the_score_is_withheld(
    ward: WardUnderTest, age: float, withheld: str
) -> None:
    """FHIR left out, of a child, that two sensors disagreed and that the last saturation was not usable."""
    patient, now = ward.admit("p-1", age=age), clock.now_us()
    ward.measure(patient, STABLE | {"8867-4": 72, "8889-8": 130}, at_us=now - 3 * MINUTE)
    _refuse(ward, patient, ("59408-5",), at_us=now - MINUTE)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None and chart.record.news2.withheld == withheld
        board, page = make_row(chart).html, patient_now(chart)
        rationale = risk_assessment(chart, charts.task)["prediction"][0]["rationale"]
    notes = value_notes(chart)
    assert len(notes) == 3, "disagreement, unusable, refused"
    for text in notes:
        assert text in rationale
        for shown in (board, page):
            assert text in html.unescape(shown)
    assert rationale.startswith("NEWS2: no score. " if withheld else "NEWS2: total 2; ")


@pytest.mark.parametrize("age", [67, 8])
def test_fhir_says_of_a_patient_without_any_vital_sign_that_none_is_known_and_not_that_it_is_stale(
    ward: WardUnderTest, age: float
) -> None:
    patient = ward.admit("p-1", age=age)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None
        document = risk_assessment(chart, charts.task)
    assert document["note"][0] == {"text": "No vital sign is known."}
    rationale = document["prediction"][0]["rationale"]
    assert "stale" not in rationale and "no vital sign is known" in rationale


def test_times_of_another_day_have_a_date() -> None:
    """A value that was unusable since 01:41 yesterday was read as one of this night."""
    now = clock.now_us()
    assert zone.clock_near(now - 11 * HOUR, now) == clock_minute(now - 11 * HOUR)
    assert zone.clock_near(now - 30 * HOUR, now) == zone.clock_time(now - 30 * HOUR)
    assert zone.clock_time(now - 30 * HOUR) in words.refused_text(1, now - 30 * HOUR, now)


def test_a_pressure_below_what_is_plausible_is_doubted() -> None:
    assert _pressure([words.SYSTOLIC.codes[0], words.DIASTOLIC.codes[0]], [120.0, -5.0]) == "120/−5?"
    assert _pressure([words.SYSTOLIC.codes[0], words.DIASTOLIC.codes[0]], [120.0, 80.0]) == "120/80"


def test_reasons_name_a_sex_and_have_an_age_only_where_one_value_has() -> None:
    man, woman = (Reason("sex_female", "Female sex", sex, "", 0.1) for sex in (0.0, 1.0))
    assert [reason_text(one) for one in (man, woman)] == ["Male sex", "Female sex"]
    lowest = Reason("temperature.min", "Temperature, lowest", 38.0, "Cel", 0.1, 5)
    assert (reason_text(lowest), reason_measured_us(lowest)) == ("Temperature, lowest 38 °C", None)
    assert reason_measured_us(Reason("temperature.last", "Temperature", 38.0, "Cel", 0.1, 5)) == 5


def test_a_clock_that_is_behind_is_told_and_makes_nobody_low(ward: WardUnderTest) -> None:
    """Values of a sender whose clock is an hour behind were hidden by a current pulse, without any remark."""
    patient, now = ward.admit("behind"), clock.now_us()
    ward.measure(patient, STABLE, at_us=now - MINUTE)
    for minute in range(5):
        ward.measure(patient, {"8889-8": 72}, at_us=now - HOUR - minute * MINUTE, known_us=now - minute * MINUTE)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
    assert chart is not None and chart.behind == {"pulse": 3600.0}
    text = "HR: the sender's clock is 1 h behind ours, or values arrive late"
    row = make_row(chart).html
    assert text in row.replace("&#39;", "'") and "may be higher" in row
    prediction = risk_assessment(chart, load_task("mortality"))["prediction"][0]
    assert text in prediction["rationale"] and "qualitativeRisk" not in prediction
    assert risk_document(chart)["late_by_seconds"] == {"pulse": 3600.0}


@pytest.mark.parametrize(
    ("minutes", "rate", "came_back"),
    [((0,), 0.0, True), ((0, 1, 2, 3), 72.0, True), ((0,), 72.0, False), ((6, 7, 8, 9), 72.0, False)],
)
def test_who_is_measured_after_the_discharge_by_a_clock_that_is_behind_is_back(
    ward: WardUnderTest, minutes: tuple[int, ...], rate: float, came_back: bool
) -> None:
    """By a clock an hour behind the arrest was before the discharge, so the patient was on no board."""
    patient, now = ward.token("p-1"), clock.now_us()
    ward.store.put_facts([(patient, "stay", 1, Admission(now - 9 * HOUR, now - 5 * MINUTE, 67))])
    ward.measure(patient, STABLE, at_us=now - 2 * HOUR)
    for minute in reversed(minutes):
        ward.measure(patient, {"8867-4": rate}, at_us=now - HOUR - minute * MINUTE, known_us=now - minute * MINUTE)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
    assert chart is not None and chart.gone != came_back


def test_a_refused_message_without_a_code_brings_nobody_back(ward: WardUnderTest) -> None:
    """A refused laboratory result brought a discharged patient back for two hours."""
    patient, now = ward.token("p-1"), clock.now_us()
    ward.store.put_facts([(patient, "stay", 1, Admission(now - 9 * HOUR, now - HOUR, 67))])
    ward.measure(patient, STABLE, at_us=now - 2 * HOUR)
    mark = np.zeros(1, ROW)
    mark["code"], mark["value"], mark["effective_us"] = REFUSED_UNKNOWN_CODE, np.nan, now - MINUTE
    mark["available_us"] = mark["effective_us"]
    ward.write(patient, mark)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None and chart.gone
        _refuse(ward, patient, ("8867-4",), at_us=now - MINUTE)
        charts.changed()
        chart = charts.chart(patient)
    assert chart is not None and not chart.gone


def test_a_row_without_its_mark_is_another_row() -> None:
    """An expired mark, and the remark on a clock that was set since, stayed on the row until something else changed."""
    chart = _chart(_history(words.PULSE.codes[0], [72.0]))
    for change in ({"refused": (1, chart.now_us)}, {"behind": {"pulse": 3600.0}}, {"hidden": True}):
        assert make_row(replace(chart, **change)).key != make_row(chart).key


def test_what_was_is_told_also_where_it_came_late(ward: WardUnderTest) -> None:
    """Values from 13 hours ago that arrived just now had already expired, and were never shown."""
    patient, now = ward.admit("late"), clock.now_us()
    ward.measure(patient, ILL, at_us=now - 13 * HOUR, known_us=now - 2 * MINUTE)
    ward.measure(patient, {"8310-5": 37}, at_us=now - MINUTE)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
    assert chart is not None and chart.last is not None
    assert (chart.last.total or 0) >= words.HIGH
    assert chart.now_us - chart.last_us >= 13 * HOUR
    assert make_row(chart).order.startswith("4"), "half a day ago does not make it one of now"


def test_a_lost_score_ranks_as_it_did_until_it_is_old(ward: WardUnderTest) -> None:
    patient, now = ward.admit("lost"), clock.now_us()
    ward.measure(patient, ILL, at_us=now - 119 * MINUTE)
    _refuse(ward, patient, tuple(ILL), at_us=now - MINUTE)
    with ward_of(ward) as charts:
        chart = charts.chart(patient)
        assert chart is not None
        assert make_row(chart).order.startswith("1")
        assert chart.due_us <= now + MINUTE + 1
        assert make_row(replace(chart, now_us=now + MINUTE + 1)).order.startswith("3")


def test_the_page_marks_a_value_after_which_another_came_that_cannot_be_used(ward: WardUnderTest) -> None:
    """ "97 %, 13 min" stood below "implausible", and an old potassium beside a refused one."""
    patient, now = ward.admit("marked"), clock.now_us()
    ward.measure(patient, STABLE | {"2823-3": 4.1}, at_us=now - 13 * MINUTE)
    with ward_of(ward) as charts:
        before = charts.chart(patient)
    assert before is not None and "not usable for" not in patient_now(before)
    _refuse(ward, patient, ("59408-5", "8462-4", "2823-3"), at_us=now - 5 * MINUTE)
    with ward_of(ward) as charts:
        after = charts.chart(patient)
    assert after is not None
    page = re.sub(r"<svg.*?</svg>", "", patient_now(after), flags=re.DOTALL)
    marked = re.findall(r"not usable for <time[^>]*>5 min</time></span> last <time", page)
    assert len(marked) == 3, "saturation, diastolic pressure, potassium"
