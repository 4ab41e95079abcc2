"""Who asks, whether they may, and the record of it, written before anything is answered."""

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
"""Five hundred boards may be one account's, and be signed in again."""

UNUSED_SECONDS = 60.0
"""A browser shows its cookie at once."""

SIGN_INS = (1.0, 60)
"""A second and at once, of one user from one address: each is a record of the audit."""

_PSEUDONYM = re.compile(r"v\d{1,6}\.[a-z2-7]{32}")


@dataclass(slots=True)
class _Session:
    token: str
    user: str
    begun: float
    asked: float
    used: bool = False


def is_pseudonym(text: str) -> bool:
    """Return whether a text has the form of a patient's pseudonym; nothing else is looked up or recorded."""
    return _PSEUDONYM.fullmatch(text) is not None


class Sessions:
    """Sign-ins of browsers: the cookie is a random number, the token stays here and ends with the sign-out.

    Nobody's session ends because others sign in. A user has at most so many: one more ends the one of theirs that was
    never shown, or else not for the longest time, so that sessions in a user's name keep nobody out. Who signs in and
    never shows the cookie again has none after a minute.
    """

    def __init__(self, *, minutes: int = 480, seconds: Callable[[], float] = time.monotonic) -> None:
        """Prepare.

        Args:
            minutes: a session is forgotten so long after its sign-in, as its token has expired.
            seconds: a clock that only runs forward.
        """
        self._minutes, self._seconds = minutes, seconds
        self._sessions: dict[str, _Session] = {}
        self._of: Counter[str] = Counter()

    def begin(self, token: str, user: str) -> str:
        """Return the cookie of a new session.

        Raises:
            Problem: everybody together has as many as there may be.
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
        """Return the token of a session; None: it is over."""
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
    """Lets requests in."""

    def __init__(self, verifier: TokenVerifier, recorder: Recorder, serving: ServingSettings) -> None:
        """Take what it needs.

        Args:
            verifier: tells who a token speaks of.
            recorder: records every access.
            serving: how long sessions are, and how often somebody may ask.
        """
        self._verifier, self._recorder = verifier, recorder
        self.sessions = Sessions(minutes=serving.session_minutes)
        self.sign_ins = Rate(SIGN_INS[0], burst=SIGN_INS[1])
        self._requests = Rate(serving.requests_per_second, burst=2 * serving.requests_per_second)

    def principal(self, request: Request, *, pages: bool = False) -> Principal:
        """Return who asks: by bearer token, on pages also by the session's cookie.

        Programs get no way in by cookie, so that no other site can make a browser use the API.

        Raises:
            InvalidToken: nobody we know.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return self._verifier.verify(token.strip())
        held = self.sessions.token(request.cookies.get(COOKIE, "")) if pages else None
        if held is None:
            raise InvalidToken("Access token is missing", where="request", remedy="Sign in.")
        return self._verifier.verify(held)

    def count(self, principal: Principal) -> None:
        """Count a request.

        Raises:
            Problem: there are too many of this user.
        """
        self._requests.take(principal.subject, "This user asks more often than serving.requests_per_second allows.")

    async def allow(
        self,
        principal: Principal,
        permission: Permission,
        action: Action,
        *,
        patients: tuple[str, ...] = (),
        **detail: str,
    ) -> None:
        """Return when the principal may, and that they do is on record.

        Raises:
            MissingPermission: they may not; that is on record too.
            VitaLakeError: it cannot be recorded.
        """
        await self.permit(principal, permission, patients=patients)
        await self.record(principal, action, patients=patients, **detail)

    async def permit(self, principal: Principal, permission: Permission, *, patients: tuple[str, ...] = ()) -> None:
        """Return when the principal may; only a refusal is recorded, for what is asked is of no patient.

        Raises:
            MissingPermission: they may not.
        """
        try:
            require(principal, permission)
        except MissingPermission:
            await self.record(principal, "denied", patients=patients, permission=permission)
            raise

    async def record(
        self, principal: Principal, action: Action, *, patients: tuple[str, ...] = (), **detail: str
    ) -> None:
        """Return when an event is on record.

        Raises:
            VitaLakeError: it cannot be recorded; nothing may be answered then.
        """
        event = AuditEvent(action, principal.subject, principal.role, patients, detail)
        await self._recorder.record(event)


def refuse_other_sites(request: Request) -> None:
    """Return if a form was sent from a page of ours.

    Raises:
        Problem: it comes from somewhere else. SameSite keeps the cookie away from other sites; this also keeps other
            sites from signing somebody in, and other ports of this machine out.
    """
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:
        # Browsers say it themselves to this machine and over TLS. Origin says nothing then: our own pages tell no
        # referrer, and so it is null.
        same = fetched in ("same-origin", "none")
    else:
        origin = request.headers.get("origin")
        same = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not same:
        raise Problem(403, "The form was not sent from a page of this server.")
