"""A model as a folder: a manifest that describes it, and one file of parameters; the digest covers both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from models.artefact.booster import BoosterEstimator
from models.artefact.estimator import Estimator, Floats, sigmoid
from models.artefact.linear import LinearEstimator
from vitalake.errors import ModelError

MANIFEST = "model.json"
CARD = "card.md"
FORMAT: Literal[1] = 1
Kind = Literal["logistic-regression", "xgboost"]

_LOADERS: dict[str, Any] = {LinearEstimator.kind: LinearEstimator, BoosterEstimator.kind: BoosterEstimator}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The description of a model; it contains no patient and no path.

    Attributes:
        task, task_version, task_digest: the declaration it was trained for.
        features: the columns, in order.
        policy_version: of the masking rules under which its data were published.
        age_cap: ages above count as this one, as those rules say.
        source: the name of the training data.
        stays, patients, events: how many it was trained on.
        trained_us: when it was trained.
        parameters_sha256: of the file of parameters.
    """

    format: Literal[1] = FORMAT
    name: str
    kind: Kind
    task: str
    task_version: int
    task_digest: str
    features: list[str]
    policy_version: str
    age_cap: int | None
    source: str
    stays: int
    patients: int
    events: int
    trained_us: int
    parameters_sha256: str


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        name: as registered.
        version: in the registry; empty for a model that was loaded outside of it.
        digest: of the manifest, and through it of the parameters.
    """

    name: str
    version: str
    manifest: Manifest
    estimator: Estimator
    digest: str

    @property
    def task(self) -> str:
        """Return the task it was trained for."""
        return self.manifest.task

    @property
    def features(self) -> tuple[str, ...]:
        """Return its columns, in order."""
        return tuple(self.manifest.features)

    @property
    def policy_version(self) -> str:
        """Return the version of the rules under which its data were published."""
        return self.manifest.policy_version

    @property
    def label(self) -> str:
        """Return ``name/version``."""
        return f"{self.name}/{self.version}"

    def log_odds(self, row: Floats) -> float:
        """Return the log-odds of one row of features."""
        return float(self.estimator.log_odds(row[np.newaxis])[0])

    def probability(self, row: Floats) -> float:
        """Return the probability for one row of features."""
        return float(self.probabilities(row[np.newaxis])[0])

    def probabilities(self, matrix: Floats) -> Floats:
        """Return the probability for each row of a matrix; the same, to the bit, as for the row alone."""
        return sigmoid(self.estimator.log_odds(matrix))

    def contributions(self, row: Floats) -> Floats:
        """Return what each feature adds to the log-odds: TreeSHAP, or the terms of a linear model."""
        return self.estimator.contributions(row)

    def bias(self, row: Floats) -> float:
        """Return the log-odds of the average patient: those of the row less all contributions."""
        return self.log_odds(row) - float(self.contributions(row).sum())


def save(folder: Path, estimator: Estimator, **fields: Any) -> Manifest:
    """Write a model into a new folder; return its manifest.

    Args:
        folder: must not exist yet.
        estimator: the fitted model.
        fields: of the manifest, without kind and digest.
    """
    folder.mkdir(parents=True, mode=0o700)
    parameters = folder / estimator.file_name
    estimator.save(parameters)
    manifest = Manifest(kind=estimator.kind, parameters_sha256=_sha256(parameters), **fields)  # type: ignore[arg-type]
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


def load(folder: Path, *, version: str = "", digest: str | None = None) -> Model:
    """Return the model of a folder. The parameters are loaded only after their digest is checked.

    Args:
        folder: as ``save`` wrote it.
        version: of the registry.
        digest: the value of ``digest_of`` at registration; None: only the parameters are checked.

    Raises:
        ModelError: a file is missing, changed, or of another format.
    """
    where = f"{folder.name}/{MANIFEST}"
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ModelError(
            f"Model cannot be read ({error.strerror})", where=where, remedy="Train it again, or restore its folder."
        ) from None
    found = hashlib.sha256(text).hexdigest()
    if digest is not None and digest != found:
        raise _changed(where)
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ModelError(
            "Model has a format that this version cannot read", where=where, remedy="Train it again."
        ) from None
    loader = _LOADERS[manifest.kind]
    parameters = folder / loader.file_name
    if not parameters.is_file() or _sha256(parameters) != manifest.parameters_sha256:
        raise _changed(f"{folder.name}/{loader.file_name}")
    return Model(manifest.name, version, manifest, loader.load(parameters), found)


def digest_of(folder: Path) -> str:
    """Return the digest of a model's folder."""
    return _sha256(folder / MANIFEST)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _changed(where: str) -> ModelError:
    return ModelError("Model has changed since it was registered", where=where, remedy="Do not use it: train it again.")
