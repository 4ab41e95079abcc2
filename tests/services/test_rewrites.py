"""Published rows made anew of identified ones: the same, each once, whatever comes between."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pytest
import yaml

from governance.audit import AuditEvent, open_audit
from governance.belonging import open_vault
from governance.belonging.erasures import ErasureCopies
from governance.home import init_home
from governance.policy.masks import Pseudonyms
from governance.samples import copy_samples
from pipelines.core.poll import Poll
from pipelines.history.job import load_job
from pipelines.history.load import load_history
from pipelines.online_store.opening import open_online_store
from pipelines.republish.online_store import rebuild_online_store
from pipelines.republish.rekey import rekey, retire
from pipelines.republish.repair import open_published
from pipelines.republish.republish import give_up, republish, restricted_datasets
from pipelines.republish.retention import retain
from pipelines.simulator.warehouse_mimic import TABLES, make_demo_warehouse
from tests import forking
from tests.fhir import message
from tests.services import rewrite_process
from tests.services.demo import leave
from tests.services.polls import LaneWithoutKafka
from tests.services.test_lake_s3 import s3_options  # noqa: F401 - a fixture
from tests.unit.vitalake.lake.span_samples import begin, write_spans
from vitalake import clock
from vitalake.cli.app import main
from vitalake.clinical.held_out import held_out
from vitalake.clinical.records import code_number
from vitalake.errors import InputError, LakeError, PrivacyError, ServiceUnavailable
from vitalake.failpoints import failpoint
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.commits.span_log import SpanConflict
from vitalake.lake.maintenance import replacement as swap
from vitalake.lake.maintenance.compaction import compact, put_into_buckets
from vitalake.lake.maintenance.deletion import distinct_values, drop_rows, purge
from vitalake.lake.maintenance.lock import lock_table, unlock_table
from vitalake.lake.maintenance.rewrite import is_locked
from vitalake.lake.maintenance.sweep import roll_forward_all, sweep
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.storage import open_storage
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings, load_settings

PATIENTS = 4
SWAP_POINTS = ("swap-held", "fence-raised", "swap-fenced", "swap-chunk", "swap-chunk:2", "swap-ready", "swap-committed")
REKEY_POINTS = ("rekey-added", "rekey-retokened", "swap-chunk", "swap-committed", "rekey-republished", "rekey-care")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 60 observations of four patients on three days, in three spans."""
    home = tmp_path_factory.mktemp("rewrites") / "home"
    init_home(home, copy_samples)
    stream(home, range(3))
    return home


@pytest.fixture
def home(loaded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    folder = tmp_path / "home"
    shutil.copytree(loaded, folder)
    return folder


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "PIECE_ROWS", rewrite_process.PIECE_ROWS)


def stream(home: Path, spans: range, *, topic_id: str = "u") -> LaneWithoutKafka:
    """Send a span of 20 messages each, as a lane does; a topic's id for each lane."""
    lane = LaneWithoutKafka(home, topic_id=topic_id)
    for number in spans:
        lane.send([(0, observed(number * 20 + i, day=1 + i % 3)) for i in range(20)], cut=True)
    lane.lane.finish()
    return lane


def observed(number: int, *, day: int = 1, **changes: Any) -> bytes:
    at = f"2025-06-{day:02}T10:{number // 60 % 60:02}:{number % 60:02}Z"
    changes |= {"status": "amended"} if number % 10 == 9 else {}
    return message(number, patient=f"p-{number % PATIENTS}", value=60.0 + number % 50, effectiveDateTime=at, **changes)


def opened(settings: Settings) -> Lake:
    return Lake(settings.lake_uri, settings.storage_options)


def published(settings: Settings) -> Counter[tuple[Any, ...]]:
    """Return all published rows, every column of them."""
    table = opened(settings).published
    return Counter(tuple(map(str, row.values())) for row in table.scan().to_pylist())


def sound(settings: Settings) -> bool:
    """Whether the lake agrees with its books, and no table waits for anybody."""
    lake = opened(settings)
    assert verify(opened(settings)) == []
    assert not is_locked(lake.published) and not is_locked(lake.restricted)
    assert summarise(lake.spans).to_json()["balanced"]
    return not lake.storage.child("jobs").files(suffix="")


def loose(settings: Settings) -> set[str]:
    table = opened(settings).published
    return set(table.storage.files(suffix="")) - set(table.snapshot().files)


