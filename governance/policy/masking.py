"""Compiles the rules for a dataset, checks its filters, leaves rows out by them, and masks the others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.errors import RuleError
from governance.policy.absent_reason import with_reason
from governance.policy.closed_text import Rows, Unfit, describe_allowed, make_unfit, without
from governance.policy.masks import Mask, fits, make_mask, mask_kind
from governance.policy.rules import Filter, Policy, Rule
from governance.policy.stand_ins import StandIns
from vitalake.errors import PrivacyError
from vitalake.keys import KeyRing
from vitalake.lake.datasets.dataset import ALWAYS, UNFIT_KEY, Column, Dataset, says_status
from vitalake.lake.datasets.declared import dataset_names, load_dataset
from vitalake.lake.tables.dictionaries import as_type, in_dictionaries
from vitalake.lake.unlinkable.message_tokens import MessageTokens, without_partitions
from vitalake.lake.unlinkable.own_times import end_of_day
from vitalake.lake.unlinkable.unranked import Unranked, ranks, record_key

DECIDING = ("version", "status", "attribution")
"""Columns beside the key that tell which row of a record counts; only as they are can they tell it."""

TOKENISED = "message-token"
"""Shown instead of a mask for a message's position that the rules keep: it is published as a token in any case."""

TOPIC = "topic"
"""Shown instead of ``keep`` for a message's source: only its topic is published, without the partition."""

HIDING = "message-token-3"
"""The version of what is hidden whatever the rules say. A republication keeps it with the rules' version, so that one
that was begun by code that hid something else is not resumed."""


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """What happens to one column; without a mask it is not published.

    Attributes:
        column: the column.
        rule: id of the rule that decides; None: no rule applies to the column.
        mask_name: the name of the rule's mask.
        mask: the mask.
        holds: of text that is published as it came: in words, which texts it may hold; None: no other text is.
        unfit: finds the text of such a column that is not published.
        overruled: ids of other rules that would do something else to the column, and do not.
    """

    column: Column
    rule: str | None
    mask_name: str | None
    mask: Mask | None = field(repr=False)
    holds: str | None = None
    unfit: Unfit | None = field(default=None, repr=False)
    overruled: tuple[str, ...] = ()

    @property
    def published(self) -> bool:
        """Return whether anything of the column is published."""
        return self.mask is not None and self.mask_name != "drop"

    @property
    def token(self) -> bool:
        """Return whether the column is published as a message token, whichever mask the rules name."""
        return self.published and self.column.token_with is not None


