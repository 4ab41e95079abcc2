"""Small models and made-up patients for tests, from seeded random numbers."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.artefact import Model, digest_of, load, save
from models.artefact.estimator import Estimator
from models.registry.tracking import Tracking
from models.tasks import Task, load_task
from models.training.candidates import fit_booster, fit_linear
from models.training.matrix import Matrix
from vitalake.clinical.records import History, Stay, code_number

AS_OF = 1_760_000_000_000_000
HOUR = 3_600_000_000
POLICY = "abcdef012345"
CODES = ("8867-4", "9279-1", "2708-6", "8480-6", "8462-4", "8310-5", "9269-2", "2160-0", "2524-7")
CENTRES = (85.0, 18.0, 97.0, 120.0, 65.0, 37.0, 13.0, 1.2, 2.0)


def make_history(random: np.random.Generator, *, hours: int = 30, ill: float = 0.0) -> History:
    """Return hourly values of a made-up patient; ``ill`` moves them away from normal."""
    times = np.repeat(AS_OF - np.arange(hours, 0, -1) * HOUR, len(CODES))
    centre = np.tile(np.array(CENTRES), hours)
    value = centre * (1 + 0.08 * random.normal(size=len(centre)) + 0.05 * ill)
    keep = random.random(len(value)) > 0.2
    codes = np.tile(np.array([code_number(code) for code in CODES], np.uint32), hours)
    return History(codes[keep], value[keep], times[keep], times[keep] + 60_000_000)


def make_stay(random: np.random.Generator, number: int) -> Stay:
    """Return a made-up stay that has not ended."""
    return Stay(
        encounter=f"stay-{number}",
        admitted_us=AS_OF - 40 * HOUR,
        discharged_us=None,
        age_years=float(random.integers(20, 95)),
        sex=("female", "male", "unknown")[number % 3],
        unit="",
        bed="",
    )


def make_matrix(task: Task, *, count: int = 120, seed: int = 3) -> Matrix:
    """Return a matrix of made-up patients, a third of them with the event."""
    random = np.random.default_rng(seed)
    event = np.arange(count) % 3 == 0
    rows = [
        task.vector(make_history(random, ill=float(e)), make_stay(random, i), as_of_us=AS_OF, age_cap=90)
        for i, e in enumerate(event.tolist())
    ]
    features = np.array(rows)
    names = task.features.names
    return Matrix(
        features=features,
        event=event,
        patient=np.array([f"patient-{i}" for i in range(count)]),
        stay=np.array([f"stay-{i}" for i in range(count)]),
        hours=np.full(count, 24),
        as_of_us=np.full(count, AS_OF),
        primary=np.ones(count, np.bool_),
        news2=random.integers(0, 12, count).astype(np.float64),
        age=features[:, names.index("age")],
        female=features[:, names.index("sex_female")],
    )


def fields(task: Task, **changes: Any) -> dict[str, Any]:
    """Return a manifest's fields."""
    return {
        "name": task.name,
        "task": task.name,
        "task_version": task.version,
        "task_digest": task.digest,
        "features": list(task.features.names),
        "policy_version": POLICY,
        "age_cap": 90,
        "source": "made-up",
        "stays": 120,
        "patients": 120,
        "events": 40,
        "trained_us": AS_OF,
    } | changes


def fit(kind: str, matrix: Matrix, task: Task) -> Estimator:
    """Return a fitted estimator."""
    return {"xgboost": fit_booster, "logistic-regression": fit_linear}[kind](matrix, task.features.names)


def make_model(folder: Path, kind: str = "xgboost") -> Model:
    """Return a model of made-up patients, saved into a folder and loaded from it."""
    task = load_task("mortality")
    save(folder, fit(kind, make_matrix(task), task), **fields(task))
    return load(folder, version="1", digest=digest_of(folder))


@cache
def _empty_registry() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vitalake-registry-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Tracking(folder / "models")
    return folder / "models"


def tracking(folder: Path) -> Tracking:
    """Open a registry; a missing one starts as a copy of an empty one: MLflow takes two seconds to create tables."""
    if not folder.exists():
        shutil.copytree(_empty_registry(), folder)
    return Tracking(folder)
