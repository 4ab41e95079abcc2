"""Of a record, the row that was loaded last is shown, whoever loaded it; of rows with versions, the highest."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import vitalake
from pipelines.history.gate import QualityError
from pipelines.history.load import load_history
from tests import forking
from tests.services.earlier_digests import as_an_earlier_release
from tests.services.test_history_sources import Homes, Meanwhile
from tests.services.waiting import until
from vitalake.errors import LakeError
from vitalake.lake.commits import span as span_module
from vitalake.lake.commits import span_log
from vitalake.lake.commits.span import Span
from vitalake.lake.commits.span import to_row as spans_to_row
from vitalake.lake.commits.span_log import Superseded
from vitalake.settings import load_settings

PATIENT = "P-1"


def row(number: int, dose: int, version: int | None = None) -> dict[str, Any]:
    """Return a dose; without a version, the query has none."""
    return {"number": number, "patient": PATIENT, "dose": dose, "version": version}


@pytest.fixture
def homes(home: Path) -> Homes:
    return Homes(home)


def incarnation(text: object) -> str:
    return f"incarnation: SELECT '{text}'"


def repair(homes: Homes) -> None:
    command = forking.command("vitalake", "lake", "repair", "--home", str(homes.home))
    subprocess.run(command, capture_output=True, check=True)


class Model:
    """What has to be shown, by the rule as the page says it."""

    def __init__(self) -> None:
        self.rows: dict[int, list[tuple[tuple[int, int], int]]] = {}
        self.unversioned: set[int] = set()
        self.last_text: dict[str, int] = {}
        self.last_form: dict[str, bool] = {}
        self.known: dict[str, dict[tuple[int, int | None], int]] = {}
        self.highest: dict[tuple[str, int], int] = {}
        self.loads = 0

    def load(self, source: str, text: int, rows: list[dict[str, Any]]) -> int:
        """Load rows; return how many messages that were."""
        self.loads += 1
        if self.last_text.get(source) != text:
            self.known[source] = {}
        known, versioned = self.known[source], rows[0]["version"] is not None
        if known and self.last_form.get(source) != versioned:  # reported: what is known by its key counts as loaded
            known.update({key: row["dose"] for row in rows if (key := (row["number"], row["version"])) in known})
        brought = [row for row in rows if known.get((row["number"], row["version"])) != row["dose"]]
        if brought:
            self.last_text[source] = text
        self.last_form[source] = versioned
        for row in brought:
            number, version = row["number"], row["version"]
            for key in [key for key in known if key[0] == number and (key[1] is None) != (version is None)]:
                del known[key]
        before = {number: number in self.unversioned for number in (row["number"] for row in brought)}
        for row in rows:
            if row["version"] is not None:
                key = source, row["number"]
                self.highest[key] = max(self.highest.get(key, -1), row["version"])
        for row in brought:
            number, version = row["number"], row["version"]
            known[number, version] = row["dose"]
            seen = self.rows.setdefault(number, [])
            if version is None:
                rank = (1, self.loads) if seen else (0, 0)
                self.unversioned.add(number)
            else:
                latest = before[number] and version == self.highest[source, number]
                rank = (1, self.loads) if latest else (0, version)
            seen.append((rank, row["dose"]))
        return len(brought)

    def shown(self) -> list[float]:
        return sorted(float(max(rows)[1]) for rows in self.rows.values())


@pytest.mark.parametrize("seed", range(3))
def test_any_loads_show_what_was_loaded_last(homes: Homes, seed: int) -> None:
    """Rows stayed hidden: of a text that came back, of a query that had got versions, of sources of both kinds."""
    chosen, model = random.Random(seed), Model()
    doses, revisions = {number: number for number in range(1, 5)}, dict.fromkeys(range(1, 5), 1)
    for _ in range(9):
        source, text, versioned = chosen.choice("ab"), chosen.randrange(2), chosen.random() < 0.5
        for number in chosen.sample(range(1, 5), 2):
            doses[number] = 10 * number + chosen.randrange(3)  # so that contents come back
            revisions[number] += chosen.randrange(2)
        # Sources count for themselves, so that two never give one version to two contents, unless a load gives it one.
        rows = []
        for number in chosen.sample(range(1, 5), chosen.randrange(1, 5)):
            version = 2 * revisions[number] + (source == "a") if versioned else None
            of_loads = version is None or number in model.unversioned
            rows.append(row(number, doses[number] if of_loads else 1000 * revisions[number] + number, version))
        if versioned and chosen.random() < 0.5:  # a source that returns earlier versions, too, or late
            number = rows[-1]["number"]
            rows.insert(0, row(number, number, rows[-1]["version"] - 2))
        loaded = homes.load(source, *rows, more=incarnation(text), gate=Trusting())
        assert (loaded, homes.shown()) == (model.load(source, text, rows), model.shown())


@pytest.mark.parametrize(("x", "y", "earlier"), [("1", "2", False), ("1", "2", True), ("2", "1", True)])
def test_a_text_of_the_incarnation_that_comes_back_reads_everything_again(
    homes: Homes, x: str, y: str, earlier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was read, and what had been loaded meanwhile stayed shown."""
    first, second = (row(1, 10), row(2, 20)), (row(1, 11), row(2, 20))
    with monkeypatch.context() as patched:
        if earlier:  # which did not record which load was the last one
            patched.setattr(span_module, "last_app", lambda dataset, _topic_id: f"x/{dataset}/x")
        for text, rows, loaded in ((x, first, 2), (y, second, 2)):
            assert homes.load("city", *rows, more=incarnation(text)) == loaded
    assert homes.load("city", *second, more=incarnation(y)) == 0
    assert homes.load("city", *first, more=incarnation(x)) == 2
    assert homes.load("city", *first, more=incarnation(x)) == 0
    assert homes.shown() == [10.0, 20.0]
    assert homes.load("city", *second, more=incarnation(y)) == 2
    assert homes.shown() == [11.0, 20.0]
    assert homes.load("city", *first, more=incarnation(x)) == 2
    assert homes.load("city", *second, more=incarnation(x)) == 1
    assert homes.shown() == [11.0, 20.0]


