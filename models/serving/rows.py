"""A patient's row on the board."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.news2 import MAX_AGE_HOURS, News2, news2
from models.serving import words
from models.serving.charts import sparkline
from models.serving.rendering import fragment
from models.serving.risk import age_seconds, is_stale
from models.serving.ward import Chart
from models.serving.words import Vital, band, number, rows_of
from vitalake.care.records import History

BACK_MARKS = 2
"""An hour: what the score is compared with to say that it moved."""

TOP_REASONS = 2

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
    """The latest value of a vital sign.

    Attributes:
        text: the value; ``–``: none is recent enough to count.
        at_us: when it was measured.
        points: of NEWS2; None: it has none.
    """

    text: str
    at_us: int | None = None
    points: int | None = None


def make_row(chart: Chart) -> Row:
    """Return a patient's row."""
    record = chart.record
    order = f"{_rank(record.news2)}|{place_of(chart) or '~'}|{chart.patient}"
    context = {
        "chart": chart,
        "record": record,
        "order": order,
        "band": band(record.news2),
        "place": place_of(chart),
        "unit": unit_of(chart),
        "bed": chart.stay.bed if chart.stay else "",
        "name": words.short_pseudonym(chart.patient),
        "partly": partly(record.news2),
        "vitals": latest_vitals(chart),
        "moved": moved(record.news2, chart.trend),
        "spark": sparkline([score.total for score in chart.trend], record.news2.total),
        "reasons": [reason for reason in record.reasons if reason.contribution > 0][:TOP_REASONS],
        "percent": percent(record.probability),
        "age": age_seconds(record, chart.now_us),
        "stale": is_stale(record, chart.now_us),
    }
    key = (record.id, chart.revision, order, context["stale"], tuple(score.total for score in chart.trend))
    return Row(chart.patient, chart.revision, record.newest_us or 0, order, fragment("row.html", context), key)


def _rank(score: News2) -> str:
    """Return a text that sorts by NEWS2, highest first; of equal totals one with a single part of 3 comes first."""
    total = -1 if score.total is None else score.total
    return f"{_MOST_TOTAL - total:02d}{0 if score.red else 1}"


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
    parts, moment = chart.record.news2.parts, chart.record.as_of_us

    def cell(vital: Vital, short: str = "") -> dict[str, Any]:
        found = latest(chart.history, vital, moment)
        points = parts.get(vital.part) if found.at_us is not None else None
        return {"short": short or vital.short, "unit": vital.unit, "value": Latest(found.text, found.at_us, points)}

    pressure = cell(words.SYSTOLIC, "BP")
    pressure["value"] = _with_diastolic(chart.history, pressure["value"])
    return [
        cell(words.RESPIRATION),
        cell(words.SATURATION),
        _oxygen(chart, moment),
        pressure,
        cell(words.PULSE),
        cell(words.COMA),
        cell(words.TEMPERATURE),
    ]


def _with_diastolic(history: History, upper: Latest) -> Latest:
    """Return the pressure as a pair; of two measurements at one moment nobody can say what belongs together."""
    values = [newest_values(rows_of(history, vital.codes)) for vital in (words.SYSTOLIC, words.DIASTOLIC)]
    if upper.at_us is None or any(len(v) != 1 or v.effective_us[0] != upper.at_us for v in values):
        return upper
    return Latest(f"{upper.text}/{number(float(values[1].value[0]), 0)}", upper.at_us, upper.points)


def _oxygen(chart: Chart, moment: int) -> dict[str, Any]:
    flow = latest(chart.history, words.OXYGEN_FLOW, moment)
    share = latest(chart.history, words.OXYGEN_FRACTION, moment)
    points = chart.record.news2.parts.get("supplemental_oxygen")
    found, sign = (flow, "L") if (flow.at_us or 0) >= (share.at_us or 0) else (share, "%")
    value = Latest(f"{found.text} {sign}", found.at_us, points) if found.at_us is not None else found
    return {"short": "O₂", "unit": "", "value": value}


def latest(history: History, vital: Vital, moment: int) -> Latest:
    """Return the latest value that NEWS2 would count: none older than it allows."""
    rows = rows_of(history, vital.codes)
    if not len(rows) or rows.effective_us[-1] <= moment - int(MAX_AGE_HOURS * 3.6e9):
        return Latest("–")
    return Latest(number(counted(rows, vital), vital.decimals), int(rows.effective_us[-1]))


def newest_values(rows: History) -> History:
    """Return the rows of the latest moment."""
    return rows.where(rows.effective_us == rows.effective_us[-1]) if len(rows) else rows


def counted(rows: History, vital: Vital) -> float:
    """Return, of the values of the latest moment, the one NEWS2 counts: that with most points."""
    newest = newest_values(rows)
    values: list[float] = newest.value.tolist()
    if len(set(values)) == 1 or not vital.part:
        return values[-1]
    at_us = int(max(newest.available_us.max(), newest.effective_us.max()))

    def points(i: int) -> int:
        one = newest.where(np.arange(len(newest)) == i)
        return news2(one, as_of_us=at_us).parts[vital.part] or 0

    return values[max(range(len(values)), key=points)]
