"""The kind of a transaction is told by its application's id, however jobs, datasets, shards and topics are called."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vitalake.lake.commits import transactions

WORDS = [
    "topic",
    "claim",
    "last",
    "fence",
    "epoch",
    "attribution",
    "maintenance",
    "rows",
    "swap",
    "lost",
    "cut",
    "schema",
]
names = st.one_of(st.sampled_from(WORDS), st.from_regex("[a-z][a-z0-9_]{0,9}", fullmatch=True))
ids = st.binary(min_size=16, max_size=16).map(lambda raw: base64.b64encode(raw).decode().rstrip("="))
topics = st.one_of(st.just(""), st.sampled_from(WORDS), st.from_regex("[A-Za-z0-9._-]{1,9}", fullmatch=True))
partitions = st.integers(0, 999)
shards = st.sampled_from(["0of1", "1of12"])
tables = st.builds("{}{}".format, st.sampled_from(["published/", "restricted/", "quarantine/", ""]), names)


@given(names, names, ids, topics, partitions, shards, tables)
@example("topic", "topic", "aa/bb" + "c" * 17, "0", 0, "0of1", "restricted/epoch")
def test_kind_and_names_are_read_from_the_id(
    dataset: str, job: str, topic_id: str, topic: str, partition: int, shard: str, table: str
) -> None:
    of_topic = {"dataset": dataset, "topic_id": topic_id}
    expected: dict[str, tuple[str, dict[str, str]]] = {
        transactions.position_app(dataset, topic_id, partition): ("position", of_topic | {"partition": str(partition)}),
        transactions.topic_app(dataset, topic_id, topic): ("topic", of_topic | {"topic": topic}),
        transactions.claim_app(dataset, topic_id): ("claim", of_topic),
        transactions.last_app(dataset, topic_id): ("last load", of_topic),
        transactions.fence_app(dataset): ("fence", {"dataset": dataset}),
        transactions.epoch_app(job, shard): ("epoch", {"job": job, "shard": shard}),
        transactions.attribution_apps(dataset)[0]: ("associations", {"dataset": dataset}),
        transactions.attribution_apps(dataset)[1]: ("looked", {"dataset": dataset}),
        transactions.maintenance_app(table): ("maintenance", {"table": table}),
        transactions.rows_app(table): ("rewritten rows", {"table": table}),
        transactions.replacement_app(table): ("lock", {"table": table}),
        transactions.lost_app(table): ("lost rows", {"table": table}),
    }
    assert {app: transactions.kind_of(app) for app in expected} == expected


@pytest.mark.parametrize("app", ["", "x/observation/x", "fence/", "other", "observation/u"])
def test_what_no_release_commits_has_no_kind(app: str) -> None:
    kind: Callable[[str], tuple[str | None, dict[str, str]]] = transactions.kind_of
    assert kind(app) == (None, {})
