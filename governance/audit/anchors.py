"""Keeps copies of the audit's heads elsewhere, so that a chain that was rolled back or deleted is noticed.

Each chain also names the heads of the others in its own records: see ``Chain.append``. A folder next to the audit's,
and one on other storage if the settings name one, hold the newest signed head of every chain, one file each.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from governance.audit.chain import Chain, chain_names, heads_folder
from governance.audit.records import Head, Seals

OUTSIDE = "audit.heads"
"""The name of the folder with heads on other storage."""


class Anchors:
    """One folder with copies of heads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def heads(self, seals: Seals) -> dict[str, Head]:
        """Return the heads by chain; files without a valid signature are ignored.

        Raises:
            OSError: a file cannot be read.
        """
        found = {name: seals.check((self.folder / name).read_bytes(), writer=name) for name in self._names()}
        return {name: head for name, head in found.items() if head is not None}

    def damaged(self, seals: Seals) -> list[str]:
        """Return the names of the files that are not a head with a valid signature, or cannot be read."""
        return [name for name in self._names() if not self._is_valid(name, seals)]

    def _is_valid(self, name: str, seals: Seals) -> bool:
        try:
            return seals.check((self.folder / name).read_bytes(), writer=name) is not None
        except OSError:
            return False

    def keep(self, heads: Mapping[str, Head], seals: Seals) -> None:
        """Store heads, synced. A head never replaces one with more records: a rolled-back chain must not hide itself.

        Raises:
            OSError: the folder cannot be written. Its parent is not created: if it is missing, its disk is not mounted.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        stored = self.heads(seals)
        for name, head in heads.items():
            if name in stored and head.records <= stored[name].records:
                continue
            staged = self.folder / f".{name}.{secrets.token_hex(4)}"
            try:
                descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as out:
                    out.write(seals.sign(head))
                    out.flush()
                    os.fsync(out.fileno())
                staged.replace(self.folder / name)
            finally:
                staged.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".") if self.is_there() else []

    def is_there(self) -> bool:
        """Return whether the folder exists."""
        return self.folder.is_dir()


def anchors_of(folder: Path, outside: Path | None) -> list[Anchors]:
    """Return the folders with copies of an audit's heads: next to it, and on other storage.

    Args:
        folder: of the audit.
        outside: a folder on other storage; None: there is none.
    """
    return [Anchors(heads_folder(folder)), *([] if outside is None else [Anchors(outside / OUTSIDE)])]


def heads_of(folder: Path, seals: Seals) -> dict[str, Head]:
    """Return the heads of an audit's chains; a chain whose head is missing or not valid is left out."""
    found = {name: Chain(folder, name, seals).head() for name in sorted(chain_names(folder))}
    return {name: head for name, head in found.items() if head is not None}


def furthest(anchors: Sequence[Anchors], seals: Seals) -> dict[str, Head]:
    """Return for each chain the copied head with the most records; folders that cannot be read are ignored."""
    best: dict[str, Head] = {}
    for anchor in anchors:
        try:
            heads = anchor.heads(seals)
        except OSError:
            continue
        for name, head in heads.items():
            if name not in best or head.records > best[name].records:
                best[name] = head
    return best
