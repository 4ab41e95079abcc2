"""A patient's row on the board."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from markupsafe import escape

from models.news2 import MAX_AGE_HOURS, MEASURED, OXYGEN, WITHHELD, News2
from models.scoring import Reason
from models.serving import formatting as words
from models.serving.charts import sparkline
from models.serving.formatting import Vital, number, rows_of
from models.serving.rendering import fragment
from models.serving.risk import age_seconds, band_of, is_stale, old_after_seconds, old_parts, recent_band
from models.serving.ward import Chart
from models.serving.zone import clock_near
from vitalake.vocabulary import load_vocabulary

BACK_MARKS = 2
"""One hour back: the mark with which the score is compared to show how far it moved."""

TOP_REASONS = 2

DIASTOLIC_CODE = "8462-4"

_SHORT = re.compile(r"\(([A-Z/]{2,12})\)$")
_ACRONYMS = frozenset({"icu", "ccu", "nicu", "micu", "sicu", "ed"})

_MOST_TOTAL = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A rendered row.

    Attributes:
        patient: the pseudonym.
        revision: of the patient in the online store.
        newest_us: when the newest vital sign was measured.
        order: the sort key; rows are sorted by this text.
        html: the table row, with ages as of its rendering; pages count them up from there.
        key: everything the row shows except ages; while it stays equal, nothing has to be pushed.
    """

    patient: str
    revision: int
    newest_us: int
    order: str
    html: str
    key: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest value of a vital sign: exactly the one that NEWS2 has scored.

    Attributes:
        text: the value; ``–``: no value is recent enough to count.
        at_us: when it was measured.
        points: its NEWS2 points; None: it has none.
        old: it is so old that the page marks it.
        expired: the last value, if it is too old to count; empty: there is none.
        ended: why the last value is not shown, if a later one is unusable; empty: none is.
        flag: ``zero`` or ``unconfirmed``: it must not be read as an ordinary value.
    """

    text: str
    at_us: int | None = None
    points: int | None = None
    old: bool = False
    expired: str = ""
    ended: str = ""
    flag: str = ""


def make_row(chart: Chart) -> Row:
    """Return a patient's row."""
    record, stale = chart.record, is_stale(chart.record, chart.now_us)
    order = f"{rank(chart)}|{place_of(chart) or '~'}|{chart.patient}"
    vitals = latest_vitals(chart)
    context = {
        "chart": chart,
        "record": record,
        "order": order,
        "band": band_of(chart),
        "place": place_of(chart),
        "unit": unit_of(chart),
        "bed": chart.stay.bed if chart.stay else "",
        "name": words.short_pseudonym(chart.patient),
        "slot": NAME_SLOT,
        "notes": notes(chart),
        "unusable": bool(record.news2.ended or chart.refused),
        "alerts": len(record.news2.events) + len(value_notes(chart)),
        "vitals": vitals,
        "moved": moved(record.news2, chart.trend),
        "spark": sparkline([score.total for score in chart.trend], record.news2.total),
        "reasons": [(reason_text(reason), reason_measured_us(reason)) for reason in raising_reasons(record.reasons)],
        "percent": percent(record.probability),
        "age": age_seconds(record, chart.now_us),
        "stale": stale,
    }
    old = tuple(vital["value"].old for vital in vitals)
    trend = tuple(score.total for score in chart.trend)
    known = (chart.trial, record.abstained, chart.stay, chart.last_us, chart.measured_since, chart.died)
    clocks = (chart.refused, tuple(chart.behind.items()), chart.hidden, chart.ahead)
    key = (record.id, chart.revision, order, stale, old, trend, *known, *clocks)
    return Row(chart.patient, chart.revision, record.newest_us or 0, order, fragment("row.html", context), key)


NAME_SLOT = '<span class="name"></span>'
"""Where a row has room for the patient's name: rows are rendered once for all boards, and not every user may see it.
No text from a message can equal this, because it would be escaped."""


def named(html: str, name: str) -> str:
    """Return a row with the patient's name in its slot, for users who may see it."""
    return html.replace(NAME_SLOT, f'<span class="name">{escape(name)}</span>') if name else html


