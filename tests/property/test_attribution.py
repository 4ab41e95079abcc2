"""Facts, values and repairs in any order: every view, at every time, says what was known of whose a value is."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.query.relations import Relation, as_known_at_name, portable_sql, views
from pipelines.attribution.histories import FORGOTTEN, NOBODY, SEVERAL, Histories
from pipelines.attribution.ownership_rows import OwnershipRow, ownership_rows, seen_from
from pipelines.attribution.timeline import OPEN_END, Fact, Owner, Step, distinct, resolve, steps_at

TIMES = st.integers(0, 12)
OWNERS = st.builds(Owner, st.sampled_from(["a", "b", "c"]), st.sampled_from(["1", "2", None]))


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    """A version of one of a few associations of one device, or a merge of its owners, on a short axis of time."""
    begin = draw(TIMES)
    merge = draw(st.integers(0, 5)) == 0
    return Fact(
        association=draw(st.sampled_from([b"m", b"n"] if merge else [b"w", b"x", b"y", b"z"])),
        version=draw(st.integers(0, 1)),  # a sender who counts none corrects what it said under the same one
        owner=draw(OWNERS),
        valid_from=begin,
        valid_to=draw(st.one_of(st.just(OPEN_END), st.integers(begin, 14))),
        status=draw(st.sampled_from(["active", "active", "active", "ended", "entered-in-error"])),
        available_us=draw(TIMES),
        merged=draw(st.sampled_from(["a", "b"])) if merge else None,
    )


HISTORIES = st.lists(facts(), max_size=7)


@dataclass
class Written:
    """What was written of one version of an observation, and the view's rule for it."""

    at: int
    available: int
    rows: list[OwnershipRow] = field(default_factory=list)

    def write(self, known: list[Fact], *, seen: list[OwnershipRow] | None = None) -> None:
        """Write what is missing by what a writer knows; a lane has seen nothing of it."""
        known = distinct(known)
        steps = steps_at(known, self.at)
        before = self.rows if seen is None else seen
        self.rows = self.rows + ownership_rows(steps, self.available, facts=len(known), written=before)

    def shown(self, known_us: int) -> Owner | None:
        """Return whose row the view shows as known at a time."""
        rows = [row for row in self.rows if row.available_us <= known_us]
        row = max(rows, key=lambda row: (row.available_us, row.attribution), default=None)
        return None if row is None or row.withdrawn else row.owner


def shows(written: Written, known: list[Fact]) -> None:
    """Assert that the view is right at every time."""
    for moment in range(-1, 20):
        expected = resolve(distinct(known), written.at, moment) if moment >= written.available else None
        assert written.shown(moment) == expected, moment
        latest: dict[str | None, OwnershipRow] = {}
        for row in sorted(written.rows, key=lambda row: (row.available_us, row.attribution)):
            if row.available_us <= moment:
                latest[row.owner.patient] = row
        named = {patient for patient, row in latest.items() if not row.withdrawn}
        assert named == ({expected.patient} if expected else set()), "of each patient's own rows"


@given(st.lists(facts(), max_size=12), TIMES)
def test_the_fast_way_says_what_the_plain_one_says(known: list[Fact], at: int) -> None:
    known = distinct(known)
    steps = steps_at(known, at)
    for moment in range(-1, 16):
        owner = next((step.owner for step in reversed(steps) if step.since_us <= moment), None)
        assert owner == resolve(known, at, moment)
    assert all(one.owner != other.owner for one, other in pairwise(steps))


