"""NEWS2, the national early warning score, of now and as far as its parts are known.

Source: Royal College of Physicians, National Early Warning Score (NEWS) 2, London 2017: chart 1 (the score), and who is
not scored by it, children under 16 and pregnant women.

A part counts until its value is MAX_AGE_HOURS old by the clock, whatever else was measured since. A part without such a
value is named as missing and adds nothing; the total is then *partial*, a lower bound, and must be shown so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from models.lateness import BEHIND_US, is_caught_up, steady_lag
from pipelines.online_store.values import COMPARATORS, UNUSABLE
from vitalake.clinical.records import History, code_number
from vitalake.declarations import per_home
from vitalake.vocabulary import load_vocabulary

Withheld = Literal["", "child", "pregnancy"]

WITHHELD: dict[Withheld, str] = {
    "child": "Under 16: NEWS2 is not for children.",
    "pregnancy": "Pregnant: NEWS2 is not for pregnancy.",
}
"""Why no score is shown although values are known, for people."""

ADULT_YEARS = 16

OUTLIVED_US = 15 * 60_000_000
"""An event is over when another sensor has measured the part this much later: one that came off stays silent. So it
is when its own sensor has told for so long that it has no value."""

TOGETHER_US = 60_000_000
"""Readings of a part that are nearer than this to its newest one are of one moment: of two sensors that take turns the
one that finds the patient well must not hide the other. The worst of them is scored, the other is told beside it."""

FAR_POINTS = 2
"""From so many points apart on two readings of one moment are two findings; less is noise at the edge of a band."""

STANDS_IN_US = 120_000_000
"""A reading of another sensor counts for a part that has no usable value any more if it is at most this much older."""

MAX_AGE_HOURS = 12.0
"""The longest interval between observations that the RCP allows, 12 h at a total of 0; an older value is too old."""

_HOUR_US = 3_600_000_000
_WORST = 3
_INF = float("inf")
Bands = tuple[tuple[float, int], ...]

COMA_TOTAL, COMA_PARTS = "9269-2", ("9267-6", "9268-4", "9270-0")
"""The Glasgow coma score, and what it is the sum of: eyes, motor, verbal."""

ACVPU = "67775-7"
"""The level of consciousness in words; its value is the answer's place on the scale, see Vocabulary.answers."""


