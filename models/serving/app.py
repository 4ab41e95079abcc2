"""Builds the application: all routes behind the security middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from governance.access import TokenVerifier
from governance.audit import BatchAuditSink
from models.serving import api, problems
from models.serving.addresses import names_of, require_loopback
from models.serving.pages import session
from models.serving.pages.base import Addressed
from models.serving.pages.mounting import MountedPages
from models.serving.pages.registry import registered_pages
from models.serving.rendering import static_folder
from models.serving.security import SecurityMiddleware
from models.serving.state import ServerState
from vitalake.settings import Settings


def make_app(
    settings: Settings,
    *,
    audit: BatchAuditSink | None = None,
    verifier: TokenVerifier | None = None,
    pages: Sequence[Addressed] | None = None,
) -> FastAPI:
    """Return the application of a home with its stores open; they are closed when it ends.

    Args:
        settings: of the home.
        audit: where accesses are recorded; None: the home's audit.
        verifier: verifies tokens; None: the one for the issuer in the settings.
        pages: in their order in the navigation; None: the registered ones.

    Raises:
        PrivacyError: other machines could reach the address.
        VitaLakeError: a store cannot be opened, the rules are not valid, or a page cannot be used.
    """
    require_loopback(settings.serving.host, settings.serving.port)
    shown = registered_pages() if pages is None else tuple(pages)
    mounted = MountedPages(shown, settings)
    server = ServerState(settings, audit=audit, verifier=verifier)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        try:
            yield
        finally:
            await server.stop()
            mounted.close()

    # No documentation pages, because FastAPI's load scripts from other servers. The schema itself is served.
    app = FastAPI(
        title="vitalake",
        summary="Scores of current patients. Learnt scores run in shadow until approved; not a medical device.",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # such a redirect would repeat the requested address, which may contain a value
        lifespan=life,
    )
    app.state.server, app.state.pages = server, shown
    app.add_middleware(SecurityMiddleware, names=names_of(settings.serving.host))
    problems.install(app)
    for router in (api.router, session.router, *mounted.routers):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=static_folder()), name="static")

    @app.exception_handler(session.SignInFirst)
    async def _(request: Request, error: Exception) -> Response:
        return RedirectResponse("/sign-in", 303)

    return app
