"""Restricted rows that are damaged or lost are made again of the broker's messages, as far as its log has them."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from governance.belonging import open_vault
from governance.home import init_home
from governance.samples import copy_samples
from pipelines.core.kafka import ShardConsumer
from pipelines.intake.steps import make_sealer
from tests.fhir import message
from tests.services.kafka import why_not
from tests.services.lane import LaneUnderTest
from tests.services.requirements import missing_service
from tests.services.waiting import until
from vitalake.cli.app import main
from vitalake.keys import load_keys
from vitalake.lake.commits.span import Span
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.vacuum import vacuum
from vitalake.lake.maintenance.verify import verify
from vitalake.settings import load_settings

RESTRICTED, PUBLISHED = "restricted/observation", "published/observation"
BAD = b'{"resourceType": "Nothing"}'


def _wave(wave: int) -> list[bytes | None]:
    """Return messages of five patients on three days: values, one of them twice, a correction, what is none."""
    at = [f"2025-06-0{1 + i % 3}T10:00:{i:02d}Z" for i in range(20)]
    said = [{"patient": f"p-{i % 5}", "value": 60 + i, "effectiveDateTime": at[i]} for i in range(20)]
    sent: list[bytes | None] = [message(wave * 20 + i, **said[i]) for i in range(20)]
    corrected = message(wave * 20 + 4, **said[4] | {"value": 90, "meta": {"versionId": "2"}})
    return [*sent, sent[3], sent[3], corrected, BAD, None, message(0)]


def _loaded(home: Path, kafka: str) -> LaneUnderTest:
    """Return a lane that has read two waves from a real Kafka, in several spans, the second one after a restart."""
    init_home(home, copy_samples)
    lane = LaneUnderTest(home, kafka, f"vitals-{uuid.uuid4().hex[:10]}")
    lane.configure(span_rows=10, poll_messages=20, span_seconds=0.05, bundle_seconds=0.5)
    lane.create_topic()
    for wave in range(2):
        for partition in (0, 1):
            lane.send(_wave(2 * wave + partition), partition=partition)
        lane.run(idle=0.3)
    assert lane.ledger()["duplicate"], "or no look-back is tried"
    return lane


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, _kafka: str | None) -> LaneUnderTest:
    """Such a lane for all tests that leave its topic as it is."""
    if _kafka is None:
        missing_service("kafka", str(why_not()))
    assert _kafka is not None
    return _loaded(tmp_path_factory.mktemp("damage-broker") / "home", _kafka)


@pytest.fixture
def lane(once: LaneUnderTest, tmp_path: Path) -> LaneUnderTest:
    """A copy of its home, on the same topic."""
    return replace(once, home=Path(shutil.copytree(once.home, tmp_path / "home")))


def _identified(lane: LaneUnderTest) -> Counter[str]:
    """Return the restricted rows, opened: identity, value, patient and all else but the moment when they came."""
    settings = load_settings(lane.home)
    keys = load_keys(settings.path(settings.keys))
    with closing(open_vault(settings, keys)) as vault:
        rows = make_sealer(load_dataset("observation"), vault, keys).open(lane.lake.restricted.scan())
    return Counter(map(repr, rows.drop_columns(["ingested_at"]).to_pylist()))


def _published(lane: LaneUnderTest) -> Counter[str]:
    return Counter(map(repr, lane.published().drop_columns(["ingested_at"]).to_pylist()))


def _all_of(lane: LaneUnderTest) -> tuple[Counter[str], Counter[str], dict[str, object]]:
    return _identified(lane), _published(lane), lane.ledger()


def _files(lane: LaneUnderTest, table: str) -> list[Path]:
    opened = lane.lake.table(table)
    return [Path(opened.storage.root, path) for path in sorted(opened.snapshot().files)]


def _of(span: Span, files: list[Path]) -> list[Path]:
    return [path for path in files if span.span_id in path.name]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _repair(lane: LaneUnderTest, capfd: pytest.CaptureFixture[str], *options: str, code: int = 0) -> Any:
    capfd.readouterr()
    assert main(["lake", "repair", *options, "--home", str(lane.home), "--json"]) == code
    return msgspec.json.decode(capfd.readouterr().out)


def _is_sound(lane: LaneUnderTest) -> bool:
    return [finding for finding in verify(lane.lake) if finding.severity == "error"] == []


def _forget_before(lane: LaneUnderTest, offsets: dict[int, int]) -> None:
    """Let the broker delete the messages before these offsets, as its retention does."""
    admin = AdminClient({"bootstrap.servers": lane.bootstrap})
    wanted = [TopicPartition(lane.topic, partition, offset) for partition, offset in offsets.items()]
    for future in admin.delete_records(wanted).values():
        future.result(20)


def test_rows_of_another_topic_of_the_same_name_are_not_taken(
    tmp_path: Path, kafka: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = _loaded(tmp_path / "home", kafka)
    listed = sorted({part.id for span in lane.lake.spans.all_spans() for part in span.parts})
    (lost, *_) = _files(lane, RESTRICTED)
    lost.unlink()
    lane.delete_topic()
    with AdminClient({"bootstrap.servers": lane.bootstrap}) as admin:
        until(lambda: lane.topic not in admin.list_topics(timeout=10).topics)
    lane.create_topic()
    for wave in range(4):
        lane.send((message(1_000 + i, value=200) for i in range(30)), partition=wave % 2)
    monkeypatch.setattr(ShardConsumer, "list_parts", lambda _: listed)  # a moment before the topic was deleted
    assert "Topic was deleted and created again" in _repair(lane, capfd, code=13)["left"][0]
    assert not lost.exists()


@pytest.mark.parametrize("merged", [False, True])
def test_lost_rows_of_both_zones_are_made_again_while_the_broker_has_the_messages(
    lane: LaneUnderTest, capfd: pytest.CaptureFixture[str], *, merged: bool
) -> None:
    if merged:
        assert compact(lane.lake.restricted, min_files=2).days
        vacuum(lane.lake, lane.lake.restricted, retention_hours=0)
    before = _all_of(lane)
    rotten, gone, *_ = _files(lane, RESTRICTED)
    _flip(rotten)
    gone.unlink()
    for path in _files(lane, PUBLISHED)[:2]:
        path.unlink()
    done = _repair(lane, capfd)
    assert {(files["table"], files["how"]) for files in done["files"]} == {(RESTRICTED, "broker"), (PUBLISHED, "rows")}
    assert _all_of(lane) == before
    assert _is_sound(lane)


def test_moment_when_rows_came_is_that_of_their_span_and_not_of_the_repair(
    lane: LaneUnderTest, capfd: pytest.CaptureFixture[str]
) -> None:
    decided = max(span.decided_us for span in lane.lake.spans.all_spans())
    for path in _files(lane, RESTRICTED):
        path.unlink()
    _repair(lane, capfd)
    came = [int(at.timestamp() * 1e6) for at in lane.lake.restricted.scan()["ingested_at"].to_pylist()]
    assert max(came) <= decided


def test_as_the_log_forgets_only_what_needs_the_forgotten_messages_is_left(
    tmp_path: Path, kafka: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One forgotten message, of another span of the day, kept every file of the day from being made again."""
    lane = _loaded(tmp_path / "home", kafka)
    before, files = _all_of(lane), _files(lane, RESTRICTED)
    spans = sorted(lane.lake.spans.all_spans(), key=lambda span: span.decided_us)
    first, last = next(span for span in spans if span.parts[0].first == 0), spans[-1]

    (old, *_), newer = _of(first, files), [path for span in spans[-3:] for path in _of(span, files)]
    with _lost([old]):
        for path in newer:
            path.unlink()
        _forget_before(lane, {first.parts[0].id.partition: 1})
        done = _repair(lane, capfd, code=13)
        made, left = sorted(done["files"], key=lambda entry: str(entry["why"]))
        assert (made["how"], made["files"]) == ("broker", len(newer))
        day = old.parent.name.removeprefix("day=")
        assert (left["how"], left["spans"], left["days"]) == ("", [first.span_id], [day])
        assert left["paths"] == [f"{old.parent.name}/{old.name}"]
        assert old.name in done["left"][0] and "the broker no longer has the messages" in done["left"][0]
        assert main(["sql", "SELECT count(*) FROM observation", "--home", str(lane.home)]) == 0, "it is read as before"
    _repair(lane, capfd)
    assert _all_of(lane) == before
    assert _is_sound(lane)

    # A repeat whose first copy is forgotten looks like a new row: rather than made twice it is left.
    shutil.rmtree(lane.home / "lake/spans-seen")
    with _lost(_files(lane, RESTRICTED)):
        _forget_before(lane, {part.id.partition: part.first for part in last.parts})
        assert "cannot be made again" in _repair(lane, capfd, code=13)["left"][0]
    _repair(lane, capfd)
    assert _all_of(lane) == before
    assert _is_sound(lane)

    lane.delete_topic()
    (chosen, *_), rows = _files(lane, RESTRICTED), lane.lake.restricted.scan().num_rows
    chosen.unlink()
    assert "Topic not found" in _repair(lane, capfd, code=13)["left"][0]
    left_out = _repair(lane, capfd, "--leave-out")["left_out"]
    assert left_out == {RESTRICTED: rows - lane.lake.restricted.scan().num_rows}
    assert _is_sound(lane)


@contextmanager
def _lost(files: Sequence[Path]) -> Iterator[None]:
    """Take files away meanwhile; afterwards those are back that nothing was made in the place of."""
    kept = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
    yield
    for path, content in kept.items():
        path.write_bytes(content)
