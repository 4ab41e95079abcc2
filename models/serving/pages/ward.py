"""The pages of the ward: board and patient, and the events that keep them up to date."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from governance.access import InvalidToken, Principal
from governance.audit import AuditBroken
from governance.keyservice import KeyRevoked
from governance.vault import Identity
from models.serving.authorisation import is_pseudonym, refuse_other_sites
from models.serving.board_feed import BEAT_SECONDS, Change, Subscription
from models.serving.events import Event, stream
from models.serving.forms import read_form
from models.serving.pages.session import signed_in
from models.serving.patient import patient_context, patient_now
from models.serving.problems import Problem, not_found
from models.serving.rendering import render
from models.serving.rows import named
from models.serving.state import ServerState
from models.serving.ward import Chart
from pipelines.online_store.facts import ENDING_REASONS, REASONS, Decision
from vitalake import clock
from vitalake.errors import PrivacyError, ServiceUnavailable

log = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)

SESSION_OVER = Event("over", {})
"""Tells the browser that its session has ended."""


@router.get("/board")
async def board(request: Request) -> Response:
    """Show all patients, ranked by NEWS2."""
    server: ServerState = request.app.state.server
    principal = signed_in(request)
    position, rows = server.board_feed.position, await server.board_feed.rows() if principal.may("risk:read") else []
    patients = tuple(row.patient for row in rows)
    await server.authoriser.allow(principal, "risk:read", "board.read", patients=patients, stage="page")
    names = await server.names(principal, patients)
    now_us, speed, replay = await server.time()
    shown = [named(row.html, names.get(row.patient, "")) for row in rows]
    context = {"rows": shown, "position": position, "now_us": now_us, "speed": speed, "replay": replay}
    context["learnt"] = await server.shows_learnt()
    context["troubles"] = server.board_feed.troubles
    return render(request, "board.html", context)


@router.get("/board/events")
async def board_events(request: Request, after: str = "") -> Response:
    """Send every change of the board until the browser disconnects or the session ends."""
    server: ServerState = request.app.state.server
    principal = signed_in(request)
    await server.authoriser.allow(principal, "risk:read", "board.read", stage="events")
    subscription = _subscribe(server, principal)
    events = _board_events(request, principal, request.headers.get("last-event-id") or after, subscription)
    return stream(request, events)


def _subscribe(server: ServerState, principal: Principal) -> Subscription:
    return server.board_feed.subscribe(principal.subject, most=server.settings.serving.most_boards)


async def _board_events(
    request: Request, principal: Principal, after: str, subscription: Subscription
) -> AsyncIterator[Event]:
    server: ServerState = request.app.state.server
    try:
        await server.board_feed.rows()
        now_us, _, _ = await server.time()
        missed = server.board_feed.since(after, now_us)
        # All patients on the ward are recorded at once, not each with their first change: a board that opens writes one
        # audit record, and one more for each patient who comes later.
        seen = server.board_feed.shown()
        await server.authoriser.record(principal, "board.read", patients=tuple(sorted(seen)), stage="events")
        named_patients: set[str] = set()
        yield server.board_feed.beat()
        if names := await _new_names(server, principal, missed, named_patients):
            yield names
        if missed.whole or not missed.beats:
            yield missed.event
        async for change in _following(request, subscription):
            if change.beats or change.number > missed.number:
                await _record_new(server, principal, change, seen)
                if names := await _new_names(server, principal, change, named_patients):
                    yield names
                yield change.event
    except InvalidToken:
        yield SESSION_OVER
    finally:
        server.board_feed.leave(subscription)


async def _following(request: Request, subscription: Subscription) -> AsyncIterator[Change]:
    """Yield the changes of a subscription while the session is valid.

    Raises:
        InvalidToken: the session has ended.
    """
    server: ServerState = request.app.state.server
    checked = time.monotonic()
    async for change in server.board_feed.changes(subscription):
        if time.monotonic() - checked >= BEAT_SECONDS - 0.5:  # with every heartbeat
            server.authoriser.principal(request, pages=True)
            checked = time.monotonic()
        yield change


async def _record_new(server: ServerState, principal: Principal, change: Change, seen: set[str]) -> None:
    """Record the patients that this board has not shown yet, before it shows them."""
    if fresh := change.patients - seen:
        await server.authoriser.record(principal, "board.read", patients=tuple(sorted(fresh)), stage="events")
        seen |= fresh


async def _new_names(
    server: ServerState, principal: Principal, change: Change, named_patients: set[str]
) -> Event | None:
    """Return the names that this board does not have yet, for users who may see them; rows contain no names."""
    named_patients.difference_update(change.gone)  # a board drops the name with the row
    fresh = change.patients - named_patients
    named_patients |= fresh
    names = await server.names(principal, tuple(sorted(fresh)))
    return (
        Event("names", {"names": names, "ward_us": change.ward_us, "speed": server.board_feed.speed}) if names else None
    )


@router.get("/patients/{patient}")
async def patient_page(request: Request, patient: str) -> Response:
    """Show a patient: score, parts, reasons, trends and laboratory values; the name only to roles that may see it."""
    server: ServerState = request.app.state.server
    principal = signed_in(request)
    try:
        chart = await _patient(server, principal, patient, "page")
    except KeyRevoked as error:  # the page says so and shows nothing identified
        now_us, speed, replay = await server.time()
        locked_context = {"patient": patient, "why": error.what, "now_us": now_us, "speed": speed, "replay": replay}
        return render(request, "patient_locked.html", locked_context | {"troubles": server.board_feed.troubles})
    identity, locked = await _identity(server, principal, patient)
    now_us, speed, replay = await server.time()
    context = await server.drawing(patient_context, chart)
    context |= {"identity": identity, "locked": locked, "speed": speed, "replay": replay, "now_us": now_us}
    context["may_decide"] = principal.may("decision:write")
    context["troubles"] = server.board_feed.troubles
    return render(request, "patient.html", context)


async def _identity(server: ServerState, principal: Principal, patient: str) -> tuple[Identity | None, str]:
    """Return a patient's identity, or the reason why it cannot be shown; the rest of the page does not need it."""
    if not principal.may("identity:read"):
        return None, ""
    try:
        return await server.identity(principal, patient), ""
    except AuditBroken:  # what cannot be recorded must not be shown
        raise
    except (PrivacyError, ServiceUnavailable) as error:
        log.error("no-name", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
        return None, error.what


@router.get("/patients/{patient}/events")
async def patient_events(request: Request, patient: str) -> Response:
    """Send the patient's page again whenever something has changed."""
    server: ServerState = request.app.state.server
    principal = signed_in(request)
    with suppress(KeyRevoked):  # a locked page stays open and is updated when the key is restored
        await _patient(server, principal, patient, "events")
    return stream(request, _patient_events(request, patient, _subscribe(server, principal)))


async def _patient_events(request: Request, patient: str, subscription: Subscription) -> AsyncIterator[Event]:
    server: ServerState = request.app.state.server
    try:
        yield await _patient_event(server, patient)  # what has changed since the page was made
        async for change in _following(request, subscription):
            if change.beats:
                yield change.event
            elif patient in change.patients or patient in change.gone:
                yield await _patient_event(server, patient)
    except InvalidToken:
        yield SESSION_OVER
    finally:
        server.board_feed.leave(subscription)


async def _patient_event(server: ServerState, patient: str) -> Event:
    chart, locked = None, False
    try:
        chart = await server.chart(patient)
    except KeyRevoked:
        locked = True
    now_us, speed, _ = await server.time()
    document: dict[str, Any] = {"patient": patient, "ward_us": now_us, "speed": speed, "html": "", "locked": locked}
    if chart is not None:
        document |= {"revision": chart.revision, "newest_us": chart.record.newest_us}
        document["html"] = await server.drawing(patient_now, chart)
    return Event("patient", document)


@router.post("/patients/{patient}/decisions")
async def decide(request: Request, patient: str) -> Response:
    """Record a clinician's decision for a patient: SpO₂ scale 2, or pregnancy."""
    refuse_other_sites(request)
    server: ServerState = request.app.state.server
    principal = signed_in(request)
    form = await read_form(request)
    kind, reason = form.get("kind", ""), form.get("reason", "")
    if kind not in REASONS or reason not in REASONS[kind]:
        field = "reason" if kind in REASONS else "kind"
        raise Problem(422, f"Missing or invalid: {field}.", errors=[{"field": field, "problem": "missing or unknown"}])
    known = is_pseudonym(patient)
    holds = reason not in ENDING_REASONS
    detail = {"kind": kind, "holds": "yes" if holds else "no", "reason": reason}
    await server.authoriser.allow(
        principal, "decision:write", "decision.write", patients=(patient,) if known else (), **detail
    )
    chart = await server.chart(patient) if known else None
    if chart is None:
        raise not_found()
    encounter = chart.stay.encounter if chart.stay else ""
    decision = Decision(kind, holds, encounter, principal.subject, clock.now_us(), reason)
    await server.decide(patient, decision)
    return RedirectResponse(f"/patients/{patient}", 303)


async def _patient(server: ServerState, principal: Principal, patient: str, stage: str) -> Chart:
    known = is_pseudonym(patient)
    patients = (patient,) if known else ()
    await server.authoriser.allow(principal, "risk:read", "risk.read", patients=patients, stage=stage)
    chart = await server.chart(patient) if known else None
    if chart is None:
        raise not_found()
    return chart
