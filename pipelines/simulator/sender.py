"""Sends messages to a topic: in order and each exactly once, or raises an error."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from vitalake.errors import ServiceUnavailable

FLUSH_SECONDS = 30.0
_POLL_EVERY = 500  # messages between two checks of the broker's answers

_OPTIONS: dict[str, Any] = {
    # Each message once and in order, even when a request is repeated.
    "enable.idempotence": True,
    # No compression: with lz4 the embedded broker accepted 92k messages/s, without it 121k.
    "partitioner": "murmur2_random",  # as in Java's client: a key goes to the same partition whatever client sends it
    "linger.ms": 5,
    "message.timeout.ms": 30_000,  # an embedded broker that is away for so long has lost its topics
    "queue.buffering.max.messages": 100_000,
    "delivery.report.only.error": True,  # one call per message would cost more than to send it
    "log_level": 0,
}


class Sender:
    """An idempotent producer for one topic."""

    def __init__(self, bootstrap: str, topic: str, options: Mapping[str, str]) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self._failed: KafkaError | None = None
        self._since_poll = 0
        self._producer = Producer({**_OPTIONS, **options, "bootstrap.servers": bootstrap})

    def send(self, key: bytes, value: bytes | None, stop: threading.Event) -> None:
        """Queue a message; wait while the queue is full.

        Raises:
            ServiceUnavailable: an earlier message was not accepted, or the queue stays full after ``stop``.
        """
        self._since_poll += 1
        if self._since_poll >= _POLL_EVERY:
            self.serve()
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
                self._check()
                if stop.is_set():
                    raise self._unavailable("queue full") from None
            except KafkaException as error:
                raise self._unavailable(error.args[0].name()) from None
            else:
                return

    def serve(self) -> None:
        """Check the broker's answers.

        Raises:
            ServiceUnavailable: the broker did not accept a message.
        """
        self._since_poll = 0
        self._producer.poll(0)
        self._check()

    def close(self) -> None:
        """Return when the broker has acknowledged all messages.

        Raises:
            ServiceUnavailable: it has not.
        """
        left = self._producer.flush(FLUSH_SECONDS)
        self._check()
        if left:
            raise self._unavailable("not acknowledged in time")

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        self._failed = self._failed or error

    def _check(self) -> None:
        if self._failed:
            raise self._unavailable(self._failed.name())

    def _unavailable(self, why: str) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"Messages were not delivered ({why})",
            where=f"{self._topic} at {self._bootstrap}",
            remedy="Start the broker and run the command again; messages that it has are recognised as duplicates.",
        )
