"""The online store: every value once, the latest version of each, nothing in clear, nothing older than it keeps."""

from __future__ import annotations

import multiprocessing
import random
import secrets
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.online_store.blocks import BLOCK_ROWS
from pipelines.online_store.facts import Admission, Movement, Person
from pipelines.online_store.playback import Replay
from pipelines.online_store.values import CLOCK_AHEAD
from tests.unit.pipelines.online_store.store_samples import MINUTE, attributed, open_store, take, values_of
from vitalake import clock
from vitalake.errors import PrivacyError, ServiceUnavailable
from vitalake.keys import Key
from vitalake.sqlite import DatabaseDamaged


@given(sizes=st.lists(st.integers(1, 3 * BLOCK_ROWS), min_size=1, max_size=8), reread=st.integers(0, 400))
def test_every_position_is_taken_once_whatever_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], reread: int
) -> None:
    store = open_store(tmp_path_factory.mktemp("care"))
    begin = clock.now_us() - 1000 * MINUTE
    first = stored = 0
    for size in sizes:
        back = max(0, first - reread)  # a killed lane starts again at the lake's position
        stored += take(store, values_of(first + size - back, first=back, begin_us=begin))
        first += size
    assert stored == first
    assert store.history("v1.p").value.tolist() == list(range(first))


def test_another_opening_goes_on_where_the_one_before_ended(tmp_path: Path) -> None:
    begin = clock.now_us() - 1000 * MINUTE
    for first in range(0, 500, 50):
        assert take(open_store(tmp_path), values_of(50, first=first, begin_us=begin)) == 50
    assert len(open_store(tmp_path).history("v1.p")) == 500


def test_the_latest_version_counts_and_what_was_taken_back_is_gone(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    values = values_of(6)
    values.rows["id"] = [1, 1, 2, 2, 3, 3]
    values.rows["version"] = [2, 1, 1, 2, 1, 2]  # corrections may come before what they correct
    values.rows["stage"] = [4, 4, 4, 4, 4, 11]
    take(store, values)
    assert store.history("v1.p").value.tolist() == [0.0, 3.0]


def test_what_is_too_old_is_neither_taken_nor_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path, hours=1.0)
    now = clock.now_us()
    assert take(store, values_of(100, begin_us=now - 90 * MINUTE)) == 0
    take(store, values_of(10, begin_us=now - 59 * MINUTE, part="t/1"))
    take(store, values_of(10, begin_us=now - 10 * MINUTE, part="t/2"))
    store.put_facts([("v1.p", "", 1, Person("female"))])
    store.time.set_replay(Replay(start_us=now + 30 * MINUTE, wall_us=now, speed=1.0, end_us=now + 10**12))
    assert len(store.history("v1.p")) == 10, "too old values are not given out, deleted or not"
    assert store.prune() == 1
    assert len(store.history("v1.p")) == 10
    store.time.set_replay(Replay(start_us=now + 300 * MINUTE, wall_us=now, speed=1.0, end_us=now + 10**12))
    store.prune()
    assert store.patients.revisions() == {}
    with sqlite3.connect(tmp_path / "care.db") as db:
        assert db.execute("SELECT (SELECT count(*) FROM block) + (SELECT count(*) FROM fact)").fetchone() == (0,)


def test_two_writers_and_a_prune_between_lose_nothing(tmp_path: Path) -> None:
    one, other = open_store(tmp_path), open_store(tmp_path)
    begin = clock.now_us() - 1000 * MINUTE
    take(one, values_of(100, begin_us=begin, part="t/0"), writer="a")
    take(other, values_of(100, first=1000, begin_us=begin, part="t/1"), writer="b")
    take(one, values_of(100, first=100, begin_us=begin, part="t/0"), writer="a")
    other.prune()
    take(one, values_of(100, first=200, begin_us=begin, part="t/0"), writer="a")
    assert len(other.history("v1.p")) == 400


def test_what_was_ahead_when_we_took_it_in_is_held_to_that_when_a_store_is_filled(tmp_path: Path) -> None:
    """A value that came four hours ago from a clock three hours ahead made a silent sensor look alive an hour ago."""
    now, store = clock.now_us(), open_store(tmp_path)
    for part, ours in (("t/0", True), ("t/1", False)):
        values = values_of(1, begin_us=now - 60 * MINUTE, part=part, patient=f"v1.{ours}")
        values.rows["came_us"] = now - 240 * MINUTE
        store.take(values, writer="rebuild/0of1", ends={part: 1}, ours=ours)
    seen = [store.history(f"v1.{ours}").measured() for ours in (True, False)]
    assert [set(one.effective_us.tolist()) for one in seen] == [{now - 240 * MINUTE}, {now - 60 * MINUTE}]
    assert [one.code.tolist().count(CLOCK_AHEAD) for one in seen] == [1, 0], "a producer's clock may be behind"


