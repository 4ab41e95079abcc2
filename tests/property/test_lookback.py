"""The look-back recognises every repeat within its bounds, and never calls something new a repeat."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.lookback import LookBack, first_occurrences

# Few distinct values, so that repeats and colliding buckets are the rule.
_PRINTS = st.lists(
    st.tuples(st.sampled_from([1, 3, 5, 1 << 40, (1 << 40) | 1, (1 << 63) + 1]), st.integers(0, 12)), max_size=60
)


def _array(prints: list[tuple[int, int]]) -> np.ndarray:
    return np.array(prints, np.uint64).reshape(-1, 2)


@given(prints=_PRINTS)
def test_first_occurrences_agree_with_a_plain_set(prints: list[tuple[int, int]]) -> None:
    seen: set[tuple[int, int]] = set()
    expected = []
    for item in prints:
        expected.append(item not in seen)
        seen.add(item)
    assert first_occurrences(_array(prints)).tolist() == expected


@given(batches=st.lists(_PRINTS, max_size=8))
def test_within_the_bounds_it_is_a_set(batches: list[list[tuple[int, int]]]) -> None:
    lookback = LookBack(entries=1_000, seconds=60)
    seen: set[tuple[int, int]] = set()
    for batch in batches:
        admitted = lookback.admit(_array(batch), now=1.0).tolist()
        for item, new in zip(batch, admitted, strict=True):
            plain = (item[0] | 1, item[1])
            assert new == (plain not in seen)
            seen.add(plain)


def test_at_least_the_last_entries_are_remembered() -> None:
    lookback = LookBack(entries=1_000, seconds=1e9)
    everything = np.random.default_rng(1).integers(0, 2**63, (10_000, 2), dtype=np.uint64)
    for begin in range(0, len(everything), 250):
        assert lookback.admit(everything[begin : begin + 250].copy(), now=0.0).all()
        last = everything[max(0, begin - 750) : begin + 250].copy()
        assert not lookback.admit(last, now=0.0).any()


def test_it_forgets_by_time_but_not_too_early() -> None:
    lookback = LookBack(entries=1_000, seconds=10.0)
    one = np.array([[1, 2]], np.uint64)
    assert lookback.admit(one.copy(), now=100.0).all()
    assert not lookback.admit(one.copy(), now=109.0).any()
    assert lookback.admit(np.array([[3, 4]], np.uint64), now=111.0).all()
    assert not lookback.admit(one.copy(), now=112.0).any(), "the older generation still knows it"
    assert lookback.admit(np.array([[5, 6]], np.uint64), now=125.0).all()
    assert lookback.admit(one.copy(), now=126.0).all(), "two generations later it is forgotten"


def test_a_repeat_is_recognised_by_its_older_form_too() -> None:
    lookback = LookBack(entries=1_000, seconds=60)
    old_form, new_form, other = [(1, 2)], [(5, 6)], [(8, 9)]
    assert lookback.admit(_array(old_form), now=0.0).all(), "an earlier release wrote it"
    both = _array([*new_form, *other])
    assert lookback.admit(both, now=1.0, older=_array([*old_form, *other])).tolist() == [False, True]
