"""Rules compiled for a dataset: what is published of it, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.errors import RuleError
from governance.masks import Mask, fits, make_mask
from governance.rules import MASKS, Filter, Policy, Rule
from vitalake.keys import KeyRing
from vitalake.lake.dataset import Column, Dataset, dataset_names, load_dataset
from vitalake.lake.dictionaries import as_type, in_dictionaries


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """What happens to one column; without a mask it is not published.

    Attributes:
        column: the column.
        rule: id of the rule that decides; None: no rule speaks of it.
        mask_name: its mask.
    """

    column: Column
    rule: str | None
    mask_name: str | None
    mask: Mask | None = field(repr=False)

    @property
    def published(self) -> bool:
        """Return whether anything of the column is published."""
        return self.mask is not None and self.mask_name != "drop"


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """A policy compiled for a dataset.

    Attributes:
        dataset: the dataset.
        version: of the rules, and the id of the pseudonym key.
        columns: what happens to each.
        filters: which rows are left out.
    """

    dataset: Dataset
    version: str
    columns: tuple[ColumnPlan, ...]
    filters: tuple[Filter, ...]

    def apply(
        self, batch: pa.RecordBatch, *, encoded: bool = False
    ) -> tuple[pa.RecordBatch, npt.NDArray[np.bool_] | None]:
        """Return the rows as they may be published, in the dataset's columns, and which rows were kept (None: all).

        Args:
            batch: identified rows; columns by name, dictionary-encoded or plain, absent ones count as null.
            encoded: leave text in dictionaries, which may hold what only rows that are left out had.
        """
        schema = in_dictionaries(self.dataset.schema) if encoded else self.dataset.schema
        kept = self._kept(batch)
        if kept is not None:
            batch = batch.filter(pa.array(kept))
        names = set(batch.schema.names)
        arrays = []
        for plan in self.columns:
            name = plan.column.name
            kind = schema.field(name).type
            if plan.mask is None or name not in names:
                arrays.append(pa.nulls(batch.num_rows, kind))
                continue
            arrays.append(as_type(plan.mask(batch.column(name)), kind))
        return pa.RecordBatch.from_arrays(arrays, schema=schema), kept

    def _kept(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_] | None:
        kept: npt.NDArray[np.bool_] | None = None
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
        """Return, for each column, its class, the rule that decides, the mask, and whether it is published."""
        return [
            {
                "column": plan.column.name,
                "class": plan.column.data_class,
                "rule": plan.rule,
                "mask": plan.mask_name,
                "published": plan.published,
            }
            for plan in self.columns
        ]


def compile_masks(policy: Policy, dataset: Dataset, keys: KeyRing) -> MaskPlan:
    """Return what the policy does to a dataset.

    Of several rules that speak of a column the most restrictive wins. A column without a data class, or of a class no
    rule speaks of, is not published.

    Raises:
        RuleError: a rule names a dataset, column or class that is not there (it would protect nothing), fails its own
            examples, or takes away the time by which the table is partitioned.
    """
    _check_names(policy, dataset)
    columns = tuple(_plan(policy, dataset, column, keys) for column in dataset.columns)
    filters = tuple(_filter(rule, dataset) for rule in policy.rules if rule.then.filter and _meant(rule, dataset))
    for plan in columns:
        if plan.column.name == dataset.day_of and not plan.published:
            raise RuleError(
                "The rules leave no date to partition by",
                where=f"{dataset.name}.{dataset.day_of}",
                remedy="Keep or generalise that column; its day names the partition.",
            )
    return MaskPlan(dataset, f"{policy.version}+{keys.current('pseudonym').id}", columns, filters)


def _check_names(policy: Policy, dataset: Dataset) -> None:
    known = {name: load_dataset(name) for name in dataset_names()} | {dataset.name: dataset}
    for rule in policy.rules:
        what = rule.what
        if what.dataset is not None and what.dataset not in known:
            raise RuleError(
                "Rule names no dataset", where=f"rule {rule.id}", remedy=f"The datasets are: {', '.join(known)}."
            )
        columns = [c for d in known.values() if what.dataset in (None, d.name) for c in d.columns]
        for kind, given, names in (
            ("column", what.column, {c.name for c in columns}),
            ("data class", what.data_class, {c.data_class for c in columns if c.data_class}),
        ):
            if given is not None and given not in names:
                raise RuleError(
                    f"Rule names no {kind}",
                    where=f"rule {rule.id}{f', {what.dataset}' if what.dataset else ''}",
                    remedy=f"These are there: {', '.join(sorted(names))}.",
                )


def _meant(rule: Rule, dataset: Dataset) -> bool:
    return rule.what.dataset in (None, dataset.name)


def _filter(rule: Rule, dataset: Dataset) -> Filter:
    assert rule.then.filter is not None
    known = {column.name: column.type for column in dataset.columns}
    if known.get(rule.then.filter.column) != pa.string():
        raise RuleError(
            "Filter names no text column of the dataset",
            where=f"rule {rule.id}, {dataset.name}",
            remedy="Name one of its columns that hold codes.",
        )
    return rule.then.filter


def _plan(policy: Policy, dataset: Dataset, column: Column, keys: KeyRing) -> ColumnPlan:
    data_class = column.data_class
    if data_class is None:
        return ColumnPlan(column, None, None, None)
    speaking = [
        rule
        for rule in policy.rules
        if rule.then.mask and rule.speaks_of(dataset=dataset.name, column=column.name, data_class=data_class)
    ]
    if not speaking:
        return ColumnPlan(column, None, None, None)
    strictest = max(speaking, key=_restriction)
    mask = make_mask(strictest.then, keys=keys, domain=data_class)
    _check_examples(strictest, column, mask)
    name = strictest.then.mask if fits(strictest.then, column.type) else "drop"
    return ColumnPlan(column, strictest.id, name, mask)


def _restriction(rule: Rule) -> tuple[int, int, int, int]:
    """How much a rule takes away: by mask, then the coarser unit, then fewer digits, then the lower cap."""
    units = (None, "minute", "hour", "day", "month", "year")
    digits = rule.then.digits if rule.then.digits is not None else 99
    assert rule.then.mask is not None
    return (MASKS.index(rule.then.mask), units.index(rule.then.unit), -digits, -(rule.then.at or 0))


def _as(kind: pa.DataType, value: Any) -> pa.Array | None:
    """Return an example's value as a column of this type; None if it is of another: a class may have several."""
    try:
        given = pa.array([value])
        kinds = (pa.types.is_string, pa.types.is_timestamp, lambda t: pa.types.is_floating(t) or pa.types.is_integer(t))
        if pa.types.is_null(given.type) or any(is_kind(given.type) and is_kind(kind) for is_kind in kinds):
            return given.cast(kind)
    except (pa.ArrowException, OverflowError):
        pass
    return None


def _check_examples(rule: Rule, column: Column, mask: Mask) -> None:
    """Hold the rule to its own examples; of a pseudonym only that it is one, for its value depends on the key."""
    for example in rule.examples:
        given = _as(column.type, example.given)
        if given is None:
            continue
        got = mask(given)
        if rule.then.mask == "pseudonym":
            good = got.to_pylist() != given.to_pylist() and got.null_count == 0
        else:
            good = got.equals(_as(column.type, example.expected) or pa.nulls(0))
        if not good:
            raise RuleError(
                "Rule does not do what its example says",
                where=f"rule {rule.id}, {column.name}",
                remedy="Mend the rule or the example.",
            )
