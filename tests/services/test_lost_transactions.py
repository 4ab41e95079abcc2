"""Each transaction that a log can lose is right again after a repair, as the list of transactions says."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.reconcile.watching import SpanWatch
from pipelines.republish.repair import repair
from pipelines.republish.republish import republish
from tests.services.polls import LaneWithoutKafka
from tests.services.test_rewrites import observed, opened, published, sound, stream
from vitalake import clock
from vitalake.lake.commits.span import Span
from vitalake.lake.commits.span_log import SpanConflict, SpanLog, Superseded
from vitalake.lake.commits.transactions import KINDS, Name, kind_of
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.tables.table import Table
from vitalake.settings import load_settings

OF_SPANS = {"position", "topic", "claim", "last load", "fence", "epoch", "repaired", "associations", "looked"}
"""Kinds that only the spans table has, without its own maintenance."""


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)


def _transactions(path: Path) -> Iterator[tuple[str, int]]:
    for line in path.read_bytes().splitlines():
        action: dict[str, Any] = msgspec.json.decode(line)
        if "txn" in action:
            yield action["txn"]["appId"], action["txn"]["version"]


def _with(kind: Name, entries: list[Path]) -> list[Path]:
    return [path for path in entries if any(kind_of(app)[0] == kind for app, _ in _transactions(path))]


def _entries(home: Path, table: str = "spans") -> list[Path]:
    return sorted(Path(home, "lake", table, "_delta_log").glob("*.json"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose spans table has transactions of every kind that only it has, most of them more than once."""
    home = tmp_path_factory.mktemp("transactions") / "home"
    init_home(home, copy_samples)
    settings = load_settings(home)
    decide = SpanLog.decide
    for number, topic_id in enumerate(("u", "v")):
        opened(settings).spans.claim(job="vitals", dataset="observation", topic_ids=[topic_id])
        stream(home, range(2 * number, 2 * number + 1), topic_id=topic_id)
        opened(settings).spans.raise_fence("observation")
        with pytest.MonkeyPatch.context() as patched:  # a load of a warehouse

            def decide_load(log: SpanLog, span: Span) -> None:
                span.load_us = clock.now_us()
                decide(log, span)

            patched.setattr(SpanLog, "decide", decide_load)
            opened(settings).spans.claim(job="vitals", dataset="observation", topic_ids=[f"load-{topic_id}"])
            stream(home, range(2 * number + 1, 2 * number + 2), topic_id=f"load-{topic_id}")
        SpanWatch(opened(settings)).record(number + 1)
        if not number:
            compact(opened(settings).spans.table, min_files=2)
        opened(settings).spans.begin_epoch(job="topic", shard=f"{number}of2")  # a job may be called like that
        _tear(_entries(home)[-1])
        repair(settings)
    opened(settings).spans.begin_epoch(job="topic", shard="0of2")
    assert sound(settings)
    return home


def _chosen(home: Path) -> list[Path]:
    """Return the first and the last entry with a transaction of each kind."""
    found: dict[str | None, list[Path]] = defaultdict(list)
    for path in _entries(home)[1:]:
        for app, _ in _transactions(path):
            found[kind_of(app)[0]].append(path)
    assert found.keys() >= OF_SPANS
    return sorted({path for paths in found.values() for path in (paths[0], paths[-1])})


def test_each_entry_of_the_spans_log_can_be_lost_and_every_transaction_is_right_again(
    loaded: Path, tmp_path: Path
) -> None:
    """One review after the other found a kind that a repair did not bring back: fences, epochs, claims, loads."""
    restored = {kind.name: kind.restored for kind in KINDS}
    rows, before = published(load_settings(loaded)), dict(opened(load_settings(loaded)).spans.table.all_transactions())
    spans = [span.span_id for span in opened(load_settings(loaded)).spans.all_spans()]
    for number, path in enumerate(_chosen(loaded)):
        home = Path(shutil.copytree(loaded, tmp_path / str(number)))
        settings = load_settings(home)
        kinds = sorted({str(kind_of(app)[0]) for app, _ in _transactions(path)})
        _tear(Path(home, path.relative_to(loaded)))
        repair(settings)
        log = opened(settings).spans
        after = log.table.all_transactions()
        for app, was in before.items():
            name, named = kind_of(app)
            assert name is not None, f"{app} is not in the list"
            told = f"{app} after the loss of {path.name} ({', '.join(kinds)}): {after.get(app)}, it was {was}"
            if restored[name] == "from spans":
                assert after.get(app) == was, told
            elif restored[name] == "lower":
                assert (after.get(app) or 0) <= was, told
            elif name == "epoch":
                assert log.begin_epoch(job=named["job"], shard=named["shard"]) > was, told
            elif restored[name] == "above":
                assert (after.get(app) or 0) > was, told
        assert [span.span_id for span in log.all_spans()] == spans
        assert published(settings) == rows
        assert sound(settings)


