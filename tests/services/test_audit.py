"""The audit recounts from files and broker, says where it differs, and says what it could not recount."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipelines.live.recount import recount
from pipelines.simulator.broker import ensure_topic
from tests.unit.vitalake.lake.span_samples import open_lake, staged_span
from vitalake.errors import ServiceUnavailable, SettingsError
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId
from vitalake.settings import Settings, load_settings


class Ward:
    """A topic with messages, and a lake that says what it read of them."""

    def __init__(self, home: Path, bootstrap: str, topic: str) -> None:
        self.bootstrap, self.topic = bootstrap, topic
        document = {"kafka": {"bootstrap_servers": bootstrap}, "jobs": {"vitals": {"topics": {topic: "fhir"}}}}
        (home / "vitalake.yaml").write_text(yaml.safe_dump(document))
        self.settings: Settings = load_settings(home)
        topic_id = ensure_topic(bootstrap, topic, 2)
        self.parts = [PartId(topic, topic_id, partition) for partition in range(2)]
        self.lake: Lake = open_lake(home / "lake")
        self.lake.spans.begin_at("observation", {part: 0 for part in self.parts})
        self.lake.spans.begin_epoch(job="vitals", shard="0of1")

    def send(self, count: int, *, partition: int = 0, transactional: bool = False, abort: bool = False) -> None:
        """Send messages, as one transaction if so wanted."""
        own = {"transactional.id": f"tx-{self.topic}"} if transactional else {}
        producer = Producer({"bootstrap.servers": self.bootstrap, **own})
        if transactional:
            producer.init_transactions(20)
            producer.begin_transaction()
        for _ in range(count):
            producer.produce(self.topic, b"x", partition=partition)
        if transactional:
            producer.abort_transaction(20) if abort else producer.commit_transaction(20)
        assert producer.flush(20) == 0

    def record(self, start: int, end: int, *, partition: int = 0, markers: int = 0, add: bool = True) -> None:
        """Decide a span that says it read this stretch, in which so many offsets were no messages."""
        span = staged_span(self.lake, start, end - markers, at=self.parts[partition])
        span.parts[0].end = end
        self.lake.spans.decide(span)
        if add:
            self.lake.add(span)

    def audit(self) -> dict[str, Any]:
        return recount(self.settings, "vitals")


def differing(document: dict[str, Any]) -> list[str]:
    return [check["what"].split(" of ")[0] for check in document["checks"] if not check["agrees"]]


@pytest.fixture
def ward(home: Path, embedded_broker: str, topic_name: str) -> Ward:
    """Ten messages in each of two partitions, all read, in two spans each."""
    ward = Ward(home, embedded_broker, topic_name)
    for partition in range(2):
        ward.send(10, partition=partition)
        for start in (0, 5):
            ward.record(start, start + 5, partition=partition)
    return ward


def test_recount_agrees_with_a_ledger_that_is_right(ward: Ward) -> None:
    document = ward.audit()
    assert document["agrees"] is True
    assert document["not_recounted"] == []
    recounted = {check["what"]: check["recounted"] for check in document["checks"]}
    assert recounted == {
        "rows of published/observation": 16,
        "rows of restricted/observation": 0,
        "rows of quarantine/dead_letter": 4,
        f"messages of {ward.topic}[0]": 10,
        f"messages of {ward.topic}[1]": 10,
    }


def test_messages_that_came_later_and_spans_not_added_yet_are_left_out(ward: Ward) -> None:
    ward.send(7)
    ward.record(10, 14, add=False)
    document = ward.audit()
    assert document["agrees"] is True
    assert document["not_recounted"] == ["1 spans that are decided and not added yet"]


def test_rows_that_are_missing_are_found(ward: Ward) -> None:
    ward.lake.published.refresh()
    file = next(iter(ward.lake.published.snapshot().files.values()))
    ward.lake.published.commit(remove=[file], transactions={})
    document = ward.audit()
    assert document["agrees"] is False
    assert differing(document) == ["rows"]


def test_messages_that_the_broker_does_not_have_are_found(ward: Ward) -> None:
    ward.record(10, 16)
    document = ward.audit()
    assert document["agrees"] is False
    assert differing(document) == ["messages"]


def test_two_spans_that_are_wrong_by_the_same_number_are_found(ward: Ward) -> None:
    ward.send(12)
    ward.record(10, 16, markers=1)
    ward.record(16, 22)
    document = ward.audit()
    assert differing(document) == ["messages"]
    assert [check.get("spans_that_differ", 0) for check in document["checks"]] == [0, 0, 0, 1, 0]


def test_topic_that_is_gone_is_said_to_be(ward: Ward) -> None:
    admin = AdminClient({"bootstrap.servers": ward.bootstrap})
    for future in admin.delete_topics([ward.topic]).values():
        future.result(20)
    document = ward.audit()
    assert document["agrees"] is True
    assert len(document["not_recounted"]) == 2


def test_broker_that_is_not_there_is_an_error(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.core.kafka.START_TIMEOUT_SECONDS", 1.0)
    away = ward.settings.model_copy(
        update={"kafka": ward.settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})}
    )
    with pytest.raises(ServiceUnavailable):
        recount(away, "vitals")
    with pytest.raises(SettingsError):
        recount(ward.settings, "unknown")


@pytest.mark.kafka
def test_transaction_markers_and_a_log_whose_start_moved_are_no_difference(
    home: Path, kafka: str, topic_name: str
) -> None:
    ward = Ward(home, kafka, topic_name)
    ward.send(4, transactional=True)  # offsets 0-3, marker at 4
    ward.send(3, transactional=True, abort=True)  # offsets 5-7, marker at 8
    ward.send(5)  # offsets 9-13
    ward.record(0, 5, markers=1)
    ward.record(5, 14, markers=4)
    assert ward.audit()["agrees"] is True
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_records([TopicPartition(topic_name, 0, 2)]).values():
        future.result(20)
    document = ward.audit()
    assert document["agrees"] is True
    assert document["not_recounted"] == [f"{topic_name}[0]: 4 messages, because the log now begins at 2"]
    assert {c["what"]: c["recounted"] for c in document["checks"]}[f"messages of {topic_name}[0]"] == 5
