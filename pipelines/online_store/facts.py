"""The facts of a patient that a score or a board needs beside measured values: stays, beds, person, decisions.

Facts are stored as JSON: their field names stand on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec


class Admission(msgspec.Struct, frozen=True):
    """A stay, as its own record (a warehouse row or a FHIR Encounter) describes it.

    Attributes:
        admitted_us, discharged_us: the beginning and the end of the stay; an end of None: it is open.
        age_years: the patient's age at the beginning.
        told_us: when the store learned that the stay is over, by the ward's time; 0: it is open, or an earlier release
            stored it.
        said_us: the beginning as the sender gives it, where the sender's clock was ahead of ours and ``admitted_us``
            was clamped to our clock; 0: nothing was clamped.
        known_us: when the sender, or we, could first know this; 0: an earlier release stored it.
        outpatient: it is a visit or a series of visits, not a stay in the hospital.
    """

    admitted_us: int
    discharged_us: int | None
    age_years: float | None
    told_us: int = 0
    said_us: int = 0
    known_us: int = 0
    outpatient: bool = False

    @property
    def ended_us(self) -> int | None:
        """The end of the stay; None: it is open. An end before the beginning is a mistake and counts as none."""
        return None if self.discharged_us is None or self.discharged_us < self.admitted_us else self.discharged_us


class Person(msgspec.Struct, frozen=True):
    """The properties of a patient that a score can depend on.

    Attributes:
        sex: female, male or unknown, or DELETED.
        born: the date of birth as far as it is known: ``2018-05-03``, ``2018-05``, ``2018``; empty: not known; or
            DELETED.
        sex_of, born_of, died_of: the version of the message that gave this property; None: the version of the fact.
        died: the date of death as the sender writes it, or ``yes``; empty: no message says; DELETED: the patient lives.
    """

    sex: str
    born: str = ""
    sex_of: int | None = None
    born_of: int | None = None
    died: str = ""
    died_of: int | None = None


DELETED = "-"
"""Stands for a sex, a date of birth or a death that the sender has explicitly deleted, not only left out."""

NOT_STATED = ("unknown", "")
"""Values of a property that a message does not give."""


def merged_person(versions: Sequence[tuple[int, Person]]) -> Person:
    """Combine what several messages say of a patient: of sex, birth and death separately, the highest version counts.

    The order in which the messages came does not matter.

    Args:
        versions: each version with its Person; where two have the same version the later one in the sequence counts.
    """
    sexes = [(version if one.sex_of is None else one.sex_of, one.sex) for version, one in versions]
    births = [(version if one.born_of is None else one.born_of, one.born) for version, one in versions]
    deaths = [(version if one.died_of is None else one.died_of, one.died) for version, one in versions]
    sex, born, died = (
        max((one for one in stated if one[1] not in NOT_STATED), key=lambda one: one[0], default=(None, empty))
        for stated, empty in ((sexes[::-1], "unknown"), (births[::-1], ""), (deaths[::-1], ""))
    )
    return Person(sex[1], born[1], sex[0], born[0], died[1], died[0])


class Movement(msgspec.Struct, frozen=True):
    """A patient is in a ward or bed for a time, as the warehouse's movements have it."""

    encounter: str
    since_us: int
    until_us: int | None
    unit: str
    bed: str


class Placement(msgspec.Struct, frozen=True):
    """A patient is put in a bed, or leaves it, as messages of admission, transfer and discharge report it.

    Attributes:
        encounter: the stay's pseudonym; empty: the message names none.
        since_us, until_us: the beginning and the end; an end of None: open.
        bed: as the source names it, ``bed:<point of care>/<room>/<bed>``.
        status: active, ended (from ``since_us`` on the patient is not in the bed), entered-in-error (never was).
        discharged: with status ended: the stay ended, and the patient lies in none of its beds any more. With status
            active: the stay goes on, which cancels every discharge reported before; no bed is named then.
        told_us: when the store learned of a discharge, see Admission.
        said_us, known_us: see Admission.
        then: the beds that follow this one, each with its beginning; an empty name: no bed is known.
    """

    encounter: str
    since_us: int
    until_us: int | None
    bed: str
    status: str
    discharged: bool = False
    told_us: int = 0
    said_us: int = 0
    then: tuple[tuple[int, str], ...] = ()
    known_us: int = 0


class Pregnancy(msgspec.Struct, frozen=True):
    """A stay has a diagnosis of pregnancy, known from a moment on.

    Attributes:
        encounter: the stay's pseudonym; empty: the diagnosis names no stay and applies to the patient.
        since_us: when it became known.
        over: the diagnosis is no longer valid, or never was.
        names: for a diagnosis stored under its own id, the keys made of stay and code that it has or had. The lake has
            no ids of diagnoses, so that a refill from the lake stores the same diagnosis under such a key.
    """

    encounter: str
    since_us: int
    over: bool = False
    names: tuple[str, ...] = ()


DecisionKind = Literal["spo2-scale-2", "pregnancy"]
DECISION_KINDS: tuple[DecisionKind, ...] = get_args(DecisionKind)

