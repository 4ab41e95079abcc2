"""The vault: who is behind a pseudonym. A small SQLite file, every identity sealed on its own."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

import msgspec

from vitalake.keys import Key
from vitalake.sealing import Sealer
from vitalake.sqlite import Database

_TABLES = """
CREATE TABLE IF NOT EXISTS identity (
    token TEXT PRIMARY KEY, version INTEGER NOT NULL, mrn_digest BLOB, sealed BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS identity_mrn ON identity (mrn_digest);
"""


class Identity(msgspec.Struct, frozen=True):
    """Who a patient is; shown to people who treat them, and to nobody else.

    Attributes:
        source_id: the patient's id at its source.
        name: family and given names, as the source writes them.
        mrn: medical record number.
        birth_date: ISO date.
        address: in one line.
    """

    source_id: str
    name: str | None = None
    mrn: str | None = None
    birth_date: str | None = None
    address: str | None = None

    def __repr__(self) -> str:
        return "Identity(…)"  # a traceback or a log must not name anybody


class Vault:
    """An open vault; used by one thread at a time. Lanes write it; the access layer reads it, and audits that."""

    def __init__(self, path: Path, key: Key) -> None:
        """Open the vault, or make it, readable by its owner only.

        Raises:
            ServiceUnavailable: the file cannot be opened.
        """
        self._sealer, self._secret = Sealer(key), key.secret
        self._database = Database(path, tables=_TABLES, name="Vault")
        self._db = self._database.connection

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def put(self, identities: Iterable[tuple[str, int, Identity]]) -> None:
        """Store identities; an older version never replaces a newer one.

        Args:
            identities: pseudonym, version, identity.

        Raises:
            ServiceUnavailable: the vault cannot be written; none is stored.
        """
        rows = [
            (
                token,
                version,
                self._digest(identity.mrn) if identity.mrn else None,
                self._sealer.seal(msgspec.json.encode(identity), context=token.encode()),
            )
            for token, version, identity in identities
        ]
        with self._database.transaction() as db:
            db.executemany(
                "INSERT INTO identity VALUES (?, ?, ?, ?) ON CONFLICT (token) DO UPDATE SET "
                "version = excluded.version, mrn_digest = excluded.mrn_digest, sealed = excluded.sealed "
                "WHERE excluded.version >= version",
                rows,
            )

    def look_up(self, token: str) -> Identity | None:
        """Return who is behind a pseudonym; None: nobody known.

        Raises:
            PrivacyError: the vault was written with another key.
        """
        row = self._db.execute("SELECT sealed FROM identity WHERE token = ?", (token,)).fetchone()
        if row is None:
            return None
        return msgspec.json.decode(self._sealer.open(row[0], context=token.encode()), type=Identity)

    def token_of_mrn(self, mrn: str) -> str | None:
        """Return the pseudonym of a medical record number; None: nobody has it."""
        row = self._db.execute("SELECT token FROM identity WHERE mrn_digest = ?", (self._digest(mrn),)).fetchone()
        return str(row[0]) if row else None

    def _digest(self, mrn: str) -> bytes:
        return hmac.digest(self._secret, b"mrn\0" + mrn.encode(), hashlib.sha256)
