"""The ledger adds up what the spans say, and notices what does not hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.vitalake.lake.span_samples import begin, empty_span, open_lake, part, staged_span, write_spans
from vitalake.lake.commits.ledger import Chain, Ledger, LiveLedger, summarise
from vitalake.lake.commits.spans import COUNT_NAMES, Counts
from vitalake.lake.maintenance.compaction import compact


def test_summary_has_the_documented_keys_and_the_sums_of_the_spans(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    begin(lake)
    write_spans(lake, 3, size=4)
    summary = summarise(lake.spans).to_json()
    assert set(COUNT_NAMES) | {"balanced", "latency_ms", "last_commit_at", "spans"} <= set(summary)
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
