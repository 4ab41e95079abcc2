"""The model in force: the version under the alias ``champion``, read directly from MLflow's tables, without MLflow.

Importing MLflow takes two seconds and 200 MB. These few tables have been the same for years, and a test trains with
MLflow and reads the model back here.
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
"""Artefacts are named relative to the folder of models, so that a home can be moved and no path of the machine is
stored."""

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
    """The registry cannot be read; the model that it named may still be good."""


class _NoTables(RegistryGone):
    """The registry has no tables: MLflow is just creating them, or the file was replaced by an empty one."""


def champion(settings: Settings, task: Task) -> Model | None:
    """Return the model in force for a task, with its digest checked; None: no model is registered.

    Raises:
        ModelError: the registered model is missing or changed, or was trained for another declaration of the task.
    """
    try:
        found = _registered(settings.path(settings.models), task.name)
    except _NoTables:
        found = None
    return None if found is None else _load(settings.path(settings.models), task, *found)


class Discrimination(NamedTuple):
    """A model's AUROC in cross-validation, with its interval; None: there is no interval."""

    auroc: float
    low: float | None
    high: float | None


def discrimination(settings: Settings, model: Model) -> Discrimination | None:
    """Return the AUROC that training stored for a registered model; None: it is not stored, or the registry is gone."""
    try:
        found = dict(_rows(settings.path(settings.models) / DATABASE, _FIGURES, (model.name, int(model.version or 0))))
    except RegistryGone:  # it went after the model was read
        return None
    if "auroc" not in found:
        return None
    return Discrimination(found["auroc"], found.get("auroc_low"), found.get("auroc_high"))


class Champion:
    """Follows the model in force for a task, and reads the registry again when it was written; used by one thread."""

    def __init__(self, settings: Settings, task: Task) -> None:
        self._folder, self._task = settings.path(settings.models), task
        self._stamp: tuple[int, int] | None = None
        self._registered: tuple[str, str, str] | None = None
        self._model: Model | None = None

    def current(self) -> Model | None:
        """Return the model in force; takes one or two microseconds while nothing has changed.

        Raises:
            RegistryGone: the registry has disappeared or cannot be read; ``last`` is the model that it named.
            ModelError: see ``champion``.
        """
        stamp = _stamp(self._folder / DATABASE)
        if stamp == self._stamp:
            return self._model
        if stamp is None and self._registered is not None:
            raise RegistryGone(
                "Model registry is gone",
                where=f"settings.models: {DATABASE}",
                remedy="Restore it from a back-up, or train a model. Until then the last model stays in force.",
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
    """Return version, source and digest of the model under the alias."""
    row = next(iter(_rows(folder / DATABASE, _QUERY, (DIGEST_TAG, name, CHAMPION))), None)
    return None if row is None else (str(row[0]), str(row[1]), str(row[2] or ""))


def _rows(path: Path, query: str, parameters: tuple[object, ...]) -> list[Any]:
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as connection:
            return connection.execute(query, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # MLflow is just creating them
            raise _NoTables("Model registry has no tables yet", where=DATABASE, remedy="Train a model.") from None
        raise _unreadable(error) from None
    except sqlite3.Error as error:
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> RegistryGone:
    return RegistryGone(
        f"Model registry cannot be read ({type(error).__name__})",
        where=DATABASE,
        remedy="Check the folder that settings.models names.",
    )


def _load(folder: Path, task: Task, version: str, source: str, digest: str) -> Model:
    where = f"{task.name}/{version}"
    relative = source.removeprefix(SCHEME)
    inside = (folder / ARTIFACTS).resolve()
    path = (inside / relative).resolve()
    if not source.startswith(SCHEME) or not path.is_relative_to(inside) or not digest:
        raise ModelError(
            "Model was not registered by vitalake", where=where, remedy=f"Train one: vitalake train {task.name}."
        )
    model = load(path, version=version, digest=digest)
    if model.manifest.task_digest != task.digest or model.features != task.features.names:
        raise ModelError(
            "Model was trained for another declaration of its task",
            where=where,
            remedy=f"Train it again: vitalake train {task.name}.",
        )
    return model