STRICTER = """version: 1
rules:
  - id: test-drop-stays
    what: {class: encounter-identifier}
    then: {mask: drop}
    reason: a test
    legal_basis: a test
    owner: a test
  - id: test-months
    what: {dataset: observation, column: effective_at}
    then: {mask: generalise, unit: month}
    reason: a test
    legal_basis: a test
    owner: a test
  - id: test-leave-out-amended
    what: {dataset: observation}
    then: {filter: {column: status, in: [amended]}}
    reason: a test
    legal_basis: a test
    owner: a test
"""


def make_stricter(settings: Settings) -> None:
    """Leave out amended values, drop stays, and take times to their month."""
    (settings.path(settings.governance) / "test.yaml").write_text(STRICTER)


# -- republish ---------------------------------------------------------------------------------------------------


def test_republish_under_the_same_rules_changes_no_row(settings: Settings) -> None:
    before = published(settings)
    done = republish(settings, "observation")
    assert (done.rows_before, done.rows_after, done.rows_restricted, done.filtered) == (60, 60, 60, 0)
    assert published(settings) == before and len(before) == 60
    assert loose(settings) == set(), "nothing of before is left to be read by time travel"
    assert sound(settings)


def test_republish_makes_old_rows_what_todays_rules_say(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "TARGET_ROWS", 25)
    assert set(opened(settings).published.scan()["encounter_id"].to_pylist()) != {None}
    make_stricter(settings)
    done = republish(settings, "observation")
    after = opened(settings).published.scan()
    assert (done.rows_before, done.rows_after, done.filtered) == (60, 54, 6) and len(after) == 54
    assert set(after["encounter_id"].to_pylist()) == {None}
    days = {file.day for file in opened(settings).published.snapshot().files.values()}
    assert days == {"2025-06-01"}, "the masked day is not the true day"
    assert sound(settings)
    (settings.path(settings.governance) / "test.yaml").unlink()
    assert republish(settings, "observation").rows_after == 60, "nothing of what a rule left out is lost"
    assert sound(settings)


