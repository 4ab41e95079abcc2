"""What a score depends on besides the patient: the rules in force and the model in force, followed while serving."""

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
from vitalake.errors import ModelError
from vitalake.keys import KeyRing
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings

log = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The masking rules, as far as a score depends on them.

    Attributes:
        version: a model trained under another one abstains.
        age: what they do to the age at admission; None: it is not published.
    """

    version: str
    age: Mask | None

    def as_published(self, stay: Stay | None) -> Stay | None:
        """Return the stay with the age the model knows: masked as in what it was trained on."""
        if stay is None or stay.age_years is None:
            return stay
        return replace(stay, age_years=_masked(self.age, stay.age_years) if self.age else None)


@lru_cache(1000)
def _masked(mask: Mask, age: float) -> float | None:
    masked = mask(pa.array([age], pa.float64()))[0].as_py()
    return None if masked is None else float(masked)


class Inputs:
    """Rules and model in force, looked up again when their files change; used by one thread."""

    def __init__(self, settings: Settings, keys: KeyRing, task: Task) -> None:
        """Read both.

        Raises:
            RuleError: the rules do not hold.
        """
        self._folder, self._keys = settings.path(settings.governance), keys
        self._champion = Champion(settings, task)
        self._stamp: Stamp | None = None
        self.refused: ModelError | None = None
        """Why there is no model, or why it is only the last that was known."""
        self._rules = self.rules()

    def rules(self) -> Rules:
        """Return the rules in force.

        Raises:
            RuleError: they do not hold any more: then nothing is scored.
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

        Where the registry has gone the last model stays: that it cannot be read says nothing about the model.
        """
        try:
            model, self.refused = self._champion.current(), None
        except ModelError as error:  # NEWS2 does not need it: serve on, and say so once
            if self.refused is None or error.what != self.refused.what:
                log.error("no-model", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
            self.refused = error
            return self._champion.last if isinstance(error, RegistryGone) else None
        return model


def _stamp(folder: Path) -> Stamp:
    found = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        status = path.stat()
        found.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(found)
