"""A Kafka consumer of one shard: lists its partitions, starts at given offsets, and reads polls.

While a broker is down, librdkafka reconnects by itself, and polls are empty. A worker that finds no broker when it
starts ends with BrokerUnreachable; ``pipelines/live/supervisor.py`` starts it again.
"""

from __future__ import annotations

import logging
import socket
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec, TopicDescription

from pipelines.core.errors import BrokerUnreachable, TopicMissing, TopicRemade, UpstreamLoss
from pipelines.core.poll import Poll
from vitalake.errors import SettingsError
from vitalake.lake.commits.span import PartId
from vitalake.settings import Settings, StreamSettings, broker_addresses, resolve_references

_log = logging.getLogger(__name__)

START_TIMEOUT_SECONDS = 10.0
"""How long a broker has to answer a request for metadata or offsets."""

CONNECT_SECONDS = 3.0
"""How long each configured address has to accept a connection, and a broker to say which topics there are now."""

POLL_SECONDS = 0.05
"""Longest wait for a poll to fill. On a quiet lane it adds half of this to the latency."""

REPORT_SECONDS = 600.0
"""Shortest time between two log lines about a lost broker: librdkafka reports an absent one at every attempt."""

ANSWER_SECONDS = 0.5
"""How long a lost broker has to answer, each time it is asked whether it is back."""

POLL_BYTES = 32 << 20
"""Target size of a poll: with large messages a poll takes fewer of them."""

# The underscore is librdkafka's mark for errors of the client itself; they are public.
_GONE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001
_DOWN = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE)  # noqa: SLF001
_LOST = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``i`` of ``n`` of a job's partitions."""

    index: int
    of: int

    def __str__(self) -> str:
        """Return ``<i>of<n>``."""
        return f"{self.index}of{self.of}"

    def takes(self, topic: str, partition: int) -> bool:
        """Return whether the partition belongs to the shard; a topic's partitions are spread evenly over the shards."""
        return (zlib.crc32(topic.encode()) + partition) % self.of == self.index


def client_options(settings: Settings) -> dict[str, str | int | float | bool]:
    """Return librdkafka's options to reach the broker, with references to secrets resolved.

    Raises:
        SettingsError: a reference cannot be resolved.
    """
    return {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "log_level": 0,  # librdkafka would print its own lines beside our structured log
        **resolve_references(settings.kafka.options, home=settings.home),
    }


def check_broker_listens(servers: str) -> None:
    """Check that a broker accepts a connection: Kafka's own client would retry for ten seconds before it fails.

    Raises:
        BrokerUnreachable: no address accepts a connection.
        SettingsError: one is not an address.
    """
    try:
        addresses = broker_addresses(servers)
    except ValueError as error:  # of kafka.options: the configuration's own are checked when it is read
        raise SettingsError(
            f"Address of the broker is not valid ({error})",
            where="kafka.options, bootstrap.servers",
            remedy="Write host:port; several with commas.",
        ) from None
    for address in addresses:
        with suppress(OSError, UnicodeError), socket.create_connection(address, CONNECT_SECONDS):  # Unicode: of a name
            return
    raise BrokerUnreachable(
        "Broker does not answer", where="kafka.bootstrap_servers", remedy="Start it, or correct the address."
    )


def list_partitions(admin: AdminClient, topics: list[str]) -> list[PartId]:
    """Return the current partitions of the topics.

    The caller closes the client with ``with``. If the garbage collector freed it instead (the traceback of an error can
    hold the last reference), that could happen in a thread of librdkafka, which then aborts the process.

    Raises:
        TopicMissing: there is no such topic.
        BrokerUnreachable: no broker answers.
    """
    found = []
    for name, description in _describe(admin, topics, START_TIMEOUT_SECONDS):
        if description is None:
            raise TopicMissing(
                "Topic not found",
                where=name,
                remedy="Create the topic, or correct jobs.*.topics in the configuration.",
            )
        found += [PartId(name, str(description.topic_id), part.id) for part in description.partitions]
    return sorted(found)


def _describe(
    admin: AdminClient, topics: Collection[str], seconds: float
) -> Iterator[tuple[str, TopicDescription | None]]:
    """Yield each topic with its description; None: there is no such topic.

    Raises:
        BrokerUnreachable: no broker answers in time.
    """
    for name, future in admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=seconds).items():
        try:
            yield name, future.result(seconds + 1)
        except (KafkaException, TimeoutError) as error:
            if _code(error) not in _GONE:
                raise BrokerUnreachable(
                    "Broker does not answer",
                    where="kafka.bootstrap_servers",
                    remedy="Start it, or correct the address.",
                ) from None
            yield name, None


