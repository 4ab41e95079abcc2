"""The online store: every value once, the latest version of each, nothing in clear, nothing older than it keeps."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import secrets
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.serving.health import lane_troubles, missing_troubles
from models.serving.zone import clock_time
from pipelines.online_store.facts import Admission, Movement, Person
from pipelines.online_store.playback import Replay
from pipelines.online_store.store import BLOCK_ROWS, OnlineStore
from pipelines.online_store.values import CLOCK_AHEAD, ROW, Values, stage_of
from vitalake import clock
from vitalake.clinical.records import code_number
from vitalake.errors import PrivacyError, ServiceUnavailable
from vitalake.keys import Key
from vitalake.sealing import Sealer
from vitalake.sqlite import DatabaseDamaged

KEY = Key("care", "v1", bytes(range(32)))
MINUTE = 60_000_000


def _store(folder: Path, *, hours: float = 48.0, key: Key = KEY) -> OnlineStore:
    return OnlineStore(folder / "care.db", Sealer(key), hours=hours)


def _values(
    count: int, *, first: int = 0, patient: str = "v1.p", part: str = "t/0", begin_us: int | None = None
) -> Values:
    begin = clock.now_us() - 1000 * MINUTE if begin_us is None else begin_us
    rows = np.zeros(count, ROW)
    place = np.arange(first, first + count)
    rows["code"] = code_number("8867-4")
    rows["value"] = place
    rows["effective_us"] = rows["available_us"] = begin + place * 1000
    rows["id"] = place + 1
    nothing = np.zeros(count, np.int32)
    return Values(rows, nothing, [patient], place.astype(np.int64), nothing, [part])


def _take(store: OnlineStore, values: Values, *, writer: str = "vitals/0of1") -> int:
    end = int(values.position.max()) + 1
    return store.take(values, writer=writer, ends={values.parts[0]: end})


@given(sizes=st.lists(st.integers(1, 3 * BLOCK_ROWS), min_size=1, max_size=8), reread=st.integers(0, 400))
def test_every_position_is_taken_once_whatever_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], reread: int
) -> None:
    store = _store(tmp_path_factory.mktemp("care"))
    begin = clock.now_us() - 1000 * MINUTE
    first = stored = 0
    for size in sizes:
        back = max(0, first - reread)  # a killed lane starts again at the lake's position
        stored += _take(store, _values(first + size - back, first=back, begin_us=begin))
        first += size
    assert stored == first
    assert store.history("v1.p").value.tolist() == list(range(first))


def test_another_opening_goes_on_where_the_one_before_ended(tmp_path: Path) -> None:
    begin = clock.now_us() - 1000 * MINUTE
    for first in range(0, 500, 50):
        assert _take(_store(tmp_path), _values(50, first=first, begin_us=begin)) == 50
    assert len(_store(tmp_path).history("v1.p")) == 500


def test_the_latest_version_counts_and_what_was_taken_back_is_gone(tmp_path: Path) -> None:
    store = _store(tmp_path)
    values = _values(6)
    values.rows["id"] = [1, 1, 2, 2, 3, 3]
    values.rows["version"] = [2, 1, 1, 2, 1, 2]  # corrections may come before what they correct
    values.rows["stage"] = [4, 4, 4, 4, 4, 11]
    _take(store, values)
    assert store.history("v1.p").value.tolist() == [0.0, 3.0]


def test_what_is_too_old_is_neither_taken_nor_kept(tmp_path: Path) -> None:
    store = _store(tmp_path, hours=1.0)
    now = clock.now_us()
    assert _take(store, _values(100, begin_us=now - 90 * MINUTE)) == 0
    _take(store, _values(10, begin_us=now - 59 * MINUTE, part="t/1"))
    _take(store, _values(10, begin_us=now - 10 * MINUTE, part="t/2"))
    store.put_facts([("v1.p", "", 1, Person("female"))])
    store.set_replay(Replay(start_us=now + 30 * MINUTE, wall_us=now, speed=1.0, end_us=now + 10**12))
    assert len(store.history("v1.p")) == 10, "too old values are not given out, deleted or not"
    assert store.prune() == 1
    assert len(store.history("v1.p")) == 10
    store.set_replay(Replay(start_us=now + 300 * MINUTE, wall_us=now, speed=1.0, end_us=now + 10**12))
    store.prune()
    assert store.patients() == {}
    with sqlite3.connect(tmp_path / "care.db") as db:
        assert db.execute("SELECT (SELECT count(*) FROM block) + (SELECT count(*) FROM fact)").fetchone() == (0,)


def test_two_writers_and_a_prune_between_lose_nothing(tmp_path: Path) -> None:
    one, other = _store(tmp_path), _store(tmp_path)
    begin = clock.now_us() - 1000 * MINUTE
    _take(one, _values(100, begin_us=begin, part="t/0"), writer="a")
    _take(other, _values(100, first=1000, begin_us=begin, part="t/1"), writer="b")
    _take(one, _values(100, first=100, begin_us=begin, part="t/0"), writer="a")
    other.prune()
    _take(one, _values(100, first=200, begin_us=begin, part="t/0"), writer="a")
    assert len(other.history("v1.p")) == 400


def test_what_was_ahead_when_we_took_it_in_is_held_to_that_when_a_store_is_filled(tmp_path: Path) -> None:
    """A value that came four hours ago from a clock three hours ahead made a silent sensor look alive an hour ago."""
    now, store = clock.now_us(), _store(tmp_path)
    for part, ours in (("t/0", True), ("t/1", False)):
        values = _values(1, begin_us=now - 60 * MINUTE, part=part, patient=f"v1.{ours}")
        values.rows["came_us"] = now - 240 * MINUTE
        store.take(values, writer="rebuild/0of1", ends={part: 1}, ours=ours)
    seen = [store.history(f"v1.{ours}").measured() for ours in (True, False)]
    assert [set(one.effective_us.tolist()) for one in seen] == [{now - 240 * MINUTE}, {now - 60 * MINUTE}]
    assert [one.code.tolist().count(CLOCK_AHEAD) for one in seen] == [1, 0], "a producer's clock may be behind"


def _write_polls(folder: Path, begin: int) -> None:
    store = _store(folder)
    for first in range(0, 100_000, 10):
        _take(store, _values(10, first=first, begin_us=begin))


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_polls(tmp_path: Path) -> None:
    begin = clock.now_us() - 1000 * MINUTE
    reader = _store(tmp_path)
    for _ in range(3):
        seen = len(reader.history("v1.p"))
        process = multiprocessing.get_context("spawn").Process(target=_write_polls, args=(tmp_path, begin))
        process.start()
        while len(reader.history("v1.p")) < seen + random.randrange(20, 200):
            assert process.is_alive()
        process.kill()
        process.join()
        values = reader.history("v1.p").value.tolist()
        assert values == list(range(len(values)))
        assert len(values) % 10 == 0


def test_changes_are_told_by_revision_and_seen_from_other_processes(tmp_path: Path) -> None:
    writer, reader = _store(tmp_path), _store(tmp_path)
    version = reader.version()
    _take(writer, _values(3, patient="v1.a"))
    assert reader.version() != version
    known = reader.patients()
    _take(writer, _values(3, patient="v1.b", part="t/1"))
    assert set(reader.changed_since(max(known.values()))) == {"v1.b"}
    _take(writer, _values(3, first=3, patient="v1.a"))
    assert set(reader.changed_since(max(known.values()))) == {"v1.a", "v1.b"}


def test_the_stay_is_the_one_begun_last_as_far_as_was_known(tmp_path: Path) -> None:
    store, begin = _store(tmp_path), clock.now_us() - 600 * MINUTE

    def at(minute: int) -> int:
        return begin + minute * MINUTE

    store.put_facts(
        [
            ("v1.p", "v1.first", 1, Admission(at(1), at(2), 70)),
            ("v1.p", "v1.second", 1, Admission(at(5), at(9), 71)),
            ("v1.p", "v1.second/5", 1, Movement("v1.second", at(5), at(6), "ED", "")),
            ("v1.p", "v1.second/6", 1, Movement("v1.second", at(6), None, "MICU", "03")),
            ("v1.p", "", 1, Person("female")),
        ]
    )
    store.put_facts([("v1.p", "", 1, Person("female"))])
    assert store.stay("v1.p", as_of_us=at(0)) is None
    first, second = store.stay("v1.p", as_of_us=at(4)), store.stay("v1.p", as_of_us=at(7))
    assert first is not None
    assert second is not None
    assert (first.encounter, first.discharged_us, first.unit) == ("v1.first", at(2), "")
    assert (second.encounter, second.discharged_us, second.unit, second.bed) == ("v1.second", None, "MICU", "03")
    assert (second.age_years, second.sex) == (71, "female")
    store.put_facts([("v1.p", "", 0, Person("male"))])
    assert store.stay("v1.p", as_of_us=at(7)) == second, "an older version changes nothing"


@pytest.mark.parametrize("at_once", [True, False])
def test_of_what_is_filled_in_of_one_version_the_later_known_counts(tmp_path: Path, at_once: bool) -> None:
    """Without versions all rows have the same one, and the lake's files have no order: the open row came last."""
    now = clock.now_us()
    begin, end = now - 5 * 3_600_000_000, now - 3_600_000_000
    over = ("v1.p", "E", 0, Admission(begin, end, 70, known_us=end))
    open_ = ("v1.p", "E", 0, Admission(begin, None, 70, known_us=begin))
    with closing(_store(tmp_path)) as store:
        for facts in [[over, open_]] if at_once else [[over], [open_]]:
            store.put_facts([*facts], again=True)
        stay = store.stay("v1.p", as_of_us=now)
        assert stay is not None
        assert stay.discharged_us == end


