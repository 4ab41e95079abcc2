"""A warehouse that changes where it stands: what is new and what was changed comes in once, whatever kills the load."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.query.catalogue import Catalogue
from governance.query.engine import connect
from pipelines.history import load
from pipelines.history.change_detection import CHANGED, NEW, SKIPPED, Positions, plan
from pipelines.history.digests import ENTRY, UNVERSIONED, Digests
from pipelines.history.gate import QualityError
from pipelines.history.known_rows import Known, KnownRows
from pipelines.history.load import load_history
from pipelines.intake.fenced import FencedSteps
from tests.services.earlier_digests import as_an_earlier_release
from vitalake import clock
from vitalake.errors import LakeError
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span_log import SpanConflict, Superseded
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.unlinkable.record_versions import BEHIND
from vitalake.settings import load_settings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
JOB = """
source: city
warehouse: duckdb:city.duckdb
incarnation: SELECT '1'
max_rejected: 1.0
datasets: {observation: observation.sql}
"""
SELECT = """
SELECT 'city' AS identity_system, name AS identity_value, 'p-1' AS patient_id, '8867-4' AS code, value, '/min' AS unit,
    status, taken AS effective_at{more}
FROM vital ORDER BY name
"""


class Trusting:
    """A gate through which everything goes."""

    def judge(self, dataset: Dataset, batches: Iterable[pa.Table]) -> None:
        """Read what is to be judged."""
        for _ in batches:
            pass


class City:
    """A warehouse of vital signs, and the home it is loaded into."""

    def __init__(self, home: Path, *, more: str = "") -> None:
        self.home = home
        (home / "city.yaml").write_text(JOB)
        (home / "observation.sql").write_text(SELECT.format(more=more))
        self.run("CREATE TABLE vital (name TEXT, value DOUBLE, status TEXT, taken TIMESTAMP, revision BIGINT)")
        self.insert(*"bdf")

    def run(self, sql: str) -> None:
        """Change it."""
        with duckdb.connect(str(self.home / "city.duckdb")) as connection:
            connection.execute(sql)

    def insert(self, *names: str, value: float = 70.0) -> None:
        """Add rows."""
        for name in names:
            self.run(f"INSERT INTO vital VALUES ('{name}', {value}, 'final', '2026-03-01 10:00', 1)")  # noqa: S608

    def load(self) -> int:
        """Load what the lake does not have."""
        return load_history(load_settings(self.home), str(self.home / "city.yaml"), gate=Trusting())

    def shown(self, moment: datetime | None = None) -> list[float]:
        """Return the values that are current, or were as known at a moment."""
        settings = load_settings(self.home)
        catalogue = Catalogue(settings, load_keys(settings.path(settings.keys)))
        source = "observation" if moment is None else f"observation_as_known_at('{moment.isoformat()}')"
        with catalogue.relations(["observation"]) as relations:
            connection = connect(relations, memory_mb=256)
            rows = connection.sql(f"SELECT value FROM {source} ORDER BY value").fetchall()  # noqa: S608
            connection.close()
        return [value for (value,) in rows]

    @property
    def lake(self) -> Lake:
        settings = load_settings(self.home)
        return Lake(settings.lake_uri, settings.storage_options, dataset="observation")

    def counts(self) -> dict[str, int]:
        """Return the messages of each partition, as the ledger has them."""
        found: Counter[str] = Counter()
        for span in self.lake.spans.all_spans():
            for part in span.parts:
                found[str(part.id)] += part.counts.messages
        return dict(found)


@pytest.fixture
def city(home: Path) -> City:
    city = City(home)
    assert city.load() == 3
    return city


def test_rows_in_the_middle_come_in_and_nothing_comes_twice(city: City) -> None:
    city.insert("a", "c", "z", value=80)
    assert city.load() == 3
    assert city.load() == 0
    assert city.shown() == [70.0] * 3 + [80.0] * 3
    assert city.counts() == {"city.observation[0]": 6}
    assert verify(city.lake) == []


def test_a_row_that_was_changed_replaces_what_it_said_from_when_that_was_found(city: City) -> None:
    before = clock.now()
    city.run("UPDATE vital SET value = 99 WHERE name = 'd'")
    assert city.load() == 1
    assert city.load() == 0
    assert city.shown() == [70.0, 70.0, 99.0]
    assert city.shown(before) == []  # nobody says when it could be known: from the end of the day on
    assert city.shown(before + timedelta(days=2)) == [70.0, 70.0, 99.0]
    assert city.counts() == {"city.observation[0]": 3, "city.observation[1]": 1}
    assert verify(city.lake) == []


def test_a_row_that_was_changed_back_counts_as_well(city: City) -> None:
    for value in (99, 70, 99, 98):
        city.run(f"UPDATE vital SET value = {value} WHERE name = 'b'")  # noqa: S608
        assert city.load() == 1
        assert sorted({70.0, float(value)}) == sorted(set(city.shown()))
        assert len(city.shown()) == 3
    assert city.counts()["city.observation[1]"] == 4


def test_a_row_that_is_taken_back_where_it_stands_is_not_current(city: City) -> None:
    city.run("UPDATE vital SET status = 'entered-in-error', value = 70 WHERE name = 'f'")
    assert city.load() == 1
    assert city.shown() == [70.0, 70.0]


def test_rows_that_are_gone_or_stand_elsewhere_change_nothing(city: City, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    city.run("DELETE FROM vital WHERE name = 'b'")
    (city.home / "observation.sql").write_text(SELECT.format(more="").replace("ORDER BY name", "ORDER BY name DESC"))
    assert city.load() == 0
    assert [record.count for record in caplog.records if hasattr(record, "count")] == [1]
    assert city.shown() == [70.0] * 3


def test_a_source_that_counts_versions_is_taken_at_its_word(home: Path) -> None:
    city = City(home, more=", revision AS version, taken AS issued_at")
    city.load()
    city.run("UPDATE vital SET value = 99, revision = 2 WHERE name = 'd'")
    assert city.load() == 1
    assert city.shown() == [70.0, 70.0, 99.0]
    assert city.counts() == {"city.observation[0]": 4}  # another version is another message
    assert city.shown(NOON) == [70.0, 70.0, 99.0]  # so the source said
    city.run("UPDATE vital SET value = 98 WHERE name = 'd'")
    assert city.load() == 1
    assert city.shown() == [70.0, 70.0, 98.0]  # of one version and time the lesser value, in every reader and file
    assert city.counts() == {"city.observation[0]": 4, "city.observation[1]": 1}


def test_a_time_that_the_query_gives_is_kept_for_what_is_new_only(home: Path) -> None:
    city = City(home, more=", taken AS issued_at")
    city.load()
    assert city.shown(NOON) == [70.0] * 3
    city.insert("c", value=71)
    city.run("UPDATE vital SET value = 99 WHERE name = 'd'")
    assert city.load() == 2
    assert city.shown(NOON) == [70.0, 70.0, 70.0, 71.0]
    assert city.shown(clock.now() + timedelta(days=2)) == [70.0, 70.0, 71.0, 99.0]


def test_a_query_that_gives_other_columns_changes_no_row_by_that_and_says_so(
    city: City, caplog: pytest.LogCaptureFixture
) -> None:
    city.run("UPDATE vital SET value = 99 WHERE name = 'd'")
    assert city.load() == 1
    assert "other columns" not in caplog.text
    (city.home / "observation.sql").write_text(SELECT.format(more=", 'e-1' AS encounter_id"))
    city.insert("a", value=80)
    assert city.load() == 1
    assert caplog.text.count("query gives other columns than before") == 1
    assert city.load() == 0
    assert city.shown() == [70.0, 70.0, 80.0, 99.0]
    city.run("UPDATE vital SET value = 98 WHERE name = 'd'")
    assert city.load() == 1
    assert city.shown() == [70.0, 70.0, 80.0, 98.0]


def test_without_the_file_messages_are_passed_over_by_their_place_and_remembered_anew(city: City) -> None:
    shutil.rmtree(city.home / "history")
    city.insert("z", value=80)
    assert city.load() == 1
    city.run("UPDATE vital SET value = 99 WHERE name = 'b'")
    assert city.load() == 1
    assert city.shown() == [70.0, 70.0, 80.0, 99.0]
    shutil.rmtree(city.home / "history")  # lost once more, with changes behind it
    assert city.load() == 0
    city.run("UPDATE vital SET value = 98 WHERE name = 'b'")
    assert city.load() == 1
    assert city.shown() == [70.0, 70.0, 80.0, 98.0]


def test_the_file_names_nobody_and_is_the_owners_only(city: City) -> None:
    (path,) = (city.home / "history").glob("*.npz")
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"p-1" not in path.read_bytes()


def test_a_load_from_a_damaged_file_is_refused_and_loads_nothing(city: City) -> None:
    """It was taken for a missing one: rows went by their place, and one was lost while another came twice."""
    (path,) = (city.home / "history").glob("*.npz")
    whole = bytearray(path.read_bytes())
    whole[200] ^= 1
    path.write_bytes(whole)
    city.insert("a", value=80)
    with pytest.raises(LakeError, match=r"digests|Digests of the loaded messages are damaged: .*city\.observation\."):
        city.load()
    assert city.counts() == {"city.observation[0]": 3}
    assert city.shown() == [70.0] * 3


def test_a_missing_file_and_one_older_than_the_lake_are_reported(city: City, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = (city.home / "history").glob("*.npz")
    older = path.read_bytes()
    city.insert("z")
    assert city.load() == 1
    assert "digests of loaded rows are missing" not in caplog.text
    path.write_bytes(older)
    assert city.load() == 0
    path.unlink()
    assert city.load() == 0
    assert caplog.text.count("digests of loaded rows are missing") == 2


def _as_an_earlier_release(city: City) -> None:
    (path,) = (city.home / "history").glob("*.npz")
    as_an_earlier_release(path, owners=True)


def _lose(city: City) -> None:
    shutil.rmtree(city.home / "history")


@pytest.mark.parametrize("meanwhile", [None, _as_an_earlier_release, _lose])
def test_a_correction_after_the_clock_was_ahead_is_shown(
    city: City, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[City], None] | None
) -> None:
    """Its version was the time of the load, so it stayed behind that of the day ahead for ever."""
    ahead = clock.now_us() + 86_400_000_000
    city.run("UPDATE vital SET value = 99 WHERE name = 'd'")
    with monkeypatch.context() as patched:
        patched.setattr(load, "clock", SimpleNamespace(now_us=lambda: ahead))
        assert city.load() == 1
    if meanwhile:
        meanwhile(city)
        assert city.load() == 0
    for value in (98.0, 97.0):
        city.run(f"UPDATE vital SET value = {value} WHERE name = 'd'")  # noqa: S608
        assert city.load() == 1
        assert city.shown() == [70.0, 70.0, value]


def _versions(city: City) -> list[int]:
    return sorted(city.lake.published.delta.to_pyarrow_table()["version"].to_pylist())


NEW_INCARNATION, NEW_NAME = ("SELECT '1'", "SELECT '2'"), ("source: city", "source: town")


@pytest.mark.parametrize(
    ("change", "meanwhile"),
    [
        *((NEW_INCARNATION, meanwhile) for meanwhile in (None, _as_an_earlier_release, _lose)),
        *((NEW_NAME, meanwhile) for meanwhile in (None, _as_an_earlier_release)),  # lost, nothing tells the records
    ],
)
def test_what_is_read_again_from_another_incarnation_or_source_is_shown_as_it_is_now(
    city: City, change: tuple[str, str], meanwhile: Callable[[City], None] | None
) -> None:
    """It had version 0, so what had been corrected before was shown for ever, and the rest was a matter of chance."""
    city.run("UPDATE vital SET value = 99 WHERE name = 'd'")
    assert city.load() == 1
    if meanwhile:
        meanwhile(city)
    city.run("UPDATE vital SET value = 60 + revision WHERE name IN ('b', 'd')")
    city.insert("new", value=50)
    (city.home / "city.yaml").write_text(JOB.replace(*change))
    assert city.load() == 4
    assert city.shown() == [50.0, 61.0, 61.0, 70.0]
    assert city.load() == 0
    city.run("UPDATE vital SET value = 62 WHERE name = 'd'")
    assert city.load() == 1
    assert city.shown() == [50.0, 61.0, 62.0, 70.0]
    if meanwhile is None:
        assert _versions(city).count(0) == 4, "of a record that is new everywhere, too"


def test_what_a_query_says_that_returns_no_versions_any_more_is_shown(home: Path) -> None:
    city = City(home, more=", revision AS version")
    city.load()
    city.run("UPDATE vital SET value = 99, revision = 7 WHERE name = 'd'")
    assert city.load() == 1
    (city.home / "observation.sql").write_text(SELECT.format(more=""))
    city.run("UPDATE vital SET value = 98 WHERE name = 'd'")
    assert city.load() == 3
    assert city.load() == 0
    assert city.shown() == [70.0, 70.0, 98.0]


def _raise_fence_at(city: City, *calls: int) -> Callable[[int], None]:
    called = iter(range(100))

    def progress(_count: int) -> None:
        if next(called) in calls:
            city.lake.spans.raise_fence("observation")

    return progress


def test_a_load_goes_on_by_itself_when_a_patient_is_erased_meanwhile(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended with 13, and said that the span would be read again."""
    monkeypatch.setattr(load, "BATCH_ROWS", 2)
    monkeypatch.setattr(load, "SPAN_ROWS", 2)
    city.insert(*(f"n{number}" for number in range(6)), value=80)
    city.run("UPDATE vital SET value = 99 WHERE name IN ('b', 'd')")
    job = str(city.home / "city.yaml")
    progress = _raise_fence_at(city, 1, 4)
    assert load_history(load_settings(city.home), job, gate=Trusting(), progress=progress) == 8
    assert city.load() == 0
    assert city.shown() == [70.0, *[80.0] * 6, 99.0, 99.0]
    assert city.counts() == {"city.observation[0]": 9, "city.observation[1]": 2}
    assert verify(city.lake) == []


