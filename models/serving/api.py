"""The API: one patient's score record, as JSON or as FHIR."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from governance.access import Permission
from governance.audit import Action
from models.serving.authorisation import is_pseudonym
from models.serving.fhir import MEDIA, risk_assessment, search_set
from models.serving.problems import not_found
from models.serving.risk import risk_document
from models.serving.state import ServerState
from models.serving.ward import Chart

router = APIRouter()


class ScoreRequest(BaseModel):
    """The patient to score."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    patient: Annotated[str, Field(max_length=64, description="The patient's pseudonym, as published.")]


@router.get("/healthz", include_in_schema=False)
async def health(request: Request) -> Response:
    """Return the health of the ward; it needs no token and contains no patient data.

    200 and ``ok``; 200 and ``degraded`` if the values shown are current but something else is missing; 503 and
    ``failing`` if they may be old. Each trouble has a code and a sentence.
    """
    server: ServerState = request.app.state.server
    troubles = server.board_feed.troubles
    failing = any(trouble.failing for trouble in troubles)
    status = "failing" if failing else "degraded" if troubles else "ok"
    document: dict[str, Any] = {"status": status}
    if troubles:
        document["troubles"] = [{"code": trouble.code, "text": trouble.text} for trouble in troubles]
    return Response(msgspec.json.encode(document), 503 if failing else 200, media_type="application/json")


@router.post("/v1/score", summary="Score a patient now")
async def score(request: Request, asked: ScoreRequest) -> Response:
    """Return the score record of a patient; it is computed again if new values have come since the last one."""
    chart = await _required_chart(request, asked.patient, "score:write", "score.write", "score")
    return _json(risk_document(chart))


@router.get("/v1/patients/{patient}/risk", summary="A patient's risk")
async def risk(request: Request, patient: str) -> Response:
    """Return the score record of a patient; as a FHIR RiskAssessment if ``application/fhir+json`` is accepted."""
    chart = await _required_chart(request, patient, "risk:read", "risk.read", "risk")
    server: ServerState = request.app.state.server
    if MEDIA in request.headers.get("accept", ""):
        return _json(_resource(server, chart), MEDIA)
    return _json(risk_document(chart))


@router.get("/fhir/RiskAssessment", summary="A patient's risk, as a FHIR search")
async def search(request: Request, patient: Annotated[str, Query(max_length=80)]) -> Response:
    """Return a Bundle with the patient's RiskAssessment, or an empty one."""
    server: ServerState = request.app.state.server
    chart = await _recorded_chart(request, patient.removeprefix("Patient/"), "risk:read", "risk.read", "fhir")
    found = [] if chart is None else [_resource(server, chart)]
    return _json(search_set(found), MEDIA)


def _resource(server: ServerState, chart: Chart) -> dict[str, Any]:
    return risk_assessment(chart, server.ward.task)


async def _recorded_chart(
    request: Request, patient: str, permission: Permission, action: Action, endpoint: str
) -> Chart | None:
    """Return a patient's chart after the access is recorded; both are prepared at the same time."""
    server: ServerState = request.app.state.server
    principal = server.authoriser.principal(request)
    server.authoriser.count(principal)
    known = is_pseudonym(patient)
    patients = (patient,) if known else ()
    await server.authoriser.permit(principal, permission, patients=patients)
    recorded, chart = await asyncio.gather(
        server.authoriser.record(principal, action, patients=patients, endpoint=endpoint),
        server.chart(patient) if known else _no_chart(),
        return_exceptions=True,
    )
    for failed in (recorded, chart):
        if isinstance(failed, BaseException):
            raise failed
    return chart if isinstance(chart, Chart) else None


async def _no_chart() -> None:
    return None


async def _required_chart(
    request: Request, patient: str, permission: Permission, action: Action, endpoint: str
) -> Chart:
    chart = await _recorded_chart(request, patient, permission, action, endpoint)
    if chart is None:
        raise not_found()
    return chart


def _json(document: dict[str, Any], media: str = "application/json") -> Response:
    return Response(msgspec.json.encode(document), media_type=media)