def _code(error: BaseException) -> int | None:
    first = error.args[0] if error.args else None
    return first.code() if isinstance(first, KafkaError) else None


class ShardConsumer:
    """Reads the partitions of one shard, from the positions that are recorded in the lake."""

    def __init__(self, settings: Settings, job: str, shard: Shard) -> None:
        self.stream: StreamSettings = settings.jobs[job]
        self.shard = shard
        self.name = f"{job}/{shard}"
        self.parts: tuple[PartId, ...] = ()
        self.listed: tuple[PartId, ...] = ()
        self.next: dict[PartId, int] = {}
        self.down, self._reported_at, self._asked_at = False, -REPORT_SECONDS, 0.0
        self._index: dict[tuple[str, int], int] = {}
        self._batch = self.stream.poll_messages
        options = client_options(settings)
        self.admin = AdminClient(options)
        self._consumer = Consumer(
            {
                "group.id": f"vitalake-{job}",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                # 1000 by default, which starves a fast loop: 10 raised it from 251k to 398k messages/s.
                "fetch.queue.backoff.ms": 10,
                "queued.min.messages": 20_000,
                "queued.max.messages.kbytes": self.stream.fetch_queue_kbytes,
                "error_cb": self._on_error,
                **options,
            }
        )

    def _on_error(self, error: KafkaError) -> None:
        if error.code() not in _DOWN:
            return
        self.down = True
        if time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._reported_at = time.monotonic()
            _log.warning("broker lost", extra={"shard": self.name, "remedy": "waiting; goes on by itself"})

    def close(self) -> None:
        """Close the connections to the broker."""
        with self.admin:
            self._consumer.close()

    # -- which partitions, and from where ------------------------------------------------------------------------

    def list_parts(self) -> list[PartId]:
        """Return the shard's current partitions; ``listed`` then has those of all shards.

        Raises:
            TopicMissing, BrokerUnreachable
        """
        self.listed = tuple(list_partitions(self.admin, sorted(self.stream.topics)))
        return [part for part in self.listed if self.shard.takes(part.topic, part.partition)]

    def check_topics(self, parts: Iterable[PartId] | None = None, *, gone: bool = True) -> None:
        """Check that topics are still those that were listed when reading began.

        Messages are fetched by the topic's name alone: of a topic that was deleted and created again Kafka hands out
        the new one's messages at the old one's offsets. What was fetched before this check is of the listed topic, as
        far as the broker that answers knows of the new one. Another thread than the one that reads may call it.

        Args:
            parts: as they were listed; None: those that are read.
            gone: whether a topic may be gone. That it was created again before is then not noticed.

        Raises:
            TopicRemade: one was deleted and created again, or is gone and may not be.
            BrokerUnreachable: no broker answers.
        """
        listed = {part.topic: part.topic_id for part in (self.parts if parts is None else parts)}
        for name, description in _describe(self.admin, listed, CONNECT_SECONDS) if listed else ():
            if description is None and not gone:
                raise TopicRemade("Topic was deleted", where=name, remedy="The lane waits until it exists again.")
            if description is not None and str(description.topic_id) != listed[name]:
                raise TopicRemade(
                    "Topic was deleted and created again", where=name, remedy="The lane starts again, on the new one."
                )

    def bounds(self, part: PartId) -> tuple[int, int]:
        """Return the first offset that Kafka still has of a partition, and the offset after its last one.

        Raises:
            BrokerUnreachable: no broker answers.
        """
        try:
            return self._consumer.get_watermark_offsets(
                TopicPartition(part.topic, part.partition), timeout=START_TIMEOUT_SECONDS
            )
        except KafkaException:
            raise BrokerUnreachable(
                "Broker does not answer", where=str(part), remedy="The lane waits and continues by itself."
            ) from None

    def holds(self, part: PartId, offset: int) -> bool:
        """Return whether Kafka has a message at an offset or soon after it; found out by reading there.

        The embedded broker reports the start of its last batch as the end of the log, so by the bounds alone messages
        would seem lost that are there.
        """
        self._consumer.assign([TopicPartition(part.topic, part.partition, offset)])
        messages = self._consumer.consume(1, START_TIMEOUT_SECONDS / 2)
        return bool(messages) and messages[0].error() is None

    def offset_at(self, part: PartId, start: Literal["earliest", "latest"] | int) -> int:
        """Return the offset to begin at: the first, the end, or the first message at or after a time (ms)."""
        low, high = self.bounds(part)
        if start == "earliest":
            return low
        if start == "latest":
            return high
        partition = TopicPartition(part.topic, part.partition)
        listed = self.admin.list_offsets({partition: OffsetSpec.for_timestamp(start)})
        offset: int = next(iter(listed.values())).result(START_TIMEOUT_SECONDS).offset
        return high if offset < 0 else offset

    def start(self, positions: Mapping[PartId, int]) -> None:
        """Read from these positions from now on, whatever was read before."""
        self.parts = tuple(sorted(positions))
        self.next = dict(positions)
        self._index = {(part.topic, part.partition): i for i, part in enumerate(self.parts)}
        self._consumer.assign([TopicPartition(p.topic, p.partition, positions[p]) for p in self.parts])

    # -- reading -------------------------------------------------------------------------------------------------

    def poll(self) -> Iterator[Poll]:
        """Yield the messages that have arrived, one poll per format; yield nothing when none has.

        Raises:
            UpstreamLoss: messages that come next were deleted from the log.
            TopicRemade: the topic was deleted, also if it was created again since.
        """
        messages = self._consumer.consume(self._batch, POLL_SECONDS) if self.parts else []
        if not messages:
            self.down = self.down and not self._answers()
            return
        payloads = [m.value() for m in messages]
        if any([m.error() for m in messages]):
            messages = self._without_errors(messages)
            payloads = [m.value() for m in messages]
            if not messages:
                return
        self.down = False
        self._size_next(payloads)
        polls = self._by_format(messages, payloads)
        del messages, payloads  # they would double the memory of the payloads while the poll is worked on
        while polls:
            yield polls.pop(0)

    def _answers(self) -> bool:
        """Return whether every partition has a leader again; asked at most once a second.

        On a topic without new messages nothing else shows that the broker is back. The admin client asks, because the
        consumer's connection cannot answer in time while a fetch waits on it.
        """
        if time.monotonic() - self._asked_at < 2 * ANSWER_SECONDS:
            return False
        self._asked_at = time.monotonic()
        try:
            topics = self.admin.list_topics(timeout=ANSWER_SECONDS).topics
        except KafkaException:
            return False
        listed = [topics[part.topic].partitions.get(part.partition) for part in self.parts if part.topic in topics]
        return all(partition is None or partition.leader >= 0 for partition in listed)

    def _by_format(self, messages: list[Message], payloads: list[bytes | None]) -> list[Poll]:
        formats = {self.stream.topics[part.topic] for part in self.parts}
        if len(formats) == 1:
            return [self._poll(messages, payloads, formats.pop())]
        chosen = {name: [m for m in messages if self.stream.topics[m.topic()] == name] for name in sorted(formats)}
        return [self._poll(some, [m.value() for m in some], name) for name, some in chosen.items() if some]

    def _poll(self, messages: list[Message], payloads: list[bytes | None], name: str) -> Poll:
        part = self._part_of(messages)
        offset = np.array([m.offset() for m in messages], np.int64)
        stamps = np.array([m.timestamp()[1] for m in messages], np.int64)
        for i in np.flatnonzero(np.bincount(part)).tolist():
            self.next[self.parts[i]] = int(offset[part == i][-1]) + 1
        return Poll(self.name, name, payloads, self.parts, part, offset, stamps)

    def _part_of(self, messages: list[Message]) -> npt.NDArray[np.int32]:
        if len({part.topic for part in self.parts}) > 1:
            return np.array([self._index[m.topic(), m.partition()] for m in messages], np.int32)
        numbers = np.array([m.partition() for m in messages], np.int64)
        place = np.zeros(max(part.partition for part in self.parts) + 1, np.int32)
        place[[part.partition for part in self.parts]] = np.arange(len(self.parts), dtype=np.int32)
        return place[numbers]

    def _size_next(self, payloads: list[bytes | None]) -> None:
        size = sum(map(len, filter(None, payloads))) // len(payloads) + 1
        self._batch = max(1, min(self.stream.poll_messages, POLL_BYTES // size))

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() in _LOST:
                self.check_topics(gone=False)
                raise UpstreamLoss(
                    "Kafka has deleted messages that were not read yet",
                    where=f"{message.topic()}[{message.partition()}]",
                    remedy="Check the topic's retention. 'vitalake stream --accept-loss' records the gap.",
                )
            if error.code() in _GONE:
                raise TopicRemade(
                    "Topic was deleted", where=str(message.topic()), remedy="The lane waits until it exists again."
                )
            self._on_error(error)
        return [m for m in messages if m.error() is None]

    def lag(self) -> dict[str, int]:
        """Return how many messages of each partition were not read yet, for the partitions where it is known."""
        lags = {}
        for part in self.parts:
            try:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(part.topic, part.partition), cached=True)
            except KafkaException:
                continue
            lags[str(part)] = max(0, high - self.next[part])
        return lags
