"""The care store on SQLite: many small writes, one patient's rows in a fraction of a millisecond.

A patient's values lie in blocks of at most BLOCK_ROWS rows, each sealed as a whole: a row of its own would cost one
decryption a row, 8,640 for a day of six vital signs a minute. Patients stand under their pseudonym, the same as in
what is published; times are in clear as far as deleting by age needs them, values and codes are not.

Every source position is taken exactly once: the transaction that stores a poll's rows also stores how far each
partition was taken, and what lies before is left out when a lane reads it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
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
    KINDS,
    ON_THE_WARD,
    TOLD_BESIDE,
    TOLD_BY_RESULTS,
    UNSAID,
    Admission,
    Decision,
    Fact,
    Movement,
    Person,
    Placement,
    Pregnancy,
    begun_as_before,
    ends_a_stay,
    known_as_before,
    least_age,
    merged,
    until,
)
from pipelines.online_store.merges import TABLES as _MERGED_TABLES
from pipelines.online_store.merges import Merges
from pipelines.online_store.placing import next_move
from pipelines.online_store.playback import Replay
from pipelines.online_store.stays import (
    HospitalStay,
    ended,
    forgotten_beds,
    hospital_stays,
    is_of_stay,
    lately_ended,
    same_stay,
)
from pipelines.online_store.stays import standing as stay_at
from pipelines.online_store.undecided import TABLES as _AHEAD_TABLES
from pipelines.online_store.undecided import UndecidedWrites
from pipelines.online_store.values import ROW, Values, current, held_to, restored, stored
from vitalake import clock
from vitalake.clinical.records import History, Stay
from vitalake.sealing import Seals
from vitalake.sqlite import Database

BLOCK_ROWS = 128
"""Rows of a full block, 7 kB: a longer one makes each append dearer, a shorter one each read."""

CACHED_BLOCKS = 20_000
"""Open blocks a writer remembers, 120 MB at the most."""

PRUNE_SECONDS = 60.0

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
    "Stop streams and the server, delete it with its -wal and -shm, then run 'vitalake lake rebuild care': its hours "
    "are filled again of the restricted zone."
)

_Kind = TypeVar("_Kind", bound=Admission | Placement | Person)

_Row = tuple[str, str, str, int, int, bytes]
"""A fact's: patient, kind, key, version, until when it holds, sealed."""

_OF_ANOTHER = "~merged"
"""What the keys of a Person begin with that was told of a number given up: they come after all of the patient's own."""

_NEAR_US = 300_000_000
"""How much later the lake may say that the same was known: it has the sender's time, or that of taking it in."""

_SECOND_US = 1_000_000
_MOST_COUNTED = 1 << 40
"""Versions above are times, of admission messages that of EVN-2: those of one second are of one event, sent again."""

_PUT_BLOCK = "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class _Tail:
    """A patient's newest block of one writer, which is not full yet."""

    number: int
    rows: npt.NDArray[np.void]


_SILENT_US = 60_000_000
"""A lane that lives says so every five seconds; a killed one has decided nothing for longer than this since."""


