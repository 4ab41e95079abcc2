"""The book of scores: every record that was shown, written once and sealed; the same input gives the same record."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from models.artefact.estimator import Floats
from models.scoring import ScoreRecord
from vitalake import clock
from vitalake.errors import VitaLakeError
from vitalake.sealing import Seals
from vitalake.sqlite import empty_log, refused

FILE = "scores.db"
REPAIR = (
    "Stop the server, then move the file away with its -wal and -shm, or restore a back-up. Current scores "
    "are computed again; earlier records are in the back-up only."
)

KEEP_DAYS = 31
"""How long records are kept. A hundred patients with a value a minute are 200 MB a day."""

BUSY_SECONDS = 30.0

_TABLES = """
CREATE TABLE IF NOT EXISTS score (
    id TEXT PRIMARY KEY, place TEXT NOT NULL UNIQUE, computed_us INTEGER NOT NULL,
    record BLOB NOT NULL, features BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS score_age ON score (computed_us);
CREATE TABLE IF NOT EXISTS forgotten (digest BLOB PRIMARY KEY) WITHOUT ROWID;
"""


def tidy(path: Path) -> int:
    """Delete records older than KEEP_DAYS, and checkpoint the write-ahead log; return how many were deleted.

    Call it now and then from a thread that may wait for the disk; writers need not wait meanwhile.

    Raises:
        ServiceUnavailable: the file cannot be written.
    """
    horizon = clock.now_us() - KEEP_DAYS * 86_400_000_000
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
            deleted = db.execute("DELETE FROM score WHERE computed_us < ?", (horizon,)).rowcount
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # most of it, while others write
            db.execute("PRAGMA wal_checkpoint(RESTART)")  # the rest, so that the log starts from the beginning
            return deleted
    except sqlite3.Error as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: Exception) -> VitaLakeError:
    return refused(
        error,
        "Book of scores",
        path,
        repair=REPAIR,
    )


class _PatientOf(msgspec.Struct):
    patient: str


class ScoreBook:
    """An open book; used by one thread at a time, by any number of processes."""

    def __init__(self, path: Path, sealer: Seals) -> None:
        """Open the book, or create it, readable by its owner only.

        Raises:
            ServiceUnavailable: the file cannot be opened.
        """
        self._sealer, self._path = sealer, path
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing. After a power failure the last records may be missing; computed again from
            # the same evidence they have the same id.
            self._db.execute("PRAGMA synchronous=NORMAL")
            # A checkpoint waits for the disk, and so would the score that triggers it. ``tidy`` does it instead.
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise _refused(self._path, error) from None

    def close(self) -> None:
        """Close the sealer and the connection."""
        self._sealer.close()
        self._db.close()

    def find(self, key: str) -> ScoreRecord | None:
        """Return the record of a key; None: it was not computed yet.

        Args:
            key: a digest of patient, revision, moment, model and rules (the column ``place``).
        """
        return self._one("SELECT id, record FROM score WHERE place = ?", key)

    def keep(self, key: str, record: ScoreRecord, features: Floats) -> ScoreRecord:
        """Write a record unless there is one of this key; return the stored one. Nothing is written of erased patients.

        Raises:
            ServiceUnavailable: it cannot be written; then it must not be shown.
        """
        sealed = self._seal(record.id, "record", msgspec.json.encode(record))
        row = (record.id, key, record.computed_us, sealed, self._seal(record.id, "features", features.tobytes()))
        insert = "INSERT OR IGNORE INTO score SELECT ?, ?, ?, ?, ? WHERE ? NOT IN (SELECT digest FROM forgotten)"
        try:
            if self._db.execute(insert, (*row, _digest(record.patient))).rowcount:
                return record
        except sqlite3.Error as error:
            raise _refused(self._path, error) from None
        stored = self.find(key) or self._one("SELECT id, record FROM score WHERE id = ?", record.id)
        return stored or record  # an erased patient's: a board may show it until it hears of the erasure

    def forget(self, patients: Collection[str]) -> int:
        """Delete all records of patients, overwrite them on disk, and accept none in future; return how many.

        All records are opened to find them, about 50,000 a second, because the book does not store pseudonyms.

        Args:
            patients: pseudonyms.

        Raises:
            ServiceUnavailable: the book cannot be written, or a long read prevents the log from being emptied.
        """
        return self.forget_digests([_digest(patient).hex() for patient in patients])

    @property
    def erasures(self) -> int:
        """How many entries of the erasure log this book has carried out; a restored back-up has fewer."""
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @erasures.setter
    def erasures(self, count: int) -> None:
        self._db.execute(f"PRAGMA user_version = {count:d}")

    def forget_digests(self, digests: Iterable[str], *, known: Container[str] = ()) -> int:
        """Do the same as ``forget`` for patients given by the SHA-256 of their pseudonyms.

        Args:
            digests: in hex.
            known: further digests, which can be tested but not listed.
        """
        listed, scores, matched = {bytes.fromhex(digest) for digest in digests}, [], set[tuple[bytes]]()
        try:
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", [(digest,) for digest in listed])
            for score, patient in self._patients():
                digest = _digest(patient)
                if digest in listed or digest.hex() in known:
                    scores.append((score,))
                    matched.add((digest,))
            self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", list(matched))
            self._db.executemany("DELETE FROM score WHERE id = ?", scores)
            empty_log(self._db)
        except sqlite3.Error as error:
            raise _refused(self._path, error) from None
        return len(scores)

    def held(self, is_wanted: Callable[[str], bool]) -> int:
        """Return how many records are of the patients whose pseudonyms are wanted; all records are opened."""
        try:
            return sum(is_wanted(patient) for _, patient in self._patients())
        except sqlite3.Error as error:
            raise _refused(self._path, error) from None

    def _patients(self) -> Iterator[tuple[str, str]]:
        for score, sealed in self._db.execute("SELECT id, record FROM score"):
            yield score, msgspec.json.decode(self._open(score, "record", sealed), type=_PatientOf).patient

    def features(self, score: str) -> Floats | None:
        """Return the feature vector of a score, so that it can be computed again."""
        row = self._db.execute("SELECT features FROM score WHERE id = ?", (score,)).fetchone()
        return np.frombuffer(self._open(score, "features", row[0])) if row else None

    def count(self) -> int:
        """Return how many records the book has."""
        return int(self._db.execute("SELECT count(*) FROM score").fetchone()[0])

    def _one(self, query: str, value: str) -> ScoreRecord | None:
        try:
            row = self._db.execute(query, (value,)).fetchone()
        except sqlite3.Error as error:
            raise _refused(self._path, error) from None
        return msgspec.json.decode(self._open(row[0], "record", row[1]), type=ScoreRecord) if row else None

    def _seal(self, score: str, part: str, plain: bytes) -> bytes:
        return self._sealer.seal(zlib.compress(plain, 1), context=_sealing_context(score, part))

    def _open(self, score: str, part: str, sealed: bytes) -> bytes:
        return zlib.decompress(self._sealer.open(sealed, context=_sealing_context(score, part)))


def _digest(patient: str) -> bytes:
    return hashlib.sha256(patient.encode()).digest()


def _sealing_context(score: str, part: str) -> bytes:
    return f"score\n{score}\n{part}".encode()
