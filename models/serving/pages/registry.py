"""Finds the pages that installed packages register as entry points of the group ``vitalake.pages``."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from typing import get_args

from governance.access import Permission
from models.serving.pages.base import PATIENT, Addressed, Page, Patients, RoutedPage
from vitalake import plugins
from vitalake.errors import SettingsError

GROUP = "vitalake.pages"

OURS = ("board", "ledger", "audit")
"""The project's pages, which every installation has, in their order in the navigation."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_PATH = re.compile(r"/[a-z][a-z0-9-]{0,40}(/\{patient\})?")

_SERVER = frozenset({"v1", "fhir", "healthz", "static", "session", "sign-in", "sign-out", "metrics"})
"""First parts of paths that the server itself answers or may come to answer. The routes of our pages come on top."""


def registered_pages() -> tuple[Addressed, ...]:
    """Return every registered page: the project's, then those of other packages by name.

    Raises:
        SettingsError: one of the project's pages is missing; or another package's cannot be loaded, is not a Page, is
            not valid, or has a path under which a page of the server, or of another package, is found.
    """
    entries = plugins.registered(GROUP)
    if missing := [name for name in OURS if name not in entries]:
        raise SettingsError(
            "A page is not registered",
            where=f"entry points {GROUP}: {', '.join(missing)}",
            remedy="Install vitalake again ('make setup').",
        )
    pages = [_loaded(entries[name]) for name in OURS]
    owners = dict.fromkeys(_taken(pages), "vitalake")
    for entry in (entry for name, entry in entries.items() if name not in OURS):
        page = _loaded(entry)
        if problem := problem_of(page) or _shadows(page, pages, owners, entry):
            raise plugins.unusable(entry, problem)
        owners[first_part(page.path)] = _owner(entry)
        pages.append(page)
    return tuple(pages)


def problem_of(page: Addressed) -> str:
    """Return what is wrong with a page of another package by itself, as in ``has no title``; empty: nothing."""
    if not isinstance(page, Page):
        return "has routes of its own, which do not go through the server's checks"
    if not _NAME.fullmatch(page.name):
        return "has a name that is not of small letters, digits and hyphens"
    if not _PATH.fullmatch(page.path):
        return "has a path that is neither /NAME nor /NAME/{patient}, in lower case"
    if page.permission not in get_args(Permission):
        return "needs a permission that does not exist"
    if page.patients not in get_args(Patients) or (page.patients == "one") != page.path.endswith(PATIENT):
        return "says that it is about one patient and has no {patient} at the end of its path, or the other way round"
    if not page.title or not page.description:
        return "has no title, or no description"
    return ""


def first_part(path: str) -> str:
    """Return what stands between the first two slashes of a path."""
    return path.split("/")[1]


def _taken(pages: list[Addressed]) -> set[str]:
    """Return the first part of every path that the server answers, with the project's pages."""
    routers = [page.router() for page in pages if isinstance(page, RoutedPage)]
    routed = {str(getattr(route, "path", "/")) for router in routers for route in router.routes}
    return set(_SERVER) | {first_part(path) for path in (*routed, *(page.path for page in pages))}


def _shadows(page: Addressed, pages: list[Addressed], owners: dict[str, str], entry: EntryPoint) -> str:
    owner = owners.get(first_part(page.path))
    if owner not in (None, _owner(entry)) or any(page.path == other.path for other in pages):
        return f"has a path that is in use already, by {owner}"
    return ""


def _owner(entry: EntryPoint) -> str:
    """Return the package of an entry point: its pages may share the first part of their paths."""
    return entry.dist.name if entry.dist else entry.value


def _loaded(entry: EntryPoint) -> Addressed:
    page = plugins.load(entry)
    if not isinstance(page, Addressed):
        raise plugins.unusable(entry, "is not a Page")
    if page.name != entry.name:
        raise plugins.unusable(entry, "has another name than its entry point")
    return page