def test_stays_that_ended_long_ago_and_people_without_a_stay_are_not_kept(tmp_path: Path) -> None:
    store, now = _store(tmp_path, hours=1.0), clock.now_us()
    store.put_facts(
        [
            ("v1.gone", "v1.a", 1, Admission(now - 200 * MINUTE, now - 61 * MINUTE, 70)),
            ("v1.here", "v1.b", 1, Admission(now - 200 * MINUTE, now - 59 * MINUTE, 70)),
        ]
    )
    store.put_facts([("v1.gone", "", 1, Person("male")), ("v1.here", "", 1, Person("male"))])
    assert store.stay("v1.gone", as_of_us=now) is None
    assert store.stay("v1.here", as_of_us=now) is not None
    store.set_replay(Replay(start_us=now + 61 * MINUTE, wall_us=now, speed=1.0, end_us=now + 10**12))
    store.prune()
    with sqlite3.connect(tmp_path / "care.db") as db:
        assert db.execute("SELECT count(*) FROM fact").fetchone() == (0,)


def test_nothing_of_a_patient_stands_in_clear_and_only_the_owner_may_read(tmp_path: Path) -> None:
    store = _store(tmp_path)
    values = _values(300)
    values.rows["value"] = 123.456789
    _take(store, values)
    store.put_facts(
        [("v1.p", "v1.e", 1, Admission(1, None, 87.0)), ("v1.p", "x", 1, Movement("v1.e", 1, None, "Zzward", "Zzbed"))]
    )
    store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for planted in (b"Zzward", b"Zzbed", b"87.0", np.float64(123.456789).tobytes(), b"admitted"):
        assert planted not in content
    assert all(not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for path in tmp_path.iterdir())


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    _take(_store(tmp_path), _values(3))
    with pytest.raises(PrivacyError, match="cannot be opened"):
        _store(tmp_path, key=Key("care", "v2", secrets.token_bytes(32))).history("v1.p")


