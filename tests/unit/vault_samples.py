"""A vault with all that belongs to it in one folder, and a clock that tests set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitalake.keys import Key
from vitalake.keyservice import KeyService
from vitalake.keyservice.local import LocalKeyService, create_local_service
from vitalake.vault import Identity, Vault
from vitalake.vault.erasure_log import ErasureLog
from vitalake.vault.on_sqlite import SqliteStore
from vitalake.vault.store import Store

KEY = Key("vault", "v1", bytes(range(32)))
WHO = Identity("Zzp-1", "Zzname, Zzgiven", "ZZMRN-1", "1958-03-09", "1 Zzroad")


class Seconds:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Place:
    """Where a vault, its key service and its erasure log lie.

    Attributes:
        folder: of their files.
        seconds: the clock of leases; it stands.
        service: the local key service.
        log: the erasure log's file.
    """

    def __init__(self, folder: Path, store: Callable[[], Store] | None = None) -> None:
        self.folder, self.seconds = folder, Seconds()
        self.service_file, self.log = folder / "vault-keys.yaml", folder / "erasures.jsonl"
        if not self.service_file.exists():
            create_local_service(self.service_file)
        self.service: KeyService = LocalKeyService(self.service_file)
        self._store = store or (lambda: SqliteStore(folder / "vault.db"))

    def open(self, key: Key = KEY) -> Vault:
        """Open the vault."""
        return Vault(self._store(), key, self.service, ErasureLog(self.log, key.secret), seconds=self.seconds)

    def content(self) -> bytes:
        """Return every byte of the vault's files."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("vault.db*")))


def people(number: int) -> list[tuple[str, str]]:
    """Return source ids and pseudonyms of so many patients."""
    return [(f"Zzp-{i}", f"v1.{i:032d}") for i in range(number)]


TOKENS = [token for _, token in people(10)]
