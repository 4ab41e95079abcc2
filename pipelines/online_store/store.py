"""The online store on SQLite: many small writes, and one patient's rows read in a fraction of a millisecond.

A patient's values lie in blocks of at most BLOCK_ROWS rows. Each block is sealed as a whole: sealed rows would cost one
decryption each, 8,640 for a day of six vital signs a minute. Patients are stored under the pseudonym that published
rows have. Times are in clear as far as deletion by age needs them; values and codes are not.

Every source position is taken exactly once: the transaction that stores a poll's rows also stores how far each
partition was taken. Rows before that position are left out when a lane reads them again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from pipelines.online_store.corrections import TABLES as _CORRECTED_TABLES
from pipelines.online_store.corrections import Corrections
from pipelines.online_store.facts import (
    DELETED,
    FOR_EVER,
    FROM_ADMISSIONS,
    FROM_RESULTS,
    HELD_AS,
    KINDS,
    NOT_STATED,
    ON_THE_WARD,
    Admission,
    Decision,
    Fact,
    Movement,
    Person,
    Placement,
    Pregnancy,
    ends_a_stay,
    merged_person,
    minimum_age,
    until,
    with_first_begin,
    with_first_known,
)
from pipelines.online_store.merges import TABLES as _MERGED_TABLES
from pipelines.online_store.merges import Merges
from pipelines.online_store.placing import next_move
from pipelines.online_store.playback import Replay
from pipelines.online_store.stays import (
    HospitalStay,
    applies_to_stay,
    current_stay,
    ended_stays,
    expired_beds,
    hospital_stays,
    recently_ended,
    same_stay,
)
from pipelines.online_store.undecided import TABLES as _AHEAD_TABLES
from pipelines.online_store.undecided import UndecidedWrites
from pipelines.online_store.values import ROW, Values, clamped_to_clock, current, restored, stored
from vitalake import clock
from vitalake.clinical.records import History, Stay
from vitalake.sealing import Seals
from vitalake.sqlite import Database

BLOCK_ROWS = 128
"""Rows of a full block, 7 kB: longer blocks make each append slower, shorter ones each read."""

CACHED_BLOCKS = 20_000
"""How many open blocks a writer keeps in memory, 120 MB at the most."""

PRUNE_SECONDS = 60.0
"""How often a writer deletes what is too old."""

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


REPAIR = (
    "Stop streams and the server, delete it with its -wal and -shm, then run 'vitalake lake rebuild care': it fills "
    "the store again from the restricted zone."
)

_Kind = TypeVar("_Kind", bound=Admission | Placement | Person)

_Row = tuple[str, str, str, int, int, bytes]
"""A row of the table ``fact``: patient, kind, key, version, end of validity, sealed fact."""

_OF_ANOTHER = "~merged"
"""Prefix of the key of a Person that was given for a number since merged; such keys sort after the patient's own."""

_NEAR_US = 300_000_000
"""How much later the same fact can be known according to the lake: the lake has the sender's time, or that of
ingestion."""

_SECOND_US = 1_000_000
_MOST_COUNTED = 1 << 40
"""The highest version that can be a counter. Higher versions are times, of admission messages that of EVN-2: two within
one second are the same event, sent again."""

_PUT_BLOCK = "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class _Tail:
    """A patient's newest block of one writer, which is not full yet."""

    number: int
    rows: npt.NDArray[np.void]


_SILENT_US = 60_000_000
"""How long after its last beat a killed lane can still have decided; a running lane beats every five seconds."""


