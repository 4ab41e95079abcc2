"""The lake as its writers and readers see it: its zones, its spans, and the way from decided to added."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

from vitalake.crashpoints import passing
from vitalake.lake.dataset import load_dataset, published_datasets
from vitalake.lake.spans import PartId, Span, SpanLog, add_span
from vitalake.lake.storage import Storage, open_storage
from vitalake.lake.table import Table

_log = logging.getLogger(__name__)


def published_name(dataset: str) -> str:
    """Return the name of the table of a dataset's masked rows."""
    return f"published/{dataset}"


class Lake:
    """A lake, with the tables into which one dataset's spans go; not to be shared between threads."""

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

    def open_all(self) -> None:
        """Open all tables and make those that are missing; one that does not fit stops this before any is made.

        Raises:
            InputError: a table is there whose columns are not the dataset's.
            LakeError: the lake cannot be written.
        """
        attributes = {
            published_name(self.dataset.name): "published",
            "quarantine/dead_letter": "quarantine",
            "spans": "spans",
        }
        for name in sorted(attributes, key=lambda name: not self.storage.holds_table(name)):
            getattr(self, attributes[name])

    def present(self) -> dict[str, Table]:
        """Return the tables that are there, of all datasets, opened afresh, by name, ``spans`` last."""
        zones = [("published", name) for name in published_datasets()] + [("quarantine", "dead_letter"), ("", "spans")]
        names = {f"{zone}/{name}".strip("/"): (zone, name) for zone, name in zones}
        return {
            name: Table(load_dataset(dataset), self.storage, zone=zone)
            for name, (zone, dataset) in names.items()
            if self.storage.holds_table(name)
        }

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