def _write_polls(folder: Path, begin: int) -> None:
    store = open_store(folder)
    for first in range(0, 100_000, 10):
        take(store, values_of(10, first=first, begin_us=begin))


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_polls(tmp_path: Path) -> None:
    begin = clock.now_us() - 1000 * MINUTE
    reader = open_store(tmp_path)
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
    writer, reader = open_store(tmp_path), open_store(tmp_path)
    version = reader.version()
    take(writer, values_of(3, patient="v1.a"))
    assert reader.version() != version
    known = reader.patients.revisions()
    take(writer, values_of(3, patient="v1.b", part="t/1"))
    assert set(reader.patients.changed_since(max(known.values()))) == {"v1.b"}
    take(writer, values_of(3, first=3, patient="v1.a"))
    assert set(reader.patients.changed_since(max(known.values()))) == {"v1.a", "v1.b"}


def test_the_stay_is_the_one_begun_last_as_far_as_was_known(tmp_path: Path) -> None:
    store, begin = open_store(tmp_path), clock.now_us() - 600 * MINUTE

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
    assert store.facts.stay("v1.p", as_of_us=at(0)) is None
    first, second = store.facts.stay("v1.p", as_of_us=at(4)), store.facts.stay("v1.p", as_of_us=at(7))
    assert first is not None
    assert second is not None
    assert (first.encounter, first.discharged_us, first.unit) == ("v1.first", at(2), "")
    assert (second.encounter, second.discharged_us, second.unit, second.bed) == ("v1.second", None, "MICU", "03")
    assert (second.age_years, second.sex) == (71, "female")
    store.put_facts([("v1.p", "", 0, Person("male"))])
    assert store.facts.stay("v1.p", as_of_us=at(7)) == second, "an older version changes nothing"


@pytest.mark.parametrize("at_once", [True, False])
def test_of_what_is_filled_in_of_one_version_the_later_known_counts(tmp_path: Path, at_once: bool) -> None:
    """Without versions all rows have the same one, and the lake's files have no order: the open row came last."""
    now = clock.now_us()
    begin, end = now - 5 * 3_600_000_000, now - 3_600_000_000
    over = ("v1.p", "E", 0, Admission(begin, end, 70, known_us=end))
    open_ = ("v1.p", "E", 0, Admission(begin, None, 70, known_us=begin))
    with closing(open_store(tmp_path)) as store:
        for facts in [[over, open_]] if at_once else [[over], [open_]]:
            store.put_facts([*facts], again=True)
        stay = store.facts.stay("v1.p", as_of_us=now)
        assert stay is not None
        assert stay.discharged_us == end


def test_stays_that_ended_long_ago_and_people_without_a_stay_are_not_kept(tmp_path: Path) -> None:
    store, now = open_store(tmp_path, hours=1.0), clock.now_us()
    store.put_facts(
        [
            ("v1.gone", "v1.a", 1, Admission(now - 200 * MINUTE, now - 61 * MINUTE, 70)),
            ("v1.here", "v1.b", 1, Admission(now - 200 * MINUTE, now - 59 * MINUTE, 70)),
        ]
    )
    store.put_facts([("v1.gone", "", 1, Person("male")), ("v1.here", "", 1, Person("male"))])
    assert store.facts.stay("v1.gone", as_of_us=now) is None
    assert store.facts.stay("v1.here", as_of_us=now) is not None
    store.time.set_replay(Replay(start_us=now + 61 * MINUTE, wall_us=now, speed=1.0, end_us=now + 10**12))
    store.prune()
    with sqlite3.connect(tmp_path / "care.db") as db:
        assert db.execute("SELECT count(*) FROM fact").fetchone() == (0,)


def test_nothing_of_a_patient_stands_in_clear_and_only_the_owner_may_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    values = values_of(300)
    values.rows["value"] = 123.456789
    take(store, values)
    store.put_facts(
        [("v1.p", "v1.e", 1, Admission(1, None, 87.0)), ("v1.p", "x", 1, Movement("v1.e", 1, None, "Zzward", "Zzbed"))]
    )
    store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for planted in (b"Zzward", b"Zzbed", b"87.0", np.float64(123.456789).tobytes(), b"admitted"):
        assert planted not in content
    assert all(not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for path in tmp_path.iterdir())


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    take(open_store(tmp_path), values_of(3))
    with pytest.raises(PrivacyError, match="cannot be opened"):
        open_store(tmp_path, key=Key("care", "v2", secrets.token_bytes(32))).history("v1.p")


