"""Finds the messages of a source that are new or were changed since they were loaded.

A file in the home keeps a digest of every loaded message, in the order of loading. It is written before the messages
are. The lake's positions say how many of its entries were really loaded, so a load that is killed at any moment neither
leaves out a message nor loads one twice. If the file is missing, as many messages as the lake has are skipped by their
place in the query, and their digests are taken as they are now. A damaged file is refused.

Files of other sources, and of other incarnations of the source, say which records were loaded before, and for whom.
"""

from __future__ import annotations

import fcntl
import hashlib
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
import pyarrow as pa

from pipelines.history.columns import IDENTITY
from vitalake.errors import LakeError
from vitalake.folders import folder_lock, sync_folder
from vitalake.lake.datasets.dataset import Dataset

ENTRY = np.dtype(
    [("key", "<u8"), ("content", "<u8"), ("changed", "u1"), ("replaced", "<u8"), ("record", "<u8"), ("owned", "<u8")]
)
"""41 bytes per message: hashes of its key and version and of all its columns; whether it replaces another message, and
the content hash of that one; a hash of its record, whatever the version, and one of record and patient together.

The last is 0 if the message has no number or no patient, or if the patient is part of the key: then the key says whose
it is. The record is 0 only in an entry that an earlier release wrote."""

_EARLIER_ENTRY = np.dtype([(name, ENTRY[name]) for name in ("key", "content", "changed", "replaced")])
"""Entry of an earlier release, which kept the last two hashes in arrays of their own, of rows loaded or not."""

SKIPPED, NEW, CHANGED = 0, 1, 2
"""What is done with a message: it was loaded before, is loaded, or is loaded in the place of another one."""

_U64 = npt.NDArray[np.uint64]
_Entries = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Positions:
    """How many messages of a source the lake has: those loaded as new, and those loaded because they had changed."""

    new: int
    changed: int

    def __bool__(self) -> bool:
        """Return whether the lake has any."""
        return self.new + self.changed > 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with each message of a query.

    Attributes:
        fate: SKIPPED, NEW or CHANGED, for each message.
        entries: the entries of all messages that are loaded once the plan is done.
        missing: how many loaded messages the query no longer returns.
    """

    fate: npt.NDArray[np.uint8]
    entries: _Entries
    missing: int


def plan(found: _Entries, known: _Entries, positions: Positions) -> Plan:
    """Return what is to be done with each message that the query returns now.

    Args:
        found: the entries of all messages, in the query's order.
        known: the entries of the file.
        positions: of the lake.
    """
    loaded = loaded_of(known, positions)
    if loaded is None:
        return _by_place(found, positions)
    loaded = _with_records(loaded, found)
    replaced = _pairs(loaded[loaded["changed"] == 1], content="replaced")
    current = loaded[~_matched(_pairs(loaded), replaced)]
    unchanged = _matched(_pairs(found), _pairs(current))
    gone = current[~_matched(_pairs(current), _pairs(found))]
    entries, place = found[~unchanged].copy(), np.flatnonzero(~unchanged)
    fate = np.where(unchanged, SKIPPED, NEW).astype(np.uint8)
    # A message that is gone and one that is new under the same key: the new one replaces the other.
    gone_of_key: dict[int, list[int]] = {}
    for key, content in zip(gone["key"].tolist(), gone["content"].tolist(), strict=True):
        gone_of_key.setdefault(key, []).append(content)
    for i in np.flatnonzero(np.isin(entries["key"], gone["key"])).tolist():
        if contents := gone_of_key[int(entries["key"][i])]:
            entries["changed"][i], entries["replaced"][i] = 1, contents.pop(0)
            fate[place[i]] = CHANGED
    missing = sum(map(len, gone_of_key.values()))
    return Plan(fate, np.concatenate([loaded, entries]), missing)


def rebased(known: _Entries, found: _Entries, positions: Positions) -> _Entries:
    """Return the loaded entries with the contents that a query with other columns gives them.

    A message with the same key counts as unchanged: otherwise a new column would change every message.

    Args:
        known: the entries of the file, made with the earlier columns.
        found: the entries of all messages, made with the columns of now.
        positions: of the lake.
    """
    loaded = loaded_of(known, positions)
    if loaded is None:
        return known[:0]
    replaced = _pairs(loaded[loaded["changed"] == 1], content="replaced")
    current = np.flatnonzero(~_matched(_pairs(loaded), replaced))
    _, name = np.unique(np.r_[loaded["key"][current], found["key"]], return_inverse=True)
    loaded_index, found_index = _index_in_group(name[: len(current)]), _index_in_group(name[len(current) :])
    found_names = zip(name[len(current) :].tolist(), found_index.tolist(), strict=True)
    place_of = {pair: i for i, pair in enumerate(found_names)}
    result = loaded.copy()
    loaded_names = zip(name[: len(current)].tolist(), loaded_index.tolist(), strict=True)
    for i, pair in zip(current.tolist(), loaded_names, strict=True):
        if pair in place_of:
            result["content"][i] = found["content"][place_of[pair]]
    return result


def loaded_of(known: _Entries, positions: Positions) -> _Entries | None:
    """Return the entries that were really loaded, by the lake's positions; None: the lake has more than the file."""
    changed = known["changed"] == 1
    number = np.where(changed, np.cumsum(changed), np.cumsum(~changed))
    loaded = number <= np.where(changed, positions.changed, positions.new)
    return known[loaded] if int(loaded.sum()) == positions.new + positions.changed else None


