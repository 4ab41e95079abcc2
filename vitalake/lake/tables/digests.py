"""Digests of the lake's files: what a file holds is held against what was written, before anybody reads it.

A file says its digest in its name, ``….s<32 hex digits>.parquet``, and so in its ``add`` action, in its span and in
every checkpoint: delta-rs can write no tag, and gives back nothing of its own in the statistics. A file of before has
none; what it held when it was first looked at is recorded beside its table, in ``_digests.json``.

Page checksums alone would not do: of the engines tried only Arrow looks at them, and footers have none.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import pyarrow.fs as pafs

from vitalake.causes import cause_of
from vitalake.errors import LakeError

if TYPE_CHECKING:
    from vitalake.lake.tables.storage import Storage

RECHECK_SECONDS = 86_400.0
"""A file that was found good is looked at again after a day: a disk forgets without telling."""

RECORDS = "_digests.json"
"""Beside a table: the digests of files of before, and when files were last looked at. Engines pass over such names."""

OWN = ""
"""In the place of a file's path: the digest of the record itself."""

CHUNK = 1 << 20
_HEX = 32
"""Digits of the digest: 128 bits of SHA-256, which OpenSSL takes at 1.5 GB/s where the processor helps."""

_NAMED = re.compile(r"\.s([0-9a-f]{32})(?:\.b\d+of\d+)?\.parquet$")

Mark = tuple[int, float, int]
"""Size, time of the last change and inode: a file with another mark is looked at again."""


class Damaged(LakeError):
    """A file does not hold what was written to it, or is gone: nobody reads it until it is repaired."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is recorded of a file.

    Attributes:
        digest: of a file that does not say it itself.
        checked: when it was last found good by the scrub, seconds since 1970.
    """

    digest: str = ""
    checked: int = 0


def digest_of(content: Any) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(content).hexdigest()[:_HEX]


def named(stem: str, digest: str, suffix: str = "") -> str:
    """Return the name of a file that says its digest; the suffix is the bucket's."""
    return f"{stem}.s{digest}{suffix}.parquet"


def digest_in(path: str) -> str | None:
    """Return the digest that a file's name says; None: a file of before."""
    match = _NAMED.search(path)
    return match[1] if match else None


# -- what was found good -----------------------------------------------------------------------------------------


class Marks:
    """Which files were found good, and when: of this process, or kept in a file for the next one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._good: dict[str, tuple[Mark, float]] = {}
        self._new = False
        if path is not None:
            try:
                self._good = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[Mark, float]])
            except (OSError, msgspec.MsgspecError):
                self._good = {}  # then everything is looked at again

    def knows(self, place: str, mark: Mark) -> bool:
        """Return whether this very file was found good within a day."""
        found = self._good.get(place)
        return found is not None and found[0] == mark and 0 <= time.time() - found[1] < RECHECK_SECONDS

    def add(self, place: str, mark: Mark) -> None:
        """Take note that a file was found good."""
        self._good[place] = mark, time.time()
        self._new = True

    def save(self) -> None:
        """Keep them; a disk that refuses costs another look, no more."""
        if self._path is None or not self._new:
            return
        now = time.time()
        kept = {place: found for place, found in self._good.items() if now - found[1] < RECHECK_SECONDS}
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(msgspec.json.encode(kept))
            part.replace(self._path)
        except OSError:
            part.unlink(missing_ok=True)
        self._new = False


_RECORDS: dict[str, tuple[Mark, dict[str, Record]]] = {}
"""What was read last of each table's record: a file of before asks for it each."""

MARKS = Marks()
"""Of this process."""


# -- looking at files --------------------------------------------------------------------------------------------


def mark_of(storage: Storage, relative: str) -> Mark:
    """Return a file's mark.

    Raises:
        Damaged: something else is in its place.
        FileNotFoundError: there is no such file.
    """
    if storage.local:
        try:
            found = os.stat(f"{storage.root}/{relative}")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise damaged(storage, relative, f"cannot be read ({cause_of(error)})") from None
        return found.st_size, found.st_mtime, found.st_ino
    info = storage.fs.get_file_info(f"{storage.root}/{relative}")
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(f"{storage.root}/{relative}")
    return info.size, info.mtime.timestamp() if info.mtime else 0.0, 0


