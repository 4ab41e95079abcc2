"""Texts for people: how numbers, codes and findings are written, the same on every page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.news2 import ACVPU, MEASURED, OXYGEN, TOGETHER_US, Ending, Event, News2, Reading, alike, charted
from models.serving.zone import clock_near
from vitalake.clinical.records import History, code_number

PART_NAMES = {
    "respiratory_rate": "respiratory rate",
    "oxygen_saturation": "oxygen saturation",
    "supplemental_oxygen": "supplemental oxygen",
    "systolic_pressure": "systolic pressure",
    "pulse": "pulse",
    "consciousness": "consciousness",
    "temperature": "temperature",
}
"""The parameters of NEWS2, which the code calls parts."""

SHORT_NAMES = {
    "respiratory_rate": "RR",
    "oxygen_saturation": "SpO₂",
    "supplemental_oxygen": "O₂",
    "systolic_pressure": "BP",
    "pulse": "HR",
    "consciousness": "GCS",
    "temperature": "temp",
}

Band = Literal["high", "medium", "unsure", "low", "none"]

MEDIUM, HIGH = 5, 7
"""Totals from which the RCP asks for an urgent and for an emergency response."""


def band(score: News2, *, stale: bool = False) -> Band:
    """Return the band of a score by the RCP's thresholds; ``unsure`` for a low score that may be higher.

    A single part of 3 counts as medium (urgent response), an event as high. A low total is low only when all parts are
    known and recent: the missing part may be the abnormal one.

    Args:
        score: of a patient.
        stale: whether some part of it is too old.
    """
    if score.events:
        return "high"
    if score.total is None:
        return "none"
    if score.total >= HIGH:
        return "high"
    if score.total >= MEDIUM or score.red:
        return "medium"
    return "unsure" if score.partial or stale else "low"


BAND_NAMES: dict[Band, str] = {
    "high": "high",
    "medium": "medium",
    "unsure": "may be higher",
    "low": "low",
    "none": "no score",
}

EVENT_CAUSES = {
    "respiratory_rate": "no breath detected, or probe off",
    "pulse": "no beat detected, or probe off",
    "oxygen_saturation": "no pulse detected, or probe off",
    "systolic_pressure": "no pressure detected, or line or cuff off",
}
"""What a reading that no living body shows can mean, the worst cause first."""

BY = {code_number("76282-3"): " by ECG", code_number("8889-8"): " by pleth", code_number("8893-0"): " by hand"}
"""How a pulse was taken, where its code says so."""


def event_text(event: Event, beside: Reading | None = None) -> str:
    """Return the alert of an event: the reading and what it can mean.

    Args:
        event: the reading.
        beside: what another sensor reads at the same moment; None: no other reading.
    """
    what = f"{SHORT_NAMES[event.part]} {event.comparator}{number(event.value, 0)}"
    late = f", arrived {ago((event.came_us - event.at_us) / 1e6)} late" if event.came_us else ""
    if beside is None:
        return f"{what}{late}: {EVENT_CAUSES[event.part]}"
    return f"{what}{BY.get(event.code, '')}{late}, but {_with_method(event.part, beside)}: patient or probe?"


def disagreement_texts(score: News2) -> list[str]:
    """Return a text for each part with two very different readings of one moment, except events (``event_text``)."""
    events = {event.part for event in score.events}
    return [
        f"{_scale(part, score.latest[part], SHORT_NAMES[part])}{_with_method(part, score.latest[part])} and "
        f"{_scale(part, other)}{_with_method(part, other)} {_apart(score.latest[part], other)}"
        for part, other in score.beside.items()
        if part not in events
    ]


def _apart(one: Reading, other: Reading) -> str:
    later_us = other.at_us - one.at_us
    return "within 1 min" if later_us < TOGETHER_US else f"{ago(later_us / 1e6)} later"


def _scale(part: str, one: Reading, otherwise: str = "") -> str:
    """Return the name to put before a reading; a letter of ACVPU beside a coma score needs one to be understood."""
    if part == "consciousness":
        otherwise = "ACVPU" if one.code == code_number(ACVPU) else SHORT_NAMES[part]
    return f"{otherwise} " if otherwise else ""


def _with_method(part: str, one: Reading) -> str:
    """Return a reading and, if its code names it, the method."""
    return f"{reading_text(part, one)}{BY.get(one.code, '')}"


def reading_text(part: str, reading: Reading) -> str:
    """Return a reading as it is shown: oxygen with its unit (it has two), consciousness in words as a letter."""
    if reading.code == code_number(ACVPU):
        return acvpu_letter(reading.value)
    if part == "consciousness" and reading.comparator == "<=":  # not all of eyes, motor and verbal were measured
        return f"at most {number(reading.value, 0)}"
    if part != OXYGEN:
        return f"{reading.comparator}{number(reading.value, MEASURED[part].decimals)}"
    if reading.code in OXYGEN_FRACTION.codes:
        return f"{reading.comparator}{number(reading.value, 0)} %"
    return f"{reading.comparator}{number(reading.value, 0 if reading.value == int(reading.value) else 1)} L"


ENDINGS: dict[Ending, str] = {
    "none": "no usable value",
    "low": "implausibly low",
    "high": "implausibly high",
}


def unusable_word(kind: Ending) -> str:
    """Return the word that is shown in place of a value that a later, unusable one has ended."""
    return "not usable" if kind == "none" else "implausible"


def unusable_texts(score: News2, now_us: int) -> list[str]:
    """Return which parts have no value because the last one is unusable, and since when."""
    parts_by_ending: dict[tuple[Ending, str], list[str]] = {}
    for part, end in score.ended.items():
        parts_by_ending.setdefault((end.kind, clock_near(end.at_us, now_us)), []).append(SHORT_NAMES[part])
    return [
        f"{', '.join(parts)} {ENDINGS[kind]} since {since}"
        for (kind, since), parts in sorted(parts_by_ending.items(), key=lambda one: one[0][0] == "none")
    ]


AGE_NOT_KNOWN = "age unknown: scored as an adult"

MOST_COUNTED = 99
"""Refused messages of a patient are counted up to this number; above it the board says "many"."""


def refused_text(count: int, last_us: int, now_us: int) -> str:
    """Return the text for refused messages of a patient."""
    amount = "1 message" if count == 1 else f"{count} messages" if count <= MOST_COUNTED else "many messages"
    return f"{amount} refused, last {clock_near(last_us, now_us)}"


def ahead_text(seconds: float) -> str:
    """Return the text for a sender's clock that is ahead."""
    return f"the sender's clock is {ago(seconds)} ahead of ours: arrival times are shown"


