"""Pages from templates; everything is escaped, styles and scripts come from files of this server only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from fastapi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from governance.access import Permission, Principal
from models.serving import formatting as words
from models.serving.risk import STALE_SECONDS, iso
from models.serving.zone import clock_time, local_second, zone_name

_PROGRAMS = ("/v1/", "/fhir/", "/healthz", "/static/")

NAVIGATION: tuple[tuple[str, str, Permission], ...] = (
    ("/board", "Ward board", "risk:read"),
    ("/ledger", "Ledger", "ledger:read"),
    ("/audit", "Audit", "audit:read"),
)
"""Pages, and the permission each needs: nobody is shown a way they may not go."""

SIGN_IN = "/sign-in"

LEAST_MOVE = 2
"""NEWS2 points in an hour that are told as a move: one point goes to and fro."""


def is_page(request: Request) -> bool:
    """Return whether a person in front of a browser asked."""
    accepts = request.headers.get("accept", "")
    return "text/html" in accepts and not request.url.path.startswith(_PROGRAMS)


def home_of(principal: Principal) -> str:
    """Return the first page a role may see; that for signing in, if there is none for it."""
    return next((path for path, _, permission in NAVIGATION if principal.may(permission)), SIGN_IN)


@cache
def environment() -> Environment:
    """Return the templates."""
    found = Environment(
        loader=PackageLoader("models.serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters |= {
        "ago": words.ago,
        "brief": words.brief,
        "iso": iso,
        "clock": clock_time,
        "local_second": local_second,
        "unit": words.unit,
    }
    found.filters["significant"] = words.significant
    found.filters["local_second"] = local_second
    found.globals |= {"words": words, "STALE_SECONDS": STALE_SECONDS, "LEAST_MOVE": LEAST_MOVE}
    return found


def fragment(template: str, context: Mapping[str, Any]) -> str:
    """Return a part of a page as HTML."""
    return environment().get_template(template).render(context)


def render(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a page, with the navigation of who asked."""
    principal: Principal | None = getattr(request.state, "principal", None)
    links = [(path, name) for path, name, permission in NAVIGATION if principal and principal.may(permission)]
    shared: dict[str, Any] = {"principal": principal, "links": links, "here": request.url.path}
    shared |= {"replay": None, "now_us": None, "troubles": (), "zone": zone_name(), "build": build()}
    text = fragment(template, shared | dict(context))
    return Response(text, status, dict(headers or {}), "text/html; charset=utf-8")


@cache
def build() -> str:
    """Return what templates and scripts are served: a board that was loaded from others loads itself again."""
    digest = hashlib.sha256()
    for folder in ("static", "templates"):
        found = resources.files("models.serving") / folder
        for file in sorted(found.iterdir(), key=lambda file: file.name):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def static_folder() -> str:
    """Return where scripts and styles lie."""
    return str(resources.files("models.serving") / "static")
