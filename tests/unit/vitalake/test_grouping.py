"""Groups keep every item in its order, and are as long as their limits allow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vitalake.grouping import groups


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))), st.integers(0, 20), st.integers(0, 20))
def test_groups_are_in_order_whole_and_as_long_as_both_limits_allow(
    items: list[tuple[int, int]], most: int, most_of_other: int
) -> None:
    def fits(group: list[tuple[int, int]]) -> bool:
        return sum(a for a, _ in group) <= most and sum(b for _, b in group) <= most_of_other

    found = list(groups(items, (lambda item: item[0], most), (lambda item: item[1], most_of_other)))
    assert [item for group in found for item in group] == items
    assert all(fits(group) or len(group) == 1 for group in found)
    assert not any(fits([*group, after[0]]) for group, after in pairwise(found))


def test_only_a_group_and_the_item_after_it_are_taken() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    assert next(groups(items(), (lambda _: 1, 3))) == [0, 1, 2]
    assert taken == [0, 1, 2, 3]
