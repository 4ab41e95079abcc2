"""Embedded warehouses are made whole or not at all; of a maker that was killed nothing stays: it is identified data."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitalake.causes import unavailable


def make_once(home: Path, name: str, *, format: int, fill: Callable[[Any], None]) -> Path:  # noqa: A002 - its name
    """Return ``NAME.vFORMAT.duckdb`` of a home; made when it is not there, readable by its owner only.

    Makers of one home wait for each other. What killed ones left, and files of other formats, are removed.

    Args:
        home: an existing folder.
        name: of the warehouse.
        format: of the file; another one is made anew.
        fill: given the open DuckDB connection, makes the tables.

    Raises:
        ServiceUnavailable: there is no room.
        VitaLakeError: what ``fill`` raises; there is no file then.
    """
    import duckdb

    path = home / f"{name}.v{format}.duckdb"
    lock = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove(home.glob(f".{name}.*"))
        if not path.exists():
            # A folder: DuckDB puts its journal beside the file, and only we may enter.
            folder = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=home))
            try:
                with duckdb.connect(str(folder / path.name)) as connection:
                    fill(connection)
                (folder / path.name).chmod(0o600)
                (folder / path.name).replace(path)
            except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
                raise unavailable(
                    error, "Warehouse cannot be made", where=path.name, remedy="Make room there."
                ) from None
            finally:
                shutil.rmtree(folder)
        _remove(other for other in home.glob(f"{name}*.duckdb") if other != path and _is_ours(other, name))
    finally:
        os.close(lock)
    return path


def _is_ours(path: Path, name: str) -> bool:
    version = path.name.removeprefix(name).removesuffix(".duckdb")
    return not version or (version.startswith(".v") and version[2:].isdecimal())


def _remove(paths: Any) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
