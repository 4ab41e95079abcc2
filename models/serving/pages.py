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
from models.serving.addresses import needs_secure_cookie
from models.serving.authorisation import COOKIE, is_pseudonym, refuse_other_sites
from models.serving.board_feed import BEAT_SECONDS, Change, Subscription
from models.serving.events import Event, stream
from models.serving.forms import read_form
from models.serving.patient import patient_context, patient_now
from models.serving.problems import Problem, not_found
from models.serving.rendering import SIGN_IN, home_of, is_page, render
from models.serving.rows import named
from models.serving.state import ServerState
from models.serving.ward import Chart
from pipelines.online_store.facts import ENDING_REASONS, REASONS, Decision
from vitalake import clock
from vitalake.errors import PrivacyError, ServiceUnavailable

log = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)

OVER = Event("over", {})
"""The session has ended."""


class SignInFirst(Exception):
    """A person without a session asked for a page."""


def who(request: Request) -> Principal:
    """Return who asks for a page; who has no session is sent to the sign-in.

    Raises:
        SignInFirst: a person, in front of a browser.
        InvalidToken: a program.
    """
    server: ServerState = request.app.state.server
    try:
        principal = server.authoriser.principal(request, pages=True)
    except InvalidToken:
        if is_page(request) and request.method == "GET":
            raise SignInFirst from None
        raise
    request.state.principal = principal
    server.authoriser.count(principal)
    return principal


@router.get("/")
async def first(request: Request) -> Response:
    """Lead to the first page the role may see: the board, for who treats patients."""
    return RedirectResponse(home_of(who(request)), 303)