class Masked(NamedTuple):
    """Rows as they may be published.

    Attributes:
        rows: with the dataset's columns.
        kept: which of the given rows are among them; None: all.
        unfit: column → which of the rows had text that the column must not hold, and have null instead.
    """

    rows: pa.RecordBatch
    kept: Rows | None
    unfit: dict[str, Rows]


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """A policy compiled for a dataset.

    Attributes:
        dataset: the dataset.
        version: of the rules, of the pseudonym key, and of the lists that the dataset's columns use.
        columns: what happens to each column.
        filters: which rows are left out.
        tokens: makes tokens of messages' positions, whatever the rules say; None: the home has no key for it, and no
            positions are published. See ``writing_plan``.
        stand_ins: tells records apart whose key has text that does not fit; None: as for tokens.
        unranked: removes, before any mask, what would show the order of rows from this system's own times and from
            versions; None: as for tokens.
    """

    dataset: Dataset
    version: str
    columns: tuple[ColumnPlan, ...]
    filters: tuple[Filter, ...]
    tokens: MessageTokens | None = field(default=None, repr=False)
    unranked: Unranked | None = field(default=None, repr=False)
    stand_ins: StandIns | None = field(default=None, repr=False)

    @property
    def unclear(self) -> tuple[ColumnPlan, ...]:
        """The columns that tell which row of a record counts, and whose published form no longer tells it.

        A mask that makes different values equal would make one record of two, and hide one of them; without the status,
        a withdrawn value would be shown.
        """
        key = {*record_key(self.dataset), UNFIT_KEY.name}
        return tuple(
            plan
            for plan in self.columns
            if (plan.column.name in key and not (plan.published and mask_kind(str(plan.mask_name)).distinct))
            or (plan.column.name in DECIDING and plan.mask_name != "keep")
            or (plan.column.name == "status" and not self.dataset.measures and not says_status(plan.column))
        )

    def apply(self, batch: pa.RecordBatch, *, encoded: bool = False) -> Masked:
        """Return the rows as they may be published.

        All published rows pass through this function: those of both lanes, of replays, of held messages, and of
        republications.

        Args:
            batch: identified rows; columns by name, dictionary-encoded or plain, absent ones count as null.
            encoded: return text as dictionaries, which may still hold text of rows that were left out.
        """
        schema = in_dictionaries(self.dataset.schema) if encoded else self.dataset.schema
        kept = self._kept(batch)
        if kept is not None:
            batch = batch.filter(pa.array(kept))
        names = set(batch.schema.names)
        arrays = []
        unfit: dict[str, Rows] = {}
        for plan in self.columns:
            name = plan.column.name
            kind = schema.field(name).type
            if name == UNFIT_KEY.name and plan.published:
                arrays.append(self._stand_ins(batch, unfit))  # the last column: the key's texts are known by now
                continue
            if plan.mask is None or name not in names:
                arrays.append(pa.nulls(batch.num_rows, kind))
                continue
            masked = self._tokens(plan, batch) if plan.token else plan.mask(self._given(plan, batch))
            if plan.unfit is not None and (bad := plan.unfit(batch)) is not None:
                unfit[name] = bad
                masked = without(masked, bad)
            arrays.append(as_type(masked, kind))
        return self._with_reasons(Masked(pa.RecordBatch.from_arrays(arrays, schema=schema), kept, unfit), batch)

    def _with_reasons(self, masked: Masked, given: pa.RecordBatch) -> Masked:
        """Return the rows as the dataset's ``one_of`` requires: each has a value, or the reason why it has none."""
        one_of = self.dataset.one_of
        if one_of is None:
            return masked
        published = any(plan.published and plan.column.name == one_of.reason for plan in self.columns)
        rows, with_value = with_reason(masked.rows, given, one_of, published=published)
        if with_value is None:
            return Masked(rows, masked.kept, masked.unfit)
        unfit = {name: bad[with_value] for name, bad in masked.unfit.items()}
        return Masked(rows, _both(masked.kept, with_value), unfit)

    def _tokens(self, plan: ColumnPlan, batch: pa.RecordBatch) -> pa.Array:
        if self.tokens is None:
            return pa.nulls(batch.num_rows, plan.column.type)
        return self.tokens(batch.column(str(plan.column.token_with)), batch.column(plan.column.name))

    def _given(self, plan: ColumnPlan, batch: pa.RecordBatch) -> pa.Array:
        """Return a column without what would show the order of rows, or their partition, whatever the rules say."""
        column = batch.column(plan.column.name)
        if plan.column.name in self.dataset.sources:
            return without_partitions(column)
        if not plan.published or not ranks(plan.column):
            return column
        if plan.column.ours == ALWAYS:
            return end_of_day(column)
        if self.unranked is None or not set(record_key(self.dataset)) <= set(batch.schema.names):
            return pa.nulls(batch.num_rows, column.type)
        return self.unranked(plan.column, batch, lambda: self._names(batch), self.dataset)

    def _names(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """Return the record keys in their published form, so that published rows can be reproduced from them."""
        plans = {plan.column.name: plan for plan in self.columns}
        return [self._named(plans[name], batch) for name in record_key(self.dataset)]

    def _named(self, plan: ColumnPlan, batch: pa.RecordBatch) -> pa.Array:
        given = batch.column(plan.column.name)
        if not plan.published or plan.mask is None:
            return given
        masked = plan.mask(given)
        bad = None if plan.unfit is None else plan.unfit(batch)
        return masked if bad is None else without(masked, bad)

    def _stand_ins(self, batch: pa.RecordBatch, unfit: dict[str, Rows]) -> pa.Array:
        """Return the column ``unfit_key``: set where a text of the record's key does not fit, else null."""
        key = record_key(self.dataset)
        bad = [rows for name, rows in unfit.items() if name in key]
        if not bad or self.stand_ins is None or not set(key) <= set(batch.schema.names):
            return pa.nulls(batch.num_rows, UNFIT_KEY.type)
        return self.stand_ins(np.logical_or.reduce(bad), self.dataset.name, [batch.column(name) for name in key])

    def _kept(self, batch: pa.RecordBatch) -> Rows | None:
        kept: Rows | None = None
        for rule in self.filters:
            if rule.column not in batch.schema.names:
                continue
            column = batch.column(rule.column)
            if pa.types.is_dictionary(column.type) and not set(column.dictionary.to_pylist()) & set(rule.values):
                continue
            hit = pc.is_in(column.cast(pa.string()), value_set=pa.array(rule.values, pa.string()))
            if hit.true_count:
                passed = ~hit.to_numpy(zero_copy_only=False)
                kept = passed if kept is None else kept & passed
        return kept

    def describe(self) -> list[dict[str, str | bool | None]]:
        """Return for each column its class, rule and mask, whether it is published, and which texts it may hold."""
        return [
            {
                "column": plan.column.name,
                "class": plan.column.data_class,
                "rule": plan.rule,
                "mask": self._shown(plan),
                "published": plan.published,
                "holds": plan.holds,
                "overruled": ", ".join(plan.overruled) or None,
            }
            for plan in self.columns
        ]

    def _shown(self, plan: ColumnPlan) -> str | None:
        if plan.token:
            return TOKENISED
        return TOPIC if plan.mask_name == "keep" and plan.column.name in self.dataset.sources else plan.mask_name


def describe_unclear(plan: ColumnPlan) -> str:
    """Return in words what the rules do to a column that tells which row of a record counts."""
    if plan.published and plan.mask_name == "keep":
        return f"of class {plan.column.data_class}, so that a status can be lost"
    return f"{plan.mask_name}, rule {plan.rule}" if plan.published else "not published"


def _both(kept: Rows | None, with_value: Rows) -> Rows:
    """Return which of the given rows are kept: by the filters, and then because they have a value."""
    if kept is None:
        return with_value
    both = kept.copy()
    both[kept] = with_value
    return both


def compile_masks(policy: Policy, dataset: Dataset, keys: KeyRing) -> MaskPlan:
    """Return the plan by which a policy masks a dataset.

    Of several rules that apply to a column the most restrictive wins. A column without a data class, or of a class to
    which no rule applies, is not published.

    Raises:
        RuleError: a rule names a dataset, column or class that does not exist (it would protect nothing), fails its own
            examples, removes the time by which the table is partitioned, or keeps text that is not closed.
    """
    _check_names(policy, dataset)
    columns = tuple(_plan(policy, dataset, column, keys) for column in dataset.columns)
    filtering = (rule for rule in policy.rules if rule.then.filter and _applies_to_dataset(rule, dataset))
    filters = tuple(_checked_filter(rule, dataset) for rule in filtering)
    for plan in columns:
        if plan.column.name == dataset.day_of and not plan.published:
            raise RuleError(
                "The rules leave no date to partition by",
                where=f"{dataset.name}.{dataset.day_of}",
                remedy="Keep or generalise that column; its day names the partition.",
            )
    version = f"{policy.version}+{keys.current('pseudonym').id}{_version_of_lists(policy, dataset)}"
    if not keys.versions("message"):
        return MaskPlan(dataset, version, columns, filters)
    secret = keys.current("message").secret
    return MaskPlan(dataset, version, columns, filters, MessageTokens(secret), Unranked(secret), StandIns(secret))


def _version_of_lists(policy: Policy, dataset: Dataset) -> str:
    """Return a version of the lists that a dataset's columns use, apart from the rules' version.

    So a new ward does not change the rules, and models that were trained under them stay usable.
    """
    listed = sorted({column.listed for column in dataset.columns if column.listed})
    if not listed:
        return ""
    texts = [(name, sorted(policy.lists.get(name, ()))) for name in listed]
    return f"+{hashlib.sha256(repr(texts).encode()).hexdigest()[:8]}"


def writing_plan(policy: Policy, dataset: Dataset, keys: KeyRing) -> MaskPlan:
    """Return the plan by which a policy masks a dataset, with all keys that publishing needs.

    Raises:
        RuleError: as ``compile_masks``.
        PrivacyError: an earlier release made the home, so it has no key for message tokens.
    """
    plan = compile_masks(policy, dataset, keys)
    if plan.tokens is None:
        raise PrivacyError(
            "Key file has no key 'message'",
            where=dataset.name,
            remedy="If an earlier release made the home, run 'vitalake lake upgrade' to add it; else restore the file.",
        )
    return plan


def _check_names(policy: Policy, dataset: Dataset) -> None:
    known = {name: load_dataset(name) for name in dataset_names()} | {dataset.name: dataset}
    listed = {column.listed for of in known.values() for column in of.columns if column.listed}
    if unknown := sorted(policy.lists.keys() - listed):
        raise RuleError(
            "No column uses this list",
            where=f"list {unknown[0]}",
            remedy=f"The lists are: {', '.join(sorted(listed))}.",
        )
    for rule in policy.rules:
        what = rule.what
        if what.dataset is not None and what.dataset not in known:
            raise RuleError(
                "Rule names an unknown dataset",
                where=f"rule {rule.id}",
                remedy=f"The datasets are: {', '.join(known)}.",
            )
        columns = [c for d in known.values() if what.dataset in (None, d.name) for c in d.columns]
        for kind, given, names in (
            ("column", what.column, {c.name for c in columns}),
            ("data class", what.data_class, {c.data_class for c in columns if c.data_class}),
        ):
            if given is not None and given not in names:
                raise RuleError(
                    f"Rule names an unknown {kind}",
                    where=f"rule {rule.id}{f', {what.dataset}' if what.dataset else ''}",
                    remedy=f"There are: {', '.join(sorted(names))}.",
                )


def _applies_to_dataset(rule: Rule, dataset: Dataset) -> bool:
    return rule.what.dataset in (None, dataset.name)


def _checked_filter(rule: Rule, dataset: Dataset) -> Filter:
    assert rule.then.filter is not None
    known = {column.name: column.type for column in dataset.columns}
    if known.get(rule.then.filter.column) != pa.string():
        raise RuleError(
            "Filter does not name a text column of the dataset",
            where=f"rule {rule.id}, {dataset.name}",
            remedy="Name one of its columns that hold codes.",
        )
    return rule.then.filter


def _plan(policy: Policy, dataset: Dataset, column: Column, keys: KeyRing) -> ColumnPlan:
    data_class = column.data_class
    if data_class is None:
        return ColumnPlan(column, None, None, None)
    applicable = [
        rule
        for rule in policy.rules
        if rule.then.mask and rule.applies_to(dataset=dataset.name, column=column.name, data_class=data_class)
    ]
    if not applicable:
        return ColumnPlan(column, None, None, None)
    strictest = max(applicable, key=_restriction)
    mask = make_mask(strictest.then, keys=keys, domain=data_class)
    _check_examples(strictest, column, mask)
    others = {rule.id for rule in applicable if rule.then != strictest.then and mask_kind(str(rule.then.mask)).rank}
    overruled = tuple(sorted(others))
    name = str(strictest.then.mask) if fits(strictest.then, column.type, data_class) else "drop"
    if not mask_kind(name).keeps or column.type != pa.string() or dataset.is_book:
        return ColumnPlan(column, strictest.id, name, mask, overruled=overruled)
    if not column.closed:
        raise RuleError(
            "Text would be published as it came, and nothing says what it may be",
            where=f"{dataset.name}.{column.name}, rule {strictest.id}",
            remedy="Declare values, a list or a form in the dataset, or let a rule mask the column.",
        )
    unfit = make_unfit(column, policy.lists)
    return ColumnPlan(column, strictest.id, name, mask, describe_allowed(column, policy.lists), unfit, overruled)


def _restriction(rule: Rule) -> tuple[int, float]:
    """Return how much a rule removes: the rank of its mask, then the strictness of the mask's options."""
    kind = mask_kind(str(rule.then.mask))
    return (kind.rank, kind.strictness(rule.then.options))


def _as(kind: pa.DataType, value: Any) -> pa.Array | None:
    """Return an example's value as an array of this type; None: it is of another type, for a class may have several."""
    try:
        given = pa.array([value])
        kinds = (pa.types.is_string, pa.types.is_timestamp, lambda t: pa.types.is_floating(t) or pa.types.is_integer(t))
        if pa.types.is_null(given.type) or any(is_kind(given.type) and is_kind(kind) for is_kind in kinds):
            return given.cast(kind)
    except (pa.ArrowException, OverflowError):
        pass
    return None


def _check_examples(rule: Rule, column: Column, mask: Mask) -> None:
    """Check a rule against its own examples. A keyed mask must only change the value: its output depends on the key."""
    for example in rule.examples:
        given = _as(column.type, example.given)
        if given is None:
            continue
        got = mask(given)
        if mask_kind(str(rule.then.mask)).keyed:
            good = got.to_pylist() != given.to_pylist() and got.null_count == 0
        else:
            good = got.equals(_as(column.type, example.expected) or pa.nulls(0))
        if not good:
            raise RuleError(
                "Rule does not do what its example says",
                where=f"rule {rule.id}, {column.name}",
                remedy="Correct the mask, or the example's 'out'.",
            )
