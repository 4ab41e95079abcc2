"""Sign-in and sign-out, the first page, and who asks for a page."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from governance.access import InvalidToken, Principal
from models.serving.addresses import needs_secure_cookie
from models.serving.authorisation import COOKIE, refuse_other_sites
from models.serving.forms import read_form
from models.serving.problems import Problem
from models.serving.rendering import SIGN_IN, home_of, is_page, navigation, render
from models.serving.state import ServerState
from vitalake.errors import PrivacyError

router = APIRouter(include_in_schema=False)


class SignInFirst(Exception):
    """A browser without a session asked for a page."""


def signed_in(request: Request) -> Principal:
    """Return the principal who asks for a page.

    Raises:
        SignInFirst: a browser has no session; it is sent to the sign-in page.
        InvalidToken: a program has no valid token.
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
    """Redirect to the first page that the role may see: the board, for clinicians."""
    return RedirectResponse(home_of(request, signed_in(request)), 303)


@router.get("/sign-in")
async def sign_in_page(request: Request) -> Response:
    """Show the users of the development issuer whose role has a page."""
    server: ServerState = request.app.state.server
    users = {user: person for user, person in server.issuer.users.items() if home_of(request, person) != SIGN_IN}
    titles = {user: [title for _, title in navigation(request, person)] for user, person in users.items()}
    return render(request, "sign_in.html", {"users": users, "titles": titles})


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Start a session for one of these users."""
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
    if not token or home_of(request, server.issuer.users[user]) == SIGN_IN:  # type: ignore[index]
        raise Problem(422, "Missing or invalid: user.", errors=[{"field": "user", "problem": "no such user"}])
    principal = server.issuer.users[user]  # type: ignore[index]
    server.authoriser.sessions.end(request.cookies.get(COOKIE, ""))
    session = server.authoriser.sessions.begin(token, principal.subject)
    await server.authoriser.record(principal, "sign-in")
    answer = RedirectResponse(home_of(request, principal), 303)
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
    """Answer 204 if the browser is signed in: a refused event stream does not tell a board the reason."""
    signed_in(request)
    return Response(status_code=204)
