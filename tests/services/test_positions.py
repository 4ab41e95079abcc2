"""Where reading goes on: what the lake has read against what the broker still has, on a broker of its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from pipelines.core.errors import TopicRemade, UpstreamLoss
from pipelines.core.kafka import Shard, ShardConsumer
from pipelines.live.lane import StreamOptions
from pipelines.live.positions import resolve_positions
from pipelines.simulator.broker import ensure_topic
from tests.services.waiting import until
from tests.unit.vitalake.lake.span_samples import JOB, SHARD, empty_span, open_lake
from vitalake.errors import ServiceUnavailable
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.commits.span import PartId, Span
from vitalake.lake.commits.span_log import SpanLog
from vitalake.settings import KafkaSettings, Settings, StreamSettings

LATEST = StreamOptions(start="latest")


class Reader:
    """A lane that has just begun: its lake, its broker, and a consumer of some topics."""

    def __init__(self, folder: Path, bootstrap: str, topics: dict[str, int]) -> None:
        self.lake: Lake = open_lake(folder)
        self.bootstrap = bootstrap
        for topic, partitions in topics.items():
            until(lambda made=(bootstrap, topic, partitions): _is_made(*made))  # type: ignore[misc]
        settings = Settings(
            home=folder,
            kafka=KafkaSettings(bootstrap_servers=bootstrap),
            jobs={JOB: StreamSettings(topics=dict.fromkeys(topics, "fhir"))},
        )
        self.consumer = ShardConsumer(settings, JOB, Shard(0, 1))
        self.parts = self.consumer.list_parts()
        self.epoch = self.lake.spans.begin_epoch(job=JOB, shard=SHARD)

    def send(self, part: PartId, count: int, *, at_once: bool = False) -> None:
        """Send messages to a partition, one after the other, or in one batch."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 200 if at_once else 0})
        for _ in range(count):
            producer.produce(part.topic, b"{}", partition=part.partition)
            assert at_once or producer.flush(30) == 0
        assert producer.flush(30) == 0

    def read(self, end: int, *, at: PartId, days_ago: int = 0) -> None:
        """Record a partition as read from 0."""
        self.lake.spans.begin_at("observation", {at: 0})
        span = empty_span(0, end, at=at, epoch=self.epoch)
        span.decided_us -= days_ago * 86_400_000_000
        self.lake.spans.decide(span)

    def position(self, part: PartId) -> int | None:
        """Return where the lake says a partition is read on."""
        return self.lake.spans.positions("observation", [part])[part]

    def resolve(self, *parts: PartId, options: StreamOptions = LATEST) -> dict[PartId, int]:
        """Return where partitions are read on; without any: all."""
        mine = list(parts or self.parts)
        return resolve_positions(
            self.lake, self.consumer, mine, job=JOB, shard=SHARD, epoch=self.epoch, options=options
        )

    def recorded(self) -> list[Span]:
        """Return the spans that were not read from the broker: gaps and ends."""
        return [span for span in self.lake.spans.all_spans() if span.kind != "stream"]


Begin = Callable[..., Reader]


@pytest.fixture
def begin(tmp_path: Path, embedded_broker: str) -> Iterator[Begin]:
    """Begin a lane on the embedded broker, again and again on one lake."""
    readers = []

    def begun(bootstrap: str = embedded_broker, **topics: int) -> Reader:
        readers.append(Reader(tmp_path / "lake", bootstrap, topics))
        return readers[-1]

    yield begun
    for reader in readers:
        reader.consumer.close()


def _is_made(bootstrap: str, topic: str, partitions: int) -> bool:
    """Make a topic and return whether it can be described, which a real broker needs a moment for."""
    with suppress(ServiceUnavailable):
        return bool(ensure_topic(bootstrap, topic, partitions))
    return False


def _made_again(reader: Reader, topic: str) -> None:
    with AdminClient({"bootstrap.servers": reader.bootstrap}) as admin:
        admin.delete_topics([topic])[topic].result(20)


