"""The files of digests in a home: which messages were loaded, in which order, and for which patients."""

from __future__ import annotations

import fcntl
import os
import struct
import tokenize
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from pipelines.history.change_detection import Positions, loaded_of
from pipelines.history.digests import EARLIER_ENTRY, ENTRY, Entries, Hashes
from vitalake.errors import LakeError
from vitalake.folders import folder_lock, sync_folder

MEMBERS = ("entries", "form", "given", "records", "owned")
"""Of a file; see Known."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a file says.

    Attributes:
        entries: of the messages, in the order of loading.
        form: a digest of the query's columns.
        given_us: the greatest version by time that a load has given; 0: not known.
        records: records of an earlier release's file, which does not say which of them were loaded; in order.
        owned: the same, of record and patient together.
    """

    entries: Entries = field(default_factory=lambda: np.zeros(0, ENTRY))
    form: str = ""
    given_us: int = 0
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
        foreign: whether another source has the record, and only for other patients.
        sources: the names of those sources.
        own: whether this source has loaded the record for some patient, in any incarnation.
        moved: whether it has done so, and only for other patients.
    """

    loaded: npt.NDArray[np.bool_]
    foreign: npt.NDArray[np.bool_]
    sources: list[str]
    own: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]


class KnownRows:
    """The file of digests of one source, dataset and incarnation."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name = home, name
        self.path = home / "history" / f"{name}.npz"

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
    ) -> Before:
        """Return what was loaded before of the records of a query, by this source and by others.

        Published, a record of two sources is one record, of which one is shown. Of a load that is under way, all that
        it noted counts; of others, what the lake has. Call it within ``locked``.

        Args:
            found: the entries of all messages of the query.
            asked: which of them are not known to be as this source has loaded them.
            positions_of: returns how much the lake has of what a file is named after.
            incarnations: names of the source's incarnations, also earlier ones, of which the lake has messages.

        Raises:
            LakeError: a file is damaged.
        """
        source, dataset, _ = self.name.split(".")
        seen, foreign, own, same = (np.zeros(len(found), np.bool_) for _ in range(4))
        told, sources = set[str](), set[str]()
        others: dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = {}
        for path in sorted(self.path.parent.glob(f"*.{dataset}.*.npz")):
            if path == self.path:
                continue
            under_way = _is_loading(path)  # asked first: if it ends now, the lake has its messages
            positions = positions_of(path.stem)
            if not (positions or under_way):
                continue
            known = read_known(path)
            loaded = loaded_of(known.entries, positions)
            if loaded is not None and known.complete:
                told.add(path.stem)
            if loaded is not None and not under_way:
                known = replace(known, entries=loaded)
            seen |= known.has(found)
            recorded, owned = known.owners(found)
            if (other := path.name.partition(".")[0]) == source:
                own, same = own | recorded, same | owned
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
            seen[at] |= known.has(found[at]) & ~_among(found["key"][at], known.entries["key"])
        if not told.issuperset(incarnations):  # nothing tells which records these are
            seen[:] = True
        return Before(seen, foreign, sorted(sources), own, own & ~same)

    def read(self) -> Known:
        """Return what the file says; nothing if there is none.

        Raises:
            LakeError: it is damaged.
        """
        try:
            return read_known(self.path)
        except FileNotFoundError:
            return Known()

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
        values = (known.entries, np.array(known.form), np.array(known.given_us), *earlier)
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
        if earlier := entries.dtype == EARLIER_ENTRY:
            entries = np.zeros(len(entries), ENTRY)
            for name in EARLIER_ENTRY.names or ():
                entries[name] = arrays["entries"][name]
        # Not checked by zipfile: a length that swallows the names of the members behind it.
        all_there = names in (({"entries", "form"}, set(MEMBERS) - {"given"}) if earlier else (set(MEMBERS),))
        all_there &= not any(member.comment for member in archive.infolist())
        if not all_there or entries.dtype != ENTRY or not records.dtype == owned.dtype == np.uint64:
            raise ValueError
        return Known(entries, str(arrays["form"]), int(arrays.get("given", 0)), records, owned)


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


def _among(numbers: Hashes, *among: Hashes) -> npt.NDArray[np.bool_]:
    """Return which numbers are among others."""
    known, order = np.sort(np.concatenate(among)), np.argsort(numbers)
    found = np.zeros(len(numbers), np.bool_)
    if len(known):  # looked up in order: in that of the rows, every step would miss the processor's cache
        asked = numbers[order]
        found[order] = known[np.minimum(np.searchsorted(known, asked), len(known) - 1)] == asked
    return found
