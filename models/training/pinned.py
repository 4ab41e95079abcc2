"""What serving must repeat: the masking rules of the training data, and what they do to values."""

from __future__ import annotations

from dataclasses import dataclass

from governance.policy.masking import compile_masks
from governance.policy.masks.cap import CapOptions
from governance.policy.rules import load_policy
from models.tasks import Task
from vitalake.errors import ModelError
from vitalake.home import Home
from vitalake.lake.commits.span_log import SpanLog
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings


@dataclass(frozen=True, slots=True)
class Pinned:
    """The masking rules that a model was trained under.

    Attributes:
        policy_version: of the rules; under other rules serving abstains.
        age_cap: higher ages are published as this one; None: ages are not capped.
    """

    policy_version: str
    age_cap: int | None


def pin(settings: Settings, task: Task) -> Pinned:
    """Return the rules in force, checked for the columns that a task's features and label are read from.

    Raises:
        ModelError: the rules change a value in a way that serving cannot repeat, or rows have other rules.
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
                "The rules change a column of the features, and serving cannot repeat that",
                where=f"{name}.{plan.column.name}, rule {plan.rule or 'none'}",
                remedy="Change the rule to keep that column, or train from another lake.",
            )
    for version in sorted(_published_under(settings, task)):
        if version != policy.version:
            raise ModelError(
                "Rows were published under other rules than those in force",
                where=f"rules {version}, now {policy.version}",
                remedy="Load the data into a new home: rows that were published under different rules cannot be mixed.",
            )
    return Pinned(policy.version, age_cap)


def _published_under(settings: Settings, task: Task) -> set[str]:
    storage = open_storage(settings.lake_uri, settings.storage_options)
    if not storage.holds_table("spans"):
        return set()
    spans = SpanLog(storage).table.scan(columns=["rules", "dataset"])
    rows = zip(spans["rules"].to_pylist(), spans["dataset"].to_pylist(), strict=True)
    return {rules.partition("+")[0] for rules, dataset in rows if dataset in task.reads and rules}
