"""What the facts of the store say of a patient: the stay, age and sex, pregnancy, decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipelines.online_store.fact_table import FactTable
from pipelines.online_store.facts import (
    DELETED,
    FROM_ADMISSIONS,
    FROM_RESULTS,
    NOT_STATED,
    Admission,
    Decision,
    Movement,
    Person,
    Placement,
    Pregnancy,
    minimum_age,
)
from pipelines.online_store.merges import OF_ANOTHER
from pipelines.online_store.placing import next_move
from pipelines.online_store.playback import WardTime
from pipelines.online_store.stays import applies_to_stay, current_stay, hospital_stays, same_stay
from vitalake.clinical.records import Stay


class PatientFacts:
    """Reads facts of patients, and decides which of them count."""

    def __init__(self, facts: FactTable, time: WardTime) -> None:
        self._facts, self._time = facts, time

    # -- the stay --------------------------------------------------------------------------------------------------

    def stay(self, patient: str, *, as_of_us: int) -> Stay | None:
        """Return the stay a patient is in at a moment, or was in last; None: none is known.

        Where no admission is known, the patient's bed shows a stay, which begins when the patient came to the bed.
        """
        admissions = self._facts.of(patient, Admission)
        placements = self._facts.of(patient, Placement).values()
        stay_then = current_stay(admissions, placements, as_of_us=as_of_us)
        if stay_then is None:
            return None
        encounter, place = stay_then.encounter, stay_then.place
        person = self.person(patient)
        age = admissions[encounter].age_years if encounter in admissions else None
        if age is None and person is not None:
            age = minimum_age(person.born, stay_then.admitted_us)
        same = same_stay(encounter, admissions, placements)
        names = {encounter} if same is None else same.names
        moves = [
            move
            for move in self._facts.of(patient, Movement).values()
            if move.encounter in stay_then.names and move.since_us <= as_of_us
        ]
        move = max(moves, key=lambda move: move.since_us, default=None)
        # Of the warehouse and the admission feed, the one that moved the patient last gives the bed.
        by_feed = place is not None and (move is None or not move.bed or place.since_us >= move.since_us)
        return Stay(
            encounter=encounter,
            admitted_us=stay_then.admitted_us,
            discharged_us=stay_then.ended_us,
            age_years=age,
            sex=person.sex if person else "unknown",
            unit=move.unit if move and move.unit else place.unit if place else "",
            bed=place.bed if place and by_feed else move.bed if move else "",
            pregnant=self._is_pregnant(patient, self._diagnosis_stays(names, admissions, placements), as_of_us),
            died=person.died if person else "",
            moves_us=next_move(placements, as_of_us=as_of_us),
        )

    @staticmethod
    def _diagnosis_stays(
        names: Collection[str], admissions: Mapping[str, Admission], placements: Collection[Placement]
    ) -> set[str]:
        """Return the stays whose diagnoses apply to a stay; to a visit also those of the hospital stay."""
        if all(name in admissions and admissions[name].outpatient for name in names):
            stays = hospital_stays(admissions, placements)
            names = {*names, *(name for one in stays if not one.names.isdisjoint(names) for name in one.names)}
        return {*names, ""}

    def is_visit(self, patient: str, encounter: str) -> bool:
        """Return whether a stay is an outpatient visit, or a series of visits."""
        admissions = self._facts.of(patient, Admission)
        return encounter in admissions and admissions[encounter].outpatient

    # -- pregnancy and decisions -----------------------------------------------------------------------------------

    def pregnant(self, patient: str, *, as_of_us: int) -> bool:
        """Return whether any diagnosis says that a patient is pregnant; for patients without a known stay."""
        return self._is_pregnant(patient, None, as_of_us)

    def _is_pregnant(self, patient: str, stays: Collection[str] | None, as_of_us: int) -> bool:
        """Return whether any diagnosis is valid; one stored without an id does not count if the same one has an id."""
        diagnoses = self._facts.versions(patient, Pregnancy)
        known = {key: one for key, one in diagnoses.items() if one[1].since_us <= as_of_us}
        newest: dict[str, int] = {}
        for version, one in known.values():
            newest |= {name: max(version, newest.get(name, version)) for name in one.names}
        return any(
            not one.over and newest.get(key, version - 1) < version and (stays is None or one.encounter in stays)
            for key, (version, one) in known.items()
        )

    def pregnancies(self, patient: str) -> dict[str, Pregnancy]:
        """Return the diagnoses of pregnancy of a patient by their keys, including those that are over."""
        return self._facts.of(patient, Pregnancy)

    def decisions(self, patient: str, *, encounter: str) -> dict[str, Decision]:
        """Return the last decision of each kind that applies to a patient's stay.

        A hospital stay can have several names: that of admission messages, and those of FHIR Encounters of departments
        and procedures. A decision made before any stay was known applies to the stay that became known then.

        Args:
            patient: pseudonym.
            encounter: the stay's pseudonym; empty: none is known.
        """
        decisions = self._facts.of(patient, Decision)
        if not decisions:
            return decisions
        admissions = self._facts.of(patient, Admission)
        placements = self._facts.of(patient, Placement).values()
        return {
            kind: one
            for kind, one in decisions.items()
            if applies_to_stay(one.encounter, self._time.at(one.at_us), encounter, admissions, placements)
        }

    def decided(self) -> list[tuple[str, Decision]]:
        """Return all decisions of clinicians, each with the patient's pseudonym."""
        patients = self._facts.patients_with(Decision)
        return [(patient, one) for patient in patients for one in self._facts.of(patient, Decision).values()]

    # -- the person ------------------------------------------------------------------------------------------------

    def person(self, patient: str, *, own: bool = False) -> Person | None:
        """Return what is known of a patient; None: nothing.

        Sex and birth come from the patient's own record, else from admission messages, else from results; see
        FROM_RESULTS. A patient is dead if any of these sources says so, until the same source says that the patient
        lives: many systems always write that a patient lives, and versions of two sources cannot be compared. One
        exception: a patient who lives according to admission messages is not dead by a laboratory's word.

        What was given for numbers that were merged into this one counts where nothing was given for this one.

        Args:
            patient: pseudonym.
            own: leave out what was given for numbers that were merged into this one.
        """
        people = self._facts.of(patient, Person)
        people = {key: one for key, one in people.items() if not (own and key.startswith(OF_ANOTHER))}
        sexes = [person.sex for key, person in sorted(people.items()) if person.sex not in (*NOT_STATED, DELETED)]
        born = [person.born for key, person in sorted(people.items()) if person.born not in (*NOT_STATED, DELETED)]
        all_deaths = {key: one.died for key, one in sorted(people.items()) if one.died not in NOT_STATED}
        own_deaths = {key: died for key, died in all_deaths.items() if not key.startswith(OF_ANOTHER)}
        deaths = [(key.rpartition(OF_ANOTHER)[2], died) for key, died in (own_deaths or all_deaths).items()]
        lives = (FROM_ADMISSIONS, DELETED) in deaths
        died = [death for source, death in deaths if death != DELETED and not (lives and source == FROM_RESULTS)]
        if not people:
            return None
        return Person(next(iter(sexes), "unknown"), next(iter(born), ""), died=next(iter(died), ""))

    def age(self, patient: str, *, as_of_us: int) -> int | None:
        """Return the completed years that a patient has at least, with or without a known stay; None: not known."""
        person = self.person(patient)
        return minimum_age(person.born, as_of_us) if person else None

    def died(self, patient: str) -> str:
        """Return the recorded death of a patient, see Person.died; empty: the patient is not recorded as dead."""
        person = self.person(patient)
        return person.died if person else ""
