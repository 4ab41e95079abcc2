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
from models.serving.risk import age_seconds, band_of, is_stale, old_after_seconds, old_parts, was_band
from models.serving.ward import Chart
from models.serving.zone import clock_near
from vitalake.vocabulary import load_vocabulary

BACK_MARKS = 2
"""An hour: what the score is compared with to say that it moved."""

TOP_REASONS = 2

DIASTOLIC_CODE = "8462-4"

_SHORT = re.compile(r"\(([A-Z/]{2,12})\)$")
_ACRONYMS = frozenset({"icu", "ccu", "nicu", "micu", "sicu", "ed"})

_MOST_TOTAL = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is shown.

    Attributes:
        patient: the pseudonym.
        revision: the care store's.
        newest_us: when the newest value was measured.
        order: rows stand in the order of this text.
        html: of the table row; the ages in it are those of when it was made, and pages count on from there.
        key: what the row shows besides ages; while it is the same nothing has to be pushed.
    """

    patient: str
    revision: int
    newest_us: int
    order: str
    html: str
    key: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest value of a vital sign: the very one that NEWS2 has scored.

    Attributes:
        text: the value; ``–``: none is recent enough to count.
        at_us: when it was measured.
        points: of NEWS2; None: it has none.
        old: measured longer ago than vital signs may be.
        expired: the value that is too old to count, for who asks; empty: none.
        ended: why the last value is not shown: one came since that cannot be used; empty: none did.
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
        "says": says(chart),
        "unusable": bool(record.news2.ended or chart.refused),
        "alerts": len(record.news2.events) + len(says_of_values(chart)),
        "vitals": vitals,
        "moved": moved(record.news2, chart.trend),
        "spark": sparkline([score.total for score in chart.trend], record.news2.total),
        "reasons": [(reason_text(reason), aged(reason)) for reason in raising(record.reasons)],
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
"""Where a row has room for the patient's name: rows are made once for all boards, and not all may see it. No text of a
message can be this, for it would be escaped."""


def named(html: str, name: str) -> str:
    """Return a row with a name, for who may see it."""
    return html.replace(NAME_SLOT, f'<span class="name">{escape(name)}</span>') if name else html


def rank(chart: Chart) -> str:
    """Return a text that sorts rows by who is to be looked at first.

    Events; high; medium, or one part of 3, each with those who were so shortly before values came that cannot be used;
    then, set apart, who is not known to be well: first of whom something came
    that cannot be used, then stale, old, partial or without any value, by what was known last; then low. Within each
    the higher total, then one part of 3, then who has lost a part; of these of whom less is known.
    """
    record = chart.record
    score, found = record.news2, band_of(chart)
    group = "0" if score.events else _GROUPS[found]
    if found in ("unsure", "none") and (score.ended or chart.refused):
        group = _UNUSABLE
    before = was_band(chart)
    if before in ("high", "medium"):
        group = min(group, _GROUPS[before])
    total = max((one.total for one in (score, chart.last) if one is not None and one.total is not None), default=-1)
    known = sum(points is not None for points in score.parts.values())
    return f"{group}{_MOST_TOTAL - total:02d}{0 if score.red else 1 if score.ended else 2}{known}"


_GROUPS = {"high": "1", "medium": "2", "unsure": "4", "none": "4", "low": "5"}
_UNUSABLE = "3"


@dataclass(frozen=True, slots=True)
class Said:
    """What is read beside the total.

    Attributes:
        text: for people.
        at_us: of when it is; the page says how long ago that is, and counts on. None: the text says so itself.
    """

    text: str
    at_us: int | None = None


def says(chart: Chart) -> list[Said]:
    """Return what must be read beside the total, most urgent first."""
    score, last = chart.record.news2, chart.last
    found = [Said(words.event_text(event, score.beside.get(event.part)), event.at_us) for event in score.events]
    found += map(Said, says_of_values(chart))
    was = [Said(f"was {last.total}", chart.last_us)] if last else []
    if score.withheld:
        found.append(Said(WITHHELD[score.withheld]))
    elif score.total is None:
        found += was or [Said("no value yet" if chart.record.newest_us is None else "no part known")]
    else:
        found += [*([Said(partly(score))] if score.partial else []), *was]
    if score.total is not None and chart.age_years is None:
        found.append(Said(words.AGE_NOT_KNOWN))
    old = [] if is_stale(chart.record, chart.now_us) else old_parts(chart.record, chart.now_us)
    if old:
        found.append(Said(f"old: {', '.join(words.SHORT_NAMES[part] for part in old)}"))
    found += [Said(f"one {words.SHORT_NAMES[part]} value far from all before") for part in chart.record.unconfirmed]
    return found


def says_of_values(chart: Chart) -> list[str]:
    """Return what came and cannot be used, or contradicts itself."""
    score = chart.record.news2
    ended = words.ended_texts(score, chart.now_us)
    found = [*contradicted(chart), *words.two_texts(score)]
    found += [*ended[:-1], *(f"{text}: look at the patient" for text in ended[-1:])]
    if chart.ahead:
        found.append(words.ahead_text(chart.ahead))
    found += words.behind_texts(chart.behind)
    if chart.refused:
        found.append(words.refused_text(*chart.refused, chart.now_us))
    return found


def contradicted(chart: Chart) -> list[str]:
    """Return what is recorded of the patient and does not go with values of now."""
    found = []
    if chart.died:
        at_us = None if chart.died == "yes" else int(datetime.fromisoformat(chart.died).timestamp() * 1e6)
        found.append("recorded as dead" + (f" at {clock_near(at_us, chart.now_us)}" if at_us is not None else ""))
    if chart.measured_since and chart.stay is not None and chart.stay.discharged_us is not None:
        found.append(f"discharged at {clock_near(chart.stay.discharged_us, chart.now_us)}, but measured since")
    return found


def raising(reasons: Sequence[Reason]) -> list[Reason]:
    """Return the strongest reasons that raise a risk by what is known; a missing value is no finding."""
    return [reason for reason in reasons if reason.contribution > 0 and reason.value is not None][:TOP_REASONS]


def reason_text(reason: Reason) -> str:
    """Return a reason whose value is known: what it is, and how much."""
    assert reason.value is not None
    if reason.feature == "sex_female":
        return "Female sex" if reason.value else "Male sex"
    return f"{reason.label} {words.significant(reason.value)} {words.unit(reason.unit)}".strip()


def aged(reason: Reason) -> int | None:
    """Return when the value of a reason was measured; None: it is of several, such as the lowest of a day."""
    return reason.at_us if reason.feature.endswith(".last") else None


def place_of(chart: Chart) -> str:
    """Return unit and bed, as far as they are known."""
    return " · ".join(part for part in (unit_of(chart), chart.stay.bed if chart.stay else "") if part)


def unit_of(chart: Chart) -> str:
    """Return the unit as people say it; empty: not known.

    Of ``Surgical Intensive Care Unit (SICU)`` that is ``SICU``, of ``medical_icu`` it is ``Medical ICU``.
    """
    name = chart.stay.unit if chart.stay else ""
    short = _SHORT.search(name)
    if short:
        return short[1]
    said = " ".join(word.upper() if word in _ACRONYMS else word for word in name.replace("_", " ").split())
    return said[:1].upper() + said[1:]


def partly(score: News2) -> str:
    """Return what is missing of a score, in the fewest words that name it; empty: nothing is."""
    missing = [words.SHORT_NAMES[name] for name in score.missing]
    known = [words.SHORT_NAMES[name] for name, points in score.parts.items() if points is not None]
    if not score.partial or not known:
        return ""
    return f"partial: no {', '.join(missing)}" if len(missing) <= len(known) else f"partial: only {', '.join(known)}"


def percent(probability: float | None) -> str:
    """Return a probability as people read it; empty: there is none."""
    if probability is None:
        return ""
    return "<1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def moved(score: News2, trend: tuple[News2, ...]) -> int:
    """Return by how much the parts that are known now and were an hour ago have risen."""
    before = trend[-1 - BACK_MARKS] if len(trend) > BACK_MARKS else None
    if before is None:
        return 0
    both = [(now, before.parts.get(name)) for name, now in score.parts.items()]
    return sum(now - then for now, then in both if now is not None and then is not None)


def latest_vitals(chart: Chart) -> list[dict[str, Any]]:
    """Return the cells of the vital signs, in the chart's order."""

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
    """Return the latest value of a part, as NEWS2 has read it."""
    score = chart.record.news2
    reading = score.latest.get(part)
    if reading is None:
        end = score.ended.get(part)
        return Latest("–") if end is None else Latest("–", ended=words.ended_word(end.kind))
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
    """Return the pressure as a pair; of two measurements at one moment nobody can say what belongs together."""
    if upper.at_us is None:
        return upper
    systolic, diastolic = (
        rows_of(chart.history, vital.codes).where_at(upper.at_us) for vital in (words.SYSTOLIC, words.DIASTOLIC)
    )
    if len(systolic) != 1 or len(diastolic) != 1:
        return upper
    lower = float(diastolic.value[0])
    # Below the lowest measurement the value is of a line or cuff that came off.
    doubt = "?" if lower < load_vocabulary().lowest_measurement(DIASTOLIC_CODE) else ""
    return replace(upper, text=f"{upper.text}/{number(lower, 0)}{doubt}")
