"""A store that is filled again from the lake knows what the lanes told it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import REFUSED
from pipelines.republish import online_store as care_rewrite
from pipelines.republish.online_store import _outcome as filled_again
from pipelines.republish.online_store import _Ways, rebuild_online_store
from tests.attribution import Ward as Bedside
from tests.unit.pipelines.intake.online_feed.feed_samples import (
    hl7_hours_ago,
    iso_minutes_ago,
    lies_in,
    open_store,
    pregnancy_resource,
    status_concept,
    stay_resource,
    visit_message,
)
from tests.unit.vitalake.lake.span_samples import open_lake, part, staged_span
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import EVERYTHING, NOTHING, OnlineShare, PartId
from vitalake.lake.maintenance.rewrite import read_file
from vitalake.lake.tables.table import StagedFile, Table


def test_a_store_that_is_filled_again_takes_for_when_values_came_when_we_took_them_in() -> None:
    came = [clock.now_us() // 1000 * 1000 - ago for ago in (0, 7_000_000)]
    rows = pa.table({"ingested_at": pa.array(came, pa.timestamp("us", "UTC"))})
    outcome = filled_again(rows, PartId("fill", "0123456789abcdefghijkl", 0), 5)
    assert (1000 * outcome.poll.broker_ms).tolist() == came
    assert outcome.poll.ours is not None and outcome.poll.ours.all()


def test_a_filling_takes_of_each_row_what_the_span_gave_that_read_it(tmp_path: Path) -> None:
    """Of a source that was loaded with other options than before it took all, or nothing, for the last options."""
    lake, first, again, other = open_lake(tmp_path), part(), part(topic_id="z" * 22), part(1)
    lake.spans.begin_at("observation", dict.fromkeys((first, again, other), 0))
    epoch = lake.spans.begin_epoch(job="vitals", shard="0of1")
    held_out, coded = OnlineShare(held_out_only=True), OnlineShare(without_codes=("8867-4",))
    stretches = [
        (first, 0, 4, EVERYTHING), (first, 4, 8, held_out), (first, 8, 9, held_out), (other, 0, 5, NOTHING),
        (first, 9, 12, coded), (again, 0, 2, coded),
    ]  # fmt: skip
    for at, start, end, share in stretches:
        span = staged_span(lake, start, end, bad=0, at=at, epoch=epoch, shard="0of1")
        span.online, span.decoder = share, "sql/1" if share is coded else "fhir/1"
        lake.spans.decide(span)
    places = [(first, n) for n in range(13)] + [(other, n) for n in range(6)]
    rows = pa.table({"source": [str(at) for at, _ in places], "source_position": [n for _, n in places]})
    found = {
        (way.format, way.share): list(zip(*(its[name].to_pylist() for name in its.column_names), strict=True))
        for way, its in _Ways(open_lake(tmp_path)).split(rows)
    }
    assert found == {
        ("fhir", EVERYTHING): [(str(first), n) for n in (2, 3, 12)] + [(str(other), 5)],
        ("fhir", held_out): [(str(first), n) for n in range(4, 9)],
        ("sql", coded): [(str(first), n) for n in (0, 1, 9, 10, 11)],
    }


def _filled(ward: Bedside, *, anew: bool) -> OnlineStore:
    if anew:
        (ward.settings.home / "care.db").unlink()
    rebuild_online_store(ward.settings)
    return open_store(ward.settings.home)


@pytest.mark.parametrize("anew", [False, True])
def test_a_filling_discharges_nobody_whose_end_is_planned(
    home: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    """The lake does not know that the stay goes on: its end of tomorrow was clamped to when its row came."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    stay = stay_resource() | {"period": {"start": iso_minutes_ago(120), "end": iso_minutes_ago(-24 * 60)}}
    ward.send("encounter", [(clock.now(), [json.dumps(stay).encode()])])
    (token,) = open_store(home).patients.revisions()
    _filled(ward, anew=anew)
    assert lies_in(home, token)[2]
    assert lies_in(home, token, in_minutes=25 * 60)[2], "it goes on past its planned end"


