"""Dead letters of a real lane, replayed: recovered once whatever happens on the way, and given up for good."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
import yaml

from governance.belonging import open_vault
from governance.home import init_home
from governance.samples import copy_samples
from governance.vault import Identity
from pipelines.history.load import load_history
from pipelines.live.recount import recount
from pipelines.online_store.opening import open_online_store
from tests import forking
from tests.fhir import message
from tests.services.lane import LaneUnderTest
from tests.services.waiting import until
from vitalake import clock
from vitalake.cli.app import main
from vitalake.keys import load_keys
from vitalake.lake.maintenance.verify import verify
from vitalake.settings import load_settings

KILLED = -signal.SIGKILL
GOOD = 20
UNKNOWN = 30
UNREADABLE = 10

POINTS = ["decode", "start-epoch", "start-rolled", "before-stage", "staged", "before-decide", "decided", "before-add"]
POINTS += ["added-one", "added-one:3", "added"]


def fill(home: Path, bootstrap: str, topic: str) -> LaneUnderTest:
    """Return a lane that has taken 20 good messages, 30 of a code it does not know and 10 that nobody can read."""
    lane = LaneUnderTest(home, bootstrap, topic)
    lane.configure(span_rows=100, poll_messages=50, span_seconds=0.2)
    lane.create_topic()
    lane.send(message(i, patient=f"p-{i % 7}") for i in range(GOOD))
    lane.send(message(i, patient=f"p-{i % 7}", code=code("99999-5")) for i in range(100, 100 + UNKNOWN))
    lane.send(b"{" for _ in range(UNREADABLE))
    lane.run()
    assert lane.ledger()["published"] == GOOD
    return lane


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, embedded_broker: str) -> LaneUnderTest:
    """The lane that the tests copy."""
    home = tmp_path_factory.mktemp("filled") / "home"
    init_home(home, copy_samples)
    return fill(home, embedded_broker, f"vitals-{uuid.uuid4().hex[:10]}")


@pytest.fixture
def lane(filled: LaneUnderTest, tmp_path: Path) -> LaneUnderTest:
    """A copy of it; the topic is everybody's, so who sends more takes ``sending``."""
    home = tmp_path / "home"
    shutil.copytree(filled.home, home)
    return dataclasses.replace(filled, home=home, options=dict(filled.options))


