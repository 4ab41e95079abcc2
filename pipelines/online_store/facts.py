"""What a warehouse says of a patient's stay, as far as a score or a board needs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec


class Admission(msgspec.Struct, frozen=True):
    """A stay, as the warehouse tells it.

    Attributes:
        admitted_us, discharged_us: from when until when.
        age_years: at its beginning.
        told_us: since when the store knows that it is over, by the ward's time; 0: it is not, or an earlier release
            stored it.
        said_us: when it began by its sender, where that is ahead of our clock and it is held to it; 0: it is not.
        known_us: since when its sender, or we, could know of what it says; 0: an earlier release stored it.
        outpatient: it is a visit, or a series of them, and no part of a stay in the hospital.
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
        """When it ended; None: it is open, for an end before its beginning is a mistake."""
        return None if self.discharged_us is None or self.discharged_us < self.admitted_us else self.discharged_us


class Person(msgspec.Struct, frozen=True):
    """What of a patient a score may depend on.

    Attributes:
        sex: female, male, unknown; DELETED.
        born: the date of birth as far as it is known: ``2018-05-03``, ``2018-05``, ``2018``; empty: not known; DELETED.
        sex_of, born_of, died_of: the version of the message that said so; None: that of the fact.
        died: when, as the sender writes it, or ``yes``; empty: nobody has said; DELETED: they live.
    """

    sex: str
    born: str = ""
    sex_of: int | None = None
    born_of: int | None = None
    died: str = ""
    died_of: int | None = None


DELETED = "-"
"""In the place of a sex, a date of birth or a death that the sender has deleted, and not only left out."""

UNSAID = ("unknown", "")


def merged(told: Sequence[tuple[int, Person]]) -> Person:
    """Return what several messages say of a patient: of sex, birth and death what was said last, whatever came last.

    Args:
        told: versions, and what they say; of one version what comes later counts.
    """
    sexes = [(version if one.sex_of is None else one.sex_of, one.sex) for version, one in told]
    births = [(version if one.born_of is None else one.born_of, one.born) for version, one in told]
    deaths = [(version if one.died_of is None else one.died_of, one.died) for version, one in told]
    sex, born, died = (
        max((said for said in several if said[1] not in UNSAID), key=lambda said: said[0], default=(None, empty))
        for several, empty in ((sexes[::-1], "unknown"), (births[::-1], ""), (deaths[::-1], ""))
    )
    return Person(sex[1], born[1], sex[0], born[0], died[1], died[0])


class Movement(msgspec.Struct, frozen=True):
    """A patient comes to a ward or bed."""

    encounter: str
    since_us: int
    until_us: int | None
    unit: str
    bed: str


class Placement(msgspec.Struct, frozen=True):
    """A patient is put in a bed, or leaves it, as admissions and transfers tell.

    Attributes:
        encounter: the stay's pseudonym; empty: the message names none.
        since_us, until_us: from when, until when; None: open.
        bed: as the source names it, ``bed:<point of care>/<room>/<bed>``.
        status: active, ended (from ``since_us`` on it is no longer so), entered-in-error (it never was).
        discharged: it ended with the stay: the patient lies in no bed of it any more. Of one that is active: no
            discharge that was told until then was one; it says no bed.
        told_us: since when the store knows of a discharge, see Admission.
        said_us, known_us: see Admission.
        then: beds that follow this one, each with since when; an empty one: none that is known.
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
        encounter: the stay's pseudonym; empty: the diagnosis names none, and is of the patient.
        since_us: since when it is known.
        over: it holds no more, or never did.
        names: of one that is kept by its own id, the keys (of stay and code) that it has, or has had, without one: the
            lake has no ids, and what is filled in out of it has such a key.
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

ENDING = frozenset({"not-hypercapnic", "not-pregnant", "entered-in-error"})
"""Reasons for which it is not so."""


class Decision(msgspec.Struct, frozen=True):
    """What a clinician has decided of a patient, for one stay.

    Attributes:
        kind: what it is about.
        holds: whether it is so from now on; False: not, or not any more.
        encounter: the stay's pseudonym; empty: none was known.
        by: who, as the issuer of their token, or the operating system, names them.
        at_us: when.
        reason: why, one of REASONS: no free words, so that the audit can hold it.
    """

    kind: DecisionKind
    holds: bool
    encounter: str
    by: str
    at_us: int
    reason: str


TOLD_BESIDE = "told"
"""The key of a Person of whom an admission message or the vault tells, and not the patient's own record."""

TOLD_BY_RESULTS = "told-by-results"
"""The same of a monitor's or a laboratory's messages: of several the first key in alphabetical order counts."""

Fact = Admission | Person | Movement | Placement | Pregnancy | Decision
FOR_EVER = 1 << 62
"""Until when a fact holds that has not ended."""

KINDS: dict[type, str] = {
    Admission: "encounter",
    Person: "patient",
    Movement: "movement",
    Placement: "placement",
    Pregnancy: "pregnancy",
    Decision: "decision",
}
"""How each is named in the store."""

ON_THE_WARD = (Admission, Placement)
"""What puts a patient on the board, also before the first value."""


OLDEST_YEARS = 125
"""The oldest of whom it is proven became 122."""

_DAY = len("2018-05-03")


def least_age(born: str, at_us: int) -> int | None:
    """Return the completed years that somebody has at least at a moment; None: it cannot be told.

    Who may be a child is taken for one: of a year alone the last day counts. Nobody is older than OLDEST_YEARS: such a
    date is a mistake, or stands for none, and tells nothing.

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
    """Return when a fact has ceased to hold, microseconds since 1970 UTC; FOR_EVER while it holds."""
    if isinstance(fact, Admission):
        end = fact.ended_us
    else:  # what ends a placement is kept as long as that: the store deletes them together
        end = fact.until_us if isinstance(fact, Movement) else None
    return FOR_EVER if end is None else end


def ends_a_stay(fact: Fact) -> bool:
    """Return whether a fact says that a stay is over."""
    if isinstance(fact, Admission):
        return fact.ended_us is not None
    return isinstance(fact, Placement) and fact.discharged and fact.status == "ended"


def begun_as_before(fact: Admission | Placement, before: Admission | Placement) -> Admission | Placement:
    """Return a fact, told again, with when it had begun before where its sender's clock was ahead of ours then."""
    if isinstance(fact, Admission) and isinstance(before, Admission):
        if before.said_us and before.said_us == (fact.said_us or fact.admitted_us):
            begun_us = min(before.admitted_us, fact.admitted_us)
            return msgspec.structs.replace(fact, admitted_us=begun_us, said_us=before.said_us)
    elif isinstance(fact, Placement) and isinstance(before, Placement):
        if before.said_us and before.said_us == (fact.said_us or fact.since_us):
            begun_us = min(before.since_us, fact.since_us)
            return msgspec.structs.replace(fact, since_us=begun_us, said_us=before.said_us)
    return fact


def known_as_before(fact: Admission | Placement, before: Admission | Placement) -> Admission | Placement:
    """Return a fact with when it was first known, where the same was told before: who says it again knew it then."""
    if not before.known_us or fact.known_us <= before.known_us:
        return fact
    as_before = msgspec.structs.replace(fact, known_us=before.known_us, told_us=before.told_us)
    return as_before if as_before == before else fact