def test_a_load_that_was_killed_under_a_text_that_came_back_goes_on(homes: Homes) -> None:
    homes.load("city", row(1, 10), more=incarnation("x"))
    homes.load("city", row(1, 11), more=incarnation("y"))
    killed = homes.start("city", row(1, 10), row(2, 20), more=incarnation("x"), VITALAKE_CRASH_AT="decided")
    assert killed.wait(60) == -signal.SIGKILL
    assert homes.load("city", row(1, 10), row(2, 20), more=incarnation("x")) == 0
    assert homes.shown() == [10.0, 20.0]


def test_a_load_that_one_of_another_incarnation_overtook_ends_and_then_reads_everything(homes: Homes) -> None:
    homes.load("city", row(1, 10), more=incarnation("x"))
    later = homes.job("city", row(1, 11), more=incarnation("y"))
    job = Path(homes.job("early", row(1, 10), row(2, 20), more=incarnation("x")))
    job.write_text(job.read_text().replace("source: early", "source: city"))
    overtaking = Meanwhile(lambda: load_history(load_settings(homes.home), later))
    with pytest.raises(Superseded):
        load_history(load_settings(homes.home), str(job), gate=overtaking)
    assert (overtaking.loaded, homes.shown()) == (1, [11.0])
    assert load_history(load_settings(homes.home), str(job)) == 2
    assert homes.shown() == [10.0, 20.0]


def test_an_earlier_version_that_comes_late_in_another_incarnation_is_not_shown(homes: Homes) -> None:
    homes.load("town", row(1, 10))
    assert homes.load("city", row(1, 50, 5), more=incarnation("x")) == 1
    assert homes.load("city", row(1, 40, 4), more=incarnation("y")) == 1
    assert homes.shown() == [50.0]
    assert homes.load("city", row(1, 60, 6), more=incarnation("y")) == 1
    assert homes.shown() == [60.0]


