"""Finds the patient of a device's values when the message names none; holds the message while no patient is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.vault.sealed_rows import PatientKeys, device_key
from pipelines.attribution.associations import AssociationMap
from pipelines.attribution.held import HELD, Holder
from pipelines.attribution.histories import FORGOTTEN, NOBODY, SEVERAL
from pipelines.attribution.ownership_rows import OwnershipRow, is_forgotten, ownership_rows
from pipelines.attribution.rows import with_owners
from pipelines.attribution.timeline import Owner
from pipelines.core.dead_letters import DeadLetters
from pipelines.core.poll import Outcome
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.settings import Settings

_NAMED = -9
"""In the place of an owner's index: the row names its patient itself."""

Recognise = Callable[[Outcome, npt.NDArray[np.bool_] | None], npt.NDArray[np.bool_]]
"""Removes repeated rows from an outcome, except those of a mask; returns which are left. See Steps.recognise."""


@dataclass(slots=True)
class _Plan:
    """The rows that are made of a poll's rows, one entry for each row to write."""

    row: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]
    available_us: npt.NDArray[np.int64]
    attribution: npt.NDArray[np.int64]
    withdrawn: npt.NDArray[np.bool_]


@dataclass(slots=True)
class _Found:
    """The owners that were found for a poll's rows, one entry each.

    Attributes:
        owner: index among the owners, or one of NOBODY, SEVERAL, FORGOTTEN and _NAMED.
        number: number of the device among those with a history; -1: it has none, or the row names its patient.
        device: index of the device's key among ``keys``.
        keys: keys of the devices; None: the row names no device.
        at_us: when the value was measured.
        available_us: when the value itself became known.
        known_us: when its owner became known.
        several: the rows to write for each row whose owner has changed.
    """

    owner: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]
    keys: list[bytes | None]
    at_us: npt.NDArray[np.int64]
    available_us: npt.NDArray[np.int64]
    known_us: npt.NDArray[np.int64]
    several: dict[int, list[OwnershipRow]]

    def of(self, kept: npt.NDArray[np.bool_]) -> _Found:
        """Return the entries of the rows that are kept."""
        if kept.all():
            return self
        place = np.cumsum(kept) - 1
        columns = (self.number, self.device, self.at_us, self.available_us, self.known_us)
        number, device, at_us, available_us, known_us = (column[kept] for column in columns)
        several = {int(place[i]): rows for i, rows in self.several.items() if kept[i]}
        return _Found(self.owner[kept], number, device, self.keys, at_us, available_us, known_us, several)

    def differ(self, message: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Return the rows without a patient of messages whose such rows differ in device or time.

        In all other messages these rows are held or go on together, and so do repeats of them.
        """
        unnamed = np.flatnonzero(self.owner != _NAMED)
        _, first, group = np.unique(message[unnamed], return_index=True, return_inverse=True)
        columns = (self.device[unnamed], self.at_us[unnamed], self.available_us[unnamed])
        unlike = np.any([column != column[first][group] for column in columns], axis=0)
        different: npt.NDArray[np.bool_] = np.isin(message, message[unnamed[unlike]]) & (self.owner != _NAMED)
        return different


class Attributor:
    """Gives rows their patient by the associations of their device; used by one thread at a time."""

    def __init__(self, associations: AssociationMap, holder: Holder, key_of: Callable[[str], bytes]) -> None:
        """Prepare.

        Args:
            associations: of devices with patients.
            holder: makes the rows of held messages.
            key_of: returns the keyed hash of a device id, by which the device is found.
        """
        self.associations, self._holder, self._key_of = associations, holder, key_of
        self._keys: dict[str, bytes] = {}

    def attribute(self, outcome: Outcome, recognise: Recognise) -> Outcome:
        """Return the outcome with a patient in every row; messages with rows without a known patient are held.

        A value whose owner has changed since it became known becomes several rows, one for each change. The held rows
        of a message with several devices or times are not remembered as seen: some of them can have a patient, and can
        also come in a message of their own.

        Raises:
            KeyRevoked: patients' keys are not available; the same outcome can be given again.
            ServiceUnavailable: lake or vault cannot be reached; the same outcome can be given again.
        """
        if not outcome.rows["patient_id"].null_count:
            recognise(outcome, None)
            return outcome
        found = self._find(outcome)
        held = self._held(outcome.message, found)
        waiting = held & found.differ(outcome.message) if held.any() else None
        kept = recognise(outcome, waiting)
        found, held = found.of(kept), held[kept]
        if held.any():
            self._hold(outcome, found, held)
        return self._applied(outcome, found, held)

    def waiting(self, outcome: Outcome) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Return the messages that would be held, and the rows that could have come in another message meanwhile.

        Such rows are those of messages with several devices or times.

        Raises:
            KeyRevoked, ServiceUnavailable: see attribute.
        """
        if not outcome.rows["patient_id"].null_count:
            return np.zeros(0, np.int32), np.zeros(outcome.rows.num_rows, np.bool_)
        found = self._find(outcome)
        return np.unique(outcome.message[self._held(outcome.message, found)]), found.differ(outcome.message)

    def patients_of(self, rows: pa.RecordBatch) -> pa.Array:
        """Return the patients of rows that name none, by the associations of their devices; null: none is known.

        Raises:
            KeyRevoked, ServiceUnavailable: see attribute.
        """
        self.associations.look()
        at_us, available_us = (_microseconds(rows[name]) for name in ("effective_at", "available_at"))
        device, keys = self._devices(rows["device_id"])
        numbers = self.associations.numbers([key or b"" for key in keys])
        owner, _ = self.associations.find(np.array(numbers, np.int64)[device], at_us, available_us)
        owners = iter(self.associations.owners(owner[owner >= 0].tolist()))
        return pa.array([next(owners).patient if known else None for known in owner >= 0], pa.string())

    def _find(self, outcome: Outcome) -> _Found:
        rows = outcome.rows
        unnamed = np.flatnonzero(rows["patient_id"].is_null().to_numpy(zero_copy_only=False))
        outcome.associations = self.associations.look()
        at_us, available_us = (_microseconds(rows[name]) for name in ("effective_at", "available_at"))
        device, keys = self._devices(rows["device_id"])
        number = np.full(len(device), -1, np.int64)
        used = np.unique(device[unnamed])
        numbers = np.full(len(keys), -1, np.int64)  # the last one stands for no device
        with_device = used[used >= 0].tolist()
        numbers[with_device] = self.associations.numbers([keys[i] or b"" for i in with_device])
        number[unnamed] = numbers[device[unnamed]]
        owner = np.full(rows.num_rows, _NAMED, np.int64)
        known_us = available_us.copy()
        owner[unnamed], known_us[unnamed] = self.associations.find(
            number[unnamed], at_us[unnamed], available_us[unnamed]
        )
        found = _Found(owner, number, device, keys, at_us, available_us, known_us, {})
        found.several = self._several(np.flatnonzero(owner == SEVERAL), found)
        return found

    def _held(self, message: npt.NDArray[np.int32], found: _Found) -> npt.NDArray[np.bool_]:
        """Return the rows that are held: either all rows of a message that name no patient, or none of them.

        A message is held if none of these rows has an owner, or one of them never had one. A row that had an owner once
        never gets back to that state, whatever is withdrawn, unless a fact that was known earlier arrives later.
        Otherwise a row whose owner was withdrawn is written as the owner's and taken back at once, as if it had come
        before the withdrawal.
        """
        nobody = found.owner == NOBODY
        held = np.zeros(len(message), np.bool_)
        if not nobody.any():
            return held
        partly_owned = np.isin(message, message[~nobody & (found.owner != _NAMED)])
        formerly_owned = {
            i: taken_back
            for i in np.flatnonzero(nobody & partly_owned).tolist()
            if (taken_back := self._taken_back(i, found))
        }
        never_owned = nobody.copy()
        never_owned[[*formerly_owned]] = False
        held = np.isin(message, message[never_owned]) & (found.owner != _NAMED)
        going_on = {i: rows for i, rows in formerly_owned.items() if not held[i]}
        found.several |= going_on
        found.owner[[*going_on]] = SEVERAL
        return held

    def _taken_back(self, i: int, found: _Found) -> list[OwnershipRow]:
        """Return the rows that give a value to a former owner and take it back; empty: it never had an owner.

        Every fact of the device counts, even one that was replaced before it became known. Facts are only added, so
        that the result does not depend on the order in which they came.
        """
        number = int(found.number[i])
        facts = self.associations.facts(number) if number >= 0 else ()
        owner = next((fact.owner for fact in reversed(facts) if fact.holds(int(found.at_us[i]))), None)
        if owner is None or owner.patient is None:
            return []
        count, available_us = 2 * self.associations.count(number), int(found.available_us[i])
        return [
            OwnershipRow(owner, available_us, count + 1, withdrawn=False),
            OwnershipRow(owner, available_us, count + 2, withdrawn=True),
        ]

    def _hold(self, outcome: Outcome, found: _Found, held: npt.NDArray[np.bool_]) -> None:
        nobody = held & (found.owner == NOBODY)
        rows_of = np.bincount(outcome.message[held], minlength=len(outcome.poll.values))
        outcome.extra[HELD] = self._holder.hold(
            outcome.poll, outcome.message[nobody], rows_of, found.at_us[nobody], found.device[nobody], found.keys
        )

    def _devices(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], list[bytes | None]]:
        """Return for each row the index of its device's key, and the keys; the last key is None, for no device."""
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        if len(self._keys) > 200_000:
            self._keys.clear()
        for name in names:
            if name is not None and name not in self._keys:
                self._keys[name] = self._key_of(name)
        index = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return index, [*(self._keys.get(name) for name in names), None]

    def _several(self, which: npt.NDArray[np.int64], found: _Found) -> dict[int, list[OwnershipRow]]:
        """Return the rows to write of values whose owner has changed.

        A value without such rows gets the owner FORGOTTEN or NOBODY.
        """
        several: dict[int, list[OwnershipRow]] = {}
        for i in which.tolist():
            device = int(found.number[i])
            steps = self.associations.steps(device, int(found.at_us[i]))
            written = ownership_rows(steps, int(found.available_us[i]), facts=self.associations.count(device))
            if written:
                several[i] = written
            else:
                found.owner[i] = FORGOTTEN if is_forgotten(steps) else NOBODY
        return several

    def _applied(self, outcome: Outcome, found: _Found, held: npt.NDArray[np.bool_]) -> Outcome:
        message = outcome.message
        forgotten = ~held & (found.owner == FORGOTTEN)
        going = np.flatnonzero(~held & ~forgotten)
        outcome.held = np.concatenate([outcome.held, message[held]]).astype(np.int32)
        outcome.filtered = np.concatenate([outcome.filtered, message[forgotten]]).astype(np.int32)
        counts = self.associations.counts(found.number[going])
        owner, known_us = found.owner[going], found.known_us[going]
        plan = _Plan(going, owner, known_us, 2 * counts + 1, np.zeros(len(going), np.bool_))
        used = np.unique(plan.owner[plan.owner >= 0])
        owners = self.associations.owners(used.tolist())
        plan.owner = np.where(plan.owner >= 0, np.searchsorted(used, plan.owner), plan.owner)
        if (plan.owner == SEVERAL).any():
            plan, owners = _spread(plan, owners, found.several)
        return _with(outcome, plan, owners, found.available_us)


