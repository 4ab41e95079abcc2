"""Measured values on their way into the care store, a poll at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitalake.clinical.statuses import CORRECTED, STAGES, WITHDRAWN

ROW = np.dtype(
    [
        ("code", "<u4"),
        ("stage", "<u2"),
        ("attribution", "<u2"),
        ("value", "<f8"),
        ("effective_us", "<i8"),
        ("available_us", "<i8"),
        ("id", "<u8"),
        ("version", "<i8"),
        ("came_us", "<i8"),
    ]
)
"""One value: LOINC as a number, how far it has come (see stage_of; the comparator's number in the higher byte), how
much was known of whose it is (0: the message said so; see the dataset observation), when it was so and when that was
known as its sender says, the first half of observation_id, its version, and when it came by our clock, 0: not known."""

_FIRST_ROW = np.dtype([(name, ROW[name]) for name in ROW.names or () if name != "came_us"])
_FORM = b"\x01"
"""Before rows of dtype ROW where they are stored: without it they are of the form that did not say when they came. All
rows have an even length, so that the two cannot be taken for each other."""

COMPARATORS = ("", "<", "<=", ">=", ">", "ad")
"""What stands before a value, by the number in the higher byte of the stage."""

NO_VALUE, TOO_LOW, TOO_HIGH = float("nan"), float("-inf"), float("inf")
"""In the place of a value: one came that cannot be used. The sender says so, or says something else than a number, or
the message was refused (NO_VALUE); or it lies outside what is plausible. What came before it is not of now."""

CAME = 0xFF
"""In the place of a comparator, of what is no value: one came, in words, or in a message that was refused. Without it
the sender says that there is none, as of a sensor that is not connected."""

REFUSED = 0
"""The code of what says that a message of the patient was refused as a whole; its value is NO_VALUE. Beside it, at the
same time, stand rows of the vital signs that it may have held; earlier releases have written some without any."""

CLOCK_AHEAD = 1
"""The code of what says that values of the patient came from the future; its value is how far ahead, in seconds."""

NAMELESS = 2
"""The same of a message that may have held a vital sign whose code is not known."""

AHEAD_US = 120_000_000
"""Clocks may differ by so much without a word; whatever lies ahead of ours is read as of when it came."""

MOST_ATTRIBUTION = 0xFFFE
"""Where more is known than fits, what was stored last counts: after 32,767 facts of one device."""


def stored(rows: npt.NDArray[np.void]) -> bytes:
    """Return rows, or what begins with a row each, as they are stored."""
    return _FORM + rows.tobytes()


def restored(raw: bytes) -> bytes:
    """Return stored rows as those of dtype ROW."""
    return raw[1:] if len(raw) % 2 else widened(np.frombuffer(raw, _FIRST_ROW), ROW).tobytes()


def restored_as(raw: bytes, form: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return what was stored of a form that begins with a ``row``, which did not say before when it came."""
    if len(raw) % 2:
        return np.frombuffer(raw, form, offset=1)
    first = np.dtype([(name, _FIRST_ROW if name == "row" else form[name]) for name in form.names or ()])
    held = np.frombuffer(raw, first)
    found = np.zeros(len(held), form)
    for name in form.names or ():
        found[name] = widened(held[name], ROW) if name == "row" else held[name]
    return found


def widened(rows: npt.NDArray[np.void], form: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return rows in a form with more columns, in which these are zero."""
    found = np.zeros(len(rows), form)
    for name in rows.dtype.names or ():
        found[name] = rows[name]
    return found


@dataclass(frozen=True, slots=True)
class Values:
    """Values of a poll.

    Attributes:
        rows: of dtype ROW; the stage of what was taken back is odd. What is not finite is no value: see NO_VALUE.
        patient: index into ``patients`` of each row.
        patients: pseudonyms.
        position: source position of each row.
        part: index into ``parts`` of each row.
        parts: names of the source's partitions.
    """

    rows: npt.NDArray[np.void]
    patient: npt.NDArray[np.int32]
    patients: Sequence[str]
    position: npt.NDArray[np.int64]
    part: npt.NDArray[np.int32]
    parts: Sequence[str]

    def and_also(self, other: Values) -> Values:
        """Return both; they are of the same partitions."""
        return Values(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.patient, other.patient + len(self.patients)]),
            [*self.patients, *other.patients],
            np.concatenate([self.position, other.position]),
            np.concatenate([self.part, other.part]),
            self.parts,
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> Values:
        """Return the chosen rows."""
        if chosen.all():
            return self
        return Values(
            self.rows[chosen], self.patient[chosen], self.patients, self.position[chosen], self.part[chosen], self.parts
        )


def held_time(told_us: int, came_us: int, now_us: int, *, ours: bool = False) -> int:
    """Return when something began that is said to have begun: of what lies ahead of our clock when it came.

    What is not ahead of our own clock is left as it is, see held_to: the broker's may be a producer's that is behind.

    Args:
        told_us: when, as its sender says.
        came_us: when its message came, by the broker, who may be behind; 0: not known.
        now_us: our clock's time.
        ours: when it came is by our clock, too: what was ahead of it then is held also when it is past by now.
    """
    came = min(came_us, now_us) if came_us > 0 and abs(told_us - now_us) > AHEAD_US else now_us
    return min(told_us, came) if told_us > now_us or (ours and told_us > came + AHEAD_US) else told_us


def held_to(values: Values, now_us: int, *, ours: bool = False) -> Values:
    """Return values with none from the future: those that were so are of when they came, in the order they had.

    Else a device whose clock is ahead would show nothing until then, also no arrest, and the values before it would
    stay. They are not of when they are taken: after a pause of the lane a sensor that has long been silent would look
    alive. What was further ahead than AHEAD_US is told by a row of code CLOCK_AHEAD for each patient.

    A value that is not ahead of our own clock is left as it is, whatever the broker says: its time may be a producer's,
    whose clock is behind, and every value of a right clock would be put back by as much.

    Args:
        values: of a poll.
        now_us: by our clock.
        ours: when they came is by our clock, too: what was ahead of it then is held also when it is past by now.
    """
    told, came = values.rows["effective_us"], values.rows["came_us"]
    came = np.where(came > 0, np.minimum(came, now_us), now_us)
    ahead = told > now_us
    if ours:
        ahead |= told > came + AHEAD_US
    else:
        came = np.where(ahead & (told <= now_us + AHEAD_US), now_us, came)
    unknown = values.rows["available_us"] > now_us
    late = values.rows["came_us"] > now_us
    if not (ahead.any() or unknown.any() or late.any()):
        return values
    rows = values.rows.copy()
    rows["came_us"][late] = now_us
    rows["available_us"][unknown] = came[unknown]
    held = Values(rows, values.patient, values.patients, values.position, values.part, values.parts)
    if not ahead.any():
        return held
    rows["effective_us"][ahead] = _in_order(came[ahead], told[ahead])
    return held.and_also(_clocks_ahead(values, came, ahead))


def _in_order(came: npt.NDArray[np.int64], told: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for values that came at some times those times; of several the last one's, the others shortly before."""
    pairs, place = np.unique(np.stack([came, told]), axis=1, return_inverse=True)
    of = pairs[0]
    following = np.searchsorted(of, of, side="right") - 1 - np.arange(len(of))
    times: npt.NDArray[np.int64] = (of - following)[place.ravel()]
    return times


def _clocks_ahead(values: Values, came: npt.NDArray[np.int64], held: npt.NDArray[np.bool_]) -> Values:
    """Return a row for each patient of whom something was further ahead than AHEAD_US when it came, as of the last."""
    ahead = held & (values.rows["effective_us"] > came + AHEAD_US)
    whose, first = np.unique(values.patient[ahead], return_index=True)
    at = np.flatnonzero(ahead)[first]
    told = np.zeros(len(whose), ROW)
    told["code"], told["stage"], told["id"] = CLOCK_AHEAD, stage_of("final"), values.rows["id"][at] ^ np.uint64(1)
    seconds = (values.rows["effective_us"] - came) / 1e6
    mine = [ahead & (values.patient == one) for one in whose]
    told["value"] = [seconds[one].max() for one in mine]
    told["effective_us"] = told["available_us"] = told["came_us"] = [came[one].max() for one in mine]
    return Values(told, values.patient[at], values.patients, values.position[at], values.part[at], values.parts)


def stage_of(status: str | None) -> int:
    """Return the stage of a value by FHIR's status: of one version a higher one replaces a lower one.

    Odd where it was taken back. Earlier releases made it odd, too, where the message says that there is no value.
    """
    rank = next((i for i, statuses in enumerate(STAGES, 1) if status in statuses), 0)
    return 2 * rank + (status in WITHDRAWN)


_LEAST = np.iinfo(np.int64).min
_CORRECTED = [stage_of(status) // 2 for status in CORRECTED]


def current(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return the rows of one patient that count, in no order.

    They are those of the lake's *current* (governance/query/relations.py), but for one thing: which message a row came
    of is not kept, nor when it was told before anybody knew whose it is. So what takes an attributed value from a
    patient takes all messages of its version that were known as the patient's before; and of two equal stages of one
    version that became somebody's in one moment the one stored last counts. And where two messages say different
    numbers of one value with the same right, the lake counts what was told first; here both are kept.

    Args:
        rows: of dtype ROW, in the order they were stored.
    """
    ids = np.sort(rows["id"])
    again = ids[1:][ids[1:] == ids[:-1]]
    if len(again):
        several = np.isin(rows["id"], again)
        counts = np.append(np.flatnonzero(~several), _that_count(rows, np.flatnonzero(several)))
        rows = rows[counts]
    return rows[rows["stage"] % 2 == 0] if (rows["stage"] % 2).any() else rows


def _that_count(rows: npt.NDArray[np.void], among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return of each value the index of the row that counts; of a value that is not this patient's any more none."""
    rows = rows[among]
    rank = (rows["stage"] & 0xFF) // 2
    of, number = np.unique(rows["id"], return_inverse=True)
    owned = rows["attribution"] > 0
    kept = ~owned | _is_this_patients(rows, owned & (rows["attribution"] % 2 == 0))
    kept &= rows["version"] == _highest(np.where(kept, rows["version"], _LEAST), number)
    named = np.bincount(number[kept & ~owned], minlength=len(of)) > 0
    kept &= ~(owned & named[number])
    is_corrected = np.isin(rank, _CORRECTED)
    told = np.where(is_corrected, rows["available_us"], -rows["available_us"])
    order = np.lexsort((told, rank, number))
    order = order[kept[order]]
    last = np.diff(number[order], append=-1) != 0
    counts = order[last]
    found: npt.NDArray[np.int64] = among[
        np.append(counts, _as_good(rows, np.flatnonzero(kept & ~owned), counts, number))
    ]
    return found


def _as_good(
    rows: npt.NDArray[np.void],
    among: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    number: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return the rows that say another number than the one that counts, with the same right: of two sensors, maybe.

    Without an identifier two sensors' readings of one time have one name. Nobody can tell which of them is wrong, so
    that both are kept, and the worse one is scored.
    """
    of = np.zeros(int(number.max()) + 1, np.int64)
    of[number[counts]] = counts
    first = of[number[among]]
    alike = (rows["stage"][among] & 0xFF) == (rows["stage"][first] & 0xFF)
    alike &= ~np.isin((rows["stage"][among] & 0xFF) // 2, _CORRECTED) & np.isfinite(rows["value"][among])
    alike &= (rows["value"][among] != rows["value"][first]) | (rows["stage"][among] != rows["stage"][first])
    others = among[alike]
    _, once = np.unique(rows[["id", "stage", "value"]][others], return_index=True)
    found: npt.NDArray[np.int64] = others[once]
    return found


def _is_this_patients(rows: npt.NDArray[np.void], taken: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which attributed rows nothing has taken that was known later, of the same version."""
    if not taken.any():
        return ~taken
    known = np.empty(len(rows), np.int64)
    known[np.lexsort((rows["attribution"], rows["available_us"]))] = np.arange(len(rows))
    _, version = np.unique(rows[["id", "version"]], return_inverse=True)
    mine: npt.NDArray[np.bool_] = known > _highest(np.where(taken, known, -1), version)
    return mine


def _highest(values: npt.NDArray[np.int64], number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each row the highest of the values of its number."""
    highest = np.full(int(number.max()) + 1, _LEAST)
    np.maximum.at(highest, number, values)
    found: npt.NDArray[np.int64] = highest[number]
    return found
