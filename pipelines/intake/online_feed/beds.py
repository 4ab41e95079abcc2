"""Takes the beds, and the merges of patient numbers, that admission messages report to the online store."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.poll import Outcome
from pipelines.formats.shared.records import GOES_ON, MERGED, OVER_TOLD, record_batch
from pipelines.intake.online_feed.arrival import CAME_AT, Arrival, Clamp
from pipelines.intake.online_feed.columns import numbers_of, texts_of, values_of
from pipelines.intake.online_feed.destination import Destination
from pipelines.intake.online_feed.people import People
from pipelines.online_store.facts import Fact, Placement
from pipelines.online_store.placing import BED
from pipelines.online_store.store import OnlineStore


class Beds:
    """Takes polls of device associations: a bed is one.

    Attributes:
        older_merges: collected while the store is filled again: merges from before the hours that it keeps, as version,
            pseudonym of the old number and pseudonym of the new one.
    """

    def __init__(self, destination: Destination, arrival: Arrival, people: People) -> None:
        self._destination, self._arrival, self._people = destination, arrival, people
        self.older_merges: list[tuple[int, str, str]] = []

    def take(self, outcome: Outcome) -> None:
        """Store the beds, and the merges of patient numbers, that admissions report; other devices are left out."""
        rows, clamped = self._arrival.with_came(outcome), self._arrival.clamp(outcome.poll)
        rows = rows.filter(outcome.rows["patient_id"].is_valid())
        of = rows["device_id"].cast(pa.string())
        self._put_beds(rows.filter(pc.fill_null(pc.starts_with(of, BED), False)), clamped)
        self._put_beds(_told_only(outcome), clamped)
        self._merge(rows.filter(pc.fill_null(pc.starts_with(of, MERGED), False)))

    def _put_beds(self, rows: pa.RecordBatch, clamped: Clamp) -> None:
        if not rows.num_rows:
            return
        encounters = self._destination.encounter_tokens(rows)
        columns = (numbers_of(rows, name) for name in ("valid_from", "valid_to", "available_at", CAME_AT))
        texts = (texts_of(rows, "device_id"), texts_of(rows, "status"), values_of(rows, OVER_TOLD))
        facts: list[Fact] = []
        for encounter, told, until, known, came, bed, status, over in zip(encounters, *columns, *texts, strict=True):
            since, known_us = clamped(told or 0, came), clamped(known or came or 0, came)
            said = told if told and since != told else 0
            if over == GOES_ON:
                facts.append(
                    Placement(encounter or "", since, None, "", "active", True, said_us=said, known_us=known_us)
                )
            else:
                state = status or "active"
                is_over = bool(over)
                facts.append(
                    Placement(encounter or "", since, until, bed or "", state, is_over, said_us=said, known_us=known_us)
                )
        self._destination.put(rows, [identity.hex() for identity in rows["association_id"].to_pylist()], facts)
        self._people.take_admissions(rows)

    def _merge(self, rows: pa.RecordBatch) -> None:
        """Merge numbers that were given up into the surviving numbers.

        A filling from the lake reads the merges of all times. Merges from before the hours of the store are collected,
        until it is known which patients are in the store.
        """
        if not rows.num_rows:
            return
        given_up = pc.utf8_slice_codeunits(rows["device_id"].cast(pa.string()), len(MERGED))
        destination = self._destination
        old, new = destination.tokens("patient_id", given_up), destination.tokens("patient_id", rows["patient_id"])
        versions, statuses = rows["version"].to_pylist(), texts_of(rows, "status")
        begins, horizon = numbers_of(rows, "valid_from"), destination.store.time.horizon_us()
        for number, into, version, status, at in zip(old, new, versions, statuses, begins, strict=True):
            if status != "active" or not destination.admits(into):
                continue
            if destination.again and (at or 0) < horizon:
                self.older_merges.append((version, number, into))
            else:
                destination.write(partial(OnlineStore.merge, patient=number, into=into, version=version))
        self._people.take_admissions(rows)


def _told_only(outcome: Outcome) -> pa.RecordBatch:
    """Return the beds that rejected messages report; without a time of their own they are known since they came."""
    beds = record_batch("device_association", [row for _, row in outcome.told])
    came = outcome.poll.broker_ms[np.array([i for i, _ in outcome.told], np.int32)] * 1000
    ids = pa.array([row["association_id"] for _, row in outcome.told], pa.binary())
    return beds.append_column("association_id", ids).append_column(CAME_AT, pa.array(came, pa.int64()))
