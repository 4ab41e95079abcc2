"""Who asks, whether they may, and the record of it, written before anything is answered."""

from __future__ import annotations

import re
import secrets
from urllib.parse import urlsplit

from fastapi import Request

from governance.access import InvalidToken, MissingPermission, Permission, Principal, TokenVerifier, require
from governance.audit import Action, AuditEvent
from models.serving.problems import Problem
from models.serving.recorder import Recorder

COOKIE = "vitalake_session"
MOST_SESSIONS = 1000
_PSEUDONYM = re.compile(r"v\d{1,6}\.[a-z2-7]{32}")


def is_pseudonym(text: str) -> bool:
    """Return whether a text has the form of a patient's pseudonym; nothing else is looked up or recorded."""
    return _PSEUDONYM.fullmatch(text) is not None


class Sessions:
    """Sign-ins of browsers: the cookie is a random number, the token stays here and ends with the sign-out."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    def begin(self, token: str) -> str:
        """Return the cookie of a new session; of too many the oldest ends."""
        while len(self._tokens) >= MOST_SESSIONS:
            self._tokens.pop(next(iter(self._tokens)))
        session = secrets.token_urlsafe(32)
        self._tokens[session] = token
        return session

    def token(self, session: str) -> str | None:
        """Return the token of a session; None: it is over."""
        return self._tokens.get(session)

    def end(self, session: str) -> None:
        """End a session."""
        self._tokens.pop(session, None)


class Gate:
    """Lets requests in."""

    def __init__(self, verifier: TokenVerifier, recorder: Recorder) -> None:
        """Take what it needs.

        Args:
            verifier: tells who a token speaks of.
            recorder: records every access.
        """
        self._verifier, self._recorder = verifier, recorder
        self.sessions = Sessions()

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