def check(storage: Storage, relative: str, *, marks: Marks = MARKS, digest: str | None = None) -> None:
    """Return if a file holds what was written to it; one that was found good within a day is not read again.

    Args:
        storage: of its table.
        relative: its path.
        marks: what was found good.
        digest: what is recorded of a file of before, empty where nothing is; None: the table's record is read.

    Raises:
        Damaged: it does not.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    place, mark = f"{storage.root}/{relative}", mark_of(storage, relative)
    if marks.knows(place, mark):
        return
    check_content(storage, relative, digest=digest)
    marks.add(place, mark)


def check_content(storage: Storage, relative: str, *, digest: str | None = None, copy: IO[bytes] | None = None) -> None:
    """Return if a file holds what was written to it; it is read, whatever was found before.

    Args:
        storage: of its table.
        relative: its path.
        digest: as ``check``.
        copy: takes what is read.

    Raises:
        Damaged, FileNotFoundError, OSError: as ``check``.
    """
    expected = digest_in(relative)
    if expected is None:
        expected = recorded(storage).get(relative, Record()).digest if digest is None else digest
    if (expected or copy) and read_digest(storage, relative, copy=copy) != expected and expected:
        raise damaged(storage, relative)


def read_digest(storage: Storage, relative: str, *, copy: IO[bytes] | None = None) -> str:
    """Return the digest of what a file holds now; ``copy`` takes what is read.

    Raises:
        Damaged: the disk cannot read it.
        FileNotFoundError: there is no such file.
    """
    sha = hashlib.sha256()
    try:
        with storage.fs.open_input_stream(f"{storage.root}/{relative}") as source:
            while chunk := source.read(CHUNK):
                sha.update(chunk)
                if copy is not None:
                    copy.write(chunk)
    except FileNotFoundError:
        raise
    except OSError as error:
        if storage.local:  # EIO: the disk itself says so
            raise damaged(storage, relative, f"cannot be read ({cause_of(error)})") from None
        raise
    return sha.hexdigest()[:_HEX]


def damaged(storage: Storage, relative: str, how: str = "does not hold what was written to it") -> Damaged:
    """Return what to say of a file."""
    return Damaged(
        f"A file of the lake {how}",
        where=f"{storage.name}/{relative}",
        remedy="Nothing was read from it. Run 'vitalake lake repair': it makes the file again from what the lake or "
        "the broker still has, and says what it cannot.",
    )


# -- what is recorded beside a table -----------------------------------------------------------------------------


def recorded(storage: Storage) -> dict[str, Record]:
    """Return what is recorded of a table's files, by path.

    Raises:
        Damaged: the record cannot be read.
        OSError: storage cannot be reached.
    """
    try:
        place, mark = f"{storage.root}/{RECORDS}", mark_of(storage, RECORDS)
        if place in _RECORDS and _RECORDS[place][0] == mark:
            return _RECORDS[place][1]
        with storage.fs.open_input_stream(f"{storage.root}/{RECORDS}") as source:
            records = _checked(bytes(source.read()))
    except FileNotFoundError:
        return {}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Damaged(
            "The record of a table's digests cannot be read",
            where=f"{storage.name}/{RECORDS}",
            remedy="Restore it from a back-up, or delete it: the digests of files of before are then taken again, "
            "from the files as they are now.",
        ) from None
    _RECORDS[place] = mark, records
    return records


def record(storage: Storage, records: dict[str, Record]) -> None:
    """Write down what is recorded of a table's files, in the place of what was.

    Raises:
        OSError: storage refuses.
    """
    own = {OWN: Record(digest_of(_encoded(records)))}
    storage.write_small(RECORDS, _encoded(records | own))


def _encoded(records: Mapping[str, Record]) -> bytes:
    return msgspec.json.encode(dict(sorted(records.items())))


def _checked(content: bytes) -> dict[str, Record]:
    """Return what a record says, which is not what files are held against if it is not what was written.

    Raises:
        MsgspecError: it is none, or it was changed; an earlier release's cannot be told.
    """
    records = msgspec.json.decode(content, type=dict[str, Record])
    own = records.pop(OWN, None)
    if own is not None and own.digest != digest_of(_encoded(records)):
        raise msgspec.DecodeError
    return records
