"""The model in force: what the alias ``champion`` points to, read straight from MLflow's tables, without MLflow.

Importing MLflow takes two seconds and 200 MB; these few tables have been the same for years, and a test trains with
MLflow and reads back here.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from models.artefact import Model, load
from models.tasks import Task
from vitalake.errors import ModelError
from vitalake.settings import Settings

CHAMPION = "champion"
DIGEST_TAG = "vitalake.digest"
DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
SCHEME = "mlflow-artifacts:/"
"""Artefacts are named relative to wherever the folder lies: a home can be moved, and no path of the machine is kept."""

_BUSY_SECONDS = 5.0
_QUERY = """
SELECT v.version, v.source, t.value
FROM registered_model_aliases AS a
JOIN model_versions AS v ON v.name = a.name AND v.version = a.version
LEFT JOIN model_version_tags AS t ON t.name = v.name AND t.version = v.version AND t.key = ?
WHERE a.name = ? AND a.alias = ?
"""
_FIGURES = """
SELECT m.key, m.value
FROM model_versions AS v JOIN latest_metrics AS m ON m.run_uuid = v.run_id
WHERE v.name = ? AND v.version = ? AND m.key IN ('auroc', 'auroc_low', 'auroc_high')
"""


class RegistryGone(ModelError):
    """The registry cannot be read, which says nothing about the model that it named."""


class _NoTables(RegistryGone):
    """MLflow is just making them, or somebody has put an empty file in their place."""


def champion(settings: Settings, task: Task) -> Model | None:
    """Return the model in force for a task, its digest checked; None: none is registered.

    Raises:
        ModelError: what is registered is missing or changed, or was trained for another declaration of the task.
    """
    try:
        found = _registered(settings.path(settings.models), task.name)
    except _NoTables:
        found = None
    return None if found is None else _load(settings.path(settings.models), task, *found)


class Discrimination(NamedTuple):
    """How well a model tells events from others, in cross-validation; with its interval, None where there is none."""

    auroc: float
    low: float | None
    high: float | None


def discrimination(settings: Settings, model: Model) -> Discrimination | None:
    """Return what training found of a registered model; None: the registry does not say, or is gone."""
    try:
        found = dict(_rows(settings.path(settings.models) / DATABASE, _FIGURES, (model.name, int(model.version or 0))))
    except RegistryGone:  # the model was read before it went
        return None
    if "auroc" not in found:
        return None
    return Discrimination(found["auroc"], found.get("auroc_low"), found.get("auroc_high"))


class Champion:
    """The model in force for a task, looked up again only when the registry has been written; for serving.

    Not to be shared between threads.
    """

    def __init__(self, settings: Settings, task: Task) -> None:
        self._folder, self._task = settings.path(settings.models), task
        self._stamp: tuple[int, int] | None = None
        self._registered: tuple[str, str, str] | None = None
        self._model: Model | None = None

    def current(self) -> Model | None:
        """Return the model in force; takes a microsecond or two while nothing has changed.

        Raises:
            RegistryGone: the registry was there and is not, or cannot be read; ``last`` is what it named.
            ModelError: see ``champion``.
        """
        stamp = _stamp(self._folder / DATABASE)
        if stamp == self._stamp:
            return self._model
        if stamp is None and self._registered is not None:
            raise RegistryGone(
                "Registry of models is gone",
                where=f"settings.models: {DATABASE}",
                remedy="Put it back from a back-up, or train a model: until then the last one stays in force.",
            )
        try:
            found = _registered(self._folder, self._task.name)
        except _NoTables:
            if self._registered is not None:
                raise
            found = None
        if found != self._registered:
            self._model = None
            self._model = None if found is None else _load(self._folder, self._task, *found)
            self._registered = found
        self._stamp = stamp
        return self._model

    @property
    def last(self) -> Model | None:
        """The last model that was in force."""
        return self._model


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _registered(folder: Path, name: str) -> tuple[str, str, str] | None:
    """Return version, source and digest of what the alias points to."""
    row = next(iter(_rows(folder / DATABASE, _QUERY, (DIGEST_TAG, name, CHAMPION))), None)
    return None if row is None else (str(row[0]), str(row[1]), str(row[2] or ""))


def _rows(path: Path, query: str, parameters: tuple[object, ...]) -> list[Any]:
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as connection:
            return connection.execute(query, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # MLflow is just making them
            raise _NoTables("Registry has no tables yet", where=DATABASE, remedy="Train a model.") from None
        raise _unreadable(error) from None
    except sqlite3.Error as error:
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> RegistryGone:
    return RegistryGone(
        f"Registry cannot be read ({type(error).__name__})",
        where=DATABASE,
        remedy="Check the folder that settings.models names.",
    )


def _load(folder: Path, task: Task, version: str, source: str, digest: str) -> Model:
    where = f"{task.name}/{version}"
    relative = source.removeprefix(SCHEME)
    inside = (folder / ARTIFACTS).resolve()
    path = (inside / relative).resolve()
    if not source.startswith(SCHEME) or not path.is_relative_to(inside) or not digest:
        raise ModelError("Model was not registered by vitalake", where=where, remedy="Train one: vitalake train.")
    model = load(path, version=version, digest=digest)
    if model.manifest.task_digest != task.digest or model.features != task.features.names:
        raise ModelError(
            "Model was trained for another declaration of its task",
            where=where,
            remedy=f"Train it anew: vitalake train {task.name}.",
        )
    return model