@given(HISTORIES, st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_views(
    known: list[Fact], values: list[tuple[int, int]], chance: random.Random
) -> None:
    arrivals: list[Fact | Written] = [*known, *(Written(at, available) for at, available in values)]
    chance.shuffle(arrivals)
    there: list[Fact] = []
    written: list[Written] = []
    for arrival in arrivals:
        if isinstance(arrival, Fact):
            there.append(arrival)
        else:  # a lane may know less than is there
            arrival.write(there[: chance.randint(0, len(there))], seen=[])
            written.append(arrival)
        if chance.random() < 0.4:
            for value in written:
                value.write(there)
        if written and chance.random() < 0.2:  # a re-sent message, which the lane does not recognise
            chance.choice(written).write(there[: chance.randint(0, len(there))], seen=[])
    for value in written:
        value.write(there)
        shows(value, there)


@given(HISTORIES, TIMES, TIMES)
def test_what_is_written_at_once_says_by_its_numbers_alone_what_came_later(
    known: list[Fact], at: int, available: int
) -> None:
    """Two moments of one second are published as one: then the numbers alone say whose the value is."""
    rows = ownership_rows(steps_at(distinct(known), at), available, facts=len(distinct(known)))
    assert rows == sorted(rows, key=lambda row: (row.attribution, row.available_us))
    last = max(rows, key=lambda row: row.attribution, default=None)
    assert (last.owner if last and not last.withdrawn else None) == resolve(distinct(known), at, 99)


@given(HISTORIES, TIMES, TIMES)
def test_what_is_right_is_left_alone(known: list[Fact], at: int, available: int) -> None:
    value = Written(at, available)
    value.write(known)
    before = list(value.rows)
    value.write(known)
    assert value.rows == before
    value.write(known[: len(known) // 2], seen=[])
    value.write(known)
    shows(value, known)


@given(st.lists(HISTORIES, min_size=1, max_size=4), st.data())
def test_many_rows_at_once_find_what_one_finds(devices: list[list[Fact]], data: st.DataObject) -> None:
    histories = Histories()
    for number, known in enumerate(devices):
        histories.put(b"d%d" % number, known[:1])
        histories.put(b"d%d" % number, known)
    rows = data.draw(st.lists(st.tuples(st.integers(-1, len(devices) - 1), TIMES, TIMES), max_size=30))
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    owners, from_when = histories.find(*columns)
    for owner, from_us, (device, moment, since) in zip(owners.tolist(), from_when.tolist(), rows, strict=True):
        known = distinct(devices[device]) if device >= 0 else []
        seen = list(seen_from(steps_at(known, moment), since))
        if owner == SEVERAL:
            assert len(seen) > 1 or not seen or seen[0].since_us > since
            assert histories.steps(device, moment) == steps_at(known, moment)
        elif owner == NOBODY:
            assert not seen
        else:
            assert seen == [Step(from_us, histories.owners[owner])]


def test_a_forgotten_patient_is_nobody_to_be_named() -> None:
    histories = Histories()
    number = histories.put(b"d", [Fact(b"x", 0, Owner(None), 0, OPEN_END, status="active", available_us=0)])
    assert histories.find(np.array([number]), np.array([5]), np.array([5]))[0].tolist() == [FORGOTTEN]
    steps = (Step(0, Owner(None)),)
    assert ownership_rows(steps, 5, facts=1) == []
    shown = OwnershipRow(Owner("a"), 5, 3, withdrawn=False)
    assert [row.withdrawn for row in ownership_rows(steps, 5, facts=1, written=[shown])] == [True]


def test_an_owner_is_never_printed() -> None:
    assert "MRN-MARKER" not in repr([Fact(b"x", 0, Owner("MRN-MARKER", "V-1"), 0, 1, status="active", available_us=0)])


# -- the views themselves ----------------------------------------------------------------------------------------

COLUMNS = {
    "observation_id": "BLOB", "version": "BIGINT", "patient_id": "VARCHAR", "encounter_id": "VARCHAR",
    "status": "VARCHAR", "value": "DOUBLE", "available_at": "TIMESTAMPTZ", "attribution": "BIGINT",
    "ingested_at": "TIMESTAMPTZ", "source": "VARCHAR", "source_position": "BIGINT", "told_at": "TIMESTAMPTZ",
}  # fmt: skip
START = datetime(2026, 3, 1, tzinfo=UTC)


STAGE = {"preliminary": 0, "final": 1, "corrected": 2}


@dataclass(frozen=True)
class Message:
    """A message of one observation whose device names no patient.

    Attributes:
        version: as its sender counts; 0 in all of them where it does not.
        status: how far the value has come.
        told: when it could be known.
    """

    version: int
    status: str
    told: int

    def counts(self) -> tuple[int, int, int]:
        """Return what is highest of the message that counts: of corrections the last one, else the first one."""
        return (self.version, STAGE[self.status], self.told if self.status == "corrected" else -self.told)


MESSAGES = st.lists(
    st.builds(Message, st.integers(0, 1), st.sampled_from([*STAGE]), TIMES), min_size=1, max_size=4, unique=True
)


def stored(values: dict[Message, Written], order: random.Random) -> pa.Table:
    """Return what was written of the messages of one observation as a table, in any order."""
    rows = [
        {
            "observation_id": b"o",
            "version": message.version,
            "patient_id": row.owner.patient,
            "encounter_id": row.owner.encounter,
            "status": "entered-in-error" if row.withdrawn else message.status,
            "value": None if row.withdrawn else float(position),
            "available_at": START + timedelta(hours=row.available_us),
            "attribution": row.attribution,
            "told_at": START + timedelta(hours=message.told),
            "ingested_at": START + timedelta(days=9, seconds=order.randrange(9)),
            "source": "vitals[0]",
            "source_position": position,
        }
        for position, (message, value) in enumerate(values.items())
        for row in value.rows
    ]
    order.shuffle(rows)
    types = {"BLOB": pa.binary(), "BIGINT": pa.int64(), "VARCHAR": pa.string(), "DOUBLE": pa.float64()}
    moment = pa.timestamp("us", "UTC")
    return pa.Table.from_pylist(rows, pa.schema([(n, types.get(kind, moment)) for n, kind in COLUMNS.items()]))


@pytest.mark.slow
@settings(max_examples=40)
@given(known=HISTORIES, at=TIMES, messages=MESSAGES, chance=st.randoms(use_true_random=False))
def test_the_sql_of_the_views_says_it_too(
    tmp_path_factory: pytest.TempPathFactory,
    known: list[Fact],
    at: int,
    messages: list[Message],
    chance: random.Random,
) -> None:
    values = {message: Written(at, message.told) for message in messages}
    arrivals: list[Fact | Message] = [*known, *messages]
    chance.shuffle(arrivals)
    there: list[Fact] = []
    told: list[Written] = []
    for arrival in arrivals:
        if isinstance(arrival, Fact):
            there.append(arrival)
        else:
            values[arrival].write(there[: chance.randint(0, len(there))], seen=[])
            told.append(values[arrival])
        if chance.random() < 0.5:
            for value in told:
                value.write(there)
    for value in values.values():
        value.write(there)
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(stored(values, chance), path)
    relation = Relation("observation", COLUMNS, ("observation_id",), (str(path),))
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        for statement in views(relation):
            database.execute(statement)
        for moment in range(-1, 16):
            seen = [message for message in messages if message.told <= moment]
            owner = resolve(distinct(known), at, moment) if seen else None
            text = (START + timedelta(hours=moment)).isoformat()
            query = f"SELECT patient_id, encounter_id, value FROM {as_known_at_name('observation')}('{text}')"  # noqa: S608
            expected = []
            if owner is not None:
                value_of = float(messages.index(max(seen, key=Message.counts)))
                expected = [(owner.patient, owner.encounter, value_of)]
            assert database.execute(query).fetchall() == expected, moment
        assert database.execute("SELECT patient_id, encounter_id, value FROM observation").fetchall() == expected
        for_others = f"SELECT patient_id, encounter_id, value FROM ({portable_sql(relation)})"  # noqa: S608
        assert database.execute(for_others).fetchall() == expected
