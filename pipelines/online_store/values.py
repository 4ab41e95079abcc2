"""Measured values as the online store writes them, a poll at a time, and the rules by which one of several counts."""

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
"""One value, with these fields:

- code: the LOINC code as a number.
- stage: how far the result has come, see stage_of; the number of its comparator in the higher byte.
- attribution: how much was known of the device when the row was attributed, see the dataset observation; 0: the message
  named the patient.
- effective_us: when it was measured. available_us: when it became known, as its sender says.
- id: the first half of observation_id. version: its version.
- came_us: when it came, by our clock; 0: not known.
"""

_FIRST_ROW = np.dtype([(name, ROW[name]) for name in ROW.names or () if name != "came_us"])
_FORM = b"\x01"
"""Prefix of stored rows of dtype ROW. Rows without it are of an earlier form without ``came_us``. All rows have an even
length, so that the prefix makes the length odd and the two forms cannot be confused."""

COMPARATORS = ("", "<", "<=", ">=", ">", "ad")
"""The comparator of a value, by the number in the higher byte of the stage."""

NO_VALUE, TOO_LOW, TOO_HIGH = float("nan"), float("-inf"), float("inf")
"""Stand for a value that cannot be used. NO_VALUE: the sender says that there is none, or gives something else than a
number, or the message was rejected. TOO_LOW, TOO_HIGH: it is not plausible. The value before it is no longer
current."""

UNUSABLE = 0xFF
"""Stands for the comparator of a row whose value is not finite: a value came, but as text or in a rejected message.
Without it the sender says that there is no value, as of a sensor that is not connected."""

REFUSED = 0
"""The code of a row that says that a message of the patient was rejected as a whole; its value is NO_VALUE. Rows of the
vital signs that the message could have held have the same time; earlier releases have written some without any."""

CLOCK_AHEAD = 1
"""The code of a row that says that values of the patient came from the future; its value is by how many seconds."""

REFUSED_UNKNOWN_CODE = 2
"""The code of a row that says that a message was rejected which could have held a vital sign, with an unknown code."""

AHEAD_US = 120_000_000
"""How far a sender's clock can be ahead of ours without a warning. The time of every value from the future is clamped,
also within this limit."""

MAX_ATTRIBUTION = 0xFFFE
"""The highest attribution that fits into a row. It is reached after 32,767 facts of one device; from then on the row
that was stored last counts."""


def stored(rows: npt.NDArray[np.void]) -> bytes:
    """Return rows, or records whose first field is a row, as they are stored."""
    return _FORM + rows.tobytes()


def restored(raw: bytes) -> bytes:
    """Return stored rows as bytes of dtype ROW, also those of the earlier form."""
    return raw[1:] if len(raw) % 2 else widened(np.frombuffer(raw, _FIRST_ROW), ROW).tobytes()


