"""What is shown is what is known, or the board says since when it is not: stores, streams, registries that go away."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from governance.belonging import open_vault
from governance.home import init_home
from governance.keyservice import KeyRevoked
from governance.samples import copy_samples
from models.registry.champion import DATABASE
from models.serving import board_feed as watch
from models.serving import health
from models.serving.health import SILENT_SECONDS, lane_troubles
from pipelines.intake.online_feed.feed import OnlineFeed
from pipelines.online_store.store import OnlineStore
from tests.services.serving import STABLE, WardUnderTest, as_json, serving
from tests.services.waiting import until
from vitalake import clock
from vitalake.lake.datasets.declared import load_dataset
from vitalake.logs import configure
from vitalake.settings import StreamSettings


@pytest.fixture
def ward(tmp_path: Path) -> WardUnderTest:
    init_home(tmp_path / "home", copy_samples)
    found = WardUnderTest(tmp_path / "home")
    found.measure(found.admit("p-0", bed="Bed 1", name="Planted, Name", mrn="M-0"), STABLE)
    return found


@pytest.fixture
def log() -> Iterator[io.BytesIO]:
    stream = io.BytesIO()
    configure(stream=stream)
    yield stream
    configure()


def _health(address: str) -> tuple[int, str, list[str]]:
    answer = httpx.get(f"{address}/healthz")
    document = as_json(answer)
    return answer.status_code, document["status"], [trouble["code"] for trouble in document.get("troubles", ())]


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_a_deleted_care_store_is_told_and_the_one_in_its_place_is_opened(ward: WardUnderTest, log: io.BytesIO) -> None:
    """Vitals stood still, healthz said 200, and the board was live."""
    path = ward.settings.path(ward.settings.care.path)
    patient = ward.token("p-0")
    with serving(ward.settings) as served:
        until(lambda: _health(served.address) == (200, "ok", []))
        with httpx.Client(base_url=served.address, timeout=20) as client:
            with client.stream("GET", "/board/events", headers=ward.bearer()) as board:
                events = (msgspec.json.decode(line[6:]) for line in board.iter_lines() if line.startswith("data: "))
                assert next(events)["troubles"] == []
                _remove(path)
                told = next(event["troubles"] for event in events if event.get("troubles"))
                assert [(one["code"], one["failing"]) for one in told] == [("care-store-gone", True)]
                assert _health(served.address) == (503, "failing", ["care-store-gone"])
                answer = client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer())
                assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
                assert not path.exists(), "who only reads makes none"

                ward.__post_init__()  # a writer makes it anew
                other = ward.token("p-1")
                ward.measure(other, STABLE)
                rows = next(event for event in events if event.get("rows"))
                assert [row["patient"] for row in rows["rows"]] == [other]
                until(lambda: _health(served.address) == (200, "degraded", ["care-store-replaced"]))
                page = client.get("/board", headers=ward.bearer() | {"accept": "text/html"})
                assert f'data-patient="{patient}"' not in page.text, "nothing is known of who was in the one before"
                ward.store.completeness.note_filled()
                until(lambda: _health(served.address) == (200, "degraded", ["no-stream", "care-store-filled"]))
                before = str(clock.now_us() - 12 * 3_600_000_000)
                ward.store._db.execute("UPDATE meta SET value = ? WHERE name = 'filled'", (before,))
                until(lambda: _health(served.address) == (200, "degraded", ["care-store-replaced"]))
    assert b"care-store-replaced" in log.getvalue()


def test_a_replaced_file_and_a_replaced_log_are_another_store(ward: WardUnderTest, tmp_path: Path) -> None:
    path = ward.settings.path(ward.settings.care.path)
    assert not ward.store.moved()
    wal = path.with_name(f"{path.name}-wal")
    shutil.copy(wal, tmp_path / "copy")
    wal.unlink()
    assert ward.store.moved(), "what is in a log without a name nobody else reads"
    ward.store.close()
    ward.__post_init__()
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    assert ward.store.moved()


def test_a_writer_whose_store_was_deleted_writes_to_the_new_one(ward: WardUnderTest, log: io.BytesIO) -> None:
    vault = open_vault(ward.settings, ward.keys)
    feed = OnlineFeed(ward.settings, load_dataset("observation"), ward.keys, vault)
    feed.beat("vitals/0of1")
    first = feed.store.completeness.name()
    _remove(ward.settings.path(ward.settings.care.path))
    feed.beat("vitals/0of1")
    assert feed.store.completeness.name() not in ("", first)
    assert list(feed.store.lanes.beats()) == ["vitals/0of1"]
    assert b"online store was deleted or replaced" in log.getvalue()
    assert b"vitalake lake rebuild care" in log.getvalue()
    feed.close()
    vault.close()


def test_a_store_deleted_while_it_is_written_is_written_again(ward: WardUnderTest) -> None:
    vault = open_vault(ward.settings, ward.keys)
    feed = OnlineFeed(ward.settings, load_dataset("observation"), ward.keys, vault)
    written: list[OnlineStore] = []

    def write(store: OnlineStore) -> None:
        written.append(store)
        if len(written) == 1:
            _remove(ward.settings.path(ward.settings.care.path))

    feed._destination.write(write)
    assert len(written) == 2
    assert written[1] is not written[0]
    feed.close()
    vault.close()


def test_a_stream_that_stopped_is_told_from_a_ward_that_is_quiet(
    ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(ward.settings) as served:
        ward.store.lanes.beat("vitals/0of2")
        ward.store.lanes.beat("vitals/1of2")
        until(lambda: _health(served.address) == (200, "ok", []))
        monkeypatch.setattr(health, "SILENT_SECONDS", 0.0)
        until(lambda: _health(served.address) == (200, "degraded", ["stream-silent"]))
        monkeypatch.undo()
        until(lambda: _health(served.address) == (200, "ok", []))
        monkeypatch.setattr(health, "ENDED_SECONDS", 0.0)
        ward.store.lanes.beat("vitals/0of2", ended=True)
        ward.store.lanes.beat("vitals/1of2", ended=True)
        until(lambda: _health(served.address) == (200, "degraded", ["stream-ended"]))


def test_streams_that_died_with_the_store_before_are_told_after_it_was_filled(ward: WardUnderTest) -> None:
    """All streams were dead, the store was deleted and rebuilt, and the board said Live, for it knew of no lane."""
    jobs = {name: StreamSettings(dataset=of) for name, of in (("vitals", "observation"), ("stays", "encounter"))}
    jobs["aside"] = StreamSettings(care=False)
    with serving(ward.settings.model_copy(update={"jobs": jobs})) as served:
        until(lambda: _health(served.address) == (200, "degraded", ["no-stream"]))
        ward.store.lanes.beat("vitals/0of1")
        until(lambda: _health(served.address) == (200, "degraded", ["stream-silent"]))
        ward.store.lanes.beat("stays/0of1")
        until(lambda: _health(served.address) == (200, "ok", []))
    ward.store._db.execute("DELETE FROM lane")
    with serving(ward.settings) as served:
        until(lambda: _health(served.address) == (200, "ok", []))  # no job is configured
        ward.store.completeness.note_filled()
        until(lambda: _health(served.address) == (200, "degraded", ["no-stream", "care-store-filled"]))
        ward.store.lanes.beat("vitals/0of1")
        until(lambda: _health(served.address) == (200, "degraded", ["care-store-filled"]))


def test_lanes_are_judged_by_job_and_number_of_shares(ward: WardUnderTest) -> None:
    now, late = clock.now_us(), clock.now_us() - int((SILENT_SECONDS + 1) * 1e6)
    assert lane_troubles({"a/0of2": (now, False), "a/1of2": (now, True)}, now_us=now) == []
    found = lane_troubles({"a/0of2": (now, False), "a/1of2": (late, False), "b/0of1": (now, False)}, now_us=now)
    assert [trouble.code for trouble in found] == ["stream-silent"]
    assert "'a'" in found[0].text
    ward.store.lanes.beat("a/1of2")
    ward.store.lanes.beat("b/0of1")
    ward.store.lanes.beat("a/0of1")
    assert sorted(ward.store.lanes.beats()) == ["a/0of1", "b/0of1"], "a worker less is not one that died"


def test_a_vanished_registry_is_told_and_the_last_model_stays(
    ward: WardUnderTest, tmp_path: Path, log: io.BytesIO
) -> None:
    """Scores became 200 without a probability, while healthz said ok."""
    ward.register_model(tmp_path / "model")
    patient = ward.admit("p-model")
    ward.chart(patient, STABLE)
    models = ward.settings.path(ward.settings.models)
    with serving(ward.settings) as served:
        until(lambda: _health(served.address) == (200, "ok", []))
        model = served.app.state.server.ward._inputs.model()
        models.rename(models.with_name("away"))
        until(lambda: _health(served.address) == (200, "degraded", ["no-registry"]))
        assert served.app.state.server.ward._inputs.model() is model
        models.mkdir()
        (models / DATABASE).touch()  # an empty file in its place says no more
        until(lambda: _health(served.address) == (200, "degraded", ["no-registry"]))
        assert served.app.state.server.ward._inputs.model() is model
        shutil.rmtree(models)
        models.with_name("away").rename(models)
        until(lambda: _health(served.address) == (200, "ok", []))
    assert log.getvalue().count(b"Model registry is gone") == 1


def test_a_watcher_that_stands_is_told(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ward.settings) as served:
        until(lambda: _health(served.address) == (200, "ok", []))
        monkeypatch.setattr(watch, "STUCK_SECONDS", -1.0)
        assert _health(served.address) == (503, "failing", ["stuck"])


def test_a_revoked_key_clears_the_board_and_says_so(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise KeyRevoked("Key is revoked", where="key service", remedy="Restore it.")

    with serving(ward.settings) as served, httpx.Client(base_url=served.address, timeout=20) as client:
        patient = ward.token("p-0")
        with client.stream("GET", "/board/events", headers=ward.bearer()) as board:
            events = (msgspec.json.decode(line[6:]) for line in board.iter_lines() if line.startswith("data: "))
            next(event for event in events if event.get("rows"))
            monkeypatch.setattr(served.app.state.server.ward, "changed", locked)
            gone = next(event for event in events if event.get("gone"))
            assert gone["gone"] == [patient]
            told = next(event for event in events if event.get("troubles"))
            assert told["troubles"][0]["code"] == "locked"
            assert _health(served.address) == (503, "failing", ["locked"])
            page = client.get("/board", headers=ward.bearer() | {"accept": "text/html"})
            assert page.status_code == 200
            assert "Key is revoked" in page.text
            assert patient not in page.text
            monkeypatch.undo()
            back = next(event for event in events if event.get("rows"))
            assert [row["patient"] for row in back["rows"]] == [patient]


def test_a_board_can_ask_whether_it_is_signed_in(ward: WardUnderTest) -> None:
    with serving(ward.settings) as served, httpx.Client(base_url=served.address) as client:
        assert client.get("/session", headers={"accept": "application/json"}).status_code == 401
        client.post("/sign-in", data={"user": "clinician"})
        assert client.get("/session", headers={"accept": "application/json"}).status_code == 204
