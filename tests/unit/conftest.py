"""Where a vault lies: in SQLite and in a real PostgreSQL, to which the same tests are put."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.postgres import PostgresServer
from tests.unit.governance.vault.vault_samples import Place, PostgresPlace


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Place:
    """A folder with a vault's file, its key service and its erasure log."""
    return Place(tmp_path)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The same, the vault in SQLite or in PostgreSQL."""
    if request.param == "sqlite":
        return Place(tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return PostgresPlace(tmp_path, server)
