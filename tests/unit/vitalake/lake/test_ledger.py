"""The ledger adds up what the spans say, and notices what does not hold."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.vitalake.lake.span_samples import begin, empty_span, open_lake, part, staged_span, write_spans
from vitalake.lake.commits.ledger import MOST_PROBLEMS, Chain, Ledger, LiveLedger, summarise
from vitalake.lake.commits.span import COUNT_NAMES, Counts, Span
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.tables.digests import Damaged


def test_summary_has_the_documented_keys_and_the_sums_of_the_spans(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 3, size=4)
    summary = summarise(lake.spans).to_json()
    counts = {*COUNT_NAMES, "recovered", "attributed"}
    entry = {*counts, "balanced", "unfit", "mapped", "unmapped", "latency_ms", "spans"}
    whole = {"last_commit_at", "lost_upstream_unknown", "problems", "problems_found"}
    assert set(summary) == entry | whole | {"by_partition", "by_hour", "by_job"}
    assert set(summary["by_job"]["vitals"]) == entry
    assert summary["by_job"]["vitals"]["balanced"] is True
    assert (summary["messages"], summary["published"], summary["undecodable"]) == (12, 9, 3)
    assert summary["balanced"] is True
    assert summary["spans"] == 3
    assert summary["latency_ms"]["p50"] == pytest.approx(2**10, rel=0.05)
    assert summary["by_partition"]["vitals[0]"]["messages"] == 12
    assert list(summary["by_job"]) == ["vitals"]
    assert sum(entry["messages"] for entry in summary["by_hour"].values()) == 12
    msgspec.json.encode(summary)


def test_nothing_read_yet_balances(tmp_path: Path) -> None:
    summary = summarise(open_lake(tmp_path).spans).to_json()
    assert summary["balanced"] is True
    assert summary["last_commit_at"] is None
    assert summary["latency_ms"] == {"p50": None, "p99": None}


@pytest.mark.parametrize(
    ("stretches", "problem"),
    [([(0, 5), (6, 9)], "gap: vitals[0]@5-6"), ([(0, 5), (4, 9)], "overlap: vitals[0]@4")],
)
def test_gap_or_overlap_of_positions_is_an_imbalance(stretches: list[tuple[int, int]], problem: str) -> None:
    ledger = Ledger()
    for start, end in stretches:
        ledger.add(empty_span(start, end))
    summary = ledger.to_json()
    assert summary["balanced"] is False
    assert problem.split(": ")[1] in summary["problems"][0]
    assert problem.split(":")[0] in summary["problems"][0]


def test_two_wrongs_do_not_balance_each_other() -> None:
    ledger = Ledger()
    ledger.add(empty_span(0, 5, counts=Counts(messages=5, decoded=4)))
    ledger.add(empty_span(5, 9, counts=Counts(messages=4, decoded=5)))
    assert ledger.total.counts.balanced
    assert ledger.to_json()["balanced"] is False


def test_more_messages_than_positions_is_an_imbalance() -> None:
    ledger = Ledger()
    ledger.add(empty_span(0, 5, counts=Counts(messages=6, tombstones=6)))
    assert ledger.to_json()["balanced"] is False


def test_fewer_messages_than_positions_balance_for_a_transaction_takes_positions_too() -> None:
    ledger = Ledger()
    ledger.add(empty_span(0, 5, counts=Counts(messages=4, tombstones=4)))
    late = empty_span(5, 9, counts=Counts(messages=2, tombstones=2))
    late.parts[0].first = 7
    ledger.add(late)
    assert (ledger.problems, ledger.to_json()["balanced"]) == ([], True)


def test_what_does_not_hold_is_told_with_its_place_the_first_twenty_in_full() -> None:
    ledger = Ledger()
    for start in range(0, 100, 4):
        ledger.add(empty_span(start, start + 2))
    wrong = empty_span(2, 4, counts=Counts(messages=2))
    first = empty_span(200, 205, at=part(1), counts=Counts(messages=4, tombstones=4))
    first.parts[0].start, first.parts[0].first = None, 202
    for span in (wrong, first, empty_span(8, 10)):
        ledger.add(span)
    assert ledger.problems[:3] == [
        "counts do not balance: vitals[0]@2-4",
        "counts do not balance: vitals[1]@202-205",
        "positions overlap: vitals[0]@8",
    ]
    assert ledger.problems[3:5] == ["positions have a gap: vitals[0]@6-8", "positions have a gap: vitals[0]@10-12"]
    assert ledger.problems[-1] == "positions have a gap: vitals[0]@94-96"
    summary = ledger.to_json()
    assert (len(summary["problems"]), summary["problems_found"]) == (MOST_PROBLEMS, 26)
    assert (MOST_PROBLEMS, summary["problems"]) == (20, ledger.problems[:20])


def _decided(span: Span, at: str, job: str = "vitals") -> Span:
    span.decided_us, span.job = int(datetime.fromisoformat(at).timestamp() * 1e6), job
    return span


def test_spans_are_summed_by_the_hour_of_their_decision_in_any_order() -> None:
    ledger = Ledger()
    for start, at in ((6, "13:00:00+00:00"), (2, "12:59:59.999+00:00"), (0, "12:00:00+00:00")):
        span = _decided(empty_span(start, start + (4 if start == 2 else 2)), f"2026-03-01T{at}", f"job-{at[:2]}")
        ledger.add(span)
    summary = ledger.to_json()
    assert {hour: entry["messages"] for hour, entry in summary["by_hour"].items()} == {
        "2026-03-01T12:00Z": 6,
        "2026-03-01T13:00Z": 2,
    }
    assert {job: entry["spans"] for job, entry in summary["by_job"].items()} == {"job-12": 2, "job-13": 1}
    assert [list(summary[f"by_{grouping}"]) for grouping in ("hour", "job")] == [
        ["2026-03-01T12:00Z", "2026-03-01T13:00Z"],
        ["job-12", "job-13"],
    ], "in order"
    assert summary["by_partition"]["vitals[0]"]["spans"] == 3
    assert summary["last_commit_at"] == "2026-03-01T13:00:00.000+00:00"
    assert ledger.ends == {"observation/uuid-1/0": 8}
    only = ledger.to_json(by="hour")
    assert {name for name in only if name.startswith("by_")} == {"by_hour"}


def test_what_columns_must_not_hold_and_local_codes_are_counted_wherever_their_rows_are() -> None:
    ledger = Ledger()
    for start, job in ((0, "vitals"), (2, "vitals"), (4, "replay")):
        span = empty_span(start, start + 2)
        span.job, span.kind = job, "replay" if job == "replay" else "stream"
        span.parts[0].count_unfit({"unit": 2, "code": 1})
        span.parts[0].count_local({"NA = 2951-2": 1, "HR = 8867-4": 3}, {"ZZ": 2, "K": 1})
        ledger.add(span)
    summary = ledger.to_json(mapped={"K"})
    total = {
        "unfit": {"observation.code": 3, "observation.unit": 6},
        "mapped": {"HR = 8867-4": 9, "NA = 2951-2": 3},
        "unmapped": {"ZZ": 6},
    }
    (hour,) = summary["by_hour"].values()
    for entry in (summary, summary["by_partition"]["vitals[0]"], hour):
        assert {name: entry[name] for name in total} == total
        assert list(entry["unfit"]) == sorted(entry["unfit"]) and list(entry["mapped"]) == sorted(entry["mapped"])
    assert summary["by_job"]["vitals"]["unfit"] == {"observation.code": 2, "observation.unit": 4}
    assert summary["by_job"]["replay"]["unmapped"] == {"ZZ": 2}
    assert ledger.to_json()["unmapped"] == {"K": 3, "ZZ": 6}


def test_latencies_of_spans_are_added_up() -> None:
    ledger = Ledger()
    for start, latency in ((0, {40: 1}), (2, {80: 97, 160: 1}), (4, {160: 1})):
        span = empty_span(start, start + 2)
        span.latency = latency
        ledger.add(span)
    assert ledger.total.latency == {40: 1, 80: 97, 160: 2}
    assert ledger.to_json()["latency_ms"] == {"p50": round(2 ** (80.5 / 8), 1), "p99": round(2 ** (160.5 / 8), 1)}


def test_topic_made_again_is_another_partition_with_its_loss_unknown() -> None:
    ledger = Ledger()
    closed = empty_span(5, 5, counts=Counts())
    closed.kind, closed.parts[0].lost_unknown = "closed", True
    for span in (empty_span(0, 5), closed, empty_span(0, 3, at=part(topic_id="uuid-2"))):
        ledger.add(span)
    summary = ledger.to_json()
    assert summary["balanced"] is True
    assert summary["lost_upstream_unknown"] == ["vitals[0]"]
    assert set(summary["by_partition"]) == {"vitals[0]", "vitals[0]#uuid-2"}


@pytest.mark.parametrize(
    ("stretches", "gaps", "overlaps"),
    [
        ([(0, 4), (4, 4), (6, 6), (9, 8)], [], []),
        ([(0, 4), (3, 6)], [], [3]),
        ([(3, 6), (0, 4)], [], [0]),
        ([(2, 4), (0, 9)], [], [0]),
        ([(0, 9), (2, 4)], [], [2]),
        ([(0, 2), (4, 6), (8, 9), (2, 8)], [], [2]),
        ([(0, 2), (4, 6), (8, 9), (1, 3)], [(3, 4), (6, 8)], [1]),
        ([(0, 2), (4, 6), (8, 9)], [(2, 4), (6, 8)], []),
        ([(8, 9), (0, 2), (4, 6), (2, 4)], [(6, 8)], []),
        ([(4, 6), (6, 8), (2, 4)], [], []),
    ],
)
def test_a_chain_tells_each_gap_and_each_stretch_that_came_twice(
    stretches: list[tuple[int, int]], gaps: list[tuple[int, int]], overlaps: list[int]
) -> None:
    chain = Chain()
    assert (chain.end, chain.gaps, chain.overlaps) == (0, [], [])
    for stretch in stretches:
        chain.add(*stretch)
    assert (chain.gaps, chain.overlaps) == (gaps, overlaps)
    assert chain.end == max(end for start, end in stretches if start <= end), "also of an empty one"


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_stretches_chain_in_whatever_order_they_are_met(sizes: list[int], random: object) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    stretches = [(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    shuffled = stretches.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole, torn, doubled = Chain(), Chain(), Chain()
    for i, stretch in enumerate(shuffled):
        whole.add(*stretch)
        doubled.add(*stretch)
        if stretch != stretches[len(stretches) // 2] or i < 0:
            torn.add(*stretch)
    doubled.add(*shuffled[0])
    assert (whole.gaps, whole.overlaps) == ([], [])
    assert len(torn.gaps) == (1 if 0 < len(stretches) // 2 < len(stretches) - 1 else 0)
    assert doubled.overlaps == [shuffled[0][0]]


def test_live_ledger_reads_each_span_once_and_survives_compaction(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    begin(lake)
    live = LiveLedger(open_lake(tmp_path).spans)
    write_spans(lake, 3)
    assert live.refresh().to_json() == summarise(lake.spans).to_json()
    write_spans(lake, 2, start=12)
    compact(lake.spans.table, min_files=2)
    write_spans(lake, 1, start=20)
    assert live.refresh().to_json() == summarise(lake.spans).to_json()
    assert live.refresh().total.spans == 6


def test_live_ledger_tells_a_file_that_is_gone_and_not_one_that_was_replaced(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    begin(lake)
    live = LiveLedger(open_lake(tmp_path).spans)
    write_spans(lake, 1)
    lake.spans.table.refresh()
    (file,) = lake.spans.table.snapshot().files.values()
    lake.spans.table.storage.delete(file.path)
    with pytest.raises(Damaged, match="is gone"):
        live.refresh()
    write_spans(open_lake(tmp_path / "whole"), 0)
    replaced = LiveLedger(open_lake(tmp_path / "whole").spans)
    with pytest.raises(FileNotFoundError):
        replaced._read("decided_on=2026-03-01/replaced-meanwhile.parquet")


def test_days_are_told_before_they_are_read_the_oldest_first(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    begin(lake)
    for start, at in ((0, "2026-03-01T10:00+00:00"), (2, "2026-03-02T10:00+00:00")):
        lake.spans.decide(_decided(empty_span(start, start + 2), at))
    told: list[str] = []
    assert summarise(lake.spans, progress=told.append).total.spans == 2
    assert told == ["2026-03-01", "2026-03-02"]


def test_ledger_of_one_job_leaves_out_the_others(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 1)
    labs = part(topic="labs", topic_id="uuid-9")
    lake.spans.begin_at("observation", {labs: 0})
    other = staged_span(lake, 0, 4, at=labs, epoch=0)
    other.job = "labs"
    lake.spans.decide(other)
    assert summarise(lake.spans, job="vitals").to_json()["messages"] == 4
    assert LiveLedger(lake.spans, job="labs").refresh().total.counts.messages == 4
    assert summarise(lake.spans).to_json()["messages"] == 8


def test_what_a_replay_recovers_stands_beside_what_was_read(tmp_path: Path) -> None:
    again = part(topic="dead-letters", topic_id="uuid-again")
    replayed = empty_span(
        0, 4, at=again, counts=Counts(messages=4, decoded=3, undecodable=1, rows=5, published=4, rejected=1)
    )
    replayed.kind, replayed.job = "replay", "replay"
    discarded = empty_span(4, 9, at=again, counts=Counts())
    discarded.kind, discarded.job = "replay", "replay"
    ledger = Ledger()
    for span in (empty_span(0, 9, counts=Counts(messages=9, undecodable=9)), discarded, replayed):
        ledger.add(span)
    summary = ledger.to_json()
    assert summary["balanced"] is True
    assert (summary["messages"], summary["published"], summary["recovered"]) == (9, 0, 4)
    assert sum(entry["recovered"] for entry in summary["by_hour"].values()) == 4
    assert summary["by_job"]["vitals"]["recovered"] == 0
    taken_up = summary["by_job"]["replay"]
    assert (taken_up["messages"], taken_up["recovered"], taken_up["rejected"]) == (4, 4, 1)
    assert summary["by_partition"]["dead-letters[0]"]["recovered"] == 4
    ledger.add(replayed)
    assert ledger.to_json()["balanced"] is False


def test_what_is_attributed_later_has_a_count_of_its_own() -> None:
    ledger = Ledger()
    span = empty_span(0, 2, counts=Counts(messages=2, decoded=2, rows=2, published=2))
    span.kind = "attribution"
    ledger.add(span)
    assert (ledger.total.attributed, ledger.total.recovered, ledger.total.counts.published) == (2, 0, 0)
