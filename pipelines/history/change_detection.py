"""Finds the messages of a source that are new or were changed since they were loaded.

A file in the home keeps a digest of every loaded message, in the order of loading. It is written before the messages
are. The lake's positions say how many of its entries were really loaded, so a load that is killed at any moment neither
leaves out a message nor loads one twice. If the file is missing, as many messages as the lake has are skipped by their
place in the query, and their digests are taken as they are now. A damaged file is refused.

Files of other sources, and of other incarnations of the source, say which records were loaded before, and for whom.

A query can begin or cease to return versions. What is loaded since takes the place of what was loaded of a record
before; see given_versions.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.history.digests import ENTRY, PERHAPS_GIVEN, UNKNOWN_VERSION, UNVERSIONED, Entries, Hashes, mix

SKIPPED, NEW, CHANGED = 0, 1, 2
"""What is done with a message: it was loaded before, is loaded, or is loaded in the place of another one."""


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
    entries: Entries
    missing: int


def plan(found: Entries, known: Entries, positions: Positions) -> Plan:
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
    current = loaded[_current(loaded)]
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


def rebased(known: Entries, found: Entries, positions: Positions) -> Entries:
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
    current = np.flatnonzero(_current(loaded))
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


def loaded_of(known: Entries, positions: Positions) -> Entries | None:
    """Return the entries that were really loaded, by the lake's positions; None: the lake has more than the file."""
    changed = known["changed"] == 1
    number = np.where(changed, np.cumsum(changed), np.cumsum(~changed))
    loaded = number <= np.where(changed, positions.changed, positions.new)
    return known[loaded] if int(loaded.sum()) == positions.new + positions.changed else None


def highest_of(known: Entries, records: Hashes, *, given: bool = False) -> npt.NDArray[np.int64]:
    """Return the highest version that entries have of each of some records; UNVERSIONED where they have none.

    Args:
        known: the entries.
        records: which records are asked for.
        given: whether versions that loads gave count, too.
    """
    result = np.full(len(records), UNVERSIONED, np.int64)
    versions = np.maximum(known["version"], known["given"]) if given else known["version"]
    at = np.flatnonzero(versions > UNKNOWN_VERSION) if len(records) else np.zeros(0, np.intp)
    if len(at):
        at = at[np.argsort(known["record"][at], kind="stable")]
        names, versions = known["record"][at], versions[at]
        begins = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
        names, highest = names[begins], np.maximum.reduceat(versions, begins)
        place = np.minimum(np.searchsorted(names, records), len(names) - 1)
        result = np.where(names[place] == records, highest[place], UNVERSIONED)
    return result


def _current(loaded: Entries) -> npt.NDArray[np.bool_]:
    """Return which entries no later one has taken the place of."""
    current = _of_the_last_kind(loaded)
    # An entry replaces one of its own kind that was there then, and not an equal one from before the query changed.
    at = np.flatnonzero(current)
    replaced = _pairs(loaded[at][loaded["changed"][at] == 1], content="replaced")
    current[at] = ~_matched(_pairs(loaded[at]), replaced)
    return current


def _of_the_last_kind(loaded: Entries) -> npt.NDArray[np.bool_]:
    """Return which entries have a version, or none, like the last one that was loaded of their record.

    A row without a version is not shown any more once one with a version was loaded, nor the other way round: if the
    query returns it again, it is loaded again.
    """
    unversioned, versioned = loaded["version"] == UNVERSIONED, loaded["version"] > UNKNOWN_VERSION
    if not (unversioned.any() and versioned.any()):
        return np.ones(len(loaded), np.bool_)
    _, record = np.unique(loaded["record"], return_inverse=True)
    last_of = np.full((2, len(loaded)), -1)
    for kind, of_kind in enumerate((unversioned, versioned)):
        np.maximum.at(last_of[kind], record[of_kind], np.flatnonzero(of_kind))
    overtaken_at = np.where(unversioned, last_of[1][record], last_of[0][record])
    result: npt.NDArray[np.bool_] = ~(unversioned | versioned) | (np.arange(len(loaded)) > overtaken_at)
    return result


def _with_records(loaded: Entries, found: Entries) -> Entries:
    """Return entries, those of an earlier release with what the messages say that are still there."""
    bare, unknown = loaded["record"] == 0, loaded["version"] == UNKNOWN_VERSION
    if not (len(found) and (bare.any() or unknown.any())):
        return loaded
    result, pairs = loaded.copy(), (_pairs(loaded), _pairs(found))
    keys = loaded["key"], found["key"]
    for name, asked, (of, among) in (("record", bare, keys), ("owned", bare, pairs), ("version", unknown, keys)):
        at, order = np.flatnonzero(asked), np.argsort(among)
        place = order[np.minimum(np.searchsorted(among, of[at], sorter=order), len(order) - 1)]
        result[name][at] = np.where(among[place] == of[at], found[name][place], result[name][at])
    result["given"][(result["given"] == PERHAPS_GIVEN) & (result["version"] == UNVERSIONED)] = 0
    return result


def _by_place(found: Entries, positions: Positions) -> Plan:
    """Return the plan for a home without a file: the first messages count as loaded, as they are now."""
    fate = np.full(len(found), NEW, np.uint8)
    fate[: positions.new] = SKIPPED
    loaded = np.zeros(positions.new + positions.changed, ENTRY)
    first = found[: positions.new]
    loaded[: len(first)] = first
    loaded["version"][len(first) :] = UNKNOWN_VERSION
    loaded["given"] = PERHAPS_GIVEN
    loaded["changed"][positions.new :] = 1
    return Plan(fate, np.concatenate([loaded, found[positions.new :]]), max(positions.new - len(found), 0))


def _matched(pairs: Hashes, among: Hashes) -> npt.NDArray[np.bool_]:
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


def _pairs(entries: Entries, *, content: str = "content") -> Hashes:
    """Return key and content (or what was replaced) as one number, which is sorted in a tenth of the time."""
    pairs: Hashes = mix(entries["key"] ^ mix(entries[content]))
    return pairs