@router.get("/sign-in")
async def sign_in_page(request: Request) -> Response:
    """Show the users of the development issuer who have pages."""
    server: ServerState = request.app.state.server
    users = {user: person for user, person in server.issuer.users.items() if home_of(person) != SIGN_IN}
    return render(request, "sign_in.html", {"users": users})


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Begin a session for one of them."""
    refuse_other_sites(request)
    server: ServerState = request.app.state.server
    user = (await read_form(request)).get("user", "")
    address = request.client.host if request.client else ""
    if user in server.issuer.users:
        server.authoriser.sign_ins.take(f"{user}\n{address}", "This user signs in too often from this address.")
    try:
        token = server.issuer.sign_in(user)
    except PrivacyError:
        token = ""
    if not token or home_of(server.issuer.users[user]) == SIGN_IN:  # type: ignore[index]
        raise Problem(422, "Does not fit: user.", errors=[{"field": "user", "problem": "no such user"}])
    principal = server.issuer.users[user]  # type: ignore[index]
    server.authoriser.sessions.end(request.cookies.get(COOKIE, ""))
    session = server.authoriser.sessions.begin(token, principal.subject)
    await server.authoriser.record(principal, "sign-in")
    answer = RedirectResponse(home_of(principal), 303)
    answer.set_cookie(
        COOKIE,
        session,
        max_age=server.settings.serving.session_minutes * 60,
        httponly=True,
        samesite="strict",
        secure=needs_secure_cookie(request.url.scheme, request.url.hostname or "", server.settings.serving.host),
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session."""
    refuse_other_sites(request)
    server: ServerState = request.app.state.server
    server.authoriser.sessions.end(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/session", status_code=204)
async def session(request: Request) -> Response:
    """Say whether the browser is signed in: a board that is refused cannot see why."""
    who(request)
    return Response(status_code=204)


@router.get("/board")
async def board(request: Request) -> Response:
    """Show all patients, ranked."""
    server: ServerState = request.app.state.server
    principal = who(request)
    at, rows = server.board_feed.place, await server.board_feed.rows() if principal.may("risk:read") else []
    patients = tuple(row.patient for row in rows)
    await server.authoriser.allow(principal, "risk:read", "board.read", patients=patients, stage="page")
    names = await server.names(principal, patients)
    now_us, speed, replay = await server.time()
    shown = [named(row.html, names.get(row.patient, "")) for row in rows]
    context = {"rows": shown, "place": at, "now_us": now_us, "speed": speed, "replay": replay}
    context["learnt"] = await server.shows_learnt()
    context["troubles"] = server.board_feed.troubles
    return render(request, "board.html", context)


@router.get("/board/events")
async def board_events(request: Request, after: str = "") -> Response:
    """Send every change of the board, until the browser leaves or the session ends."""
    server: ServerState = request.app.state.server
    principal = who(request)
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
        # Whoever is on the ward now is on record at once, not each with their first change: a board that opens is one
        # record, and one more for each patient who comes.
        seen = server.board_feed.shown()
        await server.authoriser.record(principal, "board.read", patients=tuple(sorted(seen)), stage="events")
        told: set[str] = set()
        yield server.board_feed.beat()
        if names := await _names(server, principal, missed, told):
            yield names
        if missed.whole or not missed.beats:
            yield missed.event
        async for change in _following(request, subscription):
            if change.beats or change.number > missed.number:
                await _record_new(server, principal, change, seen)
                if names := await _names(server, principal, change, told):
                    yield names
                yield change.event
    except InvalidToken:
        yield OVER
    finally:
        server.board_feed.leave(subscription)


async def _following(request: Request, subscription: Subscription) -> AsyncIterator[Change]:
    """Yield what a subscription brings, as long as the session holds.

    Raises:
        InvalidToken: it does not any more.
    """
    server: ServerState = request.app.state.server
    checked = time.monotonic()
    async for change in server.board_feed.changes(subscription):
        if time.monotonic() - checked >= BEAT_SECONDS - 0.5:  # with every beat
            server.authoriser.principal(request, pages=True)
            checked = time.monotonic()
        yield change


async def _record_new(server: ServerState, principal: Principal, change: Change, seen: set[str]) -> None:
    """Put patients on record that this board has not shown yet, before it does."""
    if fresh := change.patients - seen:
        await server.authoriser.record(principal, "board.read", patients=tuple(sorted(fresh)), stage="events")
        seen |= fresh


async def _names(server: ServerState, principal: Principal, change: Change, told: set[str]) -> Event | None:
    """Return the names of patients whom this board has not been told, for who may see them; rows hold none."""
    told.difference_update(change.gone)  # a board forgets them with the row
    fresh = change.patients - told
    told |= fresh
    names = await server.names(principal, tuple(sorted(fresh)))
    return (
        Event("names", {"names": names, "ward_us": change.ward_us, "speed": server.board_feed.speed}) if names else None
    )


@router.get("/patients/{patient}")
async def patient_page(request: Request, patient: str) -> Response:
    """Show a patient: the score with its parts and reasons, trends, laboratory values; the name to who treats."""
    server: ServerState = request.app.state.server
    principal = who(request)
    try:
        chart = await _patient(server, principal, patient, "page")
    except KeyRevoked as error:  # the page stays, and says so; what is identified goes
        now_us, speed, replay = await server.time()
        shut = {"patient": patient, "why": error.what, "now_us": now_us, "speed": speed, "replay": replay}
        return render(request, "patient_locked.html", shut | {"troubles": server.board_feed.troubles})
    identity, locked = await _identity(server, principal, patient)
    now_us, speed, replay = await server.time()
    context = await server.drawing(patient_context, chart)
    context |= {"identity": identity, "locked": locked, "speed": speed, "replay": replay, "now_us": now_us}
    context["may_decide"] = principal.may("decision:write")
    context["troubles"] = server.board_feed.troubles
    return render(request, "patient.html", context)


async def _identity(server: ServerState, principal: Principal, patient: str) -> tuple[Identity | None, str]:
    """Return who a patient is, and why that cannot be told: the rest of the page does not need it."""
    if not principal.may("identity:read"):
        return None, ""
    try:
        return await server.identity(principal, patient), ""
    except AuditBroken:  # nothing may be shown that cannot be recorded
        raise
    except (PrivacyError, ServiceUnavailable) as error:
        log.error("no-name", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
        return None, error.what


@router.get("/patients/{patient}/events")
async def patient_events(request: Request, patient: str) -> Response:
    """Send the patient's page anew whenever something has changed."""
    server: ServerState = request.app.state.server
    principal = who(request)
    with suppress(KeyRevoked):  # who waits for the key is told when it is back
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
        yield OVER
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
    """Record what a clinician decides of a patient: how oxygen saturation is read, or whether they are pregnant."""
    refuse_other_sites(request)
    server: ServerState = request.app.state.server
    principal = who(request)
    form = await read_form(request)
    kind, reason = form.get("kind", ""), form.get("reason", "")
    if kind not in REASONS or reason not in REASONS[kind]:
        field = "reason" if kind in REASONS else "kind"
        raise Problem(422, f"Does not fit: {field}.", errors=[{"field": field, "problem": "missing or unknown"}])
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
