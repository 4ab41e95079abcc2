"""The page of compliance officers: who saw a patient."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response

from models.serving.authorisation import is_pseudonym, refuse_other_sites
from models.serving.forms import read_form
from models.serving.pages.session import signed_in
from models.serving.problems import Problem
from models.serving.rendering import render
from models.serving.state import ServerState
from pipelines.people.patients import Person
from vitalake.errors import VitaLakeError

router = APIRouter(include_in_schema=False)

MOST_SHOWN = 500
"""How many accesses the page lists, the newest ones. 'vitalake audit who-saw' lists all."""

ACTIONS = {
    "risk.read": "saw the risk",
    "score.write": "computed the score",
    "identity.read": "saw the name",
    "board.read": "saw the ward board",
    "page.read": "saw a page with the patient",
    "decision.write": "changed the NEWS2 settings",
    "sql.query": "queried by SQL",
    "published.read": "read published rows with a program",
    "audit.read": "checked who saw the patient",
    "denied": "was refused",
    "train": "trained a model",
    "models.approve": "approved a model for a unit",
    "models.withdraw": "withdrew a model from a unit",
    "identified.query": "queried identified rows",
    "dead-letters.replay": "replayed dead letters",
    "dead-letters.discard": "discarded dead letters",
    "patient.erase": "erased the patient",
    "patient.hold": "set or ended a legal hold",
}


@router.get("/audit")
async def audit_form(request: Request) -> Response:
    """Show the search form, and whether the audit is intact."""
    server: ServerState = request.app.state.server
    await server.authoriser.allow(signed_in(request), "audit:read", "audit.read", stage="form")
    return await _audit_page(request, None)


@router.post("/audit")
async def audit(request: Request) -> Response:
    """Show who saw a patient, found by record number or pseudonym; the search itself is recorded too."""
    refuse_other_sites(request)
    server: ServerState = request.app.state.server
    principal = signed_in(request)
    form = await read_form(request)
    key, by = form.get("key", ""), form.get("by", "")
    if by not in ("mrn", "token") or not 0 < len(key) <= 64:
        field = "key" if by in ("mrn", "token") else "by"
        raise Problem(422, f"Missing or invalid: {field}.", errors=[{"field": field, "problem": "missing or unknown"}])
    asked = await _asked(server, key, by) if principal.may("audit:read") else None
    patients = (asked.pseudonym,) if asked else ()
    await server.authoriser.allow(principal, "audit:read", "audit.read", patients=patients, stage="who-saw", by=by)
    found = await server.auditing.who_saw(asked.pseudonyms) if asked else []
    answer = {"found": found[::-1][:MOST_SHOWN], "count": len(found), "asked": asked}
    return await _audit_page(request, answer)


async def _asked(server: ServerState, key: str, by: str) -> Person | None:
    """Return the patient that is searched for; a pseudonym that the vault cannot resolve is searched for by itself.

    Raises:
        VitaLakeError: the vault cannot be opened, and the search is by record number.
    """
    if by == "mrn":
        return await server.auditing.person(key, by_number=True)
    if not is_pseudonym(key):
        return None
    found = None
    with suppress(VitaLakeError):
        found = await server.auditing.person(key, by_number=False)
    return found or Person(key, frozenset((key,)), 0)


async def _audit_page(request: Request, answer: dict[str, Any] | None) -> Response:
    server: ServerState = request.app.state.server
    checked = await server.auditing.checked()
    return render(request, "audit.html", {"checked": checked, "answer": answer, "actions": ACTIONS})
