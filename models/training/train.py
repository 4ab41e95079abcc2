"""Trains a task: matrix, folds, candidates, figures, and the better model registered with its card."""

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
from models.evaluation import Bin, Estimate, Group, Judge, groups, reliability, resample
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
"""So that every fold is learnt without and something is left; with less not even that can be said."""

NEWS2 = "news2-partial"


class _Watch:
    """How long each step took, and somebody to tell."""

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
    """Train a task from published data, track it in MLflow and register the better model; return what was found.

    Args:
        settings: of the home.
        task_name: a declared task.
        source: stays from this source of the history lane only; None: all that are published.
        promote: whether the alias ``champion`` moves to the new model.
        tell: told what was done, step by step.

    Raises:
        SettingsError: there is no such task.
        ModelError: there is too little to learn from, or the rules change what features are made of.
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
    away = np.array([held_out(patient) for patient in matrix.patient.tolist()], np.bool_)
    kept, other = matrix.where(~away), matrix.where(away)
    del published, matrix
    watch.done("features", f"{len(kept) + len(other):,} rows of {len(task.features.names)} features")
    _check(kept, task)
    judged = _judge(task, kept, other, watch)
    sources = sorted({outcome.source for outcome in outcomes})
    report = _report(settings, task, pinned, kept, other, judged, sources=sources, found=found)
    return _register(settings, task, pinned, report, judged, promote=promote, watch=watch)


def _check(kept: Matrix, task: Task) -> None:
    events = sample(kept).events
    if min(events, sample(kept).stays - events) < FEWEST_EVENTS:
        raise ModelError(
            f"Too few stays to learn from ({FEWEST_EVENTS} with and without the event are needed)",
            where=f"task {task.name}",
            remedy="Load more history, with vital signs and ended stays.",
        )


def sample(matrix: Matrix) -> Sample:
    """Return how many patients, stays, events and rows a matrix holds."""
    stays, with_event = np.unique(matrix.stay), np.unique(matrix.stay[matrix.event])
    return Sample(len(np.unique(matrix.patient)), len(stays), len(with_event), len(matrix))


class _Judged(msgspec.Struct):
    """What the candidates came to."""

    results: list[Result]
    chosen: Candidate
    estimator: Any
    candidates: list[Candidate]
    reliability: list[Bin]
    groups: list[Group]


def _judge(task: Task, kept: Matrix, other: Matrix, watch: _Watch) -> _Judged:
    """Return every candidate's figures over the same folds and resamples, and the better model of all rows."""
    contenders = candidates(task.features.names)
    fold = folds(kept.patient.tolist(), kept.event, count=FOLDS)
    unseen = {c.name: _cross_validate(c, kept, fold) for c in contenders}
    watch.done("cross-validation", f"{len(contenders)} candidates, {FOLDS} folds by patient")
    estimators: dict[str, Estimator] = {}
    elsewhere = {}
    for candidate in contenders:
        fitted = candidate.fit(kept)
        elsewhere[candidate.name] = fitted(other.where(other.primary))
        if fitted.estimator is not None:
            estimators[candidate.name] = fitted.estimator
    watch.done("fit", "fitted to all training patients")
    primary, away = kept.where(kept.primary), other.where(other.primary)
    judge = Judge(primary.event, resample(primary.patient.tolist()), strata=fold[kept.primary])
    away_judge = Judge(away.event, resample(away.patient.tolist()))
    results = []
    for candidate in contenders:
        probability = unseen[candidate.name][kept.primary]
        against = unseen[NEWS2][kept.primary]
        results.append(
            Result(
                name=candidate.name,
                registrable=candidate.registrable,
                figures=judge.figures(probability),
                calibration_error=reliability(probability, primary.event)[1],
                at_hours=_at_hours(unseen[candidate.name], kept, fold),
                held_out=away_judge.figures(elsewhere[candidate.name]) if len(away) else {},
                against_news2=None if candidate.name == NEWS2 else judge.difference("auroc", probability, against),
            )
        )
    watch.done("figures", f"figures with intervals from {RESAMPLES:,} resamples of the patients")
    able = [(r.figures["log_loss"].value or np.inf, r.name) for r in results if r.registrable]
    chosen = next(c for c in contenders if c.name == min(able)[1])
    probability = unseen[chosen.name][kept.primary]
    return _Judged(
        results=results,
        chosen=chosen,
        estimator=estimators[chosen.name],
        candidates=contenders,
        reliability=reliability(probability, primary.event)[0],
        groups=groups(probability, judge, age=primary.age, female=primary.female),
    )


def _cross_validate(candidate: Candidate, rows: Matrix, fold: npt.NDArray[np.int64]) -> Floats:
    """Return for each row the probability by a model that has seen nothing of its patient."""
    found = np.full(len(rows), np.nan)
    for number in range(FOLDS):
        mine = fold == number
        found[mine] = candidate.fit(rows.where(~mine))(rows.where(mine))
    return found


def _at_hours(probability: Floats, rows: Matrix, fold: npt.NDArray[np.int64]) -> dict[str, Estimate]:
    found = {}
    for hours in np.unique(rows.hours).tolist():
        mine = rows.hours == hours
        weights = resample(rows.patient[mine].tolist(), count=RESAMPLES // 4)
        judge = Judge(rows.event[mine], weights, strata=fold[mine])
        found[str(hours)] = judge.figures(probability[mine], names=("auroc",))["auroc"]
    return found


def _report(
    settings: Settings,
    task: Task,
    pinned: Pinned,
    kept: Matrix,
    other: Matrix,
    judged: _Judged,
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
        trained=sample(kept),
        held_out=sample(other),
        going_on=found.going_on,
        unknown=found.unknown,
        horizon=task.horizon,
        min_age=task.cohort.min_age,
        results=judged.results,
        chosen=judged.chosen.name,
        chosen_parameters={name: str(value) for name, value in judged.chosen.parameters.items()},
        reliability=judged.reliability,
        groups=judged.groups,
        trained_at=clock.now().isoformat(timespec="seconds"),
        data_versions=data_versions(settings, task),
    )


def _register(
    settings: Settings, task: Task, pinned: Pinned, report: Report, judged: _Judged, *, promote: bool, watch: _Watch
) -> Report:
    tracking = Tracking(settings.path(settings.models))
    staged = Path(tempfile.mkdtemp(prefix="vitalake-train-"))
    training = secrets.token_hex(8)
    try:
        save(
            staged / "model",
            judged.estimator,
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
        for candidate in judged.candidates:
            mine = candidate is judged.chosen
            run = _run(report, candidate, training, model=staged / "model" if mine else None)
            run_id = tracking.record(task.name, run)
            if mine:
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