REASONS: dict[DecisionKind, dict[str, str]] = {
    "spo2-scale-2": {
        "blood-gas-now": "hypercapnic respiratory failure on blood gas, this stay",
        "blood-gas-before": "hypercapnic respiratory failure on blood gas, a former stay",
        "not-hypercapnic": "not, or no longer, hypercapnic",
        "entered-in-error": "entered in error",
    },
    "pregnancy": {
        "test-or-scan": "pregnant by test or scan",
        "told-by-patient": "the patient says so",
        "not-pregnant": "not, or no longer, pregnant",
        "entered-in-error": "entered in error",
    },
}
"""Why a decision is made. Scale 2: RCP 2017, on blood gas analysis, by a competent decision maker."""

ENDING_REASONS = frozenset({"not-hypercapnic", "not-pregnant", "entered-in-error"})
"""Reasons of decisions that end or take back an earlier decision."""


class Decision(msgspec.Struct, frozen=True):
    """A clinician's decision about a patient, for one stay.

    Attributes:
        kind: what the decision is about.
        holds: whether it applies from now on; False: it does not, or no longer.
        encounter: the stay's pseudonym; empty: no stay was known.
        by: who decided, as the issuer of their token, or the operating system, names them.
        at_us: when.
        reason: one of REASONS; there is no free text, so that the audit log can contain it.
    """

    kind: DecisionKind
    holds: bool
    encounter: str
    by: str
    at_us: int
    reason: str


FROM_ADMISSIONS = "told"
"""The key of a Person that an admission message or the vault gives, where the patient's own record has an empty key."""

FROM_RESULTS = "told-by-results"
"""The key of a Person that a monitor's or a laboratory's messages give. Where several keys give a property, the first
key in alphabetical order counts: the patient's own record, then admissions, then results."""

Fact = Admission | Person | Movement | Placement | Pregnancy | Decision

GivenFact = tuple[str, str, int, Fact]
"""A fact as it is given to the store: pseudonym, key within its kind (a stay's pseudonym; empty for a Person), version,
fact."""

FOR_EVER = 1 << 62
"""The end of a fact that has not ended."""

KINDS: dict[type, str] = {
    Admission: "encounter",
    Person: "patient",
    Movement: "movement",
    Placement: "placement",
    Pregnancy: "pregnancy",
    Decision: "decision",
}
"""The name of each kind of fact in the table ``fact``."""

HELD_AS = {
    "encounter": "stays",
    "patient": "ages and sexes",
    "movement": "movements",
    "placement": "beds",
    "pregnancy": "pregnancies",
    "decision": "decisions",
}
"""A name of a kind of fact → what people are told that it is."""

ON_THE_WARD = (Admission, Placement)
"""The kinds of fact that put a patient on the board, even before the first value."""


OLDEST_YEARS = 125
"""The limit of a plausible age; the oldest person whose age is documented became 122."""

_DAY = len("2018-05-03")


def minimum_age(born: str, at_us: int) -> int | None:
    """Return the completed years that somebody has at least at a moment; None: not known.

    A patient who could be a child counts as one: of a date with the year alone, the last day of the year is taken. A
    date that makes somebody older than OLDEST_YEARS is a mistake or a placeholder, and gives no age.

    Args:
        born: see Person.
        at_us: microseconds since 1970 UTC.
    """
    day = (born + "-12-31"[len(born) - _DAY :] if len(born) < _DAY else born)[:_DAY]
    if len(born) not in (4, 7, _DAY):
        return None
    at = datetime.fromtimestamp(at_us / 1e6, tz=UTC)
    years = at.year - int(day[:4]) - ((at.month, at.day) < (int(day[5:7]), int(day[8:10])))
    return max(years, 0) if day[:4] <= str(at.year) and years <= OLDEST_YEARS else None


def until(fact: Fact) -> int:
    """Return the end of a fact's validity, microseconds since 1970 UTC; FOR_EVER while it is valid."""
    if isinstance(fact, Admission):
        end = fact.ended_us
    else:  # a placement has no end here: what ends it must be kept as long, and the store deletes both together
        end = fact.until_us if isinstance(fact, Movement) else None
    return FOR_EVER if end is None else end


def ends_a_stay(fact: Fact) -> bool:
    """Return whether a fact says that a stay is over."""
    if isinstance(fact, Admission):
        return fact.ended_us is not None
    return isinstance(fact, Placement) and fact.discharged and fact.status == "ended"


def with_first_begin(fact: Admission | Placement, before: Admission | Placement) -> Admission | Placement:
    """Return a fact that was sent again with the beginning that was stored first, if that one had been clamped.

    The sender's clock was ahead of ours when the fact first came. By now the same time can be past, and it would no
    longer be clamped.
    """
    if isinstance(fact, Admission) and isinstance(before, Admission):
        if before.said_us and before.said_us == (fact.said_us or fact.admitted_us):
            begun_us = min(before.admitted_us, fact.admitted_us)
            return msgspec.structs.replace(fact, admitted_us=begun_us, said_us=before.said_us)
    elif isinstance(fact, Placement) and isinstance(before, Placement):
        if before.said_us and before.said_us == (fact.said_us or fact.since_us):
            begun_us = min(before.since_us, fact.since_us)
            return msgspec.structs.replace(fact, since_us=begun_us, said_us=before.said_us)
    return fact


def with_first_known(fact: Admission | Placement, before: Admission | Placement) -> Admission | Placement:
    """Return a fact that was sent again unchanged with the time at which it first became known."""
    if not before.known_us or fact.known_us <= before.known_us:
        return fact
    as_before = msgspec.structs.replace(fact, known_us=before.known_us, told_us=before.told_us)
    return as_before if as_before == before else fact
