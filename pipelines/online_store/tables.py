"""The tables of an open store, each behind the object that reads and writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.online_store.blocks import Blocks
from pipelines.online_store.corrections import Corrections
from pipelines.online_store.fact_table import FactTable
from pipelines.online_store.forgotten import Forgotten
from pipelines.online_store.lanes import Lanes
from pipelines.online_store.merges import Merges
from pipelines.online_store.meta import Meta
from pipelines.online_store.patients import Patients
from pipelines.online_store.playback import WardTime
from pipelines.online_store.undecided import UndecidedWrites
from vitalake.sealing import Seals
from vitalake.sqlite import Database


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of one open file; see the module of each. What spans several of them is done within a transaction."""

    connection: sqlite3.Connection
    meta: Meta
    time: WardTime
    lanes: Lanes
    patients: Patients
    blocks: Blocks
    facts: FactTable
    forgotten: Forgotten
    corrections: Corrections
    merges: Merges
    undecided: UndecidedWrites

    @classmethod
    def of(cls, database: Database, sealer: Seals, *, hours_us: int) -> Tables:
        """Return the tables of a file.

        Args:
            database: the open file.
            sealer: for values, facts and the surviving numbers of merges.
            hours_us: for how long the store keeps values, microseconds.
        """
        connection = database.connection
        meta, forgotten = Meta(connection), Forgotten(connection)
        return cls(
            connection=connection,
            meta=meta,
            time=WardTime(meta, hours_us),
            lanes=Lanes(database),
            patients=Patients(connection, meta),
            blocks=Blocks(connection, sealer),
            facts=FactTable(connection, sealer, forgotten),
            forgotten=forgotten,
            corrections=Corrections(connection),
            merges=Merges(connection, sealer),
            undecided=UndecidedWrites(connection, sealer),
        )

    def delete_all_of(self, patients: Sequence[str]) -> int:
        """Delete values, facts and corrections of patients; return how many blocks and facts there were."""
        deleted = 0
        for patient in patients:
            for table in ("block", "fact", "patient"):
                cursor = self.connection.execute(f"DELETE FROM {table} WHERE patient = ?", (patient,))  # noqa: S608
                deleted += cursor.rowcount if table != "patient" else 0
            self.corrections.forget(patient)
        return deleted
