"""Nothing that is published stands in the order of clear identifiers, in any column, file or log, in either lane."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest
import yaml

from governance.home import init_home
from governance.policy import masking
from governance.policy.masks import Pseudonyms
from governance.samples import copy_samples
from pipelines.history import load
from pipelines.reconcile.entering import Entry, enter
from pipelines.republish.repair import open_published
from pipelines.republish.republish import republish, restricted_datasets
from pipelines.republish.upgrade import upgrade
from tests import frozen
from tests.attribution import Ward, hl7_time, partition_of, pid, pv1
from tests.fhir import message
from tests.hl7 import MSH, adt, obx, oru
from tests.order import PLACINGS, differences, shared_places, suspicions
from vitalake import clock
from vitalake.keys import KEY_NAMES, load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.compaction import compact, put_into_buckets
from vitalake.lake.tables.buckets import patient_column
from vitalake.lake.tables.table import Table
from vitalake.lake.unlinkable.record_noise import RecordNoise
from vitalake.settings import load_settings

PATIENTS = 90
CHANCE = 0.01
BEGIN = frozen.BEGIN
TODAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""Noon, so that no run of the tests goes past midnight."""


def _identifiers() -> list[str]:
    """Return patient numbers, sorted: as a query that is ordered by them gives them."""
    return [str(number) for number in sorted(random.Random(3).sample(range(10_000_000, 99_999_999), PATIENTS))]


def _fixed_keys(home: Path) -> None:
    """Give a home the keys that it lacks, the same in every run: no test here may fail by chance."""
    path, chance = home / "keys.yaml", random.Random(12)
    keys = {
        name: {"current": "v1", "versions": {"v1": base64.b64encode(chance.randbytes(32)).decode()}}
        for name in KEY_NAMES
    }
    there = yaml.safe_load(path.read_text())["keys"] if path.exists() else {}
    path.touch(0o600)
    path.write_text(yaml.safe_dump({"keys": keys | there}))


_TABLES = """
CREATE TABLE person AS SELECT * FROM (VALUES {people}) AS t(no, came, went, coded, taken, value);
"""
_QUERIES = {
    "patient": "SELECT no AS patient_id, 1 AS version, 'female' AS sex FROM person ORDER BY no",
    "encounter": "SELECT 'e-' || reverse(no) AS encounter_id, CAST(no AS BIGINT) AS version, "
    "no AS patient_id, came AS admitted_at, "
    "went AS discharged_at, DATE '1950-01-01' AS birth_date FROM person ORDER BY no",
    "ward_movement": "SELECT 'e-' || reverse(no) AS encounter_id, 1 AS version, no AS patient_id, came AS in_at, "
    "'Ward 7' AS unit, 'ward' AS unit_category FROM person ORDER BY no",
    "condition": "SELECT 'e-' || reverse(no) AS encounter_id, 'ICD10CM' AS code_system, 'I10' AS code, "
    "5000000 + row_number() OVER (ORDER BY no) AS version, "
    "no AS patient_id, true AS is_primary, coded AS recorded_at FROM person ORDER BY no",
    "device_association": "SELECT 'a-' || no AS association_id, 1 AS version, 'bed-' || no AS device_id, "
    "no AS patient_id, came AS valid_from, 'active' AS status, came AS available_at FROM person ORDER BY no",
    "observation": "SELECT 'urn:lab' AS identity_system, 'r-' || no AS identity_value, no AS patient_id, "
    "'2823-3' AS code, value, 'mmol/L' AS unit, 'final' AS status, taken AS effective_at FROM person ORDER BY no",
}


