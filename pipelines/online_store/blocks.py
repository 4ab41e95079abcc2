"""The blocks of measured values.

A patient's values lie in blocks of at most BLOCK_ROWS rows. Each block is sealed as a whole: sealed rows would cost one
decryption each, 8,640 for a day of six vital signs a minute.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.online_store.schema import sealing_context
from pipelines.online_store.values import ROW, Values, restored, stored
from vitalake.sealing import Seals

BLOCK_ROWS = 128
"""Rows of a full block, 7 kB: longer blocks make each append slower, shorter ones each read."""

CACHED_BLOCKS = 20_000
"""How many open blocks a writer keeps in memory, 120 MB at the most."""

_PUT = "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class _Tail:
    """A patient's newest block of one writer, which is not full yet."""

    number: int
    rows: npt.NDArray[np.void]


class Blocks:
    """The table of blocks, with the open ones in memory; the store calls its writing methods within a transaction."""

    def __init__(self, connection: sqlite3.Connection, sealer: Seals) -> None:
        self._db, self._sealer = connection, sealer
        self._tails: dict[tuple[str, str], _Tail] = {}
        self._generation = ""

    # -- reading ---------------------------------------------------------------------------------------------------

    def rows_of(self, patient: str) -> npt.NDArray[np.void]:
        """Return all rows of a patient, of dtype ROW.

        Raises:
            PrivacyError: the store was written with another key.
        """
        return np.frombuffer(b"".join(self._opened(*block) for block in self._blocks_of(patient)), ROW)

    def count(self, is_wanted: Callable[[str], bool]) -> int:
        """Return how many rows there are of the patients whose pseudonyms are wanted."""
        blocks = self._db.execute("SELECT patient, writer, number, sealed FROM block")
        return sum(len(self._rows(*block)) for block in blocks if is_wanted(block[0]))

    def _blocks_of(self, patient: str) -> list[tuple[str, str, int, bytes]]:
        return self._db.execute(
            "SELECT patient, writer, number, sealed FROM block WHERE patient = ? ORDER BY writer, number", (patient,)
        ).fetchall()

    def _rows(self, patient: str, writer: str, number: int, sealed: bytes) -> npt.NDArray[np.void]:
        return np.frombuffer(self._opened(patient, writer, number, sealed), ROW)

    def _opened(self, patient: str, writer: str, number: int, sealed: bytes) -> bytes:
        return restored(self._sealer.open(sealed, context=sealing_context(patient, writer, number)))

    # -- appending -------------------------------------------------------------------------------------------------

    def append(self, values: Values, writer: str) -> list[str]:
        """Append values to the blocks of a writer; return the patients whose values they are."""
        if not len(values.rows):
            return []
        order = np.argsort(values.patient, kind="stable")
        rows, patient = values.rows[order], values.patient[order]
        bounds = np.flatnonzero(np.append(True, patient[1:] != patient[:-1]))
        blocks: list[tuple[object, ...]] = []
        for begin, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(rows)], strict=True):
            blocks += self._appended(values.patients[patient[begin]], writer, rows[begin:end])
        self._db.executemany(_PUT, blocks)
        return [values.patients[i] for i in patient[bounds].tolist()]

    def _appended(self, patient: str, writer: str, rows: npt.NDArray[np.void]) -> list[tuple[object, ...]]:
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
        rows = self._rows(patient, writer, newest[0], newest[1])
        return _Tail(newest[0], rows) if len(rows) < BLOCK_ROWS else _Tail(newest[0] + 1, np.zeros(0, ROW))

    def _sealed(self, patient: str, writer: str, number: int, rows: npt.NDArray[np.void]) -> tuple[object, ...]:
        times = rows["effective_us"]
        sealed = self._sealer.seal(stored(rows), context=sealing_context(patient, writer, number))
        return (patient, writer, number, int(times.min()), int(times.max()), sealed)

    def refresh(self, generation: str) -> None:
        """Drop the blocks in memory if the store's generation is another one: somebody has deleted or rewritten blocks.

        Args:
            generation: the store's generation.
        """
        if generation != self._generation:
            self.drop_cache()
            self._generation = generation

    def drop_cache(self) -> None:
        """Drop the blocks in memory; they are read again."""
        self._tails.clear()

    # -- moving and deleting ---------------------------------------------------------------------------------------

    def copy(self, patient: str, into: str) -> None:
        """Append the rows of a patient to the blocks of another one."""
        for _, writer, number, sealed in self._blocks_of(patient):
            rows = self._rows(patient, writer, number, sealed)
            self._db.executemany(_PUT, self._appended(into, writer, rows))

    def delete_rows(self, patient: str, rows: npt.NDArray[np.void]) -> int:
        """Delete these rows of a patient, whoever stored them; return how many."""
        doomed = {row.tobytes() for row in rows}
        count = 0
        blocks = self._db.execute(
            "SELECT writer, number, sealed FROM block WHERE patient = ? AND last_us >= ? AND first_us <= ?",
            (patient, int(rows["effective_us"].min()), int(rows["effective_us"].max())),
        ).fetchall()
        for writer, number, sealed in blocks:
            block = self._rows(patient, writer, number, sealed)
            deleted = np.isin(block["id"], rows["id"])
            deleted[deleted] = [row.tobytes() in doomed for row in block[deleted]]
            if not deleted.any():
                continue
            count += int(deleted.sum())
            if deleted.all():
                self._delete(patient, writer, number)
            else:
                self._db.execute(_PUT, self._sealed(patient, writer, number, block[~deleted]))
        return count

    def _delete(self, patient: str, writer: str, number: int) -> None:
        self._db.execute("DELETE FROM block WHERE (patient, writer, number) = (?, ?, ?)", (patient, writer, number))

    def drop(self, writer: str) -> int:
        """Delete the blocks of a writer; return how many."""
        return self._db.execute("DELETE FROM block WHERE writer = ?", (writer,)).rowcount

    def prune(self, horizon: int) -> int:
        """Delete the rows from before the horizon; return how many blocks had any."""
        aged = self._db.execute(
            "SELECT patient, writer, number, last_us, sealed FROM block WHERE first_us < ?", (horizon,)
        ).fetchall()
        for patient, writer, number, last_us, sealed in aged:
            if last_us < horizon:
                self._delete(patient, writer, number)
            else:
                rows = self._rows(patient, writer, number, sealed)
                kept = rows[rows["effective_us"] >= horizon]
                self._db.execute(_PUT, self._sealed(patient, writer, number, kept))
        return len(aged)
