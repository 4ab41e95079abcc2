"""The ``vitalake`` command: puts the groups together, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys

import typer
from typer.exceptions import TyperException

from vitalake import plugins
from vitalake.errors import VitaLakeError
from vitalake.modes import keep_private

COMMANDS = "vitalake.commands"
"""Group of entry points: a command's name → ``register(app)`` of its module, which imports nothing heavy at its top."""

ORDER = (
    *("init", "demo", "doctor", "broker", "simulate", "stream", "history", "train", "score", "models", "policy"),
    *("serve", "sql", "audit", "token", "ledger", "dead-letters", "devices", "lake", "patient", "keys"),
)
"""In which help lists them; those of other packages follow by name."""

INTERRUPTED = 130


def make_app(only: str | None = None) -> typer.Typer:
    """Return the command.

    Args:
        only: the one that is asked for, if it is known: the others need not be loaded; default: all.
    """
    app = typer.Typer(
        name="vitalake",
        help="A streaming healthcare data lake: device vitals in, masked rows out, every row accounted for.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    found = plugins.registered(COMMANDS)
    for name in [only] if only in found else sorted(found, key=lambda name: (_place(name), name)):
        plugins.load(found[name])(app)
    return app


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _version(wanted: bool) -> None:
    if wanted:
        from vitalake import __version__

        typer.echo(f"vitalake {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Stream device vitals into a lake of masked rows, every row accounted for."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code.

    Expected errors print what happened, where and what to do, without a traceback. Of an unexpected one the type and
    the frames are shown but not its text, which may hold a value of a patient.
    """
    keep_private()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        command = typer.main.get_command(make_app(given[0] if given else None))
        code = command.main(args=arguments, prog_name="vitalake", standalone_mode=False)
        if sys.stdout is not None:  # it was closed by who began us
            sys.stdout.flush()  # while it can still be answered that nobody reads
    except VitaLakeError as error:
        typer.echo(f"Error: {error}", err=True)
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except TyperException as error:  # usage: typer says it well; it quotes the command line only
        error.show()  # type: ignore[attr-defined]
        return int(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone: say nothing, also not when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from vitalake.logs import tell

        tell(type(error), error, error.__traceback__)
        return 1
    return code if isinstance(code, int) else 0
