"""The lake as its writers and readers see it: its zones, its spans, and the way from decided to added."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from vitalake.errors import SettingsError
from vitalake.failpoints import failpoint
from vitalake.lake.commits.format import Format, begin_format, check_readable, check_writable
from vitalake.lake.commits.spans import SEEN, PartId, Span, SpanConflict, SpanLog, Superseded, add_span
from vitalake.lake.datasets.dataset import Dataset, table_form
from vitalake.lake.datasets.declared import load_dataset, published_datasets, quarantine_datasets
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.storage import Storage, open_storage
from vitalake.lake.tables.table import Table

_log = logging.getLogger(__name__)


def published_name(dataset: str) -> str:
    """Return the name of the table of a dataset's masked rows."""
    return f"published/{dataset}"


def restricted_name(dataset: str) -> str:
    """Return the name of the table of a dataset's identified rows."""
    return f"restricted/{dataset}"


class Lake:
    """A lake, with the tables into which one dataset's spans go; not to be shared between threads."""

    def __init__(self, uri: str, storage_options: dict[str, str], *, dataset: str = "observation") -> None:
        self.storage: Storage = open_storage(uri, storage_options)
        self.dataset = load_dataset(dataset)
        self._opened: dict[str, Table] = {}

    @cached_property
    def format(self) -> Format:
        """Its format, as it was when it was first asked.

        Raises:
            LakeError: it is a later release's.
        """
        return check_readable(self.storage)

    def check_writable(self) -> None:
        """Return if this release may write rows into it.

        Raises:
            LakeError: it has another format.
        """
        check_writable(self.storage)

    @cached_property
    def spans(self) -> SpanLog:
        """The decisions."""
        return SpanLog(self.storage)

    @cached_property
    def published(self) -> Table:
        """The masked rows."""
        return self.table(published_name(self.dataset.name))

    @cached_property
    def restricted(self) -> Table:
        """The identified rows, what identifies sealed."""
        return self.table(restricted_name(self.dataset.name))

    @cached_property
    def quarantine(self) -> Table:
        """The dead letters."""
        return self.table("quarantine/dead_letter")

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables every span of the dataset may add to, in the order in which it does."""
        kept = (self.restricted,) if self.dataset.restricted else ()
        return (self.published, *kept, self.quarantine)

    def table(self, name: str) -> Table:
        """Return a table by its name, ``<zone>/<dataset>``, made if need be; the same one each time.

        Raises:
            InputError: a table is there whose columns are not the dataset's.
            LakeError: the lake cannot be written.
            SettingsError: there is no such dataset.
        """
        if name not in self._opened:
            self.format  # noqa: B018 - refuses a later release's
            zone, _, dataset = name.rpartition("/")
            self._opened[name] = Table(table_form(load_dataset(dataset), zone), self.storage, zone=zone)
        return self._opened[name]

    def forget(self, name: str) -> None:
        """Open a table again when it is next asked for: its log was cut."""
        self._opened.pop(name, None)

    def open_all(self) -> None:
        """Open all tables and make those that are missing; one that does not fit stops this before any is made.

        Raises:
            InputError: a table is there whose columns are not the dataset's.
            LakeError: the lake cannot be written, or has another format.
        """
        begin_format(self.storage)
        self.check_writable()
        names = [published_name(self.dataset.name), "quarantine/dead_letter", "spans"]
        names += [restricted_name(self.dataset.name)] if self.dataset.restricted else []
        for name in sorted(names, key=lambda name: not self.storage.holds_table(name)):
            if name == "spans":
                self.spans  # noqa: B018 - opens it
            else:
                self.table(name)

    def here(self) -> dict[str, Dataset]:
        """Return which tables are there, of all datasets, by name, ``spans`` last; none is opened.

        Raises:
            SettingsError: rows lie in a table that nothing declares: they would be passed over, by an erasure too.
        """
        self.format  # noqa: B018 - refuses a later release's
        declared = set(published_datasets())
        for zone in ("published", "restricted"):
            if unknown := [name for name in self.storage.tables_in(zone) if name not in declared]:
                raise SettingsError(
                    "A table has no declaration",
                    where=f"{zone}/{unknown[0]}",
                    remedy=f"Put the home's datasets/{unknown[0]}.yaml back; the lake is not touched without it.",
                )
        zones = [(zone, name) for zone in ("published", "restricted") for name in published_datasets()]
        zones += [("quarantine", name) for name in quarantine_datasets()] + [("", "spans")]
        names = {f"{zone}/{name}".strip("/"): (zone, name) for zone, name in zones}
        return {
            name: table_form(load_dataset(dataset), zone)
            for name, (zone, dataset) in names.items()
            if self.storage.holds_table(name)
        }

    def present(self) -> dict[str, Table]:
        """Return the tables that are there, of all datasets, opened afresh, by name, ``spans`` last."""
        return {
            name: Table(dataset, self.storage, zone=name.rpartition("/")[0]) for name, dataset in self.here().items()
        }

    def decide(self, span: Span) -> None:
        """Record a span, its files staged; of one that never can be recorded any more they are deleted.

        They may be of a patient who was forgotten meanwhile: that is then who has raised the fence.

        Raises:
            VitaLakeError, OSError: as SpanLog.decide.
        """
        try:
            self.spans.decide(span)
        except (SpanConflict, Superseded):  # positions, fences and epochs never go back
            for table in self._tables_of(span):
                for file in span.files_of(table.name):
                    with suppress(OSError):  # then it is the sweeper's
                        table.storage.delete(file.path)
            raise

    def add(self, span: Span) -> None:
        """Make a decided span's files visible in every table; safe to repeat."""
        failpoint("before-add")
        for table in self._tables_of(span):
            add_span(span, table)
            failpoint("added-one")
        failpoint("added")

    def _tables_of(self, span: Span) -> list[Table]:
        usual = list(self.tables)
        names = {table.name for table in usual} | {SEEN}
        return usual + [self.table(name) for name in sorted({file.table for file in span.files} - names)]

    def _refuse_behind(self, parts: Sequence[PartId]) -> None:
        # The tables first: what another process adds between two looks it has decided before.
        for table in self.tables:
            table.refresh()
        positions = self.spans.positions(self.dataset.name, parts)
        for table in self.tables:
            for part, position in positions.items():
                if (table.transaction(part.app_id(self.dataset.name)) or 0) > (position or 0):
                    raise Damaged(
                        "The spans table is behind another one",
                        where=f"{table.name}, {part}",
                        remedy="Its log has lost an entry; nothing was read. Stop what writes to the lake, then run "
                        "'vitalake lake repair'.",
                    )

    def roll_forward(self, parts: Sequence[PartId], *, since_us: int) -> list[Span]:
        """Add what was decided for these partitions and not added everywhere; return their recent spans.

        Raises:
            Damaged: a table is ahead of the spans table, whose log has lost an entry: messages would be read twice.
        """
        self._refuse_behind(parts)
        spans = self.spans.recent(parts, dataset=self.dataset.name, since_us=since_us)
        fresh = set()
        for span in spans:
            for table in self._tables_of(span):
                if table.name not in fresh:
                    table.refresh()
                    fresh.add(table.name)
                if add_span(span, table):
                    _log.info("rolled forward", extra={"span": span.span_id, "table": table.name})
        failpoint("start-rolled")
        return spans
