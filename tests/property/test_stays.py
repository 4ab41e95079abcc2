"""Who is on the board is told by a plain model of stays, whatever arrived first, and whenever the store was pruned."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from pipelines.online_store.facts import Admission, Decision, Fact, Placement, Pregnancy
from pipelines.online_store.store import OnlineStore
from vitalake import clock
from vitalake.keys import Key
from vitalake.sealing import Sealer

HOUR, KEPT = 3_600_000_000, 54
LONGEST = 160


@dataclass(frozen=True)
class Told:
    """What is told of a stay: ``bed``, ``leaves`` (a bed, for nowhere), ``ends``, ``goes on`` (no end until then was
    one), or ``record`` (its own, with an end).

    Attributes:
        ago: hours before now.
        until: hours before now when the record says that it ended; None: it is open.
    """

    stay: str
    what: str
    ago: int
    bed: str = ""
    until: int | None = None

    @property
    def ends_it(self) -> bool:
        """Whether it says that the stay is over."""
        return self.what == "ends" or (self.what == "record" and self.until is not None)

    def is_left_out(self, told: Sequence[Told]) -> bool:
        """Return whether it is too old to be stored, and ends nothing that is there."""
        is_past = self.what == "record" and self.until is not None and min(self.until, self.ago) >= KEPT
        return is_past and all(one.stay != self.stay or one == self for one in told)

    def taken_back(self, now: int, number: int) -> list[tuple[str, str, int, Fact]]:
        """Return what the store is given when its end was none after all."""
        ((patient, key, _, fact),) = self.facts(now, number)
        changes = {"status": "entered-in-error"} if self.what == "ends" else {"discharged_us": None}
        return [(patient, key, 2, structs.replace(fact, **changes))]

    def facts(self, now: int, number: int) -> list[tuple[str, str, int, Fact]]:
        """Return what the store is given."""
        at = now - self.ago * HOUR
        if self.what == "record":
            end = None if self.until is None else now - min(self.until, self.ago) * HOUR
            return [("v1.p", self.stay, 1, Admission(at, end, 70))]
        if self.what == "goes on":
            return [("v1.p", f"{number}", 1, Placement(self.stay, at, None, "", "active", discharged=True))]
        status = "active" if self.what == "bed" else "ended"
        bed = f"bed:W//{self.bed}"
        return [("v1.p", f"{number}", 1, Placement(self.stay, at, None, bed, status, self.what == "ends"))]


def _bounds(told: Sequence[Told], stay: str) -> tuple[int | None, int | None]:
    """Return hours ago of the last beginning and the last end of a stay."""
    mine = [one for one in told if one.stay == stay]
    begun = [one.ago for one in mine if one.what in ("bed", "leaves") or (one.what == "record" and one.until is None)]
    goes_on = min((one.ago for one in mine if one.what == "goes on"), default=LONGEST + 1)
    ends = [one.ago for one in mine if one.what == "ends" and one.ago < goes_on]
    ends += [min(one.until, one.ago) for one in mine if one.what == "record" and one.until is not None]
    return min(begun, default=None), min(ends, default=None)


def _is_open(told: Sequence[Told], stay: str) -> bool:
    begun, end = _bounds(told, stay)
    return begun is not None and (end is None or begun < end)


def _hospital_stays(told: Sequence[Told]) -> list[tuple[set[str], set[int]]]:
    """Return the names and the hours of what is one hospital stay: its stays share an hour; -1: it is open."""
    found: list[tuple[set[str], set[int]]] = []
    for stay in NAMES:
        mine = [one for one in told if one.stay == stay]
        goes_on = min((one.ago for one in mine if one.what == "goes on"), default=LONGEST + 1)
        mine = [one for one in mine if one.what != "goes on" and (one.what != "ends" or one.ago < goes_on)]
        if not mine:
            continue
        moves = [one.ago for one in mine if one.what != "ends"]
        begin = next((one.ago for one in mine if one.what == "record"), max(moves or [one.ago for one in mine]))
        end = -1 if _is_open(told, stay) else _bounds(told, stay)[1] or 0
        names, hours = {stay}, {*range(end, begin + 1)}
        for one in [one for one in found if one[1] & hours]:
            found.remove(one)
            names, hours = names | one[0], hours | one[1]
        found.append((names, hours))
    return found


def _holds(told: Sequence[Told], decided: tuple[str, int], stay: str) -> bool:
    """Return whether what was decided for a stay, so many hours ago, is of another one."""
    said, at = decided
    stays = _hospital_stays(told)
    names, hours = next(one for one in stays if stay in one[0])
    if said in names or at in hours - {min(hours)}:
        return True
    return not said and not any(at >= min(one[1]) >= max(hours) for one in stays if one[1] != hours)


def _bed(told: Sequence[Told]) -> str:
    held = []
    for one in told:
        _, end = _bounds(told, one.stay)
        after = [two for two in told if (two.stay, two.bed) == (one.stay, one.bed) and two.what == "leaves"]
        left = any(two.ago <= one.ago for two in after)
        if one.what == "bed" and not left and (end is None or one.ago < end):
            held.append((-one.ago, one.bed))
    return max(held, default=(0, ""))[1]


def _take_back(store: OnlineStore, told: Sequence[Told], decided: str, now: int) -> None:
    """Take all ends back, and look whether each stay that had one is there with its bed and its decision."""
    for number, one in enumerate(told):
        if one.ends_it:
            store.put_facts(one.taken_back(now, number))
    had = {one.stay for one in told if one.ends_it and not one.is_left_out(told)}
    goes_on = [replace(one, until=None) for one in told if one.what != "ends"]
    open_ = [name for name in NAMES if _is_open(goes_on, name)]
    found = store.facts.stay("v1.p", as_of_us=now)
    if not had.isdisjoint(open_):
        assert found is not None and found.discharged_us is None
        assert decided not in had or "pregnancy" in store.facts.decisions("v1.p", encounter=decided)
    if had.issuperset(open_):
        assert (found.bed if found else "") == _bed(goes_on)


NAMES = ("E", "D", "V")
AGO, BEDS = st.integers(1, LONGEST), st.sampled_from(["A", "B"])
EVENTS = st.lists(
    st.one_of(
        st.builds(Told, st.sampled_from(NAMES), st.sampled_from(["bed", "leaves", "ends", "goes on"]), AGO, BEDS),
        st.builds(Told, st.sampled_from(["E", "D"]), st.just("record"), AGO, until=st.one_of(st.none(), AGO)),
    ),
    min_size=1,
    max_size=7,
    unique_by=lambda one: (one.stay, "record") if one.what == "record" else one,
)


@settings(max_examples=60)
@given(
    told=EVENTS, decided=st.tuples(st.sampled_from(["", *NAMES]), AGO), known=st.sampled_from([0, KEPT + LONGEST + 1])
)
@example(told=[Told("E", "record", 150, until=60), Told("E", "bed", 150, "A")], decided=("E", 100), known=0)
@example(
    told=[Told("E", "record", 9), Told("V", "bed", 150, "A"), Told("V", "ends", 109, "A")], decided=("V", 120), known=0
)
@example(
    told=[Told("V", "bed", 20, "A"), Told("V", "leaves", 10, "A"), Told("E", "record", 11, until=9)],
    decided=("V", 12), known=0,
)  # fmt: skip
@example(
    told=[*(Told("V", what, ago, "A") for what, ago in (("ends", 10), ("bed", 8), ("leaves", 7)))],
    decided=("", 12), known=0,
)  # fmt: skip
@example(told=[Told("E", "ends", 5, "A"), Told("V", "bed", 5, "A")], decided=("E", 6), known=0)
@example(told=[Told("E", "ends", 1, "A")], decided=("", 1), known=KEPT + LONGEST + 1)
@example(
    told=[Told("E", "record", 99), Told("D", "record", 98, until=9), Told("V", "bed", 8, "A")],
    decided=("D", 12), known=0,
)  # fmt: skip
@example(told=[Told("D", "record", 98, until=9), Told("V", "bed", 9, "A")], decided=("D", 12), known=0)
@example(told=[Told("D", "record", 98, until=9), Told("V", "bed", 8, "A")], decided=("D", 12), known=0)
@example(told=[Told("D", "record", 98, until=9), Told("V", "bed", 8, "A")], decided=("D", 7), known=0)
def test_a_patient_is_there_while_a_stay_is_open_and_pruning_changes_nothing(
    told: list[Told], decided: tuple[str, int], known: int
) -> None:
    """Pruned ends brought the discharged back, and the end of another stay took inpatients away.

    All was told so many hours ago (known); of what was told just now each end is taken back after the pruning.
    """
    now = clock.now_us()
    decision = Decision("pregnancy", True, decided[0], "somebody", now - decided[1] * HOUR, "test-or-scan")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(OnlineStore(Path(folder) / "care.db", Sealer(Key("care", "v1", bytes(32))), hours=KEPT)) as store,
    ):
        # A record that is too old ends what is there, and is not kept for what may come.
        told = sorted(told, key=lambda one: (one.until or 0) >= KEPT)
        with patch.object(clock, "now_us", lambda: now - known * HOUR):
            for number, one in enumerate(told):
                store.put_facts(one.facts(now, number))
            store.put_facts(
                [("v1.p", decision.kind, 1, decision), ("v1.p", decided[0], 1, Pregnancy(decided[0], now - HOUR))]
            )
        before = store.facts.stay("v1.p", as_of_us=now)
        open_ = [name for name in NAMES if _is_open(told, name)]
        assert (before is not None and before.discharged_us is None) == bool(open_)
        if before is not None and open_:
            assert before.encounter in open_
            assert before.bed == _bed(told)
            stored = [one for one in told if known or not one.is_left_out(told)]
            holds = _holds(stored, decided, before.encounter)
            assert ("pregnancy" in store.facts.decisions("v1.p", encounter=before.encounter)) == holds
            of = next(names for names, _ in _hospital_stays(stored) if before.encounter in names)
            assert before.pregnant == (decided[0] in {*of, ""})
        decisions = store.facts.decisions("v1.p", encounter=before.encounter if before else "")
        store.prune()
        after = store.facts.stay("v1.p", as_of_us=now)
        if before is not None and open_:
            lately = any(one.ago < KEPT for one in told if one.stay == before.encounter)
            recorded = any(one.what == "record" and one.until is None for one in told if one.stay == before.encounter)
            if before.bed or lately or recorded:  # else nobody tells where they are for longer than the store keeps
                assert after == before
                assert store.facts.decisions("v1.p", encounter=before.encounter) == decisions
        else:
            assert after is None or after.discharged_us is not None, "who has gone does not come back"
        if not known:
            _take_back(store, told, decided[0], now)
        if not known or open_:
            return
        kept = store.patients.has("v1.p")
        store.put_facts([("v1.p", "next", 1, Admission(now - HOUR // 2, None, 70))])
        found = store.facts.stay("v1.p", as_of_us=now)
        assert found is not None
        assert (found.encounter, found.bed) == ("next", "")
        assert found.pregnant == (kept and not decided[0]), "a diagnosis that names no stay is the patient's"
        if told_of := [end for name in NAMES if (end := _bounds(told, name)[1]) is not None]:
            lapsed = bool(decided[0]) or decided[1] >= min(told_of)
            assert not lapsed or store.facts.decisions("v1.p", encounter="next") == {}