@pytest.fixture
def sending(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """Such a lane on a topic of its own."""
    return fill(home, embedded_broker, topic_name)


EXTENSION = """\
codes:
  "99999-5": {name: New, unit: /min, low: 1, high: 400, source: extremes}
"""
"""What the home's vocabulary says of the code once it is known."""


def code(loinc: str) -> dict[str, Any]:
    """Return a CodeableConcept."""
    return {"coding": [{"system": "http://loinc.org", "code": loinc}]}


def start(lane: LaneUnderTest, *arguments: str, extended: bool = False, env: dict[str, str] | None = None) -> Any:
    """Start a command of ``vitalake dead-letters``, in a home whose vocabulary was extended by the code, or was not."""
    vocabulary = lane.home / "vocabulary" / "new.yaml"
    vocabulary.parent.mkdir(exist_ok=True)
    vocabulary.write_text(EXTENSION) if extended else vocabulary.unlink(missing_ok=True)
    return subprocess.Popen(
        forking.command("vitalake", "dead-letters", *arguments, "--home", str(lane.home), "--json"),
        cwd=lane.home,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(
    lane: LaneUnderTest, *arguments: str, extended: bool = False, expect: int = 0, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run it to its end and return what it printed."""
    process = start(lane, *arguments, extended=extended, env=env)
    out, errors = process.communicate(timeout=90)
    assert process.returncode == expect, errors.decode()[-3000:]
    document: dict[str, Any] = msgspec.json.decode(out) if out else {}
    return document


def assert_recovered(lane: LaneUnderTest) -> None:
    """Assert that every known message's row is there once, under its own place, and that all books agree."""
    counts = lane.positions()
    assert set(counts.values()) == {1}
    assert len(counts) == GOOD + UNKNOWN
    assert lane.positions("restricted") == counts
    assert {source for source, _ in counts} == {lane.topic}
    ledger = lane.ledger()
    assert ledger["balanced"] is True
    assert (ledger["messages"], ledger["published"], ledger["recovered"]) == (lane.sent, GOOD, UNKNOWN)
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []
    listed = run(lane, "list", "--limit", "100")
    assert (listed["open"], listed["recovered"], listed["total"]) == (UNREADABLE, UNKNOWN, UNKNOWN + UNREADABLE)
    resolution = lane.lake.table("quarantine/resolution").scan()
    assert resolution.num_rows == UNKNOWN
    assert len(set(zip(resolution["source"].to_pylist(), resolution["position"].to_pylist(), strict=True))) == UNKNOWN


def test_what_an_extended_vocabulary_knows_is_recovered_once(lane: LaneUnderTest) -> None:
    before = run(lane, "replay")
    assert (before["recovered"], before["rejected_again"], before["spans"]) == (0, UNKNOWN + UNREADABLE, 0)
    assert before["reasons"] == {"unknown-code": UNKNOWN, "not-json": UNREADABLE}

    dry = run(lane, "replay", "--dry-run", extended=True)
    assert (dry["recovered"], dry["dry_run"]) == (UNKNOWN, True)
    assert len(lane.positions()) == GOOD

    done = run(lane, "replay", extended=True)
    assert (done["recovered"], done["rejected_again"], done["rows"]["published"]) == (UNKNOWN, UNREADABLE, UNKNOWN)
    assert_recovered(lane)
    again = run(lane, "replay", extended=True)
    assert (again["open"], again["recovered"], again["spans"]) == (UNREADABLE, 0, 0)
    assert_recovered(lane)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_replay_loses_and_doubles_nothing(lane: LaneUnderTest, point: str) -> None:
    run(lane, "replay", extended=True, expect=KILLED, env={"VITALAKE_CRASH_AT": point})
    run(lane, "replay", extended=True)
    assert_recovered(lane)


def test_beside_a_running_stream_both_are_whole(sending: LaneUnderTest) -> None:
    lane = sending
    more = 600
    stream = lane.start(idle=None, forked=True)
    with stream:
        for begin in range(1_000, 1_000 + more, 100):
            lane.send(message(i, patient=f"p-{i % 7}") for i in range(begin, begin + 100))
            run(lane, "replay", "--limit", "13", extended=True)
        run(lane, "replay", extended=True)
        until(lambda: len(lane.positions()) == GOOD + UNKNOWN + more, process=stream)
        stream.terminate()
        _, errors = stream.communicate(timeout=60)
    assert stream.returncode == 0, errors.decode()[-3000:]
    positions = lane.positions()
    assert set(positions.values()) == {1}
    assert len(positions) == GOOD + UNKNOWN + more
    ledger = lane.ledger()
    assert (ledger["published"], ledger["recovered"], ledger["balanced"]) == (GOOD + more, UNKNOWN, True)
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []
    printed = subprocess.run(
        [sys.executable, "-m", "vitalake", "ledger", "--home", str(lane.home)],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert "in the lake = published + recovered" in printed


def test_of_two_replays_the_older_one_is_told_and_nothing_comes_twice(lane: LaneUnderTest) -> None:
    held = lane.home / "held"
    older = start(
        lane,
        "replay",
        extended=True,
        env={"VITALAKE_PAUSE_AT": "before-decide", "VITALAKE_PAUSE_FILE": str(held)},
    )
    with older:
        until(held.exists, process=older)
        run(lane, "replay", extended=True)
        held.unlink()
        out, errors = older.communicate(timeout=60)
    assert (older.returncode, out) == (13, b"")
    assert b"Another replay has begun" in errors
    assert_recovered(lane)


def test_one_that_stopped_after_deciding_is_finished_by_the_next(lane: LaneUnderTest) -> None:
    held = lane.home / "held"
    older = start(lane, "replay", extended=True, env={"VITALAKE_PAUSE_AT": "decided", "VITALAKE_PAUSE_FILE": str(held)})
    with older:
        until(held.exists, process=older)
        assert run(lane, "replay", extended=True)["recovered"] == 0, "it is decided: only its adding was left"
        assert_recovered(lane)
        held.unlink()
        older.communicate(timeout=60)
    assert older.returncode == 0
    assert_recovered(lane)


def test_rules_that_change_under_way_are_the_ones_that_count(lane: LaneUnderTest) -> None:
    held = lane.home / "held"
    process = start(
        lane,
        "replay",
        extended=True,
        env={"VITALAKE_PAUSE_AT": "before-decide", "VITALAKE_PAUSE_FILE": str(held)},
    )
    with process:
        until(held.exists, process=process)
        lane.lake.spans.raise_fence("observation")
        held.unlink()
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert msgspec.json.decode(out)["recovered"] == UNKNOWN
    assert_recovered(lane)


def test_a_copy_that_came_meanwhile_gives_no_second_current_row(sending: LaneUnderTest) -> None:
    lane = sending
    lane.send(message(i, patient=f"p-{i % 7}", code=code("8889-8")) for i in range(100, 100 + UNKNOWN))
    lane.run()
    run(lane, "replay", extended=True)
    ids = lane.published()["observation_id"].to_pylist()
    assert len(ids) == GOOD + 2 * UNKNOWN
    assert len(set(ids)) == GOOD + UNKNOWN, "the same observation, sent twice: one of them is current"


def test_discarded_ones_are_never_replayed(lane: LaneUnderTest) -> None:
    first = run(lane, "list", "--open", "--limit", "100")["dead_letters"]
    one = next(row for row in first if row["reason"] == "unknown-code")
    chosen = ("--source", one["source"], "--position", str(one["position"]))
    done = run(lane, "discard", *chosen, "--reason-text", "Test device, see ticket 7")
    assert done == {"discarded": 1}
    assert run(lane, "discard", *chosen, "--reason-text", "Again") == {"discarded": 0}
    done = run(lane, "discard", "--reason", "not-json", "--reason-text", "Noise")
    assert done == {"discarded": UNREADABLE}
    assert run(lane, "replay", extended=True)["recovered"] == UNKNOWN - 1
    listed = run(lane, "list")
    assert (listed["open"], listed["recovered"], listed["discarded"]) == (0, UNKNOWN - 1, UNREADABLE + 1)
    rows = [row for row in lane.lake.table("quarantine/resolution").scan().to_pylist() if row["outcome"] == "discarded"]
    assert {row["reason"] for row in rows} == {"Test device, see ticket 7", "Noise"}
    assert all(row["actor"].startswith("local:") and row["resolved_at"] for row in rows)
    recorded = [entry["action"] for entry in audit_of(lane)]
    assert recorded.count("dead-letters.discard") == 2
    assert recorded.count("dead-letters.replay") == 1
    assert lane.ledger()["balanced"] is True
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []


def test_discarding_needs_words(lane: LaneUnderTest) -> None:
    run(lane, "discard", "--all", "--reason-text", "  ", expect=11)
    run(lane, "discard", "--reason-text", "Nothing is chosen", expect=2)
    run(lane, "discard", "--all", "--reason", "not-json", "--reason-text", "Two", expect=2)
    assert run(lane, "list")["discarded"] == 0


def test_discarding_names_nobody_and_needs_no_keys(lane: LaneUnderTest) -> None:
    """What is refused says that somebody is a patient, so it is on record; and nothing is opened."""
    settings = load_settings(lane.home)
    vault = open_vault(settings, load_keys(settings.path(settings.keys)))
    vault.put([("v1." + "a" * 32, 1, Identity("p-1", "Quartermaine, Zoe", None, None, None))])
    vault.close()
    naming = ("--reason-text", "Zoe Quartermaine")
    run(lane, "discard", "--source", f"{lane.topic}[0]", "--position", "0", *naming)
    assert [entry for entry in audit_of(lane) if entry["action"] == "denied"] == [], "nothing was open there"
    run(lane, "discard", "--all", *naming, expect=11)
    (refused,) = [entry for entry in audit_of(lane) if entry["action"] == "denied"]
    assert refused["detail"].items() >= {"permission": "dead-letters.discard", "reason": "names"}.items()
    assert main(["keys", "revoke", "--home", str(lane.home)]) == 0
    done = run(lane, "discard", "--all", "--reason-text", "Noise")
    assert done == {"discarded": UNKNOWN + UNREADABLE}


@pytest.mark.parametrize("point", ["before-decide", "decided", "added-one"])
def test_a_killed_discard_is_finished_by_the_next(lane: LaneUnderTest, point: str) -> None:
    words = ("--all", "--reason-text", "Load test")
    run(lane, "discard", *words, expect=KILLED, env={"VITALAKE_CRASH_AT": point})
    done = run(lane, "discard", *words)
    # Letters are decided file by file, and a lane's first spans are small: others may be left.
    assert (done["discarded"] == UNKNOWN + UNREADABLE) is (point == "before-decide")
    assert run(lane, "replay", extended=True)["open"] == 0
    listed = run(lane, "list")
    assert (listed["open"], listed["discarded"]) == (0, UNKNOWN + UNREADABLE)
    assert lane.lake.table("quarantine/resolution").scan().num_rows == UNKNOWN + UNREADABLE
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []


def test_a_topic_that_no_job_knows_is_named(lane: LaneUnderTest) -> None:
    lane.configure(topics={"elsewhere": "fhir"})
    process = start(lane, "replay", extended=True)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 10
    assert lane.topic in errors.decode()
    report = msgspec.json.decode(out)
    assert (report["recovered"], report["unknown_topics"]) == (0, {lane.topic: UNKNOWN + UNREADABLE})
    assert run(lane, "discard", "--all", "--reason-text", "Gone")["discarded"] == 40


def test_those_whose_key_is_gone_are_counted_and_stay(lane: LaneUnderTest) -> None:
    path = lane.home / "keys.yaml"
    kept = path.read_text()
    document = yaml.safe_load(kept)
    secret = document["keys"]["quarantine"]["versions"].pop("v1")
    document["keys"]["quarantine"] = {"current": "v2", "versions": {"v2": secret[::-1][secret.count("=") :] + "="}}
    path.write_text(yaml.safe_dump(document))
    done = run(lane, "replay", extended=True)
    assert (done["recovered"], done["unopened"], done["spans"]) == (0, UNKNOWN + UNREADABLE, 0)
    path.write_text(kept)
    run(lane, "replay", extended=True)
    assert_recovered(lane)


def test_the_recount_agrees_with_replays(lane: LaneUnderTest) -> None:
    run(lane, "replay", "--limit", "7", extended=True)
    done = run(lane, "replay", extended=True)
    assert done["open"] == UNKNOWN + UNREADABLE - 7
    document = recount(load_settings(lane.home))
    assert document["agrees"] is True
    found = {check["what"]: check["recounted"] for check in document["checks"]}
    assert found["rows of published/observation"] == GOOD + UNKNOWN
    assert found["rows of quarantine/resolution"] == UNKNOWN


def audit_of(lane: LaneUnderTest) -> list[dict[str, Any]]:
    """Return what the audit has of the command line."""
    lines = (lane.home / "audit" / "cli.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


def test_rejected_rows_of_a_warehouse_are_recovered_too(home: Path) -> None:
    with duckdb.connect(str(home / "ward.duckdb")) as warehouse:
        warehouse.execute(
            "CREATE TABLE chart AS SELECT i AS id, i % 5 AS person, TIMESTAMP '2020-01-01' + to_minutes(i) AS taken, "
            "CASE WHEN i % 2 = 0 THEN '8867-4' ELSE '99999-5' END AS code, 60.0 + i AS value FROM range(20) t(i)"
        )
    job = home / "own.yaml"
    job.write_text(
        yaml.safe_dump(
            {
                "source": "city",
                "warehouse": f"duckdb:{home / 'ward.duckdb'}",
                "incarnation": "SELECT '1'",
                "max_rejected": 0.6,
                "datasets": {"observation": "observation.sql"},
            }
        )
    )
    (home / "observation.sql").write_text(
        "SELECT 'urn:city' AS identity_system, CAST(id AS varchar) AS identity_value, 0 AS version, "
        "CAST(person AS varchar) AS patient_id, code, value, '/min' AS unit, 'final' AS status, taken AS effective_at, "
        "taken AS issued_at FROM chart ORDER BY taken, id"
    )
    assert load_history(load_settings(home), str(job)) == 20
    lane = LaneUnderTest(home, "127.0.0.1:9", "vitals")
    assert len(lane.positions()) == 10
    done = run(lane, "replay", extended=True)
    assert (done["recovered"], done["rejected_again"], done["unknown_topics"]) == (10, 0, {})
    positions = lane.positions()
    assert set(positions.values()) == {1}
    assert {place for place, _ in positions} == {"city.observation"}
    assert len(positions) == 20
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []
    assert lane.ledger()["balanced"] is True


@pytest.fixture
def half(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane that has taken six of a patient's twelve values; the others are dead letters that can be read now."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_seconds=0.2, max_message_bytes=1_000)
    lane.create_topic()
    now = clock.now()
    times = [(now - timedelta(minutes=i)).isoformat() for i in range(1, 13)]
    note = {"note": [{"text": "x" * 1_000}]}
    lane.send(message(i, effectiveDateTime=at, **(note if i % 2 else {})) for i, at in enumerate(times))
    lane.run()
    assert (lane.ledger()["published"], lane.ledger()["undecodable"]) == (6, 6)
    lane.configure(max_message_bytes=100_000)
    return lane


def on_the_ward(lane: LaneUnderTest) -> int:
    """Return how many values the online store has of the one patient, beside those that say that some were refused."""
    settings = load_settings(lane.home)
    with closing(open_online_store(settings, load_keys(settings.path(settings.keys)))) as store:
        (patient,) = store.all_patients()
        return len(store.history(patient).measured())


@pytest.mark.parametrize("point", [None, "masked", "staged", "decided"])
def test_what_is_recovered_reaches_the_care_store(half: LaneUnderTest, point: str | None) -> None:
    if point:
        run(half, "replay", expect=KILLED, env={"VITALAKE_CRASH_AT": point})
    run(half, "replay")
    assert on_the_ward(half) == 12


def test_what_a_killed_replay_gave_the_care_store_is_taken_back_when_it_is_discarded(half: LaneUnderTest) -> None:
    run(half, "replay", expect=KILLED, env={"VITALAKE_CRASH_AT": "staged"})
    assert on_the_ward(half) == 12
    assert run(half, "discard", "--all", "--reason-text", "Noise") == {"discarded": 6}
    assert on_the_ward(half) == 6
