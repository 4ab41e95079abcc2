"""Adds decided spans to tables, in an order in which the earlier stretches of each partition come first."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Literal

from vitalake.errors import LakeError
from vitalake.lake.commits.span import Span
from vitalake.lake.tables.log_files import made_again_from
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


def add_span(span: Span, table: Table) -> bool:
    """Add a decided span's files to a table; return False if there was nothing left to do.

    Nor is there in a published table that is being made again, if the span was decided before that began.

    Raises:
        LakeError: some of the span's partitions are added and some are not: something else has changed the table.
    """
    files = span.files_of(table.name)
    if not files or is_added(span, table):
        return False
    if span.fence < (made_again_from(table.storage) or 0):
        return False

    def ready() -> Literal["commit", "done"]:
        if is_added(span, table):
            return "done"
        if any((table.transaction(app) or -1) >= end for app, end in span.transactions.items()):
            raise LakeError(
                "A span is added for some partitions and not for others",
                where=f"{table.name}, span {span.span_id}",
                remedy="Run 'vitalake lake verify', and restore the table from a back-up made before that change.",
            )
        return "commit"

    return table.commit_when(ready, add=files, transactions=span.transactions)


def is_added(span: Span, table: Table) -> bool:
    """Return whether the table, as last refreshed, holds the span. Positions only grow: a stale object may say no."""
    return all((table.transaction(app) or -1) >= end for app, end in span.transactions.items())
