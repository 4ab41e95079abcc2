"""A score record as a FHIR R4 RiskAssessment: NEWS2, and the learnt score where it may be shown."""

from __future__ import annotations

from typing import Any

from models.news2 import WITHHELD
from models.scoring import ABSTAINED, Reason, ScoreRecord
from models.serving.formatting import (
    AGE_NOT_KNOWN,
    PART_NAMES,
    Band,
    ago,
    event_text,
    significant,
    unit,
)
from models.serving.risk import SHADOW, STALE_SECONDS, band_of, direction, is_stale, iso, old_parts
from models.serving.rows import value_notes
from models.serving.shadow import Trial, worth
from models.serving.ward import Chart
from models.tasks import Task

MEDIA = "application/fhir+json"
PSEUDONYM = "urn:vitalake:pseudonym"
MODEL = "urn:vitalake:model"
_RISK = "http://terminology.hl7.org/CodeSystem/risk-probability"
_QUALITATIVE: dict[Band, tuple[str, str]] = {
    "low": ("low", "Low likelihood"),
    "medium": ("moderate", "Moderate likelihood"),
    "high": ("high", "High likelihood"),
}


_STATUS = {"shadow": "Shadow, not shown", "trial": "Trial on old data", "approved": "Approved for the unit"}


def risk_assessment(chart: Chart, task: Task) -> dict[str, Any]:
    """Return the RiskAssessment; its status is preliminary, because the next value may change it.

    Args:
        chart: of the patient; its record is already as clinicians may see it.
        task: what the model predicts; the prediction is left out where the learnt score is not shown.
    """
    record, now_us, trial = chart.record, chart.now_us, chart.trial
    status = trial.status if trial else SHADOW
    stale = is_stale(record, now_us)
    notes = [f"Patients are ranked by NEWS2. Learnt score: {_STATUS[status]}. Not a medical device."]
    if stale:
        stale_text = f"Stale: no vital sign for more than {STALE_SECONDS // 3600} h."
        notes.insert(0, stale_text if record.newest_us is not None else "No vital sign is known.")
    document: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "id": record.id,
        "meta": {"tag": [{"system": "urn:vitalake:status", "code": status, "display": _STATUS[status]}]},
        "status": "preliminary",
        "subject": _subject("Patient", record.patient),
        "occurrenceDateTime": iso(record.as_of_us),
        "prediction": [_news2(chart, stale=stale)] + ([_learnt(record, task, trial, now_us)] if trial else []),
        "note": [{"text": text} for text in notes],
    }
    if record.encounter:
        document["encounter"] = _subject("Encounter", record.encounter)
    method = {"coding": [{"system": MODEL, "code": record.model}]} if record.model else {}
    document["method"] = method | {"text": f"NEWS2 and {record.model or 'no model'}, rules {record.policy}"}
    return document


def search_set(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return found resources as a Bundle."""
    entries = [
        {"fullUrl": f"urn:vitalake:score:{document['id']}", "resource": document, "search": {"mode": "match"}}
        for document in documents
    ]
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return bundle | ({"entry": entries} if entries else {})


def _subject(kind: str, pseudonym: str) -> dict[str, Any]:
    return {"type": kind, "identifier": {"system": PSEUDONYM, "value": pseudonym}}


def _news2(chart: Chart, *, stale: bool) -> dict[str, Any]:
    record, now_us = chart.record, chart.now_us
    score = record.news2
    prediction: dict[str, Any] = {"outcome": {"text": "Acute deterioration (NEWS2)"}}
    found = _QUALITATIVE.get(band_of(chart))
    if found is not None:  # a stale or partial score does not prove a low risk
        code, display = found
        prediction["qualitativeRisk"] = {"coding": [{"system": _RISK, "code": code, "display": display}]}
    texts = [
        f"{event_text(event, score.beside.get(event.part))}, {ago((now_us - event.at_us) / 1e6)} ago"
        for event in score.events
    ]
    if score.withheld:
        texts.insert(0, f"no score. {WITHHELD[score.withheld]}")
    else:
        texts.insert(0, "no score: no parameter has a recent value" if score.total is None else f"total {score.total}")
    if score.partial and score.total is not None:
        texts.append(f"partial, may be higher, missing: {', '.join(PART_NAMES[name] for name in score.missing)}")
    texts += value_notes(chart)  # as the board and the patient's page have them, also of a score that is withheld
    if chart.last is not None:
        texts.append(f"was {chart.last.total}, {ago((now_us - chart.last_us) / 1e6)} ago")
    if score.total is not None and chart.age_years is None:
        texts.append(AGE_NOT_KNOWN)
    if stale:
        texts.append("stale" if record.newest_us is not None else "no vital sign is known")
    elif old := old_parts(record, now_us):
        texts.append(f"old: {', '.join(PART_NAMES[part] for part in old)}")
    if score.scale != 1:
        texts.append(f"SpO₂ scale {score.scale}")
    texts += [f"one {PART_NAMES[part]} value far from all earlier" for part in record.unconfirmed]
    return prediction | {"rationale": f"NEWS2: {'; '.join(texts)}"}


def _learnt(record: ScoreRecord, task: Task, trial: Trial, now_us: int) -> dict[str, Any]:
    prediction: dict[str, Any] = {"outcome": {"text": task.title}}
    if record.probability is None:
        because = ABSTAINED[record.abstained] if record.abstained else ""
        return prediction | {"rationale": f"No learnt score ({record.abstained}): {because}"}
    reasons = "; ".join(_reason(reason, now_us) for reason in record.reasons if reason.value is not None)
    unknown = ", ".join(reason.label for reason in record.reasons if reason.value is None)
    not_known = f" Not known, which does not mean normal: {unknown}." if unknown else ""
    # FHIR states a probability as a percentage (invariant ras-2: at most 100).
    return prediction | {
        "probabilityDecimal": round(100 * record.probability, 4),
        "rationale": f"{_STATUS[trial.status]}. {worth(trial)} Strongest reasons, in log-odds: {reasons}.{not_known}",
    }


def _reason(reason: Reason, now_us: int) -> str:
    age = "" if reason.at_us is None else f", {ago((now_us - reason.at_us) / 1e6)} ago"
    value = f"{significant(reason.value or 0.0)} {unit(reason.unit)}".strip()
    return f"{reason.label} {value}{age} {direction(reason)} {reason.contribution:+.2f}"
