"""Times of ours: what is published of them is never early, keeps the order of a record's rows, and ranks nothing."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.unlinkable.own_times import (
    DAY_US,
    OwnTimes,
    end_of_day,
    given_or_ours,
    is_ours,
    known_at,
    mark_older_times,
    marked,
    with_marks,
)

MOMENT = pa.timestamp("us", "UTC")
MOST_US = DAY_US + 3_602_000_000
"""A day, an hour of noise, and a day's seconds as 16 microseconds."""

times_us = st.integers(0, 4_000_000_000_000_000)
rows = st.lists(st.tuples(times_us, st.integers(0, 3), st.booleans()), max_size=40)


def _published(us: list[int], names: pa.Array, secret: bytes = b"s" * 32) -> list[int | None]:
    out: list[int | None] = (
        OwnTimes(secret)(pa.array(us).cast(MOMENT), lambda: [names], of="a.at").cast(pa.int64()).to_pylist()
    )
    return out


@given(rows, st.sampled_from(["text", "bytes", "dictionary", "short bytes"]))
def test_times_of_ours_are_never_early_and_others_stay(given_rows: list[tuple[int, int, bool]], kind: str) -> None:
    us = [marked(at) if ours else at for at, _, ours in given_rows]
    texts = [f"record-{name:09}" for _, name, _ in given_rows]
    names = {
        "text": pa.array(texts, pa.string()),
        "bytes": pa.array([text.encode() for text in texts], pa.binary()),
        "short bytes": pa.array([text[-3:].encode() for text in texts], pa.binary()),
        "dictionary": pa.array(texts, pa.string()).dictionary_encode(),
    }[kind]
    published = _published(us, names)
    for at, now in zip(us, published, strict=True):
        assert now is not None
        if at % 1_000 == 999:
            assert 0 <= now - at <= MOST_US
        else:
            assert now == at
    for i, first in enumerate(us):
        for k, second in enumerate(us):
            # A second apart rows of one record keep their order: what is current stays what it was.
            ours = first % 1_000 == second % 1_000 == 999
            if ours and texts[i] == texts[k] and first // 1_000_000 < second // 1_000_000:
                assert (published[i] or 0) < (published[k] or 0)


@given(st.lists(st.one_of(st.none(), times_us), min_size=1, max_size=20), times_us)
def test_what_a_sender_gives_is_never_taken_for_ours(given_us: list[int | None], ours_us: int) -> None:
    column = pa.array(given_us, pa.int64()).cast(MOMENT)
    told = given_or_ours(column, np.full(len(given_us), ours_us)).cast(pa.int64()).to_pylist()
    for was, now in zip(given_us, told, strict=True):
        assert bool(is_ours(np.array([now]))[0]) == (was is None)
        assert now == marked(ours_us) if was is None else now - was in (0, 1)
    found = np.array([at is None for at in given_us])
    assert known_at(column, found, ours_us).cast(pa.int64()).to_pylist() == told
    unknown = known_at(column, found, None).cast(pa.int64()).to_pylist()
    assert unknown == [None if was is None else now for was, now in zip(given_us, told, strict=True)]


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32))
def test_rows_sent_in_the_order_of_identifiers_over_hours_do_not_rank(secret: bytes) -> None:
    names = sorted(random.Random(secret).sample(range(10_000_000, 99_999_999), 2_000))
    us = [marked(20_000 * DAY_US + 10**9 + place * 30_000_000) for place in range(len(names))]
    published = _published(us, pa.array([str(name) for name in names]), secret)
    ranks = np.argsort(np.argsort(np.array(published, np.int64)))
    assert abs(np.corrcoef(ranks, np.arange(len(names)))[0, 1]) < 5 / np.sqrt(len(names))


@settings(max_examples=10)
@given(st.binary(min_size=32, max_size=32), st.sampled_from(["column", "key"]))
def test_the_difference_of_two_rows_tells_nothing_of_the_true_one(secret: bytes, differ_in: str) -> None:
    count = 2_000
    stays = [f"{number:08}" for number in random.Random(secret).sample(range(99_999_999), count)]
    us = [20_000 * DAY_US + 10**9] * count
    later = [at + place * 25_000_000 for place, at in enumerate(us)]  # in the order of something that identifies
    times = OwnTimes(secret)
    names = [pa.array(stays), pa.array(["I10"] * count)]
    others = names if differ_in == "column" else [pa.array(stays), pa.array(["E11"] * count)]
    first = times(pa.array([marked(at) for at in us]).cast(MOMENT), lambda: names, of="a.at")
    of = "b.at" if differ_in == "column" else "a.at"
    second = times(pa.array([marked(at) for at in later]).cast(MOMENT), lambda: others, of=of)
    gaps = np.array(second.cast(pa.int64())) - np.array(first.cast(pa.int64()))
    ranks = np.argsort(np.argsort(gaps))
    assert abs(np.corrcoef(ranks, np.arange(count))[0, 1]) < 5 / np.sqrt(count)


def test_two_rows_of_one_record_are_not_as_far_apart_as_they_were() -> None:
    stays = pa.array([f"{number:08}" for number in range(500)])
    at = 20_000 * DAY_US + 10**9
    first, second = (np.array(_published([marked(at + after)] * 500, stays), np.int64) for after in (0, 30_000_000))
    assert len(set((second - first).tolist())) > 200
    assert (second - first).min() >= 30


