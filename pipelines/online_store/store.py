"""The online store on SQLite: many small writes, and one patient's rows read in a fraction of a millisecond.

Patients are stored under the pseudonym that published rows have. Times are in clear as far as deletion by age needs
them; values and codes are not.

Every source position is taken exactly once: the transaction that stores a poll's rows also stores how far each
partition was taken. Rows before that position are left out when a lane reads them again.

This module opens the file and begins the transactions. What is done within them has a module of its own: ``blocks`` and
``corrections`` for values, ``fact_writing`` and ``patient_facts`` for facts, ``merge_moves``, ``retention``,
``erasure``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.online_store.completeness import Completeness
from pipelines.online_store.erasure import Erasure
from pipelines.online_store.fact_writing import FactWriter
from pipelines.online_store.facts import GivenFact
from pipelines.online_store.merge_moves import move_to_survivor
from pipelines.online_store.patient_facts import PatientFacts
from pipelines.online_store.retention import Retention
from pipelines.online_store.schema import TABLES
from pipelines.online_store.tables import Tables
from pipelines.online_store.values import Values, clamped_to_clock, current
from vitalake import clock
from vitalake.clinical.records import History
from vitalake.keys import version_of
from vitalake.sealing import Seals
from vitalake.sqlite import Database

PRUNE_SECONDS = 60.0
"""How often a writer deletes what is too old."""

REPAIR = (
    "Stop streams and the server, delete it with its -wal and -shm, then run 'vitalake lake rebuild care': it fills "
    "the store again from the restricted zone."
)


class OnlineStore:
    """An open online store; used by one thread at a time. Any number of processes can have the file open.

    Attributes:
        time: the ward's time, and how far back the store keeps values.
        lanes: the heartbeats of the lanes that write here.
        completeness: whether the store has everything that the lake has.
        patients: the patients on the ward, and which of them have changed.
        facts: stay, person, pregnancy and decisions of a patient.
        erasure: deletes patients for good.
    """

    def __init__(self, path: Path, sealer: Seals, *, hours: float) -> None:
        """Open the store, or create it, readable by its owner only.

        Raises:
            ServiceUnavailable: the file cannot be opened.
        """
        # Synced at every commit: there is one for each poll, which is affordable, and a lost poll would be a stale
        # score.
        self._database = Database(path, tables=TABLES, name="Online store", repair=REPAIR, derived=True)
        self._sealer, self._db = sealer, self._database.connection
        tables = self._tables = Tables.of(self._database, sealer, hours_us=int(hours * 3_600_000_000))
        self.time, self.lanes, self.patients = tables.time, tables.lanes, tables.patients
        self.completeness = Completeness(self._db, tables.meta, tables.lanes, hours_us=tables.time.hours_us)
        self.facts = PatientFacts(tables.facts, tables.time)
        self.erasure = Erasure(self._database, tables)
        self._writer = FactWriter(tables)
        self._retention = Retention(tables, self.facts)
        self._decided: dict[str, int] = {}
        self._pruned_us = 0

    def close(self) -> None:
        """Close the connection, and drop the keys from memory."""
        self._sealer.close()
        self._database.close()

    def moved(self) -> bool:
        """Return whether the file was deleted or replaced: writes to it would be lost, and reads would be old."""
        return self._database.moved()

    def hold(self) -> None:
        """Make sure that the store's key can be used now.

        Raises:
            PrivacyError: keys are revoked.
        """
        self._sealer.hold()

    def generation(self) -> str:
        """Return a text that changes whenever rows were deleted or moved to another number; see Meta."""
        return self._tables.meta.generation()

    def version(self) -> int:
        """Return a number that changes whenever another connection has written; the cheapest way to see a change."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    # -- values ----------------------------------------------------------------------------------------------------

    def take(
        self,
        values: Values,
        *,
        writer: str,
        ends: Mapping[str, int],
        ours: bool = False,
        epoch: int | None = None,
    ) -> int:
        """Store the values of a poll that were not stored before; return how many.

        Args:
            values: of the poll; values older than the store keeps are left out.
            writer: the lane that the blocks belong to; two lanes never write the same block.
            ends: for each partition of the poll the position behind its last message.
            ours: the times at which the values came are by our own clock, not by a broker's or a producer's.
            epoch: of the writer, if they are of messages that were put aside before; see ``reprocess``.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing of the poll is stored.
        """
        now_us = self.time.now_us()
        values = values.where(values.rows["effective_us"] >= now_us - self.time.hours_us)
        if self.time.replay() is None:
            values = clamped_to_clock(values, now_us, ours=ours)
        if not len(values.rows):  # positions need not be stored: read again, the values would be too old again
            return 0
        try:
            with self._database.transaction():
                stored = self._take(values, writer, ends, epoch=epoch)
        except BaseException:  # the blocks in memory were not written
            self._tables.blocks.drop_cache()
            raise
        if clock.now_us() - self._pruned_us > PRUNE_SECONDS * 1e6:
            self._pruned_us = clock.now_us()
            self.prune()
        return stored

    def _take(self, values: Values, writer: str, ends: Mapping[str, int], *, epoch: int | None) -> int:
        if self._is_former(values.patients):  # not taken: read again, they have the patients' pseudonyms of today
            return 0
        tables = self._tables
        if epoch is not None and any(self._epoch_of(part) > epoch for part in values.parts):
            return 0  # its successor can have discarded the messages
        tables.blocks.refresh(tables.meta.generation())
        # What was taken under former pseudonyms, and was not decided, is read again under those of today.
        under = f"{version_of(values.patients[0])} "
        begun = np.array([self._taken(under + name) for name in values.parts], np.int64)
        self._db.executemany(
            "INSERT INTO taken VALUES (?, ?) ON CONFLICT (part) DO UPDATE SET next = max(next, excluded.next)",
            [(under + name, end) for name, end in ends.items()],
        )
        if self._decided:
            tables.undecided.settle(self._decided)
            self._decided = {}
        fresh = self._survivors(values.where(values.position >= begun[values.part]))
        fresh = self._without_forgotten(fresh)
        attributed = fresh.rows["attribution"] > 0
        if epoch is not None or attributed.any():
            tables.undecided.note(fresh.where(attributed | (epoch is not None)))
        tables.corrections.note(fresh)
        tables.patients.touch(tables.blocks.append(fresh, writer))
        return len(fresh.rows)

    def _taken(self, name: str) -> int:
        row = self._db.execute("SELECT next FROM taken WHERE part = ?", (name,)).fetchone()
        return int(row[0]) if row else -1

    def _survivors(self, values: Values) -> Values:
        """Return values with each merged patient replaced by the surviving one."""
        merged = self._tables.merges.survivors(values.patients)
        if not merged:
            return values
        return replace(values, patients=[merged.get(patient, patient) for patient in values.patients])

    def _without_forgotten(self, values: Values) -> Values:
        forgotten = self._tables.forgotten.among(values.patients)
        if not forgotten:
            return values
        not_forgotten = np.array([patient not in forgotten for patient in values.patients], np.bool_)
        return values.where(not_forgotten[values.patient])

    def settle(self, positions: Mapping[str, int]) -> None:
        """Note how far the lake has decided partitions; can be called from any thread.

        Args:
            positions: by the partition's name.
        """
        self._decided = {**self._decided, **positions}

    def has_undecided(self, part: str) -> bool:
        """Return whether attributed values of a partition are stored that the lake has perhaps never decided."""
        return self._tables.undecided.holds(part)

    def reprocess(self, part: str, position: int, *, epoch: int) -> int:
        """Begin to take messages that were put aside before; nothing is taken from a writer of an earlier epoch now.

        They are noted until they are decided, because they can yet be discarded. What the writer before had handed over
        and not decided is deleted.

        Args:
            part: under whose positions they are handed over, by name.
            position: from which the lake goes on with it.
            epoch: of the writer.

        Returns:
            How many values were deleted.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is deleted.
        """
        with self._database.transaction():
            self._tables.meta.put(f"epoch {part}", str(max(epoch, self._epoch_of(part))))
            self._take_again(part, position)
            return self._rewind({part: position})

    def _epoch_of(self, part: str) -> int:
        return int(self._tables.meta.get(f"epoch {part}") or 0)

    def rewind(self, positions: Mapping[str, int]) -> int:
        """Delete noted values that the lake never decided: read again, they could be of another patient, or of none.

        Args:
            positions: where the lake goes on with partitions, by name; if values are deleted, all are taken again from
                there on.

        Returns:
            How many values were deleted.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is deleted.
        """
        with self._database.transaction():
            return self._rewind(positions)

    def _rewind(self, positions: Mapping[str, int]) -> int:
        count, undecided = 0, self._tables.undecided
        for part, position in positions.items():
            for values in map(self._survivors, undecided.undecided(part, position)):
                count += self._delete(values)
                self._take_again(part, position)
            undecided.forget(part)
        if count:
            self._tables.meta.begin_generation()
        return count

    def _take_again(self, part: str, position: int) -> None:
        mine = "substr(part, instr(part, ' ') + 1) = ?"
        self._db.execute(f"UPDATE taken SET next = min(next, ?) WHERE {mine}", (position, part))  # noqa: S608

    def _delete(self, values: Values) -> int:
        """Delete these values, whoever stored them; return how many."""
        count = 0
        for i in np.unique(values.patient).tolist():
            patient = values.patients[i]
            deleted = self._tables.blocks.delete_rows(patient, values.rows[values.patient == i])
            self.patients.touch([patient] if deleted else [])
            count += deleted
        return count

    def history(self, patient: str) -> History:
        """Return a patient's values, of each the row that counts; empty when the patient is not known.

        Values that were taken back are left out. A value that is not finite cannot be used; under the code REFUSED it
        says that a whole message was rejected (pipelines.online_store.values). A value became known when its sender
        says so, or when it came by our clock, whichever is later, because the sender's clock can be behind. Some values
        can lie ahead of the ward's time: see History.known_at.

        Raises:
            PrivacyError: the store was written with another key.
        """
        tables = self._tables
        rows = tables.blocks.rows_of(patient)
        rows = rows[rows["effective_us"] >= self.time.horizon_us()]
        rows = current(tables.corrections.without_others(patient, rows, generation=tables.meta.generation()))
        times = np.ascontiguousarray(rows["effective_us"])
        if (times[1:] < times[:-1]).any():
            rows = rows[np.argsort(times, kind="stable")]
        known_us = rows["available_us"]
        if self.time.replay() is None:  # in a replay came_us is by the wall clock, and the ward's time is not
            known_us = np.maximum(known_us, rows["came_us"])
        signs = (rows["stage"] >> 8).astype(np.uint8)
        code, value, effective_us = (np.ascontiguousarray(rows[name]) for name in ("code", "value", "effective_us"))
        return History(code, value, effective_us, np.ascontiguousarray(known_us), signs if signs.any() else None)

    # -- facts -----------------------------------------------------------------------------------------------------

    def put_facts(
        self,
        facts: list[GivenFact],
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
            facts: see GivenFact.
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
            facts = [fact for fact in facts if not self._is_former([fact[0]])]
            if rejected:
                facts = self._writer.without_stored(facts)
            self._writer.put(facts, wait=wait, again=again)

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
        blocks, merges = self._tables.blocks, self._tables.merges
        blocks.drop_cache()
        try:
            with self._database.transaction():
                if merges.note(patient, into, version):
                    move_to_survivor(self._tables, self._writer, patient=patient, into=merges.survivor(patient))
        finally:
            blocks.drop_cache()

    def survivor(self, patient: str) -> str:
        """Return the pseudonym of the number that a number was merged into; its own where it was not merged."""
        return self._tables.merges.survivor(patient)

    # -- deleting --------------------------------------------------------------------------------------------------

    def drop(self, *, patients: Sequence[str] = (), writer: str = "") -> int:
        """Delete everything of patients, and the blocks of one writer; what comes later is stored as usual.

        Returns:
            How many blocks and facts were deleted.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is changed.
        """
        with self._database.transaction():
            deleted = self._tables.blocks.drop(writer)
            deleted += self._tables.delete_all_of(patients)
            self._tables.meta.begin_generation()
        return deleted

    def begin_pseudonyms(self, version: str) -> None:
        """Delete everything under pseudonyms of earlier versions of the key, and take nothing under them from now on.

        Whoever still makes them has keys of before, and decides nothing any more: see ``SpanLog.raise_fences``.

        Args:
            version: of today, such as ``v2``.

        Raises:
            ServiceUnavailable: the store cannot be written; nothing is changed.
        """
        with self._database.transaction():
            self._tables.meta.put("pseudonyms", version)
            self._tables.delete_all_of([one for one in self.all_patients() if self._is_former([one])])
            self._tables.meta.begin_generation()

    def _is_former(self, patients: Sequence[str]) -> bool:
        """Return whether the pseudonyms of a poll are of an earlier version than the store takes."""
        of_today, theirs = self._tables.meta.get("pseudonyms"), version_of(patients[0]) if patients else ""
        return bool(of_today and theirs) and int(theirs[1:]) < int(of_today[1:])

    def all_patients(self) -> list[str]:
        """Return every patient who has a block or a fact in the store."""
        return [str(row[0]) for row in self._db.execute("SELECT patient FROM block UNION SELECT patient FROM fact")]

    def prune(self) -> int:
        """Delete what is older than the store keeps, and patients of whom nothing is left; return how many blocks."""
        horizon = self.time.horizon_us()
        with self._database.transaction():
            return self._retention.prune(horizon)