def test_republish_publishes_nobody_who_was_erased_between_its_check_and_its_commit(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the patient was published until then, so that the erasure rewrote no file of that table."""
    lane = LaneWithoutKafka(home, topic_id="more")
    lane.send([(0, message(900, patient="p-9", status="amended"))], cut=True)
    lane.lane.steps.close()
    make_stricter(settings)
    republish(settings, "observation")
    (settings.path(settings.governance) / "test.yaml").unlink()
    commit = Table.commit

    def erase_before(table: Table, **arguments: Any) -> None:
        if table.name == "published/observation" and arguments.get("remove"):
            monkeypatch.setattr(Table, "commit", commit)
            command = ["patient", "erase", "p-9", "--reason", "asked for", "--yes", "--home", str(home)]
            assert main(command) == 0
        commit(table, **arguments)

    monkeypatch.setattr(Table, "commit", erase_before)
    republish(settings, "observation")
    erased = Pseudonyms(load_keys(settings.path(settings.keys)), "patient-identifier").token("p-9")
    assert erased not in opened(settings).published.scan()["patient_id"].to_pylist()
    assert sum(published(settings).values()) == 60
    assert sound(settings)


def test_two_processes_do_not_publish_the_same_dataset_again(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one resumed what the first one had committed, and every later one ended with a traceback."""
    work = swap._Run._work

    def other_first(run: Any, *arguments: Any) -> Any:
        with pytest.raises(ServiceUnavailable, match="Another process"):
            republish(settings, "observation")
        return work(run, *arguments)

    monkeypatch.setattr(swap._Run, "_work", other_first)
    assert republish(settings, "observation").rows_after == 60
    assert sound(settings)


@pytest.fixture
def _hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each republish is that of another host, which knows nothing of the lock of the others."""
    monkeypatch.setattr("pipelines.republish.republish.publishing_alone", lambda *_: nullcontext())


@pytest.mark.usefixtures("_hosts")
def test_a_committed_replacement_is_not_resumed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other host had seen its lock, and took over its journal after the commit."""
    name, done = "vitalake.lake.maintenance.replacement.lock_table", list[int]()

    def end_meanwhile(table: Table) -> int:
        monkeypatch.setattr(name, lock_table)
        monkeypatch.setattr(swap, "failpoint", stop_when_committed)
        with pytest.raises(KeyboardInterrupt):
            republish(settings, "observation")
        monkeypatch.setattr(swap, "failpoint", failpoint)
        return lock_table(table)

    def stop_when_committed(name: str) -> None:
        if name == "swap-committed":
            done.append(1)
            raise KeyboardInterrupt

    monkeypatch.setattr(name, end_meanwhile)
    assert republish(settings, "observation").rows_after == 60
    assert done
    assert sound(settings)


@pytest.mark.usefixtures("_hosts")
def test_a_replacement_ends_no_lock_of_another_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that came after the fence were compacted with older ones, and published twice."""
    lock, work = lock_table, swap._Run._work

    def unlocked_by_another(table: Table) -> int:
        number = lock(table)
        if table.name.startswith("restricted/"):
            unlock_table(opened(settings).restricted)
        return number

    def compacted(run: Any, *arguments: Any) -> Any:
        lane = LaneWithoutKafka(settings.home, topic_id="more")
        lane.send([(0, observed(5000 + i)) for i in range(10)], cut=True)
        lane.lane.steps.close()
        assert compact(opened(settings).restricted, min_files=2).days
        return work(run, *arguments)

    monkeypatch.setattr(swap, "lock_table", unlocked_by_another)
    monkeypatch.setattr(swap._Run, "_work", compacted)
    with pytest.raises(LakeError):
        republish(settings, "observation")
    monkeypatch.undo()
    monkeypatch.setattr(swap, "PIECE_ROWS", rewrite_process.PIECE_ROWS)
    assert sum(published(settings).values()) == 70
    assert republish(settings, "observation").rows_after == 70
    assert sound(settings)


@pytest.mark.parametrize("point", SWAP_POINTS)
def test_killed_republish_goes_on_where_it_was(home: Path, settings: Settings, point: str) -> None:
    before = published(settings)
    make_stricter(settings)
    code = rewrite_process.run(home, "republish", "observation", VITALAKE_CRASH_AT=point)
    assert code == rewrite_process.KILLED
    assert len(opened(settings).published.scan()) == (54 if point == "swap-committed" else 60)
    if point == "swap-chunk:2":
        assert compact(opened(settings).published, min_files=2).days == 0, "held: what it was planned on must stay"
        assert {(f.kind, f.severity) for f in verify(opened(settings))} == {("held", "note")}
    done = republish(settings, "observation")
    assert done.rows_after == 54
    assert done.resumed == {"swap-chunk": 1, "swap-chunk:2": 2, "swap-ready": 3}.get(point, 0)
    after = published(settings)
    assert len(after) == 54 and set(after.values()) == {1} and not set(after) & set(before)
    assert sound(settings)
    sweep(opened(settings), "vitals", lease_seconds=0)
    assert loose(settings) == set()


def test_republish_under_other_rules_than_the_killed_one_begins_anew(home: Path, settings: Settings) -> None:
    before = published(settings)
    make_stricter(settings)
    rewrite_process.run(home, "republish", "observation", VITALAKE_CRASH_AT="swap-ready")
    (settings.path(settings.governance) / "test.yaml").unlink()
    assert republish(settings, "observation").resumed == 0
    assert published(settings) == before
    assert sound(settings)
    assert sum(sweep(opened(settings), "vitals", lease_seconds=0).deleted.values()) >= 3, "of the first one"
    assert loose(settings) == set() and published(settings) == before


def test_killed_republish_that_nobody_goes_on_with_is_swept(home: Path, settings: Settings) -> None:
    before = published(settings)
    rewrite_process.run(home, "republish", "observation", VITALAKE_CRASH_AT="swap-ready")
    staged = loose(settings)
    sweep(opened(settings), "vitals", lease_seconds=0)
    assert loose(settings) == staged and len(staged) == 3, "a day is left to go on with it"
    sweep(opened(settings), "vitals", lease_seconds=0, job_lease_seconds=0)
    assert loose(settings) == set() and published(settings) == before
    assert sound(settings)
    assert compact(opened(settings).published, min_files=2).days == 3


def test_republish_that_was_killed_before_it_wrote_itself_down_is_given_up_too(home: Path, settings: Settings) -> None:
    rewrite_process.run(home, "republish", "observation", VITALAKE_CRASH_AT="swap-held")
    sweep(opened(settings), "vitals")
    assert is_locked(opened(settings).published), "it may be alive, and about to"
    sweep(opened(settings), "vitals", job_lease_seconds=0)
    assert sound(settings)


def test_killed_republish_can_be_given_up(home: Path, settings: Settings) -> None:
    rewrite_process.run(home, "republish", "observation", VITALAKE_CRASH_AT="swap-ready")
    assert give_up(settings, "observation") and not give_up(settings, "observation")
    assert sound(settings)


def once(act: Callable[[], object]) -> Callable[[int], None]:
    """Return what acts when rows are counted the first time: in the middle of a rewrite."""
    left = [act]
    return lambda _: (left.pop()(), None)[1] if left else None


def test_streams_go_on_under_new_rules_beside_a_republish(home: Path, settings: Settings) -> None:
    lane = stream(home, range(0), topic_id="v")
    make_stricter(settings)

    def meanwhile() -> None:
        lane.send([(0, observed(100 + i)) for i in range(10)], cut=False)
        with pytest.raises(SpanConflict):  # made under the old rules
            lane.send([], cut=True)
            lane.lane.finish()
        stream(home, range(5, 7), topic_id="w")

    done = republish(settings, "observation", counted=once(meanwhile))
    assert (done.rows_before, done.rows_after) == (60, 54)
    rows = opened(settings).published.scan()
    assert len(rows) == 54 + 36 and set(rows["encounter_id"].to_pylist()) == {None}
    assert sound(settings)


@pytest.mark.usefixtures("_hosts")
def test_of_two_republishes_at_once_the_second_goes_on_with_the_work_of_the_first(settings: Settings) -> None:
    make_stricter(settings)
    second: list[int] = []

    def meanwhile() -> None:
        second.append(republish(settings, "observation").rows_after)

    with pytest.raises(LakeError, match="taken this job over"):
        republish(settings, "observation", counted=once(meanwhile))
    assert second == [54] and len(opened(settings).published.scan()) == 54
    assert sound(settings)


def test_who_is_forgotten_in_the_middle_does_not_come_back(settings: Settings) -> None:
    keys = load_keys(settings.path(settings.keys))

    def forget() -> None:
        vault = open_vault(settings, keys)
        subject = vault.subject_of("p-1")
        token = vault.tokens()[subject]
        vault.erase(subject, "erasure-test")
        storage = open_storage(settings.lake_uri, settings.storage_options)
        ErasureCopies(settings, keys, storage).update(vault, allow_restored_lake=True)  # as an erasure does
        vault.close()
        lake = opened(settings)
        lake.spans.raise_fence("observation")
        roll_forward_all(lake)
        drop_rows(lake.published, "patient_id", token)
        drop_rows(lake.restricted, "subject", subject)

    done = republish(settings, "observation", counted=once(forget))
    assert done.rows_after == 45 and len(opened(settings).published.scan()) == 45
    assert loose(settings) == set(), "what was made before, of the forgotten too, went with the job that began anew"
    assert sound(settings)


def test_a_restricted_zone_that_was_lost_stops_it(home: Path, settings: Settings) -> None:
    shutil.rmtree(home / "lake" / "restricted")
    with pytest.raises(InputError, match="Dataset has no identified rows"):
        republish(settings, "observation")
    opened(settings).restricted.refresh()
    with pytest.raises(LakeError, match="A file of the lake is gone"):
        republish(settings, "observation")
    assert len(opened(settings).published.scan()) == 60
    assert not is_locked(opened(settings).published), "no table waits for what cannot come"
    assert not give_up(settings, "observation")


def test_rows_that_were_published_before_they_were_kept_stop_it(tmp_path: Path) -> None:
    init_home(tmp_path / "home", copy_samples)
    settings = load_settings(tmp_path / "home")
    lake = opened(settings)
    lake.restricted.refresh()
    write_spans(lake, 1, size=5, epoch=begin(lake))
    with pytest.raises(LakeError, match=r"^4 published rows have no identified rows"):
        republish(settings, "observation")
    with pytest.raises(LakeError, match=r"^4 published rows have no identified rows"):
        rekey(settings)
    assert load_keys(settings.path(settings.keys)).current("pseudonym").version == "v1"
    assert sound(settings)


# -- rebuild -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True])
def test_rebuilt_published_rows_are_what_they_were(
    home: Path, settings: Settings, lost: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = published(settings)
    if lost:
        shutil.rmtree(home / "lake" / "published")
    (done,) = run(home, capsys, "rebuild", "published", "--from", "restricted")["datasets"]
    assert done["rows_after"] == 60 and done["rows_before"] == (0 if lost else 60)
    assert published(settings) == before
    assert sound(settings)
    stream(home, range(5, 6), topic_id="w")
    assert sum(published(settings).values()) == 80
    assert sound(settings)


def run(home: Path, capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> Any:
    """Run a command of the lake with --json and return what it printed."""
    assert main(["lake", *command, "--home", str(home), "--json"]) == code
    return msgspec.json.decode(capsys.readouterr().out) if code == 0 else None


def send_now(home: Path, messages: list[bytes], *, topic_id: str = "now") -> None:
    """Send messages with the broker's time of now: of what lies in its future nothing is taken."""
    lane, count = LaneWithoutKafka(home, topic_id=topic_id), len(messages)
    stamps = np.full(count, clock.now_us() // 1000)
    poll = Poll("vitals/0of1", "fhir", list(messages), lane.parts, np.zeros(count, np.int32), np.arange(count), stamps)
    lane.lane.write(lane.lane.mask(lane.lane.conform(lane.lane.decode(poll))))
    lane.lane.finish()


def ago(minutes: int) -> str:
    return f"{clock.now() - timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}"


def test_rebuilt_care_store_has_the_values_of_its_hours(home: Path, settings: Settings) -> None:
    send_now(home, [message(500 + i, patient=f"p-{i % 2}", effectiveDateTime=ago(i)) for i in range(8)])
    before = histories(settings)
    assert sum(map(len, before.values())) == 8
    settings.path(settings.care.path).unlink()
    assert restricted_datasets(settings) == ["observation"], "what is filled again is dropped first, without beds too"
    sizes = set()
    for _ in range(2):
        assert rebuild_online_store(settings) >= 8
        assert histories(settings) == before
        with closing(sqlite3.connect(settings.path(settings.care.path))) as db:
            sizes.add(db.execute("SELECT count(*), sum(length(sealed)) FROM block").fetchone())
    assert len(sizes) == 1, "no row is stored twice"


def test_a_rebuilt_care_store_gets_what_loads_and_streams_gave_it_and_no_more(tmp_path: Path) -> None:
    """It got the codes that a load leaves to devices, the patients of the training data, and jobs without a store."""
    home = tmp_path / "home"
    init_home(home, copy_samples)
    settings = load_settings(home)
    leave(make_demo_warehouse(home), stays=12)
    load_history(settings, "mimic-demo", held_out_only=True)
    before, kept_out = histories(settings), {code_number(code) for code in load_job("mimic-demo").not_to_care}
    assert before and all(map(held_out, before))
    assert len(before) < len(set(opened(settings).published.scan(columns=["patient_id"])["patient_id"].to_pylist()))
    assert not {code for values in before.values() for _, code, _ in values} & kept_out
    (home / "vitalake.yaml").write_text("jobs: {vitals: {topics: {t: fhir}, care: false}}")
    send_now(home, [message(7, effectiveDateTime=ago(1))])
    for lost in (True, False):
        if lost:
            (home / "care.db").unlink()
        rebuild_online_store(load_settings(home))
        assert histories(settings) == before


def test_a_rebuilt_care_store_knows_what_refused_messages_were_about(home: Path) -> None:
    send_now(home, [message(520 + i, patient=f"p-{i % 2}", effectiveDateTime=ago(9 - i)) for i in range(4)])
    high = {"value": 9_000, "unit": "beats/min", "code": "/min", "system": "http://unitsofmeasure.org"}
    implausible = message(530, patient="p-0", effectiveDateTime=ago(3), valueQuantity=high)
    unreadable = message(531, patient="p-1").replace(b'"effectiveDateTime"', b'"effectiveDateTime":7,"x"')
    send_now(home, [implausible, unreadable], topic_id="later")
    (home / "vitalake.yaml").write_text("jobs: {vitals: {topics: {t: fhir}}}\n")
    settings = load_settings(home)
    before = histories(settings)
    texts = str([*before.values()])  # a pseudonym can contain "nan"
    assert (texts.count("nan"), texts.count("inf")) == (3, 1), "two marks, one value too high, one unreadable"
    settings.path(settings.care.path).unlink()
    for _ in range(2):
        rebuild_online_store(settings)
        assert histories(settings) == before


def test_what_clinicians_decided_outlives_a_lost_care_store_and_new_pseudonyms(home: Path, settings: Settings) -> None:
    """After a filling again a patient on oxygen with a saturation of 97 went from "5 medium" to "2 low"."""
    send_now(home, [message(540 + i, patient=f"p-{i}", effectiveDateTime=ago(3)) for i in range(3)])
    patient, ended, other = sorted(histories(settings))
    decide(settings, patient, "spo2-scale-2", "blood-gas-now", holds="yes")
    decide(settings, ended, "pregnancy", "test-or-scan", holds="yes")
    decide(settings, ended, "pregnancy", "not-pregnant", holds="no")
    settings.path(settings.care.path).unlink()
    rebuild_online_store(settings)
    told = [("pregnancy", False, "somebody", "not-pregnant"), ("spo2-scale-2", True, "somebody", "blood-gas-now")]
    assert decisions(settings) == (told, False)
    rekey(settings)
    assert patient not in histories(settings)
    assert decisions(settings) == (told, False), "and of nobody twice"
    retire(settings, "v1")
    rekey(settings)
    assert decisions(settings) == (told, True), "the store had them; of others nobody can say"
    settings.path(settings.care.path).unlink()
    rebuild_online_store(settings)
    assert decisions(settings) == ([], True), "what the audit has is of pseudonyms that nobody can make any more"
    assert other


def test_an_audit_that_does_not_hold_is_said_where_decisions_are_missed(home: Path, settings: Settings) -> None:
    send_now(home, [message(550, patient="p-0", effectiveDateTime=ago(3))])
    (patient,) = histories(settings)
    decide(settings, patient, "spo2-scale-2", "blood-gas-now", holds="yes")
    chain = settings.path(settings.audit) / "serving.jsonl"
    chain.write_bytes(chain.read_bytes().replace(b"blood-gas-now", b"blood-gas-not"))
    rebuild_online_store(settings)
    assert decisions(settings) == ([], True)


def decide(settings: Settings, patient: str, kind: str, reason: str, *, holds: str) -> None:
    event = AuditEvent(
        "decision.write", "somebody", "clinician", (patient,), {"kind": kind, "holds": holds, "reason": reason}
    )
    open_audit(settings, load_keys(settings.path(settings.keys)), writer="serving").record(event)


def decisions(settings: Settings) -> tuple[list[tuple[str, bool, str, str]], bool]:
    care = open_online_store(settings, load_keys(settings.path(settings.keys)))
    try:
        decided: list[tuple[str, bool, str, str]] = sorted(
            (one.kind, one.holds, one.by, one.reason) for _, one in care.facts.decided()
        )
        return decided, care.completeness.lacks_decisions()
    finally:
        care.close()


def histories(settings: Settings) -> dict[str, list[tuple[int, int, str]]]:
    care = open_online_store(settings, load_keys(settings.path(settings.keys)))
    try:
        found = {patient: care.history(patient) for patient in care.patients.revisions()}
        return {
            p: sorted(zip(h.effective_us.tolist(), h.code.tolist(), map(repr, h.value.tolist()), strict=True))
            for p, h in found.items()
        }
    finally:
        care.close()


# -- a new pseudonym key -----------------------------------------------------------------------------------------


def check_rekeyed(settings: Settings, before: pa.Table) -> None:
    after = opened(settings).published.scan()
    pairs = {(a, b) for a, b in zip(by_id(before), by_id(after), strict=True)}
    assert len(pairs) == PATIENTS, "each patient has one pseudonym before and one after"
    assert all(old.startswith("v1.") and new.startswith("v2.") for old, new in pairs)
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    assert set(vault.tokens().values()) == {new for _, new in pairs}
    vault.close()
    assert keys.current("pseudonym").version == "v2" and len(keys.versions("pseudonym")) == 2
    assert sound(settings)


def by_id(rows: pa.Table) -> list[str]:
    columns = rows.select(["observation_id", "patient_id"]).to_pylist()
    return [row["patient_id"] for row in sorted(columns, key=lambda row: row["observation_id"])]


def test_rekey_gives_every_row_a_new_pseudonym_and_old_keys_can_be_retired(settings: Settings) -> None:
    before = opened(settings).published.scan()
    done = rekey(settings)
    assert (done.version, done.patients, [d.rows_after for d in done.datasets]) == ("v2", PATIENTS, [60])
    check_rekeyed(settings, before)
    retire(settings, "v1")
    assert [key.version for key in load_keys(settings.path(settings.keys)).versions("pseudonym")] == ["v2"]
    with pytest.raises(PrivacyError, match="in use"):
        retire(settings, "v2")
    assert rekey(settings).version == "v3", "a retired version's name is never used again while a newer one is there"


@pytest.mark.parametrize("point", REKEY_POINTS)
def test_killed_rekey_goes_on_with_the_same_key(home: Path, settings: Settings, point: str) -> None:
    before = opened(settings).published.scan()
    assert rewrite_process.run(home, "rekey", VITALAKE_CRASH_AT=point) == rewrite_process.KILLED
    with pytest.raises(InputError, match="under way"):
        retire(settings, "v1")
    assert rekey(settings).version == "v2"
    check_rekeyed(settings, before)


def test_care_store_follows_the_new_pseudonyms(home: Path, settings: Settings) -> None:
    send_now(home, [message(600 + i, patient=f"p-{i}", effectiveDateTime=ago(5)) for i in range(PATIENTS)])
    before = histories(settings)
    assert len(before) == PATIENTS
    rekey(settings)
    after = histories(settings)
    assert sorted(after.values()) == sorted(before.values())
    assert all(token.startswith("v2.") for token in after)


def test_the_care_store_has_what_a_lane_read_while_the_pseudonyms_changed(home: Path, settings: Settings) -> None:
    """The lane hands over before it decides: values were lost, and later ones stood under the old pseudonyms."""
    messages = [message(700 + i, patient=f"p-{i % 3}", effectiveDateTime=ago(20 - i)) for i in range(9)]
    lane = LaneWithoutKafka(home, topic_id="meanwhile")

    def read(begin: int, end: int) -> None:
        stamps, offsets = np.full(end - begin, clock.now_us() // 1000), np.arange(begin, end)
        part = np.zeros(end - begin, np.int32)
        poll = Poll("vitals/0of1", "fhir", list(messages[begin:end]), lane.parts, part, offsets, stamps)
        lane.lane.write(lane.lane.mask(lane.lane.conform(lane.lane.decode(poll))))

    read(0, 3)
    lane.lane.finish()
    read(3, 6)
    rekey(settings)
    read(6, 9)
    with pytest.raises(SpanConflict):
        lane.lane.finish()
    lane.lane.reset()
    again = LaneWithoutKafka(home, topic_id="meanwhile", begun=True)
    lane.lane, lane.offsets = again.lane, [3]
    read(3, 9)
    lane.lane.finish()
    found = histories(settings)
    assert all(token.startswith("v2.") for token in found)
    assert sum(map(len, found.values())) == 9


# -- retention ---------------------------------------------------------------------------------------------------


def test_old_days_go_in_all_zones_but_for_who_is_on_hold(settings: Settings) -> None:
    keys = load_keys(settings.path(settings.keys))
    vault = open_vault(settings, keys)
    vault.hold(vault.subject_of("p-1"), "a test")
    vault.close()
    kept = (clock.now().date() - date(2025, 6, 3)).days
    done = list(retain(settings, days=kept))
    assert [(d.table, d.before, d.days) for d in done] == [
        ("published/observation", "2025-06-03", 2), ("restricted/observation", "2025-06-03", 2),
    ]  # fmt: skip
    assert done[0].rows == done[1].rows > 0 and done[0].held == done[1].held > 0
    assert [d.rows for d in retain(settings, days=kept)] == [0, 0]
    rows = opened(settings).published.scan()
    old = [row["patient_id"] for row in rows.to_pylist() if str(row["effective_at"]) < "2025-06-03"]
    assert len(set(old)) == 1 and len(old) == done[0].held
    assert done[0].rows + len(rows) == 60
    assert sound(settings)
    assert republish(settings, "observation").rows_after == len(rows), "what is gone does not come back"
    assert sound(settings)


def test_killed_retention_goes_on(home: Path, settings: Settings) -> None:
    assert rewrite_process.run(home, "retain", VITALAKE_CRASH_AT="expired-day:2") == rewrite_process.KILLED
    assert sum(done.rows for done in retain(settings, days=1)) == 120 - 42, "of two days in the published zone"
    assert published(settings) == Counter() and sound(settings)


# -- all datasets ------------------------------------------------------------------------------------------------


def test_every_dataset_of_a_warehouse_is_rebuilt_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "PIECE_ROWS", 2_000)  # several pieces all the same
    home = tmp_path / "home"
    init_home(home, copy_samples)
    load_a_few_patients(home)
    settings = load_settings(home)
    before = everything(settings)
    assert len(before) == 7 and all(map(len, before.values()))
    shutil.rmtree(tmp_path / "home" / "lake" / "published")
    for dataset in restricted_datasets(settings):
        open_published(settings, dataset)
        republish(settings, dataset)
    assert everything(settings) == before
    assert verify(opened(settings)) == []


def load_a_few_patients(home: Path, patients: int = 5) -> None:
    """Load the demo's warehouse with the stays of few patients: each day of each dataset is a file."""
    with duckdb.connect(str(make_demo_warehouse(home))) as warehouse:
        stays = dict(warehouse.execute("SELECT hospitalization_id, patient_id FROM hospitalization").fetchall())
        few = sorted(set(stays.values()))[:patients]
        chosen = [stay for stay, patient in stays.items() if patient in few]
        for name in TABLES:
            remaining = f"DELETE FROM {name} WHERE NOT list_contains(?, hospitalization_id)"  # noqa: S608 - names of ours
            warehouse.execute(remaining, [chosen])
    command = forking.command("vitalake", "history", "load", "mimic-demo", "--home", str(home), kind="history")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def everything(settings: Settings) -> dict[str, pa.Table]:
    """Return all rows of all published tables, every column of them, in an order that follows from what they say."""
    tables = {name: table.scan() for name, table in opened(settings).present().items() if name.startswith("published/")}
    return {
        name: rows.sort_by([(column, "ascending") for column in rows.schema.names]).combine_chunks()
        for name, rows in tables.items()
    }


# -- on object storage -------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_rewrites_on_object_storage(tmp_path: Path, s3_options: dict[str, str]) -> None:  # noqa: F811
    home = tmp_path / "home"
    init_home(home, copy_samples)
    config = home / "vitalake.yaml"
    document = yaml.safe_load(config.read_text()) or {}
    document["lake"] = {"uri": f"s3://lake/{uuid.uuid4().hex}", "storage_options": s3_options}
    config.write_text(yaml.safe_dump(document))
    settings = load_settings(home)
    stream(home, range(3))
    before = published(settings)
    assert (
        rewrite_process.run(home, "republish", "observation", VITALAKE_CRASH_AT="swap-ready") == rewrite_process.KILLED
    )
    assert republish(settings, "observation").resumed == 3
    assert published(settings) == before and loose(settings) == set()
    table = opened(settings).published
    assert put_into_buckets(table, 4, closed_before="9999-12-31").days == 3
    table.refresh()
    token = table.scan()["patient_id"].to_pylist()[0]
    opened(settings).spans.raise_fence("observation")
    assert drop_rows(table, "patient_id", token).rows == 15
    assert purge(table, "patient_id", token) > 0
    assert token not in distinct_values(opened(settings).published, "patient_id")
    assert sum(published(settings).values()) == 45
    assert sound(settings)


# -- the command -------------------------------------------------------------------------------------------------


def test_command_does_one_thing_at_a_time_and_says_what(
    home: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run(home, capsys, "rewrite", code=11)
    assert main(["lake", "rewrite", "--home", str(home), "--bucket", "4"]) == 0
    told = capsys.readouterr()
    assert "published/observation: 60 rows of 3 days went into 4 buckets" in told.out
    assert "restricted/observation: 60 rows" in told.out and "rows/s" in told.err
    assert main(["lake", "rewrite", "--home", str(home), "--republish", "observation"]) == 0
    assert "60 published rows became 60, of 60 restricted ones" in capsys.readouterr().out
    assert run(home, capsys, "rewrite", "--rekey")["version"] == "v2"
    assert run(home, capsys, "rewrite", "--retire-key", "v1") == {"retired": "v1"}
    assert [t["rows"] for t in run(home, capsys, "rewrite", "--retention", "--days", "1")["tables"]] == [60, 60]
    assert run(home, capsys, "rewrite", "--give-up", "observation") == {"given_up": False}
    run(home, capsys, "rewrite", "--republish", "spans", code=11)
    assert "care_rows" in run(home, capsys, "rebuild", "care")
    assert sound(settings)
