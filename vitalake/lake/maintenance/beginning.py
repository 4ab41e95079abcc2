"""Writes entries of a table's log again that name no rows of their own.

The first one describes the table's columns. What one with a checkpoint said is in the checkpoint.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from deltalake import DeltaTable

from vitalake import clock
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.tables.entry_digests import LogProblem
from vitalake.lake.tables.log import NOTHING_TO_FOLLOW, examine
from vitalake.lake.tables.log_files import LOG, SET_ASIDE, STAMP, entry_name, list_log
from vitalake.lake.tables.storage import Storage, open_storage
from vitalake.lake.tables.table import Table

FIRST = entry_name(0)


def can_restore_first_entry(storage: Storage, problems: Sequence[LogProblem]) -> bool:
    """Return whether only the first entry of a log is damaged or gone, and the entries after it are there."""
    versions = {problem.version for problem in problems}
    entries = set(list_log(storage).entries)
    return 0 in versions and 1 not in versions and bool(entries) and (1 in entries or entries == {0})


def restore_first_entry(storage: Storage, form: Dataset) -> str:
    """Write the first entry of a log again, with the columns that the dataset has today; return its name.

    The next entry holds the digest of the original one, so the new one counts as damaged. ``checkpoint_beginning`` ends
    that; it must follow once the log can be read. A repair that is killed between the two writes the entry again.
    """
    if storage.fs.get_file_info(f"{storage.root}/{LOG}/{FIRST}").type.name != "NotFound" or _is_link(storage):
        storage.fs.create_dir(f"{storage.root}/{SET_ASIDE}", recursive=True)
        # Not under the name of an entry that is taken out for good: nothing is lost with this one.
        stamp = clock.now().strftime(STAMP)
        storage.fs.move(f"{storage.root}/{LOG}/{FIRST}", f"{storage.root}/{SET_ASIDE}/{stamp}.{FIRST}.begun-again")
    with tempfile.TemporaryDirectory() as folder:
        zone = storage.name.rpartition("/")[0]
        made = Table(form, open_storage(folder, {}), zone=zone).storage
        content = Path(made.root, LOG, FIRST).read_bytes()
    storage.write_small(f"{LOG}/{FIRST}", content)
    return FIRST


def _is_link(storage: Storage) -> bool:
    return storage.local and Path(storage.root, LOG, FIRST).is_symlink()


def checkpoint_beginning(storage: Storage) -> None:
    """Write a checkpoint, after which no entry is compared with the first one any more.

    Raises:
        OSError, DeltaError: storage refuses.
    """
    DeltaTable(storage.uri, storage_options=storage.options or None).create_checkpoint()


def restore_newest_entry(storage: Storage) -> list[str]:
    """Write the newest entry of a log again if it is gone and its checkpoint is there; return the names of what was.

    delta-rs reads such a log, and cannot commit to it.
    """
    found = [problem.name for problem in examine(storage) if problem.how == NOTHING_TO_FOLLOW]
    entry = {"commitInfo": {"timestamp": clock.now_us() // 1000, "operation": "WRITE"}}
    for name in found:
        storage.write_small(f"{LOG}/{name}", msgspec.json.encode(entry))
    return found
