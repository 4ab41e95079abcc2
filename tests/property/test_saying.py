"""No row is published that says nothing: whatever the masks took, the row says why it has no value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.policy.absent_reason import AS_TEXT, MASKED, UNKNOWN
from governance.policy.masking import ColumnPlan, MaskPlan, compile_masks
from governance.policy.masks import make_mask
from governance.policy.rules import Filter, load_policy, read_then
from governance.samples import __file__ as samples
from tests.property.test_masking import KEYS
from vitalake.errors import SettingsError
from vitalake.lake.datasets.declared import load_dataset, parse_dataset

_DROP = make_mask(read_then({"mask": "drop"}), keys=KEYS, domain="d")
_TYPES = {"value": pa.float64(), **dict.fromkeys(("value_code", "value_text", "data_absent_reason"), pa.string())}


def _plan(*dropped: str, filters: tuple[Filter, ...] | None = None) -> MaskPlan:
    plan = compile_masks(load_policy(Path(samples).parent), load_dataset("observation"), KEYS)

    def without(column: ColumnPlan) -> ColumnPlan:
        return replace(column, mask_name="drop", mask=_DROP) if column.column.name in dropped else column

    kept = plan.filters if filters is None else filters
    return replace(plan, columns=tuple(map(without, plan.columns)), filters=kept)


_DROPPED: tuple[tuple[str, ...], ...] = ((), ("value",), ("value", "value_code"), ("data_absent_reason",))
_PLANS = {dropped: _plan(*dropped) for dropped in _DROPPED}
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "value": st.sampled_from([None, 0.0, 4.2]),
            "value_code": st.sampled_from([None, "true"]),
            "value_text": st.sampled_from([None, "words"]),
            "data_absent_reason": st.sampled_from([None, "error"]),
            "status": st.sampled_from(["final", "registered"]),
        }
    ),
    max_size=6,
)


@given(rows=_ROWS, dropped=st.sampled_from(_DROPPED), given_columns=st.sets(st.sampled_from(list(_TYPES))))
def test_every_published_row_says_something(
    rows: list[dict[str, object]], dropped: tuple[str, ...], given_columns: set[str]
) -> None:
    names = [name for name in _TYPES if name in given_columns]
    columns = {name: pa.array([row[name] for row in rows], _TYPES[name]) for name in names}
    columns["status"] = pa.array([row["status"] for row in rows], pa.string())
    masked, kept, _ = _PLANS[dropped].apply(pa.RecordBatch.from_pydict(columns))
    for row in masked.select(["value", "value_code", "data_absent_reason"]).to_pylist():
        assert any(value is not None for value in row.values()), row
    assert masked.num_rows == (len(rows) if kept is None else kept.sum())
    if kept is not None:
        assert len(kept) == len(rows)


@pytest.mark.parametrize("encoded", [False, True])
def test_a_row_says_what_it_lacks(encoded: bool) -> None:
    given_rows = pa.RecordBatch.from_pydict(
        {
            "value": [4.2, None, None, None],
            "value_text": ["4.2", "haemolysed", None, "x"],
            "data_absent_reason": [None, None, None, "error"],
        }
    )
    for dropped, first in (((), None), (("value",), MASKED)):
        masked, kept, _ = _plan(*dropped).apply(given_rows, encoded=encoded)
        assert masked["data_absent_reason"].to_pylist() == [first, AS_TEXT, UNKNOWN, "error"]
        assert masked["value_text"].null_count == 4
        assert kept is None


def test_where_the_reason_may_not_be_published_a_row_without_a_value_is_not_either() -> None:
    rows = pa.RecordBatch.from_pydict(
        {"value": [4.2, None, None], "value_text": [None, "x", "y"], "status": ["final", "final", "registered"]}
    )
    masked, kept, _ = _plan("data_absent_reason").apply(rows)
    assert (masked["value"].to_pylist(), kept.tolist() if kept is not None else None) == ([4.2], [True, False, False])
    masked, kept, _ = _plan("data_absent_reason", filters=()).apply(rows)
    assert (masked.num_rows, kept.tolist() if kept is not None else None) == (1, [True, False, False])


def test_what_a_row_must_say_names_columns_of_the_dataset() -> None:
    column = {"name": "a", "type": "string", "class": "x", "description": "x"}
    document = {"name": "d", "kind": "record", "key": ["a"], "columns": [column]}
    for one_of in ({"columns": ["a"], "reason": "a", "words": "b"}, {"columns": ["a"], "reason": "b", "words": "a"}):
        with pytest.raises(SettingsError):
            parse_dataset(document | {"one_of": one_of}, where="d.yaml")
