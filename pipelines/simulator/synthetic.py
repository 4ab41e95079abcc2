"""Synthetic patients: seeded, mean-reverting random walks of vital signs, fast enough for benchmarks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np

from pipelines.simulator.faults import REJECTED, spoil
from pipelines.simulator.observation import PRESSURES, Message, instant, template
from vitalake import clock

SYSTEM = "urn:vitalake:simulator:synthetic"
SHAPES: tuple[tuple[str, ...], ...] = (("heart_rate",), ("respiratory_rate",), ("spo2",), PRESSURES, ("temp_c",))
STEP_SECONDS = 1  # between two rounds of all patients, where time is simulated

# For each value in the order of SHAPES: typical value, spread between patients, jitter of a step, lowest, highest. They
# are those of an adult ward, so that nearly all are plausible. Temperature is in tenths, so that all are integers.
_WALK = np.array(
    [
        [82, 12, 1.5, 35, 190],
        [17, 3, 0.7, 5, 45],
        [97, 1.5, 0.4, 75, 100],
        [122, 15, 2.0, 70, 210],
        [72, 9, 1.5, 35, 120],
        [88, 10, 1.5, 45, 150],
        [370, 4, 0.5, 345, 412],
    ],
    dtype=np.float64,
)
_PULL = 0.05  # share of the way back to the patient's own level in a step
_WHOLE = [b"%d" % value for value in range(256)]
_TENTHS = [b"%d.%d" % divmod(value, 10) for value in range(500)]


def walk(
    patients: int, *, seed: int, now_us: Callable[[], int], slice_patients: int = 100, panels: bool = True
) -> Iterator[Message]:
    """Yield messages without end: in each round the vital signs of each patient, in five messages.

    Args:
        patients: how many; each has one device.
        seed: the same seed gives the same values, and with the same times the same bytes.
        now_us: called once for every slice of patients; returns microseconds since 1970 UTC.
        slice_patients: how many patients share one time.
        panels: whether to send blood pressure, a panel of three values with 1.4 kB; other messages have 650 B.
    """
    rng = np.random.default_rng(seed)
    typical, spread, jitter, lowest, highest = _WALK.T
    level = np.clip(typical + spread * rng.standard_normal((patients, len(_WALK))), lowest, highest)
    state = level.copy()
    devices = [_Device(number) for number in range(patients)]
    run = b""
    for round_ in itertools.count():
        state += _PULL * (level - state) + jitter * rng.standard_normal(state.shape)
        np.clip(state, lowest, highest, out=state)
        rows = np.rint(state).astype(np.int64).tolist()
        for first in range(0, patients, slice_patients):
            moment = now_us()
            run = run or b"%x" % (moment // 1000)
            part = slice(first, first + slice_patients)
            yield from _slice(devices[part], rows[part], moment, b"%b-%x" % (run, round_), panels)


class _Device:
    """A device at a patient's bed, with its templates."""

    __slots__ = ("ident", "key", "name", "templates")

    def __init__(self, number: int) -> None:
        patient = f"syn-{number:06d}"
        self.name = f"bed-{number:06d}"
        self.key = patient.encode()
        self.ident = self.name.encode()
        self.templates = [
            template(shape, system=SYSTEM, patient=patient, encounter=f"stay-{number:06d}", device=self.name)
            for shape in SHAPES
        ]


def _slice(devices: list[_Device], rows: list[list[int]], moment: int, run: bytes, panels: bool) -> Iterator[Message]:
    """Yield the messages of each device at one time. Not split into functions: a benchmark spends its time here."""
    at = instant(moment)
    for device, (hr, rr, spo2, sbp, dbp, mean, temp) in zip(devices, rows, strict=True):
        name, key = device.name, device.key
        heart, breath, oxygen, pressure, heat = device.templates
        ident = b"%b-%b-" % (device.ident, run)
        yield Message(moment, name, key, heart % (ident + b"hr", at, at, _WHOLE[hr]))
        yield Message(moment, name, key, breath % (ident + b"rr", at, at, _WHOLE[rr]))
        yield Message(moment, name, key, oxygen % (ident + b"ox", at, at, _WHOLE[spo2]))
        if panels:
            values = (_WHOLE[sbp], _WHOLE[dbp], _WHOLE[mean])
            yield Message(moment, name, key, pressure % (ident + b"bp", at, at, *values))
        yield Message(moment, name, key, heat % (ident + b"te", at, at, _TENTHS[temp]))


def messages(
    count: int,
    *,
    patients: int = 1000,
    seed: int = 0,
    bad_share: float = 0.0,
    start_us: int | None = None,
    panels: bool = False,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield ``count`` keys and values for benchmarks and tests, with a second of simulated time between rounds.

    Args:
        count: how many messages.
        patients: how many patients they come from.
        seed: with ``start_us`` it decides every byte.
        bad_share: 0 to 1, the share of messages that a decoder must reject, for one reason after the other.
        start_us: time of the first round, microseconds since 1970 UTC; default: so that the last one is before now.
        panels: see ``walk``; without them every message is one row.
    """
    rounds = count // ((len(SHAPES) - (not panels)) * patients) + 1
    first = clock.now_us() - (rounds + 1) * STEP_SECONDS * 1_000_000 if start_us is None else start_us
    ticks = itertools.count(first, STEP_SECONDS * 1_000_000)
    source = walk(patients, seed=seed, now_us=ticks.__next__, slice_patients=patients, panels=panels)
    pick = random.Random(seed)
    kinds = itertools.cycle(REJECTED)
    for message in itertools.islice(source, count):
        value = message.value or b""
        if bad_share and pick.random() < bad_share:
            value = spoil(next(kinds), value, pick) or b""
        yield message.key, value
