"""The tables of the online store's file, and the names under which blocks and facts are sealed."""

from __future__ import annotations

from pipelines.online_store.corrections import TABLES as _CORRECTED_TABLES
from pipelines.online_store.merges import TABLES as _MERGED_TABLES
from pipelines.online_store.undecided import TABLES as _AHEAD_TABLES

_TABLES = """
CREATE TABLE IF NOT EXISTS taken (part TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS patient (patient TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS patient_revision ON patient (revision);
CREATE TABLE IF NOT EXISTS block (
    patient TEXT NOT NULL, writer TEXT NOT NULL, number INTEGER NOT NULL,
    first_us INTEGER NOT NULL, last_us INTEGER NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (patient, writer, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS block_age ON block (first_us);
CREATE TABLE IF NOT EXISTS fact (
    patient TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL,
    until_us INTEGER NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (patient, kind, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('revision', '0'), ('generation', '0');
INSERT OR IGNORE INTO patient SELECT patient, 0 FROM fact WHERE kind IN ('encounter', 'placement');
INSERT OR IGNORE INTO meta SELECT 'store', CASE
    WHEN EXISTS (SELECT 1 FROM taken) OR EXISTS (SELECT 1 FROM patient) THEN '' ELSE lower(hex(randomblob(8))) END;
INSERT OR IGNORE INTO meta SELECT 'made', CAST(strftime('%s', 'now') AS INTEGER) * 1000000;
CREATE TABLE IF NOT EXISTS lane (writer TEXT PRIMARY KEY, beat_us INTEGER NOT NULL, ended INTEGER NOT NULL)
WITHOUT ROWID;
"""

TABLES = _TABLES + _AHEAD_TABLES + _CORRECTED_TABLES + _MERGED_TABLES
"""Statements that create missing tables, and what files of earlier releases lack in them."""


def sealing_context(*parts: object) -> bytes:
    """Return the context under which a block (patient, writer, number) or a fact (patient, kind, key) is sealed."""
    return "\n".join(map(str, parts)).encode()