@pytest.mark.parametrize("hours", [1, -0.01, -0.5])
def test_a_filling_replaces_no_fact_of_the_same_version(home: Path, hours: float) -> None:
    """A discharge became only a bed that was left, and the stay went on; also if the sender's clock is ahead."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.tell(visit_message("A01", "MED^1^A", 2), visit_message("A03", "MED^1^A", hours, end=hl7_hours_ago(1)))
    (token,) = open_store(home).patients.revisions()
    assert lies_in(home, token)[2] is False
    _filled(ward, anew=False)
    assert lies_in(home, token)[2] is False


def test_a_filling_takes_no_older_version_for_its_own(home: Path) -> None:
    """The lake does not say that a stay without an end is over: discharged patients were back on the board."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    for version, status in (("1", "in-progress"), ("2", "finished")):
        stay = stay_resource() | {
            "status": status,
            "period": {"start": iso_minutes_ago(120)},
            "meta": {"versionId": version},
        }
        ward.send("encounter", [(clock.now(), [json.dumps(stay).encode()])])
    ward.tell(
        visit_message("A01", "MED", 2).replace(b"p-1", b"p-2"), visit_message("A03", "MED", 1).replace(b"p-1", b"p-2")
    )
    tokens = open_store(home).patients.revisions()
    before = {token: open_store(home).facts.stay(token, as_of_us=clock.now_us()) for token in tokens}
    assert all(stay is not None and stay.discharged_us is not None for stay in before.values())
    for _ in range(2):
        _filled(ward, anew=False)
        assert {token: open_store(home).facts.stay(token, as_of_us=clock.now_us()) for token in tokens} == before


@pytest.mark.parametrize("anew", [False, True])
def test_a_filling_ends_a_stay_of_a_sender_without_versions(home: Path, anew: bool) -> None:
    """All versions are the same: the first row of the filling stayed, and discharged patients were on the board."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    is_open = {name: value for name, value in stay_resource().items() if name != "meta"}
    over = is_open | {"status": "finished", "period": {"start": iso_minutes_ago(120), "end": iso_minutes_ago(10)}}
    for minutes, stay in ((60, is_open), (9, over)):
        ward.send("encounter", [(clock.now() - timedelta(minutes=minutes), [json.dumps(stay).encode()])])
    (token,) = open_store(home).patients.revisions()
    assert lies_in(home, token)[2] is False
    _filled(ward, anew=anew)
    assert lies_in(home, token)[2] is False


def test_a_filling_tells_the_ward_again_what_the_lake_cannot_take(home: Path) -> None:
    """The old bed came back without a mark, and a pregnant patient got an adult's score."""
    topics = {"device_association": "adt: hl7-v2", "condition": "conditions: fhir"}
    jobs = [f"  {job[:6]}: {{dataset: {job}, topics: {{{topic}}}}}" for job, topic in topics.items()]
    (home / "vitalake.yaml").write_text("\n".join(["jobs:", *jobs, ""]))
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.tell(visit_message("A01", "MED^1^A", 2), visit_message("A02", "SURG^9^B", 1), refused=1)
    no_stay = pregnancy_resource(encounter=None)
    ward.send("condition", [(clock.now(), [json.dumps(no_stay).encode()])], refused=1)
    (token,) = open_store(home).patients.revisions()

    def seen() -> tuple[tuple[str, str, bool], bool]:
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        return lies_in(home, token), stay is not None and stay.pregnant

    before = seen()
    assert before == (("SURG", "9 B", True), True)
    for anew in (False, True):
        _filled(ward, anew=anew)
        assert seen() == before


@pytest.mark.parametrize("meta", [{}, {"meta": {"versionId": "1"}}])
def test_a_filling_takes_what_was_sent_again_for_no_news(home: Path, meta: dict[str, Any]) -> None:
    """The lake's row became known later, and replaced the store's fact, which also says that the stay goes on."""
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    planned = stay_resource() | {"period": {"start": iso_minutes_ago(300), "end": iso_minutes_ago(45)}} | meta
    for minutes in (60, 30):
        ward.send("encounter", [(clock.now() - timedelta(minutes=minutes), [json.dumps(planned).encode()])])
    gone = [visit_message("A01", "MED^1^A", 5), visit_message("A03", "MED^1^A", 3)]
    gone.append(
        gone[1].replace(b"|" + hl7_hours_ago(3).encode() + b"||ADT", b"|" + hl7_hours_ago(1).encode() + b"||ADT")
    )
    ward.tell(*[one.replace(b"p-1", b"p-2").replace(b"V-1", b"V-2") for one in gone])
    over = json.dumps(
        stay_resource("p-3") | {"id": "e-3", "status": "finished", "period": {"start": iso_minutes_ago(300)}} | meta
    )
    ward.send("encounter", [(clock.now() - timedelta(minutes=85), [over.encode()] * 2)])
    tokens = open_store(home).patients.revisions()
    before = {token: lies_in(home, token)[2] for token in tokens}
    assert sorted(before.values()) == [False, False, True]
    _filled(ward, anew=False)
    assert {token: lies_in(home, token)[2] for token in tokens} == before


