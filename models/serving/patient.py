"""What a patient's page shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.news2 import PARTS
from models.scoring import ABSTAINED, Reason
from models.serving import words
from models.serving.charts import trend
from models.serving.rendering import fragment
from models.serving.risk import age_seconds, is_stale
from models.serving.rows import counted, latest_vitals, moved, percent, place_of
from models.serving.ward import Chart
from models.serving.words import band, rows_of, significant
from vitalake.care.records import History, code_number
from vitalake.vocabulary import load_vocabulary

_CHARTS = (
    words.RESPIRATION,
    words.SATURATION,
    words.SYSTOLIC,
    words.DIASTOLIC,
    words.PULSE,
    words.TEMPERATURE,
    words.COMA,
    words.OXYGEN_FLOW,
    words.OXYGEN_FRACTION,
)


def patient_context(chart: Chart) -> dict[str, Any]:
    """Return what the page of a patient shows."""
    record = chart.record
    return {
        "chart": chart,
        "record": record,
        "name": words.short_pseudonym(chart.patient),
        "band": band(record.news2),
        "place_name": place_of(chart),
        "parts": [(words.PART_NAMES[name], record.news2.parts[name]) for name in PARTS],
        "missing": [words.PART_NAMES[name] for name in record.news2.missing],
        "moved": moved(record.news2, chart.trend),
        "percent": percent(record.probability),
        "abstained": ABSTAINED[record.abstained] if record.abstained else "",
        "bars": _bars(record.reasons),
        "vitals": latest_vitals(chart),
        "charts": _charts(chart),
        "labs": _labs(chart),
        "age": age_seconds(record, chart.now_us),
        "stale": is_stale(record, chart.now_us),
        "now_us": chart.now_us,
    }


def patient_now(chart: Chart) -> str:
    """Return the part of the page that changes, as HTML."""
    return fragment("patient_now.html", patient_context(chart))


def _bars(reasons: list[Reason]) -> list[dict[str, Any]]:
    """Return the reasons with the lengths of their bars, in hundredths of half the width."""
    longest = max((abs(reason.contribution) for reason in reasons), default=1.0) or 1.0
    return [
        {
            "reason": reason,
            "length": max(1.0, 100 * abs(reason.contribution) / longest),
            "value": _value(reason),
            "raises": reason.contribution > 0,
        }
        for reason in reasons
    ]


def _value(reason: Reason) -> str:
    if reason.value is None:
        return "not known"
    if reason.feature == "sex_female":
        return "yes" if reason.value else "no"
    return f"{significant(reason.value)} {words.unit(reason.unit)}".strip()


def _charts(chart: Chart) -> list[dict[str, Any]]:
    found = []
    for vital in _CHARTS:
        rows = rows_of(chart.history, vital.codes)
        if not len(rows) and vital in (words.OXYGEN_FLOW, words.OXYGEN_FRACTION, words.COMA):
            continue
        last = counted(rows, vital) if len(rows) else None
        found.append(
            {
                "vital": vital,
                "svg": trend(vital, rows, now_us=chart.now_us),
                "last": None if last is None else words.number(last, vital.decimals),
                "at_us": int(rows.effective_us[-1]) if len(rows) else None,
            }
        )
    return found


def _labs(chart: Chart) -> list[dict[str, Any]]:
    """Return the latest of every other value, with the one before, in the vocabulary's order."""
    shown = {code for vital in words.VITALS for code in vital.codes}
    vocabulary = load_vocabulary()
    found = []
    for loinc, i in vocabulary.codes.items():
        number = code_number(loinc)
        if number in shown:
            continue
        rows = rows_of(chart.history, (number,))
        if len(rows):
            found.append(_lab(rows, vocabulary.names[i], words.unit(vocabulary.unit_of[i])))
    return found


def _lab(rows: History, name: str, unit: str) -> dict[str, Any]:
    earlier = rows.where(rows.effective_us < rows.effective_us[-1])
    before = float(earlier.value[-1]) if len(earlier) else None
    last = float(rows.value[-1])
    arrow = "" if before is None or np.isclose(before, last) else "rose" if last > before else "fell"
    return {
        "name": name,
        "value": significant(last),
        "unit": unit,
        "at_us": int(rows.effective_us[-1]),
        "before": None if before is None else significant(before),
        "arrow": arrow,
    }
