"""Runs a piece of code in a process of its own, with ``place`` defined: for tests of several processes and of kills."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.unit.governance.vault.vault_samples import OpenedPlace, people

if __name__ == "__main__":
    folder, address, code = sys.argv[1:]
    exec(code, {"place": OpenedPlace(Path(folder), address), "people": people, "sys": sys, "Path": Path})  # noqa: S102
