"""The lake as its writers and readers see it: its zones, its spans, and the way from decided to added."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

from vitalake.crashpoints import passing
from vitalake.lake.dataset import load_dataset
from vitalake.lake.spans import PartId, Span, SpanLog, add_span
from vitalake.lake.storage import Storage, open_storage
from vitalake.lake.table import Table

_log = logging.getLogger(__name__)


class Lake:
    """A lake's tables for one dataset; not to be shared between threads."""

    def __init__(self, uri: str, storage_options: dict[str, str], *, dataset: str = "observation") -> None:
        self.storage: Storage = open_storage(uri, storage_options)
        self.dataset = load_dataset(dataset)

    @cached_property
    def spans(self) -> SpanLog:
        """The decisions."""
        return SpanLog(self.storage)

    @cached_property
    def published(self) -> Table:
        """The masked rows."""
        return Table(self.dataset, self.storage, zone="published")

    @cached_property
    def quarantine(self) -> Table:
        """The dead letters."""
        return Table(load_dataset("dead_letter"), self.storage, zone="quarantine")

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables a span adds to, in the order in which it does."""
        return (self.published, self.quarantine)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The names of all tables, whether they are there or not."""
        return (f"published/{self.dataset.name}", "quarantine/dead_letter", "spans")

    def open_all(self) -> None:
        """Open all tables and make those that are missing; one that does not fit stops this before any is made.

        Raises:
            InputError: a table is there whose columns are not the dataset's.
            LakeError: the lake cannot be written.
        """
        for name in sorted(self.table_names, key=lambda name: not self.storage.holds_table(name)):
            self.table(name)

    def table(self, name: str) -> Table:
        """Return one of ``table_names``, opened, and made if it is not there."""
        published, quarantine, _ = self.table_names
        return self.published if name == published else self.quarantine if name == quarantine else self.spans.table

    def add(self, span: Span) -> None:
        """Make a decided span's files visible in every table; safe to repeat."""
        passing("before-add")
        for table in self.tables:
            add_span(span, table)
            passing("added-one")
        passing("added")

    def roll_forward(self, parts: Sequence[PartId], *, since_us: int) -> list[Span]:
        """Add what was decided for these partitions and not added everywhere; return their recent spans."""
        spans = self.spans.recent(parts, dataset=self.dataset.name, since_us=since_us)
        for table in self.tables:
            table.refresh()
            for span in spans:
                if add_span(span, table):
                    _log.info("rolled forward", extra={"span": span.span_id, "table": table.name})
        passing("start-rolled")
        return spans
