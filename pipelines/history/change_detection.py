"""Finds the messages of a source that are new or were changed since they were loaded.

A file in the home keeps a digest of every loaded message, in the order of loading. It is written before the messages
are. The lake's positions say how many of its entries were really loaded, so a load that is killed at any moment neither
leaves out a message nor loads one twice. If the file is missing, as many messages as the lake has are skipped by their
place in the query, and their digests are taken as they are now.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.history.columns import IDENTITY
from vitalake.errors import LakeError
from vitalake.folders import folder_lock, sync_folder
from vitalake.lake.datasets.dataset import Dataset

ENTRY = np.dtype([("key", "<u8"), ("content", "<u8"), ("changed", "u1"), ("replaced", "<u8")])
"""25 bytes per message: a hash of its key and version, a hash of all its columns, whether it replaces another message,
and the content hash of the one that it replaces."""

SKIPPED, NEW, CHANGED = 0, 1, 2
"""What is done with a message: it was loaded before, is loaded, or is loaded in the place of another one."""

_U64 = npt.NDArray[np.uint64]
_Entries = npt.NDArray[np.void]


CLAIM = np.dtype([("record", "<u8"), ("owned", "<u8")])
"""16 bytes per message: a hash of its record's number, whatever the version, and one of number and patient together.

Both are 0 if there is no number or no patient, or if the patient is part of the key: then the key says whose it is."""


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
    loaded = _loaded_of(known, positions)
    if loaded is None:
        return _by_place(found, positions)
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
    loaded = _loaded_of(known, positions)
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


def _loaded_of(known: _Entries, positions: Positions) -> _Entries | None:
    """Return the entries that were really loaded, by the lake's positions; None: the file has fewer than the lake."""
    changed = known["changed"] == 1
    number = np.where(changed, np.cumsum(changed), np.cumsum(~changed))
    loaded = number <= np.where(changed, positions.changed, positions.new)
    return known[loaded] if int(loaded.sum()) == positions.new + positions.changed else None


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


class KnownRows:
    """The file of digests of one source and dataset."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self._path = home / "history" / f"{name}.npz"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the files of all sources, so that no other load notes claims between a check of them and a write.

        It is held for moments only, and never together with another one: so loads cannot wait for each other for ever.

        Raises:
            LakeError: the folder cannot be made.
        """
        with self._writing():
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
        with folder_lock(self._path.parent):
            yield

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Let others see that a load of this source is under way; call it within ``locked``, and leave it later.

        Another run of the same source may be under way, too, if this one takes over from it.
        """
        with self._writing():
            descriptor = os.open(_lock_of(self._path), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def of_another(self, claims: _Entries, has_rows: Callable[[str], bool]) -> tuple[npt.NDArray[np.bool_], list[str]]:
        """Return which records another source has loaded for another patient, and the names of those sources.

        Published, a record of two sources is one record, of which one is shown. A load that was killed before it
        loaded anything has no records; one that is under way has all that it noted. A source whose file is missing, or
        was written by a release that noted no claims, is not known. Call it within ``locked``.

        Args:
            claims: of all messages of the query.
            has_rows: whether the lake has rows of the source, dataset and incarnation of a file.
        """
        source, dataset, _ = self.name.split(".")
        found, names = np.zeros(len(claims), np.bool_), list[str]()
        for path in sorted(self._path.parent.glob(f"*.{dataset}.*.npz")):
            other = path.name.partition(".")[0]
            if other == source:
                continue
            records, owned = _claims_of(path)
            hits = _in_sorted(claims["record"], records) & ~_in_sorted(claims["owned"], owned)
            # In this order: a load that ends in between has its rows in the lake.
            if hits.any() and (_is_loading(path) or has_rows(path.stem)):
                names.append(other)
                found |= hits
        return found, sorted(set(names))

    def loaded_before(self, claims: _Entries, has_rows: Callable[[str], bool]) -> npt.NDArray[np.bool_]:
        """Return which records this source has loaded before, for whatever patient, also in an earlier incarnation."""
        source, dataset, _ = self.name.split(".")
        found = np.zeros(len(claims), np.bool_)
        for path in self._path.parent.glob(f"{source}.{dataset}.*.npz"):
            if has_rows(path.stem):
                found |= _in_sorted(claims["record"], _claims_of(path)[0])
        return found

    def read(self) -> tuple[_Entries, str]:
        """Return its entries and a digest of the query's columns; no entries if the file is missing or unreadable."""
        try:
            with np.load(self._path, allow_pickle=False) as file:
                entries, form = file["entries"], str(file["form"])
        except (OSError, ValueError, EOFError, KeyError, BadZipFile, TypeError):
            return np.zeros(0, ENTRY), ""
        return (entries, form) if entries.dtype == ENTRY and entries.ndim == 1 else (np.zeros(0, ENTRY), "")

    def write(self, entries: _Entries, form: str, claims: _Entries, *, add: bool = True) -> None:
        """Write entries and claims; they are durable when this returns.

        Args:
            entries: all of them.
            form: a digest of the query's columns.
            claims: of the query's messages.
            add: whether the claims of before stay; they do not if nothing was loaded with them.

        Raises:
            LakeError: the file cannot be written; nothing was loaded.
        """
        part = self._path.with_suffix(".part")
        claims = claims[claims["record"] != 0]
        before = _claims_of(self._path) if add else (np.zeros(0, np.uint64), np.zeros(0, np.uint64))
        known = zip(before, (claims["record"], claims["owned"]), strict=True)
        records, owned = (_sorted_once(np.concatenate(both)) for both in known)
        with self._writing():
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                np.savez(file, entries=entries, form=np.array(form), records=records, owned=owned)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
            sync_folder(self._path.parent)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"Digests of the loaded messages cannot be written ({error.strerror})",
                where=str(self._path.parent),
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


