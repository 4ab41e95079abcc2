"""Devices that know only their bed, on a real broker, with real lanes: no value ends with the wrong patient."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import msgspec
import pytest
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from pipelines.core.open_letters import census
from pipelines.history.load import load_history
from pipelines.reconcile.reconciler import DATASET, KIND
from tests import forking
from tests.attribution import Ward, hl7_time, pid, pv1
from tests.hl7 import adt
from tests.services.lane import LaneUnderTest
from tests.services.waiting import until
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.maintenance.verify import verify

HELD = "quarantine/held"
KILLED = -signal.SIGKILL
EVERYBODY = ("A", "B", "C")

LANE_POINTS = ["masked:3", "staged", "decided", "before-add", "added-one"]
ATTRIBUTOR_POINTS = ["decode", "masked", "masked:2", "staged", "before-decide", "decided", "before-add", "added-one"]


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane on an empty topic."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_rows=40, poll_messages=20, span_seconds=0.2)
    lane.create_topic()
    return lane


@pytest.fixture
def ward(lane: LaneUnderTest) -> Ward:
    """The same home, to say whose beds are, and to see whose values are."""
    return Ward(lane.home)


def attribute(ward: Ward, *, env: dict[str, str] | None = None) -> int:
    """Let an attributor of its own process look once; return how it ended."""
    command = forking.command("pipelines.reconcile.sidecar", str(ward.home / "vitalake.yaml"), "--once")
    done = subprocess.run(command, env=os.environ | (env or {}), capture_output=True, timeout=90, check=False)
    assert done.returncode in (0, KILLED), done.stderr.decode()[-2000:]
    return done.returncode


def balanced(ward: Ward) -> None:
    """Assert that the ledger balances, that every message was counted once, and that nothing is lost or doubled."""
    lake = ward.lake
    assert summarise(lake.spans).to_json()["balanced"] is True
    assert verify(lake) == []


def shows(ward: Ward, patients: tuple[str, ...], expected: dict[int, str]) -> bool:
    """Return whether all zones show this; while something is under way they need not show the same."""
    try:
        return ward.everywhere(patients) == expected
    except AssertionError:
        return False


def places(ward: Ward) -> list[tuple[str, int]]:
    """Return the places of the messages whose values are somebody's, once for each value that counts."""
    rows = [row for row in ward.restricted().to_pylist() if row["attribution"] % 2]
    latest = {}
    for row in sorted(rows, key=lambda row: (row["available_at"], row["attribution"])):
        latest[row["observation_id"]] = (row["source"], row["source_position"])
    return sorted(latest.values())


# -- killed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", LANE_POINTS)
def test_a_lane_that_was_killed_before_it_decided_knows_more_when_it_comes_back(
    lane: LaneUnderTest, ward: Ward, point: str
) -> None:
    ward.associate("bed-1", "A", 0)
    lane.send(ward.bed(second) for second in range(100))
    lane.run(expect=KILLED, env={"VITALAKE_CRASH_AT": point})
    ward.associate("bed-1", "B", 30, 60)
    lane.run()
    attribute(ward)
    whose = {second: "B" if 30 <= second < 60 else "A" for second in range(100)}
    assert ward.everywhere(EVERYBODY) == whose
    assert len(places(ward)) == len(set(places(ward))) == 100
    balanced(ward)


def test_what_was_somebodys_is_nobodys_when_it_is_read_again(lane: LaneUnderTest, ward: Ward) -> None:
    ward.associate("bed-1", "A", 0)
    lane.send(ward.bed(second) for second in range(20))
    lane.run(expect=KILLED, env={"VITALAKE_CRASH_AT": "staged"})
    ward.associate("bed-1", "A", 0, mistake=True)
    lane.run()
    assert ward.everywhere(EVERYBODY) == {}
    ward.associate("bed-1", "B", 0)
    attribute(ward)
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(20), "B")
    assert census(ward.lake, HELD).open == 0
    balanced(ward)


@pytest.mark.parametrize("point", ATTRIBUTOR_POINTS)
def test_an_attributor_killed_anywhere_loses_and_doubles_nothing(lane: LaneUnderTest, ward: Ward, point: str) -> None:
    ward.associate("bed-1", "A", 0, 40)
    lane.send(ward.bed(second) for second in range(60))  # the last twenty are nobody's yet
    lane.run()
    assert census(ward.lake, HELD).open == 20
    ward.associate("bed-1", "B", 20, 50)
    assert attribute(ward, env={"VITALAKE_CRASH_AT": point}) == KILLED
    ward.associate("bed-1", "C", 30)  # what is known has changed when it comes back
    attribute(ward)
    whose = {second: "A" if second < 20 else "B" if second < 30 else "C" for second in range(60)}
    assert ward.everywhere(EVERYBODY) == whose
    assert len(places(ward)) == len(set(places(ward))) == 60
    assert census(ward.lake, HELD).open == 0
    balanced(ward)


