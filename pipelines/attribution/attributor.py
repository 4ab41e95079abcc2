"""The step that finds out whose the values of a device are which names no patient; holds back what is nobody's yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.attribution.associations import AssociationMap
from pipelines.attribution.emission import Emission, emissions, is_forgotten
from pipelines.attribution.held import HELD, Holder
from pipelines.attribution.histories import FORGOTTEN, NOBODY, SEVERAL
from pipelines.attribution.rows import with_owners
from pipelines.attribution.timeline import Owner
from pipelines.dead_letters import DeadLetters
from pipelines.poll import Outcome
from vitalake.keys import KeyRing
from vitalake.lake.lake import Lake
from vitalake.restricted import PatientKeys, device_key
from vitalake.settings import Settings

_NAMED = -9


@dataclass(slots=True)
class _Plan:
    """What becomes of a poll's rows: one entry a row that goes on."""

    row: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]
    available_us: npt.NDArray[np.int64]
    attribution: npt.NDArray[np.int64]
    withdrawn: npt.NDArray[np.bool_]


class Attributor:
    """Gives rows their patient by where their device was; used by one thread at a time."""

    def __init__(self, associations: AssociationMap, holder: Holder, key_of: Callable[[str], bytes]) -> None:
        """Prepare.

        Args:
            associations: where devices were.
            holder: makes envelopes of what is held.
            key_of: device id → the keyed hash by which it is found.
        """
        self.associations, self._holder, self._key_of = associations, holder, key_of
        self._keys: dict[str, bytes] = {}

    def attribute(self, outcome: Outcome) -> Outcome:
        """Return the outcome with a patient in every row; messages with a row that is nobody's yet are held.

        A value whose owner was known differently since it could be known becomes a row for each time.

        Raises:
            KeyRevoked: patients' keys cannot be had; the same outcome can be given again.
            ServiceUnavailable: lake or vault cannot be reached; so it can then.
        """
        rows = outcome.rows
        if not rows["patient_id"].null_count:
            return outcome
        mine = np.flatnonzero(rows["patient_id"].is_null().to_numpy(zero_copy_only=False))
        outcome.associations = self.associations.look()
        at_us, available_us = (_microseconds(rows[name]) for name in ("effective_at", "available_at"))
        device, keys = self._devices(rows["device_id"])
        number = np.full(len(device), -1, np.int64)
        used = np.unique(device[mine])
        numbers = np.full(len(keys), -1, np.int64)  # the last one stands for no device
        there = used[used >= 0].tolist()
        numbers[there] = self.associations.numbers([keys[i] or b"" for i in there])
        number[mine] = numbers[device[mine]]
        owner = np.full(rows.num_rows, _NAMED, np.int64)
        known_us = available_us.copy()
        owner[mine], known_us[mine] = self.associations.find(number[mine], at_us[mine], available_us[mine])
        several = self._several(np.flatnonzero(owner == SEVERAL), number, at_us, available_us, owner)
        waiting = owner == NOBODY
        if waiting.any():
            rows_of = np.bincount(outcome.message, minlength=len(outcome.poll.values))
            envelopes = self._holder.hold(
                outcome.poll, outcome.message[waiting], rows_of, at_us[waiting], device[waiting], keys
            )
            outcome.extra[HELD] = envelopes
        return self._applied(outcome, owner, number, several, available_us, known_us)

    def _devices(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], list[bytes | None]]:
        """Return for each row the index of its device's key among these, the last of which is nobody's."""
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        if len(self._keys) > 200_000:
            self._keys.clear()
        for name in names:
            if name is not None and name not in self._keys:
                self._keys[name] = self._key_of(name)
        index = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return index, [*(self._keys.get(name) for name in names), None]

    def _several(
        self,
        which: npt.NDArray[np.int64],
        number: npt.NDArray[np.int64],
        at_us: npt.NDArray[np.int64],
        available_us: npt.NDArray[np.int64],
        owner: npt.NDArray[np.int64],
    ) -> dict[int, list[Emission]]:
        """Return the rows to write of values whose owner has changed since; one without any is marked."""
        found: dict[int, list[Emission]] = {}
        for i in which.tolist():
            device = int(number[i])
            steps = self.associations.steps(device, int(at_us[i]))
            written = emissions(steps, int(available_us[i]), facts=self.associations.count(device))
            if written:
                found[i] = written
            else:
                owner[i] = FORGOTTEN if is_forgotten(steps) else NOBODY
        return found

    def _applied(
        self,
        outcome: Outcome,
        owner: npt.NDArray[np.int64],
        number: npt.NDArray[np.int64],
        several: dict[int, list[Emission]],
        available_us: npt.NDArray[np.int64],
        known_us: npt.NDArray[np.int64],
    ) -> Outcome:
        message = outcome.message
        held = np.isin(message, message[owner == NOBODY])
        forgotten = ~held & (owner == FORGOTTEN)
        going = np.flatnonzero(~held & ~forgotten)
        outcome.held = np.concatenate([outcome.held, message[held]]).astype(np.int32)
        outcome.filtered = np.concatenate([outcome.filtered, message[forgotten]]).astype(np.int32)
        counts = self.associations.counts(number[going])
        plan = _Plan(going, owner[going], known_us[going], 2 * counts + 1, np.zeros(len(going), np.bool_))
        used = np.unique(plan.owner[plan.owner >= 0])
        owners = self.associations.owners(used.tolist())
        plan.owner = np.where(plan.owner >= 0, np.searchsorted(used, plan.owner), plan.owner)
        if several:
            plan, owners = _spread(plan, owners, several)
        return _with(outcome, plan, owners, available_us)


def _spread(plan: _Plan, owners: list[Owner], several: dict[int, list[Emission]]) -> tuple[_Plan, list[Owner]]:
    """Return the plan with a row for each that is to be written of some values."""
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
    if more:  # rows that were not decoded, but made of decoded ones
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
    """Return the step for a home.

    Args:
        settings: of the home.
        dataset: where the rows go.
        keys: of the home.
        vault: of the thread that uses it.
        envelopes: seals payloads.
        days: after how many a held message expires.
    """
    lake = Lake(settings.lake_uri, settings.storage_options, dataset="device_association")
    secret = keys.current("vault").secret
    key_of = partial(device_key, secret)
    holder = Holder(envelopes, dataset=dataset, days=days)
    return Attributor(AssociationMap(lake, vault, key_of), holder, key_of)
