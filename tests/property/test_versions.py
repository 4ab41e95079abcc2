"""Any order of arrival of versions, corrections, tombstones and attributions gives the same views, now and for every T.

Through real Delta tables, real files and the real SQL, against a model in plain Python.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from governance.home import init_home
from governance.query.catalogue import Catalogue
from governance.query.engine import connect
from governance.samples import copy_samples
from vitalake.keys import load_keys
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import Table
from vitalake.settings import load_settings

pytestmark = pytest.mark.slow

START = datetime(2026, 3, 1, tzinfo=UTC)
HOURS = range(5)
"""When things could be known; and the moments that are asked for, one before and one after them too."""

STAGE = {
    None: -1, "registered": 0, "preliminary": 1, "final": 2, "unknown": 2, "amended": 3, "corrected": 3,
    "cancelled": 4, "entered-in-error": 5,
}  # fmt: skip


TOLD = (-2, 0, 0, 3)
"""When the messages that name no patient could be known."""


@dataclass(frozen=True)
class Fact:
    """A row as its message or its attribution makes it, whenever it comes to us.

    Of one message that names no patient there is a row each time its value changes hands: ``attribution`` is even where
    it is not this patient's any more.
    """

    thing: int
    version: int
    status: str | None
    value: float | None
    patient: str
    known: int | None
    attribution: int | None = None
    message: int = 0
    """Which message said it; asked of attributed values only."""

    @property
    def told(self) -> int | None:
        """When the message could be known, whoever's its value is."""
        return self.known if self.attribution is None else TOLD[self.message]

    def place(self) -> tuple[str, int]:
        """Return where its message lay: of one that names its patient (of one patient here) it does not matter."""
        return (f"vitals[{self.message % 2}]", self.message // 2)

    def row(self, arrival: int) -> dict[str, Any]:
        """Return the row as it is published; only the last four columns say when it came."""
        return {
            "observation_id": self.thing.to_bytes(16, "big"),
            "version": self.version,
            "patient_id": self.patient,
            "code": "8867-4",
            "value": self.value,
            "status": self.status,
            "effective_at": START,
            "available_at": None if self.known is None else START + timedelta(hours=self.known),
            "attribution": self.attribution,
            "told_at": None if self.attribution is None else START + timedelta(hours=TOLD[self.message]),
            "ingested_at": START + timedelta(days=9, seconds=arrival),
            "source": f"vitals[{arrival % 2}]" if self.attribution is None else self.place()[0],
            "source_position": arrival if self.attribution is None else self.place()[1],
        }

    def shown(self) -> tuple[Any, ...]:
        """Return what of it is compared: what it says, not how it came."""
        return (self.thing, self.version, self.patient, self.value, self.status, self.known, self.attribution)


# -- the model


def current(facts: Sequence[Fact], *, at: int | None = None) -> list[tuple[Any, ...]]:
    """Return what counts, by what could be known at a moment; None: by all."""
    known = [f for f in facts if at is None or (f.known is not None and f.known <= at)]
    found = []
    for thing in {fact.thing for fact in known}:
        mine = [fact for fact in known if fact.thing == thing]
        mine = [fact for fact in mine if fact.attribution is None] + _somebodys(mine)
        mine = [fact for fact in mine if fact.version == max(f.version for f in mine)]
        best = _best([fact for fact in mine if fact.attribution is None] or mine)
        if best is not None and best.status not in ("entered-in-error", "cancelled"):
            found.append(best.shown())
    return sorted(found, key=str)


def _somebodys(facts: list[Fact]) -> list[Fact]:
    """Of each message its latest knowledge, by when it could be had, then how much it was; none that is nobody's."""
    found = []
    for message in {(fact.version, fact.message) for fact in facts if fact.attribution is not None}:
        mine = [fact for fact in facts if (fact.version, fact.message) == message and fact.attribution is not None]
        latest = max(map(_knowledge, mine))
        if latest[1] % 2:
            found.append(min((fact for fact in mine if _knowledge(fact) == latest), key=_said))
    return found


def _knowledge(fact: Fact) -> tuple[int, int]:
    return (-1 if fact.known is None else fact.known, fact.attribution or 0)


def _best(facts: list[Fact]) -> Fact | None:
    """The latest stage; of corrections the last one told, of anything else the first; then whatever says less."""
    if not facts:
        return None
    stage = max(STAGE[fact.status] for fact in facts)
    facts = [fact for fact in facts if STAGE[fact.status] == stage]
    if stage == STAGE["amended"]:
        last = max((fact.told for fact in facts if fact.told is not None), default=None)
        facts = [fact for fact in facts if fact.told == last]
    first = min((fact.told for fact in facts if fact.told is not None), default=None)
    facts = [fact for fact in facts if fact.told == first]
    return min(facts, key=_said)


def _said(fact: Fact) -> tuple[object, ...]:
    return (fact.value is None, fact.value or 0, fact.status or "~", fact.known, *fact.place(), fact.patient)


# -- facts


KNOWN = st.none() | st.sampled_from(HOURS)
MESSAGE = st.builds(
    Fact,
    thing=st.integers(0, 2),
    version=st.integers(0, 2),
    status=st.sampled_from([*STAGE]),
    value=st.none() | st.sampled_from([70.0, 71.0]),
    patient=st.just("p"),
    known=KNOWN,
)
ATTRIBUTED = st.builds(
    Fact,
    thing=st.integers(0, 2),
    version=st.integers(0, 2),
    status=st.sampled_from(["preliminary", "final", "amended", "entered-in-error"]),
    value=st.none() | st.sampled_from([70.0, 71.0]),
    patient=st.sampled_from(["p", "q"]),
    known=st.sampled_from(HOURS),
    attribution=st.integers(0, 5),
    message=st.integers(0, len(TOLD) - 1),
)
ORDINARY = Fact(0, 1, "final", 70.0, "p", 1)
DEVICE = [
    replace(ORDINARY, attribution=3, known=1),
    replace(ORDINARY, attribution=4, known=2, status="entered-in-error"),
    replace(ORDINARY, attribution=7, known=3, patient="q"),
    replace(ORDINARY, attribution=6, known=3, status="entered-in-error"),
]
"""A device's value: one patient's, nobody's, then another's."""

EARLIER = [replace(fact, status="preliminary", value=71.0, message=3) for fact in DEVICE[2:3]]
"""An earlier stage of it, which comes when it is the other one's already."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home; its lake is made anew for each example."""
    folder = tmp_path_factory.mktemp("versions") / "home"
    init_home(folder, copy_samples)
    return folder


def shown(place: Path, commits: Sequence[Sequence[Fact]], *, merged: bool) -> dict[int | None, list[tuple[Any, ...]]]:
    """Return what the SQL shows of rows that came in these commits: current (None), and as known at each hour."""
    shutil.rmtree(place / "lake", ignore_errors=True)
    settings = load_settings(place)
    dataset = load_dataset("observation")
    table = Table(dataset, open_storage(settings.lake_uri, {}), zone="published")
    arrival = 0
    for number, facts in enumerate(commits):
        rows = [fact.row(arrival + i) for i, fact in enumerate(facts)]
        arrival += len(rows)
        staged = table.stage(pa.Table.from_pylist(rows, schema=dataset.schema), stem=f"s{number}")
        table.commit(add=staged, transactions={"test": number})
        table.refresh()
    if merged:
        compact(table, min_files=2)
    catalogue = Catalogue(settings, load_keys(settings.path(settings.keys)))
    with catalogue.relations(["observation"]) as relations:
        connection = connect(relations, memory_mb=256)
        found: dict[int | None, list[tuple[Any, ...]]] = {None: _rows(connection, "observation")}
        for hour in (-1, *HOURS, HOURS.stop):
            moment = (START + timedelta(hours=hour)).isoformat()
            found[hour] = _rows(connection, f"observation_as_known_at('{moment}')")
        connection.close()
    return found


def _rows(connection: Any, source: str) -> list[tuple[Any, ...]]:
    columns = "observation_id, version, patient_id, value, status, available_at, attribution"
    rows = connection.sql(f"SELECT {columns} FROM {source}").fetchall()  # noqa: S608
    return sorted((_shown(*row) for row in rows), key=str)


def _shown(thing: bytes, *said: Any) -> tuple[Any, ...]:
    *others, known, attribution = said
    hours = None if known is None else round((known - START).total_seconds() / 3600)
    return (int.from_bytes(thing), *others, hours, attribution)


@st.composite
def arrivals(draw: st.DrawFn) -> list[list[Fact]]:
    """Facts in some order, cut into commits; some come twice, as history and replay bring them."""
    facts = draw(st.lists(MESSAGE | ATTRIBUTED, min_size=1, max_size=14))
    again = draw(st.lists(st.sampled_from(facts), max_size=3))
    mixed = draw(st.permutations([*facts, *again]))
    cuts = sorted(draw(st.lists(st.integers(0, len(mixed)), max_size=3)))
    bounds = [0, *cuts, len(mixed)]
    return [mixed[a:b] for a, b in pairwise(bounds) if a < b]


@given(commits=arrivals(), merged=st.booleans())
@example(commits=[[replace(ORDINARY, version=2, value=71.0), ORDINARY]], merged=False)
@example(commits=[[ORDINARY, replace(ORDINARY, status="entered-in-error", value=None, known=3)]], merged=False)
@example(commits=[DEVICE[:2], DEVICE[2:]], merged=False)
@example(commits=[DEVICE, EARLIER], merged=False)
def test_any_order_of_arrival_gives_the_same_views_for_every_moment(
    place: Path, commits: list[list[Fact]], merged: bool
) -> None:
    facts = [fact for commit in commits for fact in commit]
    found = shown(place, commits, merged=merged)
    assert found[None] == current(facts)
    for hour in (-1, *HOURS, HOURS.stop):
        assert found[hour] == current(facts, at=hour), f"as known at {hour}"
    assert found[-1] == []
    if all(fact.known is not None for fact in facts):
        assert found[HOURS.stop] == found[None]


@given(commits=arrivals(), later=st.lists(MESSAGE | ATTRIBUTED, min_size=1, max_size=4), hour=st.sampled_from(HOURS))
def test_what_becomes_known_later_never_changes_what_was_known(
    place: Path, commits: list[list[Fact]], later: list[Fact], hour: int
) -> None:
    unseen = [replace(fact, known=HOURS.stop) for fact in later]
    assert shown(place, [*commits, unseen], merged=False)[hour] == shown(place, commits, merged=False)[hour]
