"""What serving must repeat: the rules under which the data were published, and what they do to values."""

from __future__ import annotations

from dataclasses import dataclass

from governance.policy.masking import compile_masks
from governance.policy.masks.cap import CapOptions
from governance.policy.rules import load_policy
from models.tasks import Task
from vitalake.errors import ModelError
from vitalake.home import Home
from vitalake.lake.commits.spans import SpanLog
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a model was trained under.

    Attributes:
        policy_version: of the rules; serving under others abstains.
        age_cap: ages above count as this one, as they are published; None: they are not capped.
    """

    policy_version: str
    age_cap: int | None


def pin(settings: Settings, task: Task) -> Pinned:
    """Return what the rules in force do to what a task's features and label are made of.

    Raises:
        ModelError: they change a value in a way serving does not repeat, or rows were published under other rules.
    """
    policy = load_policy(settings.path(settings.governance))
    keys = Home(settings).keys
    caps = {rule.id: o.at for rule in policy.rules if isinstance(o := rule.then.options, CapOptions)}
    age_cap: int | None = None
    for name, columns in task.reads.items():
        for plan in compile_masks(policy, load_dataset(name), keys).columns:
            if plan.column.name not in columns or plan.mask_name == "keep":
                continue
            if plan.column.name == "age_at_admission" and plan.mask_name == "cap":
                age_cap = caps[str(plan.rule)]
                continue
            raise ModelError(
                "The rules change what features are made of, and serving could not repeat it",
                where=f"{name}.{plan.column.name}, rule {plan.rule or 'none'}",
                remedy="Keep that column, or do not train from this lake.",
            )
    for version in sorted(_published_under(settings, task)):
        if version != policy.version:
            raise ModelError(
                "Rows were published under other rules than those in force",
                where=f"rules {version}, now {policy.version}",
                remedy="Load them into a new home; what two sets of rules made does not fit together.",
            )
    return Pinned(policy.version, age_cap)


def _published_under(settings: Settings, task: Task) -> set[str]:
    storage = open_storage(settings.lake_uri, settings.storage_options)
    if not storage.holds_table("spans"):
        return set()
    spans = SpanLog(storage).table.scan(columns=["rules", "dataset"])
    rows = zip(spans["rules"].to_pylist(), spans["dataset"].to_pylist(), strict=True)
    return {rules.partition("+")[0] for rules, dataset in rows if dataset in task.reads and rules}
