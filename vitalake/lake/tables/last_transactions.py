"""Reads every application's last transaction of a table's log, and goes on from version to version.

delta-rs returns the one of an application that is named, and searches the log each time: with a hundred entries since
the last checkpoint 4 ms, where reading all of them takes 0.6 ms, and the entry of one more commit 0.02 ms.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pyarrow as pa

from vitalake.lake.tables.log import checkpoint_actions, explained
from vitalake.lake.tables.log_files import entry_name, list_log, read
from vitalake.lake.tables.storage import Storage

MOST_NEW = 50
"""Entries that are read one by one after those that are known; of more the newest checkpoint has most."""


class LastTransactions:
    """The last transactions of a log; another log in its place needs another object."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._version = -1
        self._found: dict[str, int] = {}

    def at(self, version: int) -> Mapping[str, int]:
        """Return every application's last transaction, as of a version.

        Raises:
            VitaLakeError: the log cannot be read, or its entries up to that version have expired.
        """
        try:
            known = self._version >= 0 and 0 <= version - self._version <= MOST_NEW
            if not (known and self._read_on(version)):
                self._found = self._read(version)
        except (OSError, pa.ArrowException, msgspec.MsgspecError) as error:
            raise explained(self._storage, error) from None
        self._version = version
        return self._found

    def _read_on(self, version: int) -> bool:
        """Take over what the entries since the known version say; return False if one of them has expired."""
        found = dict[str, int]()
        for number in range(self._version + 1, version + 1):
            try:
                found |= _transactions_of(read(self._storage, entry_name(number)))
            except FileNotFoundError:
                return False
        self._found = self._found | found if found else self._found
        return True

    def _read(self, version: int) -> dict[str, int]:
        files = list_log(self._storage)
        base = max((number for number in files.checkpoints if number <= version), default=-1)
        if missing := sorted({*range(base + 1, version + 1)} - files.entries.keys()):
            raise FileNotFoundError(entry_name(missing[0]))
        found: dict[str, int] = {}
        for name in files.checkpoints.get(base, ()):
            rows = checkpoint_actions(self._storage, name, columns=["txn"])["txn"].drop_null().to_pylist()
            found.update({row["appId"]: row["version"] for row in rows})
        for number in range(base + 1, version + 1):
            found |= _transactions_of(read(self._storage, files.entries[number]))
        return found


def _transactions_of(entry: bytes) -> dict[str, int]:
    found = {}
    for line in entry.splitlines():
        if b'"txn"' in line and (action := msgspec.json.decode(line).get("txn")):
            found[action["appId"]] = action["version"]
    return found
