"""Tasks: what is predicted, of whom, as of when, and from what; declared in YAML beside this file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import yaml

from models.features import FeatureSet, features, parse_features
from models.features.kernel import Floats
from models.news2 import codes_read, expiries_us
from vitalake.clinical.records import History, Stay, code_number
from vitalake.declarations import per_home
from vitalake.errors import SettingsError
from vitalake.strict_yaml import explain, read_yaml


class Cohort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom the task speaks of: for anybody else there is no score.

    Attributes:
        min_age: completed years; an unknown age is outside.
        min_hours: what the known values must span.
        needs: items of which there must be a value in the window.
    """

    min_age: int
    min_hours: float
    needs: list[str]


class AsOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The moments at which training looks at a stay, hours from the first value of what the cohort needs."""

    hours: list[int]
    fresh_hours: float
    primary: int


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a stay turned out: the values of a column that count as the event, and those that do not say."""

    dataset: str
    column: str
    positive: list[str]
    unknown: list[str] = []


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: int
    title: str
    cohort: Cohort
    window_hours: float
    as_of: AsOf
    label: Label
    horizon: str
    features: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A declared task.

    Attributes:
        digest: of the declaration; a model is used with the very task it was trained for.
    """

    name: str
    version: int
    title: str
    cohort: Cohort
    window_hours: float
    as_of: AsOf
    label: Label
    horizon: str
    features: FeatureSet
    digest: str

    def vector(self, history: History, stay: Stay | None, *, as_of_us: int, age_cap: int | None = None) -> Floats:
        """Return a patient's features as of a moment: the same call in training and in serving.

        Args:
            history: the patient's values.
            stay: for age and sex.
            as_of_us: the moment.
            age_cap: ages above count as this one, as they are published.
        """
        age = stay.age_years if stay else None
        return features(
            self.features,
            history,
            as_of_us=as_of_us,
            window_hours=self.window_hours,
            age_years=age if age is None or age_cap is None else min(age, age_cap),
            sex=stay.sex if stay else "unknown",
        )

    def admits(self, vector: Floats) -> bool:
        """Return whether a patient with these features belongs to the cohort."""
        names = self.features.names
        age, hours = vector[names.index("age")], vector[names.index("hours_observed")]
        return bool(age >= self.cohort.min_age and hours >= self.cohort.min_hours and self._has_needed(vector))

    def _has_needed(self, vector: Floats) -> bool:
        names = self.features.names
        return all(np.isfinite(vector[names.index(f"{item}.last")]) for item in self.cohort.needs)

    @cached_property
    def codes(self) -> frozenset[str]:
        """The LOINC codes that a score reads, of this task and of NEWS2."""
        return frozenset(code for item in self.features.items for code in item.every_code) | frozenset(codes_read())

    @cached_property
    def _code_numbers(self) -> npt.NDArray[np.uint32]:
        return np.array(sorted(code_number(code) for code in self.codes), np.uint32)

    def read_of(self, history: History) -> History:
        """Return the values that a score reads: it is the same whatever else is stored beside them."""
        return history.where(np.isin(history.code, self._code_numbers))

    def changes(self, history: History, *, by_us: int) -> tuple[int, ...]:
        """Return when a score changes, by what is known at a time: as the newest value became known, and as each ends.

        Between two of these a score stays as it is, whoever asks and how often. Empty: nothing is known.
        """
        known = self.read_of(history.known_at(by_us))
        if not len(known):
            return ()
        needed = self.newest_needed_us(known)
        ends = expiries_us(known) + ([] if needed is None else [needed + self._fresh_us])
        newest = _latest_us(known)
        return tuple(sorted({newest, *(us for us in ends if us > newest)}))

    def moment(self, history: History, *, by_us: int) -> int | None:
        """Return the moment that a score of a time is of: the last of its changes. None: nothing is known."""
        return max((us for us in self.changes(history, by_us=by_us) if us <= by_us), default=None)

    def next_end_us(self, history: History, *, by_us: int) -> int | None:
        """Return when the next value expires of those that are known at a time; None: none will."""
        return min((us for us in self.changes(history, by_us=by_us) if us > by_us), default=None)

    @property
    def _fresh_us(self) -> int:
        return int(self.as_of.fresh_hours * 3_600_000_000)

    def newest_needed_us(self, known: History) -> int | None:
        """Return when what the cohort needs was measured last; None: never."""
        times = known.effective_us[np.isin(known.code, self._needed_numbers) & np.isfinite(known.value)]
        return int(times.max()) if len(times) else None

    def is_fresh(self, known: History, *, as_of_us: int) -> bool:
        """Return whether the learnt score may speak of a moment: the cohort's needs were measured shortly before."""
        needed = self.newest_needed_us(known)
        return needed is not None and as_of_us < needed + self._fresh_us

    def newest_known(self, history: History, *, by_us: int) -> int | None:
        """Return when the newest value that a score reads became known, by a time: what features are computed as of."""
        known = self.read_of(history.known_at(by_us)).measured()
        return _latest_us(known) if len(known) else None

    @cached_property
    def _needed_numbers(self) -> npt.NDArray[np.uint32]:
        return np.array(sorted(self.needed_codes()), np.uint32)

    def needed_codes(self) -> frozenset[int]:
        """Return the numbers of the codes that the cohort needs a value of."""
        return frozenset(
            code_number(code)
            for item in self.features.items
            if item.name in self.cohort.needs
            for code in item.every_code
        )


def _latest_us(known: History) -> int:
    """Return when the newest value both was so and was known: of a device whose clock is fast the first comes last.

    As of a moment before it the value would be left out, until something else of its patient came.
    """
    return int(np.maximum(known.available_us, known.effective_us).max())


def parse_task(text: str, *, where: str) -> Task:
    """Return the task that a YAML document declares.

    Raises:
        SettingsError: it does not have the form of a task.
    """
    try:
        document = read_yaml(text)
    except yaml.YAMLError as error:
        why, line = explain(error)
        raise SettingsError(f"Task {why}", where=f"{where}:{line}", remedy="Correct that line.") from None
    try:
        parsed = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise SettingsError(f"Task does not hold ({error})", where=where, remedy="Mend the declaration.") from None
    declared = parse_features(parsed.features, where=where)
    needs = {f"{name}.last" for name in parsed.cohort.needs}
    if not needs.issubset(declared.names) or parsed.as_of.primary not in parsed.as_of.hours:
        raise SettingsError("Task contradicts itself", where=where, remedy="Check cohort.needs and as_of.primary.")
    digest = hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()[:16]
    fields = {name: getattr(parsed, name) for name in _Document.__struct_fields__ if name != "features"}
    return Task(**fields, features=declared, digest=digest)


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks that ship with the project."""
    return tuple(
        sorted(f.name.removesuffix(".yaml") for f in resources.files(__package__).iterdir() if f.name.endswith(".yaml"))
    )


@per_home
def load_task(name: str) -> Task:
    """Return a task that ships with the project.

    Raises:
        SettingsError: none has this name.
    """
    if name not in task_names():
        raise SettingsError("Unknown task", where=name, remedy=f"The tasks are: {', '.join(task_names())}.")
    return parse_task((resources.files(__package__) / f"{name}.yaml").read_text(), where=f"{name}.yaml")
