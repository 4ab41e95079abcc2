"""Makes some devices misbehave, so that every outcome of the ledger occurs; the seed decides which ones and how."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pipelines.simulator.observation import EPOCH, Message, instant

FAULTS = (
    "malformed",  # cut off in the middle: not JSON
    "wrong-unit",  # mg/dL, which no vital sign has
    "unknown-code",  # has the form of a LOINC code, but is not one
    "missing-subject",  # names neither patient nor device, so it can never be attributed
    "bed-only",  # names its device, not its patient: legal, and held until the patient is known
    "duplicate",  # the same bytes once more
    "late",  # measured two to twelve hours before it was sent
    "out-of-order",  # sent after the device's next message, or after 20 minutes if that takes longer
    "clock-skew",  # measured five to fifteen minutes in the future
    "tombstone",  # no value at all
    "registered",  # status registered: legal, and filtered by a rule
    "fahrenheit",  # legal: converted
    "kilopascal",  # legal: converted
)
"""Everything that a device can do wrong, or only differently."""

REJECTED = ("malformed", "wrong-unit", "unknown-code", "missing-subject")
"""The faults for which the lane always rejects the message."""

_GAP = (2, 8)  # messages of a misbehaving device from one fault to the next: about a fifth are faulty
_HOLD_US = 20 * 60 * 1_000_000  # well below the hour after which a row counts as late
_PASCAL = 7.50061683  # mmHg in a kPa


def inject(messages: Iterable[Message], *, share: float, seed: int) -> Iterator[Message]:
    """Return the messages with the faults of a share of their devices.

    Exactly that share of the devices misbehaves, counted in the order of their first messages. A faulty device goes
    through all faults in an order of its own. A fault that does not fit a message (°F on a pulse) waits for the next.

    Args:
        messages: what devices without faults send.
        share: the share of faulty devices, 0 to 1.
        seed: the same seed and messages give the same faults.
    """
    if not share:
        yield from messages
        return
    phase = random.Random(seed).random()
    devices: dict[str, _Misbehaving | None] = {}
    holding: deque[tuple[int, _Misbehaving]] = deque()
    for message in messages:
        while holding and holding[0][0] < message.due_us - _HOLD_US:
            since, holder = holding.popleft()
            yield from holder.release(since)
        device = message.device
        if device not in devices:
            n = len(devices)
            chosen = int((n + 1) * share + phase) > int(n * share + phase)
            devices[device] = _Misbehaving(random.Random(f"{seed}/{device}")) if chosen else None
        behaviour = devices[device]
        if behaviour is None:
            yield message
        else:
            yield from behaviour.send(message)
            if behaviour.held:
                holding.append((message.due_us, behaviour))
    yield from itertools.chain.from_iterable(each.held for each in devices.values() if each)


class _Misbehaving:
    """One faulty device: its next fault, the number of messages until then, and the message that it holds back."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kinds = rng.sample(FAULTS, len(FAULTS))
        self._gap = rng.randint(*_GAP)
        self.held: list[Message] = []

    def send(self, message: Message) -> list[Message]:
        """Return what the device sends in place of a message."""
        self._gap -= 1
        if self._gap > 0 or self.held:
            return [message, *self.release(message.due_us)]
        kind = next(kind for kind in self._kinds if _fits(kind, message.value or b""))
        self._kinds.remove(kind)
        self._kinds.append(kind)
        self._gap = self._rng.randint(*_GAP)
        if kind == "out-of-order":
            self.held = [message._replace(fault=kind)]
            return []
        faulty = message._replace(value=spoil(kind, message.value or b"", self._rng), fault=kind)
        return [message, faulty] if kind == "duplicate" else [faulty]

    def release(self, due_us: int) -> list[Message]:
        """Return the message that is held back if it was due by then, and hold it no longer."""
        if not self.held or self.held[0].due_us > due_us:
            return []
        sent, self.held = self.held, []
        return sent


def _fits(kind: str, value: bytes) -> bool:
    """Return whether a fault is possible for this Observation."""
    needs = {"fahrenheit": b'"Cel"', "kilopascal": b'"mm[Hg]"'}.get(kind)
    return needs is None or needs in value


def spoil(kind: str, value: bytes, rng: random.Random) -> bytes | None:
    """Return a value with a fault of ``FAULTS``; None for a tombstone, and unchanged where the order is the fault.

    A value that the lane accepts but that differs from the measured one gets an identifier of its own (suffix: the
    fault). Otherwise a replay with another seed would send two values under one identifier.
    """
    if kind == "tombstone":
        return None
    if kind == "malformed":
        return value[: len(value) * 3 // 5]
    change = _CHANGES.get(kind)
    if change is None:
        return value
    resource = msgspec.json.decode(value)
    change(resource, rng)
    if kind not in REJECTED:
        resource["identifier"][0]["value"] += f"-{kind}"
    return msgspec.json.encode(resource)


def _parts(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the elements that have a code and a quantity: the components, or the Observation itself."""
    return resource.get("component") or [resource]


def _wrong_unit(resource: dict[str, Any], _: random.Random) -> None:
    _parts(resource)[0]["valueQuantity"] |= {"unit": "mg/dL", "code": "mg/dL"}


def _unknown_code(resource: dict[str, Any], _: random.Random) -> None:
    _parts(resource)[0]["code"]["coding"][0] |= {"code": "00000-0", "display": "Not a vital sign"}


def _missing_subject(resource: dict[str, Any], _: random.Random) -> None:
    del resource["subject"], resource["device"]


def _bed_only(resource: dict[str, Any], _: random.Random) -> None:
    del resource["subject"], resource["encounter"]


def _registered(resource: dict[str, Any], _: random.Random) -> None:
    resource["status"] = "registered"


def _late(resource: dict[str, Any], rng: random.Random) -> None:
    _move(resource, "effectiveDateTime", -timedelta(minutes=rng.randint(120, 720)))


def _skew(resource: dict[str, Any], rng: random.Random) -> None:
    ahead = timedelta(minutes=rng.randint(5, 15))
    _move(resource, "effectiveDateTime", ahead)
    _move(resource, "issued", ahead)


def _move(resource: dict[str, Any], field: str, by: timedelta) -> None:
    moved = datetime.fromisoformat(resource[field]) + by
    resource[field] = instant((moved - EPOCH) // timedelta(microseconds=1)).decode()


def _fahrenheit(resource: dict[str, Any], _: random.Random) -> None:
    quantity = resource["valueQuantity"]
    quantity |= {"value": round(quantity["value"] * 9 / 5 + 32, 1), "unit": "F", "code": "[degF]"}


def _kilopascal(resource: dict[str, Any], _: random.Random) -> None:
    for part in _parts(resource):
        quantity = part["valueQuantity"]
        quantity |= {"value": round(quantity["value"] / _PASCAL, 2), "unit": "kPa", "code": "kPa"}


_CHANGES: dict[str, Callable[[dict[str, Any], random.Random], None]] = {
    "wrong-unit": _wrong_unit,
    "unknown-code": _unknown_code,
    "missing-subject": _missing_subject,
    "bed-only": _bed_only,
    "late": _late,
    "clock-skew": _skew,
    "registered": _registered,
    "fahrenheit": _fahrenheit,
    "kilopascal": _kilopascal,
}
