"""Named places at which a process kills itself, so that tests can prove nothing is lost or doubled there.

``VITALAKE_CRASH_AT=decided`` kills at the first passage, ``decided:3`` at the third. ``VITALAKE_PAUSE_AT`` with
``VITALAKE_PAUSE_FILE`` stops there instead until the named file is gone: that is how a zombie is made.
Unset (always, in production) a passage costs one dictionary look-up.
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
"""The names, in the order in which a span, an erasure, a rotation passes them."""

_passed: dict[str, int] = {}


def failpoint(point: str) -> None:
    """Die here by SIGKILL, or wait here, if the environment says so."""
    for variable in ("VITALAKE_CRASH_AT", "VITALAKE_PAUSE_AT"):
        wanted = os.environ.get(variable)
        if not wanted:
            continue
        name, _, nth = wanted.partition(":")
        if name != point:
            continue
        key = variable + point
        _passed[key] = _passed.get(key, 0) + 1
        if _passed[key] != int(nth or 1):
            continue
        if variable == "VITALAKE_CRASH_AT":
            os.kill(os.getpid(), signal.SIGKILL)
        held = Path(os.environ["VITALAKE_PAUSE_FILE"])
        held.touch()
        while held.exists():
            time.sleep(0.02)