@pytest.mark.parametrize("of_each", [300, 1_500, 5_000])
def test_no_mean_and_no_outermost_row_of_a_patient_ranks_with_the_order_in_which_they_were_sent(of_each: int) -> None:
    patients, chance = 200, np.random.default_rng(7)
    sent = 20_000 * DAY_US + 7_200_000_000 + np.linspace(0, 72_000_000_000, patients * of_each).astype(np.int64)
    blocks = pa.py_buffer(chance.bytes(16 * len(sent)))
    offsets = pa.py_buffer(np.arange(len(sent) + 1, dtype=np.int32) * 16)
    names = pa.Array.from_buffers(pa.binary(), len(sent), [None, offsets, blocks])
    times = pa.array(sent // 1_000 * 1_000 + 999).cast(MOMENT)
    published = OwnTimes(b"k" * 32)(times, lambda: [names], of="a.at").cast(pa.int64()).to_numpy()
    after = (published - 20_001 * DAY_US).reshape(patients, of_each)
    assert after.min() >= 0
    looks = {"mean": after.mean(1), "greatest": after.max(1), "least": after.min(1), "spread": after.std(1)}
    for what, found in looks.items():
        ranks = np.argsort(np.argsort(found))
        assert abs(np.corrcoef(ranks, np.arange(patients))[0, 1]) < 4 / np.sqrt(patients), what


def test_the_time_at_which_a_system_sent_is_one_of_ours_unless_arrival_may_be_published() -> None:
    told, ours = pa.array([5_001_234, None, 5_001_999]).cast(MOMENT), np.full(3, 7_000_000)
    assert given_or_ours(told, ours, stamped=True).cast(pa.int64()).to_pylist() == [5_001_999, 7_000_999, 5_001_999]
    assert given_or_ours(told, ours).cast(pa.int64()).to_pylist() == [5_001_234, 7_000_999, 5_002_000]
    arrived = given_or_ours(told, ours, mark=False, stamped=True).cast(pa.int64()).to_pylist()
    assert arrived == [5_001_234, 7_000_000, 5_002_000]


def test_the_end_of_a_day_is_its_own_end_and_nothing_stays_nothing() -> None:
    days = pa.array([0, 1, DAY_US - 1, DAY_US, None], pa.int64()).cast(MOMENT)
    assert end_of_day(days).cast(pa.int64()).to_pylist() == [0, DAY_US, DAY_US, DAY_US, None]
    names = [pa.array(["a", None])]
    assert OwnTimes(b"s")(pa.array([None, 999], pa.int64()).cast(MOMENT), lambda: names, of="a.at").null_count == 1


def test_rows_of_an_earlier_release_are_marked_where_a_time_can_be_ours_and_once() -> None:
    minute, came = 60_000_000, 1_000 * DAY_US
    us = [came - DAY_US, came - minute, came - DAY_US + 5_000, came - DAY_US + 5_001, None]
    column = pa.array(us, pa.int64()).cast(MOMENT)
    arrived = pa.array([came] * 5).cast(MOMENT)
    made = mark_older_times(column, arrived)
    whole, recent, millis, finer, nothing = made.cast(pa.int64()).to_pylist()
    assert (whole, finer, nothing) == (us[0], us[3], None)
    assert [recent % 1_000, millis % 1_000] == [999, 999]
    assert mark_older_times(made, arrived).equals(made)
    dataset = load_dataset("patient")
    kept = {"version": pa.array([1, us[1], 0, 3, None], pa.int64()), "source": pa.array(["a.patient[1]"] * 5)}
    rows = pa.table({"available_at": column, "ingested_at": arrived, **kept})
    again = with_marks(rows, dataset)
    assert again["available_at"].combine_chunks().equals(made)
    assert with_marks(again, dataset) is again


def test_the_version_that_an_earlier_load_gave_to_what_was_changed_is_marked_and_known_by_its_mark() -> None:
    found = 1_790_000_000_123_456
    known = [found, found // 1_000 * 1_000 + 2_000, found, found]  # as the query had a time, and had none
    sources = ["city.patient[1]", "city.patient[1]", "city.patient[0]", "patient[1]"]
    rows = pa.table({
        "available_at": pa.array(known).cast(MOMENT), "ingested_at": pa.array([found + 9_000] * 4).cast(MOMENT),
        "version": [found] * 4, "source": sources,
    })  # fmt: skip
    made = with_marks(rows, load_dataset("patient"))
    assert made["version"].to_pylist() == [marked(found)] * 2 + [found] * 2
    assert is_ours(made["available_at"].combine_chunks().cast(pa.int64()).to_numpy()).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert with_marks(made, load_dataset("patient")) is made


def test_what_an_earlier_release_kept_of_stamps_is_marked_however_late_it_came() -> None:
    """A night's HL7 file is read in the morning: its MSH-7 are whole seconds of hours before."""
    dataset = load_dataset("device_association")
    sent, came = datetime(2026, 3, 1, 2, 0, 7, tzinfo=UTC), datetime(2026, 3, 1, 8, tzinfo=UTC)
    row = dict.fromkeys(dataset.schema.names) | {"version": 5, "available_at": sent, "ingested_at": came}
    sources = ["adt[3]", "city.device_association[0]"]
    rows = pa.Table.from_pylist([row | {"source": source} for source in sources], schema=dataset.schema)
    marked = with_marks(rows, dataset)["available_at"].to_pylist()
    assert marked == [sent + timedelta(microseconds=999), sent]
    assert with_marks(with_marks(rows, dataset), dataset)["available_at"].to_pylist() == marked
    observation = load_dataset("observation")
    row = dict.fromkeys(observation.schema.names) | {"version": 5, "available_at": sent, "ingested_at": came}
    rows = pa.Table.from_pylist(
        [row | {"source": f"{topic}[3]"} for topic in ("hl7", "fhir")], schema=observation.schema
    )
    assert with_marks(rows, observation, stamping={"hl7"})["available_at"].to_pylist() == marked
