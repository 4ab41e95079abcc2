"""Two warehouses that number their records each for itself: neither loses one of the other's."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from governance.query.catalogue import Catalogue
from governance.query.engine import connect
from pipelines.history.columns import in_namespace
from pipelines.history.digests import Digests
from pipelines.history.gate import QualityError, QualityGate
from pipelines.history.job import load_job
from pipelines.history.load import load_history
from tests import forking
from tests.services.earlier_digests import as_an_earlier_release
from tests.services.waiting import until
from vitalake.errors import LakeError, SettingsError
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span_log import Superseded
from vitalake.lake.datasets.dataset import Dataset
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import load_settings

DECLARED = """
name: drug_dose
kind: record
key: [dose_id, version]
day_of: given_at
columns:
  - {name: dose_id, type: binary, class: record-identifier, hashed: true, description: x}
  - {name: encounter_id, type: string, class: encounter-identifier, description: x}
  - {name: status, type: string, class: record-version, values: [completed], description: x}
  - {name: dose, type: float64, class: measurement, description: x}
  - {name: given_at, type: timestamp, class: date-of-service, statistics: true, description: x}
"""
DOSES = """
SELECT {number} AS dose_id,{version} '{patient}' AS patient_id, '7' AS encounter_id, 'completed' AS status,
    {dose}::DOUBLE AS dose, TIMESTAMP '2026-01-05 08:00' AS given_at
"""


class Homes:
    """A home that loads doses from several sources."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "datasets").mkdir()
        (home / "datasets" / "drug_dose.yaml").write_text(DECLARED)

    def load(self, source: str, *doses: dict[str, Any], more: str = "", gate: QualityGate | None = None) -> int:
        """Load doses from a source."""
        return load_history(load_settings(self.home), self.job(source, *doses, more=more), gate=gate)

    def job(self, source: str, *doses: dict[str, Any], more: str = "") -> str:
        """Return the path of a job that loads doses; one with the version None makes a query without versions."""
        rows = [{"number": 1, "version": 1} | dose for dose in doses]
        columns = ["" if row["version"] is None else f" {row['version']} AS version," for row in rows]
        query = " UNION ALL ".join(
            DOSES.format(**row | {"version": column}) for row, column in zip(rows, columns, strict=True)
        )
        (self.home / f"{source}.sql").write_text(query)
        job = f"source: {source}\nwarehouse: 'duckdb::memory:'\ndatasets: {{drug_dose: {source}.sql}}\n{more}\n"
        (self.home / f"{source}.yaml").write_text(job)
        return str(self.home / f"{source}.yaml")

    def start(self, source: str, *doses: dict[str, Any], more: str = "", **variables: str) -> subprocess.Popen[bytes]:
        """Start a process that loads doses, with variables of the environment."""
        command = forking.command(
            "vitalake", "history", "load", self.job(source, *doses, more=more), "--home", str(self.home), kind="history"
        )
        return subprocess.Popen(command, env=os.environ | variables)

    def shown(self) -> list[float]:
        """Return the current doses."""
        settings = load_settings(self.home)
        catalogue = Catalogue(settings, load_keys(settings.path(settings.keys)))
        with catalogue.relations(["drug_dose"]) as relations:
            connection = connect(relations, memory_mb=256)
            rows = connection.sql("SELECT dose FROM drug_dose ORDER BY dose").fetchall()
            connection.close()
        return [dose for (dose,) in rows]

    @property
    def rows(self) -> list[dict[str, Any]]:
        lake = Lake(load_settings(self.home).lake_uri, {}, dataset="drug_dose")
        return sorted(lake.published.delta.to_pyarrow_table().to_pylist(), key=lambda row: row["dose"])


@pytest.fixture
def homes(home: Path) -> Homes:
    made = Homes(home)
    assert made.load("north", {"patient": "P-100", "dose": 5}) == 1
    return made