def _with_records(loaded: _Entries, found: _Entries) -> _Entries:
    """Return entries, those of an earlier release with the records and owners of the messages that are still there."""
    bare = np.flatnonzero(loaded["record"] == 0)
    if not (len(bare) and len(found)):
        return loaded
    result = loaded.copy()
    for name, of, among in (
        ("record", loaded["key"][bare], found["key"]),
        ("owned", _pairs(loaded[bare]), _pairs(found)),
    ):
        order = np.argsort(among)
        at = order[np.minimum(np.searchsorted(among, of, sorter=order), len(order) - 1)]
        result[name][bare] = np.where(among[at] == of, found[name][at], 0)
    return result


def _by_place(found: _Entries, positions: Positions) -> Plan:
    """Return the plan for a home without a file: the first messages count as loaded, as they are now."""
    fate = np.full(len(found), NEW, np.uint8)
    fate[: positions.new] = SKIPPED
    loaded = np.zeros(positions.new + positions.changed, ENTRY)
    first = found[: positions.new]
    loaded[: len(first)] = first
    loaded["changed"][positions.new :] = 1
    return Plan(fate, np.concatenate([loaded, found[positions.new :]]), max(positions.new - len(found), 0))


def _matched(pairs: _U64, among: _U64) -> npt.NDArray[np.bool_]:
    """Return which pairs are found among others; a pair that is there n times matches the first n equal ones."""
    _, group = np.unique(np.concatenate([among, pairs]), return_inverse=True)
    own, others = group[len(among) :], group[: len(among)]
    available = np.bincount(others, minlength=len(group) + 1)
    matched: npt.NDArray[np.bool_] = _index_in_group(own) < available[own]
    return matched


