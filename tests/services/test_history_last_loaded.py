"""Of a record, the row that was loaded last is shown, whoever loaded it; of rows with versions, the highest."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipelines.history.load import load_history
from tests import forking
from tests.services.earlier_digests import as_an_earlier_release
from tests.services.test_history_sources import Homes, Meanwhile
from vitalake.lake.commits import spans
from vitalake.lake.commits.spans import Superseded
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
            doses[number] = chosen.randrange(100, 900)
            revisions[number] += 1
        # Sources count for themselves, so that two never give one version to two contents.
        rows = [
            row(number, 1000 * revisions[number] + doses[number], 2 * revisions[number] + (source == "a"))
            if versioned
            else row(number, doses[number])
            for number in chosen.sample(range(1, 5), chosen.randrange(1, 5))
        ]
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
        if earlier:  # which recorded no epochs of spans
            patched.setattr(spans, "_last_app", lambda dataset, _topic_id: f"x/{dataset}/x")
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