def test_a_filling_that_is_broken_off_leaves_a_store_that_says_it_lacks_something(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the patients had no value, and the health page reported no problem."""
    ward = Bedside(home)
    ward.send("encounter", [(clock.now(), [json.dumps(stay_resource()).encode()])])
    ward.stream([ward.oru_of("p-1", 10, "72")], name="hl7-v2")
    (home / "care.db").unlink()
    read = care_rewrite._batches

    def breaks_off(lake: Lake, since_us: int) -> Iterator[pa.Table]:
        for batch in read(lake, since_us):
            yield batch
            raise KeyboardInterrupt

    for _ in range(2):  # the second one has deleted what the first brought
        with monkeypatch.context() as patch:
            patch.setattr(care_rewrite, "_batches", breaks_off)
            with pytest.raises(KeyboardInterrupt):
                rebuild_online_store(ward.settings)
        assert open_store(home).patients.revisions()
        assert open_store(home).completeness.incomplete_since_us() > 0
        rebuild_online_store(ward.settings)
        assert open_store(home).completeness.incomplete_since_us() == 0


def test_a_filling_begins_again_where_an_erasure_has_deleted_the_file_that_it_reads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended with "This is a bug", and left half of a store."""
    ward = Bedside(home)
    ward.stream([ward.oru_of("p-1", 10, "72")], name="hl7-v2")
    ward.stream([ward.oru_of("p-1", 20, "74")], name="hl7-v2")
    token, gone = ward.token("p-1"), [True]

    def vanishes(table: Table, file: StagedFile) -> Iterator[pa.Table]:
        yield from read_file(table, file)
        if gone:
            gone.pop()
            raise FileNotFoundError(file.path)

    monkeypatch.setattr(care_rewrite, "read_file", vanishes)
    (home / "care.db").unlink()
    assert rebuild_online_store(ward.settings) == 2
    assert len(open_store(home).history(token).measured()) == 2


@pytest.mark.parametrize("anew", [False, True])
def test_a_filling_marks_whose_last_message_was_refused_where_only_results_tell_of_them(
    home: Path, *, anew: bool
) -> None:
    """Dead letters were read before the values: for patients not in the store yet the last normal value was shown."""
    (home / "vitalake.yaml").write_text("jobs: {vitals: {dataset: observation, topics: {vitals: hl7-v2}}}\n")
    ward = Bedside(home)
    for second, value in ((10, "72"), (20, "---")):
        ward.stream([ward.oru_of("p-1", second, value)], name="hl7-v2")
    token = ward.token("p-1")

    def seen() -> tuple[int, int]:
        history = open_store(home).history(token)
        return len(history.measured()), int((history.code == REFUSED).sum())

    before = seen()
    assert before[1] == 1
    _filled(ward, anew=anew)
    assert seen() == before


@pytest.mark.parametrize("over_first", [True, False])
def test_a_filling_lets_what_was_accepted_count_more_than_what_was_rejected(home: Path, *, over_first: bool) -> None:
    """All versions of a sender without versions are the same, and the dead letter was read last."""
    (home / "vitalake.yaml").write_text("jobs: {c: {dataset: condition, topics: {conditions: fhir}}}\n")
    ward = Bedside(home, begin=clock.now() - timedelta(hours=3))
    ward.send("encounter", [(clock.now(), [json.dumps(stay_resource()).encode()])])
    (token,) = open_store(home).patients.revisions()
    rejected, accepted = ({"clinicalStatus": status_concept("inactive")}, {})[:: 1 if over_first else -1]
    for refused, said in ((1, rejected | {"encounter": None}), (0, accepted)):
        payload = json.dumps(pregnancy_resource(**said) | {"meta": None}).encode()
        ward.send("condition", [(clock.now(), [payload])], refused=refused)
    for _ in range(2):
        stay = open_store(home).facts.stay(token, as_of_us=clock.now_us())
        assert stay is not None
        assert stay.pregnant is over_first
        _filled(ward, anew=False)
