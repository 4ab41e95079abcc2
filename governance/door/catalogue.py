"""Which relations there are: published datasets, the columns the rules publish now, the files of their tables now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from governance.door.relations import VERSION, Relation
from governance.masking import MaskPlan, compile_masks
from governance.rules import load_policy
from vitalake.errors import InputError, PrivacyError
from vitalake.keys import KeyRing
from vitalake.lake.dataset import load_dataset, published_datasets
from vitalake.lake.lake import published_name
from vitalake.lake.storage import Storage, open_storage
from vitalake.lake.table import Table
from vitalake.settings import Settings

_TYPES = {
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
    pa.float64(): "DOUBLE",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.string(): "VARCHAR",
    pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
}


class Catalogue:
    """The relations of a home, by the rules as they are when it is opened."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        """Read the rules.

        Raises:
            RuleError: they do not hold; nothing is offered.
        """
        policy = load_policy(settings.path(settings.governance))
        self._settings = settings
        self._plans = {name: compile_masks(policy, load_dataset(name), keys) for name in published_datasets()}

    @property
    def names(self) -> list[str]:
        """Return the datasets' names."""
        return list(self._plans)

    def columns(self, dataset: str) -> dict[str, str]:
        """Return the columns that the rules publish, with their DuckDB types.

        Raises:
            InputError: there is no such dataset; the name is not echoed.
        """
        return {plan.column.name: _TYPES[plan.column.type] for plan in self._plan(dataset).columns if plan.published}

    def _plan(self, dataset: str) -> MaskPlan:
        if dataset not in self._plans:
            raise InputError(
                "No such dataset is published", where="dataset", remedy=f"There are: {', '.join(self._plans)}."
            )
        return self._plans[dataset]

    @contextmanager
    def relations(self, datasets: Iterable[str]) -> Iterator[list[Relation]]:
        """Yield relations of some datasets, each of one version of its table; their files stay until the end.

        Raises:
            InputError: there is no such dataset, or its table has other columns.
            PrivacyError: the rules take away what tells versions apart.
        """
        storage = open_storage(self._settings.lake_uri, self._settings.storage_options)
        with TemporaryDirectory(prefix="vitalake-door-", ignore_cleanup_errors=True) as folder:
            yield [self._relation(name, storage, Path(folder)) for name in datasets]

    def _relation(self, dataset: str, storage: Storage, folder: Path) -> Relation:
        columns = self.columns(dataset)
        declared = self._plan(dataset).dataset
        if not columns.keys() >= set(declared.key):
            raise PrivacyError(
                "The rules do not publish what tells versions apart",
                where=f"{dataset}: {', '.join(declared.key)}",
                remedy="Publish the key's columns, masked if need be.",
            )
        paths: list[str] = []
        if storage.holds_table(published_name(dataset)):
            table = Table(declared, storage, zone="published")
            paths = [_local(table.storage, path, folder / dataset) for path in sorted(table.snapshot().files)]
        return Relation(dataset, columns, tuple(name for name in declared.key if name != VERSION), tuple(paths))


def _local(storage: Storage, path: str, folder: Path) -> str:
    """Return where a file lies on this machine, fetched if need be: the sandbox has no network and no credentials."""
    if storage.local:
        return f"{storage.root}/{path}"
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with storage.fs.open_input_stream(f"{storage.root}/{path}") as source, target.open("wb") as out:
        while chunk := source.read(1 << 20):
            out.write(chunk)
    return str(target)
