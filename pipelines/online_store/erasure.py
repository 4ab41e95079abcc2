"""Erases patients from the store for good, and tells what the store has of patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence

from pipelines.online_store.facts import HELD_AS
from pipelines.online_store.forgotten import digest_of
from pipelines.online_store.tables import Tables
from vitalake.sqlite import Database


class Erasure:
    """The erasures of an open store; see governance.erasure.forgotten.Store."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database, self._tables, self._db = database, tables, tables.connection

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
        count = self.forget_digests([digest_of(patient).hex() for patient in patients])
        self._database.scrub([patient.encode() for patient in patients])  # also what a killed erasure has left
        return count

    @property
    def erasures(self) -> int:
        """How many entries of the erasure log were carried out in this store; a restored copy has fewer."""
        return int(self._tables.meta.get("erasures") or 0)

    @erasures.setter
    def erasures(self, count: int) -> None:
        self._tables.meta.put("erasures", str(count))

    def forget_digests(self, digests: Iterable[str], *, known: Container[str] = ()) -> int:
        """Forget the patients whose pseudonym has one of these SHA-256 digests; see forget.

        Args:
            digests: in hex.
            known: further digests, which can be tested and not listed.
        """
        listed = {bytes.fromhex(digest) for digest in digests}

        def is_forgotten(patient: str) -> bool:
            digest = digest_of(patient)
            return digest in listed or digest.hex() in known

        self._db.execute("PRAGMA secure_delete=ON")
        with self._database.transaction():
            self._tables.forgotten.note(listed)
            query = "SELECT patient FROM block UNION SELECT patient FROM fact UNION SELECT patient FROM patient"
            query += " UNION SELECT patient FROM corrected UNION SELECT patient FROM merged"
            patients = [patient for (patient,) in self._db.execute(query) if is_forgotten(patient)]
            deleted = self._tables.delete_all_of(patients)
            self._tables.merges.forget(patients)
            undecided = self._tables.undecided.forget_patients(is_forgotten)
            self._tables.forgotten.note(map(digest_of, patients))
            self._tables.meta.begin_generation()
        if patients or undecided:  # undecided values are sealed with their pseudonyms: there is no text to look for
            self._database.scrub([] if undecided else [patient.encode() for patient in patients])
        return deleted + undecided

    def held(self, is_wanted: Callable[[str], bool]) -> dict[str, int]:
        """Return how many entries of each kind the store has of the patients whose pseudonyms are wanted.

        Returns:
            A kind, in words for people → how many; only kinds of which there are some.
        """
        counts: Counter[str] = Counter({"undecided values": self._tables.undecided.held(is_wanted)})
        counts["values"] += self._tables.blocks.count(is_wanted)
        for patient, kind in self._db.execute("SELECT patient, kind FROM fact"):
            counts[HELD_AS[kind]] += is_wanted(patient)
        for table, kind in (("patient", "revisions"), ("corrected", "corrections"), ("merged", "merged numbers")):
            query = f"SELECT patient FROM {table}"  # noqa: S608
            counts[kind] += sum(is_wanted(patient) for (patient,) in self._db.execute(query))
        return {kind: count for kind, count in counts.items() if count}
