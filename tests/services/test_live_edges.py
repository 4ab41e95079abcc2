"""Kafka's edges, on a real Apache Kafka."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from governance.erasure.certificate import OutOfScope
from pipelines.erasure.out_of_scope import places_out_of_scope
from pipelines.online_store.opening import open_online_store
from pipelines.republish.online_store import rebuild_online_store
from tests.fhir import message
from tests.services.kafka import KafkaServer
from tests.services.lane import LaneUnderTest
from tests.services.waiting import until
from vitalake import clock
from vitalake.keys import load_keys
from vitalake.settings import load_settings

pytestmark = pytest.mark.kafka


@pytest.fixture
def lane(home: Path, kafka: str, topic_name: str) -> LaneUnderTest:
    """A lane on an empty topic of two partitions."""
    lane = LaneUnderTest(home, kafka, topic_name)
    lane.configure(span_seconds=0.2, span_rows=100)
    lane.create_topic()
    return lane


def _delete_before(lane: LaneUnderTest, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": lane.bootstrap})
    for future in admin.delete_records([TopicPartition(lane.topic, 0, offset)]).values():
        future.result(20)


def test_a_log_that_starts_after_our_position_stops_the_lane_until_the_loss_is_accepted(lane: LaneUnderTest) -> None:
    lane.send(message(i) for i in range(100))
    lane.run()
    lane.send((message(i) for i in range(100, 150)), partition=0)
    _delete_before(lane, 80)

    errors = lane.run(expect=13)
    assert "Kafka has deleted messages that were not read yet" in errors
    assert "--accept-loss" in errors
    assert lane.ledger()["messages"] == 100

    lane.run(extra=["--accept-loss"])
    ledger = lane.ledger()
    assert ledger["lost_upstream"] == 30
    assert ledger["published"] == 120
    assert ledger["balanced"] is True


def test_a_topic_made_again_is_another_topic_and_the_old_one_is_closed(lane: LaneUnderTest) -> None:
    lane.send(message(i) for i in range(50))
    lane.run()
    _make_again(lane)
    lane.send(message(i) for i in range(50, 90))
    lane.run()
    ledger = lane.ledger()
    assert ledger["published"] == 90
    assert ledger["balanced"] is True
    assert ledger["lost_upstream_unknown"] == [f"{lane.topic}[0]", f"{lane.topic}[1]"], "the old topic's"


@pytest.mark.parametrize("more", [16, 3], ids=["beyond the position", "before the position"])
def test_a_topic_made_again_while_it_is_read_gives_every_message_once(
    home: Path, kafka: str, topic_name: str, more: int
) -> None:
    lane = LaneUnderTest(home, kafka, topic_name, partitions=1)
    lane.configure(span_seconds=0.2, relist_seconds=30, bundle_seconds=5)
    lane.create_topic()
    lane.send(message(i) for i in range(5))
    process = lane.start(idle=None)
    with process:
        until(lambda: lane.ledger()["published"] == 5, process=process)
        process.send_signal(signal.SIGSTOP)  # it asks for nothing while the topic is away
        _make_again(lane)
        lane.send(message(i) for i in range(5, 5 + more))
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors.decode()[-3000:]
    lane.run()
    ids = lane.published()["observation_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 5 + more
    ledger = lane.ledger()
    assert (ledger["messages"], ledger["balanced"], ledger["lost_upstream"]) == (5 + more, True, 0)
    assert ledger["lost_upstream_unknown"] == [f"{lane.topic}[0]"]


def _make_again(lane: LaneUnderTest) -> None:
    """Delete the topic and create it; what is sent before the broker knows that it is gone would go with it."""
    lane.delete_topic()
    with AdminClient({"bootstrap.servers": lane.bootstrap}) as admin:
        until(lambda: lane.topic not in admin.list_topics(timeout=10).topics)
    lane.create_topic()


def test_transaction_markers_are_no_messages_and_aborted_ones_are_not_published(lane: LaneUnderTest) -> None:
    producer = Producer({"bootstrap.servers": lane.bootstrap, "transactional.id": lane.topic})
    producer.init_transactions(20)
    for turn in range(4):
        producer.begin_transaction()
        for i in range(10):
            producer.produce(lane.topic, message(turn * 10 + i), partition=0)
        if turn % 2:
            producer.flush(10)
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    lane.run()
    lane.sent = 20
    lane.assert_exactly_once(20)
    lane.run()
    lane.assert_exactly_once(20)


def test_partitions_added_while_running_are_found_and_read_from_their_beginning(lane: LaneUnderTest) -> None:
    lane.send(message(i) for i in range(20))
    lane.configure(relist_seconds=0.5, bundle_seconds=1.0)
    process = lane.start(idle=None, extra=["--from", "latest"], forked=True)
    try:
        until(lambda: lane.status(process).state == "running", process=process)
        lane.send(message(i) for i in range(20, 40))
        until(lambda: lane.ledger()["published"] == 20, process=process)
        admin = AdminClient({"bootstrap.servers": lane.bootstrap})
        for future in admin.create_partitions([NewPartitions(lane.topic, 3)]).values():
            future.result(20)
        lane.partitions = 3
        lane.send((message(i) for i in range(40, 60)), partition=2)
        until(lambda: lane.ledger()["published"] == 40, process=process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_partition_added_to_a_quiet_topic_is_read_from_its_beginning_by_a_worker_that_had_none(
    home: Path, kafka: str, topic_name: str
) -> None:
    lane = LaneUnderTest(home, kafka, topic_name, partitions=1)
    lane.configure(span_seconds=0.2, relist_seconds=0.5, bundle_seconds=1.0)
    lane.create_topic()
    latest = ["--from", "latest"]
    workers = [lane.start(shard=shard, idle=None, extra=latest, forked=True) for shard in ("0of2", "1of2")]
    try:
        for worker in workers:
            until(lambda worker=worker: lane.status(worker).state == "running", process=worker)  # type: ignore[misc]
        until(lambda: _begun(lane), process=workers[0])
        admin = AdminClient({"bootstrap.servers": lane.bootstrap})
        for future in admin.create_partitions([NewPartitions(lane.topic, 2)]).values():
            future.result(20)
        lane.partitions = 2
        lane.send((message(i) for i in range(20)), partition=1)
        until(lambda: lane.ledger()["published"] == 20)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.communicate(timeout=60)
    assert [worker.returncode for worker in workers] == [0, 0]


def test_a_topic_made_again_is_read_from_its_beginning_although_nothing_of_the_old_one_was_read(
    lane: LaneUnderTest,
) -> None:
    lane.run(extra=["--from", "latest"])
    _make_again(lane)
    lane.send(message(i) for i in range(30))
    lane.run(extra=["--from", "latest"])
    ledger = lane.ledger()
    assert ledger["published"] == 30
    assert ledger["lost_upstream_unknown"] == [f"{lane.topic}[0]", f"{lane.topic}[1]"], "what came to the old one"
    assert ledger["balanced"] is True


def _begun(lane: LaneUnderTest) -> bool:
    if not lane.lake.storage.holds_table("spans"):
        return False
    return lane.topic in lane.lake.spans.begun(job="vitals", dataset=lane.lake.dataset.name).topics.values()


def test_a_broker_that_restarts_pauses_the_lane_and_it_goes_on_by_itself(
    home: Path, own_kafka: KafkaServer, topic_name: str
) -> None:
    lane = LaneUnderTest(home, own_kafka.bootstrap_servers, topic_name)
    lane.configure(span_seconds=0.2)
    lane.create_topic()
    lane.send(message(i) for i in range(50))
    process = lane.start(idle=None, forked=True)
    try:
        until(lambda: lane.ledger()["published"] == 50, process=process)
        own_kafka.stop()
        until(lambda: lane.status(process).state == "paused", process=process)
        own_kafka.start()
        until(lambda: lane.status(process).state == "running", process=process)  # before anything comes
        lane.send(message(i) for i in range(50, 100))
        until(lambda: lane.ledger()["published"] == 100, process=process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    lane.assert_exactly_once(100)


def test_a_care_store_that_is_gone_when_a_stream_begins_is_told_and_lacks_what_came_before(lane: LaneUnderTest) -> None:
    now = clock.now()
    lane.send([message(i, effectiveDateTime=now.isoformat()) for i in range(4)])
    assert "online store is new" not in lane.run()
    (lane.home / "care.db").unlink()  # what lies beside it stays
    lane.send([message(4, effectiveDateTime=now.isoformat())])
    errors = lane.run()
    assert "online store is new, and lacks rows that the lake has" in errors
    assert "vitalake lake rebuild care" in errors
    settings = load_settings(lane.home)
    with closing(open_online_store(settings, load_keys(settings.path(settings.keys)))) as care:
        assert care.completeness.incomplete_since_us() > 0
        assert [len(care.history(patient)) for patient in care.patients.revisions()] == [1]
    assert "online store is" not in lane.run()
    assert rebuild_online_store(settings) == 5
    with closing(open_online_store(settings, load_keys(settings.path(settings.keys)))) as care:
        assert care.completeness.incomplete_since_us() == 0
        assert [len(care.history(patient)) for patient in care.patients.revisions()] == [5]


def test_an_older_copy_of_the_care_store_is_told_and_lacks_what_came_since(lane: LaneUnderTest) -> None:
    """Put back while no stream runs, it showed patients as they had been, and nothing said so."""
    now = clock.now()
    lane.send([message(i, effectiveDateTime=now.isoformat()) for i in range(4)])
    lane.run()
    copy = lane.home.parent / "copy"
    copy.mkdir()
    for file in lane.home.glob("care.db*"):
        shutil.copy2(file, copy)
    assert "online store is" not in lane.run()
    lane.send([message(i, effectiveDateTime=now.isoformat()) for i in range(4, 7)])
    assert "online store is" not in lane.run()
    for file in lane.home.glob("care.db*"):
        file.unlink()
    for file in copy.iterdir():
        shutil.copy2(file, lane.home)
    with closing(sqlite3.connect(lane.home / "care.db", isolation_level=None)) as db:
        db.execute("UPDATE lane SET beat_us = beat_us - 3600000000")  # of an hour ago
    assert "online store is an older copy, and lacks rows that the lake has" in lane.run()
    settings = load_settings(lane.home)
    with closing(open_online_store(settings, load_keys(settings.path(settings.keys)))) as care:
        assert care.completeness.incomplete_since_us() > 0
    assert rebuild_online_store(settings) == 7
    assert "online store is" not in lane.run()
    with closing(open_online_store(settings, load_keys(settings.path(settings.keys)))) as care:
        assert care.completeness.incomplete_since_us() == 0


def test_a_job_with_the_name_of_another_kind_reads_nothing(lane: LaneUnderTest) -> None:
    lane.send(message(i) for i in range(3))
    lane.job = "devices"
    lane.configure()
    assert "Give the stream's job another name" in lane.run(expect=10)
    lane.job = "vitals"
    lane.configure()
    lane.run()
    lane.assert_exactly_once(3)


def test_two_readers_on_the_same_partitions_publish_everything_once(lane: LaneUnderTest) -> None:
    lane.send(message(i) for i in range(1_000))
    first, second = lane.start(shard="0of1", forked=True), lane.start(shard="0of2", forked=True)
    for process in (first, second):
        _, errors = process.communicate(timeout=90)
        # It ended well, or gave way and may be started again.
        assert process.returncode in (0, 75), errors.decode()[-3000:]
    lane.run()
    lane.assert_exactly_once(1_000)


def test_a_certificate_says_until_when_the_broker_keeps_messages(lane: LaneUnderTest) -> None:
    """Of an erasure: what the lake does not rule is told with its date, and without one where nobody says it."""
    settings = load_settings(lane.home)
    keys = load_keys(settings.path(settings.keys))

    def told() -> OutOfScope:
        (topic,) = [place for place in places_out_of_scope(settings, keys) if place.place == f"topic {lane.topic}"]
        return topic

    until(lambda: told().until is not None)  # a topic that was made this moment is not known to every broker at once
    assert date.fromisoformat(str(told().until)) > clock.now().date()
    lane.options["topics"] = {"not-there": "fhir", lane.topic: "fhir"}  # one topic's failure hides no other's date
    lane.configure()
    settings = load_settings(lane.home)
    assert told().until is not None
    admin = AdminClient({"bootstrap.servers": lane.bootstrap})
    kept = ConfigResource(
        ResourceType.TOPIC, lane.topic,
        incremental_configs=[ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)],
    )  # fmt: skip
    for future in admin.incremental_alter_configs([kept]).values():
        future.result(20)
    until(lambda: told().until is None)
    assert "for ever" in told().what