def _claims_of(path: Path) -> tuple[_U64, _U64]:
    """Return the two halves of the claims in a file of digests; none if it has none, or cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            records, owned = file["records"], file["owned"]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, TypeError):
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    return records, owned


def _sorted_once(numbers: _U64) -> _U64:
    """Return distinct numbers in order; np.unique takes ten times as long for millions of them."""
    numbers = np.sort(numbers)
    return numbers[np.r_[True, numbers[1:] != numbers[:-1]][: len(numbers)]]


def _in_sorted(numbers: _U64, among: _U64) -> npt.NDArray[np.bool_]:
    """Return which numbers are among distinct ones in order."""
    if not len(among):
        return np.zeros(len(numbers), np.bool_)
    found: npt.NDArray[np.bool_] = among[np.minimum(np.searchsorted(among, numbers), len(among) - 1)] == numbers
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
        self._number = number if patient and patient[0] not in number else ()
        self._of_claim = (*patient, *(IDENTITY[1:] if dataset.measures else number))

    def of(self, table: pa.Table, starts: npt.NDArray[np.int64]) -> tuple[_Entries, _Entries]:
        """Return the entry and the claim of each message of a table."""
        entries, claims = np.zeros(len(starts), ENTRY), np.zeros(len(starts), CLAIM)
        if not len(starts):
            return entries, claims
        hashes = {name: self._hashes(name, table[name]) for name in table.schema.names}
        place = np.arange(table.num_rows) - np.repeat(starts, np.diff(np.r_[starts, table.num_rows]))
        rows = _mix(_sum(hashes, table.schema.names) + _mix(place.astype(np.uint64)))
        entries["content"] = np.add.reduceat(rows, starts)
        keys = _sum(hashes, self._key)[starts]
        if self._measures:  # an observation without an identifier is identified by its other columns
            unnamed = np.ones(table.num_rows, np.bool_)
            if IDENTITY[1] in hashes:
                unnamed = table[IDENTITY[1]].combine_chunks().is_null().to_numpy(zero_copy_only=False)
            keys = np.where(unnamed[starts], _sum(hashes, self._nameless)[starts], keys)
        entries["key"] = keys
        if self._number and all(name in hashes for name in self._of_claim):
            given = np.logical_and.reduce([self._is_given(name, hashes[name][starts]) for name in self._of_claim])
            record = _mix(np.zeros(len(starts), np.uint64))
            for name in self._number:
                if name in hashes:  # a null has the hash 0: it counts like a column that is not there
                    part = hashes[name][starts]
                    record = np.where(part == 0, record, _mix(record + part))
            claims["record"] = np.where(given, record, 0)
            claims["owned"] = np.where(given, _mix(record ^ _mix(hashes[self._of_claim[0]][starts])), 0)
        return entries, claims

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


def _mix(x: _U64) -> _U64:
    """Mix by the finaliser of splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
