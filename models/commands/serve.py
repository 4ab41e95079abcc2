"""``vitalake serve``: the scoring endpoint and the ward board."""

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
    host: Annotated[str | None, typer.Option(help="Default: this machine only (serving.host).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default: serving.port.")
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
    note("The development issuer signs anybody in without a password: for trying out, never for a ward.")
    run(settings, on_ready=typer.echo)
