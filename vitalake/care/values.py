"""Measured values on their way into the care store, a poll at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitalake.statuses import CORRECTED, STAGES, TAKEN_BACK

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
    ]
)
"""One value: LOINC as a number, how far it has come (see stage_of; the comparator's number in the higher byte), how
much was known of whose it is (0: the message said so; see the dataset observation), the first half of observation_id,
and its version."""

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


def held_to(values: Values, now_us: int) -> Values:
    """Return values with none from the future: those that were so are of now, in the order they had.

    Else a device whose clock is ahead would show nothing until then, also no arrest, and the values before it would
    stay. What was further ahead than AHEAD_US is told by a row of code CLOCK_AHEAD for each patient.
    """
    ahead = values.rows["effective_us"] > now_us
    unknown = values.rows["available_us"] > now_us
    if not (ahead.any() or unknown.any()):
        return values
    rows = values.rows.copy()
    rows["available_us"][unknown] = now_us
    held = Values(rows, values.patient, values.patients, values.position, values.part, values.parts)
    if not ahead.any():
        return held
    told = _clocks_ahead(values, now_us)
    moments, place = np.unique(rows["effective_us"][ahead], return_inverse=True)
    rows["effective_us"][ahead] = now_us - (len(moments) - 1) + place
    return held.and_also(told)


def _clocks_ahead(values: Values, now_us: int) -> Values:
    """Return a row for each patient of whom something is further ahead than AHEAD_US."""
    ahead = values.rows["effective_us"] > now_us + AHEAD_US
    whose, first = np.unique(values.patient[ahead], return_index=True)
    at = np.flatnonzero(ahead)[first]
    told = np.zeros(len(whose), ROW)
    told["code"], told["stage"], told["id"] = CLOCK_AHEAD, stage_of("final"), values.rows["id"][at] ^ np.uint64(1)
    seconds = (values.rows["effective_us"] - now_us) / 1e6
    told["value"] = [seconds[ahead & (values.patient == one)].max() for one in whose]
    told["effective_us"] = told["available_us"] = now_us
    return Values(told, values.patient[at], values.patients, values.position[at], values.part[at], values.parts)


def stage_of(status: str | None) -> int:
    """Return the stage of a value by FHIR's status: of one version a higher one replaces a lower one.

    Odd where it was taken back. Earlier releases made it odd, too, where the message says that there is no value.
    """
    rank = next((i for i, statuses in enumerate(STAGES, 1) if status in statuses), 0)
    return 2 * rank + (status in TAKEN_BACK)


_LEAST = np.iinfo(np.int64).min
_CORRECTED = [stage_of(status) // 2 for status in CORRECTED]


def current(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return the rows of one patient that count, in no order.

    They are those of the lake's *current* (governance/door/relations.py), but for one thing: which message a row came
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
