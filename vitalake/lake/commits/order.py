"""The order in which decided spans are added to tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from vitalake.lake.commits.spans import Span, is_added
from vitalake.lake.tables.table import Table


def missing_spans(spans: Iterable[Span], tables: Collection[Table]) -> list[Span]:
    """Return the spans of which one of these tables, as last refreshed, lacks files, in the order to add them in."""
    return in_order(
        span for span in spans if any(span.files_of(table.name) and not is_added(span, table) for table in tables)
    )


def in_order(spans: Iterable[Span]) -> list[Span]:
    """Return spans in an order in which the earlier stretches of each partition come first.

    Their times do not tell it: the clock can have been set back between two of them. A table counts a span as added
    once its positions are at the span's end, so one that is added after a later one never would be.
    """
    by_time = sorted(spans, key=lambda span: span.decided_us)
    stretches: dict[str, list[tuple[int, int, int]]] = {}
    for number, span in enumerate(by_time):
        for part in span.parts:
            start = -1 if part.start is None else part.start
            if start == part.end:  # the end of a partition: it has no files
                continue
            stretches.setdefault(part.id.app_id(span.dataset), []).append((start, part.end, number))
    order = TopologicalSorter[int]({number: () for number in range(len(by_time))})
    for of_partition in stretches.values():
        for (*stretch, earlier), (*next_stretch, later) in pairwise(sorted(of_partition)):
            if stretch != next_stretch:
                order.add(later, earlier)
    try:
        return [by_time[number] for number in order.static_order()]
    except CycleError:  # they contradict each other, which is found when they are added
        return by_time
