"""Failures of the machine are called by their names, whoever met them; no text of theirs is passed on."""

from __future__ import annotations

import errno
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from vitalake.causes import cause_of, unavailable

SECRET = "Doe^Jane"


def _os_error(number: int) -> OSError:
    return OSError(number, SECRET, SECRET)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "Disk is full"),
        (errno.EDQUOT, "Disk quota is used up"),
        (errno.EMFILE, "Too many open files"),
        (errno.ENFILE, "Too many open files on the machine"),
        (errno.EROFS, "Disk is read-only"),
        (errno.EIO, "Disk fails"),
        (errno.ENOMEM, "Memory is used up"),
    ],
)
def test_a_shortage_is_named_and_not_who_met_it(number: int, what: str) -> None:
    said = unavailable(_os_error(number), "Vault refuses", where="vault.db", remedy="Check it.")
    assert said.what == what
    assert said.where == "vault.db"
    assert said.transient
    assert SECRET not in str(said)


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED])
def test_a_cut_connection_is_called_that(number: int) -> None:
    said = unavailable(_os_error(number), "Lake cannot be read", where="spans", remedy="Check the lake's storage.")
    assert said.what == "Lake cannot be read (connection was cut)"
    assert said.remedy == "Check the lake's storage."
    assert SECRET not in str(said)


def test_an_error_without_a_number_is_called_by_its_type() -> None:
    assert cause_of(ValueError(SECRET)) == "ValueError"
    assert cause_of(_os_error(errno.EXDEV)) == "OSError"


def test_a_full_disk_is_known_from_sqlite(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "small.db") as database:
        database.execute("PRAGMA max_page_count=3")
        database.execute("CREATE TABLE t (x)")
        with pytest.raises(sqlite3.OperationalError) as caught:
            database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert cause_of(caught.value) == "disk is full"


_EXHAUSTED = """
import os, sys
from deltalake import DeltaTable
from vitalake.causes import cause_of
table = DeltaTable(sys.argv[1])
kept = []
try:
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    DeltaTable(sys.argv[1])
except Exception as error:
    cause = cause_of(error)
    [os.close(each) for each in kept]
    print(cause)
"""


def test_exhausted_descriptors_are_known_from_delta(tmp_path: Path) -> None:
    import pyarrow as pa
    from deltalake import write_deltalake

    write_deltalake(str(tmp_path / "t"), pa.table({"x": [1]}))
    said = subprocess.run(
        [sys.executable, "-c", _EXHAUSTED, str(tmp_path / "t")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )
    assert said.stdout.strip() == "too many open files"


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.ELOOP])
def test_what_lies_in_a_files_place_is_never_tried_again(number: int) -> None:
    told = unavailable(OSError(number, "text"), "Lake refuses", where="lake", remedy="")
    assert not told.transient
    assert told.exit_code == 13
    assert unavailable(OSError("Cannot open for reading: path 'x' is a directory"), "x", where="", remedy="").what == (
        "x (a folder is in its place)"
    )


def test_sqlite_does_not_say_which_failure_it_met_so_both_are_named() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    told = unavailable(error, "Vault refuses", where="vault.db", remedy="")
    assert told.transient
    assert "ulimit -f" in told.remedy
    assert cause_of(error) == "disk refuses to read or write"
