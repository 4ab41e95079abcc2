"""Failpoints: named places where a process kills itself, so that tests can prove that nothing is lost or doubled.

``VITALAKE_CRASH_AT=decided`` kills the process when it first reaches the place, ``decided:3`` the third time.
``VITALAKE_PAUSE_AT`` makes the process wait there instead: it makes the file that ``VITALAKE_PAUSE_FILE`` names, and
waits until somebody deletes it. Tests make a writer this way that goes on after another one has taken its place.
In production neither variable is set; a failpoint then costs two look-ups in the environment.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

POINTS = (
    "decode",
    "masked",
    "before-stage",
    "staged",
    "before-decide",
    "decided",
    "before-add",
    "added-one",
    "added",
    "rewrite-staged",
    "rewrite-committed",
    "dropped-day",
    "expired-day",
    "swap-held",
    "swap-fenced",
    "swap-chunk",
    "swap-ready",
    "swap-committed",
    "rekey-added",
    "rekey-retokened",
    "rekey-republished",
    "rekey-care",
    "fence-raised",
    "repair-logs",
    "erase-begun",
    "erase-settled",
    "erase-table",
    "erase-elsewhere",
    "erase-certified",
    "schema",
    "schema-applied",
    "start-epoch",
    "start-rolled",
    "erasure-logged",
    "erasure-destroyed",
    "upgrade-begun",
    "upgrade-settled",
    "upgrade-times",
    "upgrade-words",
    "upgrade-positions",
    "upgrade-step",
    "keys-rewrapped",
    "keys-destroying",
)
"""The names; each operation, such as a span, an erasure or a rotation, reaches its own in this order."""

_reached: dict[str, int] = {}


def failpoint(point: str) -> None:
    """Die here by SIGKILL, or wait here, if the environment says so."""
    for variable in ("VITALAKE_CRASH_AT", "VITALAKE_PAUSE_AT"):
        setting = os.environ.get(variable)
        if not setting:
            continue
        name, _, nth = setting.partition(":")
        if name != point:
            continue
        key = variable + point
        _reached[key] = _reached.get(key, 0) + 1
        if _reached[key] != int(nth or 1):
            continue
        if variable == "VITALAKE_CRASH_AT":
            os.kill(os.getpid(), signal.SIGKILL)
        pause_file = Path(os.environ["VITALAKE_PAUSE_FILE"])
        pause_file.touch()
        while pause_file.exists():
            time.sleep(0.02)
