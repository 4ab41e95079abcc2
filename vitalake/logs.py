"""Structured logs: one JSON object a line on standard error; only named fields, never a value of a message."""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from typing import IO

import msgspec

from vitalake import clock

_OURS = ("vitalake", "governance", "pipelines", "models")
_FIELDS = ("what", "where", "remedy", "job", "share", "state", "span", "count", "seconds", "table", "version", "reason")


class _JsonLines(logging.Formatter):
    """Writes the event and the allowed fields; an exception by its type only, for its text may hold a value."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": clock.now().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.msg if record.name.startswith(_OURS) else "third-party",
            "logger": record.name,
        }
        entry |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0]:
            entry["exception"] = record.exc_info[0].__name__
        return msgspec.json.encode(entry, enc_hook=str).decode()


def configure(level: int = logging.INFO, *, stream: IO[bytes] | None = None) -> None:
    """Send all logging to a stream (standard error) as JSON lines; third parties from warnings up, without text."""
    handler = logging.StreamHandler(TextIOWrapper(stream, write_through=True) if stream else sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