def behind_texts(behind: Mapping[str, float]) -> list[str]:
    """Return texts for parts whose values arrive steadily late; parts with the same delay share one.

    Args:
        behind: seconds by part.
    """
    parts: dict[str, list[str]] = {}
    for part, seconds in behind.items():
        parts.setdefault(ago(60 * round(seconds / 60)), []).append(SHORT_NAMES[part])
    return [
        f"{', '.join(names)}: the sender's clock is {lag} behind ours, or values arrive late"
        for lag, names in parts.items()
    ]


@dataclass(frozen=True, slots=True)
class Vital:
    """A vital sign and how pages show it.

    Attributes:
        name, short, unit: for people.
        general: its LOINC codes; codes that the vocabulary counts as one of them belong to it too.
        decimals: how many are shown.
        part: the part of NEWS2; empty: it is not one.
        normal: the range that scores no points; charts shade it.
        span: the smallest range that a chart shows.
    """

    name: str
    short: str
    unit: str
    general: tuple[str, ...]
    decimals: int
    part: str
    normal: tuple[float, float] | None
    span: tuple[float, float]

    @property
    def codes(self) -> tuple[int, ...]:
        """Return its LOINC codes as numbers, from the vocabulary of the home in use."""
        return tuple(map(code_number, alike(self.general)))


def _vital(
    name: str,
    short: str,
    unit: str,
    codes: str,
    part: str,
    normal: tuple[float, float] | None,
    span: tuple[float, float],
    decimals: int = 0,
) -> Vital:
    return Vital(name, short, unit, tuple(codes.split()), decimals, part, normal, span)


