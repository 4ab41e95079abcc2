"""Whatever way messages arrive, the same rows are published; and nothing identifying leaves the lane anywhere."""

from __future__ import annotations

import json
import random
import signal
import urllib.error
import urllib.request
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.live.lane import StreamOptions
from tests.fhir import message, observation
from tests.hostile import CORPUS
from tests.services.lane import LaneUnderTest
from tests.services.polls import LaneWithoutKafka
from tests.services.waiting import until
from vitalake.lake.commits.lake import Lake

_MESSAGES = [message(i, patient=f"p-{i % 3}") for i in range(12)] + [
    message(100, status="registered"),
    message(101, value=9_999.0),
    b"{",
]


@settings_of(max_examples=8)
@given(data=st.data())
def test_duplication_splitting_and_order_between_partitions_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Each message keeps to its partition and to the order within it, as Kafka does."""
    lists = [[m for i, m in enumerate(_MESSAGES) if i % 2 == p] for p in range(2)]
    repeats = data.draw(st.lists(st.integers(1, 3), min_size=len(_MESSAGES), max_size=len(_MESSAGES)))
    chance = random.Random(data.draw(st.integers(0, 1_000)))
    sequences = [
        [(p, m) for j, m in enumerate(messages) for _ in range(repeats[2 * j + p])] for p, messages in enumerate(lists)
    ]
    folder = tmp_path_factory.mktemp("order")
    keys = None
    results = []
    for name, plain in (("plain", True), ("shuffled", False)):
        home = folder / name
        init_home(home, copy_samples)
        keys = keys or (home / "keys.yaml").read_bytes()
        (home / "keys.yaml").write_bytes(keys)
        lane = LaneWithoutKafka(home, 2)
        if plain:
            lane.send([(p, m) for p, messages in enumerate(lists) for m in messages], cut=True)
        else:
            queues = [list(s) for s in sequences]
            while any(queues):
                batch = []
                for _ in range(chance.randint(1, 6)):
                    queue = chance.choice([q for q in queues if q] or [[]])
                    if queue:
                        batch.append(queue.pop(0))
                if batch:
                    lane.send(batch, cut=chance.random() < 0.2)
        results.append(lane.rows())
    assert results[0] == results[1]
    assert len(results[0]) == 12


def test_late_rows_are_counted_besides(home: Path) -> None:
    lane = LaneWithoutKafka(home, 1)
    lane.send([(0, message(i, effectiveDateTime="2025-06-01T10:00:00Z")) for i in range(3)], cut=True)
    lane.send([(0, message(9, effectiveDateTime="2025-06-01T08:59:59Z"))], cut=True)
    lane.send([(0, message(10, effectiveDateTime="2025-06-01T09:00:01Z"))], cut=True)
    assert len(lane.rows()) == 5
    spans = list(lane.lane.lake.spans.all_spans())
    assert [sum(p.counts.late for p in s.parts) for s in spans] == [0, 1, 0]


# -- with a real broker and a real worker ----------------------------------------------------------------------------

MARKER = "Zzmarker"


@pytest.fixture
def marked(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane with identifiers planted everywhere a message can hold one, in good messages and in hostile ones."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_seconds=0.2)
    lane.create_topic()
    planted: list[bytes | None] = []
    for i in range(50):
        planted.append(
            message(
                i,
                patient=f"{MARKER}-patient-{i % 5}",
                identifier=[{"system": f"urn:{MARKER}", "value": f"{MARKER}-id-{i}"}],
                encounter={"reference": f"Encounter/{MARKER}-stay"},
                device={"reference": f"Device/{MARKER}-device", "display": MARKER},
                note=[{"text": MARKER}],
            )
        )
    words = {"valueQuantity": None, "valueString": f"{MARKER} in words"}
    planted.append(message(60, **words))
    for hostile, _ in CORPUS.values():
        if len(hostile) < 100_000:
            planted.append(
                hostile.replace(b"Patient/p-1", b"Patient/" + MARKER.encode()).replace(b"mon-1", MARKER.encode())
            )
    planted += [b'{"%s": {"%s": ' % (MARKER.encode(), MARKER.encode()), None]
    resource = observation(70, status=MARKER) | {MARKER: MARKER}
    planted.append(json.dumps(resource).encode())
    lane.send(planted)
    return lane


def test_no_planted_identifier_is_in_any_byte_that_leaves_the_lane(marked: LaneUnderTest) -> None:
    process = marked.start(idle=None)
    try:
        until(
            lambda: marked.lake.storage.holds_table("spans") and marked.ledger()["messages"] == marked.sent,
            process=process,
        )
    finally:
        process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    ledger = marked.ledger()
    assert ledger["balanced"] is True
    assert int(str(ledger["published"])) > 50
    assert int(str(ledger["undecodable"])) > 20
    seen = {"standard output": out, "standard error": errors, "ledger": json.dumps(ledger).encode()}
    for path in (marked.home / "lake").rglob("*"):
        seen[path.name] = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
    for spelling in (MARKER, MARKER.lower(), MARKER.encode("utf-16-le").decode("latin-1")):
        assert not [name for name, content in seen.items() if spelling.encode("latin-1") in content]
    quarantine = Lake(str(marked.home / "lake"), {}).quarantine.delta.to_pyarrow_table()
    assert MARKER not in repr(quarantine.drop_columns(["payload"]).to_pylist())


def test_published_reads_the_same_in_three_engines(marked: LaneUnderTest) -> None:
    marked.run()
    folder = str(marked.home / "lake" / "published" / "observation")
    columns = ["source", "source_position", "code", "value", "patient_id"]
    by_delta = marked.published().select(columns).to_pylist()
    by_polars = pl.read_delta(folder).select(columns).to_dicts()
    frame = marked.published()  # DuckDB's own Delta reader cannot be installed offline: the files of the log, by name
    files = [f.removeprefix("file://") for f in Lake(str(marked.home / "lake"), {}).published.delta.file_uris()]
    by_duckdb = duckdb.sql(f"SELECT {', '.join(columns)} FROM read_parquet({files!r})").fetchall()  # noqa: S608
    key = repr
    assert sorted(map(key, by_delta)) == sorted(map(key, by_polars))
    assert sorted(map(key, (dict(zip(columns, row, strict=True)) for row in by_duckdb))) == sorted(map(key, by_delta))
    assert frame.num_rows > 50


def test_metrics_and_health_say_how_the_lane_is(marked: LaneUnderTest) -> None:
    from pipelines.live.metrics import DOCUMENTED, Observability
    from pipelines.live.supervisor import Supervisor

    supervisor = Supervisor(str(marked.home / "vitalake.yaml"), "vitals", workers=2, options=StreamOptions())
    web = Observability(supervisor.view, job="vitals", host="127.0.0.1", port=0)
    address = f"http://127.0.0.1:{web.port}"

    def read(path: str) -> str:
        with urllib.request.urlopen(address + path) as answer:  # noqa: S310 - our own server on loopback
            return str(answer.read().decode())

    try:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            read("/healthz")
        supervisor.start()
        until(lambda: supervisor.tick() is None and supervisor.view().counts.messages == marked.sent)
        assert json.loads(read("/healthz")) == {"state": "running", "reasons": []}  # noqa: TID251
        metrics = read("/metrics")
        assert f'vitalake_records_total{{job="vitals",outcome="messages"}} {float(marked.sent)}' in metrics
        assert {line.split(" ")[2] for line in metrics.splitlines() if line.startswith("# TYPE")} == {
            name for name in DOCUMENTED
        }
        assert MARKER not in metrics
        victim = supervisor.workers[0].process
        assert victim is not None
        victim.kill()
        until(lambda: supervisor.tick() is None and supervisor.view().restarts == 1)
        marked.send([message(500)])
        until(lambda: supervisor.tick() is None and supervisor.view().counts.messages == marked.sent)
    finally:
        supervisor.stop_and_wait()
        web.close()
    assert marked.ledger()["messages"] == marked.sent
