"""The lake: its zones and tables, and how spans are decided and then added to the tables."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from vitalake.errors import SettingsError
from vitalake.failpoints import failpoint
from vitalake.lake.commits.adding import add_span, in_order
from vitalake.lake.commits.format import Format, begin_format, check_readable, check_writable
from vitalake.lake.commits.span import SEEN, PartId, Span
from vitalake.lake.commits.span_log import SpanConflict, SpanLog, Superseded
from vitalake.lake.commits.transactions import kind_of
from vitalake.lake.datasets.dataset import Dataset, table_form
from vitalake.lake.datasets.declared import load_dataset, published_datasets, quarantine_datasets
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.log_files import is_to_be_made_again
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
    """A lake, with the tables that one dataset's spans are added to; not to be shared between threads."""

    def __init__(self, uri: str, storage_options: dict[str, str], *, dataset: str = "observation") -> None:
        self.storage: Storage = open_storage(uri, storage_options)
        self.dataset = load_dataset(dataset)
        self._opened: dict[str, Table] = {}

    @cached_property
    def format(self) -> Format:
        """The lake's format, read once.

        Raises:
            LakeError: the format is a later release's.
        """
        return check_readable(self.storage)

    def check_writable(self) -> None:
        """Return if this release may write rows into the lake.

        Raises:
            LakeError: the lake has another format.
        """
        check_writable(self.storage)

    @cached_property
    def spans(self) -> SpanLog:
        """The spans table, which holds what was decided."""
        return SpanLog(self.storage)

    @cached_property
    def published(self) -> Table:
        """The masked rows."""
        return self.table(published_name(self.dataset.name))

    @cached_property
    def restricted(self) -> Table:
        """The identified rows; identifying values are sealed."""
        return self.table(restricted_name(self.dataset.name))

    @cached_property
    def quarantine(self) -> Table:
        """The dead letters."""
        return self.table("quarantine/dead_letter")

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables that spans of the dataset may be added to, in the order in which they are."""
        kept = (self.restricted,) if self.dataset.restricted else ()
        return (self.published, *kept, self.quarantine)

    def table(self, name: str) -> Table:
        """Return a table by its name, ``<zone>/<dataset>``; make it if it is missing. It is the same object each time.

        Raises:
            Damaged: it is a published table that was there, and is gone.
            InputError: the table exists with other columns than the dataset's.
            LakeError: the lake cannot be written.
            SettingsError: there is no such dataset.
        """
        if name not in self._opened:
            self.format  # noqa: B018 - refuses a later release's
            zone, _, dataset = name.rpartition("/")
            if zone == "published":
                self._refuse_gone(dataset)
            self._opened[name] = Table(table_form(load_dataset(dataset), zone), self.storage, zone=zone)
        return self._opened[name]

    def open_all(self) -> None:
        """Open all tables, then make the missing ones; nothing is made if an existing table does not fit.

        Raises:
            InputError: a table exists with other columns than the dataset's.
            LakeError: the lake cannot be written, or has another format.
            Damaged: the published table is gone.
            SettingsError: the dataset's identified rows were kept and are not any more, or the other way round.
        """
        begin_format(self.storage)
        self.check_writable()
        self._refuse_other_zones()
        # The restricted table first: a published one without it says that identified rows were not kept.
        names = [restricted_name(self.dataset.name)] if self.dataset.restricted else []
        names += [published_name(self.dataset.name), "quarantine/dead_letter", "spans"]
        for name in sorted(names, key=lambda name: not self.storage.holds_table(name)):
            if name == "spans":
                self.spans  # noqa: B018 - opens it
            else:
                self.table(name)

    def _refuse_gone(self, dataset: str) -> None:
        """Raise an error if a published table is gone: a new one in its place would be taken for all of its rows."""
        name, kept = published_name(dataset), restricted_name(dataset)
        if self.storage.holds_table(name) or not self.storage.holds_table(kept):
            return
        if was_added_to(self.table(kept)) and not is_to_be_made_again(self.storage.child(name)):
            raise Damaged(
                "Published table is gone",
                where=name,
                remedy=f"Run 'vitalake lake rebuild published --dataset {dataset}': it makes it again from the "
                "restricted zone.",
            )

    def _refuse_other_zones(self) -> None:
        """Raise an error if rows of the dataset were published without being kept, or were kept before.

        Published rows of which the lake has no identified ones can never be made again: not by other rules, not with
        other pseudonyms, not after damage. So all rows of a dataset are kept, or none.
        """
        name = self.dataset.name
        # In this order: who makes the tables at this moment makes the restricted one first.
        published, kept = map(self.storage.holds_table, (published_name(name), restricted_name(name)))
        if kept == self.dataset.restricted:
            return
        if kept or (published and was_added_to(self.published)):
            raise SettingsError(
                "Identified rows were kept, and would not be any more" if kept else "Identified rows are missing",
                where=restricted_name(name),
                remedy=f"Declare '{name}' with 'restricted: true' again, or the rows as another dataset."
                if kept
                else "If the folder is lost, restore it from a back-up. If the dataset was declared without "
                "'restricted: true' until now, declare what comes from now on as another dataset.",
            )

    def here(self) -> dict[str, Dataset]:
        """Return the existing tables of all datasets by name, ``spans`` last; opens none of them.

        Raises:
            SettingsError: a table exists that no dataset declares: everything would skip its rows, even an erasure.
        """
        self.format  # noqa: B018 - refuses a later release's
        declared = set(published_datasets())
        for zone in ("published", "restricted"):
            if undeclared := [name for name in self.storage.tables_in(zone) if name not in declared]:
                raise SettingsError(
                    "A table has no declaration",
                    where=f"{zone}/{undeclared[0]}",
                    remedy=f"Put the home's file datasets/{undeclared[0]}.yaml back; until then nothing is changed.",
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
        """Open the existing tables of all datasets and return them by name, ``spans`` last."""
        return {
            name: Table(dataset, self.storage, zone=name.rpartition("/")[0]) for name, dataset in self.here().items()
        }

    def decide(self, span: Span) -> None:
        """Record a span whose files are staged; delete the files if the span can never be recorded.

        An erasure may have raised the fence in the meantime; the files may then hold rows of the erased patient.

        Raises:
            VitaLakeError, OSError: as ``SpanLog.decide``.
        """
        try:
            self.spans.decide(span)
        except (SpanConflict, Superseded):  # positions, fences and epochs never go back
            for table in self._tables_of(span):
                for file in span.files_of(table.name):
                    with suppress(OSError):  # the sweeper deletes it later
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
        # Refresh the tables first: another process decides a span before it adds it, so no table can seem to be ahead.
        for table in self.tables:
            table.refresh()
        positions = self.spans.positions(self.dataset.name, parts)
        for table in self.tables:
            for part, position in positions.items():
                if (table.transaction(part.app_id(self.dataset.name)) or 0) > (position or 0):
                    raise Damaged(
                        "The spans table is behind another one",
                        where=f"{table.name}, {part}",
                        remedy="Its log has lost an entry; nothing was read. Stop all that writes to the lake, "
                        "then run 'vitalake lake repair'.",
                    )

    def roll_forward(self, parts: Sequence[PartId], *, since_us: int) -> list[Span]:
        """Add the decided spans of these partitions that some table lacks; return the partitions' recent spans.

        Raises:
            Damaged: a table is ahead of the spans table, whose log has lost an entry: messages would be read twice.
        """
        self._refuse_behind(parts)
        spans = self.spans.recent(parts, dataset=self.dataset.name, since_us=since_us)
        refreshed = set()
        for span in in_order(spans):
            for table in self._tables_of(span):
                if table.name not in refreshed:
                    table.refresh()
                    refreshed.add(table.name)
                if add_span(span, table):
                    _log.info("rolled forward", extra={"span": span.span_id, "table": table.name})
        failpoint("start-rolled")
        return spans


def was_added_to(table: Table) -> bool:
    """Return whether a span was ever added to a table.

    Its version does not tell it: processes that make a table at the same moment commit one after the other.
    """
    return any(kind_of(app)[0] == "position" for app in table.all_transactions())