def rank(chart: Chart) -> str:
    """Return a sort key that puts the patients who need attention first.

    The groups: events; high; medium, or 3 in one part. A patient who was high or medium shortly before the score was
    lost stays in that group. Then come the patients who are not known to be well: those with an unusable value or a
    refused message, and after them those who are stale, old, partial or without any value. Last come the low ones.
    Within a group the higher total (the current or the last known one) goes first, then 3 in one part, then a lost
    part, then fewer known parts.
    """
    record = chart.record
    score, found = record.news2, band_of(chart)
    group = "0" if score.events else _GROUPS[found]
    if found in ("unsure", "none") and (score.ended or chart.refused):
        group = _UNUSABLE
    before = recent_band(chart)
    if before in ("high", "medium"):
        group = min(group, _GROUPS[before])
    total = max((one.total for one in (score, chart.last) if one is not None and one.total is not None), default=-1)
    known = sum(points is not None for points in score.parts.values())
    return f"{group}{_MOST_TOTAL - total:02d}{0 if score.red else 1 if score.ended else 2}{known}"


_GROUPS = {"high": "1", "medium": "2", "unsure": "4", "none": "4", "low": "5"}
_UNUSABLE = "3"


@dataclass(frozen=True, slots=True)
class Note:
    """A remark beside the total.

    Attributes:
        text: for people.
        at_us: the time it refers to; the page shows its age and counts it up. None: the text itself names the time.
    """

    text: str
    at_us: int | None = None


def notes(chart: Chart) -> list[Note]:
    """Return the remarks beside the total, the most urgent first."""
    score, last = chart.record.news2, chart.last
    found = [Note(words.event_text(event, score.beside.get(event.part)), event.at_us) for event in score.events]
    found += map(Note, value_notes(chart))
    was = [Note(f"was {last.total}", chart.last_us)] if last else []
    if score.withheld:
        found.append(Note(WITHHELD[score.withheld]))
    elif score.total is None:
        found += was or [Note("no value yet" if chart.record.newest_us is None else "no recent value")]
    else:
        found += [*([Note(partial_text(score))] if score.partial else []), *was]
    if score.total is not None and chart.age_years is None:
        found.append(Note(words.AGE_NOT_KNOWN))
    old = [] if is_stale(chart.record, chart.now_us) else old_parts(chart.record, chart.now_us)
    if old:
        found.append(Note(f"old: {', '.join(words.SHORT_NAMES[part] for part in old)}"))
    found += [Note(f"one {words.SHORT_NAMES[part]} value far from all earlier") for part in chart.record.unconfirmed]
    return found


def value_notes(chart: Chart) -> list[str]:
    """Return remarks about values that are unusable, late, refused or contradictory."""
    score = chart.record.news2
    ended = words.unusable_texts(score, chart.now_us)
    found = [*contradictions(chart), *words.disagreement_texts(score)]
    found += [*ended[:-1], *(f"{text}: check the patient" for text in ended[-1:])]
    if chart.ahead:
        found.append(words.ahead_text(chart.ahead))
    found += words.behind_texts(chart.behind)
    if chart.refused:
        found.append(words.refused_text(*chart.refused, chart.now_us))
    return found


def contradictions(chart: Chart) -> list[str]:
    """Return remarks where the patient's record contradicts the current values."""
    found = []
    if chart.died:
        at_us = None if chart.died == "yes" else int(datetime.fromisoformat(chart.died).timestamp() * 1e6)
        found.append("recorded as dead" + (f" at {clock_near(at_us, chart.now_us)}" if at_us is not None else ""))
    if chart.measured_since and chart.stay is not None and chart.stay.discharged_us is not None:
        found.append(f"discharged at {clock_near(chart.stay.discharged_us, chart.now_us)}, but vital signs since")
    return found


def raising_reasons(reasons: Sequence[Reason]) -> list[Reason]:
    """Return the strongest reasons with a known value that raise the risk; a missing value is not a finding."""
    return [reason for reason in reasons if reason.contribution > 0 and reason.value is not None][:TOP_REASONS]


def reason_text(reason: Reason) -> str:
    """Return the text of a reason whose value is known: label, value and unit."""
    assert reason.value is not None
    if reason.feature == "sex_female":
        return "Female sex" if reason.value else "Male sex"
    return f"{reason.label} {words.significant(reason.value)} {words.unit(reason.unit)}".strip()