def _load_history(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, noon = random.Random(4), BEGIN.replace(tzinfo=None)

    def at(moment: int) -> str:
        return f"TIMESTAMP '{noon + timedelta(minutes=moment)}'"

    people = [
        f"('{no}', {at(came := chance.randrange(-600, 0))}, {at(came + chance.randrange(60, 900))}, {at(900)}, "
        f"{at(chance.randrange(600))}, {3 + chance.random()})"
        for no in _identifiers()
    ]
    with duckdb.connect(str(home / "city.duckdb")) as db:
        db.execute(_TABLES.format(people=", ".join(people)))
    for dataset, query in _QUERIES.items():
        (home / f"{dataset}.sql").write_text(query)
    job = home / "city.yaml"
    lines = "".join(f"  {dataset}: {dataset}.sql\n" for dataset in _QUERIES)
    job.write_text(f"source: city\nwarehouse: duckdb:city.duckdb\nmax_rejected: 0.0\ndatasets:\n{lines}")
    monkeypatch.setattr(load, "BATCH_ROWS", 20)
    monkeypatch.setattr(load, "SPAN_ROWS", 30)  # several spans, one after the other in the query's order
    _load_killed(home, str(job), monkeypatch)


def _load_killed(home: Path, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load, killed in the middle of every dataset and begun again an hour later."""
    hours = iter(range(3, 23))

    def die(count: int) -> None:
        if count >= 60:
            raise TimeoutError

    while True:
        now = int((BEGIN.replace(hour=0) + timedelta(days=90, hours=next(hours))).timestamp() * 1e6)
        monkeypatch.setattr(load, "clock", SimpleNamespace(now_us=lambda now=now: now))
        with contextlib.suppress(TimeoutError):
            load.load_history(load_settings(home), job, progress=die)
            return


def _stream(home: Path) -> None:
    """Stream values and admissions: each poll in the order of identifiers, times as they fall."""
    chance, ward = random.Random(6), Ward(home, begin=BEGIN)
    for poll in range(3):
        values = []
        for number, no in enumerate(_identifiers()):
            at = (BEGIN + timedelta(seconds=chance.randrange(9_000))).isoformat()
            values.append(message(
                poll * PATIENTS + number, patient=no, value=60.0 + chance.randrange(40), effectiveDateTime=at,
                issued=at, device={"reference": f"Device/d-{no}"}, encounter={"reference": f"Encounter/e-{no[::-1]}"},
            ))  # fmt: skip
        ward.stream(values)
    told: list[bytes] = []
    for no in _identifiers():
        came = BEGIN + timedelta(seconds=chance.randrange(9_000))
        sent = hl7_time(BEGIN + timedelta(hours=3, minutes=len(told)))  # in their order, by the sender's clock
        told.append(adt("A01", pid(no), pv1(f"ICU^1^{no}", visit=f"e-{no[::-1]}", began=came), at=sent))
    ward.tell(*told)
    _stream_of_one_device(ward, chance)
    _stream_stamped(ward, chance)
    _stream_without_times(ward, chance)


def _stream_of_one_device(ward: Ward, chance: random.Random) -> None:
    """Stream values of a device that patients have one after the other, in the order of identifiers, at any time."""
    some = _identifiers()[::3]
    hours = chance.sample(range(len(some)), len(some))
    for begin in range(0, len(some), 6):
        here = [(some[number], 60 * hours[number]) for number in range(begin, begin + 6)]
        enter(ward.settings, [Entry("pool", no, f"e-{no}", ward.at(at), ward.at(at + 50)) for no, at in here])
        values = []
        for number in range(begin, begin + 6):
            at = (BEGIN + timedelta(hours=hours[number], minutes=chance.randrange(5, 45))).isoformat()
            values.append(message(
                30_000 + number, value=60.0 + chance.randrange(40), patient=None, effectiveDateTime=at, issued=at,
                device={"reference": "Device/pool"},
            ))  # fmt: skip
        ward.stream(values)


def _stream_without_times(ward: Ward, chance: random.Random) -> None:
    """Stream records and values that do not say when they could be known, sorted by identifier, for three hours.

    Before them stays, and a diagnosis of each, at once and in no order: how long after them it comes is its place.
    """
    said: dict[str, list[bytes]] = defaultdict(list)
    for number, no in enumerate(_identifiers()):
        who, stay = {"reference": f"Patient/{no}"}, f"e-{no[::-1]}"
        began = BEGIN + timedelta(seconds=chance.randrange(9_000))
        coded = (BEGIN + timedelta(seconds=chance.randrange(9_000))).isoformat()
        said["patient"].append(_resource("Patient", no, gender="male"))
        said["encounter"].append(
            _resource("Encounter", stay, status="in-progress", subject=who, period={"start": began.isoformat()})
        )
        for code, when in {"I10": "condition", "E11.9": "condition in no order"}.items():
            said[when].append(
                _resource(
                    "Condition", f"c-{no}-{code}", subject=who, encounter={"reference": f"Encounter/{stay}"},
                    recordedDate=coded,
                    code={"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": code}]},
                )
            )  # fmt: skip
        said["observation"].append(message(
            9_000 + number, patient=no, value=60.0 + chance.randrange(40), meta=None, effectiveDateTime=coded,
            device={"reference": f"Device/d-{no}"}, encounter={"reference": f"Encounter/{stay}"},
        ))  # fmt: skip
    for name in ("encounter", "condition in no order"):
        chance.shuffle(said[name])
    at_once = {"encounter": said.pop("encounter"), "condition": said.pop("condition in no order")}
    for dataset in {**at_once, **said}:
        polls = [said[dataset][begin : begin + 5] for begin in range(0, len(said[dataset]), 5)]
        first = [(BEGIN + timedelta(minutes=179), at_once[dataset])] if dataset in at_once else []
        ward.send(dataset, first + [(BEGIN + timedelta(minutes=180 + 10 * n), poll) for n, poll in enumerate(polls)])


def _stream_stamped(ward: Ward, chance: random.Random) -> None:
    """Stream what senders number and stamp as they send it, in the order of identifiers."""
    dated, numbered, results, coded = [], [], [], []
    for number, no in enumerate(_identifiers()):
        stay, sent = f"e-{no[::-1]}", BEGIN + timedelta(hours=4, seconds=40 * number)
        elements = {
            "patient": no, "device": {"reference": f"Device/d-{no}"}, "encounter": {"reference": f"Encounter/{stay}"},
        }  # fmt: skip
        at = [(BEGIN + timedelta(seconds=chance.randrange(9_000))).isoformat() for _ in range(2)]
        stamp = {"lastUpdated": sent.isoformat()}
        dated.append(message(10_000 + number, meta=stamp, effectiveDateTime=at[0], issued=at[0], **elements))
        version = {"versionId": str(2 + number)}
        numbered.append(message(20_000 + number, meta=version, effectiveDateTime=at[1], issued=at[1], **elements))
        for second in range(8):
            drawn = hl7_time(BEGIN + timedelta(seconds=chance.randrange(9_000)))
            results.append(oru(
                obx(code="718-7^Hemoglobin^LN", value=str(chance.randrange(90, 140) / 10), unit="g/dL^^UCUM", at=drawn),
                msh=MSH.replace("20250601100001+0200", hl7_time(sent + timedelta(seconds=second))),
                pid=pid(no), pv1=pv1("ICU^1^1", visit=stay), obr=f"OBR|1||F{number}-{second}^LAB|718-7^Hb^LN|||{drawn}",
            ))  # fmt: skip
        coded.append(_resource(
            "Condition", f"c-{no}-J", subject={"reference": f"Patient/{no}"}, meta=stamp,
            encounter={"reference": f"Encounter/{stay}"}, recordedDate=at[0],
            code={"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "J18.9"}]},
        ))  # fmt: skip
    ward.stream(dated)
    ward.stream(numbered)
    ward.stream(results, name="hl7-v2")
    ward.send("condition", [(BEGIN + timedelta(hours=8), coded)])


def _resource(kind: str, name: str, **elements: object) -> bytes:
    return json.dumps({"resourceType": kind, "id": name, **elements}).encode()


@pytest.fixture(scope="module", autouse=True)
def _one_day() -> Iterator[None]:
    """Let it be the same day in every run: noise follows from key and day, and no test here may fail by chance."""
    ahead_ns = int(TODAY.timestamp() * 1e9) - time.time_ns()
    shifted = SimpleNamespace(
        time=lambda: time.time() + ahead_ns / 1e9, time_ns=lambda: time.time_ns() + ahead_ns
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", shifted)
        yield


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with both lanes' rows, whose names and keys are the same in every run."""
    home = tmp_path_factory.mktemp("order") / "home"
    init_home(home, copy_samples)
    (home / "keys.yaml").unlink()
    _fixed_keys(home)
    lots = random.Random(8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=lots.getrandbits(128), version=4))
        _load_history(home, patch)
        _stream(home)
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    lots = random.Random(10)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=lots.getrandbits(128), version=4))
    return Path(shutil.copytree(filled, tmp_path / "home"))