def test_a_load_that_one_of_another_dataset_overtook_says_to_run_it_again_and_then_loads(
    homes: Homes,
) -> None:
    """It said to leave the work to the successor, which did not load the dataset."""
    other = DECLARED.replace("drug_dose", "drug_order")
    (homes.home / "datasets" / "drug_order.yaml").write_text(other)
    settings = load_settings(homes.home)
    doses, orders = homes.job("city", {"number": 2, "patient": "P-300", "dose": 30}), homes.home / "orders.yaml"
    orders.write_text(Path(doses).read_text().replace("drug_dose", "drug_order"))

    def overtake(_loaded: int) -> None:
        load_history(settings, str(orders))

    with pytest.raises(Superseded) as overtaken:
        load_history(settings, doses, progress=overtake)
    assert overtaken.value.where == "history-city/0of1"
    assert overtaken.value.remedy.endswith("run this one again after that one.")
    assert homes.shown() == [5.0]
    assert load_history(settings, doses) == 1
    assert homes.shown() == [5.0, 30.0]


@pytest.mark.parametrize("version", [1, 2])
def test_a_record_that_another_source_has_for_another_patient_is_refused(homes: Homes, version: int) -> None:
    """Two rows were published, and one was shown."""
    own = {"number": 2, "patient": "P-201", "dose": 71}
    with pytest.raises(QualityError) as refused:
        homes.load("south", {"patient": "P-200", "dose": 70, "version": version}, own)
    assert "other patients" in refused.value.what
    assert refused.value.where == "south.drug_dose: 1 of 2; north"
    assert "P-2" not in str(refused.value)
    assert homes.shown() == [5.0]
    assert homes.load("south", own) == 1
    assert homes.shown() == [5.0, 71.0]


