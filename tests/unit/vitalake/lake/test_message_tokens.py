"""Message tokens: equal for a message, in no order, never taken for a position, and made whatever the rules say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from governance.policy.masking import compile_masks, writing_plan
from governance.policy.rules import load_policy
from governance.samples import __file__ as samples
from vitalake.errors import PrivacyError, SettingsError
from vitalake.keys import KEY_NAMES, Key, KeyRing
from vitalake.lake.datasets.declared import load_dataset, parse_dataset
from vitalake.lake.tables.sorting import in_no_order
from vitalake.lake.unlinkable.message_tokens import MessageTokens, in_clear, says_partition, without_partitions
from vitalake.lake.unlinkable.own_times import marked

KEYS = KeyRing(
    {name: (Key(name, "v1", name.encode().ljust(32, b"-")),) for name in KEY_NAMES}, dict.fromkeys(KEY_NAMES, "v1")
)
OLD = KeyRing({name: keys for name, keys in KEYS.keys.items() if name != "message"}, KEYS.current_versions)
SECRET = bytes(range(32))


def tokens(sources: list[str | None], positions: list[int | None], *, secret: bytes = SECRET) -> list[int | None]:
    """Return tokens, after asserting that text in a dictionary gives the same."""
    plain, numbers = pa.array(sources, pa.string()), pa.array(positions, pa.int64())
    made = MessageTokens(secret)(plain, numbers)
    assert MessageTokens(secret)(plain.dictionary_encode(), numbers).equals(made)
    return made.to_pylist()


def test_a_message_has_one_token_and_each_source_its_own() -> None:
    made = tokens(["a[0]", "a[1]", "a[0]", "a[1]", None, None], [7, 7, 7, 8, 7, 7])
    assert made[0] == made[2]
    assert made[4] == made[5]
    assert len({*made}) == 4
    assert tokens(["a[0]"], [7], secret=bytes(32)) != made[:1]


def test_every_token_is_negative_and_stays_what_it_is() -> None:
    made = tokens(["a[0]"] * 1000, list(range(1000)))
    assert all(token is not None and token < 0 for token in made)
    assert len(set(made)) == 1000
    assert tokens(["a[0]"] * 1000, made) == made
    assert (in_clear(pa.array(made)), in_clear(pa.array([0, 5, -1, None]))) == (0, 2)


def test_tokens_stand_in_no_order() -> None:
    made = np.array(tokens(["a[0]"] * 2000, list(range(2000))), np.float64)
    assert abs(np.corrcoef(np.argsort(np.argsort(made)), np.arange(2000))[0, 1]) < 0.07


def test_what_is_not_known_has_no_token() -> None:
    assert tokens(["a[0]", "a[0]"], [None, 1])[0] is None
    assert tokens([], []) == []


def _batch() -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"source": ["a[0]", "a[0]"], "source_position": pa.array([3, 3], pa.int64())})


def test_no_rule_lets_a_position_through() -> None:
    policy = load_policy(Path(samples).parent)  # it keeps the class 'provenance' as it is
    plan = writing_plan(policy, load_dataset("patient"), KEYS)
    made = plan.apply(_batch())[0]["source_position"].to_pylist()
    assert made[0] == made[1] < 0
    assert {d["column"]: d["mask"] for d in plan.describe()}["source_position"] == "message-token"
    with pytest.raises(PrivacyError, match="no key 'message'"):
        writing_plan(policy, load_dataset("patient"), OLD)
    assert compile_masks(policy, load_dataset("patient"), OLD).apply(_batch())[0]["source_position"].null_count == 2


@pytest.mark.parametrize("encoded", [False, True])
def test_no_rule_lets_a_partition_through_and_no_dictionary_tells_it(encoded: bool) -> None:
    sources = pa.array(["a[0]", "a[12]", None, "b[1]", "a[0]", "a[b]", "a[1].x"])
    topics = without_partitions(sources.dictionary_encode() if encoded else sources)
    assert topics.to_pylist() == ["a", "a", None, "b", "a", "a[b]", "a[1].x"]
    if encoded:
        assert topics.dictionary.to_pylist() == ["a", "b", "a[b]", "a[1].x"]
    assert says_partition(sources).to_pylist() == [True, True, False, True, True, False, False]
    plan = writing_plan(load_policy(Path(samples).parent), load_dataset("patient"), KEYS)
    columns = {"source": ["a[0]", "a[1]"], "source_position": pa.array([3, 3], pa.int64())}
    rows = plan.apply(pa.RecordBatch.from_pydict(columns), encoded=encoded)[0]
    assert rows["source"].to_pylist() == ["a", "a"]
    first, second = rows["source_position"].to_pylist()  # they are two messages
    assert first != second
    assert {d["column"]: d["mask"] for d in plan.describe()}["source"] == "topic"


def test_a_token_with_a_column_that_is_not_there_is_refused() -> None:
    column = {"name": "p", "type": "int64", "description": "x", "token_with": "q"}
    with pytest.raises(SettingsError, match="lacks its source"):
        parse_dataset({"name": "things", "kind": "record", "columns": [column], "key": ["p"]}, where="things.yaml")


@pytest.mark.parametrize("published", [True, False])
def test_rows_of_one_time_lie_in_no_order_also_where_no_token_is_published(published: bool) -> None:
    dataset = load_dataset("patient")
    position = tokens(["a[0]"] * 500, list(range(500))) if published else [None] * 500
    columns = {field.name: pa.nulls(500, field.type) for field in dataset.schema}
    columns |= {"version": pa.array(range(500), pa.int64()), "source_position": pa.array(position, pa.int64())}
    rows = pa.table(columns, schema=dataset.schema)
    order = np.array(in_no_order(rows, dataset)["version"].to_pylist())
    assert sorted(order) == list(range(500))
    assert abs(np.corrcoef(order, np.arange(500))[0, 1]) < 0.25


def test_times_of_records_whose_name_is_not_published_have_noise_of_their_own() -> None:
    policy = load_policy(Path(samples).parent)
    rules = tuple(rule for rule in policy.rules if rule.id != "keep-record-identifiers")
    plan = writing_plan(replace(policy, rules=rules), load_dataset("observation"), KEYS)
    moment = marked(1_795_000_000_000_000)
    rows = pa.RecordBatch.from_pydict(
        {
            "observation_id": pa.array([b"a" * 16, b"b" * 16, b"a" * 16]),
            "available_at": pa.array([moment] * 3).cast(pa.timestamp("us", "UTC")),
        }
    )
    published = plan.apply(rows)[0]
    assert published["observation_id"].null_count == 3
    known = published["available_at"].cast(pa.int64()).to_pylist()
    assert known[0] == known[2] != known[1]
    assert min(known) >= moment