def _part(part: str, name: str, short: str, unit: str, normal: tuple[float, float], span: tuple[float, float]) -> Vital:
    """Return the vital sign of a NEWS2 part, with the codes and decimals that it is scored by."""
    measured = MEASURED[part]
    codes = [
        code for code in measured.general if code != ACVPU
    ]  # its values are places on a scale, not numbers to draw
    return _vital(name, short, unit, " ".join(codes), part, normal, span, measured.decimals)


RESPIRATION = _part("respiratory_rate", "Respiratory rate", "RR", "/min", (12, 20), (8, 30))
SATURATION = _part("oxygen_saturation", "Oxygen saturation", "SpO₂", "%", (96, 100), (85, 100))
SYSTOLIC = _part("systolic_pressure", "Systolic pressure", "Systolic", "mmHg", (111, 219), (80, 160))
DIASTOLIC = _vital("Diastolic pressure", "Diastolic", "mmHg", "8462-4", "", None, (40, 100))
PULSE = _part("pulse", "Heart rate", "HR", "/min", (51, 90), (50, 120))
TEMPERATURE = _part("temperature", "Temperature", "Temp", "°C", (36.1, 38.0), (35, 39))
COMA = _part("consciousness", "Glasgow coma score", "GCS", "", (15, 15), (3, 15))
OXYGEN_FLOW = _vital("Oxygen flow", "O₂ flow", "L/min", "3151-8", "supplemental_oxygen", None, (0, 10), 1)
OXYGEN_FRACTION = _vital("Inspired oxygen", "FiO₂", "%", "3150-6", "supplemental_oxygen", (15, 21), (21, 60))

VITALS = (
    RESPIRATION, SATURATION, OXYGEN_FLOW, OXYGEN_FRACTION, SYSTOLIC, DIASTOLIC, PULSE, COMA, TEMPERATURE,
)  # fmt: skip
"""In the order of the NEWS2 chart."""


def rows_of(history: History, codes: tuple[int, ...]) -> History:
    """Return the rows with one of these codes and a finite value."""
    mine = history.code == codes[0]
    for code in codes[1:]:
        mine |= history.code == code
    found = np.flatnonzero(mine)
    found = found[np.isfinite(history.value[found])]
    return history.where(found)


def acvpu_letter(value: float) -> str:
    """Return the ACVPU letter of a place on the consciousness scale."""
    return "ACVPU"[int(value)] if 0 <= value < len("ACVPU") else "–"


def number(value: float, decimals: int) -> str:
    """Return a number with this many decimals, rounded as for scoring, with a true minus sign."""
    return f"{charted(value, decimals):.{decimals}f}".replace("-", "−")


def significant(value: float) -> str:
    """Return a number as laboratories write it: at most three significant digits, no exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    text = f"{value:.{min(digits, 3)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def ago(seconds: float) -> str:
    """Return an age in words; ``ago`` in ``live.js`` must give the same words.

    >>> ago(42), ago(125), ago(11_400), ago(200_000)
    ('42 s', '2 min', '3 h 10 min', '2 d 7 h')
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 24:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def brief(seconds: float) -> str:
    """Return an age in its largest unit, for narrow columns.

    >>> brief(42), brief(11_400), brief(200_000)
    ('42 s', '3 h', '2 d')
    """
    return " ".join(ago(seconds).split()[:2])


def short_pseudonym(patient: str) -> str:
    """Return the first characters of a pseudonym, enough to distinguish the patients of a ward."""
    version, _, rest = patient.partition(".")
    return f"{version}.{rest[:8]}…"


UNITS = {"/min": "/min", "mm[Hg]": "mmHg", "Cel": "°C", "{score}": "", "[pH]": "", "10*3/uL": "10³/µL", "{INR}": ""}


def unit(ucum: str) -> str:
    """Return a UCUM unit, also with ``/h`` for a change per hour, as people write it.

    >>> unit("10*3/uL"), unit("mm[Hg]/h"), unit("{score}/h"), unit("mL/h")
    ('10³/µL', 'mmHg/h', '/h', 'mL/h')
    """
    plain = ucum.removesuffix("/h")
    return UNITS.get(plain, plain) + ucum[len(plain) :]
