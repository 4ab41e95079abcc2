"""Other accounts of this machine: real processes under another user id, for what only the kernel decides."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import pytest

needs_accounts = pytest.mark.skipif(os.getuid() != 0, reason="only root may start processes of other accounts")


END = "import sys; sys.stdout.flush(); sys.stderr.flush(); os._exit(0)"
"""Without what libraries do at the end of an interpreter, for which some would open files once more."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account that every Linux has, and that owns nothing here."""

    number: int

    @property
    def name(self) -> str:
        """Return what the system calls it."""
        return pwd.getpwuid(self.number).pw_name

    @property
    def group(self) -> str:
        """Return the name of its group."""
        return grp.getgrgid(pwd.getpwuid(self.number).pw_gid).gr_name

    def run(self, code: str, *arguments: str, first: str = "", env: dict[str, str] | None = None) -> str:
        """Run Python as this account, in its own group only, and return what it printed.

        Args:
            code: what it runs.
            arguments: ``sys.argv`` of it.
            first: what runs before it becomes this account: Python itself may lie where the account cannot read it.
            env: more of the environment.
        """
        group = pwd.getpwuid(self.number).pw_gid
        become = f"import os; os.setgroups([]); os.setgid({group}); os.setuid({self.number})"
        done = subprocess.run(
            [sys.executable, "-c", f"{first}\n{become}\n{code}\n{END}", *arguments], cwd="/", check=False,
            capture_output=True, text=True, timeout=120, env=os.environ | (env or {}),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


ONE, TWO = Account(1), Account(2)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that other accounts may walk through; pytest's own ones are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="vitalake-accounts-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        rmtree(folder)
