"""Tasks: what is predicted, for whom, at which moments, and from which values.

Each task is a folder with ``task.yaml``, in this package or in the home's ``tasks``; see docs/how-to/declare-a-task.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from models.features import FeatureSet, features, parse_features
from models.features.declaration import DerivedForm, FeaturesForm, ItemForm
from models.features.kernel import Floats
from models.news2 import codes_read, expiries_us
from models.tasks.labels import FORMS, STAYS, Label
from vitalake import declarations
from vitalake.clinical.records import History, Stay, code_number
from vitalake.declarations import Declared, per_home
from vitalake.errors import SettingsError
from vitalake.settings import Settings

FOLDER = Path(str(resources.files(__package__)))
"""The folder of the tasks that ship with the project."""


class Cohort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The patients that a task applies to; others get no score.

    Attributes:
        min_age: completed years; a patient of unknown age is excluded.
        min_hours: the time that the known values must span.
        needs: items that must have a value in the window.
    """

    min_age: Annotated[int, Meta(ge=0)]
    min_hours: Annotated[float, Meta(ge=0)]
    needs: list[str]


class AsOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The moments at which training looks at a stay, in hours from the first value of an item that the cohort needs."""

    hours: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]
    fresh_hours: Annotated[float, Meta(gt=0)]
    primary: int


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a task is declared.

    Attributes:
        name: the same as the folder's.
        version: for people, increased with every change; a model is bound to the digest of the declaration.
        title: the event, for people.
        cohort: the patients that the task applies to.
        window_hours: how far back features look.
        as_of: the moments at which training looks at a stay.
        label: how training finds out whether the event came; its ``kind`` tells the form.
        horizon: until when the event can come, for people.
        features: the features, see models.features.
        replaces: it replaces the task of this name that ships with the project.
    """

    name: str
    version: int
    title: str
    cohort: Cohort
    window_hours: Annotated[float, Meta(gt=0, le=8784)]
    as_of: AsOf
    label: dict[str, Any]
    horizon: str
    features: dict[str, Any]
    replaces: bool = False


@dataclass(frozen=True)
class Task:
    """A declared task.

    Attributes:
        digest: of the declaration; a model is only used with the task that it was trained for.
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
        """Return a patient's features as of a moment; training and serving use the same call.

        Args:
            history: the patient's values.
            stay: for age and sex.
            as_of_us: the moment.
            age_cap: higher ages are replaced by this one, as in published rows.
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

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """Return what features and label are read from: dataset → columns."""
        names = dict.fromkeys([*_FEATURES_READ, *self.label.reads])
        both = ((*_FEATURES_READ.get(name, ()), *self.label.reads.get(name, ())) for name in names)
        return dict(zip(names, (tuple(dict.fromkeys(columns)) for columns in both), strict=True))

    @cached_property
    def codes(self) -> frozenset[str]:
        """All LOINC codes that a score reads, those of NEWS2 included."""
        return frozenset(code for item in self.features.items for code in item.every_code) | frozenset(codes_read())

    @cached_property
    def _code_numbers(self) -> npt.NDArray[np.uint32]:
        return np.array(sorted(code_number(code) for code in self.codes), np.uint32)

    def read_of(self, history: History) -> History:
        """Return the values that a score reads; other stored values do not affect it."""
        return history.where(np.isin(history.code, self._code_numbers))

    def changes(self, history: History, *, by_us: int) -> tuple[int, ...]:
        """Return when a score changes, by what is known at a time: when the newest value became known, and at expiries.

        Between two of these times the score stays the same. Empty: nothing is known.
        """
        known = self.read_of(history.known_at(by_us))
        if not len(known):
            return ()
        needed = self.newest_needed_us(known)
        ends = expiries_us(known) + ([] if needed is None else [needed + self._fresh_us])
        newest = _latest_us(known)
        return tuple(sorted({newest, *(us for us in ends if us > newest)}))

    def moment(self, history: History, *, by_us: int) -> int | None:
        """Return the moment that a score at a time describes: its last change. None: nothing is known."""
        return max((us for us in self.changes(history, by_us=by_us) if us <= by_us), default=None)

    def next_end_us(self, history: History, *, by_us: int) -> int | None:
        """Return when the next of the values known at a time expires; None: none will."""
        return min((us for us in self.changes(history, by_us=by_us) if us > by_us), default=None)

    @property
    def _fresh_us(self) -> int:
        return int(self.as_of.fresh_hours * 3_600_000_000)

    def newest_needed_us(self, known: History) -> int | None:
        """Return when an item that the cohort needs was last measured; None: never."""
        times = known.effective_us[np.isin(known.code, self._needed_numbers) & np.isfinite(known.value)]
        return int(times.max()) if len(times) else None

    def is_fresh(self, known: History, *, as_of_us: int) -> bool:
        """Return whether the values are recent enough for a learnt score: a needed item was measured shortly before."""
        needed = self.newest_needed_us(known)
        return needed is not None and as_of_us < needed + self._fresh_us

    def newest_known(self, history: History, *, by_us: int) -> int | None:
        """Return when the newest value that is known at a time became known; features are computed as of then."""
        known = self.read_of(history.known_at(by_us)).measured()
        return _latest_us(known) if len(known) else None

    @cached_property
    def _needed_numbers(self) -> npt.NDArray[np.uint32]:
        return np.array(sorted(self.needed_codes()), np.uint32)

    def needed_codes(self) -> frozenset[int]:
        """Return the codes of the items that the cohort needs, as numbers."""
        return frozenset(
            code_number(code)
            for item in self.features.items
            if item.name in self.cohort.needs
            for code in item.every_code
        )


