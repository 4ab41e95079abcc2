"""Who else on this machine may read what is written: nobody, by default."""

from __future__ import annotations

import os

PRIVATE = 0o077
"""Bits of group and others. As the process' mask: delta-rs, SQLite and MLflow make their files by it, not by ours."""


def keep_private() -> None:
    """Let this process make files and folders that only its account can read, whatever mask it was started with."""
    os.umask(PRIVATE)
