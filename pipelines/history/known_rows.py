"""The files of digests in a home: which messages were loaded, in which order, and for which patients."""

from __future__ import annotations

import fcntl
import os
import struct
import tokenize
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from pipelines.history.change_detection import Positions, highest_of, loaded_of
from pipelines.history.digests import (
    EARLIER_ENTRIES,
    ENTRY,
    PERHAPS_GIVEN,
    UNKNOWN_VERSION,
    UNVERSIONED,
    Entries,
    Hashes,
)
from vitalake.errors import LakeError
from vitalake.folders import folder_lock, sync_folder

MEMBERS = ("entries", "form", "given", "load", "records", "owned")
"""Of a file; see Known."""

_WITHOUT_LOAD = set(MEMBERS) - {"load"}
EARLIER_MEMBERS = (
    ({"entries", "form"}, {"entries", "form", "records", "owned"}),
    (_WITHOUT_LOAD,),
    (_WITHOUT_LOAD | {"epoch"},),
)
"""Of a file of an earlier release, for each of the EARLIER_ENTRIES, and for ENTRY."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a file says.

    Attributes:
        entries: of the messages, in the order of loading.
        form: a digest of the query's columns.
        given_us: the greatest version by time that a load has given; 0: not known; 1: none was.
        load_us: of the load that wrote it, see Span; 0: one of an earlier release.
        records: records of an earlier release's file, which does not say which of them were loaded; in order.
        owned: the same, of record and patient together.
    """

    entries: Entries = field(default_factory=lambda: np.zeros(0, ENTRY))
    form: str = ""
    given_us: int = 0
    load_us: int = 0
    records: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    owned: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def complete(self) -> bool:
        """Return whether every entry names its record."""
        return bool(self.entries["record"].all())

    def has(self, found: Entries) -> npt.NDArray[np.bool_]:
        """Return which messages are of a record that this file has, whatever the version and the patient."""
        earlier = self.entries["key"][self.entries["record"] == 0]  # of a query without versions: the record's
        return _among(found["record"], self.entries["record"], self.records) | _among(found["key"], earlier)

    def others(self, found: Entries) -> npt.NDArray[np.bool_]:
        """Return which messages are of a record that this file has under another key: with a version, or without."""
        return _count(self.entries["record"], found["record"]) > _count(self.entries["key"], found["key"])

    def given(self, found: Entries) -> npt.NDArray[np.bool_]:
        """Return which messages are of a record that was loaded with a version that the load gave, or without."""
        return _among(found["record"], self.entries["record"][self.entries["given"] >= 0])

    def perhaps_given(self, found: Entries) -> npt.NDArray[np.bool_]:
        """Return which messages are of a record of which this file does not say that."""
        if not self.complete:
            return np.ones(len(found), np.bool_)
        return _among(found["record"], self.entries["record"][self.entries["given"] == PERHAPS_GIVEN])

    def owners(self, found: Entries) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which messages are of a record whose patient this file knows, and which name a patient as it does."""
        named, owned = self.entries["owned"] != 0, found["owned"] != 0
        known = owned & _among(found["record"], self.entries["record"][named], self.records)
        return known, owned & _among(found["owned"], self.entries["owned"], self.owned)


@dataclass(frozen=True, slots=True)
class Before:
    """What was loaded before of the records of a query.

    Attributes:
        loaded: of each message, whether its record was loaded by another source, in another incarnation, or by a query
            of this one that gave it another key: one that returned versions.
        given: whether a load, of any source, has given its record a version, or loaded it without.
        perhaps_given: whether that may be so; nothing tells.
        highest: the highest version of its record that this source has counted, in any incarnation.
        highest_of_all: the highest version of its record that any source has counted, or a load has given.
        foreign: whether another source has the record, and only for other patients.
        sources: the names of those sources.
        complete: whether files tell all that this source has loaded. If not, every record counts as loaded.
        own: whether this source has loaded the record for some patient, in any incarnation.
        moved: whether it has done so, and only for other patients.
    """

    loaded: npt.NDArray[np.bool_]
    given: npt.NDArray[np.bool_]
    perhaps_given: npt.NDArray[np.bool_]
    highest: npt.NDArray[np.int64]
    highest_of_all: npt.NDArray[np.int64]
    foreign: npt.NDArray[np.bool_]
    sources: list[str]
    complete: bool
    own: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]


class KnownRows:
    """The file of digests of one source, dataset and incarnation.

    Args:
        home: where it is.
        name: of source, dataset and incarnation.
        last_load_us: of the last span that the lake has of it. A file that a load before that one wrote is as good as
            missing: it can name rows that were to be loaded, and were not.
    """

    def __init__(self, home: Path, name: str, *, last_load_us: int = 0) -> None:
        self.home, self.name, self.last_load_us = home, name, last_load_us
        self.path = home / "history" / f"{name}.npz"
        self._last_read: tuple[tuple[int, int, int], Known] | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the files of all sources, so that no other load notes claims between a check of them and a write.

        It is held for moments only, and never together with another one: so loads cannot wait for each other for ever.

        Raises:
            LakeError: the folder cannot be made.
        """
        with self._writing():
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
        with folder_lock(self.path.parent):
            yield

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Let others see that a load of this source is under way; call it within ``locked``, and leave it later.

        Another run of the same source may be under way, too, if this one takes over from it.
        """
        with self._writing():
            descriptor = os.open(_lock_of(self.path), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def before(
        self,
        found: Entries,
        asked: npt.NDArray[np.bool_],
        positions_of: Callable[[str], Positions],
        incarnations: Collection[str],
        last_loads: Mapping[str, int],
    ) -> Before:
        """Return what was loaded before of the records of a query, by this source and by others.

        Published, a record of two sources is one record, of which one is shown. Of a load that is under way, all that
        it noted counts; of others, what the lake has. Call it within ``locked``.

        Args:
            found: the entries of all messages of the query.
            asked: which of them are not known to be as this source has loaded them.
            positions_of: returns how much the lake has of what a file is named after.
            incarnations: names of the source's incarnations, also earlier ones, of which the lake has messages.
            last_loads: the load of the last span, by incarnation, of all sources.

        Raises:
            LakeError: a file is damaged, or is older than the lake.
        """
        source = self.name.partition(".")[0]
        seen, given, perhaps_given, foreign, own, same = (np.zeros(len(found), np.bool_) for _ in range(6))
        highest, highest_of_all = (np.full(len(found), UNVERSIONED, np.int64) for _ in range(2))
        told, sources = set[str](), set[str]()
        others: dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = {}
        for name, known in self._others(positions_of, last_loads):
            if known.complete:
                told.add(name)
            seen |= known.has(found)
            given |= known.given(found)
            of_all = highest_of(known.entries, found["record"], given=True)
            highest_of_all = np.maximum(highest_of_all, of_all)
            perhaps_given |= known.perhaps_given(found)
            recorded, owned = known.owners(found)
            if (other := name.partition(".")[0]) == source:
                own, same = own | recorded, same | owned
                highest = np.maximum(highest, highest_of(known.entries, found["record"]))
            else:  # in another incarnation a source can have given a record to another patient
                before = others.get(other, (np.zeros(len(found), np.bool_),) * 2)
                others[other] = before[0] | recorded, before[1] | owned
        for other, (recorded, owned) in others.items():
            if (strange := recorded & ~owned).any():
                foreign |= strange
                sources.add(other)
        known, positions = self.read(), positions_of(self.name)
        if (loaded := loaded_of(known.entries, positions)) is not None:
            told.add(self.name)
            known = replace(known, entries=loaded)
        if positions:
            at = np.flatnonzero(asked)
            recorded, owned = known.owners(found[at])
            own[~asked] |= found["owned"][~asked] != 0
            same[~asked] = True
            own[at], same[at] = own[at] | recorded, same[at] | owned
            seen[at] |= known.others(found[at])
            given[at] |= known.given(found[at])
            of_all = highest_of(known.entries, found["record"][at], given=True)
            highest_of_all[at] = np.maximum(highest_of_all[at], of_all)
            perhaps_given[at] |= known.perhaps_given(found[at])
            highest[at] = np.maximum(highest[at], highest_of(known.entries, found["record"][at]))
        if not (complete := told.issuperset(incarnations)):  # nothing tells which records these are
            seen[:] = perhaps_given[:] = True
        return Before(
            *(seen, given, perhaps_given, highest, highest_of_all),
            *(foreign, sorted(sources), complete, own, own & ~same),
        )

    def _others(
        self, positions_of: Callable[[str], Positions], last_loads: Mapping[str, int]
    ) -> Iterator[tuple[str, Known]]:
        """Yield name and contents of each other file of the dataset; of a load that has ended, what the lake has."""
        dataset = self.name.split(".")[1]
        for path in sorted(self.path.parent.glob(f"*.{dataset}.*.npz")):
            if path == self.path:
                continue
            under_way = _is_loading(path)  # asked first: if it ends now, the lake has its messages
            positions = positions_of(path.stem)
            if not (positions or under_way):
                continue
            known = read_known(path)
            if not under_way:
                loaded = loaded_of(known.entries, positions)
                if loaded is None or 0 < known.load_us < last_loads.get(path.stem.rpartition(".")[2], 0):
                    raise _older(path)
                known = replace(known, entries=loaded)
            yield path.stem, known

    def read(self, *, also_older: bool = False) -> Known:
        """Return what the file says; nothing if there is no file, or if it is older than the lake, as of a back-up.

        It is read once, as long as it stays as it is: that of a large source has hundreds of megabytes.

        Args:
            also_older: whether to return also what an older file says.

        Raises:
            LakeError: it is damaged.
        """
        try:
            found = self.path.stat()
            mark = found.st_ino, found.st_size, found.st_mtime_ns
            if self._last_read is None or self._last_read[0] != mark:
                self._last_read = mark, read_known(self.path)
        except FileNotFoundError:
            return Known()
        known = self._last_read[1]
        return Known() if 0 < known.load_us < self.last_load_us and not also_older else known

    def given_by_all(self) -> int:
        """Return the greatest version by time that the dataset's files have; 0: none. Call it within ``locked``.

        Sources that have the same records give their versions one after the other.

        Raises:
            LakeError: a file is damaged.
        """
        dataset = self.name.split(".")[1]
        return max((_given_of(path) for path in self.path.parent.glob(f"*.{dataset}.*.npz")), default=0)

    def write(self, known: Known) -> None:
        """Write the file; it is durable when this returns.

        Raises:
            LakeError: the file cannot be written; nothing was loaded.
        """
        part = self.path.with_suffix(".part")
        earlier = (known.records, known.owned) if not known.complete else (np.zeros(0, np.uint64),) * 2
        values = (known.entries, np.array(known.form), np.array(known.given_us), np.array(known.load_us), *earlier)
        with self._writing():
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                np.savez(file, **dict(zip(MEMBERS, values, strict=True)))  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
            sync_folder(self.path.parent)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"Digests of the loaded messages cannot be written ({error.strerror})",
                where=str(self.path.parent),
                remedy="Make room there, then start the load again. Nothing was loaded.",
            ) from None


def _lock_of(path: Path) -> Path:
    """Return the file that is locked for a file of digests, which is replaced and so cannot be locked itself."""
    return path.with_suffix(".lock")


def _is_loading(path: Path) -> bool:
    """Return whether a load of a file's source is under way; that of a process which was killed is not."""
    try:
        descriptor = os.open(_lock_of(path), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


_DAMAGED = (
    *(ArithmeticError, BadZipFile, EOFError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
    *(SyntaxError, struct.error, tokenize.TokenError, zlib.error),
)
"""What a changed byte lets zipfile and NumPy raise."""


def read_known(path: Path) -> Known:
    """Read a file of digests, also one of an earlier release.

    Raises:
        LakeError: it is damaged, or cannot be read. To go on without it would load rows twice, and leave out others.
        FileNotFoundError: there is none.
    """
    with _undamaged(path), ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy"): _array(archive, name) for name in archive.namelist()}
        entries, names = arrays["entries"], arrays.keys()
        records, owned = (arrays.get(name, np.zeros(0, np.uint64)) for name in ("records", "owned"))
        given, load_us = int(arrays.get("given", 0)), int(arrays.get("load", arrays.get("epoch", 0)))
        allowed: Collection[set[str]] = (set(MEMBERS), *EARLIER_MEMBERS[-1])
        if entries.dtype in EARLIER_ENTRIES:
            allowed = EARLIER_MEMBERS[EARLIER_ENTRIES.index(entries.dtype)]
            entries = _of_now(entries)
        # Not checked by zipfile: a length that swallows the names of the members behind it.
        all_there = names in allowed and not any(member.comment for member in archive.infolist())
        if not all_there or entries.dtype != ENTRY or not records.dtype == owned.dtype == np.uint64:
            raise ValueError
        entries.flags.writeable = False  # others read it, too
        return Known(entries, str(arrays["form"]), given, load_us, records, owned)


def _of_now(earlier: Entries) -> Entries:
    """Return entries of an earlier release with the fields of now."""
    entries = np.zeros(len(earlier), ENTRY)
    for name in earlier.dtype.names or ():
        entries[name] = earlier[name]
    entries["version"], entries["given"] = UNKNOWN_VERSION, PERHAPS_GIVEN
    return entries


def _given_of(path: Path) -> int:
    with _undamaged(path), ZipFile(path) as archive:
        return int(_array(archive, "given.npy")) if "given.npy" in archive.namelist() else 0


def _array(archive: ZipFile, name: str) -> npt.NDArray[Any]:
    """Read an array to its end, where its checksum is compared: a shorter shape in its header would end before it."""
    with archive.open(name) as member:
        array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError
    return array


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LakeError(
            f"Digests of the loaded messages cannot be read ({error.strerror})",
            where=str(path),
            remedy="Check its permissions and the disk. Nothing was loaded.",
        ) from None
    except _DAMAGED:
        raise LakeError(
            "Digests of the loaded messages are damaged",
            where=str(path),
            remedy="Restore the file from a back-up. Without one, delete it and change the text that the incarnation "
            "of its job returns: everything is read again, see docs/how-to/history.md. Nothing was loaded.",
        ) from None


def _count(among: Hashes, numbers: Hashes) -> npt.NDArray[np.intp]:
    """Return how often each number is among others."""
    known = np.sort(among) if len(numbers) else among
    counts: npt.NDArray[np.intp] = np.searchsorted(known, numbers, "right") - np.searchsorted(known, numbers)
    return counts


def _older(path: Path) -> LakeError:
    return LakeError(
        "Digests of the loaded messages are older than the lake",
        where=str(path),
        remedy="Restore the newest back-up of the file. Without one, delete it: docs/how-to/history.md says what the "
        "next load of its source does then. Nothing was loaded.",
    )


def _among(numbers: Hashes, *among: Hashes) -> npt.NDArray[np.bool_]:
    """Return which numbers are among others."""
    if not len(numbers):
        return np.zeros(0, np.bool_)
    known, order = np.sort(np.concatenate(among)), np.argsort(numbers)
    found = np.zeros(len(numbers), np.bool_)
    if len(known):  # looked up in order: in that of the rows, every step would miss the processor's cache
        asked = numbers[order]
        found[order] = known[np.minimum(np.searchsorted(known, asked), len(known) - 1)] == asked
    return found