def _latest_us(known: History) -> int:
    """Return the latest time at which a value was both effective and known.

    If a device's clock is fast, a value is effective after it is known. As of an earlier moment that value would be
    left out until another value of the patient came.
    """
    return int(np.maximum(known.available_us, known.effective_us).max())


_FEATURES_READ = {
    "observation": ("code", "value", "effective_at", "available_at"),
    STAYS: ("admitted_at", "discharged_at", "age_at_admission"),
    "patient": ("sex",),
}
"""What the features of every task are read from."""


def parse_task(text: str, *, where: str, name: str | None = None) -> Task:
    """Return the task that a YAML document declares.

    Args:
        text: of the file.
        where: the file, for errors.
        name: the name that it must have, its folder's; None: any name.

    Raises:
        SettingsError: it is not a valid task; the error names file and line.
    """
    return _task(declarations.parse(text, where=where), text, where=where, name=name)[0]


def _task(document: Any, text: str, *, where: str, name: str | None) -> tuple[Task, bool]:
    """Return a document's task, and whether it replaces one that ships with the project."""

    def refuse(what: str, remedy: str, *at: str | int) -> SettingsError:
        return declarations.refused(what, where=where, text=text, at=at, remedy=remedy)

    parsed = declarations.convert(document, Declaration, where=where, text=text)
    if name not in (None, parsed.name):
        raise refuse("Task has another name than its folder", "Give both the same name.", "name")
    kind = parsed.label.get("kind", "outcome")
    if kind not in FORMS:
        raise refuse("Label has an unknown kind", f"Use one of: {', '.join(FORMS)}.", "label", "kind")
    label = declarations.convert(parsed.label, FORMS[kind], where=where, text=text, at=("label",))
    if problem := label.problem():
        at, what, remedy = problem
        raise refuse(f"Label is not valid: {what}", remedy, "label", *at)
    features = parse_features(parsed.features, where=where, text=text, at=("features",))
    if not {f"{item}.last" for item in parsed.cohort.needs}.issubset(features.names):
        raise refuse(
            "Cohort needs an item that has no feature 'last'",
            "Add 'last' to the statistics of the item.",
            "cohort",
            "needs",
        )
    if parsed.as_of.primary not in parsed.as_of.hours:
        raise refuse("The primary moment is not one of as_of.hours", "Choose one of as_of.hours.", "as_of", "primary")
    content = {key: value for key, value in document.items() if key != "replaces"}
    digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]
    task = Task(
        name=parsed.name,
        version=parsed.version,
        title=parsed.title,
        cohort=parsed.cohort,
        window_hours=parsed.window_hours,
        as_of=parsed.as_of,
        label=label,
        horizon=parsed.horizon,
        features=features,
        digest=digest,
    )
    return task, parsed.replaces


@per_home
def declared_tasks() -> dict[str, Declared]:
    """Return where each task of the project and of the home in use is declared, by name; the home's takes precedence.

    Raises:
        SettingsError: a folder in the home's ``tasks`` is not a task.
    """
    return declarations.shipped(FOLDER) | declarations.declared("tasks", declarations.in_use())


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks of the home in use and of the project."""
    return tuple(sorted(declared_tasks()))


@per_home
def load_task(name: str) -> Task:
    """Return a task of the home in use, or one that ships with the project.

    Raises:
        SettingsError: there is no such task, its declaration is not valid, or it has the name of a task that ships with
            the project without ``replaces: true``.
    """
    names = declared_tasks()
    if name not in names:
        raise SettingsError("Unknown task", where=name, remedy=f"Use one of: {', '.join(sorted(names))}.")
    found = names[name]
    document, text = declarations.read(found)
    task, replaces = _task(document, text, where=found.where, name=name)
    ships = name in declarations.shipped(FOLDER)
    if found.of_home and ships and not replaces:
        raise declarations.refused(
            "Task has the name of one that ships with the project",
            where=found.where,
            text=text,
            at=("name",),
            remedy="Give it another name, or add 'replaces: true'.",
        )
    if replaces and not (found.of_home and ships):
        raise declarations.refused(
            "Task replaces nothing: no task of this name ships with the project",
            where=found.where,
            text=text,
            at=("replaces",),
            remedy="Remove 'replaces'.",
        )
    return task


def tell_declared(settings: Settings) -> str:
    """Return the tasks and where each is declared, as a text for ``vitalake doctor``; every declaration is read.

    Raises:
        SettingsError: a declaration is not valid.
    """
    found = declared_tasks()
    for name in found:
        load_task(name)
    places = {
        name: str(one.path.relative_to(settings.home)) if one.of_home else "shipped" for name, one in found.items()
    }
    return ", ".join(f"{name} ({where})" for name, where in sorted(places.items()))


def task_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``task.yaml``, for editors."""
    parts = [Declaration, *FORMS.values(), ItemForm, DerivedForm, FeaturesForm]
    (_, *labels, item, derived, features), forms = msgspec.json.schema_components(parts, ref_template="#/$defs/{name}")
    forms["Outcome"]["required"].remove("kind")  # a label without a kind is an outcome
    forms["Declaration"]["properties"]["label"] |= {"anyOf": labels}
    del forms["Declaration"]["properties"]["label"]["type"]
    forms["Declaration"]["properties"]["features"] = features
    for name, entry in (("items", item), ("derived", derived)):
        forms["FeaturesForm"]["properties"][name] |= {"additionalProperties": entry}
    top = forms.pop("Declaration")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": forms}
