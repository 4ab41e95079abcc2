"""A vault, its key service and its erasure log in one folder, and a clock that tests set."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

import psycopg

from governance.keyservice import KeyService
from governance.keyservice.local import LocalKeyService, create_local_service
from governance.vault import Identity, Vault
from governance.vault.erasure_log import ErasureLog
from governance.vault.on_postgres import PostgresStore
from governance.vault.on_sqlite import SqliteStore
from governance.vault.store import Store
from tests import forking
from tests.services.postgres import PostgresServer
from vitalake.keys import Key

KEY = Key("vault", "v1", bytes(range(32)))
WHO = Identity("Zzp-1", "Zzname, Zzgiven", "ZZMRN-1", "1958-03-09", "1 Zzroad")


class Seconds:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Place:
    """The folder of a vault, its key service and its erasure log.

    Attributes:
        folder: of their files.
        address: of the database; empty: it is a file.
        seconds: the clock of leases; it stands.
        service: the local key service.
        log: the erasure log's file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.address = folder, Seconds(), ""
        self.service_file, self.log = folder / "vault-keys.yaml", folder / "erasures.jsonl"
        if not self.service_file.exists():
            create_local_service(self.service_file)
        self.service: KeyService = LocalKeyService(self.service_file)

    def store(self) -> Store:
        """Open the database."""
        return SqliteStore(self.folder / "vault.db")

    def open(self, key: Key = KEY) -> Vault:
        """Open the vault."""
        return Vault(self.store(), key, self.service, ErasureLog(self.log, key.secret), seconds=self.seconds)

    def content(self) -> bytes:
        """Return every byte of the database's files."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("vault.db*")))

    def back_up(self) -> None:
        """Copy the database; nothing may have it open."""
        shutil.copy(self.folder / "vault.db", self.folder / "backup")

    def restore(self) -> None:
        """Put the copy in the database's place."""
        for left in self.folder.glob("vault.db*"):
            left.unlink()
        shutil.copy(self.folder / "backup", self.folder / "vault.db")


class PostgresPlace(Place):
    """The same, with the vault in a database of its own in PostgreSQL."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        super().__init__(folder)
        self._server, self._database = server, f"vault_{uuid.uuid4().hex}"
        server.execute(f"CREATE DATABASE {self._database}")
        self.address = server.address(database=self._database)

    def store(self) -> Store:
        """Open the database."""
        return PostgresStore(self.address)

    def content(self) -> bytes:
        """Return every byte of the database's files; without the server's write-ahead log."""
        self._server.execute("CHECKPOINT")
        with psycopg.connect(self.address) as connection:
            oid = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
        assert oid is not None
        return b"".join(path.read_bytes() for path in self._server.files(f"base/{oid[0]}"))

    def back_up(self) -> None:
        """Copy the database; nothing may have it open."""
        self._server.execute(f"CREATE DATABASE {self._database}_copy TEMPLATE {self._database}")

    def restore(self) -> None:
        """Put the copy in the database's place."""
        self._server.execute(
            f"DROP DATABASE {self._database}", f"CREATE DATABASE {self._database} TEMPLATE {self._database}_copy"
        )


class OpenedPlace(Place):
    """An existing place, as another process opens it."""

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__(folder)
        self.address = address

    def store(self) -> Store:
        """Open the database."""
        return PostgresStore(self.address) if self.address else super().store()


def run(place: Place, code: str, *codes: str, **environment: str) -> list[int]:
    """Run pieces of code, each in its own process with ``place`` defined; return the exit codes."""
    processes = [
        subprocess.Popen(
            forking.command("tests.unit.governance.vault.vault_process", str(place.folder), place.address, each),
            env=environment,
            cwd=Path(__file__).parents[4],
        )
        for each in (code, *codes)
    ]
    return [process.wait(120) for process in processes]


PREPARE = """
import sys
from pathlib import Path
from tests.unit.governance.vault.vault_samples import OpenedPlace, people
place = OpenedPlace(Path(sys.argv[1]), sys.argv[2])
"""


def people(number: int) -> list[tuple[str, str]]:
    """Return (source id, pseudonym) of this many patients."""
    return [(f"Zzp-{i}", f"v1.{i:032d}") for i in range(number)]


TOKENS = [token for _, token in people(10)]