def _tables(home: Path) -> dict[str, Table]:
    settings = load_settings(home)
    present = Lake(settings.lake_uri, settings.storage_options).present()
    return {name: table for name, table in present.items() if name.startswith("published/")}


def _suspicious(home: Path, identifiers: list[str]) -> dict[str, list[str]]:
    """Return what ranks with the numbers of patients, or of their stays, table by table."""
    keys, found = load_keys(home / "keys.yaml"), {}
    for column, known in {"patient": identifiers, "encounter": frozen.stays(identifiers)}.items():
        pseudonyms = Pseudonyms(keys, f"{column}-identifier")
        numbers = {pseudonyms.token(no): place for place, no in enumerate(sorted(known))}
        for name, table in _tables(home).items():
            if f"{column}_id" not in table.dataset.schema.names:
                continue
            looks = suspicions(table, f"{column}_id", numbers)
            if low := [what for what, chance in looks.items() if chance <= CHANCE]:
                found[f"{name} by {column}"] = low
        having = [table for table in _tables(home).values() if f"{column}_id" in table.dataset.schema.names]
        between = differences(having, f"{column}_id", numbers)
        if low := [what for what, chance in between.items() if chance <= CHANCE]:
            found[f"differences by {column}"] = low
    return found


def _compact(home: Path) -> None:
    for table in _tables(home).values():
        compact(table, min_files=2)


