"""What was loaded of a source, message by message, so that one that was changed there is seen.

A file of digests in the home, in the order in which messages were loaded. It is written before they are: how many of
its entries hold is said by the lake's positions, so that a load that is killed at any moment leaves no message out, and
none twice. Where it is missing, messages are passed over by their place, and remembered as they are now.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.history.columns import IDENTITY
from vitalake.errors import LakeError
from vitalake.folders import sync_folder
from vitalake.lake.datasets.dataset import Dataset

ENTRY = np.dtype([("key", "<u8"), ("content", "<u8"), ("changed", "u1"), ("replaced", "<u8")])
"""25 bytes a message: what it is about and in which version; all that it says; whether, and what, it replaces."""

PASSED, NEW, CHANGED = 0, 1, 2

_U64 = npt.NDArray[np.uint64]
_Entries = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Positions:
    """How many messages the lake has of a source: those that were new, and those that were changed afterwards."""

    new: int
    changed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with each message of a query.

    Attributes:
        fate: PASSED, NEW or CHANGED.
        entries: what will have been loaded then.
        missing: how many messages of before the query does not give any more.
    """

    fate: npt.NDArray[np.uint8]
    entries: _Entries
    missing: int


def plan(found: _Entries, known: _Entries, positions: Positions) -> Plan:
    """Return what is to be loaded of the messages that are there.

    Args:
        found: the digests of all messages, in the query's order.
        known: of the file.
        positions: of the lake.
    """
    loaded = _as_of(known, positions)
    if loaded is None:
        return _by_place(found, positions)
    replaced = _pairs(loaded[loaded["changed"] == 1], content="replaced")
    state = loaded[~_matched(_pairs(loaded), replaced)]
    passed = _matched(_pairs(found), _pairs(state))
    left = state[~_matched(_pairs(state), _pairs(found))]
    entries, place = found[~passed].copy(), np.flatnonzero(~passed)
    fate = np.where(passed, PASSED, NEW).astype(np.uint8)
    of_key: dict[int, list[int]] = {}
    for key, content in zip(left["key"].tolist(), left["content"].tolist(), strict=True):
        of_key.setdefault(key, []).append(content)
    for i in np.flatnonzero(np.isin(entries["key"], left["key"])).tolist():
        if others := of_key[int(entries["key"][i])]:
            entries["changed"][i], entries["replaced"][i] = 1, others.pop(0)
            fate[place[i]] = CHANGED
    missing = sum(map(len, of_key.values()))
    return Plan(fate, np.concatenate([loaded, entries]), missing)


def rebased(known: _Entries, found: _Entries, positions: Positions) -> _Entries:
    """Return entries as a query of other columns gives them: what is known by name has not changed by that.

    Args:
        known: of the file, by the columns of before.
        found: all messages, by those of now.
        positions: of the lake.
    """
    loaded = _as_of(known, positions)
    if loaded is None:
        return known[:0]
    replaced = _pairs(loaded[loaded["changed"] == 1], content="replaced")
    current = np.flatnonzero(~_matched(_pairs(loaded), replaced))
    _, name = np.unique(np.r_[loaded["key"][current], found["key"]], return_inverse=True)
    ours, theirs = _numbered(name[: len(current)]), _numbered(name[len(current) :])
    of_theirs = {pair: i for i, pair in enumerate(zip(name[len(current) :].tolist(), theirs.tolist(), strict=True))}
    now = loaded.copy()
    for i, pair in zip(current.tolist(), zip(name[: len(current)].tolist(), ours.tolist(), strict=True), strict=True):
        if pair in of_theirs:
            now["content"][i] = found["content"][of_theirs[pair]]
    return now


def _as_of(known: _Entries, positions: Positions) -> _Entries | None:
    """Return the entries that the lake has, of those that were meant to be loaded; None: the file has fewer."""
    changed = known["changed"] == 1
    number = np.where(changed, np.cumsum(changed), np.cumsum(~changed))
    there = number <= np.where(changed, positions.changed, positions.new)
    return known[there] if int(there.sum()) == positions.new + positions.changed else None


