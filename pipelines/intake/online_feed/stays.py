"""Takes stays and movements between wards to the online store."""

from __future__ import annotations

import pyarrow as pa

from pipelines.core.poll import Outcome
from pipelines.formats.base import WAREHOUSE
from pipelines.formats.fhir.places import AND_THEN
from pipelines.formats.shared.records import CLASS_TOLD, GOES_ON, OUTPATIENT, OVER_TOLD, PLACE_TOLD
from pipelines.intake.online_feed.arrival import CAME_AT, Arrival, Clamp
from pipelines.intake.online_feed.columns import numbers_of, texts_of, values_of
from pipelines.intake.online_feed.destination import Destination
from pipelines.intake.online_feed.people import People
from pipelines.online_store.facts import Admission, Movement, Placement
from pipelines.online_store.stays import bed_key
from pipelines.online_store.values import AHEAD_US


class Stays:
    """Takes polls of encounters and of ward movements."""

    def __init__(self, destination: Destination, arrival: Arrival, people: People) -> None:
        self._destination, self._arrival, self._people = destination, arrival, people

    def take_encounters(self, outcome: Outcome) -> None:
        """Store the stays of a poll, each with the bed that its own record gives."""
        rows, begins = self._arrival.with_came(outcome), self._arrival.clamp(outcome.poll)
        columns = (
            numbers_of(rows, name)
            for name in ("admitted_at", "discharged_at", "available_at", "age_at_admission", CAME_AT)
        )
        over = values_of(rows, OVER_TOLD)  # a stay that is over without a time ended when that became known
        facts = [
            Admission(
                begun := begins(admitted or 0, came),
                _end(begins, begun, discharged, known, came, ended, again=self._destination.again),
                age,
                said_us=admitted if admitted and begun != admitted else 0,
                known_us=begins(known or 0, came),
                outpatient=kind == OUTPATIENT,
            )
            for admitted, discharged, known, age, came, ended, kind in zip(
                *columns, over, values_of(rows, CLASS_TOLD), strict=True
            )
        ]
        encounters = self._destination.encounter_tokens(rows)
        beds = [
            _bed_of(encounter, place, stay, begins, came)
            for encounter, place, stay, came in zip(
                encounters, values_of(rows, PLACE_TOLD), facts, numbers_of(rows, CAME_AT), strict=True
            )
        ]
        beside = [(bed_key(bed.encounter), bed) if bed else None for bed in beds]
        self._destination.put(rows, encounters, facts, beside=beside)
        if outcome.poll.format != WAREHOUSE:
            new = [stay.age_years is None and stay.ended_us is None for stay in facts]
            self._people.look_up(self._destination.tokens("patient_id", rows["patient_id"].filter(pa.array(new))))

    def take_movements(self, outcome: Outcome) -> None:
        """Store the movements of a poll between wards and beds."""
        rows = outcome.rows
        encounters = self._destination.encounter_tokens(rows)
        facts = [
            Movement(encounter, since or 0, until, unit or "", bed or "")
            for encounter, since, until, unit, bed in zip(
                encounters,
                numbers_of(rows, "in_at"),
                numbers_of(rows, "out_at"),
                texts_of(rows, "unit"),
                texts_of(rows, "bed"),
                strict=True,
            )
        ]
        keys = [f"{fact.encounter}/{fact.since_us}" for fact in facts]
        self._destination.put(rows, keys, facts)


def _end(
    clamped: Clamp,
    begun: int,
    discharged: int | None,
    known: int | None,
    came: int | None,
    over: str | None,
    *,
    again: bool,
) -> int | None:
    """Return when a stay ended; None: it goes on, even if its planned end has passed.

    The lake does not store whether a stay was over. For its rows an end that was in the future when the row came counts
    as planned.
    """
    if over == GOES_ON:
        return None
    if over and discharged is None:
        return max(clamped(known or 0, came), begun)
    if again and discharged is not None and came is not None:
        return discharged if discharged <= came + AHEAD_US else None
    return clamped(discharged, came) if over and discharged is not None else discharged


def _bed_of(
    encounter: str,
    told: str | None,
    stay: Admission,
    clamped: Clamp,
    came: int | None,
) -> Placement | None:
    """Return the bed that a stay's own record gives, or that the stay has none; None: the record does not say.

    The bed begins at the end of the stay at the latest.
    """
    if told is None:
        return None
    place, *later = told.split(AND_THEN)
    since, _, bed = place.partition(" ")
    since_us = begun_us = clamped(int(since), came) if bed else stay.admitted_us
    since_us = since_us if stay.ended_us is None else min(since_us, stay.ended_us)
    said_us = int(since) if bed and begun_us != int(since) else 0
    parts = [one.partition(" ") for one in later if stay.ended_us is None]
    then = tuple((int(at), bed) for at, _, bed in parts)
    return Placement(encounter, since_us, None, bed, "active" if bed else "ended", said_us=said_us, then=then)
