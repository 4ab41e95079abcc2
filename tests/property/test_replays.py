"""However a replay is split up, and however often it is begun: the same current rows, the same messages resolved."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from governance.belonging import open_vault
from pipelines.core import open_letters as read
from pipelines.core.dead_letters import DeadLetters
from pipelines.core.open_letters import DEAD_LETTER, RESOLUTION, Choice, census, resolved
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Reject
from pipelines.reprocess.dead_letters import Report, replay
from tests.fhir import message
from vitalake import clock
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.commits.span import Counts, Part, PartId, Span
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.rewrite import rewrite
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.tables.digests import Damaged
from vitalake.lake.tables.table import Table
from vitalake.settings import LakeSettings, Settings, StreamSettings, load_settings

pytestmark = pytest.mark.slow

PARTS = (PartId("vitals", "topic-uuid-000000000000", 0), PartId("vitals", "topic-uuid-000000000000", 1))
REASONS = (Reason.UNKNOWN_CODE, Reason.TOO_LARGE)

Letter = tuple[int, bytes, Reason]


@st.composite
def letters(draw: st.DrawFn) -> list[Letter]:
    """Return dead letters: versions of few observations, exact copies, and some that nobody will ever read."""
    kinds = st.tuples(
        st.sampled_from([0, 1]), st.integers(0, 4), st.integers(1, 3), st.booleans(), st.sampled_from(REASONS)
    )
    return [
        (part, b"{" if bad and number == 0 else _version(number, version), reason)
        for part, number, version, bad, reason in draw(st.lists(kinds, min_size=1, max_size=14))
    ]


def _version(number: int, version: int) -> bytes:
    return message(number, value=60.0 + version, meta={"versionId": str(version)}, patient=f"p-{number % 2}")


steps = st.lists(
    st.tuples(
        st.none() | st.sampled_from(REASONS), st.none() | st.sampled_from(["vitals[0]", "vitals"]), st.integers(1, 5)
    ),
    max_size=5,
)


@pytest.fixture
def settings(home: Path) -> Settings:
    """The settings of a home whose job has nothing to do with care."""
    plain = load_settings(home)
    return plain.model_copy(update={"jobs": {"vitals": StreamSettings(care=False)}})


@given(letters(), steps, st.integers(1, 5))
def test_any_split_of_replays_gives_the_same(
    settings: Settings, given_letters: list[Letter], taken: list[tuple[Reason | None, str | None, int]], batch: int
) -> None:
    folder = Path(tempfile.mkdtemp(dir=settings.home))
    at_once = settings.model_copy(update={"lake": LakeSettings(uri=str(folder / "once"))})
    in_steps = settings.model_copy(update={"lake": LakeSettings(uri=str(folder / "steps"))})
    for each in (at_once, in_steps):
        put_aside(each, given_letters)
    whole = replay(at_once, actor="test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "BATCH_MESSAGES", batch)
        patch.setattr(read, "_READ_ROWS", batch)
        for reason, source, limit in taken:
            replay(in_steps, actor="test", choice=Choice(reason=reason, source=source), limit=limit)
        replay(in_steps, actor="test")
    last = replay(in_steps, actor="test")
    assert (last.recovered, last.spans) == (0, 0)
    assert current(at_once) == current(in_steps)
    assert places(at_once) == places(in_steps)
    assert whole.recovered == sum(payload != b"{" for _, payload, _ in given_letters)
    for each in (at_once, in_steps):
        lake = Lake(each.lake_uri, {})
        assert summarise(lake.spans).to_json()["balanced"] is True
        assert [finding for finding in verify(Lake(each.lake_uri, {})) if finding.severity == "error"] == []
        assert census(lake, DEAD_LETTER).open == whole.rejected_again
    shutil.rmtree(folder)


def put_aside(
    settings: Settings, given_letters: list[Letter], *, dataset: str = "observation", job: str = "vitals"
) -> None:
    """Decide and add one span in which all messages were rejected."""
    lake = Lake(settings.lake_uri, {}, dataset=dataset)
    lake.open_all()
    lake.spans.begin_at(dataset, dict.fromkeys(PARTS, 0))
    epoch = lake.spans.begin_epoch(job=job, shard="0of1")
    seal = DeadLetters(load_keys(settings.path(settings.keys)).current("quarantine"), days=30)
    count = len(given_letters)
    batch = seal.batch(
        [payload for _, payload, _ in given_letters],
        [Reject(i, reason) for i, (_, _, reason) in enumerate(given_letters)],
        sources=[str(PARTS[part]) for part, _, _ in given_letters],
        topic_ids=[PARTS[part].topic_id for part, _, _ in given_letters],
        positions=list(range(count)),
        broker_ms=[1_750_000_000_000 + i for i in range(count)],
        dataset=dataset,
        decoder="fhir/0",
        rejected_at_us=clock.now_us(),
    )
    span = Span(
        span_id=f"{job}.0of1.e{epoch}.{'0' * 32}",
        kind="stream",
        job=job,
        dataset=dataset,
        shard="0of1",
        epoch=epoch,
        decided_us=clock.now_us(),
        rules="",
        decoder="fhir/0",
        parts=[
            Part(part, 0, 0, count, Counts(messages=mine, undecodable=mine))
            for i, part in enumerate(PARTS)
            for mine in [sum(number == i for number, _, _ in given_letters)]
        ],
        latency={},
        files=[],
    )
    span.files = lake.quarantine.stage(pa.Table.from_batches([batch]), stem=span.span_id)
    lake.spans.decide(span)
    lake.add(span)


def current(settings: Settings) -> dict[bytes, dict[str, Any]]:
    """Return the newest version of each observation; where it came from aside, for a copy may be the one."""
    rows = Lake(settings.lake_uri, {}).published.scan().to_pylist()
    newest: dict[bytes, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["version"], -row["available_at"].timestamp())):
        newest[row["observation_id"]] = {
            name: value for name, value in row.items() if name not in ("ingested_at", "source", "source_position")
        }
    return newest


def places(settings: Settings) -> list[tuple[str, int]]:
    """Return the messages that are resolved; each must be there once."""
    lake = Lake(settings.lake_uri, {})
    if not lake.storage.holds_table("quarantine/resolution"):
        return []
    rows = lake.table("quarantine/resolution").scan().to_pylist()
    assert len(rows) == len(resolved(lake, DEAD_LETTER))
    return sorted((row["source"], row["position"]) for row in rows)


def test_a_table_that_is_rewritten_under_way_is_read_anew(settings: Settings) -> None:
    put_aside(settings, [(0, _version(i, 1) if i % 3 else b"{", Reason.UNKNOWN_CODE) for i in range(30)])

    def rewritten(_: Report) -> None:
        table = Lake(settings.lake_uri, {}).quarantine
        table.refresh()
        old = set(table.snapshot().files)
        rewrite(table, lambda snapshot: list(snapshot.files.values()), lambda rows: list(rows))
        for path in old:
            table.storage.delete(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "BATCH_MESSAGES", 8)
        patch.setattr(read, "_READ_ROWS", 8)
        done = replay(settings, actor="test", progress=rewritten)
    assert (done.recovered, done.rejected_again, done.tried) == (20, 10, 30)
    assert len(places(settings)) == 20


def test_one_whose_file_is_gone_says_so(settings: Settings) -> None:
    put_aside(settings, [(0, _version(1, 1), Reason.UNKNOWN_CODE)])
    lake = Lake(settings.lake_uri, {})
    lake.quarantine.refresh()
    for path in lake.quarantine.snapshot().files:
        lake.quarantine.storage.delete(path)
    with pytest.raises(Damaged, match="A file of the lake is gone"):
        replay(settings, actor="test")


def test_of_a_forgotten_patient_nothing_comes_back_and_that_is_counted(settings: Settings) -> None:
    first = settings.model_copy(update={"lake": LakeSettings(uri="first")})
    put_aside(first, [(0, _version(number, 1), Reason.UNKNOWN_CODE) for number in range(4)])
    assert replay(first, actor="test").counts.published == 4
    vault = open_vault(settings, load_keys(settings.path(settings.keys)))
    (subject,) = (who for who, name in vault.patient_ids(vault.tokens()).items() if name.endswith("p-1"))
    vault.erase(subject, "c-1")
    vault.close()
    put_aside(settings, [(0, _version(number, 1), Reason.UNKNOWN_CODE) for number in range(4)])
    done = replay(settings, actor="test")
    assert (done.recovered, done.counts.published, done.counts.filtered) == (4, 2, 2)
    lake = Lake(settings.lake_uri, {})
    reasons = lake.table("quarantine/resolution").scan().to_pylist()
    assert sorted(row["reason"] for row in reasons) == ["filtered", "filtered", "published", "published"]
    assert lake.published.scan().num_rows == lake.restricted.scan().num_rows == 2
    assert replay(settings, actor="test").open == 0
    assert [finding for finding in verify(Lake(settings.lake_uri, {})) if finding.severity == "error"] == []


def test_dead_letters_of_an_earlier_release_are_recovered_too(settings: Settings) -> None:
    """They have no dataset, and no time was sealed with them; their table lacks the column."""
    now = load_dataset("dead_letter")
    before = replace(now, columns=tuple(c for c in now.columns if c.name != "dataset"), revision=1)
    lake = Lake(settings.lake_uri, {})
    key = load_keys(settings.path(settings.keys)).current("quarantine")
    rows = []
    for position in range(5):
        payload, source = _version(position, 1), str(PARTS[0])
        bound = f"{PARTS[0].topic_id}\n{source}\n{position}".encode()
        rows.append(
            {
                "source": source,
                "topic_id": PARTS[0].topic_id,
                "position": position,
                "rejected_at": clock.now(),
                "reason": "unknown-code",
                "path": "",
                "decoder": "fhir/0",
                "payload_bytes": len(payload),
                "key_id": key.id,
                "nonce": bytes(12),
                "payload": AESGCM(key.secret).encrypt(bytes(12), payload, bound),
                "expires_at": clock.now() + timedelta(days=30),
            }
        )
    old = Table(before, lake.storage, zone="quarantine")
    old.commit(add=old.stage(pa.Table.from_pylist(rows, schema=before.schema), stem="by-hand"), transactions={})
    assert replay(settings, actor="test", limit=2).recovered == 2
    put_aside(settings, [(1, _version(9, 1), Reason.UNKNOWN_CODE)])
    assert replay(settings, actor="test").recovered == 4
    assert replay(settings, actor="test").open == 0
    assert len(current(settings)) == 6
    assert {row["dataset"] for row in Lake(settings.lake_uri, {}).table(RESOLUTION).scan().to_pylist()} == {
        "",
        "observation",
    }


def test_one_message_put_aside_for_two_datasets_is_two(settings: Settings) -> None:
    there = StreamSettings(topics={"vitals": "fhir"}, dataset="encounter", care=False)
    both = settings.model_copy(update={"jobs": {**settings.jobs, "stays": there}})
    put_aside(both, [(0, _version(1, 1), Reason.UNKNOWN_CODE)], dataset="observation")
    put_aside(both, [(0, b"{", Reason.NOT_JSON)], dataset="encounter", job="stays")
    done = replay(both, actor="test")
    assert (done.open, done.recovered, done.rejected_again) == (2, 1, 1)
    left = census(Lake(both.lake_uri, {}), DEAD_LETTER)
    assert (left.open, left.total, dict(left.reasons)) == (1, 2, {"not-json": 1})
