"""``vitalake token``: prints a token of the development issuer, to try the endpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from vitalake.cli.output import HomeOption, note
from vitalake.homes import resolve_home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("token")(token)


def token(
    user: Annotated[str, typer.Argument(help="engineer, officer, clinician or privacy-officer")],
    home: HomeOption = None,
) -> None:
    """Print a token for one of the development users; the sign-in is recorded."""
    from governance.access import open_issuer, open_verifier
    from governance.audit import AuditEvent, open_audit
    from vitalake.home import Home
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    keys = Home(settings).keys
    signed = open_issuer(settings, keys).sign_in(user)
    principal = open_verifier(settings, keys).verify(signed)
    event = AuditEvent("sign-in", principal.subject, principal.role, (), {"by": "command"})
    open_audit(settings, keys, writer="cli").record(event)
    typer.echo(signed)
    note(f"Whoever has it can act as {principal.name} for {settings.serving.session_minutes} minutes.")
