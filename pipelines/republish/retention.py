"""Retention in all zones: deletes published and identified rows that are older than their dataset is kept for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from governance.erasure.alone import erasures_locked
from governance.keyuse import open_vault
from governance.policy.masks import Pseudonyms
from pipelines.republish.republish import publishing_alone
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.commits.lake import published_name, restricted_name
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.lake.maintenance.deletion import Value
from vitalake.lake.maintenance.lock import outdate_replacement
from vitalake.lake.maintenance.retention import Expired, expire, first_kept_day
from vitalake.settings import Settings


def retain(
    settings: Settings,
    *,
    datasets: list[str] | None = None,
    days: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Expired]:
    """Delete the days that are older than datasets are kept for; yield what was deleted, table by table.

    Rows of patients on legal hold stay, in every zone. For published rows the published date counts.

    Args:
        settings: of the home.
        datasets: only these; None: all that have days.
        days: how long they are kept, instead of what their declarations say.
        progress: called with each day before it is deleted.

    Raises:
        LakeError, ServiceUnavailable: it has stopped; days that were deleted before stay deleted.
    """
    lake = Home(settings).lake()
    here = lake.here()
    for dataset in datasets or published_datasets():
        retention_days = days or load_dataset(dataset).retention_days
        # Published rows first: whoever is killed in between has not deleted the rows that they are made of.
        names = (published_name(dataset), restricted_name(dataset))
        if not retention_days or not here.keys() & names or not load_dataset(dataset).day_of:
            continue
        done = []
        # Who sets a legal hold waits until the dataset is done. No republish may come between its two tables.
        with erasures_locked(settings), publishing_alone(lake.storage, dataset):
            tables = [lake.table(name) for name in names if lake.storage.holds_table(name)]
            lake.spans.raise_fence(dataset)
            for table in tables:
                outdate_replacement(table)
            for table in tables:
                held = _on_hold(settings, identified=table.name.startswith("restricted/"))
                done.append(expire(table, first_kept_day(retention_days), held=held, progress=progress))
        yield from done


def _on_hold(settings: Settings, *, identified: bool) -> Collection[Value]:
    """Return the patients on legal hold, as a table names them; read for each dataset: a hold can be set meanwhile."""
    keys = Home(settings).keys
    vault = open_vault(settings, keys, purpose="retention")
    try:
        subjects = vault.on_hold()
        ids = list(vault.patient_ids(subjects).values())
    finally:
        vault.close()
    return subjects if identified else [token for makes in _pseudonyms(keys) for token in map(makes.token, ids)]


def _pseudonyms(keys: KeyRing) -> list[Pseudonyms]:
    """Return a maker of pseudonyms for each version of the key, because a re-key can be under way."""
    rings = [KeyRing(keys.keys, keys.current_versions | {"pseudonym": k.version}) for k in keys.versions("pseudonym")]
    return [Pseudonyms(ring, "patient-identifier") for ring in rings]
