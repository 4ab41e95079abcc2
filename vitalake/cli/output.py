"""What all commands share: the options for the home and for JSON, and how they print results and notes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vitalake.homes import VARIABLE

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar=VARIABLE, readable=False, help="The home's folder; default ./vitalake-home."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


class Output:
    """Prints the results of a command: one JSON object for programs, or text for people.

    Args:
        json: whether the command was given ``--json``: then only programs read its output.
    """

    def __init__(self, json: bool) -> None:
        self._json = json

    def answer(self, document: Any, *people: str | Callable[[], object]) -> None:
        """Print the result of a command on standard output.

        Args:
            document: the result for programs; printed as one line of JSON, and flushed.
            people: the result for people, as ``show`` takes it.
        """
        if self._json:
            import msgspec

            sys.stdout.buffer.write(msgspec.json.encode(document, enc_hook=str) + b"\n")
            sys.stdout.buffer.flush()
        self.show(*people)

    def show(self, *people: str | Callable[[], object]) -> None:
        """Print to people on standard output; with ``--json`` do nothing. A text is one line; a function is called."""
        for part in () if self._json else people:
            if isinstance(part, str):
                typer.echo(part)
            else:
                part()

    def tell(self, text: str) -> None:
        """Print what is not a result, such as progress, on standard error; with ``--json`` do nothing."""
        if not self._json:
            note(text)


def note(text: str) -> None:
    """Print what is not a result on standard error, with ``--json`` too."""
    typer.echo(text, err=True)
