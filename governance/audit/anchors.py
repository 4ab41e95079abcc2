"""Where the audit's heads are kept besides the audit, so that a chain that was put back, or is gone, shows.

Each chain names the heads of the others in its own records: see ``Chain.append``. A folder beside the audit's, and one
on other storage where the settings name one, hold the newest signed head of every chain, a file each.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from governance.audit.chain import Chain, beside, chain_names
from governance.audit.records import Head, Seals

OUTSIDE = "audit.heads"
"""Name of the folder below the one on other storage."""


class Anchors:
    """One folder of heads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def heads(self, seals: Seals) -> dict[str, Head]:
        """Return the heads by chain; what we have not signed says nothing.

        Raises:
            OSError: a file cannot be read.
        """
        found = {name: seals.check((self.folder / name).read_bytes(), writer=name) for name in self._names()}
        return {name: head for name, head in found.items() if head is not None}

    def damaged(self, seals: Seals) -> list[str]:
        """Return the names of the files that are not a head we have signed, or cannot be read."""
        return [name for name in self._names() if not self._holds(name, seals)]

    def _holds(self, name: str, seals: Seals) -> bool:
        try:
            return seals.check((self.folder / name).read_bytes(), writer=name) is not None
        except OSError:
            return False

    def keep(self, heads: Mapping[str, Head], seals: Seals) -> None:
        """Keep heads, synced; of each chain the one that goes further: a chain that is put back does not put this back.

        Raises:
            OSError: the folder cannot be written; its own parent is not made, for then its disk is not mounted.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        kept = self.heads(seals)
        for name, head in heads.items():
            if name in kept and head.records <= kept[name].records:
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
        """Return whether there is a folder."""
        return self.folder.is_dir()


def anchors_of(folder: Path, outside: Path | None) -> list[Anchors]:
    """Return where the heads of an audit's folder are kept: beside it, and on other storage.

    Args:
        folder: of the audit.
        outside: a folder on other storage; None: there is none.
    """
    return [Anchors(beside(folder)), *([] if outside is None else [Anchors(outside / OUTSIDE)])]


def heads_of(folder: Path, seals: Seals) -> dict[str, Head]:
    """Return the signed heads that are there; a chain whose head does not hold is left out."""
    found = {name: Chain(folder, name, seals).head() for name in sorted(chain_names(folder))}
    return {name: head for name, head in found.items() if head is not None}


def furthest(anchors: Sequence[Anchors], seals: Seals) -> dict[str, Head]:
    """Return, of every chain that is kept somewhere, the head that goes furthest; what cannot be read says nothing."""
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