class OnlineStore:
    """An open care store; used by one thread at a time. Any number of processes may have one open."""

    def __init__(self, path: Path, sealer: Seals, *, hours: float) -> None:
        """Open the store, or make it, readable by its owner only.

        Raises:
            ServiceUnavailable: the file cannot be opened.
        """
        self._sealer, self._hours_us = sealer, int(hours * 3_600_000_000)
        # Synced at every commit: a poll is one, which is affordable, and a lost one would be a stale score.
        tables = _TABLES + _AHEAD_TABLES + _CORRECTED_TABLES + _MERGED_TABLES
        self._database = Database(path, tables=tables, name="Care store", repair=REPAIR, derived=True)
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
        """Close the connection, and forget the keys."""
        self._sealer.close()
        self._database.close()

    def moved(self) -> bool:
        """Return whether the file was deleted or replaced: what is written to it is lost, what is read is old."""
        return self._database.moved()

    def name(self) -> str:
        """Return a name of this store, which one made in its place does not have; one made long ago has none."""
        return self._meta("store")

    def made_us(self) -> int:
        """Return when the store was made, or first opened by a release that notes it; microseconds since 1970 UTC."""
        return int(self._meta("made") or 0)

    def is_new(self) -> bool:
        """Return whether nothing was ever stored here."""
        there = "SELECT 1 FROM taken UNION ALL SELECT 1 FROM fact UNION ALL SELECT 1 FROM lane LIMIT 1"
        return self._db.execute(there).fetchone() is None

    def is_older(self, writer: str, decided_us: int) -> bool:
        """Return whether a lane has decided rows that it cannot have brought here: this is an older copy of the store.

        Args:
            writer: the lane.
            decided_us: when it decided rows last, microseconds since 1970 UTC.
        """
        beat_us, _ = self.lanes().get(writer, (decided_us, True))
        return decided_us > max(beat_us + _SILENT_US, self.made_us(), self.filled_us())

    def note_lacking(self) -> None:
        """Take note that the store is new, or older than the lake: it lacks what came before."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('lacking', ?)", (str(clock.now_us()),))

    def lacking_us(self) -> int:
        """Return since when the store lacks what came before, microseconds since 1970 UTC; 0: it lacks nothing."""
        since = int(self._meta("lacking") or 0)
        return 0 if not since or self.is_filled_since(since) else since

    def note_filled(self, *, with_decisions: bool = True) -> None:
        """Take note that the store was filled from the restricted zone.

        Args:
            with_decisions: none of what clinicians have decided can be missing.
        """
        lacking = "" if with_decisions else "1"
        notes = [("filled", str(clock.now_us())), ("lacks-decisions", lacking)]
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", notes)

    def lacks_decisions(self) -> bool:
        """Return whether decisions may be missing since the store was filled, within the hours that it keeps."""
        return bool(self._meta("lacks-decisions")) and clock.now_us() - self.filled_us() < self._hours_us

    def filled_us(self) -> int:
        """Return when the store was last filled from the restricted zone, microseconds since 1970 UTC; 0: never."""
        return int(self._meta("filled") or 0)

    def is_filled_since(self, moment_us: int) -> bool:
        """Return whether it was filled after a moment, or is so old by now that nothing is missing any more."""
        return self.filled_us() > moment_us or clock.now_us() - moment_us > self._hours_us

    # -- who writes ------------------------------------------------------------------------------------------------

    def beat(self, writer: str, *, ended: bool = False) -> None:
        """Say that a lane lives, or that it has ended by itself; by the wall clock, also in a replay.

        Args:
            writer: ``<job>/<i>of<n>``; what lanes of the job said under another number of shards is forgotten.
            ended: it was asked to end, or has nothing more to read.

        Raises:
            ServiceUnavailable: the store cannot be written.
        """
        job, _, shard = writer.rpartition("/")
        others = f"{job}/%of{shard.partition('of')[2]}"
        with self._database.transaction():
            self._db.execute("DELETE FROM lane WHERE writer LIKE ? AND writer NOT LIKE ?", (f"{job}/%", others))
            self._db.execute("INSERT OR REPLACE INTO lane VALUES (?, ?, ?)", (writer, clock.now_us(), ended))

    def lanes(self) -> dict[str, tuple[int, bool]]:
        """Return for every lane when it last said that it lives, and whether it has ended by itself."""
        rows = self._db.execute("SELECT writer, beat_us, ended FROM lane").fetchall()
        return {writer: (beat_us, bool(ended)) for writer, beat_us, ended in rows}

    def hold(self) -> None:
        """Make sure that the store's key may be used now.

        Raises:
            PrivacyError: keys are revoked.
        """
        self._sealer.hold()

    # -- the ward's time -----------------------------------------------------------------------------------------

    def replay(self) -> Replay | None:
        """Return the replay that is under way; None: the ward's time is the wall clock's."""
        text = self._meta("replay")
        return msgspec.json.decode(text, type=Replay) if text else None

    def set_replay(self, replay: Replay | None) -> None:
        """Let the ward's time be a replay's; for demonstrations only: every page says so."""
        text = msgspec.json.encode(replay).decode() if replay else ""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('replay', ?)", (text,))

    def now_us(self) -> int:
        """Return the ward's time, microseconds since 1970 UTC."""
        replay = self.replay()
        return replay.at(clock.now_us()) if replay else clock.now_us()

    def horizon_us(self) -> int:
        """Return from when on the store keeps what is told, by the ward's time; microseconds since 1970 UTC."""
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
        """Store values of a poll that were not stored before; return how many.

        Args:
            values: the poll's; too old ones are left out.
            writer: whose blocks they go to; two lanes never write one block.
            ends: for each partition of the poll the position behind its last message.
            ours: when the values came is by our own clock, and not by a broker's or a producer's.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing of the poll is stored.
        """
        now_us = self.now_us()
        values = values.where(values.rows["effective_us"] >= now_us - self._hours_us)
        if self.replay() is None:
            values = held_to(values, now_us, ours=ours)
        if not len(values.rows):  # read again they are too old again
            return 0
        try:
            with self._database.transaction():
                stored = self._take(values, writer, ends)
        except BaseException:  # what is remembered of blocks was not written
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
        """Return values as those of whom their numbers were merged into."""
        merged = self._merges.survivors(values.patients)
        if not merged:
            return values
        return replace(values, patients=[merged.get(patient, patient) for patient in values.patients])

    def _without_forgotten(self, values: Values) -> Values:
        forgotten = {row[0] for row in self._db.execute("SELECT digest FROM forgotten")}
        if not forgotten:
            return values
        kept = np.array([_digest(patient) not in forgotten for patient in values.patients], np.bool_)
        return values.where(kept[values.patient])

    def settle(self, positions: Mapping[str, int]) -> None:
        """Take note of how far the lake has decided partitions; any thread may say so.

        Args:
            positions: by the partition's name.
        """
        self._decided = {**self._decided, **positions}

    def is_ahead(self, part: str) -> bool:
        """Return whether something of a partition may never have been decided, and may be somebody else's."""
        return self._ahead.holds(part)

    def rewind(self, positions: Mapping[str, int], *, others: bool = False) -> int:
        """Delete what was stored and never decided, of values that may be somebody else's when they are read again.

        Args:
            positions: where the lake goes on with partitions, by name; from there on they are taken again.
            others: take all from there on again, also where nothing is deleted: another message may come there.

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
                    self._again(part, position)
                if others:
                    self._again(part, position)
                self._ahead.forget(part)
            if count:
                self._begin_generation()
        return count

    def _again(self, part: str, position: int) -> None:
        self._db.execute("UPDATE taken SET next = min(next, ?) WHERE part = ?", (position, part))

    def _delete(self, patient: str, rows: npt.NDArray[np.void]) -> int:
        """Delete these rows of a patient, whoever stored them; return how many."""
        gone = {row.tobytes() for row in rows}
        count = 0
        blocks = self._db.execute(
            "SELECT writer, number, sealed FROM block WHERE patient = ? AND last_us >= ? AND first_us <= ?",
            (patient, int(rows["effective_us"].min()), int(rows["effective_us"].max())),
        ).fetchall()
        for writer, number, sealed in blocks:
            held = self._open_block(patient, writer, number, sealed)
            near = np.isin(held["id"], rows["id"])
            near[near] = [row.tobytes() in gone for row in held[near]]
            if not near.any():
                continue
            count += int(near.sum())
            if near.all():
                self._db.execute(
                    "DELETE FROM block WHERE (patient, writer, number) = (?, ?, ?)", (patient, writer, number)
                )
            else:
                self._db.execute(_PUT_BLOCK, self._sealed(patient, writer, number, held[~near]))
        self._touch([patient] if count else [])
        return count

    def _append(self, patient: str, writer: str, rows: npt.NDArray[np.void]) -> list[tuple[object, ...]]:
        """Return the blocks to write: the patient's open one with the rows behind it, and more when it is full."""
        tail = self._tails.get((patient, writer)) or self._load_tail(patient, writer)
        # Joined as bytes: numpy takes ten times as long to find that two equal record types are equal.
        held = np.frombuffer(tail.rows.tobytes() + rows.tobytes(), ROW)
        number, blocks = tail.number, []
        for begin in range(0, len(held), BLOCK_ROWS):
            block = held[begin : begin + BLOCK_ROWS]
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
        """Store what the warehouse says of patients' stays; an older version never replaces a newer one.

        What ended before the hours that the store keeps is left out, a stay with its bed; but a stay of which anything
        is there is ended. A Person of whom no stay is known, and a Pregnancy, wait for one as
        long as the store keeps values, or are left out.

        Args:
            facts: pseudonym, key within its kind (a stay's pseudonym; empty for a Person), version, fact.
            wait: whether they wait.
            again: they come out of the lake, that knows less than the messages said: of one version a stay or a bed
                that is there stays, unless it was known minutes before: of senders without versions all are one.
            rejected: they were told before, by messages that were rejected: of one version what is there stays.

        Raises:
            ServiceUnavailable: the store cannot be written; none is stored.
        """
        with self._database.transaction():
            if rejected:
                facts = [fact for fact in facts if not self._is_told(*fact)]
            self._put_facts(facts, wait=wait, again=again)

    def _is_told(self, patient: str, key: str, version: int, fact: Fact) -> bool:
        """Return whether the store has this version of a fact, by others than this filling's rejected messages."""
        of = (patient, key, type(fact))
        if self._filled.get(of) == version:
            return False
        query = "SELECT 1 FROM fact WHERE (patient, kind, key, version) = (?, ?, ?, ?)"
        there = self._db.execute(query, (self.survivor(patient), KINDS[type(fact)], key, version)).fetchone()
        if there is None:
            self._filled[of] = version
        return there is not None

    def _put_facts(self, facts: list[tuple[str, str, int, Fact]], *, wait: bool, again: bool = False) -> None:
        now_us = self.now_us()
        horizon = now_us - self._hours_us
        merged = self._merges.survivors({fact[0] for fact in facts})
        facts = [_told_of_another(fact, merged[fact[0]]) if fact[0] in merged else fact for fact in facts]
        rows = self._put_rows([
            self._row(patient, key, version, end, fact)
            for patient, key, version, fact in self._with_known(self._without_past(facts, horizon), now_us, again=again)
            if (
                (end := now_us if wait and self._waits(patient, fact) else until(fact)) >= horizon
                or isinstance(fact, Admission)
            )
            and (wait or not self._waits(patient, fact))
        ])  # fmt: skip
        there = {KINDS[kind] for kind in ON_THE_WARD}
        seen = {row[0] for row in rows if row[1] in there}
        self._touch([patient for patient in {row[0] for row in rows} if patient in seen or self.has(patient)])

    def _row(self, patient: str, key: str, version: int, end: int, fact: Fact) -> _Row:
        kind = KINDS[type(fact)]
        sealed = self._sealer.seal(msgspec.json.encode(fact), context=_place(patient, kind, key))
        return patient, kind, key, version, end, sealed

    def _put_rows(self, rows: list[_Row]) -> list[_Row]:
        """Write rows of facts, but of the forgotten none; return those of the others."""
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
        """Let all that is known of a number be of the one that it was merged into: what is there, and what comes.

        Of both numbers' decisions of one kind the one that holds for the stay of now counts, else the later one; of
        sex, birth and death what was told of the surviving number.

        Args:
            patient: pseudonym of the number that was given up.
            into: of the one that is left.
            version: of two merges of one number the later one counts; what went over does not come back.

        Raises:
            ServiceUnavailable: the store cannot be written; all is as it was.
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
        held = self._held(patient, into, facts)
        self._corrections.move(patient, into)
        self._delete_all_of([patient])
        self._begin_generation()
        self._put_rows(held)
        self._touch([into] if was_there or self.has(into) else [])
        said = [(into, key, version, fact) for key, (version, fact) in facts[Person].items()]
        self._put_facts([_told_of_another(fact, into) for fact in said], wait=True)
        decided = [(into, key, version, fact) for key, (version, fact) in facts[Decision].items()]
        self._put_facts([fact for fact in decided if self._counts(*fact)], wait=True)

    def _held(self, patient: str, into: str, facts: Mapping[type, Mapping[str, tuple[int, Any]]]) -> list[_Row]:
        """Return the rows of stays, beds and pregnancies as another number's, as long as they are kept.

        A stay that was over before the horizon is held because another of the same hospital stay goes on, and what was
        said for it holds: it is not looked at again whether it is past.
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
                    fact = self._as_before(version, fact, before)
                rows.append(self._row(into, key, version, ends[KINDS[kind], key], fact))
        return rows

    def _counts(self, patient: str, key: str, _: int, decision: Fact) -> bool:
        """Return whether a decision takes the place of the one that is there; that one is deleted then."""
        there: Decision | None = self._facts(patient, Decision).get(key)
        if there is None or not isinstance(decision, Decision):
            return True
        admissions, beds = self._facts(patient, Admission), [*self._facts(patient, Placement).values()]
        now = stay_at(admissions, beds, as_of_us=self.now_us())
        encounter = now.encounter if now else ""

        def rank(one: Decision) -> tuple[bool, int]:
            return is_of_stay(one.encounter, one.at_us, encounter, admissions, beds), one.at_us

        counts = rank(decision) >= rank(there)
        self._delete_facts(patient, Decision, [key] if counts else [])
        return counts

    def survivor(self, patient: str) -> str:
        """Return the pseudonym of whom a number was merged into; its own where it was not."""
        return self._merges.survivor(patient)

    def _without_past(
        self, facts: list[tuple[str, str, int, Fact]], horizon: int
    ) -> Iterator[tuple[str, str, int, Fact]]:
        """Yield facts without stays, and their beds, that ended before the horizon and end nothing that is there."""
        latest: dict[tuple[str, str], tuple[int, Admission]] = {}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission) and version >= latest.get((patient, key), (version, fact))[0]:
                latest[patient, key] = version, fact
        past = {of for of, (_, stay) in latest.items() if until(stay) < horizon}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission):
                left_out = (patient, key) in past and not self._is_there(patient, key)
            else:
                left_out = isinstance(fact, Placement) and (patient, fact.encounter) in past
            if not left_out:
                yield patient, key, version, fact

    def _is_there(self, patient: str, encounter: str) -> bool:
        beds: dict[str, Placement] = self._facts(patient, Placement)
        return encounter in self._facts(patient, Admission) or any(one.encounter == encounter for one in beds.values())

    def _with_known(
        self, facts: Iterable[tuple[str, str, int, Fact]], now_us: int, *, again: bool
    ) -> Iterator[tuple[str, str, int, Fact]]:
        """Yield facts, each Person with what was said before of the same key: what is left out erases nothing.

        What says that a stay is over says since when that is known. What was held to our clock began when it
        did before.
        """
        known: dict[tuple[str, str], tuple[int, Person]] = {}
        stays: dict[tuple[str, str, type], tuple[int, Admission | Placement]] = {}
        for patient, key, version, fact in facts:
            if isinstance(fact, Admission | Placement):
                of = (patient, key, type(fact))
                told = stays.get(of) or self._fact_of(*of)
                if again and told and told[0] == version and not self._replaces(of, version, fact, told[1]):
                    continue
                fact = self._as_before(version, fact, told)
                if ends_a_stay(fact):
                    told_us = told[1].told_us if told and ends_a_stay(told[1]) else now_us
                    fact = msgspec.structs.replace(fact, told_us=told_us)
                if told is None or version >= told[0]:
                    stays[of] = (version, fact)
                    if again:
                        self._filled[of] = version
                yield patient, key, version, fact
                continue
            if not isinstance(fact, Person):
                yield patient, key, version, fact
                continue
            before = known.get((patient, key)) or self._fact_of(patient, key, Person)
            if before is not None:
                fact = merged([before, (version, fact)] if version >= before[0] else [(version, fact), before])
                version = max(version, before[0])
            known[patient, key] = (version, fact)
            yield patient, key, version, fact

    def _replaces(
        self, of: tuple[str, str, type], version: int, fact: Admission | Placement, told: Admission | Placement
    ) -> bool:
        """Return whether what a filling has of a version takes the place of what is there of the same one.

        Senders without versions have one for all: of what this filling has put there itself the later one counts, of
        what lanes have put there what was known minutes later. What has a time for its version is the same event.
        """
        if self._filled.get(of) == version:
            return fact.known_us >= told.known_us
        return version <= _MOST_COUNTED and fact.known_us > told.known_us + _NEAR_US

    @staticmethod
    def _as_before(
        version: int, fact: Admission | Placement, told: tuple[int, Admission | Placement] | None
    ) -> Admission | Placement:
        """Return a fact with when it began, and a bed with when that was known, where it was told before."""
        if told is None:
            return fact
        fact = begun_as_before(fact, told[1])
        if isinstance(fact, Admission):
            return fact
        is_again = version == told[0] or (version > _MOST_COUNTED and version // _SECOND_US == told[0] // _SECOND_US)
        return known_as_before(fact, told[1]) if is_again else fact

    def _fact_of(self, patient: str, key: str, kind: type[_Kind]) -> tuple[int, _Kind] | None:
        row = self._db.execute(
            "SELECT version, sealed FROM fact WHERE (patient, kind, key) = (?, ?, ?)", (patient, KINDS[kind], key)
        ).fetchone()
        return None if row is None else (row[0], self._opened(patient, kind, key, row[1]))

    def has(self, patient: str) -> bool:
        """Return whether a patient is on the ward, or anything was measured of them."""
        return self._db.execute("SELECT 1 FROM patient WHERE patient = ?", (patient,)).fetchone() is not None

    def _waits(self, patient: str, fact: Fact) -> bool:
        return isinstance(fact, Person | Pregnancy) and not self.has(patient) and not self._facts(patient, Admission)

    def person(self, patient: str, *, own: bool = False) -> Person | None:
        """Return what is known of a patient, by the patient's record first, else as TOLD_BESIDE; None: nothing.

        Who is dead by one that tells of them is dead until that one says that they live: many systems always write so,
        and versions of two cannot be compared. Only who lives by admission messages is not dead by a laboratory's.
        What was told of numbers that were merged into this one counts where nobody tells anything of this one.

        Args:
            patient: pseudonym.
            own: leave out what was told of numbers that were merged into this one.
        """
        found: dict[str, Person] = self._facts(patient, Person)
        found = {key: one for key, one in found.items() if not (own and key.startswith(_OF_ANOTHER))}
        sexes = [person.sex for key, person in sorted(found.items()) if person.sex not in (*UNSAID, DELETED)]
        born = [person.born for key, person in sorted(found.items()) if person.born not in (*UNSAID, DELETED)]
        said = {key: one.died for key, one in sorted(found.items()) if one.died not in UNSAID}
        own_said = {key: died for key, died in said.items() if not key.startswith(_OF_ANOTHER)}
        told = [(key.rpartition(_OF_ANOTHER)[2], died) for key, died in (own_said or said).items()]
        lives = (TOLD_BESIDE, DELETED) in told
        died = [death for by, death in told if death != DELETED and not (lives and by == TOLD_BY_RESULTS)]
        if not found:
            return None
        return Person(next(iter(sexes), "unknown"), next(iter(born), ""), died=next(iter(died), ""))

    def forget(self, patients: Sequence[str]) -> int:
        """Delete all that is known of patients, overwritten on disk, and take nothing of them any more.

        A lane that has not heard of it yet may still bring some of their values; so their digests stay.

        Args:
            patients: pseudonyms.

        Returns:
            How many blocks, facts and values ahead of the lake there were.

        Raises:
            ServiceUnavailable: the store cannot be written; all is as it was.
        """
        count = self.forget_digests([_digest(patient).hex() for patient in patients])
        self._database.scrub([patient.encode() for patient in patients])  # also what a killed one has left
        return count

    @property
    def erasures(self) -> int:
        """How many of the erasure log were carried out in this store; a store that was put back has fewer."""
        return int(self._meta("erasures") or 0)

    @erasures.setter
    def erasures(self, count: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('erasures', ?)", (str(count),))

    def forget_digests(self, digests: Iterable[str], *, known: Container[str] = ()) -> int:
        """Do the same for whoever of those that are there has one of these SHA-256 of a pseudonym.

        Args:
            digests: in hex.
            known: further ones, which cannot be listed.
        """
        wanted = {bytes.fromhex(digest) for digest in digests}

        def is_wanted(patient: str) -> bool:
            digest = _digest(patient)
            return digest in wanted or digest.hex() in known

        self._db.execute("PRAGMA secure_delete=ON")
        with self._database.transaction():
            self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", [(digest,) for digest in wanted])
            named = "SELECT patient FROM block UNION SELECT patient FROM fact UNION SELECT patient FROM patient"
            named += " UNION SELECT patient FROM corrected UNION SELECT patient FROM merged"
            found = [patient for (patient,) in self._db.execute(named) if is_wanted(patient)]
            deleted = self._delete_all_of(found)
            self._merges.forget(found)
            noted = self._ahead.forget_patients(is_wanted)
            stay = [(_digest(patient),) for patient in found]
            self._db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", stay)
            self._begin_generation()
        if found or noted:  # notes are sealed as a whole: there is nothing to look for
            self._database.scrub([] if noted else [patient.encode() for patient in found])
        return deleted + noted

    def _delete_all_of(self, patients: Sequence[str]) -> int:
        deleted = 0
        for patient in patients:
            for table in ("block", "fact", "patient"):
                cursor = self._db.execute(f"DELETE FROM {table} WHERE patient = ?", (patient,))  # noqa: S608
                deleted += cursor.rowcount if table != "patient" else 0
            self._corrections.forget(patient)
        return deleted

    def _begin_generation(self) -> None:
        """Let everybody know that blocks or notes were deleted or rewritten."""
        self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'")

    def drop(self, *, patients: Sequence[str] = (), writer: str = "") -> int:
        """Delete all that is there of patients, and what one writer has brought; what comes later is taken.

        Returns:
            How many blocks and facts there were.

        Raises:
            ServiceUnavailable: the store cannot be written; all is as it was.
        """
        with self._database.transaction():
            deleted = self._db.execute("DELETE FROM block WHERE writer = ?", (writer,)).rowcount
            deleted += self._delete_all_of(patients)
            self._begin_generation()
        return deleted

    def everybody(self) -> list[str]:
        """Return every patient of whom anything is there."""
        return [str(row[0]) for row in self._db.execute("SELECT patient FROM block UNION SELECT patient FROM fact")]

    def prune(self) -> int:
        """Delete values older than the store keeps, and patients of whom nothing is left; return how many blocks."""
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
        """Forget jobs that have died long ago; of one that has ended by itself it stays known that it has."""
        old = {writer: ended for writer, (beat_us, ended) in self.lanes().items() if beat_us < horizon}
        dead = {writer.rpartition("/")[0] for writer, ended in old.items() if not ended}
        gone = [(writer,) for writer in old if writer.rpartition("/")[0] in dead]
        self._db.executemany("DELETE FROM lane WHERE writer = ?", gone)

    def _prune_stays(self, horizon: int) -> None:
        """Forget stays that were over before the horizon, each with its beds and with what was said for it.

        It has been known as long, too: who types a discharge may err in its time, or in the patient, and correct it.
        What is part of one hospital stay is forgotten together: it may be another name of it, and what was said of it
        holds for the whole.
        Of a stay whose end nobody told the beds are forgotten when nobody has lain in one since the horizon.
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
        standing = stay_at(admissions, beds, as_of_us=now_us)
        open_ = standing.encounter if standing is not None and standing.ended_us is None else None
        lately = lately_ended(admissions, beds, since_us=horizon)
        over = {n: end for n, end in ended(admissions, beds, as_of_us=now_us).items() if end < horizon}
        over = {name: end for name, end in over.items() if name not in lately}
        visits = {name for name, one in admissions.items() if one.outpatient}
        stays = hospital_stays(admissions, beds)
        # A series of visits that lasts for years keeps no stay of long ago.
        lasting = [one.names for one in stays if not ((one.names - visits) or one.names) <= over.keys()]
        kept = frozenset(name for names in lasting for name in names)
        over = {name: end for name, end in over.items() if name not in kept}
        others = (kept - {open_ or ""}) | lately
        beds_gone = forgotten_beds(admissions, placements, over, horizon, kept=others, as_of_us=now_us)
        gone = over.keys() | {placements[key].encounter for key in beds_gone}
        if gone:
            begun = [admissions[name].admitted_us for name in lately & admissions.keys()]
            begun += [bed.since_us for bed in beds if bed.encounter in lately]
            self._lapse(patient, gone, over, open_, min(begun, default=0) if lately else FOR_EVER)
        # What a visit in a stay has told lately keeps the visit, and not the stay.
        past = {one: one.names - visits for one in stays if one.end_us < horizon}
        lapsing = [one for one, own in past.items() if own and own.isdisjoint(lately) and own - {""} <= over.keys()]
        self._lapse_in_visits(patient, visits, lapsing)
        forgotten = [name for name in admissions if name in over]
        self._delete_facts(patient, Admission, forgotten)
        self._delete_facts(patient, Placement, beds_gone)
        if (forgotten or beds_gone) and self.has(patient):  # whoever shows them looks again
            self._touch([patient])

    def _lapse(
        self,
        patient: str,
        gone: Collection[str],
        over: Mapping[str, int],
        open_: str | None,
        lately_from_us: int,
    ) -> None:
        """Forget what was said for stays that are over, while it is known that they were.

        What was said without a stay is kept beside an end that may yet be corrected, but not what a stay that is
        forgotten now has ended before: nobody would know that any more.

        Args:
            patient: whose.
            gone: stays that are forgotten, or their beds.
            over: those that are over, with their ends.
            open_: the stay that is open; None: none is.
            lately_from_us: when the first of the stays began whose end was told lately.
        """
        decisions: dict[str, Decision] = self._facts(patient, Decision)
        last_us = max(over.values(), default=-1)
        before_us = max((end for end in over.values() if end <= lately_from_us), default=-1)

        def ends(one: Decision) -> bool:
            untold = not one.encounter and (lately_from_us == FOR_EVER or one.at_us <= before_us)
            return untold or one.encounter in gone  # also without a number, when such beds are forgotten

        said = {kind: one for kind, one in decisions.items() if ends(one)}
        if open_ is None:
            lapsed = {
                kind
                for kind, one in said.items()
                if one.encounter in over or (not one.encounter and one.at_us <= last_us)
            }
        else:
            lapsed = said.keys() - self.decisions(patient, encounter=open_).keys()
        self._delete_facts(patient, Decision, lapsed)
        told: dict[str, Pregnancy] = self._facts(patient, Pregnancy)
        self._delete_facts(patient, Pregnancy, [key for key, one in told.items() if one.encounter in over])

    def _lapse_in_visits(self, patient: str, visits: Collection[str], stays: Collection[HospitalStay]) -> None:
        """Forget what was decided within hospital stays that are forgotten under the name of a visit in them."""
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
        named = [(patient, KINDS[kind], key) for key in keys]
        self._db.executemany("DELETE FROM fact WHERE (patient, kind, key) = (?, ?, ?)", named)

    # -- reading -------------------------------------------------------------------------------------------------

    def patients(self) -> dict[str, int]:
        """Return the revision of every patient of whom there are values."""
        return self.changed_since(-1)

    def changed_since(self, revision: int) -> dict[str, int]:
        """Return the patients that have changed since a revision, with theirs."""
        return dict(self._db.execute("SELECT patient, revision FROM patient WHERE revision > ?", (revision,)))

    def generation(self) -> str:
        """Return what changes whenever somebody has deleted something, or given it to another number."""
        return self._meta("generation")

    def version(self) -> int:
        """Return a number that changes whenever somebody else has written: the cheapest look there is."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def history(self, patient: str) -> History:
        """Return a patient's values, of each the row that counts; empty when the patient is not known.

        Values taken back are left out; what is not finite says that a value came that is none, and under the code
        REFUSED that a whole message was rejected (pipelines.online_store.values). They could be known when their
        sender says so, or when they came by our clock, whichever is later: a sender whose clock is behind says when
        by that clock. Some may lie ahead of the ward's time: see History.known_at.

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
        known = rows["available_us"]
        if self.replay() is None:  # in a replay the ward's time is not ours
            known = np.maximum(known, rows["came_us"])
        compared = (rows["stage"] >> 8).astype(np.uint8)
        code, value, effective_us = (np.ascontiguousarray(rows[name]) for name in ("code", "value", "effective_us"))
        return History(code, value, effective_us, np.ascontiguousarray(known), compared if compared.any() else None)

    def stay(self, patient: str, *, as_of_us: int) -> Stay | None:
        """Return the stay a patient is in at a moment, or was in last; None: none is known.

        Where no admission is known a bed tells of one: since when the patient lies there.
        """
        admissions: dict[str, Admission] = self._facts(patient, Admission)
        placements = self._facts(patient, Placement).values()
        standing = stay_at(admissions, placements, as_of_us=as_of_us)
        if standing is None:
            return None
        encounter, place = standing.encounter, standing.place
        person = self.person(patient)
        age = admissions[encounter].age_years if encounter in admissions else None
        if age is None and person is not None:
            age = least_age(person.born, standing.admitted_us)
        same = same_stay(encounter, admissions, placements)
        names = {encounter} if same is None else same.names
        moves = [
            move
            for move in self._facts(patient, Movement).values()
            if move.encounter in standing.names and move.since_us <= as_of_us
        ]
        move = max(moves, key=lambda move: move.since_us, default=None)
        # Of warehouse and admission feed the one that moved the patient last knows where that is.
        by_feed = place is not None and (move is None or not move.bed or place.since_us >= move.since_us)
        return Stay(
            encounter=encounter,
            admitted_us=standing.admitted_us,
            discharged_us=standing.ended_us,
            age_years=age,
            sex=person.sex if person else "unknown",
            unit=move.unit if move and move.unit else place.unit if place else "",
            bed=place.bed if place and by_feed else move.bed if move else "",
            pregnant=self._is_pregnant(patient, self._said_in(names, admissions, placements), as_of_us),
            died=person.died if person else "",
            moves_us=next_move(placements, as_of_us=as_of_us),
        )

    @staticmethod
    def _said_in(
        names: Collection[str], admissions: Mapping[str, Admission], placements: Collection[Placement]
    ) -> set[str]:
        """Return for which stays a diagnosis is said that holds in one: in a visit also what is of its stay."""
        if all(name in admissions and admissions[name].outpatient for name in names):
            stays = hospital_stays(admissions, placements)
            names = {*names, *(name for one in stays if not one.names.isdisjoint(names) for name in one.names)}
        return {*names, ""}

    def is_visit(self, patient: str, encounter: str) -> bool:
        """Return whether a stay is a visit, or a series of them, and no part of a stay in the hospital."""
        admissions: dict[str, Admission] = self._facts(patient, Admission)
        return encounter in admissions and admissions[encounter].outpatient

    def pregnant(self, patient: str, *, as_of_us: int) -> bool:
        """Return whether a diagnosis says that a patient is pregnant of whom no stay is known."""
        return self._is_pregnant(patient, None, as_of_us)

    def _is_pregnant(self, patient: str, stays: Collection[str] | None, as_of_us: int) -> bool:
        """Return whether any diagnosis stands; one without an id of its own does not beside the same one with it."""
        told: dict[str, tuple[int, Pregnancy]] = self._versions(patient, Pregnancy)
        known = {key: said for key, said in told.items() if said[1].since_us <= as_of_us}
        newest: dict[str, int] = {}
        for version, one in known.values():
            newest |= {name: max(version, newest.get(name, version)) for name in one.names}
        return any(
            not one.over and newest.get(key, version - 1) < version and (stays is None or one.encounter in stays)
            for key, (version, one) in known.items()
        )

    def pregnancies(self, patient: str) -> dict[str, Pregnancy]:
        """Return the diagnoses of pregnancy of a patient by their keys, those among them that are over."""
        return self._facts(patient, Pregnancy)

    def decisions(self, patient: str, *, encounter: str) -> dict[str, Decision]:
        """Return what clinicians have decided of a patient for a stay, by kind; of each the last one.

        A hospital stay may have several names: an admission message's, and FHIR Encounters' of departments and
        procedures. What was decided before any stay was known is of the stay that became known then.

        Args:
            patient: pseudonym.
            encounter: the stay's pseudonym; empty: none is known.
        """
        found: dict[str, Decision] = self._facts(patient, Decision)
        if not found:
            return found
        admissions: dict[str, Admission] = self._facts(patient, Admission)
        placements, replay = self._facts(patient, Placement).values(), self.replay()
        return {
            kind: one
            for kind, one in found.items()
            if is_of_stay(
                one.encounter, replay.at(one.at_us) if replay else one.at_us, encounter, admissions, placements
            )
        }

    def decided(self) -> list[tuple[str, Decision]]:
        """Return whatever clinicians have decided of anybody, by pseudonym."""
        found = self._db.execute("SELECT DISTINCT patient FROM fact WHERE kind = ?", (KINDS[Decision],)).fetchall()
        return [(patient, one) for (patient,) in found for one in self._facts(patient, Decision).values()]

    def age(self, patient: str, *, as_of_us: int) -> int | None:
        """Return the completed years that a patient has at least, whether a stay is known or not; None: not known."""
        person = self.person(patient)
        return least_age(person.born, as_of_us) if person else None

    def died(self, patient: str) -> str:
        """Return that a patient is recorded as dead, see Person; empty: not."""
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


def _told_of_another(told: tuple[str, str, int, Fact], into: str) -> tuple[str, str, int, Fact]:
    """Return what was told of a number as told of the one it was merged into, whose own Person counts first."""
    _, key, version, fact = told
    if isinstance(fact, Person):
        return into, f"{_OF_ANOTHER}{key}", version, fact
    return into, key, version, fact


def _digest(patient: str) -> bytes:
    return hashlib.sha256(patient.encode()).digest()


def _place(*parts: object) -> bytes:
    return "\n".join(map(str, parts)).encode()
