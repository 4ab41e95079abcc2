"""Damage is named, stops nobody from reading other data than was written, and is repaired of what is still there."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.live import upkeep
from pipelines.republish.mend import mend
from pipelines.republish.republish import republish
from tests import forking
from tests.services import rewrite_process
from tests.services.polls import LaneWithoutKafka
from tests.services.test_rewrites import STRICTER, make_stricter, observed, opened, published, sound, stream
from tests.unit.vitalake.lake.span_samples import begin, of_before, staged_span
from vitalake import clock
from vitalake.cli.app import main
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import LiveLedger, summarise
from vitalake.lake.commits.span import PartId, Span, to_row
from vitalake.lake.commits.span_log import SpanConflict, SpanLog, Superseded
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.deletion import drop_rows, purge
from vitalake.lake.maintenance.rewrite import is_locked, read_file
from vitalake.lake.maintenance.scrub import record_older_files, scrub
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.maintenance.vacuum import vacuum
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.log import examine
from vitalake.lake.tables.log_files import entry_name
from vitalake.lake.tables.schema import open_delta
from vitalake.lake.tables.storage import Storage
from vitalake.lake.tables.table import Table
from vitalake.settings import Settings, load_settings
from vitalake.sqlite import DatabaseDamaged

TABLES = ["published/observation", "restricted/observation", "quarantine/dead_letter", "spans"]
FLIPS = 40
BAD = b'{"resourceType": "Nothing"}'


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 60 observations of four patients on three days, and a dead letter, in four spans."""
    home = tmp_path_factory.mktemp("damage") / "home"
    init_home(home, copy_samples)
    lane = stream(home, range(3))
    lane.send([(0, BAD)], cut=True)
    lane.lane.finish()
    return home


@pytest.fixture
def home(loaded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(loaded, tmp_path / "home"))


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home)


def table_of(lake: Lake, name: str) -> Table:
    return lake.spans.table if name == "spans" else lake.table(name)


def files_of(settings: Settings, name: str) -> list[Path]:
    table = table_of(opened(settings), name)
    return [Path(table.storage.root, path) for path in sorted(table.snapshot().files)]


