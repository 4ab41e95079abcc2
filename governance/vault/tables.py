"""The vault's tables, in SQL for SQLite; for PostgreSQL, BLOB becomes BYTEA and INTEGER becomes BIGINT."""

from __future__ import annotations

TABLES = """
CREATE TABLE IF NOT EXISTS vault (
    one INTEGER PRIMARY KEY,            -- 1: there is one row
    id TEXT NOT NULL,                   -- random; what the key service wraps is bound to it
    erasures INTEGER NOT NULL,          -- how many of the erasure log are applied: the vault's generation
    log_head TEXT NOT NULL,             -- the hash of the last of them
    rotating INTEGER NOT NULL,          -- 1: a rotation is under way
    scrub INTEGER NOT NULL              -- 1: what was destroyed may still lie in freed places of the file
);
CREATE TABLE IF NOT EXISTS vault_key (
    version INTEGER PRIMARY KEY,        -- the highest seals what comes
    key_id TEXT NOT NULL,               -- of the key service
    wrapped BLOB NOT NULL,
    made_us INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS patient (
    subject BLOB PRIMARY KEY,
    token TEXT,                         -- the pseudonym; this and what follows is null once erased
    vault_key INTEGER,                  -- by which version the patient's key is wrapped
    wrapped BLOB,
    source_id BLOB,                     -- sealed with the patient's key, as is identity
    version INTEGER,                    -- of the identity; null: none came yet
    mrn_digest BLOB,
    identity BLOB,
    made_us INTEGER,
    erased_us INTEGER,                  -- not null: a tombstone
    certificate TEXT
);
CREATE INDEX IF NOT EXISTS patient_token ON patient (token);
CREATE INDEX IF NOT EXISTS patient_mrn ON patient (mrn_digest);
CREATE INDEX IF NOT EXISTS patient_vault_key ON patient (vault_key);
CREATE TABLE IF NOT EXISTS former (
    subject BLOB NOT NULL,
    key_version TEXT NOT NULL,          -- of the pseudonym key, which has been replaced since
    digest BLOB NOT NULL,               -- keyed, of the pseudonym that this version made
    sealed BLOB NOT NULL,               -- the pseudonym, with the patient's key
    PRIMARY KEY (subject, key_version)
);
CREATE INDEX IF NOT EXISTS former_digest ON former (digest);
CREATE TABLE IF NOT EXISTS hold (
    subject BLOB PRIMARY KEY,
    reason BLOB NOT NULL,               -- all of the patient's holds, sealed with the patient's key
    until_us INTEGER                    -- of the one that ends last; null: until it is released
);
CREATE TABLE IF NOT EXISTS store_key (
    name TEXT PRIMARY KEY,              -- of a store beside the lake, such as care
    vault_key INTEGER NOT NULL,
    wrapped BLOB NOT NULL,
    made_us INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS pending (
    certificate TEXT PRIMARY KEY,
    subject BLOB NOT NULL,
    vault_key INTEGER NOT NULL,
    identifiers BLOB NOT NULL,          -- sealed with the vault's key: what is needed to finish the erasure
    made_us INTEGER NOT NULL
);
"""
