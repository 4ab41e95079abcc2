"""Writes parameters, figures and files of a training to MLflow; never a patient, a patient's value or a path."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.artefact import digest_of
from models.registry.champion import ARTIFACTS, CHAMPION, DATABASE, DIGEST_TAG, SCHEME
from vitalake import clock
from vitalake.errors import ModelError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "model"
"""The model's folder among a run's artefacts."""

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}


@dataclass(frozen=True)
class Run:
    """One candidate of a training, as MLflow stores it.

    Attributes:
        name: the candidate's.
        parameters, figures, tags: as MLflow shows them; figures are numbers.
        files: name → content, stored beside the model.
        model: the folder of the artefact; None: a baseline.
    """

    name: str
    parameters: Mapping[str, Any]
    figures: Mapping[str, float]
    tags: Mapping[str, str]
    files: Mapping[str, bytes]
    model: Path | None = None


class Tracking:
    """MLflow on a SQLite file and a folder; only training opens it."""

    def __init__(self, folder: Path) -> None:
        """Open the store, or create it.

        Raises:
            ModelError: MLflow is not installed, or its store cannot be opened.
        """
        os.environ.update(_QUIET)  # read when MLflow is imported
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        except ImportError:
            raise ModelError("MLflow is not installed", where="models", remedy="Install vitalake[models].") from None
        for name in ("mlflow", "alembic"):  # importing MLflow has changed their levels
            logging.getLogger(name).setLevel(logging.WARNING)
        self._folder = folder
        address = f"sqlite:///{folder / DATABASE}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Opened first with SCHEME, so that the default experiment is not created with a path of this machine.
            SqlAlchemyStore(address, SCHEME)  # type: ignore[no-untyped-call]
            self._client: MlflowClient = MlflowClient(tracking_uri=address, registry_uri=address)
        except (OSError, MlflowException) as error:
            raise ModelError(
                f"MLflow's store cannot be opened ({type(error).__name__})",
                where=DATABASE,
                remedy="Check the folder that settings.models names.",
            ) from None

    def record(self, experiment: str, run: Run) -> str:
        """Write one run; return its id."""
        from mlflow.entities import Metric, Param, RunTag

        found = self._client.get_experiment_by_name(experiment)
        experiment_id = (
            found.experiment_id
            if found
            else self._client.create_experiment(experiment, artifact_location=f"{SCHEME}{experiment}")
        )
        run_id = str(self._client.create_run(experiment_id, run_name=run.name).info.run_id)
        now = clock.now_us() // 1000
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in run.figures.items()],
            params=[Param(name, str(value)) for name, value in run.parameters.items()],
            tags=[RunTag(name, value) for name, value in run.tags.items()],
        )
        folder = self._folder / ARTIFACTS / experiment / run_id / "artifacts"
        folder.mkdir(parents=True, mode=0o700)
        if run.model is not None:
            shutil.copytree(run.model, folder / MODEL)
        for name, content in run.files.items():
            (folder / name).write_bytes(content)
        self._client.set_terminated(run_id)
        return run_id

    def register(self, name: str, run_id: str, *, experiment: str, description: str, champion: bool) -> str:
        """Register a run's model under a name; return the version. Its files are complete before the alias moves.

        Args:
            name: of the registered model.
            run_id: the run of the model.
            experiment: of the run.
            description: for MLflow's pages.
            champion: whether the alias moves to it.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        relative = f"{experiment}/{run_id}/artifacts/{MODEL}"
        made = self._client.create_model_version(
            name,
            source=f"{SCHEME}{relative}",
            run_id=run_id,
            tags={DIGEST_TAG: digest_of(self._folder / ARTIFACTS / relative)},
            description=description,
        )
        if champion:
            self._client.set_registered_model_alias(name, CHAMPION, str(made.version))
        return str(made.version)

    def champion_version(self, name: str) -> str | None:
        """Return the version under the alias; None: there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_model_version_by_alias(name, CHAMPION).version)
        except MlflowException:
            return None
