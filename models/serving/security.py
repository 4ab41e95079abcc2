"""The outermost layer: security headers, allowed hosts and sizes, and errors that reveal nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.serving.connections import BODY_SECONDS
from models.serving.problems import PROBLEM, BodyRefused, Problem, problem_response

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

MOST_BYTES = 16_384
"""The limit of a request's body. The longest legitimate one is a pseudonym of about forty characters and its field."""


class SecurityMiddleware:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, *, names: frozenset[str]) -> None:
        """Prepare.

        Args:
            app: the application.
            names: the host names of this server. Others are refused, because a page of another site could point its
                name here (DNS rebinding), and signing in needs no password.
        """
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, pass it on, and add the headers to its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                static = scope["path"].startswith("/static/")
                headers["cache-control"] = "no-cache" if static else "no-store"
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await problem_response(Request(scope), refused)(scope, receive, guarded)
            return
        try:
            await self._app(scope, _Limited(receive), guarded)
        except ClientDisconnect:  # the client has left
            return
        except Exception as error:  # its text may contain a value: only its type is logged
            log.error("bug", extra={"reason": type(error).__qualname__, "where": _frame(error)})
            if begun:
                return
            await Response(_BUG, 500, media_type=PROBLEM)(scope, receive, guarded)

    def _refused(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._names:
            return Problem(421, "This server answers only under its own address.")
        length = headers.get("content-length", "0")
        return _too_large() if not length.isdecimal() or int(length) > MOST_BYTES else None


_BUG = (
    b'{"type":"urn:vitalake:problem:internal-error","title":"Internal error","status":500,'
    b'"detail":"An internal error occurred and was logged."}'
)
"""It needs no template, because a template may be what failed."""


class _Limited:
    """Receives a body, and refuses it if it grows too long (as one sent in chunks can) or comes too slowly."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._bytes, self._whole = receive, 0, False
        self._until = asyncio.get_running_loop().time() + BODY_SECONDS

    async def __call__(self) -> Message:
        try:
            # After the body only the message that the browser has left can come, which may take hours.
            async with asyncio.timeout_at(None if self._whole else self._until):
                message = await self._receive()
        except TimeoutError:
            raise BodyRefused(_too_slow()) from None
        self._whole = not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BYTES:
            raise BodyRefused(_too_large())
        return message


def _too_large() -> Problem:
    return Problem(413, f"A request's body may have at most {MOST_BYTES} bytes.")


def _too_slow() -> Problem:
    return Problem(408, f"A request's body must arrive within {BODY_SECONDS:g} seconds.")


def _frame(error: BaseException) -> str:
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else ""
