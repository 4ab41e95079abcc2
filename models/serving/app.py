"""Builds the application: all routes behind the security middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from governance.access import TokenVerifier
from governance.audit import BatchAuditSink
from models.serving import api, pages, problems, staff
from models.serving.addresses import names_of, require_loopback
from models.serving.rendering import static_folder
from models.serving.security import SecurityMiddleware
from models.serving.state import ServerState
from vitalake.settings import Settings


def make_app(
    settings: Settings, *, audit: BatchAuditSink | None = None, verifier: TokenVerifier | None = None
) -> FastAPI:
    """Return the application of a home with its stores open; they are closed when it ends.

    Args:
        settings: of the home.
        audit: where accesses are recorded; None: the home's audit.
        verifier: verifies tokens; None: the one for the issuer in the settings.

    Raises:
        PrivacyError: other machines could reach the address.
        VitaLakeError: a store cannot be opened, or the rules are not valid.
    """
    require_loopback(settings.serving.host, settings.serving.port)
    server = ServerState(settings, audit=audit, verifier=verifier)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        try:
            yield
        finally:
            await server.stop()

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
    app.state.server, app.state.ledger = server, staff.LedgerReader(settings)
    app.add_middleware(SecurityMiddleware, names=names_of(settings.serving.host))
    problems.install(app)
    for router in (api.router, pages.router, staff.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=static_folder()), name="static")

    @app.exception_handler(pages.SignInFirst)
    async def _(request: Request, error: Exception) -> Response:
        return RedirectResponse("/sign-in", 303)

    return app
