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
from models.serving.state import Place
from models.serving.ward import Chart
from pipelines.online_store.facts import ENDING, REASONS, Decision
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
    place: Place = request.app.state.place
    try:
        principal = place.gate.principal(request, pages=True)
    except InvalidToken:
        if is_page(request) and request.method == "GET":
            raise SignInFirst from None
        raise
    request.state.principal = principal
    place.gate.count(principal)
    return principal


@router.get("/")
async def first(request: Request) -> Response:
    """Lead to the first page the role may see: the board, for who treats patients."""
    return RedirectResponse(home_of(who(request)), 303)


@router.get("/sign-in")
async def sign_in_page(request: Request) -> Response:
    """Show the users of the development issuer who have pages."""
    place: Place = request.app.state.place
    users = {user: person for user, person in place.issuer.users.items() if home_of(person) != SIGN_IN}
    return render(request, "sign_in.html", {"users": users})


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Begin a session for one of them."""
    refuse_other_sites(request)
    place: Place = request.app.state.place
    user = (await read_form(request)).get("user", "")
    address = request.client.host if request.client else ""
    if user in place.issuer.users:
        place.gate.sign_ins.take(f"{user}\n{address}", "This user signs in too often from this address.")
    try:
        token = place.issuer.sign_in(user)
    except PrivacyError:
        token = ""
    if not token or home_of(place.issuer.users[user]) == SIGN_IN:  # type: ignore[index]
        raise Problem(422, "Does not fit: user.", errors=[{"field": "user", "problem": "no such user"}])
    principal = place.issuer.users[user]  # type: ignore[index]
    place.gate.sessions.end(request.cookies.get(COOKIE, ""))
    session = place.gate.sessions.begin(token, principal.subject)
    await place.gate.record(principal, "sign-in")
    answer = RedirectResponse(home_of(principal), 303)
    answer.set_cookie(
        COOKIE,
        session,
        max_age=place.settings.serving.session_minutes * 60,
        httponly=True,
        samesite="strict",
        secure=needs_secure_cookie(request.url.scheme, request.url.hostname or "", place.settings.serving.host),
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session."""
    refuse_other_sites(request)
    place: Place = request.app.state.place
    place.gate.sessions.end(request.cookies.get(COOKIE, ""))
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
    place: Place = request.app.state.place
    principal = who(request)
    at, rows = place.watch.place, await place.watch.rows() if principal.may("risk:read") else []
    patients = tuple(row.patient for row in rows)
    await place.gate.allow(principal, "risk:read", "board.read", patients=patients, stage="page")
    names = await place.names(principal, patients)
    now_us, speed, replay = await place.time()
    shown = [named(row.html, names.get(row.patient, "")) for row in rows]
    context = {"rows": shown, "place": at, "now_us": now_us, "speed": speed, "replay": replay}
    context["learnt"] = await place.shows_learnt()
    context["troubles"] = place.watch.troubles
    return render(request, "board.html", context)


@router.get("/board/events")
async def board_events(request: Request, after: str = "") -> Response:
    """Send every change of the board, until the browser leaves or the session ends."""
    place: Place = request.app.state.place
    principal = who(request)
    await place.gate.allow(principal, "risk:read", "board.read", stage="events")
    subscription = _subscribe(place, principal)
    events = _board_events(request, principal, request.headers.get("last-event-id") or after, subscription)
    return stream(request, events)


def _subscribe(place: Place, principal: Principal) -> Subscription:
    return place.watch.subscribe(principal.subject, most=place.settings.serving.most_boards)


async def _board_events(
    request: Request, principal: Principal, after: str, subscription: Subscription
) -> AsyncIterator[Event]:
    place: Place = request.app.state.place
    try:
        await place.watch.rows()
        now_us, _, _ = await place.time()
        missed = place.watch.since(after, now_us)
        # Whoever is on the ward now is on record at once, not each with their first change: a board that opens is one
        # record, and one more for each patient who comes.
        seen = place.watch.shown()
        await place.gate.record(principal, "board.read", patients=tuple(sorted(seen)), stage="events")
        told: set[str] = set()
        yield place.watch.beat()
        if names := await _names(place, principal, missed, told):
            yield names
        if missed.whole or not missed.beats:
            yield missed.event
        async for change in _following(request, subscription):
            if change.beats or change.number > missed.number:
                await _record_new(place, principal, change, seen)
                if names := await _names(place, principal, change, told):
                    yield names
                yield change.event
    except InvalidToken:
        yield OVER
    finally:
        place.watch.leave(subscription)


async def _following(request: Request, subscription: Subscription) -> AsyncIterator[Change]:
    """Yield what a subscription brings, as long as the session holds.

    Raises:
        InvalidToken: it does not any more.
    """
    place: Place = request.app.state.place
    checked = time.monotonic()
    async for change in place.watch.changes(subscription):
        if time.monotonic() - checked >= BEAT_SECONDS - 0.5:  # with every beat
            place.gate.principal(request, pages=True)
            checked = time.monotonic()
        yield change