def restored_as(raw: bytes, form: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return stored records of a form whose field ``row`` is a row, also those with rows of the earlier form."""
    if len(raw) % 2:
        return np.frombuffer(raw, form, offset=1)
    first = np.dtype([(name, _FIRST_ROW if name == "row" else form[name]) for name in form.names or ()])
    earlier = np.frombuffer(raw, first)
    records = np.zeros(len(earlier), form)
    for name in form.names or ():
        records[name] = widened(earlier[name], ROW) if name == "row" else earlier[name]
    return records


def widened(rows: npt.NDArray[np.void], form: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return rows in a form with more columns; the new columns are zero."""
    wide = np.zeros(len(rows), form)
    for name in rows.dtype.names or ():
        wide[name] = rows[name]
    return wide


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a poll.

    Attributes:
        rows: of dtype ROW. The stage of a value that was taken back is odd. A value that is not finite cannot be used,
            see NO_VALUE.
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
        """Return these values and the others, which come from the same partitions."""
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


def clamped_time(stated_us: int, came_us: int, now_us: int, *, ours: bool = False) -> int:
    """Return when something began; a time ahead of our clock is clamped to when its message came.

    A time that is not ahead of our own clock stays as it is, for the reason given at clamped_to_clock.

    Args:
        stated_us: the beginning as the sender gives it.
        came_us: when its message came, by the broker, whose clock can be behind; 0: not known.
        now_us: our clock's time.
        ours: ``came_us`` is by our own clock. Then a time that was ahead when the message came is clamped even if it is
            past by now.
    """
    came = min(came_us, now_us) if came_us > 0 and abs(stated_us - now_us) > AHEAD_US else now_us
    return min(stated_us, came) if stated_us > now_us or (ours and stated_us > came + AHEAD_US) else stated_us


def clamped_to_clock(values: Values, now_us: int, *, ours: bool = False) -> Values:
    """Return values of which none is from the future: times ahead of our clock become the times at which they came.

    Values that came together keep their order. Without this, a device whose clock is ahead would show nothing until
    that time, not even an arrest, and the values before it would stay current. The times become those at which the
    values came, not those at which the store takes them: after a pause of the lane a sensor that has long been silent
    would look alive. A row of code CLOCK_AHEAD reports for each patient what was further ahead than AHEAD_US.

    A value that is not ahead of our own clock stays as it is, whatever the broker says: the broker's time can be that
    of a producer whose clock is behind, and every value of a correct clock would be moved back by as much.

    Args:
        values: of a poll.
        now_us: by our clock.
        ours: the times at which they came are by our own clock. Then a value that was ahead when it came is clamped
            even if its time is past by now.
    """
    stated, came = values.rows["effective_us"], values.rows["came_us"]
    came = np.where(came > 0, np.minimum(came, now_us), now_us)
    ahead = stated > now_us
    if ours:
        ahead |= stated > came + AHEAD_US
    else:
        came = np.where(ahead & (stated <= now_us + AHEAD_US), now_us, came)
    unknown = values.rows["available_us"] > now_us
    late = values.rows["came_us"] > now_us
    if not (ahead.any() or unknown.any() or late.any()):
        return values
    rows = values.rows.copy()
    rows["came_us"][late] = now_us
    rows["available_us"][unknown] = came[unknown]
    clamped = Values(rows, values.patient, values.patients, values.position, values.part, values.parts)
    if not ahead.any():
        return clamped
    rows["effective_us"][ahead] = _in_order(came[ahead], stated[ahead])
    return clamped.and_also(_clocks_ahead(values, came, ahead))


def _in_order(came: npt.NDArray[np.int64], stated: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the times at which values came, with the order of their stated times.

    Of several that came at the same time the last one gets that time, and each one before it a microsecond less.
    """
    pairs, place = np.unique(np.stack([came, stated]), axis=1, return_inverse=True)
    sorted_came = pairs[0]
    following = np.searchsorted(sorted_came, sorted_came, side="right") - 1 - np.arange(len(sorted_came))
    times: npt.NDArray[np.int64] = (sorted_came - following)[place.ravel()]
    return times


def _clocks_ahead(values: Values, came: npt.NDArray[np.int64], clamped: npt.NDArray[np.bool_]) -> Values:
    """Return a row of code CLOCK_AHEAD for each patient who had a value further ahead than AHEAD_US when it came.

    Its value is the largest difference, its time that at which the last such value came.
    """
    ahead = clamped & (values.rows["effective_us"] > came + AHEAD_US)
    patients, first = np.unique(values.patient[ahead], return_index=True)
    at = np.flatnonzero(ahead)[first]
    warnings = np.zeros(len(patients), ROW)
    warnings["code"], warnings["stage"] = CLOCK_AHEAD, stage_of("final")
    warnings["id"] = values.rows["id"][at] ^ np.uint64(1)
    seconds = (values.rows["effective_us"] - came) / 1e6
    of_patient = [ahead & (values.patient == one) for one in patients]
    warnings["value"] = [seconds[one].max() for one in of_patient]
    warnings["effective_us"] = warnings["available_us"] = warnings["came_us"] = [came[one].max() for one in of_patient]
    return Values(warnings, values.patient[at], values.patients, values.position[at], values.part[at], values.parts)


def stage_of(status: str | None) -> int:
    """Return the stage of a value by its FHIR status: within a version a higher stage replaces a lower one.

    The stage is odd where the value was taken back. Earlier releases also made it odd where the message says that there
    is no value.
    """
    rank = next((i for i, statuses in enumerate(STAGES, 1) if status in statuses), 0)
    return 2 * rank + (status in WITHDRAWN)


_LEAST = np.iinfo(np.int64).min
_CORRECTED = [stage_of(status) // 2 for status in CORRECTED]


def current(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return the rows of one patient that count, in no particular order.

    They are the rows of the lake's *current* (governance/query/relations.py), with these differences, because a row
    does not say which message it came from, nor when it was reported before its patient was known:

    - A row that withdraws an attributed value from a patient withdraws it for all messages of its version that were
      attributed to the patient before.
    - Of two rows of one version and equal stage that were attributed at the same moment, the one stored last counts.
    - Where two messages of equal rank give different numbers for one value, the lake counts the one reported first;
      here both are kept.

    Args:
        rows: of dtype ROW, in the order they were stored.
    """
    ids = np.sort(rows["id"])
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if len(repeated):
        several = np.isin(rows["id"], repeated)
        counts = np.append(np.flatnonzero(~several), _that_count(rows, np.flatnonzero(several)))
        rows = rows[counts]
    return rows[rows["stage"] % 2 == 0] if (rows["stage"] % 2).any() else rows


def _that_count(rows: npt.NDArray[np.void], among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the index of the row that counts of each value; none for a value that was withdrawn from this patient."""
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
    """Return the rows that give another number than the row that counts, and have the same rank.

    Readings of two sensors at the same time have the same id where messages give no identifier. It cannot be known
    which of them is wrong, so that both are kept, and the worse one is scored.
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
    """Return the attributed rows that were not withdrawn by a later row of the same version."""
    if not taken.any():
        return ~taken
    known = np.empty(len(rows), np.int64)
    known[np.lexsort((rows["attribution"], rows["available_us"]))] = np.arange(len(rows))
    _, version = np.unique(rows[["id", "version"]], return_inverse=True)
    mine: npt.NDArray[np.bool_] = known > _highest(np.where(taken, known, -1), version)
    return mine


def _highest(values: npt.NDArray[np.int64], number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each row the highest value among the rows with the same number."""
    highest = np.full(int(number.max()) + 1, _LEAST)
    np.maximum.at(highest, number, values)
    found: npt.NDArray[np.int64] = highest[number]
    return found