def test_a_store_whose_file_alone_was_deleted_is_made_in_its_place(tmp_path: Path) -> None:
    """SQLite refuses the write-ahead log of another file: streams waited for a disk that was not at fault."""
    store = _store(tmp_path)
    _take(store, _values(3))
    (tmp_path / "care.db").unlink()
    assert store.moved()
    other = _store(tmp_path)
    assert (other.is_new(), other.patients()) == (True, {})
    _take(other, _values(2))
    assert len(_store(tmp_path).history("v1.p")) == 2
    assert not other.is_new()


def test_a_store_that_somebody_holds_is_called_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitalake.sqlite.BUSY_SECONDS", 0.1)
    store = _store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "care.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServiceUnavailable, match="another process holds it locked") as caught:
            _take(store, _values(1))
    assert "Find the program that holds it" in str(caught.value)


def test_a_store_is_an_older_copy_where_a_lane_decided_rows_long_after_it_last_spoke_here(tmp_path: Path) -> None:
    """Lanes of admissions store no positions: each of their restarts was reported as an older copy."""
    store = _store(tmp_path)
    now = clock.now_us()
    assert not store.is_older("adt/0of1", now + 3_600_000_000), "nobody can tell"
    store.beat("adt/0of1")
    assert not store.is_older("adt/0of1", now + 5_000_000), "it was killed"
    assert store.is_older("adt/0of1", now + 3_600_000_000)
    store.note_filled()
    assert store.is_older("adt/0of1", now + 3_600_000_000)
    assert not store.is_older("adt/0of1", now)


