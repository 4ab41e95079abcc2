"""Publishes a dataset anew: its identified rows through today's rules and keys, in the place of what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pyarrow as pa

from governance.keyuse import open_vault
from governance.policy.masking import HIDING, MaskPlan, writing_plan
from governance.policy.rules import load_policy
from governance.vault import Vault
from governance.vault.sealed_rows import RowSealer
from pipelines.intake.steps import make_sealer
from vitalake.errors import InputError, LakeError
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake, restricted_name
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.lake.maintenance.journal import Journal
from vitalake.lake.maintenance.lock import abandon
from vitalake.lake.maintenance.replacement import Converted, TableReplaced, replace_table
from vitalake.lake.maintenance.rewrite import lost_app
from vitalake.lake.maintenance.vacuum import delete_replaced
from vitalake.lake.tables.dictionaries import in_dictionaries
from vitalake.lake.tables.log import note_made_again
from vitalake.lake.tables.staging import Counted
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

    Streams go on: the raised fence makes them read rules and keys anew. Begun again, a killed one goes on.

    Args:
        settings: of the home.
        dataset: which.
        keep_replaced: leave the files of before to the vacuum; else they are deleted, and no older version of the
            table shows what today's rules hide.
        without_lost: go on also where identified rows were left out as lost: they are not published any more then.
        counted: told how many rows were made.

    Raises:
        InputError: the dataset is not kept restricted, or nothing of it is there.
        RuleError: today's rules do not hold; nothing is changed.
        LakeError: rows were published that there are no identified ones of, or some of these were left out as lost, or
            the lake has another format; nothing is changed.
        KeyRevoked: patients' keys cannot be had.
        ServiceUnavailable: lake or vault cannot be reached; begin it again.
    """
    lake = open_restricted(settings, dataset)
    lake.check_writable()
    if not without_lost:
        refuse_lost(lake)
    rules = _plan(settings, lake.dataset).version
    opened: list[Vault] = []

    def make() -> Callable[[pa.Table], Converted]:
        plan = _plan(settings, lake.dataset)
        if plan.version != rules:
            raise LakeError("The rules were changed under way", where=dataset, remedy="Start it again.")
        keys = Home(settings).keys
        opened.append(open_vault(settings, keys, purpose="republish"))
        return converter(make_sealer(lake.dataset, opened[-1], keys), plan)

    try:
        done = replace_table(lake, kind="republish", rules=f"{rules}+{HIDING}", make=make, counted=counted)
    finally:
        for vault in opened:
            vault.close()
    _accept_lost(lake)
    if not keep_replaced:
        delete_replaced(lake.published)
    note_made_again(lake.published.storage)
    return done


def refuse_lost(lake: Lake) -> None:
    """Stop where identified rows were left out as lost: what is published of them is the last there is.

    Raises:
        LakeError: some were, since the dataset was published again.
    """
    table = lake.restricted
    table.refresh()
    lost = table.transaction(lost_app(table)) or 0
    if lost > 0:
        raise LakeError(
            f"{lost:,} identified rows were left out as lost: publishing again would take them out of published too",
            where=table.name,
            remedy="Nothing was changed. Restore the table from a back-up, or publish again without them: "
            f"vitalake lake rewrite --republish {lake.dataset.name} --without-lost",
        )


def _accept_lost(lake: Lake) -> None:
    """Write down that what was lost is not published any more either."""
    table = lake.restricted
    table.refresh()
    if table.transaction(lost_app(table)):
        table.commit_when(lambda: "commit", transactions={lost_app(table): 0})


def give_up(settings: Settings, dataset: str) -> bool:
    """End a republish that is not to be gone on with; return whether there was one. The published rows stay."""
    lake = open_restricted(settings, dataset)
    return abandon(Journal(lake.storage, dataset), [lake.published, lake.restricted])


def open_restricted(settings: Settings, dataset: str) -> Lake:
    """Return the lake, of a dataset that is kept restricted.

    Raises:
        InputError: it is not, or nothing of it is there.
    """
    lake = Home(settings).lake(dataset)
    lake.format  # noqa: B018 - refuses a later release's
    if not lake.dataset.restricted:
        raise InputError(
            "Dataset is not kept as it came",
            where=dataset,
            remedy="Only what the restricted zone has can be published anew; load it again from its source.",
        )
    if not lake.storage.holds_table("spans") or not lake.storage.holds_table(restricted_name(dataset)):
        raise InputError(
            "Nothing of the dataset is kept as it came",
            where=restricted_name(dataset),
            remedy="Load or stream it first.",
        )
    return lake


def restricted_datasets(settings: Settings) -> list[str]:
    """Return the datasets that the restricted zone has something of."""
    lake = Home(settings).lake()
    kept = [name for name in published_datasets() if load_dataset(name).restricted]
    return [name for name in kept if lake.storage.holds_table(restricted_name(name))]


def converter(sealer: RowSealer, plan: MaskPlan) -> Callable[[pa.Table], Converted]:
    """Return what makes published rows of a batch of identified ones."""

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
