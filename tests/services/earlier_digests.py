"""Digests of loaded rows as earlier releases wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def as_an_earlier_release(file: Path, *, owners: bool = False) -> None:
    """Write a file of digests as the release before did, or as the one before that, which noted no owners."""
    with np.load(file) as known:
        entries, form = known["entries"], known["form"]
    names = ["key", "content", "changed", "replaced"]
    kept = np.zeros(len(entries), [(name, entries.dtype[name]) for name in names])
    for name in names:
        kept[name] = entries[name]
    more = {name: np.unique(entries[of]) for name, of in (("records", "record"), ("owned", "owned"))}
    np.savez(file, entries=kept, form=form, **(more if owners else {}))  # type: ignore[arg-type]
