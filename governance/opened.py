"""The Python interface to a home: what ``vitalake.open`` returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vitalake import declarations
from vitalake.errors import InputError, SettingsError
from vitalake.home import Home
from vitalake.homes import resolve_home
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings, load_settings
from vitalake.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from governance.access import Principal
    from governance.query.service import Answer, QueryService


class OpenedHome:
    """A home: its settings, its lake, and its published rows. The audit records every read of published rows.

    ``read`` and ``sql`` do not give identified rows; ``vitalake sql --identified`` does. ``lake`` gives access to the
    tables themselves, for people who maintain them: as with direct access to the files, this is not recorded, and
    identifying values are sealed. Not to be shared between threads.

    Attributes:
        settings: the home's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        """Return the class and the folder of the home."""
        return f"{type(self).__name__}({str(self.settings.home)!r})"

    @property
    def datasets(self) -> list[str]:
        """The names of the published datasets."""
        return self._query_service.catalogue.names

    def columns(self, dataset: str) -> dict[str, str]:
        """Return the columns that the rules publish of a dataset, with their SQL types.

        Raises:
            InputError: there is no such dataset.
        """
        return self._query_service.catalogue.published_columns(dataset)

    def read(
        self,
        dataset: str,
        columns: Sequence[str] | None = None,
        *,
        as_known_at: datetime | None = None,
        where: Mapping[str, Sequence[str | int | float]] | None = None,
        purpose: str = "python",
    ) -> pa.Table:
        """Return the current rows of a published dataset, in no order.

        Each record appears once, in its highest version; records that were withdrawn are left out. ``.to_pandas()``
        turns the table into a pandas frame, ``polars.from_arrow`` into a Polars one.

        Args:
            dataset: its name, such as ``observation``.
            columns: names of published columns; default: all of them.
            as_known_at: a moment with a time zone: the rows that were current by what was known then. None: now.
            where: column → values; only rows with one of these values in each of these columns.
            purpose: a code for the audit, such as ``audit-2026``; must name no patient.

        Returns:
            All rows. If they do not fit in memory, use ``where`` or ``batches``.

        Raises:
            InputError: there is no such dataset or column, or ``as_known_at`` cannot be used.
            PrivacyError: the role does not allow it, or the lake was restored to a day before an erasure.
            VitaLakeError: lake or audit cannot be reached; nothing was read.
        """
        return pa.Table.from_batches(
            self.batches(dataset, columns, as_known_at=as_known_at, where=where, purpose=purpose)
        )

    def batches(
        self,
        dataset: str,
        columns: Sequence[str] | None = None,
        *,
        as_known_at: datetime | None = None,
        where: Mapping[str, Sequence[str | int | float]] | None = None,
        purpose: str = "python",
    ) -> Iterator[pa.RecordBatch]:
        """Return the same rows as ``read``, some ten thousand at a time; the first batch is empty, with the schema."""
        return self._query_service.read(
            dataset,
            columns=list(self.columns(dataset)) if columns is None else columns,
            principal=self._principal,
            purpose=purpose,
            where=where,
            as_known_at=as_known_at,
            action="published.read",
        )

    def sql(self, query: str, *, rows: int | None = None, seconds: int | None = None) -> Answer:
        """Return the answer of a query over published data; see QueryService.query for what it raises.

        Args:
            query: one SELECT; ``<dataset>`` is its current rows, ``<dataset>_versions`` all of them.
            rows: the most rows of the answer, which says whether there are more. None: 1,000.
            seconds: how long the query may run. None: 60.
        """
        from governance.query.service import ROWS, SECONDS

        rows, seconds = ROWS if rows is None else rows, SECONDS if seconds is None else seconds
        return self._query_service.query(query, principal=self._principal, rows=rows, seconds=seconds)

    def lake(self, job: str | None = None) -> Lake:
        """Return the lake, with the tables of a job's dataset; by default of the first job.

        Raises:
            InputError: nothing was ever written; this function must not create tables.
            SettingsError: there is no such job.
        """
        jobs = self.settings.jobs
        if job is not None and job not in jobs:
            raise SettingsError("Unknown job", where=job, remedy=f"The configuration has: {', '.join(jobs)}.")
        dataset = next(iter(jobs.values())).dataset if job is None else jobs[job].dataset
        declarations.use(self.settings.home)
        self.refuse_no_lake()
        return Home(self.settings).lake(dataset)

    def refuse_no_lake(self) -> None:
        """Raise an error if nothing was ever written to the lake.

        Raises:
            InputError: the lake has no table ``spans``.
        """
        if not open_storage(self.settings.lake_uri, self.settings.storage_options).holds_table("spans"):
            raise InputError(
                "There is no lake yet",
                where=self.settings.lake_uri,
                remedy="Run 'vitalake stream' or 'vitalake demo' first.",
            )

    def ledger(self, job: str | None = None, *, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Return what became of every message and row, with the keys of ``vitalake ledger --json``.

        The list of unmapped codes leaves out those that are mapped by now.

        Args:
            job: one job; default: all of them.
            progress: called with each day before its spans are read.

        Raises:
            VitaLakeError: as ``lake``, or the lake cannot be read.
        """
        declarations.use(self.settings.home)
        mapped = load_vocabulary().mapped
        return summarise(self.lake(job).spans, job=job, progress=progress).to_json(mapped=mapped)

    @property
    def _query_service(self) -> QueryService:
        declarations.use(self.settings.home)  # they are global: another home may have been opened in the meantime
        return self._cached_service

    @cached_property
    def _cached_service(self) -> QueryService:
        from governance.query.service import QueryService

        return QueryService(self.settings)

    @cached_property
    def _principal(self) -> Principal:
        from governance.access import local_principal

        return local_principal()


def open_home(home: str | os.PathLike[str] | None = None) -> OpenedHome:
    """Return an existing home; see vitalake.open."""
    return OpenedHome(load_settings(resolve_home(home)))