def test_what_was_never_read_begins_where_it_is_told_and_the_lake_knows_at_once(begin: Begin, topic_name: str) -> None:
    reader = begin(**{topic_name: 2})
    first, _ = reader.parts
    reader.send(first, 3)
    assert reader.resolve(first, options=StreamOptions(start="earliest")) == {first: 0}
    assert reader.position(first) == 0, "a crash before the first span skips nothing"
    other = begin(**{f"{topic_name}-other": 1})
    (part,) = other.parts
    other.send(part, 3)
    assert other.resolve() == {part: 3}
    assert other.position(part) == 3
    assert reader.recorded() == []


def test_all_partitions_of_a_topic_begin_at_the_same_time_however_many_workers_read_it(
    begin: Begin, topic_name: str
) -> None:
    reader = begin(**{topic_name: 2})
    first, second = reader.parts
    reader.send(first, 3)
    reader.send(second, 3)
    assert reader.resolve(first) == {first: 3}
    reader.send(second, 4)
    assert reader.resolve(second) == {second: 3}, "neither what came before the start, nor without what came after it"


@pytest.mark.kafka
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_partition_that_joins_a_topic_is_read_from_its_beginning_by_whichever_worker(
    begin: Begin, kafka: str, topic_name: str, workers: int
) -> None:
    before = begin(kafka, **{topic_name: 1})
    before.resolve()
    with AdminClient({"bootstrap.servers": before.bootstrap}) as admin:
        admin.create_partitions([NewPartitions(topic_name, 3)])[topic_name].result(20)
    reader = begin(kafka, **{topic_name: 3})
    first, *added = reader.parts
    for part in added:
        reader.send(part, 3)
    shards = [Shard(index, workers) for index in range(workers)]
    mine = [[part for part in reader.parts if shard.takes(part.topic, part.partition)] for shard in shards]
    found = [reader.resolve(*parts) for parts in mine if parts]
    assert {part: at for positions in found for part, at in positions.items()} == dict.fromkeys([first, *added], 0)


