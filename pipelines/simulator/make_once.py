"""Makes embedded warehouses atomically; the next maker deletes the identified data that a killed one has left."""

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
    """Return the path of ``NAME.vFORMAT.duckdb`` in a home; make the file if it is missing, readable by its owner only.

    Makers in one home wait for each other. Files that a killed maker has left, and files of other formats, are deleted.

    Args:
        home: an existing folder.
        name: of the warehouse.
        format: of the file; a file of another format is replaced.
        fill: makes the tables, with the open DuckDB connection.

    Raises:
        ServiceUnavailable: there is no room for the file.
        VitaLakeError: what ``fill`` raises; no file is made then.
    """
    import duckdb

    path = home / f"{name}.v{format}.duckdb"
    lock = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove(home.glob(f".{name}.*"))
        if not path.exists():
            # In a folder that only the owner can enter: DuckDB writes its journal beside the file.
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