def _spread(plan: _Plan, owners: list[Owner], several: dict[int, list[OwnershipRow]]) -> tuple[_Plan, list[Owner]]:
    """Return the plan with every value whose owner has changed replaced by the rows to write of it."""
    owners = list(owners)
    numbers: dict[Owner, int] = {}
    rows: list[tuple[int, int, int, int, bool]] = []
    for i, owner, available, attribution in zip(
        plan.row.tolist(), plan.owner.tolist(), plan.available_us.tolist(), plan.attribution.tolist(), strict=True
    ):
        if owner != SEVERAL:
            rows.append((i, owner, available, attribution, False))
            continue
        for written in several[i]:
            if written.owner not in numbers:
                numbers[written.owner] = len(owners)
                owners.append(written.owner)
            rows.append((i, numbers[written.owner], written.available_us, written.attribution, written.withdrawn))
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    return _Plan(columns[0], columns[1], columns[2], columns[3], columns[4].astype(np.bool_)), owners


def _with(outcome: Outcome, plan: _Plan, owners: list[Owner], available_us: npt.NDArray[np.int64]) -> Outcome:
    rows = outcome.rows
    if len(plan.row) != rows.num_rows or (plan.row != np.arange(rows.num_rows)).any():
        rows = rows.take(pa.array(plan.row))
    message = outcome.message[plan.row]
    more = len(plan.row) - len(np.unique(plan.row))
    if more:  # rows that attribution has added are counted with their messages, too
        first = np.append(True, plan.row[1:] != plan.row[:-1])
        outcome.row_message = np.concatenate([outcome.row_message, message[~first]]).astype(np.int32)
    outcome.rows = with_owners(
        rows,
        owners,
        plan.owner,
        available_us=plan.available_us,
        told_us=available_us[plan.row],
        attribution=plan.attribution,
        withdrawn=plan.withdrawn,
    )
    outcome.message = message
    outcome.effective_us = outcome.effective_us[plan.row]
    return outcome


def _microseconds(column: pa.Array) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    return found


def make_attributor(
    settings: Settings, *, dataset: str, keys: KeyRing, vault: PatientKeys, envelopes: DeadLetters, days: int
) -> Attributor:
    """Return the attribution step of a home.

    Args:
        settings: of the home.
        dataset: where the rows go.
        keys: of the home.
        vault: of the thread that uses the step.
        envelopes: seals payloads.
        days: after how many days a held message expires.
    """
    lake = Home(settings).lake("device_association")
    secret = keys.current("vault").secret
    key_of = partial(device_key, secret)
    holder = Holder(envelopes, dataset=dataset, days=days)
    return Attributor(AssociationMap(lake, vault, key_of), holder, key_of)