def test_a_load_that_is_interrupted_again_and_again_says_to_run_it_again(city: City) -> None:
    city.insert("a", value=80)
    job = str(city.home / "city.yaml")
    with pytest.raises(SpanConflict, match=r"5 times: .*Run the load again"):
        load_history(load_settings(city.home), job, gate=Trusting(), progress=_raise_fence_at(city, *range(50)))
    assert city.load() == 1
    assert city.shown() == [70.0] * 3 + [80.0]


def test_a_load_that_was_taken_over_leaves_the_digests_of_its_successor(city: City) -> None:
    """It wrote its own after those, which were then not of what was loaded."""
    city.insert("a", value=80)
    path = next((city.home / "history").glob("*.npz"))
    written = list[bytes]()

    take_over, patched = FencedSteps.take_over, pytest.MonkeyPatch()

    def and_be_taken_over(*steps: Any, **options: Any) -> Any:
        patched.undo()
        writer = take_over(*steps, **options)
        city.insert("0", value=81)
        assert city.load() == 2
        written.append(path.read_bytes())
        return writer

    patched.setattr(FencedSteps, "take_over", and_be_taken_over)
    with pytest.raises(Superseded, match="Another run of this source has taken over"):
        city.load()
    assert path.read_bytes() == written[0]
    assert city.load() == 0
    assert city.shown() == [70.0] * 3 + [80.0, 81.0]


