"""NEWS2, the National Early Warning Score, computed from the parts that are known now.

Source: Royal College of Physicians, National Early Warning Score (NEWS) 2, London 2017: chart 1 (the score), and the
patients whom it does not apply to, children under 16 and pregnant women.

A value counts until it is MAX_AGE_HOURS old by the clock, whatever else was measured since. A part without such a value
is missing and adds nothing; the total is then *partial*, a lower bound, and must be shown so. Pages call a part a
parameter, as the RCP does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from models.clock_lag import BEHIND_US, is_in_batch, steady_lag
from pipelines.online_store.values import COMPARATORS, UNUSABLE
from vitalake.clinical.records import History, code_number
from vitalake.declarations import per_home
from vitalake.vocabulary import load_vocabulary

Withheld = Literal["", "child", "pregnancy"]

WITHHELD: dict[Withheld, str] = {
    "child": "Under 16: NEWS2 is not for children.",
    "pregnancy": "Pregnant: NEWS2 is not for pregnancy.",
}
"""Why no score is shown although values are known; a text for people."""

ADULT_YEARS = 16

OUTLIVED_US = 15 * 60_000_000
"""An event ends when another sensor has measured the part this much later, because a sensor that came off stays silent.
It also ends when its own sensor has reported for this long that it has no value."""

TOGETHER_US = 60_000_000
"""Readings of a part that are this near to its newest one count as of one moment. The worst of them is scored, and the
other is shown beside it: when two sensors alternate, the one with normal values must not hide the other."""

FAR_POINTS = 2
"""Two readings of one moment disagree if they differ by this many points; less is noise at the edge of a band."""

STANDS_IN_US = 120_000_000
"""If a part's last value is unusable, another sensor's reading stands in for it if it is at most this much older."""

MAX_AGE_HOURS = 12.0
"""The age up to which a value counts: the longest interval between observations of the RCP, 12 h at a total of 0."""

_HOUR_US = 3_600_000_000
_WORST = 3
_INF = float("inf")
Bands = tuple[tuple[float, int], ...]

COMA_TOTAL, COMA_PARTS = "9269-2", ("9267-6", "9268-4", "9270-0")
"""The total of the Glasgow Coma Scale, and its three parts: eyes, motor, verbal."""

ACVPU = "67775-7"
"""The level of consciousness as a word; its value is the word's place on the scale, see Vocabulary.answers."""