def test_what_a_killed_attributor_has_told_the_care_store_is_taken_back_though_nothing_is_left_to_do(
    lane: LaneUnderTest, ward: Ward
) -> None:
    ward.associate("bed-1", "A", 0)
    lane.send(ward.bed(second) for second in range(10))
    lane.run()
    ward.associate("bed-1", "B", 5)
    assert attribute(ward, env={"VITALAKE_CRASH_AT": "masked"}) == KILLED
    ward.associate("bed-1", "B", 5, mistake=True)
    attribute(ward)
    assert ward.everywhere(EVERYBODY) == dict.fromkeys(range(10), "A")


def test_seeded_random_moves_corrections_and_kills(lane: LaneUnderTest, ward: Ward) -> None:
    """Two beds, three patients, everything said late, some of it wrong, everybody killed now and then."""
    chance = random.Random(11)
    said: dict[tuple[str, int], str | None] = {}

    def owner(bed: str, second: int) -> str | None:
        begins = [begin for (name, begin), who in said.items() if name == bed and who and begin <= second]
        return said[bed, max(begins)] if begins else None

    for _ in range(5):
        for _ in range(3):
            number, who = chance.randrange(2), chance.choice("ABC")
            bed, begin = f"bed-{number + 1}", number * 100 + chance.randrange(0, 60, 10)
            mistake = chance.random() < 0.2
            said[bed, begin] = None if mistake else who
            ward.associate(bed, who, begin, mistake=mistake)
        first = lane.sent // 2
        lane.send(ward.bed(first + i // 2 + (i % 2) * 100, f"bed-{i % 2 + 1}") for i in range(24))
        point = chance.choice([None, "masked", "staged", "decided"])
        if point:
            lane.run(expect=KILLED, env={"VITALAKE_CRASH_AT": point})
        attribute(ward, env={"VITALAKE_CRASH_AT": chance.choice(["masked", "staged", "decided", "never"])})
        lane.run()
    attribute(ward)
    expected = {second: owner("bed-1", second) for second in range(60)}
    expected |= {second: owner("bed-2", second) for second in range(100, 160)}
    assert ward.everywhere(EVERYBODY) == {second: who for second, who in expected.items() if who}
    assert census(ward.lake, HELD).open == sum(who is None for who in expected.values())
    balanced(ward)


# -- beside the stream -------------------------------------------------------------------------------------------


@contextmanager
def _stream(lane: LaneUnderTest, job: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``vitalake stream`` for a job, and stop it as Ctrl-C does."""
    command = [sys.executable, "-m", "vitalake", "stream", "--home", str(lane.home), "--no-view", "--json"]
    process = subprocess.Popen([*command, "--job", job], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        process.kill()


def test_held_values_come_back_by_themselves_while_streams_run(lane: LaneUnderTest, ward: Ward) -> None:
    """Monitors and admissions on two topics: patients are moved, told late, and merged, while everything runs."""
    feed = f"{lane.topic}-adt"
    path = lane.home / "vitalake.yaml"
    document = yaml.safe_load(path.read_text())
    document["jobs"]["vitals"]["topics"] = {lane.topic: "hl7-v2"}
    document["jobs"]["adt"] = {"topics": {feed: "hl7-v2"}, "dataset": "device_association", "span_seconds": 0.2}
    path.write_text(yaml.safe_dump(document))
    admin = AdminClient({"bootstrap.servers": lane.bootstrap})
    for future in admin.create_topics([NewTopic(feed, 1, 1)]).values():
        future.result(20)

    def tell(*messages: bytes) -> None:
        producer = Producer({"bootstrap.servers": lane.bootstrap})
        for payload in messages:
            producer.produce(feed, payload)
        assert producer.flush(30) == 0

    patients = ("HOSP|11", "HOSP|12", "HOSP|13")
    one, two = "ICU^1^2", "ICU^1^3"
    told = {second: hl7_time(ward.at(second)) for second in range(120)}
    with _stream(lane, "vitals") as vitals, _stream(lane, "adt") as admissions:
        lane.send(ward.oru(second, one) for second in range(20))
        until(lambda: ward.lake.storage.holds_table(HELD) and census(ward.lake, HELD).open == 20, process=vitals)
        tell(adt("A01", pid("11"), pv1(one, visit="V-1", began=ward.at(0)), at=told[0]))
        until(lambda: census(ward.lake, HELD).open == 0, process=admissions)
        until(lambda: shows(ward, patients, dict.fromkeys(range(20), "HOSP|11")), process=vitals)
        tell(
            adt("A02", pid("11"), pv1(two, one, visit="V-1"), at=told[10]),
            adt("A01", pid("12"), pv1(one, visit="V-2", began=ward.at(10)), at=told[10]),
        )
        moved = {second: "HOSP|11" if second < 10 else "HOSP|12" for second in range(20)}
        until(lambda: shows(ward, patients, moved), process=vitals)
        tell(adt("A40", pid("13"), "MRG|11^^^HOSP^MR", at=told[50]))
        lane.send(ward.oru(second, two) for second in range(20, 30))
        merged = {second: "HOSP|13" if second < 10 or second >= 20 else "HOSP|12" for second in range(30)}
        until(lambda: shows(ward, patients, merged), process=vitals)
    assert ward.everywhere(patients) == merged
    balanced(ward)
    kinds = {span.kind for span in ward.lake.spans.all_spans() if span.dataset == DATASET}
    assert kinds == {"stream", KIND}


def test_a_warehouse_says_whose_beds_were(home: Path) -> None:
    ward = Ward(home)
    ward.stream([ward.bed(second) for second in range(10)])
    with duckdb.connect(str(ward.home / "own.duckdb")) as database:
        database.execute("CREATE TABLE stays (no INTEGER, bed VARCHAR, person VARCHAR, came TIMESTAMP, went TIMESTAMP)")
        naive = [ward.at(second).replace(tzinfo=None) for second in (0, 6)]
        database.execute(
            "INSERT INTO stays VALUES (1, 'bed-1', 'A', ?, ?), (2, 'bed-1', 'B', ?, NULL)", [*naive, naive[1]]
        )
    (ward.home / "beds.sql").write_text(
        "SELECT CAST(no AS VARCHAR) AS association_id, 1 AS version, bed AS device_id, person AS patient_id, "
        "came AS valid_from, went AS valid_to, 'active' AS status, came AS available_at FROM stays ORDER BY came, no"
    )
    job = ward.home / "own.yaml"
    job.write_text(
        yaml.safe_dump(
            {
                "source": "city-hospital",
                "warehouse": f"duckdb:{ward.home / 'own.duckdb'}",
                "max_rejected": 0.01,
                "datasets": {"device_association": "beds.sql"},
            }
        )
    )
    assert load_history(ward.settings, str(job)) == 2
    attribute(ward)
    assert ward.everywhere(EVERYBODY) == {second: "A" if second < 6 else "B" for second in range(10)}
    assert census(ward.lake, HELD).open == 0
    balanced(ward)


def test_what_waits_beside_another_is_not_remembered_by_a_lane_that_comes_back(lane: LaneUnderTest, ward: Ward) -> None:
    """Of two beds in one message one may never be anybody's: what the other says is not a duplicate when it comes."""
    ward.associate("bed-1", "A", 0)
    named, mine, nobodys = (
        ward.bed(1, subject={"reference": "Patient/C"}), ward.bed(2), ward.bed(3, "bed-2"),
    )  # fmt: skip
    entries = [{"resource": msgspec.json.decode(payload)} for payload in (named, mine, nobodys)]
    both = msgspec.json.encode({"resourceType": "Bundle", "type": "collection", "entry": entries})
    for message in (both, named, mine, nobodys, nobodys):
        lane.send([message], partition=0)
        lane.run()
    assert ward.everywhere(EVERYBODY) == {1: "C", 2: "A"}
    assert census(ward.lake, HELD).open == 2
    balanced(ward)
    ledger = summarise(ward.lake.spans).to_json()["by_job"]["vitals"]
    assert [ledger[name] for name in ("rows", "published", "duplicate", "held")] == [7, 2, 2, 3]
    ward.associate("bed-2", "B", 0)
    attribute(ward)
    assert ward.everywhere(EVERYBODY) == {1: "C", 2: "A", 3: "B"}
    assert census(ward.lake, HELD).open == 0
    assert ward.lake.published.scan().num_rows == 3
    balanced(ward)
