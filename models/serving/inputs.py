"""The rules and the model in force, on which every score depends; both are followed while serving."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from governance.policy.masking import compile_masks
from governance.policy.masks import Mask
from governance.policy.rules import load_policy
from models.artefact import Model
from models.registry import Champion, RegistryGone
from models.tasks import Task
from vitalake.clinical.records import Stay
from vitalake.declarations import ENDINGS
from vitalake.errors import ModelError
from vitalake.keys import KeyRing
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings

log = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The masking rules, as far as scores depend on them.

    Attributes:
        version: a model that was trained under another version abstains.
        age: the mask of the age at admission; None: the age is not published.
    """

    version: str
    age: Mask | None

    def as_published(self, stay: Stay | None) -> Stay | None:
        """Return the stay with its age masked as in the training data."""
        if stay is None or stay.age_years is None:
            return stay
        return replace(stay, age_years=_masked(self.age, stay.age_years) if self.age else None)


@lru_cache(1000)
def _masked(mask: Mask, age: float) -> float | None:
    masked = mask(pa.array([age], pa.float64()))[0].as_py()
    return None if masked is None else float(masked)


class Inputs:
    """Rules and model in force, read again when their files change; used by one thread."""

    def __init__(self, settings: Settings, keys: KeyRing, task: Task) -> None:
        """Read both.

        Raises:
            RuleError: the rules are not valid.
        """
        self._folder, self._keys = settings.path(settings.governance), keys
        self._champion = Champion(settings, task)
        self._stamp: Stamp | None = None
        self.model_error: ModelError | None = None
        """Why there is no model, or why an earlier one is still used."""
        self._rules = self.rules()

    def rules(self) -> Rules:
        """Return the rules in force.

        Raises:
            RuleError: they are no longer valid; then nothing is scored.
        """
        stamp = _stamp(self._folder)
        if stamp != self._stamp:
            policy = load_policy(self._folder)
            plan = compile_masks(policy, load_dataset("encounter"), self._keys)
            column = next(column for column in plan.columns if column.column.name == "age_at_admission")
            self._rules = Rules(policy.version, column.mask if column.published else None)
            self._stamp = stamp
        return self._rules

    def model(self) -> Model | None:
        """Return the model in force; None: there is none, or it is not the one that was registered.

        If the registry cannot be read, the last model stays in force: that failure says nothing about the model.
        """
        try:
            model, self.model_error = self._champion.current(), None
        except ModelError as error:  # NEWS2 does not need the model: continue, and log it once
            if self.model_error is None or error.what != self.model_error.what:
                log.error("no-model", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
            self.model_error = error
            return self._champion.last if isinstance(error, RegistryGone) else None
        return model


def _stamp(folder: Path) -> Stamp:
    found = []
    for path in sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS):
        status = path.stat()
        found.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(found)