def test_a_version_that_a_query_returns_later_shows_its_highest_row(homes: Homes) -> None:
    """It never reached the time that a corrected row had got as its version."""
    homes.load("city", row(1, 10), row(2, 20))
    homes.load("city", row(1, 11), row(2, 20))
    assert homes.load("city", row(1, 9, 1), row(1, 12, 2), row(2, 20, 1)) == 3
    assert homes.shown() == [12.0, 20.0]
    assert homes.load("city", row(1, 9, 1), row(1, 12, 2), row(1, 13, 3), row(2, 20, 1)) == 1
    assert homes.shown() == [13.0, 20.0]
    assert homes.load("city", row(1, 8, 0), row(2, 20, 1)) == 1, "an earlier version that comes late"
    assert homes.shown() == [13.0, 20.0]
    assert homes.load("city", row(1, 10), row(2, 20)) == 2, "the query has lost its version again"
    assert homes.shown() == [10.0, 20.0]


@pytest.mark.parametrize(
    "states",
    [
        [(10, None), (11, 1), (10, None), (13, None), (10, None)],
        [(10, 1), (11, None), (10, 1), (13, 1), (10, 1)],
        [(10, None), (11, 1), (12, None), (13, None), (12, None)],
    ],
)
def test_what_a_row_said_once_is_loaded_again_though_the_query_changed_meanwhile(
    homes: Homes, states: list[tuple[int, int | None]]
) -> None:
    """An equal row from before the query changed stood in for the one that was replaced."""
    for dose, version in states:
        assert homes.load("city", row(1, dose, version)) == 1
        assert homes.shown() == [dose]


def test_a_column_that_is_new_does_not_load_again_what_came_back_before(homes: Homes) -> None:
    for dose, version in ((10, None), (11, 1), (10, None)):
        homes.load("city", row(1, dose, version))
    job = Path(homes.job("city", row(1, 10)))
    query = homes.home / "city.sql"
    query.write_text(f"SELECT *, TIMESTAMP '2026-01-05 08:00' AS available_at FROM ({query.read_text()})")  # noqa: S608
    assert load_history(load_settings(homes.home), str(job)) == 0


def test_a_source_of_an_earlier_release_that_counts_shows_its_next_version(homes: Homes) -> None:
    """Its corrected row was taken for one without a version, so the next got a time, and the one after that did not."""
    homes.load("city", row(1, 10, 1))
    homes.load("city", row(1, 11, 1))
    as_an_earlier_release(next((homes.home / "history").glob("*.npz")))
    assert homes.load("city", row(1, 11, 1), row(1, 12, 2)) == 1
    assert homes.load("city", row(1, 11, 1), row(1, 12, 2), row(1, 13, 3)) == 1
    assert homes.shown() == [13.0]


@pytest.mark.parametrize("owners", [False, True])
def test_a_query_of_an_earlier_release_that_gets_a_version_at_once_shows_it(homes: Homes, owners: bool) -> None:
    homes.load("city", row(1, 10))
    homes.load("city", row(1, 11))
    as_an_earlier_release(next((homes.home / "history").glob("*.npz")), owners=owners)
    for dose, version in ((12, 2), (13, 3)):
        assert homes.load("city", row(1, dose, version)) == 1
        assert homes.shown() == [dose]


def _digests(homes: Homes, source: str) -> list[Path]:
    return sorted((homes.home / "history").glob(f"{source}.*.npz"), key=lambda path: path.stat().st_mtime_ns)


def test_a_version_that_got_a_time_is_followed_by_the_next_without_the_digests_that_were_the_reason(
    homes: Homes,
) -> None:
    homes.load("town", row(1, 10))
    homes.load("city", row(1, 11, 5))
    _digests(homes, "town")[0].unlink()
    assert homes.load("city", row(1, 12, 6)) == 1
    assert homes.shown() == [12.0]


def test_a_version_that_got_a_time_is_followed_by_the_next_though_the_own_digests_were_lost(homes: Homes) -> None:
    homes.load("city", row(1, 10))
    homes.load("city", row(1, 11, 1))
    _digests(homes, "city")[0].unlink()
    homes.load("city", row(1, 11, 1), row(1, 12, 2))  # skipped by their places, and reported
    assert homes.load("city", row(1, 11, 1), row(1, 12, 2), row(1, 13, 3)) == 1
    assert homes.shown() == [13.0]


