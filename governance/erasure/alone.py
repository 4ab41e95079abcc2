"""Keeps everything from running beside an erasure that an erasure relies on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vitalake.folders import folder_lock
from vitalake.settings import Settings


@contextmanager
def erasures_locked(settings: Settings) -> Iterator[None]:
    """Keep other processes of this home from what must not come between a look and a deletion; wait for them first.

    These are an erasure (another one would finish what runs here, and write a second certificate of it), a new version
    of the pseudonym key (an erasure looks for the pseudonyms that it knew when it began), a legal hold, and retention.
    """
    folder = settings.path(settings.certificates)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with folder_lock(folder):
        yield
