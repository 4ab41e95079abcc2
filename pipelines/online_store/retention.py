"""Retention: deletes what is older than the store keeps, and what was stored for stays that are over."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipelines.online_store.facts import FOR_EVER, Admission, Decision, Placement, Pregnancy
from pipelines.online_store.patient_facts import PatientFacts
from pipelines.online_store.stays import (
    HospitalStay,
    current_stay,
    ended_stays,
    expired_beds,
    hospital_stays,
    recently_ended,
)
from pipelines.online_store.tables import Tables
from vitalake import clock


class Retention:
    """Deletes what is too old; the store calls its methods within a transaction."""

    def __init__(self, tables: Tables, patient_facts: PatientFacts) -> None:
        self._tables, self._facts, self._patient_facts = tables, tables.facts, patient_facts

    def prune(self, horizon: int) -> int:
        """Delete what is from before the horizon, and patients of whom nothing is left; return how many blocks."""
        tables, hours_us = self._tables, self._tables.time.hours_us
        aged = tables.blocks.prune(horizon)
        if aged:
            tables.meta.begin_generation()
        tables.undecided.prune()
        tables.corrections.prune(hours_us)
        tables.merges.prune(clock.now_us() - hours_us, tables.patients.revisions())
        tables.connection.execute(
            "DELETE FROM fact WHERE until_us < ? AND kind != 'encounter' "
            "AND NOT (kind IN ('patient', 'pregnancy') AND patient IN (SELECT patient FROM patient))",
            (horizon,),
        )
        self._prune_stays(horizon)
        tables.lanes.prune(clock.now_us() - hours_us)
        tables.connection.execute(
            "DELETE FROM patient WHERE patient NOT IN (SELECT patient FROM block) "
            "AND patient NOT IN (SELECT patient FROM fact WHERE kind IN ('encounter', 'placement'))"
        )
        tables.connection.execute(
            "DELETE FROM fact WHERE (kind = 'decision' OR (kind IN ('patient', 'pregnancy') AND until_us = ?)) "
            "AND patient NOT IN (SELECT patient FROM patient)",
            (FOR_EVER,),
        )
        return aged

    def _prune_stays(self, horizon: int) -> None:
        """Delete stays that were over before the horizon, each with its beds, decisions and diagnoses.

        - The end must also have been known before the horizon: a discharge can be entered with a wrong time, or for the
          wrong patient, and corrected later.
        - All parts of a hospital stay are deleted together: they can be other names of it, and decisions apply to the
          whole.
        - A stay without a known end loses its beds when none has been occupied since the horizon.
        """
        for (patient,) in self._tables.connection.execute(
            "SELECT patient FROM fact WHERE kind = 'placement' OR (kind = 'encounter' AND until_us < ?) "
            "GROUP BY patient", (horizon,),
        ).fetchall():  # fmt: skip
            admissions = self._facts.of(patient, Admission)
            placements = self._facts.of(patient, Placement)
            self._prune_stays_of(patient, admissions, placements, horizon)

    def _prune_stays_of(
        self, patient: str, admissions: dict[str, Admission], placements: dict[str, Placement], horizon: int
    ) -> None:
        now_us, beds = self._tables.time.now_us(), placements.values()
        stay_now = current_stay(admissions, beds, as_of_us=now_us)
        open_ = stay_now.encounter if stay_now is not None and stay_now.ended_us is None else None
        recent = recently_ended(admissions, beds, since_us=horizon)
        over = {n: end for n, end in ended_stays(admissions, beds, as_of_us=now_us).items() if end < horizon}
        over = {name: end for name, end in over.items() if name not in recent}
        visits = {name for name, one in admissions.items() if one.outpatient}
        stays = hospital_stays(admissions, beds)
        # A series of visits that lasts for years does not keep stays of long ago in the store.
        lasting = [one.names for one in stays if not ((one.names - visits) or one.names) <= over.keys()]
        kept = frozenset(name for names in lasting for name in names)
        over = {name: end for name, end in over.items() if name not in kept}
        others = (kept - {open_ or ""}) | recent
        beds_gone = expired_beds(admissions, placements, over, horizon, kept=others, as_of_us=now_us)
        gone = over.keys() | {placements[key].encounter for key in beds_gone}
        if gone:
            begun = [admissions[name].admitted_us for name in recent & admissions.keys()]
            begun += [bed.since_us for bed in beds if bed.encounter in recent]
            self._lapse(patient, gone, over, open_, min(begun, default=0) if recent else FOR_EVER)
        # A recent end of a visit within a stay keeps the visit in the store, and not the stay.
        past = {one: one.names - visits for one in stays if one.end_us < horizon}
        lapsing = [one for one, own in past.items() if own and own.isdisjoint(recent) and own - {""} <= over.keys()]
        self._lapse_in_visits(patient, visits, lapsing)
        deleted = [name for name in admissions if name in over]
        self._facts.delete(patient, Admission, deleted)
        self._facts.delete(patient, Placement, beds_gone)
        if (deleted or beds_gone) and self._tables.patients.has(patient):  # so that boards read the patient again
            self._tables.patients.touch([patient])

    def _lapse(
        self,
        patient: str,
        gone: Collection[str],
        over: Mapping[str, int],
        open_: str | None,
        recent_from_us: int,
    ) -> None:
        """Delete decisions and diagnoses that were made for stays that are over, while the ends are still in the store.

        A decision that names no stay is kept while a recent end can still be corrected. It is deleted now if a stay
        that is being deleted ended it before: later the store would no longer know that.

        Args:
            patient: pseudonym.
            gone: stays that are being deleted, or whose beds are.
            over: the stays that are over, with their ends.
            open_: the open stay; None: none is open.
            recent_from_us: when the first of the stays began whose end became known recently; FOR_EVER: there is none.
        """
        decisions = self._facts.of(patient, Decision)
        last_us = max(over.values(), default=-1)
        before_us = max((end for end in over.values() if end <= recent_from_us), default=-1)

        def could_lapse(one: Decision) -> bool:
            without_stay = not one.encounter and (recent_from_us == FOR_EVER or one.at_us <= before_us)
            return without_stay or one.encounter in gone  # "" is in gone when beds without an encounter are deleted

        candidates = {kind: one for kind, one in decisions.items() if could_lapse(one)}
        if open_ is None:
            lapsed = {
                kind
                for kind, one in candidates.items()
                if one.encounter in over or (not one.encounter and one.at_us <= last_us)
            }
        else:
            lapsed = candidates.keys() - self._patient_facts.decisions(patient, encounter=open_).keys()
        self._facts.delete(patient, Decision, lapsed)
        diagnoses = self._facts.of(patient, Pregnancy)
        self._facts.delete(patient, Pregnancy, [key for key, one in diagnoses.items() if one.encounter in over])

    def _lapse_in_visits(self, patient: str, visits: Collection[str], stays: Collection[HospitalStay]) -> None:
        """Delete decisions that name a visit and were made within one of these hospital stays, which are over."""
        if not stays:
            return
        decisions = self._facts.of(patient, Decision)
        at = self._tables.time.at
        times = {kind: at(one.at_us) for kind, one in decisions.items() if one.encounter in visits}
        lapsed = [kind for kind, at_us in times.items() if any(stay.lasts(at_us) for stay in stays)]
        self._facts.delete(patient, Decision, lapsed)
