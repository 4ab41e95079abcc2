"""Opens DuckDB for the query service: it reads the given files only, and cannot load extensions or spill to disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from governance.query.relations import Relation, text, views

THREADS = 2


def connect(relations: Sequence[Relation], *, memory_mb: int) -> Any:
    """Return a locked connection in which the relations are views.

    Args:
        relations: what can be read; DuckDB opens no other files than theirs.
        memory_mb: the most memory that DuckDB takes.
    """
    import duckdb

    configuration = {
        "memory_limit": f"{memory_mb}MB",
        "threads": THREADS,
        "temp_directory": "",
        "preserve_insertion_order": False,
        "python_enable_replacements": False,
        "python_scan_all_frames": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
    }
    connection = duckdb.connect(":memory:", config=configuration)
    connection.execute("SET TimeZone = 'UTC'")
    paths = ", ".join(text(path) for relation in relations for path in relation.paths)
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    for relation in relations:
        for statement in views(relation):
            connection.execute(statement)
    connection.execute("SET lock_configuration = true")
    return connection
