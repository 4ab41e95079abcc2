"""Parses durations and times as people write them on a command line."""

from __future__ import annotations

import re
from datetime import datetime

import typer

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def parse_seconds(text: str) -> float:
    """Return the seconds of a duration like ``5s``, ``2m``, ``250ms`` or ``90``.

    Raises:
        typer.BadParameter: it is not a duration.

    >>> parse_seconds("2m")
    120.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text.strip())
    if not match:
        message = "write a duration as a number and a unit: 250ms, 5s, 2m, 1h"
        raise typer.BadParameter(message)
    return float(match[1]) * _UNITS[match[2]]


def parse_start(text: str) -> str:
    """Return ``earliest``, ``latest``, or the milliseconds of an ISO time with its zone, as digits.

    Raises:
        typer.BadParameter: it is none of these.
    """
    if text in ("earliest", "latest"):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        message = "write earliest, latest, or a time with its zone: 2026-11-23T19:00:00Z"
        raise typer.BadParameter(message)
    return str(int(moment.timestamp() * 1000))
