"""``vitalake serve``: serves scores over HTTP, and the ward board."""

from __future__ import annotations

from typing import Annotated

import typer

from vitalake.cli.output import HomeOption, note
from vitalake.homes import resolve_home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    home: HomeOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: serving.host.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one; default: serving.port.")
    ] = None,
) -> None:
    """Serve scores and the ward board until Ctrl-C; prints the address once it answers."""
    from vitalake.logs import configure
    from vitalake.settings import load_settings

    configure()
    from models.serving.server import serve as run

    settings = load_settings(resolve_home(home))
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update={"serving": settings.serving.model_copy(update=changes)})
    note("The development issuer lets anybody sign in without a password: use it for trials, never on a ward.")
    run(settings, on_ready=typer.echo)
