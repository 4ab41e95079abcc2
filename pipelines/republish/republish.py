"""Publishes a dataset again: masks its identified rows with today's rules and keys, and replaces the published rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa

from governance.keyuse import open_vault
from governance.policy.masking import HIDING, MaskPlan, writing_plan
from governance.policy.rules import load_policy
from governance.vault import Vault
from governance.vault.sealed_rows import RowSealer
from pipelines.intake.steps import make_sealer
from vitalake.errors import InputError, LakeError, ServiceUnavailable
from vitalake.folders import folder_lock
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake, restricted_name
from vitalake.lake.commits.transactions import lost_app
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.lake.maintenance.journal import Journal
from vitalake.lake.maintenance.lock import abandon
from vitalake.lake.maintenance.replacement import Converted, TableReplaced, refuse_missing, replace_table
from vitalake.lake.maintenance.vacuum import delete_replaced, kept_files
from vitalake.lake.tables.dictionaries import in_dictionaries
from vitalake.lake.tables.log_files import lost_with_the_log, note_made_again
from vitalake.lake.tables.staging import Counted
from vitalake.lake.tables.storage import Storage
from vitalake.settings import Settings


def republish(
    settings: Settings,
    dataset: str,
    *,
    keep_replaced: bool = False,
    without_lost: bool = False,
    counted: Counted | None = None,
) -> TableReplaced:
    """Publish all of a dataset's identified rows by today's rules, in one commit; safe beside streams.

    Streams continue: the raised fence makes them read rules and keys again. A run that was killed is continued when it
    is started again.

    Args:
        settings: of the home.
        dataset: which dataset.
        keep_replaced: leave the replaced files to the vacuum. Otherwise they are deleted at once, so that no older
            version of the table shows what today's rules hide.
        without_lost: continue even if identified rows were left out as lost; these are no longer published then.
        counted: called with the number of rows that were made.

    Raises:
        InputError: the dataset is not kept restricted, or has no rows.
        RuleError: today's rules are not valid; nothing is changed.
        LakeError: identified rows are missing of some published rows, or were left out as lost, or the lake has another
            format; nothing is changed.
        KeyRevoked: patients' keys are not available.
        ServiceUnavailable: lake or vault cannot be reached; start it again.
    """
    lake = open_restricted(settings, dataset)
    lake.check_writable()
    refuse_loss(lake, without_lost=without_lost)
    rules = _plan(settings, lake.dataset).version
    opened: list[Vault] = []

    def make() -> Callable[[pa.Table], Converted]:
        plan = _plan(settings, lake.dataset)
        if plan.version != rules:
            raise LakeError("The rules were changed meanwhile", where=dataset, remedy="Start the command again.")
        keys = Home(settings).keys
        opened.append(open_vault(settings, keys, purpose="republish"))
        return converter(make_sealer(lake.dataset, opened[-1], keys), plan)

    try:
        with publishing_alone(lake.storage, dataset):
            done = replace_table(lake, kind="republish", rules=f"{rules}+{HIDING}", make=make, counted=counted)
    finally:
        for vault in opened:
            vault.close()
    _accept_lost(lake)
    if not keep_replaced:
        delete_replaced(lake.published)
    table = lake.published
    for path in lost_with_the_log(table.storage) - kept_files(table):
        table.storage.delete(path)
    note_made_again(table.storage)
    return done


@contextmanager
def publishing_alone(lake: Storage, dataset: str) -> Iterator[None]:
    """Keep other processes of this host from publishing the same dataset: each would take the job from the other.

    The lock is on the folder of the identified rows: the published one can be gone, and is made again then.

    Args:
        lake: the lake's storage.
        dataset: which dataset; if none of its identified rows are kept, nobody can publish it again.

    Raises:
        ServiceUnavailable: another one does.
    """
    storage = lake.child(restricted_name(dataset))
    there = storage.local and Path(storage.root).is_dir()
    try:
        with folder_lock(Path(storage.root), wait=False) if there else nullcontext():
            yield
    except BlockingIOError:
        raise ServiceUnavailable(
            "Another process is publishing this dataset again, or deletes its old days",
            where=dataset,
            remedy="Let it end first.",
        ) from None


def refuse_loss(lake: Lake, *, without_lost: bool = False) -> None:
    """Stop if publishing the dataset again would lose rows; call it before anything is changed.

    Args:
        lake: of the dataset.
        without_lost: whether rows are to go whose identified rows were left out as lost.

    Raises:
        LakeError: rows were published of which identified ones were never kept, or some were left out as lost since the
            dataset was last published again, so that their published rows are the last copy.
    """
    refuse_missing(lake)
    if without_lost:
        return
    table = lake.restricted
    table.refresh()
    lost = table.transaction(lost_app(table.name)) or 0
    if lost > 0:
        raise LakeError(
            f"{lost:,} identified rows were left out as lost: publishing again would delete their published rows too",
            where=table.name,
            remedy="No row was published. Restore the table from a back-up, or publish again without them: "
            f"vitalake lake rewrite --republish {lake.dataset.name} --without-lost",
        )


def _accept_lost(lake: Lake) -> None:
    """Record that the published rows of lost rows are gone too."""
    table = lake.restricted
    table.refresh()
    if table.transaction(lost_app(table.name)):
        table.commit_when(lambda: "commit", transactions={lost_app(table.name): 0})


def give_up(settings: Settings, dataset: str) -> bool:
    """Abandon a republish that was begun; return whether there was one. The published rows stay as they are."""
    lake = open_restricted(settings, dataset)
    return abandon(Journal(lake.storage, dataset), [lake.published, lake.restricted])


def open_restricted(settings: Settings, dataset: str) -> Lake:
    """Return the lake for a dataset whose identified rows are kept in the restricted zone.

    Raises:
        InputError: they are not kept, or there are none.
    """
    lake = Home(settings).lake(dataset)
    lake.format  # noqa: B018 - raises for the lake of a later release
    if not lake.dataset.restricted:
        raise InputError(
            "Identified rows of the dataset are not kept",
            where=dataset,
            remedy="Only a dataset with rows in the restricted zone can be published again; load it from its source.",
        )
    if not lake.storage.holds_table("spans") or not lake.storage.holds_table(restricted_name(dataset)):
        raise InputError(
            "Dataset has no identified rows",
            where=restricted_name(dataset),
            remedy="Load or stream it first.",
        )
    return lake


def restricted_datasets(settings: Settings) -> list[str]:
    """Return the datasets that have a table in the restricted zone."""
    lake = Home(settings).lake()
    kept = [name for name in published_datasets() if load_dataset(name).restricted]
    return [name for name in kept if lake.storage.holds_table(restricted_name(name))]


def converter(sealer: RowSealer, plan: MaskPlan) -> Callable[[pa.Table], Converted]:
    """Return a function that makes published rows of a batch of identified ones."""

    def convert(batch: pa.Table) -> Converted:
        opened = sealer.open(batch, encoded=True)
        masked = [plan.apply(part, encoded=True) for part in opened.to_batches()]
        rows = pa.Table.from_batches([part.rows for part in masked], in_dictionaries(plan.dataset.schema))
        unfit = Counter({name: int(bad.sum()) for part in masked for name, bad in part.unfit.items()})
        return Converted(
            rows,
            filtered=opened.num_rows - rows.num_rows,
            forgotten=batch.num_rows - opened.num_rows,
            unfit=dict(unfit),
        )

    return convert


def _plan(settings: Settings, dataset: Dataset) -> MaskPlan:
    keys = Home(settings).keys
    return writing_plan(load_policy(settings.path(settings.governance)), dataset, keys)