async def _record_new(place: Place, principal: Principal, change: Change, seen: set[str]) -> None:
    """Put patients on record that this board has not shown yet, before it does."""
    if fresh := change.patients - seen:
        await place.gate.record(principal, "board.read", patients=tuple(sorted(fresh)), stage="events")
        seen |= fresh


async def _names(place: Place, principal: Principal, change: Change, told: set[str]) -> Event | None:
    """Return the names of patients whom this board has not been told, for who may see them; rows hold none."""
    told.difference_update(change.gone)  # a board forgets them with the row
    fresh = change.patients - told
    told |= fresh
    names = await place.names(principal, tuple(sorted(fresh)))
    return Event("names", {"names": names, "ward_us": change.ward_us, "speed": place.watch.speed}) if names else None


@router.get("/patients/{patient}")
async def patient_page(request: Request, patient: str) -> Response:
    """Show a patient: the score with its parts and reasons, trends, laboratory values; the name to who treats."""
    place: Place = request.app.state.place
    principal = who(request)
    try:
        chart = await _patient(place, principal, patient, "page")
    except KeyRevoked as error:  # the page stays, and says so; what is identified goes
        now_us, speed, replay = await place.time()
        shut = {"patient": patient, "why": error.what, "now_us": now_us, "speed": speed, "replay": replay}
        return render(request, "patient_locked.html", shut | {"troubles": place.watch.troubles})
    identity, locked = await _identity(place, principal, patient)
    now_us, speed, replay = await place.time()
    context = await place.drawing(patient_context, chart)
    context |= {"identity": identity, "locked": locked, "speed": speed, "replay": replay, "now_us": now_us}
    context["may_decide"] = principal.may("decision:write")
    context["troubles"] = place.watch.troubles
    return render(request, "patient.html", context)


async def _identity(place: Place, principal: Principal, patient: str) -> tuple[Identity | None, str]:
    """Return who a patient is, and why that cannot be told: the rest of the page does not need it."""
    if not principal.may("identity:read"):
        return None, ""
    try:
        return await place.identity(principal, patient), ""
    except AuditBroken:  # nothing may be shown that cannot be recorded
        raise
    except (PrivacyError, ServiceUnavailable) as error:
        log.error("no-name", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
        return None, error.what


@router.get("/patients/{patient}/events")
async def patient_events(request: Request, patient: str) -> Response:
    """Send the patient's page anew whenever something has changed."""
    place: Place = request.app.state.place
    principal = who(request)
    with suppress(KeyRevoked):  # who waits for the key is told when it is back
        await _patient(place, principal, patient, "events")
    return stream(request, _patient_events(request, patient, _subscribe(place, principal)))


async def _patient_events(request: Request, patient: str, subscription: Subscription) -> AsyncIterator[Event]:
    place: Place = request.app.state.place
    try:
        yield await _patient_event(place, patient)  # what has changed since the page was made
        async for change in _following(request, subscription):
            if change.beats:
                yield change.event
            elif patient in change.patients or patient in change.gone:
                yield await _patient_event(place, patient)
    except InvalidToken:
        yield OVER
    finally:
        place.watch.leave(subscription)


async def _patient_event(place: Place, patient: str) -> Event:
    chart, locked = None, False
    try:
        chart = await place.chart(patient)
    except KeyRevoked:
        locked = True
    now_us, speed, _ = await place.time()
    document: dict[str, Any] = {"patient": patient, "ward_us": now_us, "speed": speed, "html": "", "locked": locked}
    if chart is not None:
        document |= {"revision": chart.revision, "newest_us": chart.record.newest_us}
        document["html"] = await place.drawing(patient_now, chart)
    return Event("patient", document)


@router.post("/patients/{patient}/decisions")
async def decide(request: Request, patient: str) -> Response:
    """Record what a clinician decides of a patient: how oxygen saturation is read, or whether they are pregnant."""
    refuse_other_sites(request)
    place: Place = request.app.state.place
    principal = who(request)
    form = await read_form(request)
    kind, reason = form.get("kind", ""), form.get("reason", "")
    if kind not in REASONS or reason not in REASONS[kind]:
        field = "reason" if kind in REASONS else "kind"
        raise Problem(422, f"Does not fit: {field}.", errors=[{"field": field, "problem": "missing or unknown"}])
    known = is_pseudonym(patient)
    holds = reason not in ENDING
    detail = {"kind": kind, "holds": "yes" if holds else "no", "reason": reason}
    await place.gate.allow(
        principal, "decision:write", "decision.write", patients=(patient,) if known else (), **detail
    )
    chart = await place.chart(patient) if known else None
    if chart is None:
        raise not_found()
    encounter = chart.stay.encounter if chart.stay else ""
    decision = Decision(kind, holds, encounter, principal.subject, clock.now_us(), reason)
    await place.decide(patient, decision)
    return RedirectResponse(f"/patients/{patient}", 303)


async def _patient(place: Place, principal: Principal, patient: str, stage: str) -> Chart:
    known = is_pseudonym(patient)
    patients = (patient,) if known else ()
    await place.gate.allow(principal, "risk:read", "risk.read", patients=patients, stage=stage)
    chart = await place.chart(patient) if known else None
    if chart is None:
        raise not_found()
    return chart