def _by_place(found: _Entries, positions: Positions) -> Plan:
    """Return the plan of a home that has no file: the first ones are loaded, as they are now."""
    fate = np.full(len(found), NEW, np.uint8)
    fate[: positions.new] = PASSED
    held = np.zeros(positions.new + positions.changed, ENTRY)
    place = found[: positions.new]
    held[: len(place)] = place
    held["changed"][positions.new :] = 1
    return Plan(fate, np.concatenate([held, found[positions.new :]]), max(positions.new - len(found), 0))


def _matched(these: _U64, those: _U64) -> npt.NDArray[np.bool_]:
    """Return which of some pairs are among others; of equal ones as many as there are."""
    _, group = np.unique(np.concatenate([those, these]), return_inverse=True)
    mine, others = group[len(those) :], group[: len(those)]
    available = np.bincount(others, minlength=len(group) + 1)
    matched: npt.NDArray[np.bool_] = _numbered(mine) < available[mine]
    return matched


def _numbered(groups: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return for each the how manieth of its group it is, from 0."""
    order = np.argsort(groups, kind="stable")
    begins = np.r_[True, groups[order][1:] != groups[order][:-1]][: len(groups)]
    numbers = np.zeros(len(groups), np.intp)
    place = np.arange(len(groups))
    numbers[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return numbers


def _pairs(entries: _Entries, *, content: str = "content") -> _U64:
    """Return key and content, or key and what was replaced, as one number: it is sorted in a tenth of the time."""
    pairs: _U64 = _mix(entries["key"] ^ _mix(entries[content]))
    return pairs


# -- the file ----------------------------------------------------------------------------------------------------


class KnownRows:
    """The file of one source and dataset."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self._path = home / "history" / f"{name}.npz"

    def read(self) -> tuple[_Entries, str]:
        """Return its entries, and the form of the query they are of; none, where it is missing or no such file."""
        try:
            with np.load(self._path, allow_pickle=False) as file:
                entries, form = file["entries"], str(file["form"])
        except (OSError, ValueError, EOFError, KeyError, BadZipFile, TypeError):
            return np.zeros(0, ENTRY), ""
        return (entries, form) if entries.dtype == ENTRY and entries.ndim == 1 else (np.zeros(0, ENTRY), "")

    def write(self, entries: _Entries, form: str) -> None:
        """Keep entries, durably before it returns.

        Raises:
            LakeError: there is no room; nothing was loaded.
        """
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                np.savez(file, entries=entries, form=np.array(form))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise LakeError(
                f"What is loaded cannot be remembered ({error.strerror})",
                where=str(self._path.parent),
                remedy="Make room there; nothing was loaded.",
            ) from None


# -- digests -----------------------------------------------------------------------------------------------------


class Digests:
    """Makes entries of rows, with a secret of the home: without it they tell nothing."""

    def __init__(self, dataset: Dataset, secret: bytes) -> None:
        self._secret = hashlib.blake2b(b"history", key=secret, digest_size=32).digest()
        self._key = (*IDENTITY, "version") if dataset.measures else dataset.key
        self._nameless = ("patient_id", "code", "effective_at", "version")

    def of(self, table: pa.Table, starts: npt.NDArray[np.int64]) -> _Entries:
        """Return the entry of each message of a table."""
        entries = np.zeros(len(starts), ENTRY)
        if not len(starts):
            return entries
        hashes = {name: self._hashes(name, table[name]) for name in table.schema.names}
        place = np.arange(table.num_rows) - np.repeat(starts, np.diff(np.r_[starts, table.num_rows]))
        rows = _mix(_sum(hashes, table.schema.names) + _mix(place.astype(np.uint64)))
        entries["content"] = np.add.reduceat(rows, starts)
        keys = _sum(hashes, self._key)[starts]
        if IDENTITY[1] in self._key:  # an observation without a name is named by what identifies it else
            unnamed = np.ones(table.num_rows, np.bool_)
            if IDENTITY[1] in hashes:
                unnamed = table[IDENTITY[1]].combine_chunks().is_null().to_numpy(zero_copy_only=False)
            keys = np.where(unnamed[starts], _sum(hashes, self._nameless)[starts], keys)
        entries["key"] = keys
        return entries

    def _hashes(self, name: str, column: pa.ChunkedArray) -> _U64:
        """Return a 64-bit hash of each value; null has one of its own."""
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
            known = np.array([*values, 0], np.uint64)
            return known[encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)]
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
    """Splitmix64's finaliser: every bit of the result hangs on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
