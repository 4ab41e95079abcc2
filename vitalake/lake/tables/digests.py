"""Digests of the lake's files: a file is checked against what was written before it is read.

The digest stands in the file's name, ``….s<32 hex digits>.parquet``, and so in its ``add`` action, in its span and in
every checkpoint: delta-rs can write no tags, and returns no statistics of our own. Files of earlier releases have no
digest in their name; their digest is taken at the first check and recorded beside the table, in ``_digests.json``.

Page checksums alone are not enough: of the engines tried only Arrow checks them, and footers have none.
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
"""A file that was found good is checked again after a day, because a disk can damage data silently."""

RECORDS = "_digests.json"
"""Beside a table: digests of files that have none in their name, and when files were last checked. Engines ignore names
with an underscore."""

OWN = ""
"""The key, in the place of a file's path, of the digest of the record itself."""

CHUNK = 1 << 20
_HEX = 32
"""Hex digits of a digest: 128 bits of SHA-256. OpenSSL computes 1.5 GB/s on processors with SHA instructions."""

_NAMED = re.compile(r"\.s([0-9a-f]{32})(?:\.b\d+of\d+)?\.parquet$")

Mark = tuple[int, float, int]
"""Size, time of the last change and inode: a file whose mark has changed is checked again."""


class Damaged(LakeError):
    """A file does not hold what was written to it, or is missing: it is not read until it is repaired."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of a file.

    Attributes:
        digest: the digest of a file whose name has none; else empty.
        checked: when the scrub last found it good, in seconds since 1970.
    """

    digest: str = ""
    checked: int = 0


def digest_of(content: Any) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(content).hexdigest()[:_HEX]


def named(stem: str, digest: str, suffix: str = "") -> str:
    """Return the name of a file with this digest; the suffix is that of its bucket."""
    return f"{stem}.s{digest}{suffix}.parquet"


def digest_in(path: str) -> str | None:
    """Return the digest in a file's name; None: it has none, because an earlier release wrote it."""
    match = _NAMED.search(path)
    return match[1] if match else None


# -- files found good --------------------------------------------------------------------------------------------


class Marks:
    """Which files were found good, and when: in memory, or kept in a file for later processes."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._good: dict[str, tuple[Mark, float]] = {}
        self._new = False
        if path is not None:
            try:
                self._good = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[Mark, float]])
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
                self._good = {}  # then every file is checked again

    def knows(self, place: str, mark: Mark) -> bool:
        """Return whether the file with this mark was found good within a day."""
        found = self._good.get(place)
        return found is not None and found[0] == mark and 0 <= time.time() - found[1] < RECHECK_SECONDS

    def add(self, place: str, mark: Mark) -> None:
        """Record that a file was found good."""
        self._good[place] = mark, time.time()
        self._new = True

    def save(self) -> None:
        """Write the marks to their file; if the disk refuses, files are only checked again."""
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
"""Cache of each table's record, because every file without a digest in its name needs it."""

MARKS = Marks()
"""The marks of this process."""


# -- checking files ----------------------------------------------------------------------------------------------


def mark_of(storage: Storage, relative: str) -> Mark:
    """Return a file's mark.

    Raises:
        Damaged: something that is not a file is in its place.
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
    """Return if a file holds what was written to it; a file that was found good within a day is not read again.

    Args:
        storage: of its table.
        relative: its path.
        marks: files that were found good.
        digest: the recorded digest of a file that has none in its name; empty: none is recorded; None: the table's
            record is read.

    Raises:
        Damaged: it holds something else.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
    """
    place, mark = f"{storage.root}/{relative}", mark_of(storage, relative)
    if marks.knows(place, mark):
        return
    check_content(storage, relative, digest=digest)
    marks.add(place, mark)


def check_content(storage: Storage, relative: str, *, digest: str | None = None, copy: IO[bytes] | None = None) -> None:
    """Return if a file holds what was written to it; it is always read, whatever the marks say.

    Args:
        storage: of its table.
        relative: its path.
        digest: as ``check``.
        copy: a stream to which the content is written.

    Raises:
        Damaged, FileNotFoundError, OSError: as ``check``.
    """
    expected = digest_in(relative)
    if expected is None:
        expected = recorded(storage).get(relative, Record()).digest if digest is None else digest
    if (expected or copy) and read_digest(storage, relative, copy=copy) != expected and expected:
        raise damaged(storage, relative)


def read_digest(storage: Storage, relative: str, *, copy: IO[bytes] | None = None) -> str:
    """Return the digest of a file's present content, which is also written to ``copy``.

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
        if storage.local:  # EIO: the disk reports the damage itself
            raise damaged(storage, relative, f"cannot be read ({cause_of(error)})") from None
        raise
    return sha.hexdigest()[:_HEX]


def damaged(storage: Storage, relative: str, how: str = "does not hold what was written to it") -> Damaged:
    """Return the error for a damaged file."""
    return Damaged(
        f"A file of the lake {how}",
        where=f"{storage.name}/{relative}",
        remedy="Nothing was read from it. Run 'vitalake lake repair': it makes the file again from what the lake "
        "or the broker still has, and lists what it cannot make.",
    )


# -- the record beside a table -----------------------------------------------------------------------------------


def recorded(storage: Storage) -> dict[str, Record]:
    """Return the record of a table's files, by path.

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
            remedy="Restore it from a back-up, or delete it: the digests of files that have none in their name are "
            "then taken again, from the files as they are now.",
        ) from None
    _RECORDS[place] = mark, records
    return records


def record(storage: Storage, records: dict[str, Record]) -> None:
    """Replace the record of a table's files.

    Raises:
        OSError: storage refuses.
    """
    own = {OWN: Record(digest_of(_encoded(records)))}
    storage.write_small(RECORDS, _encoded(records | own))


def _encoded(records: Mapping[str, Record]) -> bytes:
    return msgspec.json.encode(dict(sorted(records.items())))


def _checked(content: bytes) -> dict[str, Record]:
    """Decode a record and check it against its own digest, because files are compared with it.

    Raises:
        MsgspecError: it is not a record, or it was changed. A change in an earlier release's record is not noticed.
    """
    records = msgspec.json.decode(content, type=dict[str, Record])
    own = records.pop(OWN, None)
    if own is not None and own.digest != digest_of(_encoded(records)):
        raise msgspec.DecodeError
    return records
