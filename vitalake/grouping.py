"""Groups things that follow each other into lots of limited size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class _HasRows(Protocol):
    @property
    def num_rows(self) -> int: ...


def groups(items: Iterable[T], *limits: tuple[Callable[[T], int], int]) -> Iterator[list[T]]:
    """Yield the items in their order, in lists that are as long as the limits allow; no list is empty.

    An item that is larger than a limit by itself is a list of its own. An item is taken from ``items`` only when it is
    needed, so that not more than a list, and the item after it, is in memory.

    Args:
        items: in the order in which they are to stay.
        limits: what an item counts, and how much of it a list may have.
    """
    group: list[T] = []
    sums = [0] * len(limits)
    for item in items:
        sizes = [size(item) for size, _ in limits]
        if group and any(total + size > most for total, size, (_, most) in zip(sums, sizes, limits, strict=True)):
            yield group
            group, sums = [], [0] * len(limits)
        group.append(item)
        sums = [total + size for total, size in zip(sums, sizes, strict=True)]
    if group:
        yield group


def row_count(table: _HasRows) -> int:
    """Return the number of rows of a table or batch of Arrow, for ``groups``."""
    return table.num_rows