def test_two_workers_that_begin_a_topic_at_the_same_moment_agree(
    begin: Begin, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, other = begin(**{topic_name: 2}), begin(**{topic_name: 2})
    first, second = reader.parts
    begin_at = SpanLog.begin_at
    raced: list[bool] = []

    def overtaken(spans: SpanLog, *given: Any, **named: Any) -> None:
        if not raced:
            raced.append(True)
            assert other.resolve(second) == {second: 0}
            other.send(first, 3)
        begin_at(spans, *given, **named)

    monkeypatch.setattr(SpanLog, "begin_at", overtaken)
    assert reader.resolve(first) == {first: 0}, "where the faster one has begun it"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_topic_made_again_is_read_from_its_beginning_also_if_nothing_of_the_old_one_was_read(
    begin: Begin, topic_name: str, workers: int
) -> None:
    before = begin(**{topic_name: 3})
    before.resolve()
    _made_again(before, topic_name)
    reader = begin(**{topic_name: 2})
    for part in reader.parts:
        reader.send(part, 3)
    groups = [reader.parts] if workers == 1 else [[part] for part in reversed(reader.parts)]
    found = [reader.resolve(*group) for group in groups]
    assert {part: at for positions in found for part, at in positions.items()} == dict.fromkeys(reader.parts, 0)
    ledger = summarise(reader.lake.spans).to_json()
    assert ledger["lost_upstream_unknown"] == [str(part) for part in before.parts], "what came to the old one unread"
    assert (ledger["balanced"], ledger["messages"]) == (True, 0)
    assert {span.kind for span in reader.recorded()} == {"closed"}


def test_of_a_topic_made_again_also_the_partitions_that_were_never_read_are_closed(
    begin: Begin, topic_name: str
) -> None:
    before = begin(**{topic_name: 2})
    first, second = before.parts
    before.resolve()
    before.lake.spans.decide(empty_span(0, 3, at=first, epoch=before.epoch))
    before.send(second, 9)
    _made_again(before, topic_name)
    reader = begin(**{topic_name: 2})
    assert reader.resolve() == dict.fromkeys(reader.parts, 0)
    assert summarise(reader.lake.spans).to_json()["lost_upstream_unknown"] == [str(first), str(second)]


def test_a_topic_that_an_earlier_release_began_is_known_by_its_name_from_now_on(begin: Begin, topic_name: str) -> None:
    before = begin(**{topic_name: 1})
    (part,) = before.parts
    before.lake.spans.table.commit(transactions={part.app_id("observation"): 0})  # as it was: without the name
    assert before.resolve() == {part: 0}
    _made_again(before, topic_name)
    reader = begin(**{topic_name: 1})
    (part,) = reader.parts
    reader.send(part, 3)
    assert reader.resolve() == {part: 0}


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpoint", "entries"])
def test_a_topic_that_an_earlier_release_began_and_never_read_may_be_any_that_looks_new(
    begin: Begin, topic_name: str, *, checkpoint: bool
) -> None:
    before = begin(**{topic_name: 1})
    (part,) = before.parts
    spans = before.lake.spans
    spans.claim(job=JOB, dataset="observation", topic_ids={part.topic_id})
    spans.table.commit(transactions={part.app_id("observation"): 0})
    if checkpoint:
        spans.table.delta.create_checkpoint()
    _made_again(before, topic_name)
    reader = begin(**{topic_name: 1, f"{topic_name}-more": 1})
    for part in reader.parts:
        reader.send(part, 3)
    assert reader.resolve() == dict.fromkeys(reader.parts, 0)
    ledger = summarise(reader.lake.spans).to_json()
    assert sorted(ledger["lost_upstream_unknown"]) == sorted(str(part) for part in reader.parts)
    later = begin(**{f"{topic_name}-later": 1})
    (part,) = later.parts
    later.send(part, 3)
    assert later.resolve() == {part: 3}, "it was noted once; what is added later begins where it is told"
    assert len(later.recorded()) == 1


def test_a_topic_of_another_job_is_none_of_this_job_that_was_made_again(begin: Begin, topic_name: str) -> None:
    before = begin(**{f"{topic_name}-other": 1})
    (other,) = before.parts
    before.lake.spans.claim(job="another", dataset="observation", topic_ids={other.topic_id})
    reader = begin(**{topic_name: 1})
    (part,) = reader.parts
    reader.send(part, 3)
    assert reader.resolve() == {part: 3}
    assert reader.recorded() == []


def test_a_partition_that_joins_a_topic_is_read_from_its_beginning_whatever_is_told(
    begin: Begin, topic_name: str
) -> None:
    reader = begin(**{topic_name: 2, f"{topic_name}-other": 1})
    first, added, other = reader.parts
    reader.lake.spans.begin_at("observation", {first: 0})
    for part in (added, other):
        reader.send(part, 3)
    assert reader.resolve() == {first: 0, added: 0, other: 3}
    assert (reader.position(added), reader.position(other)) == (0, 3)


def test_reading_goes_on_where_it_ended_and_at_the_end_of_an_empty_log(begin: Begin, topic_name: str) -> None:
    reader = begin(**{topic_name: 4})
    first, second, third, empty = reader.parts
    for part, end in ((first, 3), (second, 5), (third, 5)):
        reader.send(part, 5, at_once=part == third)
        reader.read(end, at=part)
    assert reader.consumer.bounds(third)[1] < 5, "of a batch this broker tells the beginning"
    reader.lake.spans.begin_at("observation", {empty: 0})
    assert reader.resolve() == {first: 3, second: 5, third: 5, empty: 0}
    assert reader.recorded() == []


def test_a_log_that_ends_before_our_position_has_lost_what_was_read(begin: Begin, topic_name: str) -> None:
    reader = begin(**{topic_name: 1})
    (part,) = reader.parts
    reader.send(part, 5)
    reader.read(6, at=part)
    with pytest.raises(UpstreamLoss, match="after the end of Kafka's log") as caught:
        reader.resolve(options=StreamOptions(accept_loss=True))
    assert caught.value.where.startswith(f"{topic_name}[0]@6, log ends at ")
    assert (reader.position(part), reader.recorded()) == (6, [])


@pytest.mark.parametrize("sent", [2, 0], ids=["with messages", "empty"])
def test_a_topic_that_is_made_again_while_a_lane_opens_is_no_loss(begin: Begin, topic_name: str, sent: int) -> None:
    reader = begin(**{topic_name: 1})
    (part,) = reader.parts
    reader.send(part, 5)
    reader.read(5, at=part)
    _made_again(reader, topic_name)  # after its partitions were listed
    reader.send(begin(**{topic_name: 1}).parts[0], sent)
    with pytest.raises(TopicRemade, match="Topic was deleted and created again"):
        reader.resolve()
    again = begin(**{topic_name: 1})
    assert again.resolve() == dict.fromkeys(again.parts, 0)


@pytest.mark.kafka
def test_what_kafka_has_deleted_unread_is_a_loss_that_is_counted_once_it_is_accepted(
    begin: Begin, kafka: str, topic_name: str
) -> None:
    reader = begin(kafka, **{topic_name: 2})
    first, second = reader.parts
    reader.lake.spans.begin_at("observation", {first: 0})
    reader.send(second, 8)
    reader.read(2, at=second)
    with AdminClient({"bootstrap.servers": kafka}) as admin:
        for future in admin.delete_records([TopicPartition(topic_name, 1, 5)]).values():
            future.result(20)
    with pytest.raises(UpstreamLoss, match="deleted messages that were not read") as caught:
        reader.resolve()
    assert caught.value.where == f"{topic_name}[1]@2, log begins at 5"
    assert (reader.position(second), reader.recorded()) == (2, [])

    accepting = StreamOptions(accept_loss=True)
    assert reader.resolve(options=accepting) == {first: 0, second: 5}
    ledger = summarise(reader.lake.spans).to_json()
    assert (ledger["lost_upstream"], ledger["messages"], ledger["balanced"]) == (3, 5, True)
    assert reader.resolve() == {first: 0, second: 5}, "there is nothing to accept any more"
    (gap,) = reader.recorded()
    assert (gap.kind, gap.rules, gap.decoder, gap.shard, gap.epoch) == ("gap", "", "", SHARD, reader.epoch)


def test_all_partitions_of_a_topic_that_was_made_again_are_closed_once_by_whichever_worker(
    begin: Begin, topic_name: str
) -> None:
    still = f"{topic_name}-still"
    before = begin(**{topic_name: 3, still: 1})
    old, live = before.parts[:3], before.parts[3]
    before.send(live, 4)
    before.read(2, at=live, days_ago=3)
    for part in old:
        before.read(5 + part.partition, at=part, days_ago=2 - part.partition)
    _made_again(before, topic_name)
    reader = begin(**{topic_name: 2, still: 1})
    first, second, live = reader.parts
    for part in (first, second):
        reader.send(part, 2)

    def closed() -> list[tuple[PartId, int]]:
        return [(part.id, part.end) for span in reader.recorded() for part in span.parts]

    assert reader.resolve(second) == {second: 0}, "all of the new topic is read"
    assert sorted(closed()) == [(old[0], 5), (old[1], 6), (old[2], 7)], "however long one was quiet"
    ledger = summarise(reader.lake.spans).to_json()
    assert reader.resolve(live, first) == {live: 2, first: 0}
    assert ledger["lost_upstream_unknown"] == [str(part) for part in old]
    assert ledger["balanced"] is True
    assert reader.resolve() == {first: 0, second: 0, live: 2}
    assert len(closed()) == 3, "each once"
    assert {span.kind for span in reader.recorded()} == {"closed"}
    assert [span.parts[0].counts.messages for span in reader.recorded()] == [0, 0, 0]