@pytest.mark.parametrize("how", ["fence", "epoch"])
@pytest.mark.parametrize("more", range(5))
def test_who_began_between_two_repairs_is_fenced_off_by_the_second(
    loaded: Path, tmp_path: Path, how: str, more: int
) -> None:
    """The entry by which the first one raised them can be lost, too, and the log then have as many entries as before.

    A lane that had read the lost ones went on with what these said, and decided under a fence that was raised.
    """
    home = Path(shutil.copytree(loaded, tmp_path / "home"))
    settings = load_settings(home)
    lane = LaneWithoutKafka(home, topic_id="open")
    lane.send([(0, observed(1))], cut=True)
    if how == "fence":
        opened(settings).spans.raise_fence("observation")
    else:
        opened(settings).spans.begin_epoch(job="vitals", shard="0of1")
    _tear(_with("repaired", _entries(home))[-1])
    repair(settings)
    for number in range(more):
        opened(settings).spans.begin_epoch(job="other", shard=f"{number}of5")
    with pytest.raises((SpanConflict, Superseded)):
        lane.send([(0, observed(2))], cut=True)
    assert sound(settings)


@pytest.mark.parametrize("more", range(4))
def test_who_is_open_while_a_log_is_restored_from_a_back_up_reads_it_again(
    loaded: Path, tmp_path: Path, more: int
) -> None:
    """What was known of the lost entries was mixed with what came after them: of an association, or of a fence."""
    home = Path(shutil.copytree(loaded, tmp_path / "home"))
    settings = load_settings(home)
    log = home / "lake" / "spans" / "_delta_log"
    shutil.copytree(log, tmp_path / "back-up")
    opened(settings).spans.begin_epoch(job="before", shard="0of1")
    opened(settings).spans.begin_epoch(job="before", shard="0of1")
    open_since = opened(settings).spans
    assert open_since.current_epoch(job="before", shard="0of1")
    shutil.rmtree(log)
    shutil.copytree(tmp_path / "back-up", log)
    for number in range(more):
        opened(settings).spans.begin_epoch(job="after", shard=f"{number}of4")
    open_since.table.refresh()
    assert open_since.table.all_transactions() == opened(settings).spans.table.all_transactions()
    assert open_since.table.delta.version() == opened(settings).spans.table.delta.version()


def test_a_repair_between_the_check_and_the_commit_of_a_span_refuses_the_span(loaded: Path, tmp_path: Path) -> None:
    """What the repair has raised is no newer than what the span was planned on, so that Delta compares nothing."""
    home = Path(shutil.copytree(loaded, tmp_path / "home"))
    settings = load_settings(home)
    lane = LaneWithoutKafka(home, topic_id="open")
    commit, table = Table.commit, lane.lane.lake.spans.table

    def commit_after_a_repair(self: Table, **arguments: Any) -> None:
        if self is table:
            patched.setattr(Table, "commit", commit)
            _tear(_entries(home)[-2])
            repair(settings)
        commit(self, **arguments)

    with pytest.MonkeyPatch.context() as patched, pytest.raises((SpanConflict, Superseded)):
        patched.setattr(Table, "commit", commit_after_a_repair)
        lane.send([(0, observed(1))], cut=True)
    assert sound(settings)


def test_fences_are_raised_also_if_somebody_has_tidied_away_what_an_earlier_repair_set_aside(
    loaded: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(loaded, tmp_path / "home"))
    settings = load_settings(home)
    shutil.rmtree(home / "lake" / "spans" / "_damaged")
    lane = LaneWithoutKafka(home, topic_id="open")
    lane.send([(0, observed(1))], cut=True)
    opened(settings).spans.raise_fence("observation")
    _tear(_entries(home)[-1])
    repair(settings)
    with pytest.raises((SpanConflict, Superseded)):
        lane.send([(0, observed(2))], cut=True)


@pytest.mark.parametrize("table", ["published/observation", "restricted/observation"])
@pytest.mark.parametrize("kind", ["lock", "maintenance"])
def test_locks_and_rewrites_of_a_table_can_be_lost(loaded: Path, tmp_path: Path, table: str, kind: Name) -> None:
    home = Path(shutil.copytree(loaded, tmp_path / "home"))
    settings = load_settings(home)
    rows = published(settings)
    republish(settings, "observation")
    for which in (0, -1):
        having = [
            path for path in _entries(home, table) if any(kind_of(app)[0] == kind for app, _ in _transactions(path))
        ]
        _tear(having[which])
        repair(settings)
        assert published(settings) == rows
        assert sound(settings)
        republish(settings, "observation")
        assert published(settings) == rows
        assert sound(settings)


def test_every_transaction_of_a_lake_is_in_the_list(loaded: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(loaded, tmp_path / "home"))
    republish(load_settings(home), "observation")
    logs = Path(home, "lake").rglob("_delta_log/*.json")
    apps = {app for path in logs for app, _ in _transactions(path)}
    assert {kind_of(app)[0] for app in apps} == set(get_args(Name)) - {"lost rows"}
    assert {kind.name for kind in KINDS} == set(get_args(Name))
