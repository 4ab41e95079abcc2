"""Training on the MIMIC-IV demo, loaded by the history lane once for all tests of this file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from governance.audit.listing import latest
from governance.query.service import QueryService
from models.artefact import Model
from models.registry import champion
from models.registry.champion import ARTIFACTS
from models.scoring import score
from models.tasks import load_task
from models.training.candidates import Candidate, Fitted, candidates
from models.training.card import better_than_news2, verdict, write_card
from models.training.matrix import Matrix, build_matrix, moments
from models.training.outcomes import Outcome
from models.training.pinned import Pinned, pin
from models.training.published import Published, read, read_outcomes, read_values
from models.training.report import Report
from models.training.train import train
from pipelines.online_store.playback import Replay
from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import ROW, Values
from tests.documented import blocks, run_console
from vitalake import declarations
from vitalake.clinical.held_out import held_out
from vitalake.clinical.records import History
from vitalake.errors import ModelError
from vitalake.keys import Key, load_keys
from vitalake.sealing import Sealer
from vitalake.settings import Settings, load_settings

pytestmark = pytest.mark.slow

TASK = load_task("mortality")


class Trained(msgspec.Struct):
    settings: Settings
    report: Report
    outcomes: list[Outcome]
    published: Published
    matrix: Matrix
    pinned: Pinned
    model: Model


@pytest.fixture(scope="module")
def trained(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    home = Path(shutil.copytree(demo_home, tmp_path_factory.mktemp("training") / "ward"))
    (home / "tasks" / "readmission").mkdir(parents=True)
    (home / "tasks" / "readmission" / "task.yaml").write_text(blocks("declare-a-task.md", "yaml")[0])
    settings = load_settings(home)
    report = train(settings, "mortality")
    query_service = QueryService(settings)
    outcomes = read_outcomes(query_service, TASK).ended
    values = read_values(query_service, TASK, sorted({o.patient for o in outcomes}))
    pinned = pin(settings, TASK)
    model = champion(settings, TASK)
    assert model is not None
    matrix = build_matrix(TASK, outcomes, values, age_cap=pinned.age_cap)
    yield Trained(settings, report, outcomes, values, matrix, pinned, model)


def test_the_score_of_a_history_is_that_of_its_row_in_the_matrix(trained: Trained) -> None:
    of = {outcome.stay.encounter: outcome for outcome in trained.outcomes}
    matrix, model = trained.matrix, trained.model
    expected = model.probabilities(matrix.features)
    assert len(matrix) > 100
    for i in range(0, len(matrix), 7):
        outcome = of[str(matrix.stay[i])]
        found = score(
            trained.published.history(outcome.patient),
            outcome.stay,
            patient=outcome.patient,
            as_of_us=int(matrix.as_of_us[i]),
            model=model,
            task=TASK,
            policy=trained.pinned.policy_version,
        )
        assert found.probability == expected[i]


def test_a_history_that_went_through_the_care_store_gives_the_same_score(trained: Trained, tmp_path: Path) -> None:
    of = {outcome.stay.encounter: outcome for outcome in trained.outcomes}
    random = np.random.default_rng(4)
    for i in np.flatnonzero(trained.matrix.primary)[::6].tolist():
        outcome, as_of_us = of[str(trained.matrix.stay[i])], int(trained.matrix.as_of_us[i])
        whole = trained.published.history(outcome.patient)
        came = random.permutation(len(whole))  # no device and no lane sends in order
        care = OnlineStore(tmp_path / f"{i}.db", Sealer(Key("care", "v1", b"k" * 32)), hours=TASK.window_hours)
        care.time.set_replay(Replay(as_of_us, 0, 0.0, as_of_us))
        for part in np.array_split(came, 3):
            care.take(_values(whole, part, outcome.patient), writer="lane", ends={})
        found = score(
            care.history(outcome.patient),
            outcome.stay,
            patient=outcome.patient,
            as_of_us=as_of_us,
            model=trained.model,
            task=TASK,
            policy=trained.pinned.policy_version,
        )
        care.close()
        assert found.probability == trained.model.probability(trained.matrix.features[i])


def _values(history: History, which: npt.NDArray[np.int64], patient: str) -> Values:
    rows = np.zeros(len(which), ROW)
    for name in ("code", "value", "effective_us", "available_us"):
        rows[name] = getattr(history, name)[which]
    rows["id"] = which
    number = np.zeros(len(which), np.int32)
    return Values(rows, number, [patient], number.astype(np.int64), number, ["part"])


def test_no_patient_who_is_held_out_is_trained_on(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    from models.training import train as module

    def watch(candidate: Candidate) -> Candidate:
        def fit(rows: Matrix) -> Fitted:
            seen.update(rows.patient.tolist())
            return candidate.fit(rows)

        return replace(candidate, fit=fit)

    def watched(names: tuple[str, ...]) -> list[Candidate]:
        return [watch(candidate) for candidate in candidates(names)]

    monkeypatch.setattr(module, "candidates", watched)
    train(trained.settings, "mortality", promote=False)
    assert len(seen) == trained.report.trained.patients
    assert not any(held_out(patient) for patient in seen)
    assert trained.report.held_out.patients > 0


def test_every_candidate_has_figures_with_intervals_over_the_same_rows(trained: Trained) -> None:
    names = [result.name for result in trained.report.results]
    assert names == ["prevalence", "clock", "news2-partial", "logistic-regression", "xgboost"]
    for result in trained.report.results:
        for name in ("auroc", "auprc", "brier", "log_loss", "observed_to_expected"):
            figure = result.figures[name]
            assert figure.value is not None and figure.low is not None and figure.high is not None, name
            assert figure.low <= figure.value <= figure.high
    assert trained.report.result("prevalence").figures["auroc"].value == 0.5


def test_the_better_model_is_registered_and_named_champion(trained: Trained) -> None:
    report = trained.report
    losses = {r.name: r.figures["log_loss"].value for r in report.results if r.registrable}
    assert report.chosen == min(losses, key=lambda name: losses[name] or np.inf)
    assert trained.model.manifest.kind == report.chosen
    assert trained.model.manifest.events == report.trained.events
    assert (report.model, report.champion) == ("mortality", True)


def test_the_card_says_what_so_few_deaths_cannot_prove(trained: Trained) -> None:
    report = trained.report
    card = write_card(report)
    events = report.trained.events + report.held_out.events
    assert f"What {events} events can and cannot prove" in card
    for words in ("Not a medical device", "Not approved", "cannot** prove", "prevalence", "Calibration", "women"):
        assert words in card
    if not better_than_news2(report):
        assert "not shown to be better than partial NEWS2" in verdict(report)
    kept = (trained.settings.path(trained.settings.models) / ARTIFACTS).rglob("card.md")
    assert card in [path.read_text() for path in kept]


def test_stays_of_which_nobody_knows_how_they_ended_are_neither_deaths_nor_survivals(trained: Trained) -> None:
    columns = ["encounter_id", "discharged_at", "discharge_disposition"]
    stays = [
        row for batch in read(QueryService(trained.settings), TASK, "encounter", columns) for row in batch.to_pylist()
    ]
    missing = {s["encounter_id"] for s in stays if s["discharged_at"] and s["discharge_disposition"] == "Missing"}
    assert len(missing) == trained.report.unknown > 10
    assert missing.isdisjoint(outcome.stay.encounter for outcome in trained.outcomes)
    assert f"{len(missing)} stays have ended with an unknown outcome" in write_card(trained.report)


def test_small_cells_are_not_on_the_card_or_in_mlflow(trained: Trained) -> None:
    for group in trained.report.groups:
        assert group.rows is None or group.rows >= 11
        assert group.events is None or group.events >= 11
    assert all(b.rows >= 11 for b in trained.report.reliability)


def test_what_mlflow_keeps_names_no_patient_no_stay_and_no_path(trained: Trained) -> None:
    folder = trained.settings.path(trained.settings.models)
    tokens = {o.patient for o in trained.outcomes} | {o.stay.encounter for o in trained.outcomes}
    places = {str(folder.parent), str(Path.cwd()), "vitalake-train-"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        content = path.read_bytes()
        assert not content.startswith((b"\x80\x04", b"\x80\x05", b"PK"))
        for text in tokens | places:
            assert text.encode() not in content, path.name


def test_moments_are_of_evidence_known_by_then_and_within_the_stay(trained: Trained) -> None:
    for outcome in trained.outcomes:
        history = trained.published.history(outcome.patient)
        found = moments(TASK, history, outcome)
        assert [hours for hours, _ in found] == sorted({hours for hours, _ in found})
        for _, as_of_us in found:
            assert outcome.stay.discharged_us is not None
            assert as_of_us in history.available_us
            assert as_of_us < outcome.stay.discharged_us


def test_a_stay_has_one_row_for_figures_and_all_weigh_one(trained: Trained) -> None:
    matrix = trained.matrix
    for stay in np.unique(matrix.stay):
        mine = matrix.stay == stay
        assert matrix.primary[mine].sum() <= 1
        assert matrix.weight[mine].sum() == pytest.approx(1)
    assert (matrix.hours[matrix.primary] <= TASK.as_of.primary).all()


def test_training_again_gives_the_same_figures(trained: Trained) -> None:
    again = train(trained.settings, "mortality", promote=False)
    assert again.results == trained.report.results
    found = champion(trained.settings, TASK)
    assert found is not None and found.version == trained.model.version, "it was not promoted"


def test_a_source_that_is_not_there_says_so(trained: Trained) -> None:
    with pytest.raises(ModelError, match="No stay with a known outcome is published"):
        train(trained.settings, "mortality", source="nowhere")


def test_rules_that_change_values_stop_training(trained: Trained, tmp_path: Path) -> None:
    rules = trained.settings.path(trained.settings.governance) / "limited-data-set.yaml"
    text = rules.read_text()
    part = text.index("id: keep-measurements")
    rounded = text[:part] + text[part:].replace("{mask: keep}", "{mask: round, digits: 0}", 1)
    (tmp_path / "rounded").mkdir()
    (tmp_path / "rounded" / "rules.yaml").write_text(
        rounded.replace("- {in: 36.6, out: 36.6}", "- {in: 36.6, out: 37.0}")
    )
    changed = trained.settings.model_copy(update={"governance": tmp_path / "rounded"})
    with pytest.raises(ModelError, match="serving cannot repeat that"):
        train(changed, "mortality")


def test_rows_published_under_other_rules_stop_training(trained: Trained, tmp_path: Path) -> None:
    rules = trained.settings.path(trained.settings.governance) / "limited-data-set.yaml"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rules.yaml").write_text(
        rules.read_text().replace("Risks differ by sex.", "Risks do differ.")
    )
    changed = trained.settings.model_copy(update={"governance": tmp_path / "other"})
    with pytest.raises(ModelError, match="under other rules"):
        train(changed, "mortality")


def test_an_empty_lake_says_what_to_do(home: Path) -> None:
    with pytest.raises(ModelError, match="history load"):
        train(load_settings(home), "mortality")


def test_what_is_read_is_on_record(trained: Trained) -> None:
    keys = load_keys(trained.settings.path(trained.settings.keys))
    seen = [record for record in latest(trained.settings.path(trained.settings.audit), keys, limit=50)]
    datasets = {record.detail["dataset"] for record in seen if record.action == "train"}
    assert datasets == {"encounter", "observation", "patient"}


def test_the_command_prints_json_for_programs(trained: Trained) -> None:
    command = [sys.executable, "-m", "vitalake", "train", "mortality", "--home", str(trained.settings.home)]
    done = subprocess.run([*command, "--no-promote", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = msgspec.json.decode(done.stdout, type=Report)
    assert found.results == trained.report.results
    assert set(found.seconds) >= {"read", "features", "cross-validation", "registry"}


def test_a_task_of_the_home_is_trained_tracked_and_scored_as_its_page_says(trained: Trained) -> None:
    home = trained.settings.home
    (console,) = blocks("declare-a-task.md", "console")
    for run in run_console(console, home.parent):
        assert not run.shown or run.said == run.shown, run.command
    report = msgspec.json.decode((home.parent / "readmission.json").read_bytes(), type=Report)
    assert (report.task, report.version, report.champion) == ("readmission", "1", False)
    assert report.trained.events + report.held_out.events > 5 and report.unknown > 10
    assert "readmission/2, the champion" in (home.parent / "readmission.txt").read_text()
    declarations.use(home)
    task = load_task("readmission")
    model = champion(trained.settings, task)
    assert model is not None and (model.label, model.manifest.task_digest) == ("readmission/2", task.digest)
    cards = [path.read_text() for path in (trained.settings.path(trained.settings.models) / ARTIFACTS).rglob("card.md")]
    (card, _) = (card for card in cards if "# readmission" in card)
    assert "30 days after discharge" in card and "death" not in card
    lines = (home.parent / "scores.csv").read_text().splitlines()
    assert lines[0].startswith("patient,encounter,as_of,news2") and len(lines) > 1


def test_the_command_names_the_tasks_when_it_does_not_know_one(home: Path) -> None:
    command = [sys.executable, "-m", "vitalake", "train", "nothing", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 10
    assert "mortality" in done.stderr
