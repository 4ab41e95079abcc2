"""Structured logs: one JSON object a line on standard error; only named fields, never a value of a message.

A library's log records, warnings and errors may quote a query, a row or a key, so their texts are not printed. Every
process of ours calls ``silence`` before it imports anything else. A package that others may import as a library calls
``mute`` for the libraries that it uses.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from vitalake import clock

_OURS = ("vitalake", "governance", "pipelines", "models")
_FIELDS = ("what", "where", "remedy", "job", "shard", "state", "span", "count", "seconds", "table", "version", "reason")

_NATIVE = {"RUST_LOG": "off", "GRPC_VERBOSITY": "NONE", "GRPC_TRACE": ""}
"""Variables that stop libraries in Rust and C++ from writing to standard error themselves. delta-rs prints errors by
default, and the smallest and largest value of each column when RUST_LOG asks for more."""


def is_ours(logger: str) -> bool:
    """Return whether a logger is one of this project's own."""
    return logger.partition(".")[0] in _OURS


class _JsonLines(logging.Formatter):
    """Writes the event and the allowed fields, and of an exception only its type: its text may hold a value."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": clock.now().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.msg if is_ours(record.name) else "third-party",
            "logger": record.name,
        }
        if entry["event"] == "third-party":  # only the place in its code: its text may quote anything
            entry["where"] = f"{'/'.join(Path(record.pathname).parts[-2:])}:{record.lineno}"
        entry |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0]:
            entry["exception"] = record.exc_info[0].__name__
        return msgspec.json.encode(entry, enc_hook=str).decode()


class _Quiet(logging.Logger):
    """A logger that passes records of libraries to handlers of the root only; of those only ``configure``'s prints."""

    def callHandlers(self, record: logging.LogRecord) -> None:
        if is_ours(self.name):
            super().callHandlers(record)
            return
        for handler in logging.root.handlers:
            if record.levelno >= handler.level and not _prints(handler):
                handler.handle(record)


class _QuietRoot(_Quiet, logging.RootLogger):
    """The same for the root, which libraries configure too."""


def _prints(handler: logging.Handler) -> bool:
    """Return whether a handler writes texts to a standard stream, and is not ours."""
    stream = getattr(handler, "stream", None)
    standard = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return stream in standard and not isinstance(handler.formatter, _JsonLines)


def configure(level: int = logging.INFO, *, stream: IO[bytes] | None = None) -> None:
    """Send all logs to a stream, by default standard error, as JSON lines; of libraries only warnings, without text.

    Args:
        level: lowest level of our own logs.
        stream: where they go; None: standard error.
    """
    silence()
    handler = logging.StreamHandler(TextIOWrapper(stream, write_through=True) if stream else sys.stderr)
    handler.setFormatter(_JsonLines())
    handler.setLevel(level)  # a library can set lower levels for its own loggers
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)


def silence() -> None:
    """Stop libraries from printing logs and warnings in this process; the logs of ``configure`` are not affected."""
    os.environ.update(_NATIVE)
    logging.lastResort = None
    logging.raiseExceptions = False  # a handler that fails would print the record
    logging.setLoggerClass(_Quiet)
    logging.root.__class__ = _QuietRoot
    for logger in logging.root.manager.loggerDict.values():
        if type(logger) is logging.Logger:
            logger.__class__ = _Quiet
    warnings.showwarning = _warned


def silence_failures() -> None:
    """Let Python print errors that no code caught without their text, in every thread."""
    sys.excepthook = print_unexpected
    threading.excepthook = lambda failed: print_unexpected(failed.exc_type, failed.exc_value, failed.exc_traceback)
    sys.unraisablehook = lambda failed: print_unexpected(failed.exc_type, failed.exc_value, failed.exc_traceback)


@contextmanager
def importing() -> Iterator[None]:
    """Log no warnings within the block: nobody can act on what a library warns of while it is imported."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def mute(library: str) -> None:
    """Stop a library from logging, also in a process that is not ours and configures logging itself."""
    logging.getLogger(library).setLevel(logging.CRITICAL + 1)


def print_unexpected(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Write the type and the frames of an unexpected error to standard error, not its text, which may hold a value."""
    lines = [*traceback.format_tb(trace), f"{kind.__qualname__}: its text is not shown, for it may hold a value. "]
    print("".join(lines) + "This is a bug.", file=sys.stderr)  # noqa: T201


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    logging.getLogger("py.warnings").warning("%s", category.__name__)
