"""Problem documents (RFC 9457): what is wrong and where, never the value that was sent."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from governance.access import InvalidToken, MissingPermission
from models.serving.rendering import is_page, render
from vitalake.errors import VitaLakeError

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
CHALLENGE = 'Bearer realm="vitalake"'

TITLES = {
    400: "Bad request",
    401: "Sign in first",
    403: "Permission missing",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    413: "Request too large",
    421: "Wrong host",
    422: "Request does not fit",  # titles are part of the problem type, so they stay
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
}

RETRY_SECONDS = 10
"""Clients should wait this long after a service or a disk has failed."""

FIELDS = frozenset({"patient", "user", "by", "key", "body"})
"""Field names that a problem may mention. Other names come from the sender and are not repeated."""


class Problem(Exception):
    """A request that is answered with a problem document.

    Attributes:
        status: HTTP status.
        detail: a sentence written by us, never a text of the sender.
        retry_after: seconds to wait before trying again; 0: no advice.
        more: further members of the document.
    """

    def __init__(self, status: int, detail: str, *, retry_after: int = 0, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after, self.more = status, detail, retry_after, more


class BodyRefused(HTTPException):
    """A body that is too long or does not arrive.

    It is an HTTPException because FastAPI turns any other exception while it reads a body into an error of its own.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.detail)
        self.problem = problem


def not_found() -> Problem:
    """Return the problem for an unknown address or patient, the same for all of them."""
    return Problem(404, "Nothing was found under this address or pseudonym.")


def problem_response(request: Request, problem: Problem) -> Response:
    """Return a problem as a JSON document, or as a page if a browser asked."""
    title = TITLES.get(problem.status, "Problem")
    headers = {"www-authenticate": CHALLENGE} if problem.status == 401 else {}
    if problem.retry_after:
        headers["retry-after"] = str(problem.retry_after)
    if problem.status == 408:  # the rest of the request would be read as the next one
        headers["connection"] = "close"
    if is_page(request):
        return render(
            request, "problem.html", {"title": title, "problem": problem}, status=problem.status, headers=headers
        )
    kind = f"urn:vitalake:problem:{title.lower().replace(' ', '-')}"
    document = {"type": kind, "title": title, "status": problem.status, "detail": problem.detail} | problem.more
    return Response(msgspec.json.encode(document), problem.status, headers, PROBLEM)


def install(app: FastAPI) -> None:
    """Register handlers that turn every failure into a problem."""

    @app.exception_handler(Problem)
    async def _(request: Request, error: Problem) -> Response:
        return problem_response(request, error)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        if isinstance(error, BodyRefused):
            return problem_response(request, error.problem)
        if error.status_code == 404:
            return problem_response(request, not_found())
        return problem_response(request, Problem(error.status_code, "The request cannot be answered."))

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"field": _field(entry["loc"]), "problem": str(entry["type"]).replace("_", " ")} for entry in error.errors()
        ]
        detail = f"Missing or invalid: {', '.join(sorted({entry['field'] for entry in errors}))}."
        return problem_response(request, Problem(422, detail, errors=errors))

    @app.exception_handler(VitaLakeError)
    async def _(request: Request, error: VitaLakeError) -> Response:
        return problem_response(request, to_problem(error))


def to_problem(error: VitaLakeError) -> Problem:
    """Return the problem for an error of vitalake; the place and the remedy go to the log for operators."""
    if isinstance(error, MissingPermission):
        return Problem(403, f"{error.what}: {error.permission}. {error.remedy}", permission=error.permission)
    if isinstance(error, InvalidToken):
        return Problem(401, "The access token is missing or not accepted.")
    log.error("refused", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
    wait = RETRY_SECONDS if error.transient else 0
    return Problem(503, f"{error.what}. No patient data are shown until this is fixed.", retry_after=wait)


def _field(location: tuple[int | str, ...]) -> str:
    """Return the innermost field name that is one of FIELDS; a name that the sender chose is left out."""
    return next((str(part) for part in reversed(location) if part in FIELDS), "body")