def flip(path: Path, bit: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def run(home: Path, capfd: pytest.CaptureFixture[str], *command: str, code: int = 0) -> Any:
    """Run a command with --json; return what it printed, or its error."""
    assert main([*command, "--home", str(home), "--json"]) == code
    printed = capfd.readouterr()
    assert "This is a bug" not in printed.err
    return msgspec.json.decode(printed.out) if printed.out else printed.err


def look_at_everything(home: Path, capfd: pytest.CaptureFixture[str]) -> set[str]:
    """Run what looks at the lake; return the kinds that verify finds. Nothing ends as a bug, or asks to try again."""
    for command in (["sql", "SELECT count(*) FROM observation"], ["ledger"], ["lake", "tables"]):
        assert main([*command, "--home", str(home), "--json"]) in (0, 13)
        assert "This is a bug" not in capfd.readouterr().err
    code = main(["lake", "verify", "--home", str(home), "--json"])
    printed = capfd.readouterr()
    assert code == 13
    assert "This is a bug" not in printed.err
    return {finding["kind"] for finding in msgspec.json.decode(printed.out)["findings"]} if printed.out else set()


# -- bits that flip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_no_flipped_bit_is_read_as_other_data(settings: Settings, name: str) -> None:
    """336 of 400 were, without an error."""
    chosen, rolls = files_of(settings, name)[0], random.Random(name)
    whole = chosen.read_bytes()
    for _ in range(FLIPS):
        flip(chosen, rolls.randrange(len(whole) * 8))
        with pytest.raises(Damaged, match="repair"):
            table_of(opened(settings), name).scan()
        chosen.write_bytes(whole)
    assert sound(settings)


def test_sql_names_the_file_and_answers_again_once_it_is_whole(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ask = ["sql", "SELECT count(*) AS n FROM observation_versions"]
    answered = run(home, capfd, *ask)
    chosen = files_of(load_settings(home), "published/observation")[0]
    whole = chosen.read_bytes()
    flip(chosen)
    assert f"published/observation/{chosen.parent.name}/{chosen.name} (" in run(home, capfd, *ask, code=13)
    run(home, capfd, "sql", "SELECT count(*) AS n FROM encounter")  # other tables are read on
    chosen.unlink()
    assert "is gone" in run(home, capfd, *ask, code=13), "and nobody is told to try again"
    chosen.write_bytes(whole)
    assert run(home, capfd, *ask) == answered


def test_what_has_rotted_gets_no_new_digest_by_a_compaction(settings: Settings) -> None:
    flip(files_of(settings, "published/observation")[0])
    done = compact(opened(settings).published, min_files=2)
    assert (done.damaged, done.days) == (1, 2), "its day waits, the others do not"


# -- files are made again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_published_file_is_made_again_of_the_restricted_zone(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    rows, chosen = published(settings), files_of(settings, "published/observation")
    damage(chosen[0])
    assert look_at_everything(home, capfd) & {"digest-differs", "file-missing"}
    done = run(home, capfd, "lake", "repair")
    assert [files["how"] for files in done["files"]] == ["rows"]
    assert published(settings) == rows
    assert set(files_of(settings, "published/observation")) >= set(chosen[1:]), "the others are as they were"
    assert sound(settings)


def test_under_other_rules_than_it_was_made_by_the_dataset_is_published_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    make_stricter(settings)
    flip(files_of(settings, "published/observation")[0])
    table = opened(settings).published
    found = scrub(table, every_seconds=0).damaged
    assert "rules" in mend(settings, table, found, whole=False)[0].why, (
        "upkeep leaves that to whoever is asked to repair"
    )
    assert [files["how"] for files in run(home, capfd, "lake", "repair")["files"]] == ["republish"]
    assert sound(settings)


@pytest.mark.parametrize("name", TABLES)
def test_compacted_file_is_made_again_of_those_it_has_replaced(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    stream(home, range(3, 5), topic_id="more").send([(0, BAD)], cut=True)
    table = table_of(opened(settings), name)
    before = Counter(map(repr, table.scan().to_pylist()))
    assert compact(table, min_files=2).days
    flip(files_of(settings, name)[0])
    assert [files["how"] for files in run(home, capfd, "lake", "repair")["files"]] == ["replaced"]
    assert Counter(map(repr, table_of(opened(settings), name).scan().to_pylist())) == before
    assert sound(settings)


@pytest.mark.parametrize("name", ["restricted/observation", "spans"])
def test_compacted_file_is_made_again_also_when_its_log_entry_has_expired(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    table = table_of(opened(settings), name)
    before = Counter(map(repr, table.scan().to_pylist()))
    assert compact(table, min_files=2).days
    open_delta(table.storage).create_checkpoint()
    for path in entries(settings, name)[:-1]:
        path.unlink()
    flip(files_of(settings, name)[0])
    assert [files["how"] for files in run(home, capfd, "lake", "repair")["files"]] == ["replaced"]
    assert Counter(map(repr, table_of(opened(settings), name).scan().to_pylist())) == before
    assert sound(settings)


@pytest.mark.parametrize(("name", "how"), [("restricted/observation", ""), ("published/observation", "rows")])
def test_files_that_nobody_decided_never_stand_in_for_a_damaged_one(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    """100 rows were lost and 100 others doubled: a killed worker's files were as many rows as were missing."""
    table = table_of(opened(settings), name)
    before = Counter(map(repr, table.scan().to_pylist()))
    files = sorted(table.snapshot().files.values(), key=lambda file: file.path)
    lost, other = next((a, b) for a in files for b in files if a is not b and (a.day, a.rows) == (b.day, b.rows))
    rows = pa.concat_tables(read_file(table, other))
    later = pa.array([1] * rows.num_rows, pa.int64()).cast(pa.timestamp("us", "UTC"))
    at = rows.schema.get_field_index("ingested_at")
    rows = rows.set_column(at, "ingested_at", later.cast(rows.schema.field(at).type))
    table.stage(rows, stem=f"vitals.0of1.e9.{'a' * 32}")
    chosen = Path(table.storage.root, lost.path)
    whole = chosen.read_bytes()
    flip(chosen)
    done = run(home, capfd, "lake", "repair", code=0 if how else 13)
    assert [files["how"] for files in done["files"]] == [how]
    chosen.write_bytes(whole)  # where nothing could be done, the table is as it was but for this file
    assert Counter(map(repr, table_of(opened(settings), name).scan().to_pylist())) == before
    assert sound(settings)


def test_torn_erasure_costs_nobody_else_a_row(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """All rows of its days were taken out, and the next republish emptied what was published, with exit code 0."""
    table = opened(settings).restricted
    patients = table.scan(columns=["patient_id"])["patient_id"].to_pylist()
    forgotten = patients[0]
    drop_rows(table, "patient_id", forgotten)
    purge(table, "patient_id", forgotten)
    others, shown = Counter(map(repr, table.scan().to_pylist())), published(settings)
    _torn(next(path for path in entries(settings, "restricted/observation") if b'"remove"' in path.read_bytes()))
    left = run(home, capfd, "lake", "repair", code=13)["left"]
    assert "erased rows are no loss" in left[0], "and nobody is sent for a back-up that brings them back"
    later = clock.now() + timedelta(days=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: later)
        sweep(opened(settings), "vitals")  # a day later upkeep takes the lost rewrite for a killed one
    left_out = run(home, capfd, "lake", "repair", "--leave-out")["left_out"]
    assert left_out == {"restricted/observation": patients.count(forgotten)}
    assert Counter(map(repr, opened(settings).restricted.scan().to_pylist())) == others
    for command in (["lake", "rewrite", "--republish", "observation"], ["lake", "rebuild", "published"]):
        assert "--without-lost" in run(home, capfd, *command, code=13)
        assert published(settings) == shown
    run(home, capfd, "lake", "rewrite", "--republish", "observation", "--without-lost")
    assert sum(published(settings).values()) == sum(others.values())
    run(home, capfd, "lake", "rewrite", "--republish", "observation")  # asked once
    assert sound(settings)


def test_a_damaged_file_is_to_come_from_a_back_up_whatever_its_log_has_lost(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who did as they were told took out the rows of living patients, as if an erasure had deleted them."""
    _torn(entries(settings, "restricted/observation")[-1])
    done = run(home, capfd, "lake", "repair")
    assert not [note for note in done["notes"] if "erased" in note], "nobody was erased here"
    table = opened(settings).restricted
    flip(Path(table.storage.root, next(iter(table.snapshot().files))))
    left = run(home, capfd, "lake", "repair", code=13)["left"]
    assert "back-up" in left[0]
    assert "no loss" not in left[0]


def test_rows_that_a_log_has_lost_with_an_erasure_after_them_are_missed_until_they_are_back(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """A later span was added past them: the second repair called a lake whole that had lost nine rows of ten."""
    table = opened(settings).restricted
    forgotten = table.scan(columns=["patient_id"])["patient_id"].to_pylist()[0]
    drop_rows(table, "patient_id", forgotten)
    purge(table, "patient_id", forgotten)
    stream(home, range(3, 4), topic_id="v")
    others = Counter(map(repr, opened(settings).restricted.scan().to_pylist()))
    _torn(entries(settings, "restricted/observation")[1])
    for _ in range(2):
        assert "of spans" in run(home, capfd, "lake", "repair", code=13)["left"][0]
    run(home, capfd, "lake", "repair", "--leave-out")
    assert Counter(map(repr, opened(settings).restricted.scan().to_pylist())) == others
    assert sound(settings)


@pytest.mark.parametrize("point", ["repair-logs", "swap-held", "swap-committed"])
def test_killed_before_it_has_published_again_the_next_repair_does(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], point: str
) -> None:
    """The next one looked at what it had cut itself, which was nothing: a stricter republish was undone."""
    rule = STRICTER.partition("  - id: test-months")[0]
    (settings.path(settings.governance) / "test.yaml").write_text(rule)
    republish(settings, "observation", keep_replaced=True)
    strict = published(settings)
    _torn(entries(settings, "published/observation")[-1])
    assert rewrite_process.run(home, "repair", VITALAKE_CRASH_AT=point) == rewrite_process.KILLED
    assert run(home, capfd, "lake", "repair")["republished"] == ["observation"]
    assert published(settings) == strict
    assert run(home, capfd, "lake", "repair")["republished"] == [], "once"
    assert sound(settings)


def test_what_a_stricter_rule_hides_is_not_brought_back(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    rule = STRICTER.partition("  - id: test-months")[0]
    (settings.path(settings.governance) / "test.yaml").write_text(rule)
    republish(settings, "observation", keep_replaced=True)
    strict = published(settings)
    flip(files_of(settings, "published/observation")[0])
    assert [files["how"] for files in run(home, capfd, "lake", "repair")["files"]] == ["rows"]
    assert set(opened(settings).published.scan()["encounter_id"].to_pylist()) == {None}
    assert published(settings) == strict
    assert sound(settings)


def test_what_cannot_be_made_again_is_named_and_left_out_when_asked(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    flip(files_of(settings, "quarantine/dead_letter")[0])
    left = run(home, capfd, "lake", "repair", code=13)
    assert "quarantine/dead_letter: 1 rows" in left["left"][0]
    assert left["files"][0]["spans"], "and whose rows they are"
    assert run(home, capfd, "lake", "repair", "--leave-out")["left_out"] == {"quarantine/dead_letter": 1}
    assert sound(settings)


def test_damaged_look_back_does_not_stop_a_lane_for_ever(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = next(Path(home, "lake/spans-seen").glob("*.parquet"))
    flip(chosen)
    assert run(home, capfd, "lake", "repair")["lookbacks"] == 1
    stream(home, range(3, 4), topic_id="u2")
    assert sound(settings)


# -- the scrub ---------------------------------------------------------------------------------------------------


def test_scrub_finds_it_records_files_of_before_and_passes_over_what_it_has_seen(settings: Settings) -> None:
    table = opened(settings).published
    before = of_before(table)
    first = record_older_files(table)
    assert (first.recorded, first.damaged) == (len(before), [])
    assert scrub(table).files == 0, "looked at this week"
    flip(Path(table.storage.root, before[0]))
    assert [file.path for file in scrub(table, every_seconds=0).damaged] == [before[0]]
    with pytest.raises(Damaged):
        opened(settings).published.scan()
    assert scrub(table, every_seconds=0, most_bytes=1).files == 1, "a slice at a time"


def test_upkeep_makes_a_rotten_published_file_again_and_names_what_it_cannot(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    rows = published(settings)
    for name in ("published/observation", "quarantine/dead_letter"):
        flip(files_of(settings, name)[0])
    of_before(opened(settings).spans.table)  # due at once, as files of a week ago are
    monday = time.time() + 8 * 86_400
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: monday)
        upkeep._scrub(settings, opened(settings))
    assert published(settings) == rows
    records = [vars(record) for record in caplog.records if "damaged" in record.msg]
    said = {record["table"]: (record["what"], record["remedy"]) for record in records}
    assert said["published/observation"] == ("made again (rows)", "")
    assert "repair" in said["quarantine/dead_letter"][1]


def test_repair_records_the_files_of_before(home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    of_before(opened(settings).restricted)
    assert "no-digest" in {finding.kind for finding in verify(opened(settings))}
    run(home, capfd, "lake", "repair")
    assert sound(settings)


# -- logs --------------------------------------------------------------------------------------------------------


def entries(settings: Settings, name: str) -> list[Path]:
    return sorted(Path(settings.lake_uri, name, "_delta_log").glob("*.json"))


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/x")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff{" * 20)


@pytest.mark.parametrize("damage", [_torn, _empty, _garbage, _link_to_nothing])
@pytest.mark.parametrize("name", TABLES)
def test_damaged_log_entry_is_named_and_what_it_said_is_said_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    rows = published(settings)
    chosen = [path for path in entries(settings, name) if b'"add"' in path.read_bytes()][-1]
    damage(chosen)
    found = look_at_everything(home, capfd)
    assert "log-damaged" in found
    run(home, capfd, "lake", "repair")
    assert published(settings) == rows
    assert sound(settings)
    stream(home, range(3, 4), topic_id="after")
    assert sound(settings)


def test_lost_log_is_not_taken_for_an_empty_table(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = published(settings)
    shutil.rmtree(Path(settings.lake_uri, "published/observation/_delta_log"))
    assert "it is gone" in run(home, capfd, "sql", "SELECT count(*) FROM observation", code=13)
    assert "log-damaged" in look_at_everything(home, capfd)
    run(home, capfd, "lake", "rebuild", "published")
    assert published(settings) == rows
    assert sound(settings)


@pytest.mark.parametrize("name", TABLES[:3])
def test_lost_log_is_not_taken_for_an_empty_table_after_an_earlier_repair_either(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """The folder of what was set aside counted as a sign that the table is being made again."""
    rows = published(settings)
    _torn(entries(settings, name)[-1])
    run(home, capfd, "lake", "repair")
    (Path(settings.lake_uri, name) / "_damaged").mkdir(exist_ok=True)
    shutil.rmtree(Path(settings.lake_uri, name, "_delta_log"))
    assert "log-damaged" in look_at_everything(home, capfd)
    with pytest.raises(Damaged, match="gone"):
        stream(home, range(3, 4), topic_id="after")
    if name.startswith("published/"):
        run(home, capfd, "lake", "rebuild", "published")
        assert published(settings) == rows
        assert sound(settings)


@pytest.mark.parametrize("point", ["swap-held", "swap-chunk"])
@pytest.mark.parametrize("swept", [False, True])
def test_a_rebuild_that_was_killed_is_finished_by_a_repair(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], point: str, swept: bool
) -> None:
    """A repair, and a sweep, added what spans had published at first, by an earlier rule, and called the lake whole."""
    make_stricter(settings)
    republish(settings, "observation", keep_replaced=True)
    strict = published(settings)
    shutil.rmtree(Path(settings.lake_uri, "published/observation/_delta_log"))
    command = forking.command("vitalake", "lake", "rebuild", "published", "--home", str(home))
    killed = subprocess.run(command, env=os.environ | {"VITALAKE_CRASH_AT": point}, capture_output=True, check=False)
    assert killed.returncode == rewrite_process.KILLED
    assert "is to be made again" in run(home, capfd, "sql", "SELECT count(*) FROM observation", code=13)
    if swept:
        sweep(opened(settings), "vitals", lease_seconds=0)
        assert not set(published(settings)) - set(strict)
    assert run(home, capfd, "lake", "repair")["republished"] == ["observation"]
    assert published(settings) == strict
    assert sound(settings)
    shutil.rmtree(Path(settings.lake_uri, "published/observation/_delta_log"))
    assert "it is gone" in run(home, capfd, "sql", "SELECT count(*) FROM observation", code=13)


def test_rebuild_of_a_lost_log_leaves_no_file_of_before(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """No log named them any more, so that nobody deleted them for a week: rows by earlier rules, or of expired days."""
    make_stricter(settings)
    republish(settings, "observation", keep_replaced=True)
    shutil.rmtree(Path(settings.lake_uri, "published/observation/_delta_log"))
    run(home, capfd, "lake", "rebuild", "published")
    table = opened(settings).published
    assert set(table.storage.files(suffix="")) == set(table.snapshot().files)
    assert sound(settings)


@pytest.mark.parametrize("command", ["rebuild published", "rewrite --republish observation"])
@pytest.mark.parametrize(
    "lost", ["the entry that added them", "what that entry said", "the log", "nothing, but they are not added"]
)
def test_rows_that_are_only_published_are_never_replaced_by_nothing(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], lost: str, command: str
) -> None:
    """What a log had lost of them was not counted: a republish added them again, and then replaced them by nothing."""
    lake = opened(settings)
    begin(lake, shard="1of2")
    before = staged_span(lake, 0, 8, bad=0, shard="1of2")
    before.files = [file for file in before.files if not file.table.startswith("quarantine/")]
    lake.spans.decide(before)
    if lost != "nothing, but they are not added":
        lake.add(before)
    there = Path(settings.lake_uri, "published/observation")
    if lost == "the entry that added them":
        entries(settings, "published/observation")[-1].unlink()
    elif lost == "what that entry said":
        _torn(entries(settings, "published/observation")[-1])
    elif lost == "the log":
        shutil.rmtree(there / "_delta_log")
    files = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    for _ in range(2):
        assert "have no identified rows" in run(home, capfd, "lake", *command.split(), code=13)
    assert {path: path.read_bytes() for path in there.rglob("*") if path.is_file()} == files
    if lost == "the log":
        assert "it is gone" in run(home, capfd, "sql", "SELECT count(*) FROM observation", code=13)
        return
    run(home, capfd, "lake", "repair", code=13 if lost == "what that entry said" else 0)
    assert sum(published(settings).values()) == 68


def test_open_ledger_counts_no_span_that_a_repair_has_dropped(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """It has no files and is the last one: its messages are read again."""
    lane = LaneWithoutKafka(home, topic_id="open")
    lane.send([(0, None)], cut=True)
    lane.lane.steps.close()
    ledger = LiveLedger(opened(settings).spans)
    assert ledger.refresh().total.counts.tombstones == 1
    _torn(next(path for path in reversed(entries(settings, "spans")) if b'"add"' in path.read_bytes()))
    run(home, capfd, "lake", "repair")
    fresh = summarise(opened(settings).spans)
    assert fresh.total.counts.tombstones == 0
    assert ledger.refresh().to_json() == fresh.to_json()


def test_rebuild_publishes_again_over_a_log_that_cannot_be_read(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = published(settings)
    _torn(entries(settings, "published/observation")[1])
    run(home, capfd, "lake", "rebuild", "published")
    assert published(settings) == rows
    assert sound(settings)


def test_deleted_restricted_file_stops_a_republish_and_no_table_waits_for_it(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = files_of(settings, "restricted/observation")[0]
    whole = chosen.read_bytes()
    chosen.unlink()
    assert chosen.name in run(home, capfd, "lake", "rewrite", "--republish", "observation", code=13)
    assert not is_locked(opened(settings).restricted)
    assert "restricted/observation" in run(home, capfd, "lake", "repair", code=13)["left"][0]
    chosen.write_bytes(whole)
    assert sound(settings)


def test_lost_newest_entry_of_the_spans_is_noticed_before_anything_is_read_twice(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = published(settings)
    part = PartId("t", "u", 0)
    for path in reversed(entries(settings, "spans")):  # from the last decision on
        decision = b'"add"' in path.read_bytes()
        path.unlink()
        if decision:
            break
    with pytest.raises(Damaged, match="behind"):
        opened(settings).roll_forward([part], since_us=0)
    assert "positions-behind" in look_at_everything(home, capfd)
    run(home, capfd, "lake", "repair")
    opened(settings).roll_forward([part], since_us=0)
    assert published(settings) == rows
    assert sound(settings)


@pytest.mark.parametrize("name", TABLES)
def test_changed_number_in_the_newest_entry_is_named_and_said_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """No later entry has its digest: a position, or which load was the last one, was another one in silence."""
    rows, newest = published(settings), entries(settings, name)[-1]
    text = newest.read_text()
    for found in re.finditer(r'"appId":"[^"]+","version":\d*(\d)}', text):
        newest.write_text(text[: found.start(1)] + str((int(found[1]) + 1) % 10) + text[found.end(1) :])
        assert "log-damaged" in look_at_everything(home, capfd), found[0]
    run(home, capfd, "lake", "repair")
    assert published(settings) == rows
    assert sound(settings)


def test_no_flipped_bit_of_a_log_is_taken_for_what_was_written(settings: Settings) -> None:
    """An entry has no checksum: a flipped digit of a position would be a position, and messages passed over."""
    storage, rolls = opened(settings).spans.table.storage, random.Random(1)
    stream(settings.home, range(3, 5), topic_id="more")
    open_delta(storage).create_checkpoint()
    stream(settings.home, range(3, 4), topic_id="yet-more")
    chosen = sorted(Path(storage.root, "_delta_log").glob("0*"))
    state = _state(storage)
    for _ in range(FLIPS):
        path = rolls.choice(chosen)
        whole = path.read_bytes()
        flip(path, rolls.randrange(len(whole) * 8))
        try:
            assert _state(storage) == state, path.name
        except Damaged:
            assert examine(storage)
        path.write_bytes(whole)
    assert sound(settings)


def _state(storage: Storage) -> tuple[Any, ...]:
    delta = open_delta(storage)
    actions = pa.table(delta.get_add_actions()).sort_by("path").to_pylist()
    apps = [f"observation/{topic}/0" for topic in ("u", "more", "yet-more")]
    return actions, [delta.transaction_version(app) for app in apps], delta.version()


def test_damaged_checkpoint_and_a_wrong_hint_are_named_and_set_aside(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, log = published(settings), Path(settings.lake_uri, "published/observation/_delta_log")
    open_delta(opened(settings).published.storage).create_checkpoint()
    stream(home, range(3, 4), topic_id="more")
    rows, (checkpoint,) = published(settings), log.glob("*.checkpoint.parquet")
    for damage in (lambda: checkpoint.write_bytes(b"PAR1"), lambda: flip(checkpoint), checkpoint.unlink):
        whole, hint = checkpoint.read_bytes(), (log / "_last_checkpoint").read_bytes()
        damage()
        assert "log-damaged" in look_at_everything(home, capfd)
        assert "_last_checkpoint" in run(home, capfd, "lake", "repair")["logs"][0]["set_aside"]
        assert published(settings) == rows
        assert sound(settings)
        checkpoint.write_bytes(whole)
        (log / "_last_checkpoint").write_bytes(hint)


@pytest.mark.parametrize("version", ["null", '"2"', "[2]", "{}", "-3"])
def test_hint_that_names_no_version_stops_no_commit_and_no_repair(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], version: str
) -> None:
    table = opened(settings).published
    table.delta.create_checkpoint()
    Path(table.storage.root, "_delta_log", "_last_checkpoint").write_text(f'{{"version":{version},"size":2}}')
    assert table.commit_when(lambda: "commit", transactions={"test": 1})
    assert "log-damaged" in look_at_everything(home, capfd)
    run(home, capfd, "lake", "repair")
    assert sound(settings)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("behind", "damage"), [(0, Path.unlink), (1, Path.unlink), (0, _empty)])
def test_log_that_ends_with_a_checkpoint_goes_on_from_it(
    home: Path,
    settings: Settings,
    capfd: pytest.CaptureFixture[str],
    name: str,
    behind: int,
    damage: Callable[[Path], None],
) -> None:
    """It could be read, and nothing be committed any more; the repair ended with a traceback, or waited for ever."""
    table_of(opened(settings), name).delta.create_checkpoint()
    checkpoint = len(entries(settings, name)) - 1
    stream(home, range(3, 3 + behind), topic_id="more")
    rows = published(settings)
    for path in entries(settings, name)[checkpoint:]:
        damage(path)
    assert "log-damaged" in {finding["kind"] for finding in run(home, capfd, "lake", "verify", code=13)["findings"]}
    (log,) = run(home, capfd, "lake", "repair")["logs"]
    assert log["restored"] == [entry_name(checkpoint)]
    assert published(settings) == rows
    assert sound(settings)
    stream(home, range(4, 5), topic_id="after")
    assert sound(settings)


def test_span_that_was_decided_before_the_clock_was_set_back_is_added_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor was added first, by its time, and so it counted as added; nothing brought it back."""
    now, lane = clock.now_us(), LaneWithoutKafka(home, topic_id="back")
    for number, hours in ((3, 0), (4, -1), (5, -30)):
        monkeypatch.setattr(clock, "now_us", lambda at=now + hours * 3_600_000_000: at)
        lane.send([(0, observed(number))], cut=True)
    lane.lane.finish()
    monkeypatch.undo()
    rows = published(settings)
    for name in ("published/observation", "restricted/observation"):
        for path in entries(settings, name)[-3:]:
            path.unlink()
    run(home, capfd, "lake", "repair")
    assert published(settings) == rows
    assert sound(settings)


def test_fence_that_a_log_has_lost_is_never_raised_to_the_same_height_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows that were decided under it counted as newer than the next republish, and were published by earlier rules."""
    republish(settings, "observation", keep_replaced=True)
    stream(home, range(3, 4), topic_id="more")
    height = opened(settings).spans.raise_fence("observation")
    _torn(next(path for path in entries(settings, "spans") if b"fence/" in path.read_bytes()))
    run(home, capfd, "lake", "repair")
    repaired = opened(settings).spans.fence("observation")
    assert repaired > height
    run(home, capfd, "lake", "repair")
    assert opened(settings).spans.fence("observation") == repaired, "once"
    assert sound(settings)
    rule = STRICTER.partition("  - id: test-months")[0]
    (settings.path(settings.governance) / "test.yaml").write_text(rule)
    republish(settings, "observation")
    assert set(opened(settings).published.scan()["encounter_id"].to_pylist()) == {None}
    assert sound(settings)


@pytest.mark.parametrize("fence", [True, False])
def test_writer_that_was_open_before_a_repair_decides_nothing_after_it(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], fence: bool
) -> None:
    """The fence was back where it was before the lost raise, and a lane published by earlier rules; so was an epoch."""
    lane = LaneWithoutKafka(home, topic_id="open")
    lane.send([(0, observed(1))], cut=True)
    if fence:
        opened(settings).spans.raise_fence("observation")
    else:  # a successor
        opened(settings).spans.begin_epoch(job="vitals", shard="0of1")
    _torn(entries(settings, "spans")[-1])
    run(home, capfd, "lake", "repair")
    with pytest.raises((SpanConflict, Superseded)):
        lane.send([(0, observed(2))], cut=True)
    assert sound(settings)


@pytest.mark.parametrize("job", ["vitals", "one-that-never-began"])
def test_epoch_that_a_log_has_lost_is_not_begun_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], job: str
) -> None:
    lost = opened(settings).spans.begin_epoch(job=job, shard="0of1")
    _torn(entries(settings, "spans")[-1])
    run(home, capfd, "lake", "repair")
    assert opened(settings).spans.begin_epoch(job=job, shard="0of1") > lost


def test_repair_of_a_log_that_cannot_be_written_says_so(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    log = Path(settings.lake_uri, "spans", "_delta_log")
    _torn(entries(settings, "spans")[-1])
    (log.parent / "_damaged").write_bytes(b"")  # in the place of the folder to which files are moved
    run(home, capfd, "lake", "repair", code=14)
    (log.parent / "_damaged").unlink()
    run(home, capfd, "lake", "repair")
    assert sound(settings)


# -- SQLite ------------------------------------------------------------------------------------------------------


def _no_database(path: Path) -> None:
    path.write_bytes(b"\x00\xff{" * 400)


def _torn_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(content)


def _without_wal(path: Path) -> Path:
    """Move what the write-ahead log holds into the file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.mark.parametrize("damage", [_no_database, _torn_pages])
def test_damaged_care_store_is_named_once_and_filled_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    care = _without_wal(settings.path(settings.care.path))
    damage(care)
    assert "Online store is damaged: care.db" in run(home, capfd, "lake", "rebuild", "care", code=13)
    with pytest.raises(DatabaseDamaged) as told:
        stream(home, range(3, 4), topic_id="after")
    assert not told.value.transient, "a lane does not try again for ever"
    for path in care.parent.glob(f"{care.name}*"):
        path.unlink()
    assert run(home, capfd, "lake", "rebuild", "care")["care_rows"] >= 0
    stream(home, range(3, 4), topic_id="again")


@pytest.mark.parametrize("damage", [_no_database, _torn_pages])
def test_damaged_vault_is_named_and_goes_on_from_its_back_up(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    vault = _without_wal(settings.path(settings.vault))
    whole = vault.read_bytes()
    damage(vault)
    assert "Vault is damaged" in run(home, capfd, "lake", "rewrite", "--republish", "observation", code=13)
    vault.write_bytes(whole)
    run(home, capfd, "lake", "rewrite", "--republish", "observation")
    assert sound(settings)


@pytest.mark.parametrize("name", TABLES)
def test_deleted_file_of_any_table_is_named_by_whatever_needs_it(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    chosen = files_of(settings, name)[0]
    chosen.unlink()
    with pytest.raises(Damaged, match="is gone"):
        table_of(opened(settings), name).scan()
    for command in (
        ["ledger"],
        ["dead-letters", "list"],
        ["dead-letters", "show", "t[0]", "60"],
        ["lake", "compact", "--min-files", "2"],
    ):
        code = main([*command, "--home", str(home), "--json"])
        printed = capfd.readouterr()
        assert code in (0, 13), command
        assert "This is a bug" not in printed.err, command
    assert look_at_everything(home, capfd) & {"file-missing", "spans-unreadable"}


def test_log_of_the_spans_without_a_beginning_is_left_to_a_back_up(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = {path: path.read_bytes() for path in entries(settings, "spans")[:2]}
    for path in kept:
        path.write_bytes(b"")
    assert "back-up" in run(home, capfd, "lake", "repair", code=13)["left"][0]
    assert "log-damaged" in look_at_everything(home, capfd)
    for path, whole in kept.items():
        path.write_bytes(whole)
    assert sound(settings)


@pytest.mark.parametrize("name", ["keys.yaml", "vault-keys.yaml", "vitalake.yaml", "erasures.jsonl"])
@pytest.mark.parametrize("damage", [_garbage, _torn])
def test_damaged_file_of_the_home_is_named_and_never_a_bug(
    home: Path, capfd: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    if not (home / name).exists():
        (home / name).write_bytes(b"{}")
    damage(home / name)
    for command in (["lake", "rewrite", "--republish", "observation"], ["keys", "status"]):
        assert main([*command, "--home", str(home)]) in (0, 10, 12, 13), command
        assert "This is a bug" not in capfd.readouterr().err, command


def test_a_lost_span_without_files_leaves_no_gap_in_the_ledger(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Repeats alone make a span with no files, which no table could vouch for: a repair left it out for ever."""
    lane = stream(home, range(3, 4), topic_id="again")
    lane.send([(0, observed(60 + i, day=1 + i % 3)) for i in range(20)], cut=True)
    lost = len(entries(settings, "spans"))
    lane.send([(0, observed(80 + i, day=1 + i % 3)) for i in range(20)], cut=True)
    before = summarise(opened(settings).spans).to_json()
    assert before["duplicate"] == 20
    _torn(entries(settings, "spans")[lost - 1])
    run(home, capfd, "lake", "repair")
    assert summarise(opened(settings).spans).to_json() == before
    assert sound(settings)


@pytest.fixture(scope="module")
def three_spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three spans of one partition: five rows, two dead letters, five rows."""
    home = tmp_path_factory.mktemp("spans") / "home"
    init_home(home, copy_samples)
    lane = LaneWithoutKafka(home)
    for numbers in (range(5), None, range(5, 10)):
        lane.send([(0, observed(n)) for n in numbers] if numbers else [(0, BAD), (0, BAD)], cut=True)
    lane.lane.finish()
    lane.lane.steps.close()
    return home


@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("others", [*((name,) for name in TABLES[:3]), tuple(TABLES[:2]), tuple(TABLES[:3])])
def test_logs_that_are_damaged_together_lose_no_span_that_positions_have_passed(
    three_spans: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], which: int, others: tuple[str, ...]
) -> None:
    """Spans whose files no table named any more were dropped, and the lane went on behind them."""
    home = Path(shutil.copytree(three_spans, tmp_path / "home"))
    settings = load_settings(home)
    rows = published(settings)
    for name in (*others, "spans"):
        added = [path for path in entries(settings, name) if b'"add"' in path.read_bytes()]
        _torn(added[min(which, len(added) - 1)])
    run(home, capfd, "lake", "repair")
    lake = opened(settings)
    position = lake.spans.positions("observation", [PartId("t", "u", 0)])[PartId("t", "u", 0)] or 0
    spans = [(part.start, part.end) for span in lake.spans.all_spans() for part in span.parts]
    assert sorted(spans) == [one for one in ((0, 5), (5, 7), (7, 12)) if one[1] <= position]
    # What no position is beyond is read again.
    assert sum(published(settings).values()) == {12: 10, 7: 5, 5: 5, 0: 0}[position]
    assert not set(published(settings)) - set(rows)
    assert sound(settings)


def test_spans_whose_files_were_compacted_long_ago_are_decided_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint names replaced files for a week: older spans were dropped, and every load was sent to repair."""
    home, ago = tmp_path / "home", timedelta(days=10)
    init_home(home, copy_samples)
    settings = load_settings(home)
    stream(home, range(2))
    rows = published(settings)
    with monkeypatch.context() as patched:
        now, now_us = clock.now, clock.now_us
        patched.setattr(clock, "now", lambda: now() - ago)
        patched.setattr(clock, "now_us", lambda: now_us() - ago // timedelta(microseconds=1))
        for name in TABLES[:2]:
            assert compact(opened(settings).table(name), min_files=2).days
    for name in TABLES[:2]:
        table = opened(settings).table(name)
        table.delta.create_checkpoint()
        table.record_checkpoint()
        vacuum(opened(settings), table)
    _torn(next(path for path in entries(settings, "spans") if b'"add"' in path.read_bytes()))
    run(home, capfd, "lake", "repair")
    assert len(list(opened(settings).spans.all_spans())) == 2
    assert published(settings) == rows
    assert sound(settings)


def test_a_span_that_nobody_decided_is_not_decided_by_a_repair(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker was killed before it could: who reads its messages again may read them under other rules."""
    lane, decide = LaneWithoutKafka(home, topic_id="open"), SpanLog.decide
    lane.send([(0, observed(1))], cut=True)

    def killed(log: SpanLog, span: Span) -> None:
        log.table.stage(to_row(span), stem=span.span_id)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SpanLog, "decide", killed)
        lane.send([(0, observed(2))], cut=True)
    assert SpanLog.decide is decide
    spans = list(opened(settings).spans.all_spans())
    twin = msgspec.structs.replace(spans[0], span_id=f"vitals.0of1.e1.{'a' * 32}", files=[])  # read again since
    opened(settings).spans.table.stage(to_row(twin), stem=twin.span_id)
    rows = published(settings)
    _torn(next(path for path in entries(settings, "spans") if b'"add"' in path.read_bytes()))
    run(home, capfd, "lake", "repair")
    assert {span.span_id for span in opened(settings).spans.all_spans()} == {span.span_id for span in spans}
    assert published(settings) == rows
    assert sound(settings)


@pytest.mark.parametrize("merged", [False, True])
def test_a_row_of_the_spans_that_was_left_out_is_taken_in_again_once_a_back_up_has_its_file(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], merged: bool
) -> None:
    """Only who restored it before --leave-out, which nothing said, had a lake that was ever whole again."""
    if merged:
        table = opened(settings).spans.table
        assert compact(table, min_files=2).days
        vacuum(opened(settings), table, retention_hours=0)
    before, rows = summarise(opened(settings).spans).to_json(), published(settings)
    chosen = files_of(settings, "spans")[0]
    whole = chosen.read_bytes()
    flip(chosen)
    (left,) = run(home, capfd, "lake", "repair", code=13)["left"]
    assert "back-up" in left and "works after --leave-out" in left and chosen.name in left
    for options in (["--leave-out"], []):
        told = run(home, capfd, "lake", "repair", *options, code=13)["left"]
        assert "spans: some decided spans are missing" in told[-1]
    stream(home, range(3, 4), topic_id="between")
    rows = published(settings)
    chosen.write_bytes(whole)
    (log,) = run(home, capfd, "lake", "repair")["logs"]
    assert (log["table"], log["spans"]) == ("spans", 4 if merged else 1)
    after = summarise(opened(settings).spans).to_json()
    assert (after["balanced"], after["messages"]) == (True, before["messages"] + 20)
    assert published(settings) == rows
    assert sound(settings)
    stream(home, range(3, 4), topic_id="after")
    assert sound(settings)


def test_verify_names_positions_nobody_accounts_for_and_tables_that_are_gone(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpanLog, "spans_of", lambda log, day: _without_second(spans_of(log, day)))
        assert "positions-missing" in {finding.kind for finding in verify(opened(settings))}
    shutil.rmtree(Path(settings.lake_uri, "restricted/observation"))
    assert "table-missing" in look_at_everything(home, capfd)


spans_of = SpanLog.spans_of


def _without_second(spans: list[Span]) -> list[Span]:
    return spans[:1] + spans[2:]


# -- what every table and home has besides -----------------------------------------------------------------------


def _wrong_word(path: Path) -> None:
    """Change a bit such that it still is JSON, which delta-rs cannot read."""
    content = path.read_bytes()
    at = max(content.find(b'"partitionColumns"'), content.find(b'"schemaString"')) + 3
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize("damage", [_torn, _wrong_word, Path.unlink, _link_to_nothing])
@pytest.mark.parametrize("name", ["restricted/observation", "quarantine/dead_letter", "spans"])
def test_first_entry_of_a_log_is_written_again_and_nothing_else_of_it(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    """It says what the table is: without it everything had to come from a back-up, or was "tried again"."""
    before = Counter(map(repr, table_of(opened(settings), name).scan().to_pylist()))
    damage(entries(settings, name)[0])
    assert "log-damaged" in look_at_everything(home, capfd)
    (log,) = run(home, capfd, "lake", "repair")["logs"]
    assert (log["table"], log["spans"]) == (name, 0)
    assert Counter(map(repr, table_of(opened(settings), name).scan().to_pylist())) == before
    assert run(home, capfd, "lake", "repair")["notes"] == [], "no erasure can be lost with it"
    stream(home, range(3, 4), topic_id="after")
    assert sound(settings)


def test_changed_record_of_digests_is_named_and_not_the_files_it_tells_of(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sound files were called damaged, and --leave-out would have taken them out."""
    of_before(opened(settings).restricted)
    run(home, capfd, "lake", "repair")
    (chosen,) = Path(settings.lake_uri, "restricted/observation").glob("_digests.json")
    content = chosen.read_bytes()
    at = content.index(b'"digest":"', content.index(b".parquet")) + len(b'"digest":"')
    chosen.write_bytes(content[:at] + (b"1" if content[at : at + 1] == b"0" else b"0") + content[at + 1 :])
    found = run(home, capfd, "lake", "verify", code=13)["findings"]
    assert [finding["where"] for finding in found] == ["restricted/observation/_digests.json"]
    left = run(home, capfd, "lake", "repair", "--leave-out", code=13)
    assert left["left_out"] == {}
    assert "_digests.json" in left["left"][0]
    chosen.unlink()
    run(home, capfd, "lake", "repair")
    assert sound(settings)


@pytest.mark.parametrize("expired", [False, True])
def test_what_a_lost_entry_had_removed_is_not_shown_while_nobody_can_publish_again(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], expired: bool
) -> None:
    """After a repair that could not publish again, rows of expired days or by earlier rules were read."""
    files_of(settings, "restricted/observation")[0].unlink()
    run(home, capfd, "lake", "repair", "--leave-out")
    if expired:
        run(home, capfd, "lake", "rewrite", "--retention", "--days", "1")
    else:
        make_stricter(settings)
        run(home, capfd, "lake", "rewrite", "--republish", "observation", "--without-lost", "--keep-replaced")
        files_of(settings, "restricted/observation")[0].unlink()
        run(home, capfd, "lake", "repair", "--leave-out")
    strict = published(settings)
    _torn(entries(settings, "published/observation")[-1])
    run(home, capfd, "lake", "repair", code=13)
    assert "is to be made again" in run(home, capfd, "sql", "SELECT count(*) FROM observation", code=13)
    assert "not-made-again" in look_at_everything(home, capfd)
    run(home, capfd, "lake", "rewrite", "--republish", "observation", "--without-lost")
    assert not set(published(settings)) - set(strict)
    run(home, capfd, "sql", "SELECT count(*) FROM observation")


@pytest.mark.parametrize("left", [None, "_delta_log"])
def test_a_published_folder_that_is_gone_is_made_again_before_anybody_goes_on(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str], left: str | None
) -> None:
    """It counted as a new table: queries answered nothing, and then what a stream had added."""
    rows, folder = published(settings), Path(settings.lake_uri, "published/observation")
    shutil.rmtree(folder)
    if left:
        (folder / left).mkdir(parents=True)
    for command in (["sql", "SELECT count(*) FROM observation"], *GONE):
        assert "Published table is gone" in run(home, capfd, *command, code=13)
    with pytest.raises(Damaged, match="Published table is gone"):
        Lake(settings.lake_uri, settings.storage_options).open_all()
    process = forking.command("vitalake", "lake", "rebuild", "published", "--home", str(home))
    environment = os.environ | {"VITALAKE_CRASH_AT": "swap-chunk"}
    killed = subprocess.run(process, env=environment, capture_output=True, check=False)
    assert killed.returncode == rewrite_process.KILLED
    assert "is to be made again" in run(home, capfd, "sql", "SELECT count(*) FROM observation", code=13)
    Lake(settings.lake_uri, settings.storage_options).open_all()
    assert run(home, capfd, "lake", "repair")["republished"] == ["observation"]
    assert published(settings) == rows
    assert sound(settings)
    shutil.rmtree(folder)
    assert run(home, capfd, "lake", "repair")["republished"] == ["observation"], "a repair alone makes it again too"
    assert published(settings) == rows
    assert sound(settings)


GONE = (
    ["lake", "rewrite", "--republish", "observation"],
    ["lake", "rewrite", "--rekey"],
    ["lake", "rewrite", "--give-up", "observation"],
)


def test_a_repair_publishes_again_what_a_lost_entry_had_published_by_todays_rules(
    home: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the lock was left of it: the repair called the lake whole, and rows by earlier rules stayed."""
    make_stricter(settings)
    republish(settings, "observation", keep_replaced=True)
    strict = published(settings)
    entries(settings, "published/observation")[-1].unlink()
    if published(settings) == strict:  # an entry with nothing but a checkpoint's digest
        entries(settings, "published/observation")[-1].unlink()
    assert published(settings) != strict
    assert run(home, capfd, "lake", "repair")["republished"] == ["observation"]
    assert published(settings) == strict
    assert sound(settings)
