"""Mounts registered pages: the one place that signs in, checks the permission and records the access.

All of it is done before a page's function is called, and the function gets neither the request nor the response, so
that another package can neither forget a check nor get around one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from governance.access import Principal
from models.serving.authorisation import is_pseudonym
from models.serving.pages.base import Addressed, Page, PageRequest, RoutedPage, Show, Shown
from models.serving.pages.registry import GROUP
from models.serving.pages.session import signed_in
from models.serving.problems import not_found
from models.serving.rendering import environment, render
from models.serving.state import ServerState
from models.serving.threads import OneThread
from vitalake import plugins
from vitalake.errors import SettingsError, VitaLakeError
from vitalake.settings import Settings

MOST_WAITING = 8
"""Requests of one page that may wait: the ledger, for one, takes seconds on a large home."""


class MountedPages:
    """The pages of one server: their routes, and a thread for each, so that a slow page holds up nobody but itself.

    Attributes:
        routers: the routes of all pages.
    """

    def __init__(self, pages: Sequence[Addressed], settings: Settings) -> None:
        """Make what finds each page's data.

        Args:
            pages: in their order in the navigation.
            settings: of the home.

        Raises:
            VitaLakeError: a page cannot be made; a plug-in's error names the plug-in, and of other errors the type.
        """
        self._threads: list[OneThread] = []
        self.routers = [
            page.router() if isinstance(page, RoutedPage) else self._route(page, settings)
            for page in pages
            if isinstance(page, RoutedPage | Page)
        ]

    def _route(self, page: Page, settings: Settings) -> APIRouter:
        show = _made(page, settings)
        thread = OneThread(page.name, most=MOST_WAITING)
        self._threads.append(thread)
        router = APIRouter(include_in_schema=False)
        router.add_api_route(page.path, _endpoint(page, show, thread), methods=["GET"])
        return router

    def close(self) -> None:
        """Finish the requests that were taken, and end the threads."""
        for thread in self._threads:
            thread.close()


def _made(page: Page, settings: Settings) -> Show:
    """Return what finds a page's data; its template is read, too, so that a missing one is noticed at the start."""
    try:
        environment().get_template(page.template)
        return page.make(settings)
    except VitaLakeError:
        raise
    except Exception as error:  # the package's code can raise anything
        raise _unusable(page, f"has a page that cannot be made ({type(error).__name__})") from None


def _endpoint(page: Page, show: Show, thread: OneThread) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        principal = signed_in(request)
        patient = await _admitted(request, page, principal)
        shown = await thread.request(_show, show, PageRequest(principal, patient, dict(request.query_params)))
        if shown is None:
            raise not_found()
        if not isinstance(shown, Shown):
            raise _unusable(page, "has a page that returns something else than Shown")
        await _record_shown(request, page, principal, shown)
        return await thread.request(render, request, page.template, shown.context)

    return answer


def _show(show: Show, request: PageRequest) -> Shown | None:
    """Return what a page shows, with its patients as a tuple: a generator could be read only once, by the check."""
    shown = show(request)
    if isinstance(shown, Shown) and shown.patients is not None:
        return replace(shown, patients=tuple(shown.patients))
    return shown


async def _admitted(request: Request, page: Page, principal: Principal) -> str:
    """Record that somebody opens a page, if it shows patients; return the pseudonym in its address, or an empty text.

    Raises:
        MissingPermission: the role may not open it; the refusal is recorded.
        Problem: the address has no pseudonym; the page's function is not asked.
        VitaLakeError: the access cannot be recorded.
    """
    server: ServerState = request.app.state.server
    patient = request.path_params.get("patient", "")
    patients = (patient,) if is_pseudonym(patient) else ()
    await server.authoriser.permit(principal, page.permission, patients=patients)
    if page.patients != "none":
        await server.authoriser.record(principal, "page.read", patients=patients, page=page.name)
    if page.patients == "one" and not patients:
        raise not_found()
    return patient


async def _record_shown(request: Request, page: Page, principal: Principal, shown: Shown) -> None:
    """Record the patients whom a page names, before it is sent.

    Raises:
        VitaLakeError: the access cannot be recorded; or a page of several patients names none, or what it names is
            not a pseudonym, or a page of no patient names one.
    """
    named = shown.patients
    if page.patients == "several" and named is None:
        raise _unusable(page, "has a page of several patients that does not say which")
    if page.patients != "several" and named:
        raise _unusable(page, "has a page that names patients, and says that it does not")
    if not all(is_pseudonym(patient) for patient in named or ()):
        raise _unusable(page, "has a page that names a patient by something else than the pseudonym")
    if named:
        server: ServerState = request.app.state.server
        await server.authoriser.record(principal, "page.read", patients=named, page=page.name)


def _unusable(page: Page, what: str) -> SettingsError:
    """Return the error of a page that cannot be used, with its entry point if it is registered."""
    entry = plugins.registered(GROUP).get(page.name)
    return SettingsError(
        f"Plug-in {what}",
        where=plugins.describe(entry) if entry else f"page {page.name}",
        remedy="Install a version of its package that works with this release, or uninstall it.",
    )
