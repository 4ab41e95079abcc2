"""Leaves erased patients out of what arrives, where the sealer of rows does not: rejected messages and online facts."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.erasure.plain_words import words_in
from governance.vault import Vault
from pipelines.core.poll import Outcome
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.lenient.searched import to_search
from pipelines.formats.shared.records import MERGED
from pipelines.formats.shared.refused import RefusedRows
from pipelines.formats.shared.result import Reject


class ErasedPatientFilter:
    """Leaves erased patients out of a poll, by the vault's tombstones: pseudonyms may have changed since then."""

    def __init__(self, vault: Vault, naming: Naming) -> None:
        """Prepare.

        Args:
            vault: has the tombstones; its owner closes it.
            naming: reads which patients a message names.
        """
        self._vault, self._naming = vault, naming

    def leave_out_rejected(self, outcome: Outcome) -> None:
        """Count rejected messages that name an erased patient as filtered, so that no dead letter is made of them.

        If decoders read no other patient in a message, every word of its text is compared with the erased ids.
        """
        stones = self._tombstones() if outcome.rejects else set()
        if not stones:
            return
        remaining: list[Reject] = []
        for reject in outcome.rejects:
            payload = outcome.poll.values[reject.message] or b""
            named = self._naming.whose(payload, outcome.poll.format)
            part = to_search(payload, named, lambda name: self._vault.knows([name])) if named else payload
            words = words_in(part) if part else set()
            if not self._among(words | (named.all if named else set()), stones):
                remaining.append(reject)
                continue
            rows = np.full(max(reject.rows, 1), reject.message, np.int32)
            outcome.filtered = np.concatenate([outcome.filtered, rows])
            if not reject.rows:  # the number of its rows is not known: it counts as one
                outcome.row_message = np.concatenate([outcome.row_message, rows])
        outcome.rejects = remaining

    def leave_out_online_facts(self, outcome: Outcome) -> None:
        """Remove facts about erased patients that go to the online store only, and so never pass the sealer.

        Call it last: a refused row may get its patient by a device, or by another row of the poll.
        """
        refused, owned = outcome.refused, outcome.newly_owned
        row_sets = [rows for rows in (refused, owned) if rows is not None]
        if not (row_sets or outcome.told or outcome.people) or not (stones := self._tombstones()):
            return
        named = {row["patient_id"] for _, row in outcome.told} | {patient for patient, *_ in outcome.people}
        named = named.union(*(_patients(rows).unique().to_pylist() for rows in row_sets)) - {None}
        erased = self._among(named, stones)
        if not erased:
            return
        outcome.told = [(message, row) for message, row in outcome.told if row["patient_id"] not in erased]
        outcome.people = [fact for fact in outcome.people if fact[0] not in erased]
        outcome.refused, outcome.newly_owned = _without(refused, erased), _without(owned, erased)

    def merges_nobody(self, rows: pa.RecordBatch) -> npt.NDArray[np.bool_] | None:
        """Return a mask of the associations that do not merge an erased number into another; None: all of them."""
        if not (stones := self._tombstones()):
            return None
        devices = rows["device_id"].to_pylist()
        merged = {device for device in devices if device is not None and device.startswith(MERGED)}
        erased = {device for device in merged if self._vault.subject_of(device.removeprefix(MERGED)) in stones}
        return np.array([device not in erased for device in devices], np.bool_) if erased else None

    def _among(self, patients: Set[str], stones: Set[bytes]) -> set[str]:
        return {patient for patient in patients if self._vault.subject_of(patient) in stones}

    def _tombstones(self) -> set[bytes]:
        return {stone.subject for stone in self._vault.tombstones()}


def _patients(refused: RefusedRows) -> pa.Array:
    return refused.rows["patient_id"].cast(pa.string())


def _without(refused: RefusedRows | None, patients: Set[str]) -> RefusedRows | None:
    """Return the rows that are not of these patients; None: none is left."""
    if refused is None:
        return None
    is_one = pc.is_in(_patients(refused), pa.array(sorted(patients), pa.string()))
    left = refused.where(~is_one.to_numpy(zero_copy_only=False))
    return left if len(left.message) else None
