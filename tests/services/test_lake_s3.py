"""The same protocol on object storage: conditional puts decide, and nothing is renamed or synced."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import boto3
import polars as pl
import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from governance.belonging import admit, open_vault
from governance.home import init_home
from governance.samples import copy_samples
from pipelines.erasure.request import Eraser
from tests.services.waiting import until
from tests.unit.vitalake.lake.span_samples import JOB, SHARD, begin, positions, staged_span, write_spans
from vitalake.errors import PrivacyError
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.commits.span_log import SpanConflict, Superseded
from vitalake.lake.maintenance.compaction import compact
from vitalake.lake.maintenance.repair import add_missing_spans, make_readable
from vitalake.lake.maintenance.rewrite import rewrite
from vitalake.lake.maintenance.scrub import scrub
from vitalake.lake.maintenance.sweep import sweep
from vitalake.lake.maintenance.vacuum import vacuum
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.digests import Damaged
from vitalake.settings import load_settings

pytestmark = pytest.mark.s3

OpenLake = Callable[[], Lake]


@pytest.fixture(scope="module")
def s3_options() -> Iterator[dict[str, str]]:
    """Storage options of a moto server with a bucket ``lake``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port), process=server)
        options = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
        }
        client = boto3.client(
            "s3",
            endpoint_url=options["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="lake")
        yield options
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def open_lake(s3_options: dict[str, str]) -> OpenLake:
    """Opens the same new lake in the bucket, afresh each time; begun at 0."""
    uri = f"s3://lake/{uuid.uuid4().hex}"
    begin(Lake(uri, s3_options))
    return lambda: Lake(uri, s3_options)


def test_spans_are_decided_added_and_read_by_other_engines(open_lake: OpenLake) -> None:
    lake = open_lake()
    write_spans(lake, 3, days=2)
    assert positions(open_lake()) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert summarise(lake.spans).to_json()["published"] == 9
    assert verify(open_lake()) == []
    storage = lake.published.storage
    by_delta = DeltaTable(storage.uri, storage_options=storage.options).to_pyarrow_table()
    by_polars = pl.read_delta(storage.uri, storage_options=storage.options).to_arrow()
    for rows in (by_delta, by_polars):
        assert sorted(rows["source_position"].to_pylist()) == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_one_of_two_writers_wins_and_a_zombie_is_refused(open_lake: OpenLake) -> None:
    first, second = open_lake(), open_lake()
    mine, theirs = staged_span(first, 0, 4), staged_span(second, 0, 5)
    first.spans.decide(mine)
    with pytest.raises(SpanConflict):
        second.spans.decide(theirs)
    asleep = staged_span(first, 4, 8)
    swept = sweep(open_lake(), JOB, shards=[SHARD])
    assert (swept.rolled_forward, swept.epochs) == (1, {SHARD: 2})
    with pytest.raises(Superseded):
        first.spans.decide(asleep)
    assert positions(open_lake()) == [0, 1, 2]
    assert verify(open_lake()) == []


def test_writers_in_threads_decide_each_position_once(open_lake: OpenLake) -> None:
    won: list[int] = []

    def work(lake: Lake) -> None:
        for first in range(0, 16, 4):
            span = staged_span(lake, first, first + 4)
            try:
                lake.spans.decide(span)
            except SpanConflict:
                continue
            won.append(first)
            lake.add(span)

    threads = [threading.Thread(target=work, args=(open_lake(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(0, 4 * len(won), 4))
    assert positions(open_lake()) == [row for first in sorted(won) for row in range(first, first + 3)]
    assert verify(open_lake()) == []


def test_stale_commit_fails_there_too(open_lake: OpenLake) -> None:
    first, second = open_lake(), open_lake()
    for lake in (first, second):
        lake.published.refresh()
    first.published.commit(transactions={"app": 1})
    with pytest.raises(CommitFailedError):
        second.published.commit(transactions={"app": 1})


def test_compaction_beside_appends_and_a_second_one(open_lake: OpenLake) -> None:
    lake, other = open_lake(), open_lake()
    write_spans(lake, 4)
    done: list[int] = []

    def transform(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        if not done:
            write_spans(other, 1, start=16)
            done.append(compact(other.published, min_files=2).rows)
        yield pa.concat_tables(batches)

    lake.published.refresh()
    assert rewrite(lake.published, lambda snapshot: list(snapshot.files.values()), transform) is not None
    assert done == [15]
    assert positions(open_lake()) == [row for row in range(20) if row % 4 != 3]
    assert verify(open_lake()) == []
    assert vacuum(lake, lake.published, retention_hours=0) == 6
    files = {path for path in lake.published.storage.files() if "rewrite" in path}
    assert files == set(lake.published.snapshot().files), "what the second one staged is gone"
    assert verify(open_lake()) == []


def test_object_that_has_rotted_is_named_and_not_read(open_lake: OpenLake) -> None:
    lake = open_lake()
    write_spans(lake, 2)
    table = open_lake().published
    path = next(iter(table.snapshot().files))
    with table.storage.fs.open_input_stream(f"{table.storage.root}/{path}") as source:
        content = bytearray(source.read())
    content[len(content) // 2] ^= 1
    with table.storage.fs.open_output_stream(f"{table.storage.root}/{path}") as sink:
        sink.write(bytes(content))
    with pytest.raises(Damaged, match="does not hold"):
        table.scan()
    assert [file.path for file in scrub(table, every_seconds=0).damaged] == [path]
    assert {finding.kind for finding in verify(open_lake())} == {"digest-differs"}


def test_torn_entry_of_a_log_in_a_bucket_is_set_aside_and_said_again(open_lake: OpenLake) -> None:
    lake = open_lake()
    write_spans(lake, 3)
    name = f"{lake.published.storage.root}/_delta_log/{lake.published.delta.version():020}.json"
    with lake.storage.fs.open_output_stream(name) as sink:
        sink.write(b"{torn")
    with pytest.raises(Damaged, match="log"):
        _ = open_lake().published
    logs = make_readable(open_lake())
    add_missing_spans(open_lake(), logs)
    assert logs["published/observation"].spans == 2, "with what came after it"
    assert positions(open_lake()) == [p for p in range(12) if p % 4 != 3]
    assert {finding.kind for finding in verify(open_lake())} == {"not-made-again"}, "it can have erased somebody"


def test_a_home_that_is_not_the_lakes_is_refused_on_object_storage_too(
    s3_options: dict[str, str], tmp_path: Path
) -> None:
    document = {"lake": {"uri": f"s3://lake/{uuid.uuid4().hex}", "storage_options": s3_options}}
    homes = []
    for name in ("one", "two"):
        init_home(tmp_path / name, copy_samples)
        (tmp_path / name / "vitalake.yaml").write_text(yaml.safe_dump(document))
        homes.append(load_settings(tmp_path / name))
    one, two = homes
    admit(one)  # there is no lake yet
    begin(Lake(one.lake_uri, one.storage_options))
    admit(one)
    with pytest.raises(PrivacyError, match="other keys"):
        admit(two)
    keys = load_keys(one.path(one.keys))
    with closing(open_vault(one, keys)) as vault:
        Eraser(one, keys, vault).erase("p-1", reason="r", actor="a", unknown=True)
    for path in (tmp_path / "one").glob("vault.db*"):
        path.rename(tmp_path / path.name)
    with pytest.raises(PrivacyError, match="vault is gone"):
        admit(one)
    for path in tmp_path.glob("vault.db*"):
        path.rename(tmp_path / "one" / path.name)
    (tmp_path / "one/erasures.jsonl").unlink()
    admit(one)  # the lake's copy is as good
    assert (tmp_path / "one/erasures.jsonl").read_bytes().count(b"\n") == 1
