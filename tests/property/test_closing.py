"""What is published of a closed column is what it may hold, whatever is sent, in whatever encoding."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.policy.masking import MaskPlan, compile_masks
from governance.policy.rules import load_policy
from governance.samples import copy_samples
from vitalake.keys import Key, KeyRing
from vitalake.lake.datasets.dataset import FormBy
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.vocabulary.forms import fits_of

KEYS = KeyRing({"pseudonym": (Key("pseudonym", "v1", b"1" * 32),)}, {"pseudonym": "v1"})

_TEXTS = st.none() | st.text(max_size=8) | st.sampled_from(
    ["I10", "4280", "419099009", "Home", "ed", "icu", "Medicine", "ICD10CM", "ICD9CM", "8867-4", "vitals[0]", "<"]
)  # fmt: skip


MOST = 8
"""Closed columns of a dataset."""


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MaskPlan]:
    folder: Path = tmp_path_factory.mktemp("rules")
    copy_samples(folder)
    policy = load_policy(folder)
    return {name: compile_masks(policy, load_dataset(name), KEYS) for name in published_datasets()}


def _may(plan: MaskPlan, column: str, row: dict[str, str | None]) -> bool:
    """Return whether a row's text may be published: told again, row by row."""
    text, declared = row[column], plan.dataset.column(column)
    if text is None:
        return True
    if declared.listed:
        return text == "Medicine"
    if isinstance(declared.form, FormBy):
        form = dict(declared.form.forms).get(row[declared.form.column] or "")
        return form is not None and fits_of(form)(text)
    return text in declared.values if declared.values else fits_of(str(declared.form))(text)


@pytest.mark.parametrize("name", published_datasets())
@pytest.mark.parametrize("encoded", [False, True])
@given(texts=st.lists(st.lists(_TEXTS, min_size=MOST, max_size=MOST), min_size=1, max_size=5))
def test_only_what_fits_is_published_and_the_rest_is_counted(
    plans: dict[str, MaskPlan], name: str, encoded: bool, texts: list[list[str | None]]
) -> None:
    plan = plans[name]
    closed = [c.column.name for c in plan.columns if c.holds]
    rows = [dict(zip(closed, row[: len(closed)], strict=True)) for row in texts]
    arrays = [pa.array([row[column] for row in rows], pa.string()) for column in closed]
    if encoded:
        arrays = [array.dictionary_encode() for array in arrays]
    names = list(closed)
    if name == "observation":  # so that each row says something: what says nothing is another subject
        arrays, names = [*arrays, pa.array([1.0] * len(rows))], [*names, "value"]
    published, kept, unfit = plan.apply(pa.RecordBatch.from_arrays(arrays, names=names), encoded=encoded)
    given_rows = [row for i, row in enumerate(rows) if kept is None or kept[i]]
    for column in closed:
        expected = [row[column] if _may(plan, column, row) else None for row in given_rows]
        if column in plan.dataset.sources:  # published without the partition
            expected = [text.rpartition("[")[0] if text else text for text in expected]
        assert published[column].to_pylist() == expected
        told = unfit[column].tolist() if column in unfit else [False] * len(given_rows)
        assert told == [not _may(plan, column, row) for row in given_rows]


def test_a_code_beside_no_system_is_none(plans: dict[str, MaskPlan]) -> None:
    alone = plans["condition"].apply(pa.RecordBatch.from_pydict({"code": ["I10", None]}))
    assert alone.rows["code"].to_pylist() == [None, None]
    assert alone.unfit["code"].tolist() == [True, False]