def _bucket(home: Path) -> None:
    for table in _tables(home).values():
        if table.dataset.day_of and patient_column(table.dataset):
            put_into_buckets(table, 4, closed_before="2100-01-01")


def _republish(home: Path) -> None:
    settings = load_settings(home)
    for dataset in restricted_datasets(settings):
        republish(settings, dataset)


def _rebuild(home: Path) -> None:
    for name in _tables(home):
        shutil.rmtree(home / "lake" / name)
    for dataset in restricted_datasets(load_settings(home)):
        open_published(load_settings(home), dataset)
    _republish(home)


def test_the_upgrade_leaves_a_lake_of_this_format_as_it_is(home: Path) -> None:
    """It took times that senders gave, of just before the row came, for ours; no rewrite could give them back."""
    now = clock.now()
    said = (now - timedelta(seconds=2)).isoformat(timespec="milliseconds")
    Ward(home, begin=now).spread("today", 1, {"1": message(1, patient="1", issued=said)}, shard=0, of=1)
    before = {path: path.stat().st_size for path in (home / "lake").rglob("*.parquet")}
    assert before
    done = upgrade(load_settings(home))
    assert (done.rows, done.steps) == (0, [])
    assert {path: path.stat().st_size for path in (home / "lake").rglob("*.parquet")} == before


@pytest.mark.parametrize("change", [None, _compact, _bucket, _republish, _rebuild])
def test_nothing_published_ranks_with_a_clear_identifier(home: Path, change: object) -> None:
    assert len(_tables(home)) == 6
    if callable(change):
        change(home)
    assert _suspicious(home, _identifiers()) == {}


def test_nothing_published_tells_in_which_partition_a_patient_lies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ward, chance = Ward(home, begin=BEGIN), random.Random(14)
    for topic, partitions in (("keyed48", 48), ("keyed5", 5)):
        keyed = {}
        for number, no in enumerate(_identifiers()):
            at = (BEGIN + timedelta(seconds=chance.randrange(9_000))).isoformat()
            keyed[no] = message(
                partitions * 1_000 + number, patient=no, value=60.0 + chance.randrange(40), device=None,
                effectiveDateTime=at, issued=at, encounter={"reference": f"Encounter/{no}"},
            )  # fmt: skip
        for shard in range(2):
            ward.spread(topic, partitions, keyed, shard=shard, of=2)
        tokens = Pseudonyms(load_keys(home / "keys.yaml"), "patient-identifier")
        places = {tokens.token(no): partition_of(no, partitions) for no in _identifiers()}
        # Two workers' files have their names until they are merged.
        assert _told(home, places) <= {"file name"}
    _compact(home)
    assert _told(home, places) == set()
    monkeypatch.setattr(masking, "without_partitions", lambda sources: sources)
    _republish(home)
    assert _told(home, places) == {"source"}  # so it would be found


def _told(home: Path, places: dict[str, int]) -> set[str]:
    """Return what rows of one partition share more often than by chance."""
    shared = shared_places(_tables(home)["published/observation"], "patient_id", places)
    return {what for what, chance in shared.items() if chance <= 1.5 / PLACINGS}


def test_noise_that_rows_of_a_patient_share_would_be_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_each = RecordNoise.__call__

    def shared(self: RecordNoise, _: str, names: list[pa.Array], day: object = 0, *, blocks: int = 1) -> object:
        return of_each(self, "", names[:1], day, blocks=blocks)  # type: ignore[arg-type]

    monkeypatch.setattr(RecordNoise, "__call__", shared)
    _rebuild(home)
    found = _suspicious(home, _identifiers())["differences by patient"]
    assert "encounter.available_at minus condition.available_at" in _either_way(found)
    assert "condition.available_at minus condition.available_at" in found


def _either_way(found: list[str]) -> set[str]:
    return {*found, *(" minus ".join(reversed(what.split(" minus "))) for what in found)}


def test_what_an_earlier_release_published_did_and_does_no_more_once_it_is_upgraded(tmp_path: Path) -> None:
    home = frozen.unpack(tmp_path)
    found = _suspicious(home, frozen.PATIENTS)  # so the attack does find what is there
    looks = {"column source_position", "row of the file", "place in the dictionary of patient_id"}
    assert looks <= set(found["published/patient by patient"])
    for dataset in ("encounter", "ward_movement", "condition"):
        assert looks <= set(found[f"published/{dataset} by encounter"])
    _fixed_keys(home)
    upgrade(load_settings(home))
    assert _suspicious(home, frozen.PATIENTS) == {}