def test_what_two_sources_loaded_before_is_reported_once_both_are_known(homes: Homes) -> None:
    """A home of an earlier release has such rows, and its digests say nothing of patients."""
    (file,) = (homes.home / "history").glob("*.npz")
    as_an_earlier_release(file)
    assert homes.load("south", {"patient": "P-200", "dose": 70}) == 1
    assert homes.shown() == [70.0] or homes.shown() == [5.0]
    assert homes.load("north", {"patient": "P-100", "dose": 5}) == 0
    command = forking.command("vitalake", "history", "load", "south.yaml", "--home", str(homes.home), kind="history")
    homes.load("south", {"patient": "P-200", "dose": 70})
    done = subprocess.run(command, cwd=homes.home, capture_output=True, text=True, check=True)
    (line,) = [msgspec.json.decode(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert "only one is shown" in line["event"] and line["count"] == 1 and line["where"].startswith("south.drug_dose.")


def test_a_source_of_an_earlier_release_may_change_what_it_loaded_though_another_has_the_number(homes: Homes) -> None:
    """Its digests said nothing of patients: it was refused at every load, and never noted whose the records are."""
    (file,) = (homes.home / "history").glob("north.*.npz")
    as_an_earlier_release(file)
    assert homes.load("south", {"patient": "P-200", "dose": 70}) == 1
    assert homes.load("north", {"patient": "P-100", "dose": 6}) == 1
    with pytest.raises(QualityError):
        homes.load("east", {"patient": "P-300", "dose": 7})


def test_a_namespace_makes_the_numbers_of_two_sources_different_ones(homes: Homes) -> None:
    first = homes.rows
    for patient in ("P-100", "P-200"):
        assert homes.load(f"south-{patient}", {"patient": patient, "dose": 70}, more=f"namespace: {patient}") == 1
    assert homes.load("south-P-200", {"patient": "P-200", "dose": 70}, more="namespace: P-200") == 0
    assert homes.shown() == [5.0, 70.0, 70.0]
    rows = homes.rows
    assert rows[:1] == first, "what was loaded without one is what it was"
    for column in ("dose_id", "patient_id", "encounter_id"):
        assert len({row[column] for row in rows}) == 3, "the same number of another namespace is another"


def test_numbers_in_a_namespace_are_those_that_messages_write_with_their_system(homes: Homes) -> None:
    homes.load("south", {"patient": "11", "dose": 70}, more="namespace: HOSP")
    homes.load("west", {"patient": "HOSP|11", "dose": 71, "number": 2})
    rows = homes.rows
    assert rows[1]["patient_id"] == rows[2]["patient_id"] != rows[0]["patient_id"]


def test_one_record_of_two_sources_for_one_patient_is_one(homes: Homes) -> None:
    assert homes.load("export", {"patient": "P-100", "dose": 6, "version": 2}) == 1
    assert homes.shown() == [6.0]


def test_a_source_may_correct_whose_its_own_record_is(homes: Homes) -> None:
    assert homes.load("north", {"patient": "P-100", "dose": 5}, {"patient": "P-300", "dose": 8, "version": 2}) == 1
    assert homes.shown() == [8.0]


def _doses(patient: str, *numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"number": number, "patient": f"{patient}-{number}", "dose": number} | more for number in numbers]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("incarnation", ["", "incarnation: SELECT '2'"])
def test_another_warehouse_under_the_name_of_a_source_is_refused(homes: Homes, incarnation: str, earlier: bool) -> None:
    """Its rows replaced those of the other's patients, or hid them, and nothing said so."""
    assert homes.load("city", *_doses("A", 11, 12, 13, 14)) == 4
    if earlier:
        as_an_earlier_release(next((homes.home / "history").glob("city.*.npz")), owners=True)
    with pytest.raises(QualityError, match=r"most records .* to other patients, .*: city\.drug_dose: 3 of 3\. Nothing"):
        homes.load("city", *_doses("B", 12, 13, 14, 15, 16, 17, 18), more=incarnation)
    assert homes.shown() == [5.0, 11.0, 12.0, 13.0, 14.0]
    assert homes.load("city", *_doses("A", 11, 12, 13, 14)) == 0


@pytest.mark.parametrize("incarnation", ["", "incarnation: SELECT '2'"])
def test_a_source_may_correct_whose_a_few_of_its_records_are(homes: Homes, incarnation: str) -> None:
    assert homes.load("city", *_doses("A", 11, 12, 13, 14)) == 4
    moved = _doses("M", 11, 12, dose=70, version=2)
    assert homes.load("city", *_doses("A", 11, 12, 13, 14), *moved, more=incarnation) == (6 if incarnation else 2)
    assert homes.shown() == [5.0, 13.0, 14.0, 70.0, 70.0]


def test_records_that_are_meant_for_others_are_loaded_without_the_digests_in_another_incarnation(homes: Homes) -> None:
    """The way out that the page tells."""
    assert homes.load("city", *_doses("A", 11, 12)) == 2
    meant = _doses("B", 11, 12, dose=70, version=2)
    with pytest.raises(QualityError):
        homes.load("city", *meant)
    next((homes.home / "history").glob("city.*.npz")).unlink()
    assert homes.load("city", *meant, more="incarnation: SELECT '2'") == 2
    assert homes.shown() == [5.0, 70.0, 70.0]


def test_a_wrong_export_that_was_killed_gives_no_numbers_to_its_source(homes: Homes) -> None:
    """What it noted refused every other source for ever, though the source never loaded it."""
    wrong = _doses("W", *range(2, 9))
    killed = homes.start("north", {"patient": "P-100", "dose": 5}, *wrong, VITALAKE_CRASH_AT="before-stage")
    assert killed.wait(60) == -signal.SIGKILL
    assert homes.load("south", *_doses("B", 8)) == 1
    assert homes.load("north", {"patient": "P-100", "dose": 5}) == 0
    assert homes.load("south", *_doses("B", 7, 8)) == 1
    assert homes.shown() == [5.0, 7.0, 8.0]


def test_damaged_digests_of_another_source_are_refused(homes: Homes) -> None:
    """They counted as a source without records: its numbers could be given to other patients."""
    (path,) = (homes.home / "history").glob("*.npz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LakeError, match=r"Digests of the loaded messages are damaged: .*north\.drug_dose\."):
        homes.load("south", {"patient": "P-200", "dose": 70})
    assert homes.shown() == [5.0]
    doctor = forking.command("vitalake", "doctor", "--home", str(homes.home))
    done = subprocess.run(doctor, capture_output=True, text=True, check=False)
    assert "FAIL  digests of loads: Digests of the loaded messages are damaged" in done.stdout


class Meanwhile:
    """A gate that lets everything pass, once another load has run."""

    def __init__(self, other: Callable[[], int]) -> None:
        self.other, self.loaded = other, 0

    def judge(self, _dataset: Dataset, _tables: Iterable[pa.Table]) -> None:
        """Run the other load."""
        self.loaded = self.other()


def test_of_two_sources_that_load_one_number_at_once_only_one_does(homes: Homes) -> None:
    """Both passed the check before either noted its numbers: 6,000 rows were published, and 3,000 shown."""
    meanwhile = Meanwhile(lambda: homes.load("south", {"number": 2, "patient": "P-200", "dose": 70}))
    with pytest.raises(QualityError, match=r"another source has given .*: west\.drug_dose: 1 of 1; south"):
        homes.load("west", {"number": 2, "patient": "P-300", "dose": 80}, gate=meanwhile)
    assert meanwhile.loaded == 1
    assert homes.shown() == [5.0, 70.0]
    assert homes.load("west", {"number": 3, "patient": "P-300", "dose": 80}) == 1
    assert homes.shown() == [5.0, 70.0, 80.0]


def test_a_load_that_is_under_way_has_the_numbers_that_it_noted(homes: Homes) -> None:
    paused = homes.home / "paused"
    south = homes.start(
        "south",
        {"number": 2, "patient": "P-200", "dose": 70},
        VITALAKE_PAUSE_AT="before-stage",
        VITALAKE_PAUSE_FILE=str(paused),
    )
    try:
        until(paused.exists, process=south)
        with pytest.raises(QualityError, match="another source has given"):
            homes.load("west", {"number": 2, "patient": "P-300", "dose": 80})
        assert homes.load("east", {"number": 3, "patient": "P-300", "dose": 80}) == 1, "other numbers do not wait"
        paused.unlink()
        assert south.wait(60) == 0
    finally:
        south.kill()
    assert homes.shown() == [5.0, 70.0, 80.0]
    with pytest.raises(QualityError, match="another source has given"):
        homes.load("west", {"number": 2, "patient": "P-300", "dose": 80})


def test_a_load_that_was_killed_before_it_loaded_anything_has_no_numbers_and_no_namespace(homes: Homes) -> None:
    """What it noted refused other sources, and its own namespace was called another than that of its rows."""
    both = ({"number": 2, "patient": "P-200", "dose": 70}, {"number": 3, "patient": "P-200", "dose": 71})
    killed = homes.start("south", *both, VITALAKE_CRASH_AT="before-stage")
    assert killed.wait(60) == -signal.SIGKILL
    assert list((homes.home / "history").glob("south.*.npz"))
    assert homes.load("west", {"number": 2, "patient": "P-300", "dose": 80}) == 1
    with pytest.raises(QualityError, match=r"1 of 2; west"):
        homes.load("south", *both)
    assert homes.load("south", both[1]) == 1
    with pytest.raises(QualityError, match=r"1 of 2; west"):
        homes.load("south", *both)  # it never had the number
    assert homes.load("west", {"number": 2, "patient": "P-300", "dose": 81, "version": 2}) == 1
    own = {"number": 4, "patient": "P-200", "dose": 72}
    assert homes.start("mid", own, VITALAKE_CRASH_AT="before-stage").wait(60) == -signal.SIGKILL
    assert homes.load("mid", own, more="namespace: MID") == 1
    assert homes.shown() == [5.0, 71.0, 72.0, 81.0]


def test_two_sources_of_the_same_records_can_both_give_one_to_another_patient(homes: Homes) -> None:
    """Each was refused because of what the other had noted before, for ever."""
    first = {"patient": "P-100", "dose": 5}
    assert homes.load("export", first) == 1
    corrected = {"patient": "P-300", "dose": 6, "version": 2}
    assert homes.load("north", first, corrected) == 1
    assert homes.load("export", first, corrected) == 1
    assert homes.load("export", first, corrected) == homes.load("north", first, corrected) == 0
    assert homes.shown() == [6.0]
    new = {"number": 2, "patient": "P-100", "dose": 7}
    assert homes.load("north", first, corrected, new) == 1
    with pytest.raises(QualityError, match=r"export\.drug_dose: 1 of 3; north"):
        homes.load("export", first, corrected, new | {"patient": "P-400"})


def test_all_incarnations_of_another_source_say_whose_a_record_is(homes: Homes) -> None:
    """By each incarnation alone, nobody could have a record that was given to another patient in a later one."""
    again = {"number": 1, "version": 2, "patient": "P-999", "dose": 6}
    assert homes.load("north", again, more="incarnation: SELECT '2'") == 1
    with pytest.raises(QualityError, match="another source has given"):
        homes.load("third", again | {"version": 3, "patient": "P-300"})
    assert homes.load("renamed", again | {"version": 3, "dose": 7}) == 1
    assert homes.shown() == [7.0]


def test_another_namespace_than_before_is_refused_in_another_incarnation_too(homes: Homes) -> None:
    with pytest.raises(SettingsError, match="namespace is another"):
        homes.load("north", {"patient": "P-100", "dose": 5}, more="namespace: CITY\nincarnation: SELECT '2'")
    assert homes.shown() == [5.0]


def test_another_namespace_than_before_is_refused(homes: Homes) -> None:
    """Every row would be loaded again, as a record of another patient."""
    with pytest.raises(SettingsError, match=r"another than that of the rows .*: north\.drug_dose\."):
        homes.load("north", {"patient": "P-100", "dose": 5}, more="namespace: north")
    assert homes.load("north", {"patient": "P-100", "dose": 5}) == 0


@pytest.mark.parametrize("name", ["a b", "a|b", "''", "patient:a", "a\\b", "7"])
def test_a_namespace_that_cannot_stand_before_a_number_is_refused(homes: Homes, name: str) -> None:
    with pytest.raises(SettingsError, match=r"Namespace is not valid: east\.yaml: namespace"):
        homes.load("east", {"patient": "P-1", "dose": 5}, more=f"namespace: {name}")


def test_the_shipped_jobs_have_no_namespace() -> None:
    assert load_job("mimic-demo").namespace is load_job("cinc-2012").namespace is None


def test_devices_stays_patients_and_nameless_systems_are_in_the_namespace_and_nothing_else() -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "association_id": ["1", None, " "],
            "device_id": ["d-1", "patient:0815", None],
            "patient_id": ["patient:7", "4711", ""],
            "status": ["active", "active", "active"],
        }
    )
    assert in_namespace(batch, load_dataset("device_association"), "HOSP").to_pydict() == {
        "association_id": ["HOSP|1", None, None],
        "device_id": ["HOSP|d-1", "patient:HOSP|0815", None],
        "patient_id": ["HOSP|patient:7", "HOSP|4711", None],
        "status": ["active", "active", "active"],
    }
    values = {"identity_system": ["urn:lab", None, None], "identity_value": ["1", "2", None], "code": ["8867-4"] * 3}
    blank = pa.RecordBatch.from_pydict(values | {"identity_system": ["urn:lab", "", " "]})
    observations = pa.RecordBatch.from_pydict(values)
    named = in_namespace(observations, load_dataset("observation"), "https://hosp/ids").to_pydict()
    assert named == values | {"identity_system": ["urn:lab", "https://hosp/ids", None]}
    assert in_namespace(blank, load_dataset("observation"), "https://hosp/ids").to_pydict() == named, "as CSV has them"
    named = in_namespace(observations.drop_columns(["identity_system"]), load_dataset("observation"), "x").to_pydict()
    assert named["identity_system"] == ["x", "x", None]


def test_only_numbers_that_do_not_say_whose_they_are_can_be_another_patient_s() -> None:
    def claims(dataset: str, **columns: list[Any]) -> list[tuple[int, int]]:
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        found = Digests(load_dataset(dataset), b"k" * 32).of(table, np.arange(table.num_rows))
        assert found["record"].all()
        return list(zip(found["record"].tolist(), found["owned"].tolist(), strict=True))

    one, again, other, none, empty = claims(
        "encounter",
        encounter_id=["1", "1", "1", None, ""],
        version=[1, 2, 1, 1, 1],
        patient_id=["p", "p", "q", "p", "p"],
    )
    assert one == again and one[0] == other[0] and one[1] != other[1]
    assert none[1] == empty[1] == 0
    assert claims("patient", patient_id=["p"], version=[1])[0][1] == 0, "the patient is the number"
    observed: dict[str, list[Any]] = {"patient_id": ["p"], "code": ["8867-4"], "effective_at": [None], "version": [1]}
    assert claims("observation", **observed)[0][1] == 0, "told apart by the patient, too"
    assert claims("observation", **observed, identity_value=["1"]) == claims(
        "observation", **observed, identity_system=[None], identity_value=["1"]
    )