class OnlineStore:
    """An open online store; used by one thread at a time. Any number of processes can have the file open."""

    def __init__(self, path: Path, sealer: Seals, *, hours: float) -> None:
        """Open the store, or create it, readable by its owner only.

        Raises:
            ServiceUnavailable: the file cannot be opened.
        """
        self._sealer, self._hours_us = sealer, int(hours * 3_600_000_000)
        # Synced at every commit: there is one for each poll, which is affordable, and a lost poll would be a stale
        # score.
        tables = _TABLES + _AHEAD_TABLES + _CORRECTED_TABLES + _MERGED_TABLES
        self._database = Database(path, tables=tables, name="Online store", repair=REPAIR, derived=True)
        self._db = self._database.connection
        self._ahead = UndecidedWrites(self._db, sealer)
        self._corrections = Corrections(self._db)
        self._merges = Merges(self._db, sealer)
        self._decided: dict[str, int] = {}
        self._tails: dict[tuple[str, str], _Tail] = {}
        self._generation = ""
        self._filled: dict[tuple[str, str, type], int] = {}
        self._pruned_us = 0

    def close(self) -> None:
        """Close the connection, and drop the keys from memory."""
        self._sealer.close()
        self._database.close()

    def moved(self) -> bool:
        """Return whether the file was deleted or replaced: writes to it would be lost, and reads would be old."""
        return self._database.moved()

    def name(self) -> str:
        """Return the random name of this file; a file created in its place has another one, early ones have none."""
        return self._meta("store")

    def made_us(self) -> int:
        """Return when the store was created, or first opened by a release that notes it; microseconds since 1970."""
        return int(self._meta("made") or 0)

    def is_new(self) -> bool:
        """Return whether nothing was ever stored here."""
        any_row = "SELECT 1 FROM taken UNION ALL SELECT 1 FROM fact UNION ALL SELECT 1 FROM lane LIMIT 1"
        return self._db.execute(any_row).fetchone() is None

    def is_older(self, writer: str, decided_us: int) -> bool:
        """Return whether this file is an older copy of the store: a lane decided rows long after its last beat here.

        Args:
            writer: the lane.
            decided_us: when the lane last decided rows, microseconds since 1970 UTC.
        """
        beat_us, _ = self.lanes().get(writer, (decided_us, True))
        return decided_us > max(beat_us + _SILENT_US, self.made_us(), self.filled_us())

    def note_incomplete(self) -> None:
        """Note that the store is new, or older than the lake, and lacks rows that came before."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('lacking', ?)", (str(clock.now_us()),))

    def incomplete_since_us(self) -> int:
        """Return when the store was noted as incomplete, microseconds since 1970 UTC; 0: it is complete."""
        since = int(self._meta("lacking") or 0)
        return 0 if not since or self.is_filled_since(since) else since

    def note_filled(self, *, with_decisions: bool = True) -> None:
        """Note that the store was filled from the restricted zone.

        Args:
            with_decisions: whether all decisions of clinicians were found again.
        """
        lacking = "" if with_decisions else "1"
        notes = [("filled", str(clock.now_us())), ("lacks-decisions", lacking)]
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", notes)

    def lacks_decisions(self) -> bool:
        """Return whether decisions could be missing since the store was filled, within the hours that it keeps."""
        return bool(self._meta("lacks-decisions")) and clock.now_us() - self.filled_us() < self._hours_us

    def filled_us(self) -> int:
        """Return when the store was last filled from the restricted zone, microseconds since 1970 UTC; 0: never."""
        return int(self._meta("filled") or 0)

    def is_filled_since(self, moment_us: int) -> bool:
        """Return whether the store was filled after a moment, or that moment is before the hours that it keeps."""
        return self.filled_us() > moment_us or clock.now_us() - moment_us > self._hours_us

    # -- writers ---------------------------------------------------------------------------------------------------

    def beat(self, writer: str, *, ended: bool = False) -> None:
        """Record that a lane is running, or that it has ended by itself; by the wall clock, even in a replay.

        Args:
            writer: ``<job>/<i>of<n>``; beats of the job's lanes under another number of shards are deleted.
            ended: the lane was asked to end, or has nothing more to read.

        Raises:
            ServiceUnavailable: the store cannot be written.
        """
        job, _, shard = writer.rpartition("/")
        others = f"{job}/%of{shard.partition('of')[2]}"
        with self._database.transaction():
            self._db.execute("DELETE FROM lane WHERE writer LIKE ? AND writer NOT LIKE ?", (f"{job}/%", others))
            self._db.execute("INSERT OR REPLACE INTO lane VALUES (?, ?, ?)", (writer, clock.now_us(), ended))

    def lanes(self) -> dict[str, tuple[int, bool]]:
        """Return for every lane the time of its last beat, and whether it has ended by itself."""
        rows = self._db.execute("SELECT writer, beat_us, ended FROM lane").fetchall()
        return {writer: (beat_us, bool(ended)) for writer, beat_us, ended in rows}

    def hold(self) -> None:
        """Make sure that the store's key can be used now.

        Raises:
            PrivacyError: keys are revoked.
        """
        self._sealer.hold()

    # -- the ward's time -----------------------------------------------------------------------------------------

    def replay(self) -> Replay | None:
        """Return the running replay; None: the ward's time is the wall clock's."""
        text = self._meta("replay")
        return msgspec.json.decode(text, type=Replay) if text else None

    def set_replay(self, replay: Replay | None) -> None:
        """Set the ward's time to that of a replay; for demonstrations only, and every page says so."""
        text = msgspec.json.encode(replay).decode() if replay else ""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('replay', ?)", (text,))

    def now_us(self) -> int:
        """Return the ward's time, microseconds since 1970 UTC."""
        replay = self.replay()
        return replay.at(clock.now_us()) if replay else clock.now_us()

    def horizon_us(self) -> int:
        """Return the time from which on the store keeps values, by the ward's time; microseconds since 1970 UTC."""
        return self.now_us() - self._hours_us

    def _meta(self, name: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    # -- writing -------------------------------------------------------------------------------------------------

    def take(
        self,
        values: Values,
        *,
        writer: str,
        ends: Mapping[str, int],
        ours: bool = False,
    ) -> int:
        """Store the values of a poll that were not stored before; return how many.

        Args:
            values: of the poll; values older than the store keeps are left out.
            writer: the lane that the blocks belong to; two lanes never write the same block.
            ends: for each partition of the poll the position behind its last message.
            ours: the times at which the values came are by our own clock, not by a broker's or a producer's.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing of the poll is stored.
        """
        now_us = self.now_us()
        values = values.where(values.rows["effective_us"] >= now_us - self._hours_us)
        if self.replay() is None:
            values = clamped_to_clock(values, now_us, ours=ours)
        if not len(values.rows):  # positions need not be stored: read again, the values would be too old again
            return 0
        try:
            with self._database.transaction():
                stored = self._take(values, writer, ends)
        except BaseException:  # the blocks in memory were not written
            self._tails.clear()
            raise
        if clock.now_us() - self._pruned_us > PRUNE_SECONDS * 1e6:
            self._pruned_us = clock.now_us()
            self.prune()
        return stored

    def _take(self, values: Values, writer: str, ends: Mapping[str, int]) -> int:
        generation = self._meta("generation")
        if generation != self._generation:  # somebody has deleted or rewritten blocks
            self._tails.clear()
            self._generation = generation
        before = dict(self._db.execute("SELECT part, next FROM taken"))
        begun = np.array([before.get(name, -1) for name in values.parts], np.int64)
        self._db.executemany(
            "INSERT INTO taken VALUES (?, ?) ON CONFLICT (part) DO UPDATE SET next = max(next, excluded.next)",
            list(ends.items()),
        )
        if self._decided:
            self._ahead.settle(self._decided)
            self._decided = {}
        fresh = self._survivors(values.where(values.position >= begun[values.part]))
        fresh = self._without_forgotten(fresh)
        if fresh.rows["attribution"].any():
            self._ahead.note(fresh)
        self._corrections.note(fresh)
        return self._store(fresh, writer)

    def _store(self, fresh: Values, writer: str) -> int:
        if not len(fresh.rows):
            return 0
        order = np.argsort(fresh.patient, kind="stable")
        rows, patient = fresh.rows[order], fresh.patient[order]
        bounds = np.flatnonzero(np.append(True, patient[1:] != patient[:-1]))
        blocks: list[tuple[object, ...]] = []
        for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(rows)], strict=True):
            blocks += self._append(fresh.patients[patient[begin]], writer, rows[begin:end])
        self._db.executemany(_PUT_BLOCK, blocks)
        self._touch([fresh.patients[i] for i in patient[bounds].tolist()])
        return len(rows)

    def _survivors(self, values: Values) -> Values:
        """Return values with each merged patient replaced by the surviving one."""
        merged = self._merges.survivors(values.patients)
        if not merged:
            return values
        return replace(values, patients=[merged.get(patient, patient) for patient in values.patients])

    def _without_forgotten(self, values: Values) -> Values:
        forgotten = {row[0] for row in self._db.execute("SELECT digest FROM forgotten")}
        if not forgotten:
            return values
        not_forgotten = np.array([_digest(patient) not in forgotten for patient in values.patients], np.bool_)
        return values.where(not_forgotten[values.patient])

    def settle(self, positions: Mapping[str, int]) -> None:
        """Note how far the lake has decided partitions; can be called from any thread.

        Args:
            positions: by the partition's name.
        """
        self._decided = {**self._decided, **positions}

    def has_undecided(self, part: str) -> bool:
        """Return whether attributed values of a partition are stored that the lake has perhaps never decided."""
        return self._ahead.holds(part)

    def rewind(self, positions: Mapping[str, int], *, others: bool = False) -> int:
        """Delete attributed values that the lake never decided: read again, they could belong to another patient.

        Args:
            positions: where the lake goes on with partitions, by name; from there on they are taken again.
            others: take everything from there on again, even where nothing is deleted, because other messages can come
                at these positions.

        Returns:
            How many values were deleted.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is deleted.
        """
        count = 0
        with self._database.transaction():
            for part, position in positions.items():
                for values in map(self._survivors, self._ahead.undecided(part, position)):
                    count += sum(
                        self._delete(values.patients[i], values.rows[values.patient == i])
                        for i in np.unique(values.patient).tolist()
                    )
                    self._take_again(part, position)
                if others:
                    self._take_again(part, position)
                self._ahead.forget(part)
            if count:
                self._begin_generation()
        return count

    def _take_again(self, part: str, position: int) -> None:
        self._db.execute("UPDATE taken SET next = min(next, ?) WHERE part = ?", (position, part))

    def _delete(self, patient: str, rows: npt.NDArray[np.void]) -> int:
        """Delete these rows of a patient, whoever stored them; return how many."""
        doomed = {row.tobytes() for row in rows}
        count = 0
        blocks = self._db.execute(
            "SELECT writer, number, sealed FROM block WHERE patient = ? AND last_us >= ? AND first_us <= ?",
            (patient, int(rows["effective_us"].min()), int(rows["effective_us"].max())),
        ).fetchall()
        for writer, number, sealed in blocks:
            block = self._open_block(patient, writer, number, sealed)
            deleted = np.isin(block["id"], rows["id"])
            deleted[deleted] = [row.tobytes() in doomed for row in block[deleted]]
            if not deleted.any():
                continue
            count += int(deleted.sum())
            if deleted.all():
                self._db.execute(
                    "DELETE FROM block WHERE (patient, writer, number) = (?, ?, ?)", (patient, writer, number)
                )
            else:
                self._db.execute(_PUT_BLOCK, self._sealed(patient, writer, number, block[~deleted]))
        self._touch([patient] if count else [])
        return count

    def _append(self, patient: str, writer: str, rows: npt.NDArray[np.void]) -> list[tuple[object, ...]]:
        """Return the blocks to write: the patient's open block with the rows appended, and more when it is full."""
        tail = self._tails.get((patient, writer)) or self._load_tail(patient, writer)
        # Joined as bytes: numpy takes ten times as long to find that two equal record types are equal.
        joined = np.frombuffer(tail.rows.tobytes() + rows.tobytes(), ROW)
        number, blocks = tail.number, []
        for begin in range(0, len(joined), BLOCK_ROWS):
            block = joined[begin : begin + BLOCK_ROWS]
            number = tail.number + begin // BLOCK_ROWS
            blocks.append(self._sealed(patient, writer, number, block))
        full = len(block) == BLOCK_ROWS
        if len(self._tails) >= CACHED_BLOCKS:
            self._tails.clear()
        self._tails[patient, writer] = _Tail(number + 1, rows[:0]) if full else _Tail(number, block)
        return blocks

    def _load_tail(self, patient: str, writer: str) -> _Tail:
        newest = self._db.execute(
            "SELECT number, sealed FROM block WHERE patient = ? AND writer = ? ORDER BY number DESC LIMIT 1",
            (patient, writer),
        ).fetchone()
        if newest is None:
            return _Tail(0, np.zeros(0, ROW))
        rows = self._open_block(patient, writer, newest[0], newest[1])
        return _Tail(newest[0], rows) if len(rows) < BLOCK_ROWS else _Tail(newest[0] + 1, np.zeros(0, ROW))

    def _sealed(self, patient: str, writer: str, number: int, rows: npt.NDArray[np.void]) -> tuple[object, ...]:
        times = rows["effective_us"]
        sealed = self._sealer.seal(stored(rows), context=_place(patient, writer, number))
        return (patient, writer, number, int(times.min()), int(times.max()), sealed)

    def _open_block(self, patient: str, writer: str, number: int, sealed: bytes) -> npt.NDArray[np.void]:
        return np.frombuffer(restored(self._sealer.open(sealed, context=_place(patient, writer, number))), ROW)

    def _touch(self, patients: Sequence[str]) -> None:
        if not patients:
            return
        revision = int(self._meta("revision")) + 1
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (str(revision),))
        self._db.executemany("INSERT OR REPLACE INTO patient VALUES (?, ?)", [(p, revision) for p in patients])

    def put_facts(
        self,
        facts: list[tuple[str, str, int, Fact]],
        *,
        wait: bool = False,
        again: bool = False,
        rejected: bool = False,
    ) -> None:
        """Store facts of patients; an older version never replaces a newer one.

        A fact that ended before the hours that the store keeps is left out, a stay together with its bed. But the end
        of a stay that is in the store is stored, however old. A Person or Pregnancy of a patient without a stay is left
        out, or waits for a stay as long as the store keeps values.

        Args:
            facts: pseudonym, key within its kind (a stay's pseudonym; empty for a Person), version, fact.
            wait: whether a Person or Pregnancy waits for a stay.
            again: the facts are read from the lake, which knows less than the messages said. A stay or bed of the same
                version in the store is not replaced, unless the new one became known minutes later: a sender without
                versions has the same version for all of its messages.
            rejected: the facts come from messages that were rejected before. A fact of the same version in the store is
                not replaced.

        Raises:
            ServiceUnavailable: the store cannot be written; none is stored.
        """
        with self._database.transaction():
            if rejected:
                facts = [fact for fact in facts if not self._is_stored(*fact)]
            self._put_facts(facts, wait=wait, again=again)

    def _is_stored(self, patient: str, key: str, version: int, fact: Fact) -> bool:
        """Return whether the store has this version of a fact from elsewhere than this filling."""
        name = (patient, key, type(fact))
        if self._filled.get(name) == version:
            return False
        query = "SELECT 1 FROM fact WHERE (patient, kind, key, version) = (?, ?, ?, ?)"
        row = self._db.execute(query, (self.survivor(patient), KINDS[type(fact)], key, version)).fetchone()
        if row is None:
            self._filled[name] = version
        return row is not None

    def _put_facts(self, facts: list[tuple[str, str, int, Fact]], *, wait: bool, again: bool = False) -> None:
        now_us = self.now_us()
        horizon = now_us - self._hours_us
        merged = self._merges.survivors({fact[0] for fact in facts})
        facts = [_as_of_survivor(fact, merged[fact[0]]) if fact[0] in merged else fact for fact in facts]
        rows = self._put_rows([
            self._row(patient, key, version, end, fact)
            for patient, key, version, fact in self._combined(self._without_past(facts, horizon), now_us, again=again)
            if (
                (end := now_us if wait and self._waits(patient, fact) else until(fact)) >= horizon
                or isinstance(fact, Admission)
            )
            and (wait or not self._waits(patient, fact))
        ])  # fmt: skip
        kinds = {KINDS[kind] for kind in ON_THE_WARD}
        on_the_ward = {row[0] for row in rows if row[1] in kinds}
        self._touch([patient for patient in {row[0] for row in rows} if patient in on_the_ward or self.has(patient)])

    def _row(self, patient: str, key: str, version: int, end: int, fact: Fact) -> _Row:
        kind = KINDS[type(fact)]
        sealed = self._sealer.seal(msgspec.json.encode(fact), context=_place(patient, kind, key))
        return patient, kind, key, version, end, sealed

    def _put_rows(self, rows: list[_Row]) -> list[_Row]:
        """Write rows of facts, except those of forgotten patients; return the rows that were written."""
        forgotten = {row[0] for row in self._db.execute("SELECT digest FROM forgotten")}
        rows = [row for row in rows if not forgotten or _digest(row[0]) not in forgotten]
        self._db.executemany(
            "INSERT INTO fact VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (patient, kind, key) DO UPDATE SET "
            "version = excluded.version, until_us = excluded.until_us, sealed = excluded.sealed "
            "WHERE excluded.version >= version",
            rows,
        )
        return rows

    def merge(self, patient: str, into: str, *, version: int) -> None:
        """Move everything of a number to the number that it was merged into, and likewise everything that comes later.

        Where both numbers have a decision of one kind, the one that applies to the current stay counts, else the later
        one. Sex, birth and death of the surviving number take precedence.

        Args:
            patient: pseudonym of the number that was given up.
            into: pseudonym of the number that survives.
            version: of two merges of one number the later one counts; what was moved is not moved back.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is changed.
        """
        self._tails.clear()
        try:
            with self._database.transaction():
                if self._merges.note(patient, into, version):
                    self._move(patient, self._merges.survivor(patient))
        finally:
            self._tails.clear()

    def _move(self, patient: str, into: str) -> None:
        was_there = self.has(patient)
        blocks = self._db.execute(
            "SELECT writer, number, sealed FROM block WHERE patient = ? ORDER BY writer, number", (patient,)
        ).fetchall()
        for writer, number, sealed in blocks:
            rows = self._open_block(patient, writer, number, sealed)
            self._db.executemany(_PUT_BLOCK, self._append(into, writer, rows))
        facts = {kind: self._versions(patient, kind) for kind in KINDS}
        moved = self._moved_rows(patient, into, facts)
        self._corrections.move(patient, into)
        self._delete_all_of([patient])
        self._begin_generation()
        self._put_rows(moved)
        self._touch([into] if was_there or self.has(into) else [])
        people = [(into, key, version, fact) for key, (version, fact) in facts[Person].items()]
        self._put_facts([_as_of_survivor(fact, into) for fact in people], wait=True)
        decisions = [(into, key, version, fact) for key, (version, fact) in facts[Decision].items()]
        self._put_facts([fact for fact in decisions if self._replaces_decision(*fact)], wait=True)

    def _moved_rows(self, patient: str, into: str, facts: Mapping[type, Mapping[str, tuple[int, Any]]]) -> list[_Row]:
        """Return the rows of stays, beds and pregnancies for another number, with the ends of validity that they had.

        A stay that was over before the horizon is still in the store because another one of the same hospital stay goes
        on, and decisions made for it apply. So its age is not checked again.
        """
        ends = {
            (kind, key): end
            for kind, key, end in self._db.execute("SELECT kind, key, until_us FROM fact WHERE patient = ?", (patient,))
        }
        rows: list[_Row] = []
        for kind in (Admission, Movement, Placement, Pregnancy):
            for key, (version, fact) in facts[kind].items():
                if isinstance(fact, Admission | Placement):
                    before = self._fact_of(into, key, type(fact))
                    fact = self._with_first_times(version, fact, before)
                rows.append(self._row(into, key, version, ends[KINDS[kind], key], fact))
        return rows

    def _replaces_decision(self, patient: str, key: str, _: int, decision: Fact) -> bool:
        """Return whether a decision replaces the one in the store; if so, delete that one."""
        existing: Decision | None = self._facts(patient, Decision).get(key)
        if existing is None or not isinstance(decision, Decision):
            return True
        admissions, beds = self._facts(patient, Admission), [*self._facts(patient, Placement).values()]
        now = current_stay(admissions, beds, as_of_us=self.now_us())
        encounter = now.encounter if now else ""

        def rank(one: Decision) -> tuple[bool, int]:
            return applies_to_stay(one.encounter, one.at_us, encounter, admissions, beds), one.at_us

        replaces = rank(decision) >= rank(existing)
        self._delete_facts(patient, Decision, [key] if replaces else [])
        return replaces

    def survivor(self, patient: str) -> str:
        """Return the pseudonym of the number that a number was merged into; its own where it was not merged."""
        return self._merges.survivor(patient)

    def _without_past(
        self, facts: list[tuple[str, str, int, Fact]], horizon: int
    ) -> Iterator[tuple[str, str, int, Fact]]:
        """Yield facts without stays that ended before the horizon and are not in the store, and without their beds."""
        latest: dict[tuple[str, str], tuple[int, Admission]] = {}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission) and version >= latest.get((patient, key), (version, fact))[0]:
                latest[patient, key] = version, fact
        past = {name for name, (_, stay) in latest.items() if until(stay) < horizon}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission):
                left_out = (patient, key) in past and not self._has_stay(patient, key)
            else:
                left_out = isinstance(fact, Placement) and (patient, fact.encounter) in past
            if not left_out:
                yield patient, key, version, fact

    def _has_stay(self, patient: str, encounter: str) -> bool:
        beds: dict[str, Placement] = self._facts(patient, Placement)
        return encounter in self._facts(patient, Admission) or any(one.encounter == encounter for one in beds.values())

    def _combined(
        self, facts: Iterable[tuple[str, str, int, Fact]], now_us: int, *, again: bool
    ) -> Iterator[tuple[str, str, int, Fact]]:
        """Yield facts combined with what is stored under the same key.

        - A Person keeps the properties that the new message leaves out.
        - The end of a stay gets the time at which the store learned of it.
        - A beginning that was clamped to our clock stays as it was stored first.
        """
        people: dict[tuple[str, str], tuple[int, Person]] = {}
        stays: dict[tuple[str, str, type], tuple[int, Admission | Placement]] = {}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission | Placement):
                name = (patient, key, type(fact))
                before = stays.get(name) or self._fact_of(*name)
                if again and before and before[0] == version and not self._replaces(name, version, fact, before[1]):
                    continue
                fact = self._with_first_times(version, fact, before)
                if ends_a_stay(fact):
                    told_us = before[1].told_us if before and ends_a_stay(before[1]) else now_us
                    fact = msgspec.structs.replace(fact, told_us=told_us)
                if before is None or version >= before[0]:
                    stays[name] = (version, fact)
                    if again:
                        self._filled[name] = version
                yield patient, key, version, fact
                continue
            if not isinstance(fact, Person):
                yield patient, key, version, fact
                continue
            stored_person = people.get((patient, key)) or self._fact_of(patient, key, Person)
            if stored_person is not None:
                is_newer = version >= stored_person[0]
                fact = merged_person([stored_person, (version, fact)] if is_newer else [(version, fact), stored_person])
                version = max(version, stored_person[0])
            people[patient, key] = (version, fact)
            yield patient, key, version, fact

    def _replaces(
        self, name: tuple[str, str, type], version: int, fact: Admission | Placement, before: Admission | Placement
    ) -> bool:
        """Return whether a filling's fact replaces a stored fact of the same version.

        Senders without versions have the same version for all messages. Of two facts of this filling the later one
        counts. A fact that a lane has stored is replaced by one that became known minutes later. Two facts whose
        version is the same time are the same event.
        """
        if self._filled.get(name) == version:
            return fact.known_us >= before.known_us
        return version <= _MOST_COUNTED and fact.known_us > before.known_us + _NEAR_US

    @staticmethod
    def _with_first_times(
        version: int, fact: Admission | Placement, before: tuple[int, Admission | Placement] | None
    ) -> Admission | Placement:
        """Return a fact that was sent again with its first beginning; a bed also with when it first became known."""
        if before is None:
            return fact
        fact = with_first_begin(fact, before[1])
        if isinstance(fact, Admission):
            return fact
        is_resent = version == before[0] or (
            version > _MOST_COUNTED and version // _SECOND_US == before[0] // _SECOND_US
        )
        return with_first_known(fact, before[1]) if is_resent else fact

    def _fact_of(self, patient: str, key: str, kind: type[_Kind]) -> tuple[int, _Kind] | None:
        row = self._db.execute(
            "SELECT version, sealed FROM fact WHERE (patient, kind, key) = (?, ?, ?)", (patient, KINDS[kind], key)
        ).fetchone()
        return None if row is None else (row[0], self._opened(patient, kind, key, row[1]))

    def has(self, patient: str) -> bool:
        """Return whether a patient is on the ward, or has measured values."""
        return self._db.execute("SELECT 1 FROM patient WHERE patient = ?", (patient,)).fetchone() is not None

    def _waits(self, patient: str, fact: Fact) -> bool:
        return isinstance(fact, Person | Pregnancy) and not self.has(patient) and not self._facts(patient, Admission)

    def person(self, patient: str, *, own: bool = False) -> Person | None:
        """Return what is known of a patient; None: nothing.

        Sex and birth come from the patient's own record, else from admission messages, else from results; see
        FROM_RESULTS. A patient is dead if any of these sources says so, until the same source says that the patient
        lives: many systems always write that a patient lives, and versions of two sources cannot be compared. One
        exception: a patient who lives according to admission messages is not dead by a laboratory's word.

        What was given for numbers that were merged into this one counts where nothing was given for this one.

        Args:
            patient: pseudonym.
            own: leave out what was given for numbers that were merged into this one.
        """
        people: dict[str, Person] = self._facts(patient, Person)
        people = {key: one for key, one in people.items() if not (own and key.startswith(_OF_ANOTHER))}
        sexes = [person.sex for key, person in sorted(people.items()) if person.sex not in (*NOT_STATED, DELETED)]
        born = [person.born for key, person in sorted(people.items()) if person.born not in (*NOT_STATED, DELETED)]
        all_deaths = {key: one.died for key, one in sorted(people.items()) if one.died not in NOT_STATED}
        own_deaths = {key: died for key, died in all_deaths.items() if not key.startswith(_OF_ANOTHER)}
        deaths = [(key.rpartition(_OF_ANOTHER)[2], died) for key, died in (own_deaths or all_deaths).items()]
        lives = (FROM_ADMISSIONS, DELETED) in deaths
        died = [death for source, death in deaths if death != DELETED and not (lives and source == FROM_RESULTS)]
        if not people:
            return None
        return Person(next(iter(sexes), "unknown"), next(iter(born), ""), died=next(iter(died), ""))

    def forget(self, patients: Sequence[str]) -> int:
        """Delete everything of patients, overwritten on disk, and refuse everything of them from now on.

        A lane that has not learned of the erasure yet can still bring values of theirs. So their digests stay.

        Args:
            patients: pseudonyms.

        Returns:
            How many blocks, facts and undecided values were deleted.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is changed.
        """
        count = self.forget_digests([_digest(patient).hex() for patient in patients])
        self._database.scrub([patient.encode() for patient in patients])  # also what a killed erasure has left
        return count

    @property
    def erasures(self) -> int:
        """How many entries of the erasure log were carried out in this store; a restored copy has fewer."""
        return int(self._meta("erasures") or 0)

    @erasures.setter
    def erasures(self, count: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('erasures', ?)", (str(count),))

    def forget_digests(self, digests: Iterable[str], *, known: Container[str] = ()) -> int:
        """Forget the patients whose pseudonym has one of these SHA-256 digests; see forget.

        Args:
            digests: in hex.
            known: further digests, which can be tested and not listed.
        """
        listed = {bytes.fromhex(digest) for digest in digests}

        def is_forgotten(patient: str) -> bool:
            digest = _digest(patient)
            return digest in listed or digest.hex() in known

        self._db.execute("PRAGMA secure_delete=ON")
        with self._database.transaction():
            self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", [(digest,) for digest in listed])
            query = "SELECT patient FROM block UNION SELECT patient FROM fact UNION SELECT patient FROM patient"
            query += " UNION SELECT patient FROM corrected UNION SELECT patient FROM merged"
            patients = [patient for (patient,) in self._db.execute(query) if is_forgotten(patient)]
            deleted = self._delete_all_of(patients)
            self._merges.forget(patients)
            undecided = self._ahead.forget_patients(is_forgotten)
            new = [(_digest(patient),) for patient in patients]
            self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", new)
            self._begin_generation()
        if patients or undecided:  # undecided values are sealed with their pseudonyms: there is no text to look for
            self._database.scrub([] if undecided else [patient.encode() for patient in patients])
        return deleted + undecided

    def held(self, is_wanted: Callable[[str], bool]) -> dict[str, int]:
        """Return how many entries of each kind the store has of the patients whose pseudonyms are wanted.

        Returns:
            A kind, in words for people → how many; only kinds of which there are some.
        """
        counts: Counter[str] = Counter({"undecided values": self._ahead.held(is_wanted)})
        for patient, writer, number, sealed in self._db.execute("SELECT patient, writer, number, sealed FROM block"):
            if is_wanted(patient):
                counts["values"] += len(self._open_block(patient, writer, number, sealed))
        for patient, kind in self._db.execute("SELECT patient, kind FROM fact"):
            counts[HELD_AS[kind]] += is_wanted(patient)
        for table, kind in (("patient", "revisions"), ("corrected", "corrections"), ("merged", "merged numbers")):
            query = f"SELECT patient FROM {table}"  # noqa: S608
            counts[kind] += sum(is_wanted(patient) for (patient,) in self._db.execute(query))
        return {kind: count for kind, count in counts.items() if count}

    def _delete_all_of(self, patients: Sequence[str]) -> int:
        deleted = 0
        for patient in patients:
            for table in ("block", "fact", "patient"):
                cursor = self._db.execute(f"DELETE FROM {table} WHERE patient = ?", (patient,))  # noqa: S608
                deleted += cursor.rowcount if table != "patient" else 0
            self._corrections.forget(patient)
        return deleted

    def _begin_generation(self) -> None:
        """Begin a new generation: every reader and writer of the store drops what it has cached."""
        self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'")

    def drop(self, *, patients: Sequence[str] = (), writer: str = "") -> int:
        """Delete everything of patients, and the blocks of one writer; what comes later is stored as usual.

        Returns:
            How many blocks and facts were deleted.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is changed.
        """
        with self._database.transaction():
            deleted = self._db.execute("DELETE FROM block WHERE writer = ?", (writer,)).rowcount
            deleted += self._delete_all_of(patients)
            self._begin_generation()
        return deleted

    def all_patients(self) -> list[str]:
        """Return every patient who has a block or a fact in the store."""
        return [str(row[0]) for row in self._db.execute("SELECT patient FROM block UNION SELECT patient FROM fact")]

    def prune(self) -> int:
        """Delete what is older than the store keeps, and patients of whom nothing is left; return how many blocks."""
        horizon = self.now_us() - self._hours_us
        with self._database.transaction():
            aged = self._db.execute(
                "SELECT patient, writer, number, last_us, sealed FROM block WHERE first_us < ?", (horizon,)
            ).fetchall()
            for patient, writer, number, last_us, sealed in aged:
                place = (patient, writer, number)
                if last_us < horizon:
                    self._db.execute("DELETE FROM block WHERE (patient, writer, number) = (?, ?, ?)", place)
                else:
                    rows = self._open_block(*place, sealed)
                    self._db.execute(_PUT_BLOCK, self._sealed(*place, rows[rows["effective_us"] >= horizon]))
            if aged:
                self._begin_generation()
            self._ahead.prune()
            self._corrections.prune(self._hours_us)
            self._merges.prune(clock.now_us() - self._hours_us, self.patients())
            self._db.execute(
                "DELETE FROM fact WHERE until_us < ? AND kind != 'encounter' "
                "AND NOT (kind IN ('patient', 'pregnancy') AND patient IN (SELECT patient FROM patient))",
                (horizon,),
            )
            self._prune_stays(horizon)
            self._prune_lanes(clock.now_us() - self._hours_us)
            self._db.execute(
                "DELETE FROM patient WHERE patient NOT IN (SELECT patient FROM block) "
                "AND patient NOT IN (SELECT patient FROM fact WHERE kind IN ('encounter', 'placement'))"
            )
            self._db.execute(
                "DELETE FROM fact WHERE (kind = 'decision' OR (kind IN ('patient', 'pregnancy') AND until_us = ?)) "
                "AND patient NOT IN (SELECT patient FROM patient)",
                (FOR_EVER,),
            )
        return len(aged)

    def _prune_lanes(self, horizon: int) -> None:
        """Delete the lanes of jobs that died long ago; a lane that ended by itself stays on record."""
        old = {writer: ended for writer, (beat_us, ended) in self.lanes().items() if beat_us < horizon}
        dead = {writer.rpartition("/")[0] for writer, ended in old.items() if not ended}
        gone = [(writer,) for writer in old if writer.rpartition("/")[0] in dead]
        self._db.executemany("DELETE FROM lane WHERE writer = ?", gone)

    def _prune_stays(self, horizon: int) -> None:
        """Delete stays that were over before the horizon, each with its beds, decisions and diagnoses.

        - The end must also have been known before the horizon: a discharge can be entered with a wrong time, or for the
          wrong patient, and corrected later.
        - All parts of a hospital stay are deleted together: they can be other names of it, and decisions apply to the
          whole.
        - A stay without a known end loses its beds when none has been occupied since the horizon.
        """
        for (patient,) in self._db.execute(
            "SELECT patient FROM fact WHERE kind = 'placement' OR (kind = 'encounter' AND until_us < ?) "
            "GROUP BY patient", (horizon,),
        ).fetchall():  # fmt: skip
            admissions: dict[str, Admission] = self._facts(patient, Admission)
            placements: dict[str, Placement] = self._facts(patient, Placement)
            self._prune_stays_of(patient, admissions, placements, horizon)

    def _prune_stays_of(
        self, patient: str, admissions: dict[str, Admission], placements: dict[str, Placement], horizon: int
    ) -> None:
        now_us, beds = self.now_us(), placements.values()
        stay_now = current_stay(admissions, beds, as_of_us=now_us)
        open_ = stay_now.encounter if stay_now is not None and stay_now.ended_us is None else None
        recent = recently_ended(admissions, beds, since_us=horizon)
        over = {n: end for n, end in ended_stays(admissions, beds, as_of_us=now_us).items() if end < horizon}
        over = {name: end for name, end in over.items() if name not in recent}
        visits = {name for name, one in admissions.items() if one.outpatient}
        stays = hospital_stays(admissions, beds)
        # A series of visits that lasts for years does not keep stays of long ago in the store.
        lasting = [one.names for one in stays if not ((one.names - visits) or one.names) <= over.keys()]
        kept = frozenset(name for names in lasting for name in names)
        over = {name: end for name, end in over.items() if name not in kept}
        others = (kept - {open_ or ""}) | recent
        beds_gone = expired_beds(admissions, placements, over, horizon, kept=others, as_of_us=now_us)
        gone = over.keys() | {placements[key].encounter for key in beds_gone}
        if gone:
            begun = [admissions[name].admitted_us for name in recent & admissions.keys()]
            begun += [bed.since_us for bed in beds if bed.encounter in recent]
            self._lapse(patient, gone, over, open_, min(begun, default=0) if recent else FOR_EVER)
        # A recent end of a visit within a stay keeps the visit in the store, and not the stay.
        past = {one: one.names - visits for one in stays if one.end_us < horizon}
        lapsing = [one for one, own in past.items() if own and own.isdisjoint(recent) and own - {""} <= over.keys()]
        self._lapse_in_visits(patient, visits, lapsing)
        deleted = [name for name in admissions if name in over]
        self._delete_facts(patient, Admission, deleted)
        self._delete_facts(patient, Placement, beds_gone)
        if (deleted or beds_gone) and self.has(patient):  # so that boards read the patient again
            self._touch([patient])

    def _lapse(
        self,
        patient: str,
        gone: Collection[str],
        over: Mapping[str, int],
        open_: str | None,
        recent_from_us: int,
    ) -> None:
        """Delete decisions and diagnoses that were made for stays that are over, while the ends are still in the store.

        A decision that names no stay is kept while a recent end can still be corrected. It is deleted now if a stay
        that is being deleted ended it before: later the store would no longer know that.

        Args:
            patient: pseudonym.
            gone: stays that are being deleted, or whose beds are.
            over: the stays that are over, with their ends.
            open_: the open stay; None: none is open.
            recent_from_us: when the first of the stays began whose end became known recently; FOR_EVER: there is none.
        """
        decisions: dict[str, Decision] = self._facts(patient, Decision)
        last_us = max(over.values(), default=-1)
        before_us = max((end for end in over.values() if end <= recent_from_us), default=-1)

        def could_lapse(one: Decision) -> bool:
            without_stay = not one.encounter and (recent_from_us == FOR_EVER or one.at_us <= before_us)
            return without_stay or one.encounter in gone  # "" is in gone when beds without an encounter are deleted

        candidates = {kind: one for kind, one in decisions.items() if could_lapse(one)}
        if open_ is None:
            lapsed = {
                kind
                for kind, one in candidates.items()
                if one.encounter in over or (not one.encounter and one.at_us <= last_us)
            }
        else:
            lapsed = candidates.keys() - self.decisions(patient, encounter=open_).keys()
        self._delete_facts(patient, Decision, lapsed)
        diagnoses: dict[str, Pregnancy] = self._facts(patient, Pregnancy)
        self._delete_facts(patient, Pregnancy, [key for key, one in diagnoses.items() if one.encounter in over])

    def _lapse_in_visits(self, patient: str, visits: Collection[str], stays: Collection[HospitalStay]) -> None:
        """Delete decisions that name a visit and were made within one of these hospital stays, which are over."""
        if not stays:
            return
        decisions: dict[str, Decision] = self._facts(patient, Decision)
        replay = self.replay()
        times = {
            kind: replay.at(one.at_us) if replay else one.at_us
            for kind, one in decisions.items()
            if one.encounter in visits
        }
        lapsed = [kind for kind, at_us in times.items() if any(stay.lasts(at_us) for stay in stays)]
        self._delete_facts(patient, Decision, lapsed)

    def _delete_facts(self, patient: str, kind: type, keys: Iterable[str]) -> None:
        rows = [(patient, KINDS[kind], key) for key in keys]
        self._db.executemany("DELETE FROM fact WHERE (patient, kind, key) = (?, ?, ?)", rows)

    # -- reading -------------------------------------------------------------------------------------------------

    def patients(self) -> dict[str, int]:
        """Return the revision of every patient who is on the ward or has values."""
        return self.changed_since(-1)

    def changed_since(self, revision: int) -> dict[str, int]:
        """Return the patients that have changed after a revision, with their own revisions."""
        return dict(self._db.execute("SELECT patient, revision FROM patient WHERE revision > ?", (revision,)))

    def generation(self) -> str:
        """Return a text that changes whenever rows were deleted or moved to another number; see _begin_generation."""
        return self._meta("generation")

    def version(self) -> int:
        """Return a number that changes whenever another connection has written; the cheapest way to see a change."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def history(self, patient: str) -> History:
        """Return a patient's values, of each the row that counts; empty when the patient is not known.

        Values that were taken back are left out. A value that is not finite cannot be used; under the code REFUSED it
        says that a whole message was rejected (pipelines.online_store.values). A value became known when its sender
        says so, or when it came by our clock, whichever is later, because the sender's clock can be behind. Some values
        can lie ahead of the ward's time: see History.known_at.

        Raises:
            PrivacyError: the store was written with another key.
        """
        blocks = self._db.execute(
            "SELECT writer, number, sealed FROM block WHERE patient = ? ORDER BY writer, number", (patient,)
        ).fetchall()
        opened = [
            restored(self._sealer.open(s, context=_place(patient, writer, number))) for writer, number, s in blocks
        ]
        rows = np.frombuffer(b"".join(opened), ROW)
        rows = rows[rows["effective_us"] >= self.now_us() - self._hours_us]
        rows = current(self._corrections.without_others(patient, rows, generation=self._meta("generation")))
        times = np.ascontiguousarray(rows["effective_us"])
        if (times[1:] < times[:-1]).any():
            rows = rows[np.argsort(times, kind="stable")]
        known_us = rows["available_us"]
        if self.replay() is None:  # in a replay came_us is by the wall clock, and the ward's time is not
            known_us = np.maximum(known_us, rows["came_us"])
        signs = (rows["stage"] >> 8).astype(np.uint8)
        code, value, effective_us = (np.ascontiguousarray(rows[name]) for name in ("code", "value", "effective_us"))
        return History(code, value, effective_us, np.ascontiguousarray(known_us), signs if signs.any() else None)

    def stay(self, patient: str, *, as_of_us: int) -> Stay | None:
        """Return the stay a patient is in at a moment, or was in last; None: none is known.

        Where no admission is known, the patient's bed shows a stay, which begins when the patient came to the bed.
        """
        admissions: dict[str, Admission] = self._facts(patient, Admission)
        placements = self._facts(patient, Placement).values()
        stay_then = current_stay(admissions, placements, as_of_us=as_of_us)
        if stay_then is None:
            return None
        encounter, place = stay_then.encounter, stay_then.place
        person = self.person(patient)
        age = admissions[encounter].age_years if encounter in admissions else None
        if age is None and person is not None:
            age = minimum_age(person.born, stay_then.admitted_us)
        same = same_stay(encounter, admissions, placements)
        names = {encounter} if same is None else same.names
        moves = [
            move
            for move in self._facts(patient, Movement).values()
            if move.encounter in stay_then.names and move.since_us <= as_of_us
        ]
        move = max(moves, key=lambda move: move.since_us, default=None)
        # Of the warehouse and the admission feed, the one that moved the patient last gives the bed.
        by_feed = place is not None and (move is None or not move.bed or place.since_us >= move.since_us)
        return Stay(
            encounter=encounter,
            admitted_us=stay_then.admitted_us,
            discharged_us=stay_then.ended_us,
            age_years=age,
            sex=person.sex if person else "unknown",
            unit=move.unit if move and move.unit else place.unit if place else "",
            bed=place.bed if place and by_feed else move.bed if move else "",
            pregnant=self._is_pregnant(patient, self._diagnosis_stays(names, admissions, placements), as_of_us),
            died=person.died if person else "",
            moves_us=next_move(placements, as_of_us=as_of_us),
        )

    @staticmethod
    def _diagnosis_stays(
        names: Collection[str], admissions: Mapping[str, Admission], placements: Collection[Placement]
    ) -> set[str]:
        """Return the stays whose diagnoses apply to a stay; to a visit also those of the hospital stay."""
        if all(name in admissions and admissions[name].outpatient for name in names):
            stays = hospital_stays(admissions, placements)
            names = {*names, *(name for one in stays if not one.names.isdisjoint(names) for name in one.names)}
        return {*names, ""}

    def is_visit(self, patient: str, encounter: str) -> bool:
        """Return whether a stay is an outpatient visit, or a series of visits."""
        admissions: dict[str, Admission] = self._facts(patient, Admission)
        return encounter in admissions and admissions[encounter].outpatient

    def pregnant(self, patient: str, *, as_of_us: int) -> bool:
        """Return whether any diagnosis says that a patient is pregnant; for patients without a known stay."""
        return self._is_pregnant(patient, None, as_of_us)

    def _is_pregnant(self, patient: str, stays: Collection[str] | None, as_of_us: int) -> bool:
        """Return whether any diagnosis is valid; one stored without an id does not count if the same one has an id."""
        diagnoses: dict[str, tuple[int, Pregnancy]] = self._versions(patient, Pregnancy)
        known = {key: one for key, one in diagnoses.items() if one[1].since_us <= as_of_us}
        newest: dict[str, int] = {}
        for version, one in known.values():
            newest |= {name: max(version, newest.get(name, version)) for name in one.names}
        return any(
            not one.over and newest.get(key, version - 1) < version and (stays is None or one.encounter in stays)
            for key, (version, one) in known.items()
        )

    def pregnancies(self, patient: str) -> dict[str, Pregnancy]:
        """Return the diagnoses of pregnancy of a patient by their keys, including those that are over."""
        return self._facts(patient, Pregnancy)

    def decisions(self, patient: str, *, encounter: str) -> dict[str, Decision]:
        """Return the last decision of each kind that applies to a patient's stay.

        A hospital stay can have several names: that of admission messages, and those of FHIR Encounters of departments
        and procedures. A decision made before any stay was known applies to the stay that became known then.

        Args:
            patient: pseudonym.
            encounter: the stay's pseudonym; empty: none is known.
        """
        decisions: dict[str, Decision] = self._facts(patient, Decision)
        if not decisions:
            return decisions
        admissions: dict[str, Admission] = self._facts(patient, Admission)
        placements, replay = self._facts(patient, Placement).values(), self.replay()
        return {
            kind: one
            for kind, one in decisions.items()
            if applies_to_stay(
                one.encounter, replay.at(one.at_us) if replay else one.at_us, encounter, admissions, placements
            )
        }

    def decided(self) -> list[tuple[str, Decision]]:
        """Return all decisions of clinicians, each with the patient's pseudonym."""
        rows = self._db.execute("SELECT DISTINCT patient FROM fact WHERE kind = ?", (KINDS[Decision],)).fetchall()
        return [(patient, one) for (patient,) in rows for one in self._facts(patient, Decision).values()]

    def age(self, patient: str, *, as_of_us: int) -> int | None:
        """Return the completed years that a patient has at least, with or without a known stay; None: not known."""
        person = self.person(patient)
        return minimum_age(person.born, as_of_us) if person else None

    def died(self, patient: str) -> str:
        """Return the recorded death of a patient, see Person.died; empty: the patient is not recorded as dead."""
        person = self.person(patient)
        return person.died if person else ""

    def _facts(self, patient: str, kind: type) -> dict[str, Any]:
        return {key: fact for key, (_, fact) in self._versions(patient, kind).items()}

    def _versions(self, patient: str, kind: type) -> dict[str, tuple[int, Any]]:
        rows = self._db.execute(
            "SELECT key, version, sealed FROM fact WHERE patient = ? AND kind = ?", (patient, KINDS[kind])
        ).fetchall()
        return {key: (version, self._opened(patient, kind, key, sealed)) for key, version, sealed in rows}

    def _opened(self, patient: str, kind: type, key: str, sealed: bytes) -> Any:
        return msgspec.json.decode(self._sealer.open(sealed, context=_place(patient, KINDS[kind], key)), type=kind)


def _as_of_survivor(given: tuple[str, str, int, Fact], into: str) -> tuple[str, str, int, Fact]:
    """Return a merged number's fact as the surviving number's; a Person gets a key that counts after the own ones."""
    _, key, version, fact = given
    if isinstance(fact, Person):
        return into, f"{_OF_ANOTHER}{key}", version, fact
    return into, key, version, fact


def _digest(patient: str) -> bytes:
    return hashlib.sha256(patient.encode()).digest()


def _place(*parts: object) -> bytes:
    return "\n".join(map(str, parts)).encode()
