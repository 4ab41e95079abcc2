"""Trains a task: builds the matrix, evaluates the candidates, and registers the better model with its card."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from governance.query.service import QueryService
from models.artefact import Estimator, save
from models.artefact.estimator import Floats
from models.evaluation import Bin, Estimate, Evaluator, Group, groups, reliability, resample
from models.evaluation.figures import RESAMPLES
from models.registry.tracking import Run, Tracking
from models.tasks import Task, load_task
from models.training.candidates import Candidate, candidates
from models.training.card import write_card
from models.training.matrix import Matrix, build_matrix
from models.training.outcomes import Outcomes
from models.training.pinned import Pinned, pin
from models.training.published import data_versions, read_outcomes, read_values
from models.training.report import Report, Result, Sample
from vitalake import clock
from vitalake.clinical.held_out import folds, held_out
from vitalake.errors import ModelError
from vitalake.settings import Settings

FOLDS = 5
FEWEST_EVENTS = 3
"""The least number of stays with the event, and without it, so that folds can be trained and tested at all."""

NEWS2 = "news2-partial"


class _Watch:
    """Measures how long each step takes, and reports progress."""

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self.seconds: dict[str, float] = {}
        self._tell, self._begun = tell, time.perf_counter()

    def done(self, step: str, text: str) -> None:
        now = time.perf_counter()
        self.seconds[step], self._begun = round(now - self._begun, 2), now
        if self._tell:
            self._tell(text)


def train(
    settings: Settings,
    task_name: str,
    *,
    source: str | None = None,
    promote: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Train a task from published data, track it in MLflow and register the better model; return the report.

    Args:
        settings: of the home.
        task_name: a declared task.
        source: only stays from this source of the history lane; None: all published stays.
        promote: whether the alias ``champion`` moves to the new model.
        tell: called with a text after each step.

    Raises:
        SettingsError: there is no such task.
        ModelError: there are too few stays, or the rules change a column of the features.
    """
    watch, task = _Watch(tell), load_task(task_name)
    pinned = pin(settings, task)
    query_service = QueryService(settings)
    found = read_outcomes(query_service, task, source=source)
    outcomes = found.ended
    patients = sorted({outcome.patient for outcome in outcomes})
    published = read_values(query_service, task, patients)
    watch.done("read", f"{len(published):,} values of {len(outcomes):,} stays read")
    matrix = build_matrix(task, outcomes, published, age_cap=pinned.age_cap)
    is_held_out = np.array([held_out(patient) for patient in matrix.patient.tolist()], np.bool_)
    training_rows, held_out_rows = matrix.where(~is_held_out), matrix.where(is_held_out)
    del published, matrix
    watch.done("features", f"{len(training_rows) + len(held_out_rows):,} rows of {len(task.features.names)} features")
    _check(training_rows, task)
    evaluation = _evaluate(task, training_rows, held_out_rows, watch)
    sources = sorted({outcome.source for outcome in outcomes})
    report = _report(settings, task, pinned, training_rows, held_out_rows, evaluation, sources=sources, found=found)
    return _register(settings, task, pinned, report, evaluation, promote=promote, watch=watch)


def _check(training_rows: Matrix, task: Task) -> None:
    events = sample(training_rows).events
    if min(events, sample(training_rows).stays - events) < FEWEST_EVENTS:
        raise ModelError(
            f"Too few stays for training ({FEWEST_EVENTS} with and {FEWEST_EVENTS} without the event are needed)",
            where=f"task {task.name}",
            remedy="Load more history that has vital signs and ended stays.",
        )


def sample(matrix: Matrix) -> Sample:
    """Return the numbers of patients, stays, events and rows of a matrix."""
    stays, with_event = np.unique(matrix.stay), np.unique(matrix.stay[matrix.event])
    return Sample(len(np.unique(matrix.patient)), len(stays), len(with_event), len(matrix))


class _Evaluation(msgspec.Struct):
    """The evaluation of all candidates."""

    results: list[Result]
    chosen: Candidate
    estimator: Any
    candidates: list[Candidate]
    reliability: list[Bin]
    groups: list[Group]


def _evaluate(task: Task, training_rows: Matrix, held_out_rows: Matrix, watch: _Watch) -> _Evaluation:
    """Return every candidate's figures over the same folds and resamples, and the better model fitted to all rows."""
    contenders = candidates(task.features.names)
    fold = folds(training_rows.patient.tolist(), training_rows.event, count=FOLDS)
    cross_validated = {c.name: _cross_validate(c, training_rows, fold) for c in contenders}
    watch.done("cross-validation", f"{len(contenders)} candidates, {FOLDS} folds by patient")
    estimators: dict[str, Estimator] = {}
    held_out_probability = {}
    for candidate in contenders:
        fitted = candidate.fit(training_rows)
        held_out_probability[candidate.name] = fitted(held_out_rows.where(held_out_rows.primary))
        if fitted.estimator is not None:
            estimators[candidate.name] = fitted.estimator
    watch.done("fit", "fitted to all training patients")
    primary, held_out_primary = training_rows.where(training_rows.primary), held_out_rows.where(held_out_rows.primary)
    evaluator = Evaluator(primary.event, resample(primary.patient.tolist()), strata=fold[training_rows.primary])
    held_out_evaluator = Evaluator(held_out_primary.event, resample(held_out_primary.patient.tolist()))
    results = []
    for candidate in contenders:
        probability = cross_validated[candidate.name][training_rows.primary]
        against = cross_validated[NEWS2][training_rows.primary]
        results.append(
            Result(
                name=candidate.name,
                registrable=candidate.registrable,
                figures=evaluator.figures(probability),
                calibration_error=reliability(probability, primary.event)[1],
                at_hours=_at_hours(cross_validated[candidate.name], training_rows, fold),
                held_out=held_out_evaluator.figures(held_out_probability[candidate.name])
                if len(held_out_primary)
                else {},
                against_news2=None if candidate.name == NEWS2 else evaluator.difference("auroc", probability, against),
            )
        )
    watch.done("figures", f"figures with intervals from {RESAMPLES:,} resamples of the patients")
    able = [(r.figures["log_loss"].value or np.inf, r.name) for r in results if r.registrable]
    chosen = next(c for c in contenders if c.name == min(able)[1])
    probability = cross_validated[chosen.name][training_rows.primary]
    return _Evaluation(
        results=results,
        chosen=chosen,
        estimator=estimators[chosen.name],
        candidates=contenders,
        reliability=reliability(probability, primary.event)[0],
        groups=groups(probability, evaluator, age=primary.age, female=primary.female),
    )