@per_home
def alike(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Return codes and those that count as one of them: an invasive systolic pressure is a systolic pressure."""
    vocabulary = load_vocabulary()
    return tuple(dict.fromkeys(near for code in codes for near in vocabulary.with_near_codes(code)))


class Part(NamedTuple):
    """A part of the chart that is measured.

    Attributes:
        general: LOINC codes that are this part, and so are those that count as one of them.
        decimals: of the chart: what is scored, and shown, has as many.
        bands: the highest value of each band with its points; the last band has no end.
        max_age_hours: until when a value counts.
        has_events: whether what is taken below the plausible range is an event: see Event.
    """

    general: tuple[str, ...]
    decimals: int
    bands: Bands
    max_age_hours: float = MAX_AGE_HOURS
    has_events: bool = False

    @property
    def codes(self) -> tuple[str, ...]:
        """Return the LOINC codes any of which is this part, by the vocabulary of the home in use."""
        return alike(self.general)

    @property
    def event_below(self) -> float:
        """Return below what a reading is no measurement of a living body but an event."""
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
"""Of the place on the scale: alert scores nothing, all others 3."""

SCALE_2_ON_AIR: Bands = ((83, 3), (85, 2), (87, 1), (_INF, 0))
SCALE_2_ON_OXYGEN: Bands = ((83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (_INF, 3))
"""Oxygen saturation by scale 2, for whom a clinician has decided it: hypercapnic respiratory failure."""

OXYGEN = "supplemental_oxygen"
OXYGEN_FLOW, OXYGEN_FRACTION = "3151-8", "3150-6"
ROOM_AIR_PERCENT = 21.0
ON_OXYGEN = 2
OXYGEN_DECIMALS = {OXYGEN_FLOW: 1, OXYGEN_FRACTION: 0}

PARTS = ("respiratory_rate", "oxygen_saturation", OXYGEN, "systolic_pressure", "pulse", "consciousness", "temperature")
"""In the chart's order."""

_ACVPU = code_number(ACVPU)
_COMA_TOTAL, _COMA_PARTS = code_number(COMA_TOTAL), tuple(map(code_number, COMA_PARTS))
_COMA_BEST = np.array([4.0, 6.0, 5.0])
_FLOW, _FRACTION = code_number(OXYGEN_FLOW), code_number(OXYGEN_FRACTION)
_ABOVE = [place for place, sign in enumerate(COMPARATORS) if sign.startswith(">")]
_OXYGEN_DECIMALS = {code_number(code): places for code, places in OXYGEN_DECIMALS.items()}


def codes_read() -> tuple[str, ...]:
    """Return the LOINC codes of everything the score reads."""
    return (*(code for part in MEASURED.values() for code in part.codes), OXYGEN_FLOW, OXYGEN_FRACTION, *COMA_PARTS)


class _Numbers(NamedTuple):
    """The codes as numbers.

    Attributes:
        of_part: part that is measured → its codes.
        vital: of all of these, ascending.
        part_of: code → part, oxygen given among them.
        known, places: the same codes ascending, and the place of each one's part in PARTS.
    """

    of_part: dict[str, tuple[int, ...]]
    vital: npt.NDArray[np.uint32]
    part_of: dict[int, str]
    known: npt.NDArray[np.uint32]
    places: npt.NDArray[np.intp]


def numbers_of_parts() -> dict[str, tuple[int, ...]]:
    """Return the codes of each part that is measured, as numbers."""
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
    """What of a patient decides how, and whether, the score is read.

    Attributes:
        age_years: completed; None: not known, which is taken for an adult.
        pregnant: known to be.
        scale_2: a clinician has decided that oxygen saturation is read by scale 2.
    """

    age_years: float | None = None
    pregnant: bool = False
    scale_2: bool = False

    @property
    def withheld(self) -> Withheld:
        """Return why there is no score; empty: there is one."""
        if self.age_years is not None and self.age_years < ADULT_YEARS:
            return "child"
        return "pregnancy" if self.pregnant else ""


ADULT = Situation()


class Reading(msgspec.Struct, frozen=True):
    """The value of a part that was last known; what is shown and what is scored is this one.

    Attributes:
        value: rounded to the chart's decimals (see ``charted``).
        at_us: when it was measured.
        code: LOINC, as a number.
        comparator: what stands before the value, ``<`` or another; all that it may be is scored as the worst of it.
    """

    value: float
    at_us: int
    code: int
    comparator: str = ""


class Event(msgspec.Struct, frozen=True):
    """A reading that no living body shows: no breath, beat, pressure or oxygen was found, or next to none.

    Apnoea, asystole, an arrest, or a probe, line or cuff that has come off: somebody must look.

    Attributes:
        part: respiratory_rate, pulse, oxygen_saturation or systolic_pressure.
        at_us: when.
        code: LOINC, as a number.
        value: what was read.
        comparator: what stands before it.
        came_us: when it came, where that is long after; 0: in time.
    """

    part: str
    at_us: int
    code: int
    value: float = 0.0
    comparator: str = ""
    came_us: int = 0


Ending = Literal["none", "low", "high"]


class Ended(msgspec.Struct, frozen=True):
    """A part whose last value is not of now: another one came after it that cannot be used.

    Attributes:
        at_us: since when that is so.
        code: LOINC, as a number.
        kind: it lies below or above what is plausible; none: the sender has no value, its message was refused, or
            words came where a number should be.
    """

    at_us: int
    code: int
    kind: Ending


class News2(msgspec.Struct, frozen=True):
    """The score of a patient as of a moment.

    Attributes:
        total: of the known parts; None: none is known, or the score is withheld.
        parts: points of each part; None: no recent value.
        missing: the parts without one.
        partial: whether any is missing.
        latest: the last reading of each part that was ever known, also where it has expired and scores nothing.
        events: readings of no living body that no later one of the same code has ended; they score 3.
        withheld: why there is no score.
        scale: of oxygen saturation: 1, or 2 by a recorded decision.
        ended: parts without a value of now because a newer one came that cannot be used; an event before it stands.
        beside: of a part with an event, or with readings of one moment that score differently, the one not scored; of
            oxygen by a fraction, a flow of none that was told since.
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
        """Return whether a single part scores 3, which alone asks for an urgent look."""
        return any(points == _WORST for points in self.parts.values())


def news2(history: History, *, as_of_us: int, situation: Situation = ADULT) -> News2:
    """Return the score as of a moment, of each part the latest value known then, unless it has expired.

    Of several values of one moment (TOGETHER_US) the one with most points counts. An event counts until the same code
    brings another value, or another sensor one that is OUTLIVED_US younger: a pulse by oximetry in the same minute does
    not hide what the electrocardiogram says. Of an event that came late, and not with others of hours, the time it came
    counts as well: the sender's clock may be behind. A value that cannot be used ends the one before it.

    Args:
        history: values in any amount; what is known or effective later does not count.
        as_of_us: the moment.
        situation: who is not scored, and by which scale.
    """
    told = _with_coma_total(history.known_at(as_of_us))
    points: dict[str, int | None] = dict.fromkeys(PARTS)
    latest: dict[str, Reading] = {}
    events: list[Event] = []
    ended: dict[str, Ended] = {}
    beside: dict[str, Reading] = {}
    oxygen = _standing(told, (_FLOW, _FRACTION), _OXYGEN_DECIMALS)
    if oxygen.end is not None:
        ended[OXYGEN] = oxygen.end
    if oxygen.found:
        latest[OXYGEN] = _oxygen(oxygen.found, _last_flow_us(told), as_of_us)
        since = [one for one in oxygen.found if one.at_us >= latest[OXYGEN].at_us + TOGETHER_US]
        beside |= {OXYGEN: max(since, key=lambda one: one.at_us)} if since else {}
        if _counts(latest[OXYGEN], MAX_AGE_HOURS, as_of_us):
            points[OXYGEN] = ON_OXYGEN if _is_given(latest[OXYGEN]) else 0
    numbers = _numbers().of_part
    for name, part in MEASURED.items():
        bands = part.bands
        if name == "oxygen_saturation" and situation.scale_2:
            bands = SCALE_2_ON_OXYGEN if points[OXYGEN] else SCALE_2_ON_AIR
        standing = _standing(told, numbers[name], dict.fromkeys(numbers[name], part.decimals))
        if standing.end is not None:
            ended[name] = standing.end
        found = standing.found
        broken = _broken(standing, part, as_of_us)
        if not found and not broken:
            continue
        events += [
            Event(name, one.at_us, one.code, one.value, one.comparator, standing.late.get(one, 0)) for one in broken
        ]
        scored = [
            (_points(ACVPU_BANDS if one.code == _ACVPU else bands, one), one)
            for one in dict.fromkeys([*found, *broken])
        ]
        newest = max((one.at_us for one in found), default=0)
        first = broken or [one for one in found if newest - one.at_us < TOGETHER_US]
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


def _is_broken(one: Reading, part: Part) -> bool:
    """Return whether a reading is an event: all that it may be lies below what a living body shows."""
    return one.value < part.event_below or (one.comparator == "<" and one.value <= part.event_below)


def _broken(standing: _Standing, part: Part, as_of_us: int) -> list[Reading]:
    """Return the readings of no living body that still stand, of each code the newest.

    Another value ends them, but not the want of one: see OUTLIVED_US.
    """
    every = [*standing.found, *standing.gone]
    last = {one.code: max(near.at_us for near in every if near.code == one.code) for one in every}
    newest_us = max((one.at_us for one in standing.found), default=0)
    late = {
        one.code: one
        for one, came_us in standing.late.items()
        if _is_broken(one, part)
        and _counts(one, part.max_age_hours, as_of_us)
        and standing.came_us - came_us < OUTLIVED_US
    }
    found = {
        one.code: one
        for one in sorted(every, key=lambda one: (one.at_us, -one.value))
        if _is_broken(one, part)
        and (one.at_us == last[one.code] or (one in standing.found and newest_us - one.at_us < TOGETHER_US))
        and _counts(one, part.max_age_hours, as_of_us)
        and max(newest_us, standing.gone_us if one in standing.gone else 0) - one.at_us < OUTLIVED_US
    }
    return list((late | found).values())


def _other(found: list[tuple[int, Reading]], points: int, scored: Reading, part: Part) -> Reading | None:
    """Return what another sensor says of the moment that is scored, if it is far from it.

    Of one code what was said at the same time, and since: two sensors may have it.
    """
    broken = _is_broken(scored, part)
    others = [
        one
        for score, one in found
        if (one.code != scored.code or one.at_us >= scored.at_us)
        and scored.at_us - one.at_us < (STANDS_IN_US if broken else TOGETHER_US)
        and (not _is_broken(one, part) if broken else points - score >= FAR_POINTS)
    ]
    return max(others, key=lambda one: (one.at_us, one.value), default=None)


def charted(value: float, decimals: int) -> float:
    """Return a value as it is written on the chart: rounded once, half up, before it is scored and before it is shown.

    It is rounded as people write it (35.05 is 35.1), not as the binary number beside it (35.0499…) is; what a
    conversion of units leaves beyond the sixth decimal is noise.

    >>> charted(35.05, 1), charted(95.09999999999999, 0), charted(0.04, 1)
    (35.1, 95.0, 0.0)
    """
    step = Decimal(1).scaleb(-decimals)
    return float(Decimal(f"{value:.6f}").quantize(step, ROUND_HALF_UP)) + 0.0


def vital_times(history: History) -> npt.NDArray[np.int64]:
    """Return when vital signs were measured, ascending: what NEWS2 scores but oxygen given, which is a treatment."""
    return history.effective_us[is_vital(history) & np.isfinite(history.value)]


def is_vital(history: History) -> npt.NDArray[np.bool_]:
    """Return which rows are of vital signs, those among them that are no values."""
    found: npt.NDArray[np.bool_] = np.isin(history.code, _numbers().vital)
    return found


def parts_in(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    """Return of each code which of PARTS it is of, by its place there; -1: none."""
    numbers = _numbers()
    place = np.searchsorted(numbers.known, codes).clip(max=len(numbers.known) - 1)
    found: npt.NDArray[np.intp] = np.where(numbers.known[place] == codes, numbers.places[place], -1)
    return found


def last_of_parts(history: History) -> dict[str, int]:
    """Return of each part that was measured when it was last."""
    found: dict[str, int] = {}
    finite, part_of = np.isfinite(history.value), _numbers().part_of
    for number in np.unique(history.code).tolist():
        times = history.effective_us[finite & (history.code == number)]
        if number in part_of and len(times):
            found[part_of[number]] = max(found.get(part_of[number], -1), int(times.max()))
    return found


def expiries_us(history: History) -> list[int]:
    """Return of each part with a value when the last one expires: there the score changes without any message."""
    found = [times.max() + int(hours * _HOUR_US) for times, hours in _last_times(history) if len(times)]
    return [int(time) for time in found]


def _last_times(history: History) -> Iterable[tuple[npt.NDArray[np.int64], float]]:
    history = _with_coma_total(history)
    finite = np.isfinite(history.value)
    for name, part in MEASURED.items():
        for number in _numbers().of_part[name]:  # of each code: an event ends by itself
            yield history.effective_us[finite & (history.code == number)], part.max_age_hours
    for number in (_FLOW, _FRACTION):
        yield history.effective_us[finite & (history.code == number)], MAX_AGE_HOURS


def _with_coma_total(told: History) -> History:
    """Return values with the coma score that its three parts sum to, where these are newer than the last total.

    Where they were not measured together, or one could not be, such as what the intubated say, the score is at most
    what those sum to that are newer than the total, and the best of each other: as soon as one of them is not its best.
    Of the intubated the panel says why there is no total: that is none, and does not end what the parts say. Of two
    readings of one part at one time the worse counts.
    """
    if not np.isin(told.code, _COMA_PARTS).any():
        return told
    finite = np.isfinite(told.value)
    rows = [np.flatnonzero((told.code == number) & finite) for number in _COMA_PARTS]
    worst = [mine[np.lexsort((-told.value[mine], told.effective_us[mine]))] for mine in rows]
    last = np.array([mine[-1] if len(mine) else -1 for mine in worst])
    at_us = np.where(last >= 0, told.effective_us[last], -1)
    total_us = told.effective_us[(told.code == _COMA_TOTAL) & finite].max(initial=-1)
    if at_us.max() <= total_us:
        return told
    if at_us.min() >= 0 and np.ptp(at_us) < TOGETHER_US:
        return _with_row(told, last, told.value[last].sum(), comparator="")
    lower = (at_us > total_us) & (told.value[last] < _COMA_BEST)
    if not lower.any():
        return told
    highest = np.where(lower, told.value[last], _COMA_BEST).sum()
    return _with_row(told, last[lower], highest, comparator="<=")


def _with_row(told: History, of: npt.NDArray[np.intp], total: float, *, comparator: str) -> History:
    """Return values with a coma score of when the last of some rows was measured, that is known when they all are.

    One that is not the best stays also where the sender has said since that there is no total.
    """
    at_us = told.effective_us[of].max()
    order = np.argsort(np.append(told.effective_us, at_us), kind="stable")
    signs = np.zeros(len(told), np.uint8) if told.comparator is None else told.comparator
    absent = np.append((told.code == _COMA_TOTAL) & np.isnan(told.value) & (signs != UNUSABLE), False)
    order = order[~absent[order]] if total < _COMA_BEST.sum() else order
    return History(
        np.append(told.code, np.uint32(_COMA_TOTAL))[order],
        np.append(told.value, total)[order],
        np.append(told.effective_us, at_us)[order],
        np.append(told.available_us, told.available_us[of].max())[order],
        np.append(signs, np.uint8(COMPARATORS.index(comparator)))[order],
    )


def _counts(reading: Reading, max_age_hours: float, as_of_us: int) -> bool:
    return reading.at_us > as_of_us - int(max_age_hours * _HOUR_US)


class _Standing(NamedTuple):
    """What stands of a part.

    Attributes:
        found: of each code the last readings, unless something has ended them.
        end: what ended all; then nothing is found.
        gone: the last readings of the codes that ended for want of a value.
        gone_us: when the last one of these said so.
        late: of each code the reading that came last, if it came late and is of now by when it came, with that time.
        came_us: when the last value came.
    """

    found: list[Reading]
    end: Ended | None
    gone: list[Reading]
    gone_us: int
    late: dict[Reading, int]
    came_us: int


def _standing(told: History, numbers: Iterable[int], decimals: Mapping[int, int]) -> _Standing:
    """Return what stands of a part with these codes.

    That a sensor has no value says nothing where it never had one: it is not connected. A value that came and cannot be
    used ends the part whichever code it came under, but for readings that stand in.
    """
    found: list[Reading] = []
    gone: list[Reading] = []
    ends: list[tuple[int, Ended]] = []
    late: dict[Reading, int] = {}
    came_us = 0
    for number in numbers:
        mine = told.code == number
        if not mine.any():
            continue
        times, values = told.effective_us[mine], told.value[mine]
        signs = np.zeros(len(times), np.uint8) if told.comparator is None else told.comparator[mine]
        finite = np.isfinite(values)
        newest = int(times[finite].max()) if finite.any() else None
        unusable = ~finite if newest is None else ~finite & (times > newest)
        if newest is None:  # where nothing was, only what came has ended anything
            unusable &= (signs == UNUSABLE) | ~np.isnan(values)
        if newest is not None:
            near = finite & (times > newest - TOGETHER_US)
            triples = zip(times[near].tolist(), values[near].tolist(), signs[near].tolist(), strict=True)
            (gone if unusable.any() else found).extend(
                Reading(charted(value, decimals[number]), at_us, number, COMPARATORS[sign])
                for at_us, value, sign in dict.fromkeys(triples)
            )
            available = told.available_us[mine][finite]
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
    """Return which value of a code came late, last of those, and may yet be of now; None: none did.

    It is the newest of its code, and did not come with others of hours at once; or the code's values come late
    steadily, so that it is of now although its clock was set back behind others.
    """
    late = np.flatnonzero(available - times >= BEHIND_US)
    if not len(late):
        return None
    last = int(late[np.lexsort((times[late], available[late]))[-1]])
    if times[last] == times.max():
        return None if is_caught_up(times, available, last) else last
    return last if steady_lag(times, available) is not None else None


def _stands_in(one: Reading, end_us: int) -> bool:
    """Return whether a reading still counts for its part; that no oxygen was given does not say what is given since."""
    if one.code in _OXYGEN_DECIMALS and not _is_given(one):
        return one.at_us >= end_us
    return one.at_us >= end_us - STANDS_IN_US


def ending(value: float) -> Ending:
    """Return what stands in the place of a value."""
    return "none" if np.isnan(value) else "low" if value < 0 else "high"


def _points(bands: Bands, reading: Reading) -> int:
    """Return the points of a reading; of one that may be anything below or above its value the most of those."""
    place = next(i for i, (highest, _) in enumerate(bands) if reading.value <= highest)
    first = 0 if reading.comparator.startswith("<") else place
    last = len(bands) - 1 if reading.comparator.startswith(">") else place
    return max(score for _, score in bands[first : last + 1])


def _is_given(one: Reading) -> bool:
    """Return whether a flow or a fraction says that oxygen is given, or may be."""
    return one.value > (0 if one.code == _FLOW else ROOM_AIR_PERCENT) or one.comparator.startswith(">")


def _last_flow_us(told: History) -> int:
    """Return when a flow was told last by which oxygen was given; -1: never."""
    of = (told.code == _FLOW) & np.isfinite(told.value)
    above = np.zeros(len(told), np.bool_) if told.comparator is None else np.isin(told.comparator, _ABOVE)
    given = of & (above | (told.value >= 0.5 / 10 ** OXYGEN_DECIMALS[OXYGEN_FLOW]))
    return int(told.effective_us[given].max(initial=-1))


def _oxygen(found: list[Reading], flow_us: int, as_of_us: int) -> Reading:
    """Return the flow or fraction of now; of those of one moment (TOGETHER_US) one that says that oxygen is given.

    A ventilator tells a fraction, and beside it somebody tells that there is no flow: a fraction above room air is
    ended by a later fraction, or a flow, and not by the want of one. It stays ended when that flow ends; one that was
    told together with a flow is what that gives, and ends with it.
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