def _load_and_die(home: str, point: str) -> None:
    os.environ["VITALAKE_CRASH_AT"] = point
    load_history(load_settings(Path(home)), f"{home}/city.yaml", gate=Trusting())


def test_when_a_change_was_found_ranks_nobody_though_the_load_is_killed(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{number:02}" for number in range(60)]
    city.insert(*names)
    city.load()
    monkeypatch.setattr(load, "BATCH_ROWS", 10)
    monkeypatch.setattr(load, "SPAN_ROWS", 10)
    at = datetime(2026, 11, 3, 9, tzinfo=UTC)

    def die(count: int) -> None:
        if count >= 40:
            raise TimeoutError

    for round_, hour in enumerate((0, 3, 27)):
        city.run(f"UPDATE vital SET value = {80 + round_} WHERE name LIKE 'n%'")  # noqa: S608
        for after, progress in ((0, die), (1, None)):  # begun again an hour later
            now = at + timedelta(hours=hour + after)
            us = int(now.timestamp() * 1e6)
            monkeypatch.setattr(load, "clock", SimpleNamespace(now_us=lambda us=us: us))
            with contextlib.suppress(TimeoutError):
                load_history(load_settings(city.home), str(city.home / "city.yaml"), gate=Trusting(), progress=progress)
        assert city.shown() == [70.0] * 3 + [80.0 + round_] * 60  # within a day, and over its end
    rows = city.lake.published.delta.to_pyarrow_table().select(["observation_id", "version", "value"]).to_pylist()
    versions = [{row["observation_id"]: row["version"] for row in rows if row["value"] == 80 + n} for n in range(3)]
    assert min(version for made in versions for version in made.values()) >= BEHIND
    # Of the first moment or of the second: neither a version nor what lies between two says which.
    second = city.lake.restricted.delta.to_pyarrow_table().select(["observation_id", "version", "value"]).to_pylist()
    true = {row["observation_id"]: row["version"] for row in second if row["value"] == 80}
    assert len(set(true.values())) == 2
    ids = sorted(true)
    for made in ([versions[0][i] for i in ids], [versions[2][i] - versions[0][i] for i in ids]):
        ranks = np.argsort(np.argsort(made))
        assert abs(np.corrcoef(ranks, [true[i] for i in ids])[0, 1]) < 5 / np.sqrt(len(ids))


def test_a_change_in_one_of_several_batches_passes_the_gate(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BATCH_ROWS", 2)
    city.run("UPDATE vital SET value = 99 WHERE name = 'd'")
    city.insert("g", "h", "i", "j", value=71)
    assert load_history(load_settings(city.home), str(city.home / "city.yaml")) == 5
    assert city.shown() == [70.0, 70.0, 71.0, 71.0, 71.0, 71.0, 99.0]


WITHOUT_VERSION = {
    "patient": "SELECT no AS patient_id, sex FROM person ORDER BY no",
    "encounter": "SELECT 'e-' || no AS encounter_id, no AS patient_id, came AS admitted_at, "
    "if(sex = 'male', came, NULL) AS discharged_at FROM person ORDER BY no",
    "condition": "SELECT 'e-' || no AS encounter_id, 'ICD10CM' AS code_system, 'I10' AS code, no AS patient_id, "
    "sex = 'male' AS is_primary, came AS recorded_at FROM person ORDER BY no",
    "ward_movement": "SELECT 'e-' || no AS encounter_id, no AS patient_id, came AS in_at, 'ward' AS unit_category, "
    "if(sex = 'male', came, NULL) AS out_at FROM person ORDER BY no",
    "device_association": "SELECT 'a-' || no AS association_id, 'bed-' || no AS device_id, no AS patient_id, "
    "came AS valid_from, if(sex = 'male', 'ended', 'active') AS status FROM person ORDER BY no",
}


def _without_version(home: Path, **queries: str) -> Path:
    with duckdb.connect(str(home / "city.duckdb")) as db:
        db.execute(
            "CREATE OR REPLACE TABLE person AS SELECT 'p-' || i AS no, 'female' AS sex, "
            "TIMESTAMP '2026-03-01 10:00' AS came FROM range(20) AS t(i)"
        )
    for dataset, query in queries.items():
        (home / f"{dataset}.sql").write_text(query)
    lines = "".join(f"  {dataset}: {dataset}.sql\n" for dataset in queries)
    path = home / "city.yaml"
    path.write_text(f"source: city\nwarehouse: duckdb:city.duckdb\nmax_rejected: 0.01\ndatasets:\n{lines}")
    return path


def test_a_query_without_versions_is_published_in_every_dataset_and_so_are_its_changes(home: Path) -> None:
    job, settings = str(_without_version(home, **WITHOUT_VERSION)), load_settings(home)
    assert load_history(settings, job) == 100
    with duckdb.connect(str(home / "city.duckdb")) as db:
        db.execute("UPDATE person SET sex = 'male' WHERE no = 'p-7'")
    assert load_history(settings, job) == 5
    for dataset in WITHOUT_VERSION:
        lake = Lake(settings.lake_uri, settings.storage_options, dataset=dataset)
        versions = lake.published.delta.to_pyarrow_table()["version"].to_pylist()
        assert sorted(versions)[:20] == [0] * 20
        assert len(versions) == 21
        assert versions != sorted(versions)[:20]


@pytest.mark.parametrize("missing", ["'e-' || no AS encounter_id", "no AS patient_id", "came AS admitted_at"])
def test_a_query_whose_rows_would_all_be_rejected_does_not_pass_the_gate(home: Path, missing: str) -> None:
    value, name = missing.split(" AS ")
    query = WITHOUT_VERSION["encounter"].replace(missing, f"if(no = '', {value}, NULL) AS {name}")
    with pytest.raises(QualityError, match=name):
        load_history(load_settings(home), str(_without_version(home, encounter=query)))


def test_versions_that_are_nothing_do_not_pass_the_gate(home: Path) -> None:
    query = WITHOUT_VERSION["encounter"].replace("SELECT ", "SELECT CAST(NULL AS BIGINT) AS version, ", 1)
    with pytest.raises(QualityError, match="version"):
        load_history(load_settings(home), str(_without_version(home, encounter=query)))


@pytest.mark.parametrize("point", ["start-epoch", "staged", "before-decide", "decided", "added-one"])
def test_killed_and_run_again_changes_are_there_once(city: City, point: str) -> None:
    city.insert("a", "e", value=80)
    city.run("UPDATE vital SET value = 99 WHERE name IN ('b', 'f')")
    process = multiprocessing.get_context("spawn").Process(target=_load_and_die, args=(str(city.home), point))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    city.run("UPDATE vital SET value = 98 WHERE name = 'f'")
    city.load()
    assert city.load() == 0
    assert city.shown() == [70.0, 80.0, 80.0, 98.0, 99.0]
    counts = city.counts()
    assert counts["city.observation[0]"] == 5
    assert counts["city.observation[1]"] == (3 if point in ("decided", "added-one") else 2)
    assert verify(city.lake) == []


# -- the plan, against a naive one


def entries(pairs: Iterable[tuple[int, int]]) -> Any:
    found = np.zeros(len(list(pairs := list(pairs))), ENTRY)
    for i, (key, content) in enumerate(pairs):
        found[i] = (key, content, 0, 0, key, 0, UNVERSIONED, 0)
    return found


PAIRS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=10)


@given(states=st.lists(PAIRS, min_size=1, max_size=4), data=st.data())
def test_after_each_load_what_is_there_is_what_is_known_wherever_it_was_killed(
    states: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    known, at = entries([]), Positions(0, 0)
    there: Counter[tuple[int, int]] = Counter()
    for state in [*states, states[-1]]:
        done = plan(entries(state), known, at)
        fate = done.fate.tolist()
        passed = Counter(pair for pair, what in zip(state, fate, strict=True) if what == SKIPPED)
        assert passed == there & Counter(state)
        new, changed = fate.count(NEW), fate.count(CHANGED)
        assert len(done.entries) == at.new + at.changed + new + changed
        # Loaded in full, or up to any point: spans take messages in order.
        upto = data.draw(st.integers(0, len(fate)))
        for reached in (upto, len(fate)):
            part = Positions(at.new + fate[:reached].count(NEW), at.changed + fate[:reached].count(CHANGED))
            again = plan(entries(state), done.entries, part)
            assert again.fate.tolist() == [SKIPPED if i < reached else what for i, what in enumerate(fate)]
        known, at = done.entries, Positions(at.new + new, at.changed + changed)
        there = (there | Counter(state)) - _replaced(there, state)
    assert not plan(entries(states[-1]), known, at).fate.any()


def _replaced(there: Counter[tuple[int, int]], state: list[tuple[int, int]]) -> Counter[tuple[int, int]]:
    """Return which known messages give way: of a name as many as come with another content, the first of them."""
    gone, come = there - Counter(state), Counter(state) - there
    wanted = Counter[int]()
    for (key, _), count in come.items():
        wanted[key] += count
    found: Counter[tuple[int, int]] = Counter()
    for pair in gone.elements():
        if wanted[pair[0]]:
            wanted[pair[0]] -= 1
            found[pair] += 1
    return found


def _written(folder: Path) -> tuple[KnownRows, Known]:
    """Return a file of digests that an upgrade has left half complete, and what it says."""
    numbers = np.array([3, 4], np.uint64)
    known = Known(entries([(1, 2), (0, 3)]), "form", 999, 4, numbers, numbers)
    remembered = KnownRows(folder, "x")
    remembered.write(known)
    return remembered, known


def test_what_is_written_is_read_and_no_file_says_nothing(tmp_path: Path) -> None:
    assert not len(KnownRows(tmp_path, "x").read().entries)
    remembered, known = _written(tmp_path)
    _assert_says(remembered.read(), known)


def _assert_says(read: Known, known: Known) -> None:
    assert read.entries.tolist() == known.entries.tolist()
    assert (read.form, read.given_us) == (known.form, known.given_us)
    assert [read.records.tolist(), read.owned.tolist()] == [known.records.tolist(), known.owned.tolist()]


def test_a_changed_bit_anywhere_in_a_file_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """A flipped bit made the file one without entries: rows were lost, and others came twice."""
    remembered, known = _written(tmp_path)
    whole, refused = remembered.path.read_bytes(), 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        remembered.path.write_bytes(changed)
        try:
            read = remembered.read()
        except LakeError:
            refused += 1
        else:
            _assert_says(read, known)
    assert refused > len(whole) / 2


@pytest.mark.parametrize("broken", [b"PK\x03\x04", b"\x93NUMPY", b"", None])
def test_a_file_that_is_no_such_file_is_refused(tmp_path: Path, broken: bytes | None) -> None:
    remembered, _ = _written(tmp_path)
    remembered.path.write_bytes(remembered.path.read_bytes()[:-30] if broken is None else broken)
    with pytest.raises(LakeError, match=r"Digests of the loaded messages are damaged: .*x\.npz\. Restore"):
        remembered.read()
    np.savez(remembered.path, entries=np.arange(3), form=np.array("x"))
    with pytest.raises(LakeError, match="damaged"):
        remembered.read()


def test_without_room_nothing_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("in the way")
    with pytest.raises(LakeError, match="Digests of the loaded messages cannot be written"):
        KnownRows(tmp_path, "x").write(Known())


@pytest.mark.parametrize("name", ["observation", "encounter"])
def test_digests_do_not_depend_on_how_rows_are_cut_and_do_on_everything_they_say(name: str) -> None:
    digests = Digests(load_dataset(name), b"k" * 32)
    table = pa.table(
        {
            "encounter_id": ["a", "a", "b", None], "patient_id": ["p", "q", "p", "p"], "code": ["x", "x", "x", "y"],
            "version": [1, 2, 1, None], "value": [1.0, None, 0.0, 2.0], "is_primary": [True, False, None, True],
            "effective_at": pa.array([1, 2, 3, None], pa.timestamp("us")),
            "born": pa.array([1, 2, 3, None], pa.date32()),
            "identity_value": ["i", "j", None, "k"],
        }
    )  # fmt: skip
    whole = digests.of(table, np.arange(4))
    cut = (digests.of(table.slice(0, 1), np.arange(1)), digests.of(table.slice(1), np.arange(3)))
    parts = np.concatenate(cut)
    assert whole.tolist() == parts.tolist()
    assert len({*whole["key"].tolist()}) == len({*whole["content"].tolist()}) == 4
    assert digests.of(table, np.array([0, 2]))["content"].tolist() != whole["content"][[0, 2]].tolist()
    assert Digests(load_dataset(name), b"l" * 32).of(table, np.arange(4)).tolist() != whole.tolist()
    for column in table.schema.names:
        changed = table.set_column(table.schema.get_field_index(column), column, shifted(table[column]))
        assert (digests.of(changed, np.arange(4))["content"] != whole["content"]).any(), column
    assert len(digests.of(table.slice(0, 0), np.arange(0))) == 0


def shifted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with its values moved by one row."""
    return pa.chunked_array([pa.concat_arrays([column[1:].combine_chunks(), column[:1].combine_chunks()])])