def test_a_store_lacks_what_came_before_until_it_is_filled(tmp_path: Path) -> None:
    store = _store(tmp_path)
    assert store.incomplete_since_us() == 0
    store.note_incomplete()
    assert store.incomplete_since_us() > 0
    store.note_filled()
    assert store.incomplete_since_us() == 0


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "care.db").write_bytes(b"Zzmarker" * 1000)
    with pytest.raises(DatabaseDamaged, match="rebuild care") as caught:  # not to be tried again for ever
        _store(tmp_path)
    assert "Zzmarker" not in str(caught.value)


def test_a_replay_runs_as_fast_as_it_says_and_ends() -> None:
    replay = Replay(start_us=1_000, wall_us=50, speed=10.0, end_us=1_500)
    assert [replay.at(wall) for wall in (50, 60, 99, 1_000)] == [1_000, 1_100, 1_490, 1_500]


def _owned(patient: str, *, attribution: int, value: float = 1.0, withdrawn: bool = False, position: int = 0) -> Values:
    values = _values(1, first=position, patient=patient, part="t/0")
    values.rows["id"], values.rows["value"] = 7, value
    values.rows["stage"] = stage_of("entered-in-error" if withdrawn else "final")
    values.rows["attribution"] = attribution
    values.rows["effective_us"] = values.rows["available_us"] = clock.now_us() - MINUTE
    return values


def test_of_what_is_known_of_a_values_owner_the_most_counts_whoever_stored_it_when(tmp_path: Path) -> None:
    store = _store(tmp_path)
    now = clock.now_us()
    rows = [
        ("vitals/0of1", _owned("v1.p", attribution=3)),
        ("attribution/0of1", _owned("v1.p", attribution=4, withdrawn=True)),
        ("vitals/0of1", _owned("v1.p", attribution=3)),  # a message that came twice
    ]
    for number, (writer, values) in enumerate(rows):
        values.rows["available_us"] = now
        values.position[:] = number
        _take(store, values, writer=writer)
        assert len(store.history("v1.p")) == (1 if number == 0 else 0)
    back = _owned("v1.p", attribution=7, position=9)
    back.rows["available_us"] = now
    _take(store, back, writer="attribution/0of1")
    assert len(store.history("v1.p")) == 1


def _said(patient: str, *, version: int, status: str, position: int, attribution: int = 0) -> Values:
    values = _owned(patient, attribution=attribution, position=position)
    values.rows["version"], values.rows["stage"] = version, stage_of(status)
    return values


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("versions", [(1, 2), (0, 0)])
@pytest.mark.parametrize("status", ["corrected", "entered-in-error"])
@pytest.mark.parametrize("attribution", [0, 3])
def test_a_value_that_is_corrected_to_another_patient_leaves_the_first_one_whatever_comes_first(
    tmp_path: Path, order: tuple[int, int], versions: tuple[int, int], status: str, attribution: int
) -> None:
    store, reader = _store(tmp_path), _store(tmp_path)
    said = [
        _said("v1.p", version=versions[0], status="final", position=0, attribution=attribution),
        _said("v1.q", version=versions[1], status=status, position=1, attribution=attribution),
    ]
    for number in order:
        _take(store, replace(said[number], parts=[f"t/{number}"]))
        assert len(reader.history("v1.p")) <= 1
    for one in (store, reader, _store(tmp_path)):
        assert len(one.history("v1.p")) == 0
        assert len(one.history("v1.q")) == (status == "corrected")
    back = _said("v1.p", version=versions[1] + 1, status="corrected", position=2)
    _take(store, back)
    assert [len(reader.history(patient)) for patient in ("v1.p", "v1.q")] == [1, 0]


def test_whom_a_value_went_to_is_forgotten_with_them_and_when_it_is_too_old(tmp_path: Path) -> None:
    store = _store(tmp_path, hours=1.0)
    _take(store, _said("v1.q", version=2, status="corrected", position=1))
    store.forget(["v1.q"])
    with sqlite3.connect(tmp_path / "care.db") as db:
        assert db.execute("SELECT count(*) FROM corrected").fetchone() == (0,)
        _take(store, _said("v1.r", version=2, status="corrected", position=2))
        assert db.execute("SELECT count(*) FROM corrected").fetchone() == (1,)
        db.execute("UPDATE corrected SET noted_us = noted_us - 3600000001")
        db.commit()
        store.prune()
        assert db.execute("SELECT count(*) FROM corrected").fetchone() == (0,)


