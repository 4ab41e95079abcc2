"""Renders pages from templates. Everything is escaped; styles and scripts are files of this server only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from fastapi import Request, Response
from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined

from governance.access import Principal
from models.serving import formatting as words
from models.serving.pages.base import Addressed
from models.serving.risk import STALE_SECONDS, iso
from models.serving.zone import clock_time, local_second, zone_name

_PROGRAMS = ("/v1/", "/fhir/", "/healthz", "/static/")

SIGN_IN = "/sign-in"

LEAST_MOVE = 2
"""The smallest change of NEWS2 in an hour that is shown: single points fluctuate."""


def is_page(request: Request) -> bool:
    """Return whether a browser asks for a page, rather than a program for data."""
    accepts = request.headers.get("accept", "")
    return "text/html" in accepts and not request.url.path.startswith(_PROGRAMS)


def navigation(request: Request, principal: Principal) -> list[tuple[str, str]]:
    """Return path and title of every page that a role may open, in their order."""
    pages: tuple[Addressed, ...] = request.app.state.pages
    return [(page.path, page.title) for page in pages if page.in_navigation and principal.may(page.permission)]


def home_of(request: Request, principal: Principal) -> str:
    """Return the first page that a role may see; the sign-in page if it may see none."""
    return next((path for path, _ in navigation(request, principal)), SIGN_IN)


class _Templates(BaseLoader):
    """Finds ``FILE`` in the project's folder of templates, and ``PACKAGE:FILE`` in that of another package."""

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool] | None]:
        """Return the source of a template, its file, and whether it has stayed the same.

        Raises:
            TemplateNotFound, ImportError, ValueError: no such file, no such package, or it has no folder of templates.
        """
        package, _, file = template.rpartition(":")
        return _folder(package or "models.serving").get_source(environment, file)


@cache
def _folder(package: str) -> PackageLoader:
    return PackageLoader(package)


@cache
def environment() -> Environment:
    """Return the template environment."""
    found = Environment(
        loader=_Templates(),
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
    links = navigation(request, principal) if principal else []
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
