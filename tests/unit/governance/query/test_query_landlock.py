"""Landlock: in the sandbox the kernel lets the process open only the query's files."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from governance.query.landlock import restrict

_TRY = """
import ctypes, pathlib, socket, sys
from governance.query.landlock import restrict
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
allowed, other = sys.argv[1:]
print(restrict([allowed, allowed + ".gone"], libc))
def attempt(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__
print(attempt(lambda: open(allowed).read()))
print(attempt(lambda: open(other).read()))
print(attempt(lambda: open(allowed, "w").close()))
print(attempt(lambda: open(other + ".new", "w").close()))
print(attempt(lambda: [entry.name for entry in pathlib.Path(other).parent.iterdir()]))
print(attempt(lambda: open("/proc/self/environ").read()))
print(attempt(lambda: socket.create_connection(("127.0.0.1", 9), 1)))
"""


def test_only_the_named_files_can_be_read_and_nothing_written(tmp_path: Path) -> None:
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 4:
        pytest.skip("this kernel has no Landlock that knows TCP")
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    allowed.write_text("allowed")
    other.write_text("other")
    tried = subprocess.run(
        [sys.executable, "-c", _TRY, str(allowed), str(other)], capture_output=True, text=True, check=True
    )
    assert tried.stdout.split("\n")[:2] == ["True", "allowed"]
    assert set(tried.stdout.split("\n")[2:-1]) == {"PermissionError"}


class _Kernel:
    """Imitates the C library on a kernel with some version of Landlock."""

    def __init__(self, version: int, *, makes: bool = True, holds: bool = True) -> None:
        self.version, self.makes, self.holds = version, makes, holds
        self.size = self.rules = 0

    def syscall(self, number: int, *arguments: Any) -> int:
        if number == 444 and arguments[0] is None:
            return self.version
        if number == 444:
            self.size = arguments[1]
            return os.open(os.devnull, os.O_RDONLY) if self.makes else -1
        if number == 445:
            self.rules += 1
            return 0
        return 0 if self.holds else -1


@pytest.mark.parametrize(("version", "size"), [(1, 8), (2, 8), (3, 8), (4, 16), (5, 16), (6, 24), (9, 24)])
def test_each_version_is_asked_for_what_it_knows(tmp_path: Path, version: int, size: int) -> None:
    kernel = _Kernel(version)
    (tmp_path / "file").touch()
    assert restrict([str(tmp_path / "file"), str(tmp_path / "gone")], kernel)
    assert (kernel.size, kernel.rules) == (size, 1)


@pytest.mark.parametrize("kernel", [_Kernel(-1), _Kernel(0), _Kernel(3, makes=False), _Kernel(3, holds=False)])
def test_without_landlock_it_says_that_it_does_not_hold(kernel: _Kernel) -> None:
    assert not restrict([], kernel)
