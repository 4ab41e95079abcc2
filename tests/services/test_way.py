"""The whole way on the demo's patients: warehouse and devices into one lake, a model, and the same score everywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from governance.access import open_issuer
from governance.access.principal import local_principal
from governance.belonging import open_vault
from governance.query.service import QueryService
from models.batch import score_published
from models.registry import champion
from models.scoring import ScoreRecord
from models.tasks import load_task
from models.training.outcomes import Outcome
from models.training.pinned import pin
from models.training.published import read_values
from pipelines.history.warehouse import open_warehouse
from pipelines.online_store.opening import open_online_store
from pipelines.online_store.playback import Replay
from pipelines.simulator.anchors import load_or_create
from pipelines.simulator.warehouse_mimic import make_demo_warehouse
from tests import forking
from tests.services.serving import serving
from vitalake.clinical.records import code_number
from vitalake.keys import load_keys
from vitalake.settings import Settings, load_settings

HOURS = 60
"""Replayed: more than a score looks back from the newest evidence, which is up to six hours old."""


class Way(NamedTuple):
    """A home into which both lanes have loaded, and for which a model was trained."""

    home: Path
    settings: Settings
    moment_us: int


@pytest.fixture(scope="module")
def way(demo_home: Path, tmp_path_factory: pytest.TempPathFactory, embedded_broker: str) -> Way:
    """Load (which has been done for all), replay, train; by the commands that people type."""
    home = Path(shutil.copytree(demo_home, tmp_path_factory.mktemp("way") / "home"))
    # The demo was loaded some minutes ago, and the oldest value that a score takes is just as old as the store keeps.
    (home / "vitalake.yaml").write_text("jobs: {vitals: {topics: {way: fhir}}}\ncare: {hours: 60}\n")
    environment = os.environ | {
        "VITALAKE_KAFKA__BOOTSTRAP_SERVERS": embedded_broker,
        "VITALAKE_OBSERVABILITY__PORT": "0",
    }
    for command in (
        ["simulate", "--topic", "way", "--rate", "0", "--hours", str(HOURS), "--faults", "0"],
        ["stream", "--until-idle", "2s", "--no-view"],
        ["train", "mortality"],
    ):
        done = subprocess.run(
            forking.command("vitalake", *command, "--home", str(home), kind="history"),
            env=environment, capture_output=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    settings = load_settings(home)
    settings = settings.model_copy(update={"serving": settings.serving.model_copy(update={"port": 0})})
    reference = int(load_or_create(home).reference.timestamp() * 1e6)
    # The ward's time stands still, so that everything is asked at one moment.
    keys = load_keys(settings.path(settings.keys))
    open_online_store(settings, keys).time.set_replay(
        Replay(start_us=reference, wall_us=reference, speed=0.0, end_us=reference)
    )
    return Way(home, settings, reference)


def test_vitals_by_history_and_by_replay_are_one_row_in_what_is_read(way: Way) -> None:
    query_service, who = QueryService(way.settings), local_principal()

    def count(sql: str) -> dict[str, int]:
        found: dict[str, int] = query_service.query(sql, principal=who).rows.to_pylist()[0]
        return found

    read = count("SELECT count(*) AS n, count(DISTINCT observation_id) AS ids FROM observation")
    every = count("SELECT count(*) AS n, count(DISTINCT observation_id) AS ids FROM observation_versions")
    live = count("SELECT count(*) AS n FROM observation_versions WHERE source LIKE 'way%'")
    assert read["n"] == read["ids"] == every["ids"]
    assert every["n"] == read["n"] + live["n"]
    assert live["n"] > 5_000


def test_board_request_batch_and_matrix_give_the_same_score(way: Way) -> None:
    task = load_task("mortality")
    batch = {record.patient: record for record in score_published(way.settings, "mortality", now_us=way.moment_us)}
    model, cap = champion(way.settings, task), pin(way.settings, task).age_cap
    assert model is not None
    published = read_values(QueryService(way.settings), task, sorted(batch))
    keys = load_keys(way.settings.path(way.settings.keys))
    care = open_online_store(way.settings, keys)
    headers = {"authorization": f"Bearer {open_issuer(way.settings, keys).sign_in('clinician')}"}
    scored = 0
    with serving(way.settings) as served, httpx.Client(base_url=served.address, headers=headers, timeout=30) as client:
        board = dict(re.findall(r'data-patient="([^"]+)".*?data-score="([^"]+)"', client.get("/board").text))
        for patient, record in batch.items():
            answer = client.get(f"/v1/patients/{patient}/risk")
            assert answer.status_code == httpx.codes.OK
            asked = msgspec.convert(answer.json(), ScoreRecord)
            assert msgspec.structs.replace(asked, computed_us=0) == msgspec.structs.replace(record, computed_us=0)
            assert board[patient] == record.id
            if record.probability is not None:
                stay = care.facts.stay(patient, as_of_us=way.moment_us)
                assert stay is not None
                outcome = Outcome(patient, stay, event=False, source="")
                history = published.history(outcome.patient)
                evidence_us = task.newest_known(history, by_us=record.as_of_us)  # a score may be of a value's end
                assert evidence_us is not None
                row = task.vector(history, outcome.stay, as_of_us=evidence_us, age_cap=cap)
                assert model.probability(row) == record.probability
                scored += 1
    assert len(batch) > 10
    assert scored > 5


def test_the_care_store_has_stays_wards_and_labs_and_the_vault_has_names(way: Way) -> None:
    keys = load_keys(way.settings.path(way.settings.keys))
    care, vault = open_online_store(way.settings, keys), open_vault(way.settings, keys)
    patients = care.patients.revisions()
    stays = {patient: care.facts.stay(patient, as_of_us=way.moment_us) for patient in patients}
    known = [stay for stay in stays.values() if stay is not None]
    assert len(known) > 50
    assert {stay.sex for stay in known} == {"female", "male"}
    assert all(stay.age_years is not None and 17 < stay.age_years < 95 for stay in known)
    assert len({stay.unit for stay in known}) > 5
    codes = {int(code) for patient in patients for code in set(care.history(patient).code.tolist())}
    assert {code_number(code) for code in ("8867-4", "2823-3", "9269-2")} <= codes
    with open_warehouse(f"duckdb:{make_demo_warehouse(way.home)}", home=way.home) as warehouse:
        rows = [row for b in warehouse.read("SELECT name, mrn FROM patient") for row in b.to_pylist()]
    for row in rows:
        token = vault.token_of_mrn(row["mrn"])
        assert token is not None
        identity = vault.look_up(token)
        assert identity is not None
        assert identity.name == row["name"]
