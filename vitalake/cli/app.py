"""The ``vitalake`` command: collects its subcommands, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

import typer
from typer.exceptions import TyperException

from vitalake import plugins
from vitalake.errors import VitaLakeError
from vitalake.modes import keep_private

COMMANDS = "vitalake.commands"
"""Entry point group: name of a command → ``register(app)`` of its module, which imports nothing slow at its top."""

ORDER = (
    *("init", "demo", "doctor", "broker", "simulate", "stream", "history", "train", "score", "models", "policy"),
    *("serve", "sql", "audit", "token", "ledger", "dead-letters", "devices", "lake", "patient", "keys"),
)
"""The order in which help lists the commands; commands of other packages follow by name."""

INTERRUPTED = 130


def make_app(only: str | None = None) -> typer.Typer:
    """Return the command with its subcommands.

    Args:
        only: name of the one subcommand to load, to start faster; None, or a name that does not exist: all.
    """
    return _made(_chosen(only))


def _chosen(only: str | None) -> tuple[EntryPoint, ...]:
    """Return the subcommands to load, in the order of the help."""
    entries = plugins.registered(COMMANDS)
    names = [only] if only in entries else sorted(entries, key=lambda name: (_place(name), name))
    return tuple(entries[name] for name in names)


def _made(entries: tuple[EntryPoint, ...]) -> typer.Typer:
    app = typer.Typer(
        name="vitalake",
        help="A streaming healthcare data lake: device vitals in, masked rows out, every row accounted for.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for entry in entries:
        plugins.load(entry)(app)
    return app


@cache
def _command(entries: tuple[EntryPoint, ...]) -> Any:
    """Return what parses the command line; made once, for tests call ``main`` thousands of times in one process."""
    return typer.main.get_command(_made(entries))


def _place(name: str) -> int:
    """Return the place of a command in the help."""
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _version(asked: bool) -> None:
    if asked:
        from vitalake import __version__

        typer.echo(f"vitalake {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Stream device vitals into a lake of masked rows, every row accounted for."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code.

    An expected error prints what happened, where, and what to do, without a traceback. An unexpected error prints its
    type and frames, but not its text, which may hold a value of a patient.

    Args:
        arguments: of the command line, without the program's name; None: those of ``sys.argv``.
    """
    keep_private()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        command = _command(_chosen(given[0] if given else None))
        code = command.main(args=arguments, prog_name="vitalake", standalone_mode=False)
        if sys.stdout is not None:  # None: the parent process started us with standard output closed
            sys.stdout.flush()  # here, so that BrokenPipeError is caught below
    except VitaLakeError as error:
        typer.echo(f"Error: {error}", err=True)
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except TyperException as error:  # wrong usage: typer explains it, and quotes only the command line
        error.show()  # type: ignore[attr-defined]
        return int(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe is gone: print nothing, also when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PermissionError as error:
        from vitalake.errors import ServiceUnavailable

        refused = ServiceUnavailable(
            "This account may not read or write something of the home or the lake",
            where=str(error.filename or "the system does not say where"),
            remedy="Use the account that the home belongs to; 'vitalake doctor' names what is closed.",
        )
        typer.echo(f"Error: {refused}", err=True)
        return refused.exit_code
    except Exception as error:
        from vitalake.logs import print_unexpected

        print_unexpected(type(error), error, error.__traceback__)
        return 1
    return code if isinstance(code, int) else 0