def test_a_version_of_another_source_is_shown_over_a_correction_whose_digests_were_lost(homes: Homes) -> None:
    homes.load("town", row(9, 90, 1))
    homes.load("city", row(1, 10))
    homes.load("city", row(1, 11))
    _digests(homes, "city")[0].unlink()
    assert homes.load("city", row(1, 11)) == 0  # by its place
    assert homes.load("town", row(9, 90, 1), row(1, 12, 6)) == 1
    assert homes.shown() == [12.0, 90.0]


def test_a_version_that_got_a_time_is_followed_by_the_next_once_lost_digests_are_back(homes: Homes) -> None:
    homes.load("city", row(1, 10), more=incarnation("x"))
    homes.load("city", row(1, 11), more=incarnation("x"))
    (path,) = _digests(homes, "city")
    kept = path.read_bytes()
    path.unlink()
    assert homes.load("city", row(1, 12, 2), more=incarnation("y")) == 1
    path.write_bytes(kept)
    assert homes.load("city", row(1, 13, 3), more=incarnation("y")) == 1
    assert homes.shown() == [13.0]


def test_a_version_got_a_time_because_of_a_load_that_was_killed(homes: Homes) -> None:
    paused = homes.home / "paused"
    pause = {"VITALAKE_PAUSE_AT": "before-stage", "VITALAKE_PAUSE_FILE": str(paused)}
    town = homes.start("town", row(1, 10), **pause)
    try:
        until(paused.exists, process=town)
        assert homes.load("city", row(1, 11, 5)) == 1
    finally:
        town.kill()
        town.wait()
    assert homes.load("city", row(1, 12, 6)) == 1
    assert homes.shown() == [12.0]


@pytest.mark.parametrize(("source", "more"), [("city", incarnation("y")), ("town", "")])
def test_digests_that_are_older_than_the_lake_are_refused_to_other_loads(homes: Homes, source: str, more: str) -> None:
    """Rows that they did not name counted as new: two had version 0, and the earlier one was shown."""
    homes.load("city", row(1, 10))
    killed = homes.start("city", row(1, 10), row(2, 20), VITALAKE_CRASH_AT="before-stage")
    assert killed.wait(60) == -signal.SIGKILL
    (path,) = _digests(homes, "city")
    kept = path.read_bytes()
    assert homes.load("city", row(1, 10), row(3, 30)) == 1
    path.write_bytes(kept)
    with pytest.raises(LakeError, match="older than the lake"):
        homes.load(source, row(3, 31), more=more)
    assert homes.shown() == [10.0, 30.0]
    homes.load("city", row(1, 10), row(3, 30))  # its own load says so, and notes them again
    assert homes.load(source, row(3, 31), more=more) == 1
    assert homes.shown() == [10.0, 31.0]


def test_missing_digests_of_another_source_are_reported(homes: Homes, caplog: pytest.LogCaptureFixture) -> None:
    homes.load("town", row(1, 10))
    assert "other sources" not in caplog.text
    _digests(homes, "town")[0].unlink()
    homes.load("city", row(2, 20))
    (record,) = [record for record in caplog.records if "other sources" in record.message]
    assert record.__dict__["where"].endswith("; town")
    homes.load("town", row(1, 10))
    caplog.clear()
    homes.load("city", row(2, 21))
    assert "other sources" not in caplog.text


def test_the_row_below_a_rejected_one_is_shown(homes: Homes) -> None:
    """It had no time, because it was not the highest of its record."""
    homes.load("city", row(1, 10))
    homes.load("city", row(1, 9))
    rejected = row(1, 12, 2) | {"patient": ""}
    homes.load("city", row(1, 11, 1), rejected, more="max_rejected: 0.9")
    assert homes.shown() == [11.0]


@pytest.mark.parametrize("version", [1_767_600_000_000_000_000, 20260105083000123, 1_767_600_000_000_000])
def test_a_row_without_a_version_is_shown_after_one_that_counts_beyond_every_time(homes: Homes, version: int) -> None:
    homes.load("city", row(1, 10, version), row(2, 5, 1))
    for dose in (20, 21):
        assert homes.load("town", row(1, dose)) == 1
        assert homes.shown() == [5.0, dose]
    homes.load("city", row(1, 22, version + 4), row(2, 5, 1))
    assert homes.shown() == [5.0, 22.0]
    homes.load("city", row(1, 23), row(2, 6))
    assert homes.shown() == [6.0, 23.0]
    for dose in (7, 8):
        homes.load("city", row(1, 23), row(2, dose))
        assert homes.shown() == [dose, 23.0]


