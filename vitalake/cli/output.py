"""What all commands share: where the home is, JSON on standard output, notes on standard error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vitalake.homes import VARIABLE

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar=VARIABLE, help="The home's folder; default ./vitalake-home."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


def print_json(document: Any) -> None:
    """Print a document as one line of JSON on standard output, at once."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(document, enc_hook=str) + b"\n")
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """Tell people something that is not a result; programs read standard output."""
    typer.echo(text, err=True)
