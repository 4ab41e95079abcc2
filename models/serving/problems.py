"""Problems as RFC 9457 says: what is wrong and where, never what was sent."""

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
    422: "Request does not fit",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
}

RETRY_SECONDS = 10
"""After a service or a disk refused."""

FIELDS = frozenset({"patient", "user", "by", "key", "body"})
"""Names a problem may mention; whatever else a request calls a field is not repeated."""


class Problem(Exception):
    """An answer that is none.

    Attributes:
        status: of HTTP.
        detail: a sentence of ours.
        retry_after: seconds until it is worth trying again; 0: not said.
        more: further members.
    """

    def __init__(self, status: int, detail: str, *, retry_after: int = 0, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after, self.more = status, detail, retry_after, more


class BodyRefused(HTTPException):
    """A body is too long, or does not come. FastAPI takes other exceptions while it reads one for a form of its own."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.detail)
        self.problem = problem


def not_found() -> Problem:
    """Return the answer to an id that leads nowhere, whatever its form."""
    return Problem(404, "Nothing is here, or nothing is known of it.")


def problem_response(request: Request, problem: Problem) -> Response:
    """Return a problem as a document, or as a page for who asked for a page."""
    title = TITLES.get(problem.status, "Problem")
    headers = {"www-authenticate": CHALLENGE} if problem.status == 401 else {}
    if problem.retry_after:
        headers["retry-after"] = str(problem.retry_after)
    if problem.status == 408:  # what still comes of the request would be taken for another
        headers["connection"] = "close"
    if is_page(request):
        return render(
            request, "problem.html", {"title": title, "problem": problem}, status=problem.status, headers=headers
        )
    kind = f"urn:vitalake:problem:{title.lower().replace(' ', '-')}"
    document = {"type": kind, "title": title, "status": problem.status, "detail": problem.detail} | problem.more
    return Response(msgspec.json.encode(document), problem.status, headers, PROBLEM)


def install(app: FastAPI) -> None:
    """Let every failure become a problem."""

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
        found = [
            {"field": _field(entry["loc"]), "problem": str(entry["type"]).replace("_", " ")} for entry in error.errors()
        ]
        detail = f"Does not fit: {', '.join(sorted({entry['field'] for entry in found}))}."
        return problem_response(request, Problem(422, detail, errors=found))

    @app.exception_handler(VitaLakeError)
    async def _(request: Request, error: VitaLakeError) -> Response:
        return problem_response(request, to_problem(error))


def to_problem(error: VitaLakeError) -> Problem:
    """Return the problem that an error of ours is; what only operators need goes to the log."""
    if isinstance(error, MissingPermission):
        return Problem(403, f"{error.what}: {error.permission}. {error.remedy}", permission=error.permission)
    if isinstance(error, InvalidToken):
        return Problem(401, "The access token is missing or not accepted.")
    log.error("refused", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
    wait = RETRY_SECONDS if error.transient else 0
    return Problem(503, f"{error.what}. Nothing is shown until that is put right.", retry_after=wait)


def _field(place: tuple[int | str, ...]) -> str:
    """Return the innermost name of ours; a name the sender chose is not one."""
    return next((str(part) for part in reversed(place) if part in FIELDS), "body")