def test_a_version_that_begins_at_0_is_shown_though_the_digests_are_lost(homes: Homes) -> None:
    homes.load("city", row(1, 10))
    _digests(homes, "city")[0].unlink()
    homes.load("city", row(1, 11, 0), more=incarnation("y"))
    assert homes.shown() == [11.0]


def test_versions_that_are_nothing_do_not_pass_the_gate_after_a_load_without(homes: Homes) -> None:
    """They got the time of the load."""
    rows = (row(1, 10), row(2, 20))
    homes.load("city", *rows)
    job = homes.job("city", *rows)
    query = homes.home / "city.sql"
    query.write_text(f"SELECT *, NULL::BIGINT AS version FROM ({query.read_text()})")  # noqa: S608
    with pytest.raises(QualityError, match="version"):
        load_history(load_settings(homes.home), job)


def _by_epochs(span: Span) -> dict[str, int]:
    """Return what a span of an earlier release left: the epoch in the place of the load."""
    last = {f"last/{span.dataset}/{part.id.topic_id}": span.epoch for part in span.parts}
    return {f"{span.job}/{span.shard}/epoch": span.epoch} | last


def _without_load(span: Span) -> pa.Table:
    return spans_to_row(msgspec.structs.replace(span, load_us=0))


@pytest.mark.parametrize(
    ("lost", "again", "earlier"),
    [
        *(("last", True, False), ("last", False, False), ("claim", False, False), ("topic", False, False)),
        *(("last", True, True), ("last", False, True)),
    ],
)
def test_a_repaired_log_knows_which_incarnation_was_loaded_last(
    homes: Homes, lost: str, again: bool, earlier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knew the one before, so the same rows were loaded again, and nothing of a text that came back."""
    first, second = (row(1, 10), row(2, 20)), (row(1, 11), row(2, 20))
    with monkeypatch.context() as patched:
        if earlier:
            patched.setattr(span_log, "left_by", _by_epochs)
            patched.setattr(span_log, "to_row", _without_load)
        homes.load("city", *first, more=incarnation("x"))
        homes.load("city", *second, more=incarnation("y"))
    log = homes.home / "lake" / "spans" / "_delta_log"
    path = max(path for path in log.glob("*.json") if f'"{lost}/' in path.read_text())
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
    repair(homes)
    if again:  # which would note again what was lost
        assert homes.load("city", *second, more=incarnation("y")) == 0
    assert homes.load("city", *first, more=incarnation("x")) == 2
    assert homes.shown() == [10.0, 20.0]


SELECT = """
SELECT 'city' AS identity_system, name AS identity_value, 'P-1' AS patient_id, '8867-4' AS code, value, '/min' AS unit,
    'final' AS status, TIMESTAMP '2026-03-01 10:00' AS effective_at{version}
FROM (VALUES {rows}) AS vital(name, value, revision) ORDER BY name, revision
"""


def _load_observations(home: Path, *values: tuple[float, int], counted: bool) -> int:
    rows = ", ".join(f"('a', {value}::DOUBLE, {revision})" for value, revision in values)
    version = ", revision AS version" if counted else ""
    (home / "observation.sql").write_text(SELECT.format(rows=rows, version=version))
    job = "source: city\nwarehouse: 'duckdb::memory:'\ndatasets: {observation: observation.sql}\n"
    (home / "city.yaml").write_text(job)
    return load_history(load_settings(home), str(home / "city.yaml"))


def test_several_versions_of_an_observation_are_one_message_of_which_the_highest_is_shown(home: Path) -> None:
    """All its rows got one version, which does not pass the gate; and a higher one in it counted as the first."""

    def shown() -> list[float]:
        values: list[float] = vitalake.open(home).read("observation", ["value"])["value"].to_pylist()
        return values

    for value in (70.0, 71.0):
        _load_observations(home, (value, 1), counted=False)
    assert _load_observations(home, (60, 1), (61, 2), counted=True) == 1
    assert shown() == [61.0]
    assert _load_observations(home, (60, 1), (61, 2), (63, 3), counted=True) == 1
    assert shown() == [63.0]


@pytest.mark.parametrize("owners", [False, True])
def test_digests_of_an_earlier_release_show_a_version_that_comes_later(homes: Homes, owners: bool) -> None:
    homes.load("city", row(1, 10), row(2, 20))
    homes.load("city", row(1, 11), row(2, 20))
    as_an_earlier_release(next((homes.home / "history").glob("*.npz")), owners=owners)
    assert homes.load("city", row(1, 11), row(2, 20)) == 0
    assert homes.load("city", row(1, 12, 2), row(2, 21, 1)) == 2
    assert homes.shown() == [12.0, 21.0]


def test_rows_with_versions_are_shown_though_the_digests_are_lost(homes: Homes) -> None:
    homes.load("city", row(1, 10))
    homes.load("city", row(1, 11))
    next((homes.home / "history").glob("*.npz")).unlink()
    assert homes.load("city", row(1, 12, 2), more=incarnation("y")) == 1
    assert homes.load("city", row(1, 12, 2), row(1, 13, 3), more=incarnation("y")) == 1
    assert homes.shown() == [13.0]


def test_a_source_that_counts_versions_keeps_them_where_nobody_loads_without(homes: Homes) -> None:
    assert homes.load("city", row(1, 12, 7), row(1, 11, 6)) == 2
    assert homes.load("town", row(1, 10, 5)) == 1
    assert homes.shown() == [12.0]
    assert homes.load("city", row(1, 9, 4), more=incarnation("y")) == 1
    assert homes.shown() == [12.0]


def test_digests_of_a_back_up_that_name_rows_which_were_never_loaded_are_not_trusted(homes: Homes) -> None:
    """A load was killed after it had noted them; as many others were loaded since, so the file passed as the newest."""
    homes.load("city", row(1, 10))
    killed = homes.start("city", row(1, 10), row(2, 20), VITALAKE_CRASH_AT="before-stage")
    assert killed.wait(60) == -signal.SIGKILL
    (path,) = (homes.home / "history").glob("*.npz")
    kept = path.read_bytes()
    assert homes.load("city", row(1, 10), row(3, 30)) == 1
    path.write_bytes(kept)
    command = forking.command("vitalake", "history", "load", "city.yaml", "--home", str(homes.home), kind="history")
    done = subprocess.run(command, cwd=homes.home, capture_output=True, text=True, check=True)
    assert "digests of loaded rows are missing" in done.stderr


def test_digests_of_a_killed_load_whose_epoch_a_repair_lost_are_not_trusted(homes: Homes) -> None:
    """The next load got the same epoch, and so its digests passed as the newest: row 3 was never loaded."""
    homes.load("city", row(1, 10))
    killed = homes.start("city", row(1, 10), row(2, 20), VITALAKE_CRASH_AT="before-decide")
    assert killed.wait(60) == -signal.SIGKILL
    (path,) = _digests(homes, "city")
    kept = path.read_bytes()
    newest = max((homes.home / "lake" / "spans" / "_delta_log").glob("*.json"))
    newest.write_bytes(newest.read_bytes()[:-20])
    repair(homes)
    homes.load("city", row(1, 10), row(3, 30))
    path.write_bytes(kept)
    with pytest.raises(LakeError, match="older than the lake"):
        homes.load("town", row(4, 40))


def test_somebody_can_say_that_most_records_are_meant_for_other_patients(homes: Homes) -> None:
    """A query of what has changed since yesterday can return hardly anything but merged patients."""
    homes.load("city", *(row(number, number) for number in range(1, 9)))
    merged = [row(number, number) | {"patient": "P-2"} for number in (1, 2, 3)]
    command = forking.command("vitalake", "history", "load", homes.job("city", *merged), "--home", str(homes.home))
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 11
    assert "--accept-moved" in refused.stderr
    assert {row["patient_id"] for row in homes.rows} == {homes.rows[0]["patient_id"]}
    subprocess.run([*command, "--accept-moved"], capture_output=True, check=True)
    assert homes.shown() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert len({row["patient_id"] for row in homes.rows}) == 2
    assert len(homes.rows) == 11


class Trusting:
    """A gate through which everything goes."""

    def judge(self, _dataset: Any, tables: Any) -> None:
        """Read what is to be judged."""
        for _ in tables:
            pass
