"""Authenticates and authorises requests, and records each access before it is answered."""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request

from governance.access import InvalidToken, MissingPermission, Permission, Principal, TokenVerifier, require
from governance.audit import Action, AuditEvent
from models.serving.limits import Rate
from models.serving.problems import Problem
from models.serving.recorder import Recorder
from vitalake.settings import ServingSettings

COOKIE = "vitalake_session"
MOST_SESSIONS = 10_000
MOST_OF_A_USER = 1_000
"""Five hundred boards can share one account, and all can sign in a second time."""

UNUSED_SECONDS = 60.0
"""A session whose cookie was not used for this long after sign-in may be removed: browsers send it at once."""

SIGN_INS = (1.0, 60)
"""Sign-ins a second, and at once, of one user from one address; limited because each writes an audit record."""

_PSEUDONYM = re.compile(r"v\d{1,6}\.[a-z2-7]{32}")


@dataclass(slots=True)
class _Session:
    token: str
    user: str
    begun: float
    asked: float
    used: bool = False


def is_pseudonym(text: str) -> bool:
    """Return whether a text has the form of a patient's pseudonym; other texts are neither looked up nor recorded."""
    return _PSEUDONYM.fullmatch(text) is not None


class Sessions:
    """The sessions of browsers: the cookie is a random number; the token stays in the server until sign-out.

    No session ends because other users sign in. A user has at most MOST_OF_A_USER sessions; one more ends the user's
    session whose cookie was never used, or else the least recently used one, so that the limit locks no user out. A
    session whose cookie is never used can be removed after UNUSED_SECONDS.
    """

    def __init__(self, *, minutes: int = 480, seconds: Callable[[], float] = time.monotonic) -> None:
        """Prepare.

        Args:
            minutes: how long after its sign-in a session is kept; its token has expired by then.
            seconds: a clock that only runs forward.
        """
        self._minutes, self._seconds = minutes, seconds
        self._sessions: dict[str, _Session] = {}
        self._of: Counter[str] = Counter()

    def begin(self, token: str, user: str) -> str:
        """Return the cookie of a new session.

        Raises:
            Problem: there are MOST_SESSIONS sessions already.
        """
        if self._of[user] >= MOST_OF_A_USER or len(self._sessions) >= MOST_SESSIONS:
            self._tidy()
        if self._of[user] >= MOST_OF_A_USER:
            self._end_one_of(user)
        if len(self._sessions) >= MOST_SESSIONS:
            raise Problem(503, "Too many people are signed in.", retry_after=int(UNUSED_SECONDS))
        session, now = secrets.token_urlsafe(32), self._seconds()
        self._sessions[session] = _Session(token, user, now, now)
        self._of[user] += 1
        return session

    def token(self, session: str) -> str | None:
        """Return the token of a session; None: it has ended."""
        found = self._sessions.get(session)
        if found is None:
            return None
        found.used, found.asked = True, self._seconds()
        return found.token

    def end(self, session: str) -> None:
        """End a session."""
        if found := self._sessions.pop(session, None):
            self._of[found.user] -= 1

    def _end_one_of(self, user: str) -> None:
        theirs = ((found.used, found.asked, session) for session, found in self._sessions.items() if found.user == user)
        self.end(min(theirs)[2])

    def _tidy(self) -> None:
        now = self._seconds()
        for session, found in list(self._sessions.items()):
            if now - found.begun > (self._minutes * 60 if found.used else UNUSED_SECONDS):
                self.end(session)


class Authoriser:
    """Authenticates requests, checks permissions and records accesses."""

    def __init__(self, verifier: TokenVerifier, recorder: Recorder, serving: ServingSettings) -> None:
        """Prepare.

        Args:
            verifier: verifies tokens.
            recorder: records every access.
            serving: the length of sessions and the rate limits.
        """
        self._verifier, self._recorder = verifier, recorder
        self.sessions = Sessions(minutes=serving.session_minutes)
        self.sign_ins = Rate(SIGN_INS[0], burst=SIGN_INS[1])
        self._requests = Rate(serving.requests_per_second, burst=2 * serving.requests_per_second)

    def principal(self, request: Request, *, pages: bool = False) -> Principal:
        """Return the principal of a request: by bearer token, on pages also by the session's cookie.

        The API does not accept the cookie, so that no other site can make a browser use it.

        Raises:
            InvalidToken: there is no valid token or session.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return self._verifier.verify(token.strip())
        session_token = self.sessions.token(request.cookies.get(COOKIE, "")) if pages else None
        if session_token is None:
            raise InvalidToken("Access token is missing", where="request", remedy="Sign in.")
        return self._verifier.verify(session_token)

    def count(self, principal: Principal) -> None:
        """Count a request against the user's rate limit.

        Raises:
            Problem: the user sends too many.
        """
        self._requests.take(principal.subject, "This user sends more requests than serving.requests_per_second allows.")

    async def allow(
        self,
        principal: Principal,
        permission: Permission,
        action: Action,
        *,
        patients: tuple[str, ...] = (),
        **detail: str,
    ) -> None:
        """Return if the principal has the permission, after the access is recorded.

        Raises:
            MissingPermission: they do not have it; the refusal is recorded too.
            VitaLakeError: the access cannot be recorded.
        """
        await self.permit(principal, permission, patients=patients)
        await self.record(principal, action, patients=patients, **detail)

    async def permit(self, principal: Principal, permission: Permission, *, patients: tuple[str, ...] = ()) -> None:
        """Return if the principal has the permission; only a refusal is recorded.

        Raises:
            MissingPermission: they do not have it.
        """
        try:
            require(principal, permission)
        except MissingPermission:
            await self.record(principal, "denied", patients=patients, permission=permission)
            raise

    async def record(
        self, principal: Principal, action: Action, *, patients: tuple[str, ...] = (), **detail: str
    ) -> None:
        """Record an event durably.

        Raises:
            VitaLakeError: it cannot be recorded; then the request must not be answered.
        """
        event = AuditEvent(action, principal.subject, principal.role, patients, detail)
        await self._recorder.record(event)


def refuse_other_sites(request: Request) -> None:
    """Return if a form was sent from a page of this server.

    SameSite cookies already stop other sites from using a session. This check also stops other sites from signing a
    browser in, and pages of other ports of this machine.

    Raises:
        Problem: the form comes from another site.
    """
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:
        # Browsers send this header over TLS and to this machine. Origin is no help then: our pages have the policy
        # no-referrer, so it is "null".
        same = fetched in ("same-origin", "none")
    else:
        origin = request.headers.get("origin")
        same = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not same:
        raise Problem(403, "The form was not sent from a page of this server.")