def reason_measured_us(reason: Reason) -> int | None:
    """Return when the value of a reason was measured; None: it has several times, such as the lowest of a day."""
    return reason.at_us if reason.feature.endswith(".last") else None


def place_of(chart: Chart) -> str:
    """Return unit and bed, as far as they are known."""
    return " · ".join(part for part in (unit_of(chart), chart.stay.bed if chart.stay else "") if part)


def unit_of(chart: Chart) -> str:
    """Return the unit's name as people say it; empty: not known.

    ``Surgical Intensive Care Unit (SICU)`` becomes ``SICU``, and ``medical_icu`` becomes ``Medical ICU``.
    """
    name = chart.stay.unit if chart.stay else ""
    short = _SHORT.search(name)
    if short:
        return short[1]
    text = " ".join(word.upper() if word in _ACRONYMS else word for word in name.replace("_", " ").split())
    return text[:1].upper() + text[1:]


def partial_text(score: News2) -> str:
    """Return which parts of a score are missing, or known if they are fewer; empty: none is missing."""
    missing = [words.SHORT_NAMES[name] for name in score.missing]
    known = [words.SHORT_NAMES[name] for name, points in score.parts.items() if points is not None]
    if not score.partial or not known:
        return ""
    return f"partial: no {', '.join(missing)}" if len(missing) <= len(known) else f"partial: only {', '.join(known)}"


def percent(probability: float | None) -> str:
    """Return a probability in per cent; empty: there is none."""
    if probability is None:
        return ""
    return "<1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def moved(score: News2, trend: tuple[News2, ...]) -> int:
    """Return by how many points the score rose within an hour, over the parts known at both times."""
    before = trend[-1 - BACK_MARKS] if len(trend) > BACK_MARKS else None
    if before is None:
        return 0
    both = [(now, before.parts.get(name)) for name, now in score.parts.items()]
    return sum(now - then for now, then in both if now is not None and then is not None)


def latest_vitals(chart: Chart) -> list[dict[str, Any]]:
    """Return the cells of the vital signs, in the order of the NEWS2 chart."""

    def cell(vital: Vital, short: str = "") -> dict[str, Any]:
        return {"short": short or vital.short, "unit": vital.unit, "value": latest(chart, vital.part)}

    pressure = cell(words.SYSTOLIC, "BP")
    pressure["value"] = _with_diastolic(chart, pressure["value"])
    return [
        cell(words.RESPIRATION),
        cell(words.SATURATION),
        {"short": "O₂", "unit": "", "value": latest(chart, OXYGEN)},
        pressure,
        cell(words.PULSE),
        cell(words.COMA),
        cell(words.TEMPERATURE),
    ]


def latest(chart: Chart, part: str) -> Latest:
    """Return the latest value of a part, as NEWS2 has scored it."""
    score = chart.record.news2
    reading = score.latest.get(part)
    if reading is None:
        end = score.ended.get(part)
        return Latest("–") if end is None else Latest("–", ended=words.unusable_word(end.kind))
    text = words.reading_text(part, reading)
    hours = MEASURED[part].max_age_hours if part in MEASURED else MAX_AGE_HOURS
    if reading.at_us <= chart.record.as_of_us - int(hours * 3.6e9):
        return Latest("–", expired=text)
    zero = any(event.part == part for event in score.events)
    flag = "zero" if zero else "unconfirmed" if part in chart.record.unconfirmed else ""
    return Latest(
        text, reading.at_us, score.parts[part], chart.now_us - reading.at_us > old_after_seconds(part) * 1e6, flag=flag
    )


def _with_diastolic(chart: Chart, upper: Latest) -> Latest:
    """Return the pressure as systolic/diastolic, if exactly one of each was measured at that moment.

    With several at one moment it is not known which belong together; then the systolic stands alone.
    """
    if upper.at_us is None:
        return upper
    systolic, diastolic = (
        rows_of(chart.history, vital.codes).where_at(upper.at_us) for vital in (words.SYSTOLIC, words.DIASTOLIC)
    )
    if len(systolic) != 1 or len(diastolic) != 1:
        return upper
    lower = float(diastolic.value[0])
    doubt = (
        "?" if lower < load_vocabulary().lowest_measurement(DIASTOLIC_CODE) else ""
    )  # line or cuff may have come off
    return replace(upper, text=f"{upper.text}/{number(lower, 0)}{doubt}")
