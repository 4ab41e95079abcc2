"""What all commands share: where the home is, an answer for programs or for people, notes on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vitalake.homes import VARIABLE

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar=VARIABLE, help="The home's folder; default ./vitalake-home."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


class Output:
    """Speaks to whom a command answers: to programs one JSON object and no more, to people words.

    Args:
        json: programs read it: the command was given ``--json``.
    """

    def __init__(self, json: bool) -> None:
        self._json = json

    def answer(self, document: Any, *people: str | Callable[[], object]) -> None:
        """Print a command's result, on standard output: the document as one line of JSON at once, or as ``show``."""
        if self._json:
            import msgspec

            sys.stdout.buffer.write(msgspec.json.encode(document, enc_hook=str) + b"\n")
            sys.stdout.buffer.flush()
        self.show(*people)

    def show(self, *people: str | Callable[[], object]) -> None:
        """Print to people, on standard output: each text is a line; a function prints by itself."""
        for part in () if self._json else people:
            if isinstance(part, str):
                typer.echo(part)
            else:
                part()

    def tell(self, text: str) -> None:
        """Tell people what is not a result, such as progress, on standard error; programs are not told."""
        if not self._json:
            note(text)


def note(text: str) -> None:
    """Tell whoever watches what is not a result; with ``--json`` too."""
    typer.echo(text, err=True)
