"""The content of a patient's page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from models.news2 import ACVPU, OXYGEN, PARTS, WITHHELD, Ended, ending
from models.scoring import ABSTAINED, Reason
from models.serving import formatting as words
from models.serving.charts import HOURS, trend
from models.serving.formatting import rows_of, significant
from models.serving.rendering import fragment
from models.serving.risk import age_seconds, band_of, is_stale, old_after_seconds
from models.serving.rows import latest_vitals, moved, percent, place_of, reason_measured_us, value_notes
from models.serving.shadow import worth
from models.serving.ward import Chart
from models.spikes import spikes_of
from models.tasks import load_task
from pipelines.online_store.facts import DECISION_KINDS, ENDING_REASONS, REASONS, DecisionKind
from pipelines.online_store.values import COMPARATORS
from vitalake.clinical.records import History, code_number
from vitalake.vocabulary import load_vocabulary

HOUR_US = 3_600_000_000

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
    """Return the template context of a patient's page."""
    record = chart.record
    return {
        "chart": chart,
        "record": record,
        "name": words.short_pseudonym(chart.patient),
        "band": band_of(chart),
        "value_notes": value_notes(chart),
        "withheld": WITHHELD[record.news2.withheld] if record.news2.withheld else "",
        "trial": chart.trial,
        "worth": worth(chart.trial) if chart.trial else "",
        "unknown": [reason.label.partition(",")[0] for reason in record.reasons if reason.value is None],
        "decisions": [_decision(chart, kind) for kind in DECISION_KINDS],
        "place_name": place_of(chart),
        "parts": [(words.PART_NAMES[name], record.news2.parts[name]) for name in PARTS],
        "missing": [words.PART_NAMES[name] for name in record.news2.missing],
        "moved": moved(record.news2, chart.trend),
        "percent": percent(record.probability),
        "event": _event(record.task),
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


def _event(task: str) -> str:
    """Return what a task predicts, for use inside a sentence."""
    title = load_task(task).title
    return title[:1].lower() + title[1:]


def _bars(reasons: list[Reason]) -> list[dict[str, Any]]:
    """Return the reasons with a known value and the lengths of their bars, in hundredths of half the width.

    A reason without a value has no bar: a bar to the left would be read as a good sign.
    """
    reasons = [reason for reason in reasons if reason.value is not None]
    longest = max((abs(reason.contribution) for reason in reasons), default=1.0) or 1.0
    return [
        {
            "reason": reason,
            "length": max(1.0, 100 * abs(reason.contribution) / longest),
            "value": _value(reason),
            "at_us": reason_measured_us(reason),
            "raises": reason.contribution > 0,
        }
        for reason in reasons
    ]


def _value(reason: Reason) -> str:
    assert reason.value is not None
    if reason.feature == "sex_female":
        return "yes" if reason.value else "no"
    return f"{significant(reason.value)} {words.unit(reason.unit)}".strip()


def _charts(chart: Chart) -> list[dict[str, Any]]:
    found = []
    for vital in _CHARTS:
        rows = rows_of(chart.history, vital.codes)
        if not len(rows) and vital in (words.OXYGEN_FLOW, words.OXYGEN_FRACTION, words.COMA):
            continue
        reading = chart.record.news2.latest.get(vital.part)
        last: float | None = None
        sign = ""
        at_us: int | None = None
        if reading is not None and reading.code in vital.codes:
            last, at_us, sign = reading.value, reading.at_us, reading.comparator
        elif len(rows):  # not a part of the score, or oxygen that has been reported the other way since
            last, at_us = float(rows.value[-1]), int(rows.effective_us[-1])
        end = chart.record.news2.ended.get(vital.part) if vital.part else _unusable_since(chart.history, vital.codes)
        found.append(
            {
                "vital": vital,
                "svg": trend(_with_normal_range(vital, chart), rows, now_us=chart.now_us),
                "last": None if last is None else f"{sign}{words.number(last, vital.decimals)}",
                "at_us": at_us,
                "old": at_us is not None and chart.now_us - at_us > old_after_seconds(vital.part) * 1e6,
                "ended": words.unusable_word(end.kind) if end is not None else "",
                "ended_us": end.at_us if end is not None else None,
                "spikes": len(spikes_of(vital.part, rows.where(rows.effective_us > chart.now_us - HOURS * HOUR_US))),
            }
        )
    return found


def _unusable_since(history: History, codes: tuple[int, ...]) -> Ended | None:
    """Return the unusable value that came after the last value of codes; None: none came, or there was no value."""
    mine = history.where(np.isin(history.code, codes))
    times = rows_of(history, codes).effective_us
    after = mine.where(~np.isfinite(mine.value) & (mine.effective_us > times.max(initial=np.iinfo(np.int64).min)))
    if not len(times) or not len(after):
        return None
    return Ended(int(after.effective_us[0]), int(after.code[0]), ending(float(after.value[-1])))


def _with_normal_range(vital: words.Vital, chart: Chart) -> words.Vital:
    """Return a vital sign with the range that scores 0 for this patient; without a range if the score is withheld."""
    score = chart.record.news2
    if score.withheld:
        return replace(vital, normal=None)
    if score.scale == 1 or vital is not words.SATURATION:
        return vital
    return replace(vital, normal=(88, 92 if score.parts[OXYGEN] else 100))


def _decision(chart: Chart, kind: DecisionKind) -> dict[str, Any]:
    """Return a decision of this kind: its current state and the choices that are open now."""
    made = chart.decisions.get(kind)
    holds = made.holds if made else kind == "pregnancy" and chart.pregnant
    return {
        "kind": kind,
        "title": DECISION_NAMES[kind][0],
        "yes": DECISION_NAMES[kind][1],
        "made": made,
        "because": REASONS[kind].get(made.reason, "") if made else "",
        "holds": holds,
        "choices": [(code, text) for code, text in REASONS[kind].items() if (code in ENDING_REASONS) == holds],
    }


# A title that says what follows, such as "no adult score", would be read as said of a patient for whom it is "no".
DECISION_NAMES: dict[DecisionKind, tuple[str, str]] = {
    "spo2-scale-2": ("SpO₂ scale 2", "yes"),
    "pregnancy": ("Pregnancy", "yes, no adult score is shown"),
}
"""Title of each decision, and what is said when it holds."""


def _labs(chart: Chart) -> list[dict[str, Any]]:
    """Return the latest value of every code that is no vital sign, with the one before, in the vocabulary's order."""
    shown = {code for vital in words.VITALS for code in vital.codes}
    vocabulary = load_vocabulary()
    found = []
    for loinc, i in vocabulary.codes.items():
        number = code_number(loinc)
        if number in shown:
            continue
        rows = rows_of(chart.history, (number,))
        if len(rows):
            end = _unusable_since(chart.history, (number,))
            lab = _lab(rows, vocabulary.names[i], words.unit(vocabulary.unit_of[i]))
            if loinc == ACVPU:
                before = None if lab["before"] is None else words.acvpu_letter(float(lab["before"]))
                lab |= {"value": words.acvpu_letter(float(rows.value[-1])), "unit": "", "before": before}
            found.append(lab | {"ended": words.unusable_word(end.kind) if end else "", "ended_us": end and end.at_us})
    return found


def _lab(rows: History, name: str, unit: str) -> dict[str, Any]:
    earlier = rows.where(rows.effective_us < rows.effective_us[-1])
    before = float(earlier.value[-1]) if len(earlier) else None
    last = float(rows.value[-1])
    sign = "" if rows.comparator is None else COMPARATORS[rows.comparator[-1]]
    arrow = "" if before is None or np.isclose(before, last) else "rose" if last > before else "fell"
    return {
        "name": name,
        "value": f"{sign}{significant(last)}",
        "unit": unit,
        "at_us": int(rows.effective_us[-1]),
        "before": None if before is None else significant(before),
        "arrow": arrow,
    }
