"""What arrives of patients who were forgotten: it goes nowhere, where the sealer of rows cannot see to that."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.decoding.naming import Naming
from pipelines.decoding.plain_words import words_in
from pipelines.decoding.records import MERGED
from pipelines.decoding.result import Reject
from pipelines.decoding.searched import to_search
from pipelines.poll import Outcome
from vitalake.vault import Vault


class Arriving:
    """Leaves the forgotten out of a poll; by the vault's tombstones, for a pseudonym may be another one by now."""

    def __init__(self, vault: Vault, naming: Naming) -> None:
        """Prepare.

        Args:
            vault: knows who was forgotten; its owner closes it.
            naming: whom messages name.
        """
        self._vault, self._naming = vault, naming

    def leave_out_rejected(self, outcome: Outcome) -> None:
        """Count rejected messages that name a patient who was forgotten as filtered: no dead letter is made of them.

        Where nobody else is named as decoders read it, each word of the text may be the id of somebody forgotten.
        """
        stones = self._tombstones() if outcome.rejects else set()
        if not stones:
            return
        kept: list[Reject] = []
        for reject in outcome.rejects:
            payload = outcome.poll.values[reject.message] or b""
            named = self._naming.whose(payload, outcome.poll.format)
            part = to_search(payload, named, lambda name: self._vault.knows([name])) if named else payload
            words = words_in(part) if part else set()
            if not self._among(words | (named.all if named else set()), stones):
                kept.append(reject)
                continue
            rows = np.full(max(reject.rows, 1), reject.message, np.int32)
            outcome.filtered = np.concatenate([outcome.filtered, rows])
            if not reject.rows:  # nobody knows how many rows it would have been: it counts as one
                outcome.row_message = np.concatenate([outcome.row_message, rows])
        outcome.rejects = kept
        gone = self._among({row["patient_id"] for _, row in outcome.told}, stones)
        outcome.told = [(message, row) for message, row in outcome.told if row["patient_id"] not in gone]

    def merges_nobody(self, rows: pa.RecordBatch) -> npt.NDArray[np.bool_] | None:
        """Return which associations join no number that was forgotten to somebody's; None: all."""
        if not (stones := self._tombstones()):
            return None
        devices = rows["device_id"].to_pylist()
        merged = {device for device in devices if device is not None and device.startswith(MERGED)}
        gone = {device for device in merged if self._vault.subject_of(device.removeprefix(MERGED)) in stones}
        return np.array([device not in gone for device in devices], np.bool_) if gone else None

    def _among(self, patients: Set[str], stones: Set[bytes]) -> set[str]:
        return {patient for patient in patients if self._vault.subject_of(patient) in stones}

    def _tombstones(self) -> set[bytes]:
        return {stone.subject for stone in self._vault.tombstones()}
