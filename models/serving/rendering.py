"""Renders pages from templates. Everything is escaped; styles and scripts are files of this server only."""

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
"""The pages and the permission that each needs; the navigation shows only pages that the user may open."""

SIGN_IN = "/sign-in"

LEAST_MOVE = 2
"""The smallest change of NEWS2 in an hour that is shown: single points fluctuate."""


def is_page(request: Request) -> bool:
    """Return whether a browser asks for a page, rather than a program for data."""
    accepts = request.headers.get("accept", "")
    return "text/html" in accepts and not request.url.path.startswith(_PROGRAMS)


def home_of(principal: Principal) -> str:
    """Return the first page that a role may see; the sign-in page if it may see none."""
    return next((path for path, _, permission in NAVIGATION if principal.may(permission)), SIGN_IN)


@cache
def environment() -> Environment:
    """Return the template environment."""
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
        "significant": words.significant,
    }
    found.globals |= {"words": words, "STALE_SECONDS": STALE_SECONDS, "LEAST_MOVE": LEAST_MOVE}
    return found


def fragment(template: str, context: Mapping[str, Any]) -> str:
    """Return a rendered template as HTML: a page, or a part of one."""
    return environment().get_template(template).render(context)


def render(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a page as a response, with the navigation of the signed-in user."""
    principal: Principal | None = getattr(request.state, "principal", None)
    links = [(path, name) for path, name, permission in NAVIGATION if principal and principal.may(permission)]
    shared: dict[str, Any] = {"principal": principal, "links": links, "here": request.url.path}
    shared |= {"replay": None, "now_us": None, "troubles": (), "zone": zone_name(), "build": build()}
    text = fragment(template, shared | dict(context))
    return Response(text, status, dict(headers or {}), "text/html; charset=utf-8")


@cache
def build() -> str:
    """Return a digest of templates and scripts; a board that was loaded from another build reloads itself."""
    digest = hashlib.sha256()
    for folder in ("static", "templates"):
        found = resources.files("models.serving") / folder
        for file in sorted(found.iterdir(), key=lambda file: file.name):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def static_folder() -> str:
    """Return the folder of scripts and styles."""
    return str(resources.files("models.serving") / "static")