@pytest.mark.parametrize("by_digest", [False, True])
def test_who_is_forgotten_is_in_no_note_and_comes_back_by_no_backup(tmp_path: Path, by_digest: bool) -> None:
    store = _store(tmp_path)
    _take(store, _owned("v1.p", attribution=3, position=5))
    _take(store, _owned("v1.q", attribution=3, position=6))
    store.put_facts([("v1.p", "v1.e", 1, Admission(clock.now_us(), None, 70))])
    digest = hashlib.sha256(b"v1.p").hexdigest()
    assert (store.forget_digests([digest]) if by_digest else store.forget(["v1.p"])) == 3
    store.put_facts([("v1.p", "v1.e", 1, Admission(clock.now_us(), None, 70))])
    _take(store, _owned("v1.p", attribution=3, position=7))
    assert store.all_patients() == ["v1.q"]
    found = [patient for values in store._ahead.undecided("t/0", 0) for patient in values.patients]
    assert found == ["v1.q"]
    assert b"v1.p" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_what_was_never_decided_is_deleted_and_may_be_anothers(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _take(store, _owned("v1.p", attribution=3, position=5))
    _take(store, _owned("v1.q", attribution=3, position=6))
    store.settle({"t/0": 6})
    _take(store, _values(1, first=7, patient="v1.r"))
    store = _store(tmp_path)
    assert store.rewind({"t/0": 6, "t/1": 0}) == 1
    assert [len(store.history(patient)) for patient in ("v1.p", "v1.q", "v1.r")] == [1, 0, 1]
    assert _take(store, _owned("v1.s", attribution=5, position=6)) == 1, "it is taken again, as somebody else's"
    assert store.rewind({"t/0": 7}) == 0
    assert len(store.history("v1.s")) == 1
    _take(store, _owned("v1.q", attribution=3, position=7))
    assert len(store.history("v1.q")) == 1


def test_who_is_forgotten_is_gone_from_every_byte_and_is_not_taken_any_more(tmp_path: Path) -> None:
    store = _store(tmp_path)
    begin = clock.now_us() - 1000 * MINUTE
    for patient, part in (("v1.gone", "t/0"), ("v1.stays", "t/1")):
        _take(store, _values(300, patient=patient, part=part, begin_us=begin))
        store.put_facts([(patient, "stay", 1, Admission(begin, None, 70))])
    assert store.forget(["v1.gone"]) == 4, "three blocks and a stay"
    assert list(store.patients()) == ["v1.stays"]
    assert _take(store, _values(10, first=300, patient="v1.gone", begin_us=begin)) == 0
    store.put_facts([("v1.gone", "stay", 2, Admission(begin, None, 70))])
    assert len(store.history("v1.gone")) == 0
    assert store.stay("v1.gone", as_of_us=begin + 1) is None
    assert len(store.history("v1.stays")) == 300
    assert not [path for path in tmp_path.iterdir() if b"v1.gone" in path.read_bytes()]


def test_of_a_lane_that_ended_by_itself_that_stays_known_and_a_dead_job_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From two days later on, a job that had ended properly was reported as one that never started."""
    store, now = _store(tmp_path), clock.now_us()
    for writer, ended in (("done/0of1", True), ("dead/0of2", True), ("dead/1of2", False)):
        store.beat(writer, ended=ended)
    monkeypatch.setattr(clock, "now_us", lambda: now + 72 * 60 * MINUTE)
    store.prune()
    lanes = store.lanes()
    assert [*lanes] == ["done/0of1"]
    assert lane_troubles(lanes, now_us=clock.now_us()) == []
    (told,) = lane_troubles(lanes, now_us=clock.now_us(), expected={"done"})
    assert (told.code, clock_time(now) in told.text) == ("stream-ended", True), "expected, it is missing for ever"
    assert missing_troubles({"done"}, lanes, made_us=now) == []
    assert [one.code for one in missing_troubles({"done", "dead"}, lanes, made_us=now)] == ["stream-silent"]