def test_a_store_whose_file_alone_was_deleted_is_made_in_its_place(tmp_path: Path) -> None:
    """SQLite refuses the write-ahead log of another file: streams waited for a disk that was not at fault."""
    store = open_store(tmp_path)
    take(store, values_of(3))
    (tmp_path / "care.db").unlink()
    assert store.moved()
    other = open_store(tmp_path)
    assert (other.completeness.is_new(), other.patients.revisions()) == (True, {})
    take(other, values_of(2))
    assert len(open_store(tmp_path).history("v1.p")) == 2
    assert not other.completeness.is_new()


def test_a_store_that_somebody_holds_is_called_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitalake.sqlite.BUSY_SECONDS", 0.1)
    store = open_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "care.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServiceUnavailable, match="another process holds it locked") as caught:
            take(store, values_of(1))
    assert "Find the program that holds it" in str(caught.value)


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "care.db").write_bytes(b"Zzmarker" * 1000)
    with pytest.raises(DatabaseDamaged, match="rebuild care") as caught:  # not to be tried again for ever
        open_store(tmp_path)
    assert "Zzmarker" not in str(caught.value)


def test_of_what_is_known_of_a_values_owner_the_most_counts_whoever_stored_it_when(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    now = clock.now_us()
    rows = [
        ("vitals/0of1", attributed("v1.p", attribution=3)),
        ("attribution/0of1", attributed("v1.p", attribution=4, withdrawn=True)),
        ("vitals/0of1", attributed("v1.p", attribution=3)),  # a message that came twice
    ]
    for number, (writer, values) in enumerate(rows):
        values.rows["available_us"] = now
        values.position[:] = number
        take(store, values, writer=writer)
        assert len(store.history("v1.p")) == (1 if number == 0 else 0)
    back = attributed("v1.p", attribution=7, position=9)
    back.rows["available_us"] = now
    take(store, back, writer="attribution/0of1")
    assert len(store.history("v1.p")) == 1


def test_what_was_never_decided_is_deleted_and_may_be_anothers(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    take(store, attributed("v1.p", attribution=3, position=5))
    take(store, attributed("v1.q", attribution=3, position=6))
    store.settle({"t/0": 6})
    take(store, values_of(1, first=7, patient="v1.r"))
    store = open_store(tmp_path)
    assert store.rewind({"t/0": 6, "t/1": 0}) == 1
    assert [len(store.history(patient)) for patient in ("v1.p", "v1.q", "v1.r")] == [1, 0, 1]
    assert take(store, attributed("v1.s", attribution=5, position=6)) == 1, "it is taken again, as somebody else's"
    assert store.rewind({"t/0": 7}) == 0
    assert len(store.history("v1.s")) == 1
    take(store, attributed("v1.q", attribution=3, position=7))
    assert len(store.history("v1.q")) == 1


def test_what_was_taken_under_former_pseudonyms_is_taken_again_under_those_of_today(tmp_path: Path) -> None:
    """After a new key the lake had decided nothing of it, and its positions counted as taken: values were lost."""
    store = open_store(tmp_path)
    assert take(store, values_of(3, first=5, patient="v9.p")) == 3
    assert take(store, values_of(3, first=5, patient="v10.p")) == 3
    assert take(store, values_of(3, first=5, patient="v10.p")) == 0


def test_nothing_is_taken_under_former_pseudonyms_once_those_of_today_hold(tmp_path: Path) -> None:
    """Whoever still has keys of before gave the ward a second patient, who stayed for two days."""
    store = open_store(tmp_path)
    take(store, values_of(3, first=5, patient="v9.p"))
    store.begin_pseudonyms("v10")
    assert store.all_patients() == []
    assert take(store, values_of(3, first=8, patient="v9.p")) == 0
    store.put_facts([("v9.p", "", 1, Person(sex="female"))])
    assert store.all_patients() == []
    assert take(store, values_of(6, first=5, patient="v10.p")) == 6


def test_of_messages_that_were_put_aside_what_nobody_has_decided_is_deleted(tmp_path: Path) -> None:
    """They were discarded after a killed replay, and their values stayed on the ward."""
    store = open_store(tmp_path)
    store.reprocess("t/0", 0, epoch=1)
    take(store, values_of(3, first=0, patient="v1.p"), epoch=1)
    store.settle({"t/0": 3})
    take(store, values_of(4, first=3, patient="v1.p"), epoch=1)
    store = open_store(tmp_path)
    assert store.reprocess("t/0", 3, epoch=2) == 4
    assert len(store.history("v1.p")) == 3
    assert take(store, values_of(4, first=3, patient="v1.p"), epoch=1) == 0, "it was only paused, and has a successor"
    assert take(store, values_of(4, first=3, patient="v1.p"), epoch=2) == 4