def _cross_validate(candidate: Candidate, rows: Matrix, fold: npt.NDArray[np.int64]) -> Floats:
    """Return the probability of each row by a model that was not trained on its patient."""
    found = np.full(len(rows), np.nan)
    for number in range(FOLDS):
        in_fold = fold == number
        found[in_fold] = candidate.fit(rows.where(~in_fold))(rows.where(in_fold))
    return found


def _at_hours(probability: Floats, rows: Matrix, fold: npt.NDArray[np.int64]) -> dict[str, Estimate]:
    found = {}
    for hours in np.unique(rows.hours).tolist():
        at_moment = rows.hours == hours
        weights = resample(rows.patient[at_moment].tolist(), count=RESAMPLES // 4)
        evaluator = Evaluator(rows.event[at_moment], weights, strata=fold[at_moment])
        found[str(hours)] = evaluator.figures(probability[at_moment], names=("auroc",))["auroc"]
    return found


def _report(
    settings: Settings,
    task: Task,
    pinned: Pinned,
    training_rows: Matrix,
    held_out_rows: Matrix,
    evaluation: _Evaluation,
    *,
    sources: list[str],
    found: Outcomes,
) -> Report:
    return Report(
        task=task.name,
        title=task.title,
        task_version=task.version,
        task_digest=task.digest,
        policy_version=pinned.policy_version,
        sources=sources,
        primary_hours=task.as_of.primary,
        folds=FOLDS,
        resamples=RESAMPLES,
        trained=sample(training_rows),
        held_out=sample(held_out_rows),
        going_on=found.going_on,
        unknown=found.unknown,
        horizon=task.horizon,
        min_age=task.cohort.min_age,
        results=evaluation.results,
        chosen=evaluation.chosen.name,
        chosen_parameters={name: str(value) for name, value in evaluation.chosen.parameters.items()},
        reliability=evaluation.reliability,
        groups=evaluation.groups,
        trained_at=clock.now().isoformat(timespec="seconds"),
        data_versions=data_versions(settings, task),
    )


def _register(
    settings: Settings,
    task: Task,
    pinned: Pinned,
    report: Report,
    evaluation: _Evaluation,
    *,
    promote: bool,
    watch: _Watch,
) -> Report:
    tracking = Tracking(settings.path(settings.models))
    staged = Path(tempfile.mkdtemp(prefix="vitalake-train-"))
    training = secrets.token_hex(8)
    try:
        save(
            staged / "model",
            evaluation.estimator,
            name=task.name,
            task=task.name,
            task_version=task.version,
            task_digest=task.digest,
            features=list(task.features.names),
            policy_version=pinned.policy_version,
            age_cap=pinned.age_cap,
            source=", ".join(report.sources),
            stays=report.trained.stays,
            patients=report.trained.patients,
            events=report.trained.events,
            trained_us=clock.now_us(),
        )
        for candidate in evaluation.candidates:
            is_chosen = candidate is evaluation.chosen
            run = _run(report, candidate, training, model=staged / "model" if is_chosen else None)
            run_id = tracking.record(task.name, run)
            if is_chosen:
                chosen_id = run_id
    finally:
        shutil.rmtree(staged)
    auroc = report.result(report.chosen).figures["auroc"].value or 0.0
    version = tracking.register(
        task.name,
        chosen_id,
        experiment=task.name,
        description=f"{report.chosen}, AUROC {auroc:.3f} in cross-validation. Not approved; see card.md.",
        champion=promote,
    )
    watch.done("registry", f"registered as {task.name}/{version}")
    return msgspec.structs.replace(
        report, model=task.name, version=version, champion=promote, seconds=dict(watch.seconds)
    )


def _run(report: Report, candidate: Candidate, training: str, *, model: Path | None) -> Run:
    result = report.result(candidate.name)
    numbers: dict[str, float] = {}
    for prefix, found in (("", result.figures), ("held_out_", result.held_out)):
        for name, estimate in found.items():
            parts = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
            numbers |= {f"{prefix}{name}{suffix}": value for suffix, value in parts.items() if value is not None}
    numbers |= {f"auroc_at_{h}h": e.value for h, e in result.at_hours.items() if e.value is not None}
    sizes = {f"trained_{name}": value for name, value in msgspec.structs.asdict(report.trained).items()}
    versions = {f"data.{name}.version": version for name, version in report.data_versions.items()}
    pins = {"task_digest": report.task_digest, "policy_version": report.policy_version, "folds": report.folds}
    files = {"evaluation.json": msgspec.json.format(msgspec.json.encode(report), indent=1)} if model else {}
    if model:
        files["card.md"] = write_card(report).encode()
    return Run(
        name=candidate.name,
        parameters=dict(candidate.parameters) | sizes | versions | pins,
        figures=numbers,
        tags={"vitalake.training": training, "vitalake.sources": ", ".join(report.sources)},
        files=files,
        model=model,
    )
