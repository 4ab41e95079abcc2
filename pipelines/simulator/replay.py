"""Runs simulated devices: sends a source's messages, some of them faulty, to a Kafka topic at a given pace."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.simulator.broker import ensure_topic
from pipelines.simulator.faults import FAULTS, inject
from pipelines.simulator.observation import Message
from pipelines.simulator.sender import Sender
from vitalake import clock
from vitalake.errors import SettingsError

Source = Literal["mimic-demo", "synthetic"]

DEFAULT_SPEED = 1440.0  # × real time: a day of the ward in a minute
DEFAULT_HOURS = 72.0  # replayed at a speed: three minutes, 22,000 messages
DEFAULT_HOURS_BY_RATE = 600.0  # by rate: the last stay of every patient, 44,000 messages of 25 days
DEFAULT_RATE = 1000.0  # messages/s of synthetic patients
DEFAULT_PATIENTS = 100  # synthetic; the demo has 100 of its own
_PROGRESS_SECONDS = 0.25
_SLICE_SECONDS = 0.1  # synthetic values are at most about this old when they are sent


@dataclass(frozen=True, slots=True)
class Simulation:
    """What to simulate.

    Attributes:
        source: ``mimic-demo`` (real patients, with an end) or ``synthetic`` (made-up patients, without an end).
        topic: created with ``partitions`` partitions if it does not exist.
        patients: how many; default: all of the demo, 100 synthetic.
        only: ids of patients of the demo; default: all.
        rate: messages/s; 0 is as fast as the broker accepts them.
        speed: × real time, for the demo; not with ``rate``. Default: 1440, a day in a minute.
        hours: of the demo, before its reference; default: 72 by speed, 600 by rate.
        faults: 0 to 1, the share of devices that misbehave.
        seed: decides the values of synthetic patients, and the faults.
        count: end after so many messages.
        partitions: of a new topic.
    """

    source: Source = "mimic-demo"
    topic: str = "vitals"
    patients: int | None = None
    only: frozenset[str] | None = None
    rate: float | None = None
    speed: float | None = None
    hours: float | None = None
    faults: float = 0.1
    seed: int = 0
    count: int | None = None
    partitions: int = 4

    def __post_init__(self) -> None:
        """Refuse options that are not valid, or contradict each other."""
        if self.rate is not None and self.speed is not None:
            raise SettingsError("Two paces are given", where="--rate and --speed", remedy="Give only one of them.")
        if self.source == "synthetic" and (self.speed is not None or self.hours is not None):
            raise SettingsError(
                "Synthetic patients are simulated in real time only",
                where="--speed, --hours",
                remedy="Leave out --speed and --hours; --rate sets the pace.",
            )
        if self.patients is not None and self.patients < 1:
            raise SettingsError("No patients to simulate", where="--patients", remedy="Give 1 or more.")
        if not 0 <= self.faults <= 1:
            raise SettingsError(
                "Share of faulty devices is not valid", where="--faults", remedy="Give a number from 0 to 1."
            )


@dataclass(frozen=True, slots=True)
class SimulationSummary:
    """What was sent, so far or in all.

    Attributes:
        messages: all messages, with tombstones and duplicates; at the end of the run the broker has acknowledged them.
        tombstones: messages without a value.
        faults: fault → messages; every fault has an entry.
        devices: how many devices sent messages.
        seconds: from the first message to the last acknowledgement.
    """

    messages: int
    tombstones: int
    faults: dict[str, int]
    devices: int
    seconds: float

    @property
    def rate(self) -> float:
        """Return messages/s."""
        return self.messages / self.seconds if self.seconds else 0.0


def simulate(
    simulation: Simulation,
    *,
    bootstrap: str,
    home: Path,
    options: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[SimulationSummary], None] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> SimulationSummary:
    """Send messages until the source ends, ``count`` is reached or ``stop`` is set; return what was sent.

    Args:
        simulation: what to simulate.
        bootstrap: the brokers, ``host:port``.
        home: where the demo's anchors are read, or written.
        options: further librdkafka options, with references to secrets resolved.
        stop: set it to end the run; messages that were sent are flushed first.
        on_progress: called with the summary so far, four times a second.
        on_start: called once, before the first message is sent, with the time at which it was measured.

    Raises:
        ServiceUnavailable: the broker cannot be reached, or did not accept the messages.
        SettingsError: the demo's data are not installed.
    """
    stop = stop or threading.Event()
    messages = _messages(simulation, home)
    ensure_topic(bootstrap, simulation.topic, simulation.partitions)
    sender = Sender(bootstrap, simulation.topic, options or {})
    tally = _Tally(on_progress)
    for message in _paced(messages, simulation, stop, sender.serve):
        if on_start:
            on_start(message.due_us)
            on_start = None
        sender.send(message.key, message.value, stop)
        tally.add(message)
    sender.close()
    return tally.summary()


class _Tally:
    """Counts what is sent, and reports it from time to time."""

    def __init__(self, on_progress: Callable[[SimulationSummary], None] | None) -> None:
        self._on_progress = on_progress
        self._began = self._reported_at = time.monotonic()
        self._messages = self._tombstones = 0
        self._faults: Counter[str] = Counter()
        self._devices: set[str] = set()

    def add(self, message: Message) -> None:
        self._messages += 1
        self._tombstones += message.value is None
        self._devices.add(message.device)
        if message.fault:
            self._faults[message.fault] += 1
        # The clock is read only for every 16th message, because this runs for each one.
        if self._on_progress is None or self._messages % 16:
            return
        if time.monotonic() - self._reported_at >= _PROGRESS_SECONDS:
            self._reported_at = time.monotonic()
            self._on_progress(self.summary())

    def summary(self) -> SimulationSummary:
        return SimulationSummary(
            messages=self._messages,
            tombstones=self._tombstones,
            faults={fault: self._faults[fault] for fault in FAULTS},
            devices=len(self._devices),
            seconds=time.monotonic() - self._began,
        )


def _messages(simulation: Simulation, home: Path) -> Iterator[Message]:
    """Return the source's messages with faults, at most ``count``."""
    if simulation.source == "synthetic":
        from pipelines.simulator.synthetic import SHAPES, walk

        rate = DEFAULT_RATE if simulation.rate is None else simulation.rate
        # Small slices, so that values are new when they are sent at a low rate; large ones cost less at a high rate.
        slice_patients = max(1, min(256, int(rate * _SLICE_SECONDS / len(SHAPES)))) if rate else 256
        source = walk(
            DEFAULT_PATIENTS if simulation.patients is None else simulation.patients,
            seed=simulation.seed,
            now_us=clock.now_us,
            slice_patients=slice_patients,
        )
    else:
        from pipelines.simulator import mimic

        hours = DEFAULT_HOURS if simulation.rate is None else DEFAULT_HOURS_BY_RATE
        hours = hours if simulation.hours is None else simulation.hours
        source = mimic.messages(home, patients=simulation.patients, only=simulation.only, hours=hours)
    return itertools.islice(inject(source, share=simulation.faults, seed=simulation.seed), simulation.count)


def _paced(
    messages: Iterator[Message], simulation: Simulation, stop: threading.Event, serve: Callable[[], None]
) -> Iterator[Message]:
    """Yield each message when it is due, until ``stop`` is set."""
    rate, speed = simulation.rate, simulation.speed or DEFAULT_SPEED
    if rate is None and simulation.source == "synthetic":
        rate = DEFAULT_RATE
    began, first_us = time.monotonic(), None
    for sent, message in enumerate(messages):
        first_us = message.due_us if first_us is None else first_us
        ahead = sent / rate if rate else 0.0 if rate == 0 else (message.due_us - first_us) / 1e6 / speed
        while (early := began + ahead - time.monotonic()) > 0 and not stop.is_set():
            serve()
            stop.wait(min(early, 0.1))
        if stop.is_set():
            return
        yield message