@per_home
def alike(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Return codes and those that count as one of them: an invasive systolic pressure is a systolic pressure."""
    vocabulary = load_vocabulary()
    return tuple(dict.fromkeys(near for code in codes for near in vocabulary.with_near_codes(code)))


class Part(NamedTuple):
    """A measured part of the NEWS2 chart.

    Attributes:
        general: the part's LOINC codes; codes that count as one of them belong to it too.
        decimals: values are rounded to this many before they are scored or shown.
        bands: the highest value of each band with its points; the last band has no upper limit.
        max_age_hours: the age up to which a value counts.
        has_events: whether values below the plausible range are accepted and are events, see Event.
    """

    general: tuple[str, ...]
    decimals: int
    bands: Bands
    max_age_hours: float = MAX_AGE_HOURS
    has_events: bool = False

    @property
    def codes(self) -> tuple[str, ...]:
        """Return all LOINC codes of this part, from the vocabulary of the home in use."""
        return alike(self.general)

    @property
    def event_below(self) -> float:
        """Return the value below which a reading is an event: no living body shows it."""
        return load_vocabulary().lowest_measurement(self.general[0]) if self.has_events else -_INF


def _events(*codes: str, bands: Bands) -> Part:
    return Part(codes, 0, bands, has_events=True)


MEASURED: dict[str, Part] = {
    "respiratory_rate": _events("9279-1", bands=((8, 3), (11, 1), (20, 0), (24, 2), (_INF, 3))),
    "oxygen_saturation": _events("2708-6", "59408-5", bands=((91, 3), (93, 2), (95, 1), (_INF, 0))),
    "systolic_pressure": _events("8480-6", bands=((90, 3), (100, 2), (110, 1), (219, 0), (_INF, 3))),
    "pulse": _events("8867-4", "8889-8", bands=((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (_INF, 3))),
    "consciousness": Part((COMA_TOTAL, ACVPU), 0, ((14, 3), (_INF, 0))),
    "temperature": Part(("8310-5",), 1, ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (_INF, 2))),
}

ACVPU_BANDS: Bands = ((0, 0), (_INF, 3))
"""By the place on the ACVPU scale: alert scores 0, all others 3."""

SCALE_2_ON_AIR: Bands = ((83, 3), (85, 2), (87, 1), (_INF, 0))
SCALE_2_ON_OXYGEN: Bands = ((83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (_INF, 3))
"""SpO₂ scale 2, for patients with hypercapnic respiratory failure, as decided by a clinician."""

OXYGEN = "supplemental_oxygen"
OXYGEN_FLOW, OXYGEN_FRACTION = "3151-8", "3150-6"
ROOM_AIR_PERCENT = 21.0
ON_OXYGEN = 2
OXYGEN_DECIMALS = {OXYGEN_FLOW: 1, OXYGEN_FRACTION: 0}

PARTS = ("respiratory_rate", "oxygen_saturation", OXYGEN, "systolic_pressure", "pulse", "consciousness", "temperature")
"""All parts, in the order of the NEWS2 chart."""

_ACVPU = code_number(ACVPU)
_COMA_TOTAL, _COMA_PARTS = code_number(COMA_TOTAL), tuple(map(code_number, COMA_PARTS))
_COMA_BEST = np.array([4.0, 6.0, 5.0])
_FLOW, _FRACTION = code_number(OXYGEN_FLOW), code_number(OXYGEN_FRACTION)
_ABOVE = [place for place, sign in enumerate(COMPARATORS) if sign.startswith(">")]
_OXYGEN_DECIMALS = {code_number(code): places for code, places in OXYGEN_DECIMALS.items()}


def codes_read() -> tuple[str, ...]:
    """Return all LOINC codes that the score reads."""
    return (*(code for part in MEASURED.values() for code in part.codes), OXYGEN_FLOW, OXYGEN_FRACTION, *COMA_PARTS)


class _Numbers(NamedTuple):
    """The codes as numbers.

    Attributes:
        of_part: each measured part → its codes.
        vital: the codes of all measured parts, ascending.
        part_of: code → part, including supplemental oxygen.
        known, places: the codes of ``part_of`` ascending, and the index of each one's part in PARTS.
    """

    of_part: dict[str, tuple[int, ...]]
    vital: npt.NDArray[np.uint32]
    part_of: dict[int, str]
    known: npt.NDArray[np.uint32]
    places: npt.NDArray[np.intp]


def numbers_of_parts() -> dict[str, tuple[int, ...]]:
    """Return the codes of each measured part, as numbers."""
    return _numbers().of_part


@per_home
def _numbers() -> _Numbers:
    of_part = {name: tuple(map(code_number, part.codes)) for name, part in MEASURED.items()}
    vital = np.array(sorted(number for numbers in of_part.values() for number in numbers), np.uint32)
    part_of = {number: name for name, numbers in of_part.items() for number in numbers}
    part_of |= dict.fromkeys((_FLOW, _FRACTION), OXYGEN) | dict.fromkeys(_COMA_PARTS, "consciousness")
    places = np.array([PARTS.index(part_of[number]) for number in sorted(part_of)], np.intp)
    return _Numbers(of_part, vital, part_of, np.array(sorted(part_of), np.uint32), places)


class Situation(msgspec.Struct, frozen=True):
    """What decides whether and how a patient is scored.

    Attributes:
        age_years: completed years; None: not known, which is treated as an adult.
        pregnant: known to be pregnant.
        scale_2: a clinician has decided that SpO₂ scale 2 applies.
    """

    age_years: float | None = None
    pregnant: bool = False
    scale_2: bool = False

    @property
    def withheld(self) -> Withheld:
        """Return why no score is given; empty: one is given."""
        if self.age_years is not None and self.age_years < ADULT_YEARS:
            return "child"
        return "pregnancy" if self.pregnant else ""


ADULT = Situation()


class Reading(msgspec.Struct, frozen=True):
    """The last known value of a part; it is both scored and shown.

    Attributes:
        value: rounded to the chart's decimals (see ``charted``).
        at_us: when it was measured.
        code: LOINC, as a number.
        comparator: the sign before the value, such as ``<``; the worst value that it allows is scored.
    """

    value: float
    at_us: int
    code: int
    comparator: str = ""


class Event(msgspec.Struct, frozen=True):
    """A reading that no living body shows: (almost) no breath, beat, pressure or oxygen was found.

    It means apnoea, asystole, an arrest, or a probe, line or cuff that came off. Somebody must check the patient.

    Attributes:
        part: respiratory_rate, pulse, oxygen_saturation or systolic_pressure.
        at_us: when it was measured.
        code: LOINC, as a number.
        value: the reading.
        comparator: the sign before the value.
        came_us: when it arrived, if that was long after; 0: it arrived in time.
    """

    part: str
    at_us: int
    code: int
    value: float = 0.0
    comparator: str = ""
    came_us: int = 0


Ending = Literal["none", "low", "high"]


class Ended(msgspec.Struct, frozen=True):
    """A part whose last value no longer counts, because an unusable one came after it.

    Attributes:
        at_us: when the first unusable value was measured.
        code: LOINC, as a number.
        kind: the unusable value is implausibly low or high; none: the sender has no value, its message was refused,
            or it sent a text instead of a number.
    """

    at_us: int
    code: int
    kind: Ending


class News2(msgspec.Struct, frozen=True):
    """The score of a patient as of a moment.

    Attributes:
        total: the sum over the known parts; None: no part is known, or the score is withheld.
        parts: the points of each part; None: no recent value.
        missing: the parts without a recent value.
        partial: whether any part is missing.
        latest: the last known reading of each part, even if it has expired and does not score.
        events: readings of no living body that no later one of the same code has ended; they score 3.
        withheld: why no score is given.
        scale: of oxygen saturation: 1, or 2 by a recorded decision.
        ended: parts whose last value is unusable; an earlier event of such a part stays in ``events``.
        beside: the reading that is not scored, for a part with an event or with readings of one moment that score
            differently; for oxygen given as a fraction, a later flow of zero.
    """

    total: int | None
    parts: dict[str, int | None]
    missing: tuple[str, ...]
    partial: bool
    latest: dict[str, Reading] = {}
    events: tuple[Event, ...] = ()
    withheld: Withheld = ""
    scale: int = 1
    ended: dict[str, Ended] = {}
    beside: dict[str, Reading] = {}

    @property
    def red(self) -> bool:
        """Return whether a single part scores 3, which by itself calls for an urgent response."""
        return any(points == _WORST for points in self.parts.values())


def news2(history: History, *, as_of_us: int, situation: Situation = ADULT) -> News2:
    """Return the score as of a moment, from the latest value of each part known then, unless it has expired.

    - Of several values of one moment (TOGETHER_US) the one with the most points counts.
    - An event counts until the same code has another value, or another sensor one that is OUTLIVED_US younger: a pulse
      by oximetry in the same minute does not hide what the ECG shows.
    - An event that came late, but not in a batch of hours, counts by its arrival as well, because the sender's clock
      may be behind.
    - An unusable value ends the one before it.

    Args:
        history: any number of values; those known or effective after the moment do not count.
        as_of_us: the moment.
        situation: decides whether the patient is scored, and by which scale.
    """
    known = _with_coma_total(history.known_at(as_of_us))
    points: dict[str, int | None] = dict.fromkeys(PARTS)
    latest: dict[str, Reading] = {}
    events: list[Event] = []
    ended: dict[str, Ended] = {}
    beside: dict[str, Reading] = {}
    oxygen = _standing(known, (_FLOW, _FRACTION), _OXYGEN_DECIMALS)
    if oxygen.end is not None:
        ended[OXYGEN] = oxygen.end
    if oxygen.found:
        latest[OXYGEN] = _oxygen(oxygen.found, _last_flow_us(known), as_of_us)
        since = [one for one in oxygen.found if one.at_us >= latest[OXYGEN].at_us + TOGETHER_US]
        beside |= {OXYGEN: max(since, key=lambda one: one.at_us)} if since else {}
        if _counts(latest[OXYGEN], MAX_AGE_HOURS, as_of_us):
            points[OXYGEN] = ON_OXYGEN if _is_given(latest[OXYGEN]) else 0
    numbers = _numbers().of_part
    for name, part in MEASURED.items():
        bands = part.bands
        if name == "oxygen_saturation" and situation.scale_2:
            bands = SCALE_2_ON_OXYGEN if points[OXYGEN] else SCALE_2_ON_AIR
        standing = _standing(known, numbers[name], dict.fromkeys(numbers[name], part.decimals))
        if standing.end is not None:
            ended[name] = standing.end
        found = standing.found
        event_readings = _standing_events(standing, part, as_of_us)
        if not found and not event_readings:
            continue
        events += [
            Event(name, one.at_us, one.code, one.value, one.comparator, standing.late.get(one, 0))
            for one in event_readings
        ]
        scored = [
            (_points(ACVPU_BANDS if one.code == _ACVPU else bands, one), one)
            for one in dict.fromkeys([*found, *event_readings])
        ]
        newest = max((one.at_us for one in found), default=0)
        first = event_readings or [one for one in found if newest - one.at_us < TOGETHER_US]
        most, latest[name] = max(
            (pair for pair in scored if pair[1] in first), key=lambda pair: (pair[0], pair[1].at_us, pair[1].value)
        )
        other = _other(scored, most, latest[name], part)
        if other is not None:
            beside[name] = other
        if _counts(latest[name], part.max_age_hours, as_of_us):
            points[name] = most
    scale = 2 if situation.scale_2 else 1
    if situation.withheld:
        nothing: dict[str, int | None] = dict.fromkeys(PARTS)
        return News2(
            None, nothing, (), False, latest, tuple(events), situation.withheld, scale, ended=ended, beside=beside
        )
    missing = tuple(name for name, score in points.items() if score is None)
    known_points = [score for score in points.values() if score is not None]
    total = sum(known_points) if known_points else None
    return News2(total, points, missing, bool(missing), latest, tuple(events), "", scale, ended=ended, beside=beside)


def _is_event(one: Reading, part: Part) -> bool:
    """Return whether a reading is an event: every value that it allows is below what a living body shows."""
    return one.value < part.event_below or (one.comparator == "<" and one.value <= part.event_below)


def _standing_events(standing: _Standing, part: Part, as_of_us: int) -> list[Reading]:
    """Return the readings of no living body that still count, the newest of each code.

    Another value ends them; a missing value does so only after OUTLIVED_US.
    """
    every = [*standing.found, *standing.gone]
    last = {one.code: max(near.at_us for near in every if near.code == one.code) for one in every}
    newest_us = max((one.at_us for one in standing.found), default=0)
    late = {
        one.code: one
        for one, came_us in standing.late.items()
        if _is_event(one, part)
        and _counts(one, part.max_age_hours, as_of_us)
        and standing.came_us - came_us < OUTLIVED_US
    }
    found = {
        one.code: one
        for one in sorted(every, key=lambda one: (one.at_us, -one.value))
        if _is_event(one, part)
        and (one.at_us == last[one.code] or (one in standing.found and newest_us - one.at_us < TOGETHER_US))
        and _counts(one, part.max_age_hours, as_of_us)
        and max(newest_us, standing.gone_us if one in standing.gone else 0) - one.at_us < OUTLIVED_US
    }
    return list((late | found).values())


def _other(found: list[tuple[int, Reading]], points: int, scored: Reading, part: Part) -> Reading | None:
    """Return another sensor's reading of the scored moment, if it disagrees with the scored one.

    Readings of the same code are compared if they are of the same time or later, because two sensors may share a code.
    """
    is_event = _is_event(scored, part)
    others = [
        one
        for score, one in found
        if (one.code != scored.code or one.at_us >= scored.at_us)
        and scored.at_us - one.at_us < (STANDS_IN_US if is_event else TOGETHER_US)
        and (not _is_event(one, part) if is_event else points - score >= FAR_POINTS)
    ]
    return max(others, key=lambda one: (one.at_us, one.value), default=None)


def charted(value: float, decimals: int) -> float:
    """Return a value as it is written on the chart: rounded half up, once, before it is scored and shown.

    The decimal number is rounded as people do it (35.05 becomes 35.1), not its binary neighbour (35.0499…). Digits
    beyond the sixth decimal are noise of unit conversions.

    >>> charted(35.05, 1), charted(95.09999999999999, 0), charted(0.04, 1)
    (35.1, 95.0, 0.0)
    """
    step = Decimal(1).scaleb(-decimals)
    return float(Decimal(f"{value:.6f}").quantize(step, ROUND_HALF_UP)) + 0.0


def vital_times(history: History) -> npt.NDArray[np.int64]:
    """Return when vital signs were measured, ascending; oxygen given is a treatment and does not count."""
    return history.effective_us[is_vital(history) & np.isfinite(history.value)]


def is_vital(history: History) -> npt.NDArray[np.bool_]:
    """Return which rows are vital signs, including marks without a value."""
    found: npt.NDArray[np.bool_] = np.isin(history.code, _numbers().vital)
    return found


def parts_in(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    """Return for each code the index of its part in PARTS; -1: it belongs to none."""
    numbers = _numbers()
    place = np.searchsorted(numbers.known, codes).clip(max=len(numbers.known) - 1)
    found: npt.NDArray[np.intp] = np.where(numbers.known[place] == codes, numbers.places[place], -1)
    return found


def last_of_parts(history: History) -> dict[str, int]:
    """Return when each measured part was last measured."""
    found: dict[str, int] = {}
    finite, part_of = np.isfinite(history.value), _numbers().part_of
    for number in np.unique(history.code).tolist():
        times = history.effective_us[finite & (history.code == number)]
        if number in part_of and len(times):
            found[part_of[number]] = max(found.get(part_of[number], -1), int(times.max()))
    return found


def expiries_us(history: History) -> list[int]:
    """Return when the last value of each part expires; the score changes then without a message."""
    found = [times.max() + int(hours * _HOUR_US) for times, hours in _last_times(history) if len(times)]
    return [int(time) for time in found]


def _last_times(history: History) -> Iterable[tuple[npt.NDArray[np.int64], float]]:
    history = _with_coma_total(history)
    finite = np.isfinite(history.value)
    for name, part in MEASURED.items():
        for number in _numbers().of_part[name]:  # each code by itself, since events end by code
            yield history.effective_us[finite & (history.code == number)], part.max_age_hours
    for number in (_FLOW, _FRACTION):
        yield history.effective_us[finite & (history.code == number)], MAX_AGE_HOURS


def _with_coma_total(known: History) -> History:
    """Return values with a coma total computed from its three parts, if these are newer than the last total.

    If the parts were not measured together, or one could not be measured (the verbal part of an intubated patient), the
    total is an upper bound: the sum of the parts that are newer than the last total, and the best value of each other
    part. It is added only if one of the newer parts is below its best. For an intubated patient the panel can state why
    there is no total; that statement does not end what the parts give. Of two readings of one part at one time the
    worse counts.
    """
    if not np.isin(known.code, _COMA_PARTS).any():
        return known
    finite = np.isfinite(known.value)
    rows = [np.flatnonzero((known.code == number) & finite) for number in _COMA_PARTS]
    worst = [mine[np.lexsort((-known.value[mine], known.effective_us[mine]))] for mine in rows]
    last = np.array([mine[-1] if len(mine) else -1 for mine in worst])
    at_us = np.where(last >= 0, known.effective_us[last], -1)
    total_us = known.effective_us[(known.code == _COMA_TOTAL) & finite].max(initial=-1)
    if at_us.max() <= total_us:
        return known
    if at_us.min() >= 0 and np.ptp(at_us) < TOGETHER_US:
        return _with_row(known, last, known.value[last].sum(), comparator="")
    lower = (at_us > total_us) & (known.value[last] < _COMA_BEST)
    if not lower.any():
        return known
    highest = np.where(lower, known.value[last], _COMA_BEST).sum()
    return _with_row(known, last[lower], highest, comparator="<=")


def _with_row(known: History, of: npt.NDArray[np.intp], total: float, *, comparator: str) -> History:
    """Return values with a coma total as of the last of some rows, known when all of them are known.

    A total below the best counts even if the sender has reported since that it has no total.
    """
    at_us = known.effective_us[of].max()
    order = np.argsort(np.append(known.effective_us, at_us), kind="stable")
    signs = np.zeros(len(known), np.uint8) if known.comparator is None else known.comparator
    absent = np.append((known.code == _COMA_TOTAL) & np.isnan(known.value) & (signs != UNUSABLE), False)
    order = order[~absent[order]] if total < _COMA_BEST.sum() else order
    return History(
        np.append(known.code, np.uint32(_COMA_TOTAL))[order],
        np.append(known.value, total)[order],
        np.append(known.effective_us, at_us)[order],
        np.append(known.available_us, known.available_us[of].max())[order],
        np.append(signs, np.uint8(COMPARATORS.index(comparator)))[order],
    )


def _counts(reading: Reading, max_age_hours: float, as_of_us: int) -> bool:
    return reading.at_us > as_of_us - int(max_age_hours * _HOUR_US)


class _Standing(NamedTuple):
    """The readings of a part that still count.

    Attributes:
        found: the last readings of each code, unless an unusable value has ended them.
        end: the unusable value that ended the part; then ``found`` is empty.
        gone: the last readings of the codes that an unusable value has ended.
        gone_us: when the last unusable value was measured.
        late: for each code the reading that arrived last, if it arrived late but is current, with its arrival time.
        came_us: when the last value arrived.
    """

    found: list[Reading]
    end: Ended | None
    gone: list[Reading]
    gone_us: int
    late: dict[Reading, int]
    came_us: int


def _standing(known: History, numbers: Iterable[int], decimals: Mapping[int, int]) -> _Standing:
    """Return the readings of a part with these codes that still count.

    A report of "no value" means nothing from a sensor that never had one: it is not connected. An unusable value ends
    the part, whatever its code, unless another reading stands in.
    """
    found: list[Reading] = []
    gone: list[Reading] = []
    ends: list[tuple[int, Ended]] = []
    late: dict[Reading, int] = {}
    came_us = 0
    for number in numbers:
        mine = known.code == number
        if not mine.any():
            continue
        times, values = known.effective_us[mine], known.value[mine]
        signs = np.zeros(len(times), np.uint8) if known.comparator is None else known.comparator[mine]
        finite = np.isfinite(values)
        newest = int(times[finite].max()) if finite.any() else None
        unusable = ~finite if newest is None else ~finite & (times > newest)
        if newest is None:  # without an earlier value only a value that came and is unusable counts
            unusable &= (signs == UNUSABLE) | ~np.isnan(values)
        if newest is not None:
            near = finite & (times > newest - TOGETHER_US)
            triples = zip(times[near].tolist(), values[near].tolist(), signs[near].tolist(), strict=True)
            (gone if unusable.any() else found).extend(
                Reading(charted(value, decimals[number]), at_us, number, COMPARATORS[sign])
                for at_us, value, sign in dict.fromkeys(triples)
            )
            available = known.available_us[mine][finite]
            came_us = max(came_us, int(available.max()))
            place = _late(times[finite], available)
            if place is not None:
                value, sign = float(values[finite][place]), COMPARATORS[signs[finite][place]]
                one = Reading(charted(value, decimals[number]), int(times[finite][place]), number, sign)
                late[one] = int(available[place])
        if unusable.any():
            last_us = int(times[unusable].max())
            kind = ending(float(values[unusable & (times == last_us)][-1]))
            ends.append((last_us, Ended(int(times[unusable].min()), number, kind)))
    if not ends:
        return _Standing(found, None, gone, 0, late, came_us)
    last_us, end = max(ends, key=lambda pair: pair[0])
    if any(_stands_in(one, last_us) for one in found):
        return _Standing(found, None, gone, last_us, late, came_us)
    return _Standing([], end, gone, last_us, late, came_us)


def _late(times: npt.NDArray[np.int64], available: npt.NDArray[np.int64]) -> int | None:
    """Return the index of a code's last late value, if it may describe the present; None: there is none.

    It may if it is the newest of its code and did not come in a batch of hours. It also may if the code's values come
    steadily late: then it is current although other values have later times, from before the clock was set back.
    """
    late = np.flatnonzero(available - times >= BEHIND_US)
    if not len(late):
        return None
    last = int(late[np.lexsort((times[late], available[late]))[-1]])
    if times[last] == times.max():
        return None if is_in_batch(times, available, last) else last
    return last if steady_lag(times, available) is not None else None


def _stands_in(one: Reading, end_us: int) -> bool:
    """Return whether a reading still counts for its part; "no oxygen given" says nothing about later times."""
    if one.code in _OXYGEN_DECIMALS and not _is_given(one):
        return one.at_us >= end_us
    return one.at_us >= end_us - STANDS_IN_US


def ending(value: float) -> Ending:
    """Return the kind of an unusable value by how it is stored: NaN, -inf or +inf."""
    return "none" if np.isnan(value) else "low" if value < 0 else "high"


def _points(bands: Bands, reading: Reading) -> int:
    """Return the points of a reading; with a comparator, the most points of all values that it allows."""
    place = next(i for i, (highest, _) in enumerate(bands) if reading.value <= highest)
    first = 0 if reading.comparator.startswith("<") else place
    last = len(bands) - 1 if reading.comparator.startswith(">") else place
    return max(score for _, score in bands[first : last + 1])


def _is_given(one: Reading) -> bool:
    """Return whether a flow or fraction means that oxygen is given, or may be."""
    return one.value > (0 if one.code == _FLOW else ROOM_AIR_PERCENT) or one.comparator.startswith(">")


def _last_flow_us(known: History) -> int:
    """Return when a flow of oxygen above zero was last reported; -1: never."""
    of = (known.code == _FLOW) & np.isfinite(known.value)
    above = np.zeros(len(known), np.bool_) if known.comparator is None else np.isin(known.comparator, _ABOVE)
    given = of & (above | (known.value >= 0.5 / 10 ** OXYGEN_DECIMALS[OXYGEN_FLOW]))
    return int(known.effective_us[given].max(initial=-1))


def _oxygen(found: list[Reading], flow_us: int, as_of_us: int) -> Reading:
    """Return the current flow or fraction; of those of one moment (TOGETHER_US) one that means that oxygen is given.

    A ventilator reports a fraction while somebody charts a flow of zero. So a fraction above room air is ended by a
    later fraction or a later flow above zero, but not by a flow of zero. It stays ended when that flow ends. A fraction
    that was reported together with a flow describes that flow, and ends with it.
    """
    newest = max(one.at_us for one in found)
    near = [
        one
        for one in found
        if newest - one.at_us < TOGETHER_US
        or (
            one.code == _FRACTION
            and _is_given(one)
            and flow_us <= one.at_us - TOGETHER_US
            and _counts(one, MAX_AGE_HOURS, as_of_us)
        )
    ]
    return max(near, key=lambda one: (_is_given(one), one.at_us, one.code == _FLOW, one.value))