def _index_in_group(groups: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the index of each element among those of its group, from 0."""
    order = np.argsort(groups, kind="stable")
    begins = np.r_[True, groups[order][1:] != groups[order][:-1]][: len(groups)]
    numbers = np.zeros(len(groups), np.intp)
    place = np.arange(len(groups))
    numbers[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return numbers


def _pairs(entries: _Entries, *, content: str = "content") -> _U64:
    """Return key and content (or what was replaced) as one number, which is sorted in a tenth of the time."""
    pairs: _U64 = _mix(entries["key"] ^ _mix(entries[content]))
    return pairs


# -- the file ----------------------------------------------------------------------------------------------------


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

    entries: _Entries = field(default_factory=lambda: np.zeros(0, ENTRY))
    form: str = ""
    given_us: int = 0
    records: _U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    owned: _U64 = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def complete(self) -> bool:
        """Return whether every entry names its record."""
        return bool(self.entries["record"].all())

    def has(self, found: _Entries) -> npt.NDArray[np.bool_]:
        """Return which messages are of a record that this file has, whatever the version and the patient."""
        earlier = self.entries["key"][self.entries["record"] == 0]  # of a query without versions: the record's
        return _among(found["record"], self.entries["record"], self.records) | _among(found["key"], earlier)

    def owners(self, found: _Entries) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
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
        self.name = name
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
        found: _Entries,
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
            elif (strange := recorded & ~owned).any():
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
        if earlier := entries.dtype == _EARLIER_ENTRY:
            entries = np.zeros(len(entries), ENTRY)
            for name in _EARLIER_ENTRY.names or ():
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


def _among(numbers: _U64, *among: _U64) -> npt.NDArray[np.bool_]:
    """Return which numbers are among others."""
    known, order = np.sort(np.concatenate(among)), np.argsort(numbers)
    found = np.zeros(len(numbers), np.bool_)
    if len(known):  # looked up in order: in that of the rows, every step would miss the processor's cache
        asked = numbers[order]
        found[order] = known[np.minimum(np.searchsorted(known, asked), len(known) - 1)] == asked
    return found


# -- digests -----------------------------------------------------------------------------------------------------


class Digests:
    """Makes entries of rows. The hashes are keyed with a secret of the home: without it they reveal nothing."""

    def __init__(self, dataset: Dataset, secret: bytes) -> None:
        self._secret = hashlib.blake2b(b"history", key=secret, digest_size=32).digest()
        self._measures = dataset.measures
        self._key = (*IDENTITY, "version") if dataset.measures else dataset.key
        self._nameless = ("patient_id", "code", "effective_at", "version")
        patient = [column.name for column in dataset.columns if column.data_class == "patient-identifier"]
        number = IDENTITY if dataset.measures else tuple(name for name in dataset.key if name != "version")
        self._number = number
        self._of_claim = (*patient, *(IDENTITY[1:] if dataset.measures else number))
        self._has_owners = bool(patient) and patient[0] not in number

    def of(self, table: pa.Table, starts: npt.NDArray[np.int64]) -> _Entries:
        """Return the entry of each message of a table."""
        entries = np.zeros(len(starts), ENTRY)
        if not len(starts):
            return entries
        hashes = {name: self._hashes(name, table[name]) for name in table.schema.names}
        place = np.arange(table.num_rows) - np.repeat(starts, np.diff(np.r_[starts, table.num_rows]))
        rows = _mix(_sum(hashes, table.schema.names) + _mix(place.astype(np.uint64)))
        entries["content"] = np.add.reduceat(rows, starts)
        keys, records = _sum(hashes, self._key)[starts], _record(hashes, self._number, starts)
        if self._measures:  # an observation without an identifier is identified by its other columns
            unnamed = np.ones(table.num_rows, np.bool_)
            if IDENTITY[1] in hashes:
                unnamed = table[IDENTITY[1]].combine_chunks().is_null().to_numpy(zero_copy_only=False)
            keys = np.where(unnamed[starts], _sum(hashes, self._nameless)[starts], keys)
            records = np.where(unnamed[starts], _record(hashes, self._nameless[:-1], starts), records)
        entries["key"], entries["record"] = keys, records
        if self._has_owners and all(name in hashes for name in self._of_claim):
            given = np.logical_and.reduce([self._is_given(name, hashes[name][starts]) for name in self._of_claim])
            entries["owned"] = np.where(given, _mix(records ^ _mix(hashes[self._of_claim[0]][starts])), 0)
        return entries

    def _is_given(self, name: str, hashes: _U64) -> npt.NDArray[np.bool_]:
        """Return which values are neither null nor empty; with an empty number there is no record."""
        empty = [self._text(name.encode(), text) for text in (b"", b"b''")]
        return ~np.isin(hashes, np.array([0, *empty], np.uint64))

    def _hashes(self, name: str, column: pa.ChunkedArray) -> _U64:
        """Return a 64-bit hash of each value; null has a fixed one."""
        kind = column.type
        salt = self._text(name.encode(), b"")
        array = column.combine_chunks()
        if pa.types.is_floating(kind):
            floats = array.cast(pa.float64())
            bits = floats.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
        elif pa.types.is_integer(kind) or pa.types.is_temporal(kind):
            bits = array.view(_integer(kind)).cast(pa.int64(), safe=False).fill_null(0)
            bits = bits.to_numpy(zero_copy_only=False).view(np.uint64)
        else:
            encoded = array if pa.types.is_dictionary(kind) else array.dictionary_encode()
            values = [self._text(name.encode(), str(value).encode()) for value in encoded.dictionary.to_pylist()]
            with_null = np.array([*values, 0], np.uint64)
            return with_null[encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)]
        hashes = _mix(bits + np.uint64(salt))
        return np.where(array.is_null().to_numpy(zero_copy_only=False), np.uint64(0), hashes)

    def _text(self, name: bytes, value: bytes) -> int:
        digest = hashlib.blake2b(name + b"\0" + value, key=self._secret, digest_size=8).digest()
        return int.from_bytes(digest)


def _integer(kind: pa.DataType) -> pa.DataType:
    return kind if pa.types.is_integer(kind) else pa.int32() if kind.bit_width == 32 else pa.int64()


def _sum(hashes: dict[str, _U64], names: tuple[str, ...] | list[str]) -> _U64:
    total = np.zeros(len(next(iter(hashes.values()))), np.uint64)
    for number, name in enumerate(names):
        if name in hashes:
            total += _mix(hashes[name] + np.uint64(number))
    return total


def _record(hashes: dict[str, _U64], names: tuple[str, ...], starts: npt.NDArray[np.int64]) -> _U64:
    """Return a hash of columns of each message; a null, whose hash is 0, counts like a column that is not there."""
    record = _mix(np.zeros(len(starts), np.uint64))
    for name in names:
        if name in hashes:
            part = hashes[name][starts]
            record = np.where(part == 0, record, _mix(record + part))
    return np.maximum(record, np.uint64(1))  # 0 is an entry of an earlier release


def _mix(x: _U64) -> _U64:
    """Mix by the finaliser of splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
