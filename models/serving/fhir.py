"""A score record as FHIR R4 RiskAssessment: two predictions, of which the early warning score is the one in use."""

from __future__ import annotations

from typing import Any

from models.news2 import News2
from models.scoring import ABSTAINED, ScoreRecord
from models.serving.risk import iso
from models.serving.words import PART_NAMES, band
from models.tasks import Task

MEDIA = "application/fhir+json"
PSEUDONYM = "urn:vitalake:pseudonym"
MODEL = "urn:vitalake:model"
_RISK = "http://terminology.hl7.org/CodeSystem/risk-probability"
_QUALITATIVE = {"low": ("low", "Low likelihood"), "medium": ("moderate", "Moderate likelihood")}
_HIGH = ("high", "High likelihood")


def risk_assessment(record: ScoreRecord, task: Task) -> dict[str, Any]:
    """Return the resource. It is preliminary: the learnt score runs in the shadow, no site has approved it."""
    document: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "id": record.id,
        "meta": {"tag": [{"system": "urn:vitalake:status", "code": "shadow", "display": "Shadow, not approved"}]},
        "status": "preliminary",
        "subject": _subject("Patient", record.patient),
        "occurrenceDateTime": iso(record.as_of_us),
        "prediction": [_news2(record.news2), _learnt(record, task)],
        "note": [{"text": "NEWS2 ranks; the learnt score runs in shadow. Not a medical device."}],
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


def _news2(score: News2) -> dict[str, Any]:
    prediction: dict[str, Any] = {"outcome": {"text": "Acute deterioration (NEWS2)"}}
    if score.total is not None:
        code, display = _QUALITATIVE.get(band(score), _HIGH)
        prediction["qualitativeRisk"] = {"coding": [{"system": _RISK, "code": code, "display": display}]}
    missing = f"; partial, without: {', '.join(PART_NAMES[name] for name in score.missing)}" if score.partial else ""
    total = "none of its parts is known" if score.total is None else f"total {score.total}"
    return prediction | {"rationale": f"NEWS2: {total}{missing}"}


def _learnt(record: ScoreRecord, task: Task) -> dict[str, Any]:
    prediction: dict[str, Any] = {"outcome": {"text": task.title}}
    if record.probability is None:
        because = ABSTAINED[record.abstained] if record.abstained else ""
        return prediction | {"rationale": f"No learnt score ({record.abstained}): {because}"}
    reasons = "; ".join(f"{reason.label} {reason.contribution:+.2f}" for reason in record.reasons)
    # FHIR states a probability as a percentage (invariant ras-2: at most 100).
    return prediction | {
        "probabilityDecimal": round(100 * record.probability, 4),
        "rationale": f"Shadow, not approved. Strongest reasons, in log-odds: {reasons}",
    }
