"""A patient's score as of a moment: an immutable record with NEWS2 and, unless the model abstains, the learnt score."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec
import numpy as np

from models.artefact import Model
from models.artefact.estimator import Floats
from models.news2 import News2, Situation, news2, vital_times
from models.spikes import unconfirmed
from models.tasks import Task
from vitalake import clock
from vitalake.clinical.records import History, Stay, code_number

Abstained = Literal["", "no-model", "outside-cohort", "no-data", "stale", "policy-changed", "not-approved"]

ABSTAINED: dict[Abstained, str] = {
    "no-model": "No model is registered for this task.",
    "outside-cohort": "The model does not apply to this patient: outside its age range, or too few measurements.",
    "no-data": "This patient has no values in the model's time window.",
    "stale": "The measurements that the model needs are too old.",
    "policy-changed": "The masking rules have changed since the model was trained.",
    "not-approved": "The learnt score is not approved for this ward.",
}
"""Why there is no learnt score, for people."""

REASONS = 6
"""How many reasons a record has; people do not read more."""

RECENT_US = 48 * 3_600_000_000
"""How far back a record looks for NEWS2 and its readings. It is less than the online store keeps (54 h by default), so
that a batch over years of values gives the same record as the ward."""


class Reason(msgspec.Struct, frozen=True):
    """A reason for the learnt score: what an item adds to the log-odds, compared with the average patient.

    All columns of one item (heart rate's mean, maximum, …) are one reason: their contributions are added, and the
    column that contributes most in that direction is the one shown.

    Attributes:
        feature: the column shown.
        label, unit: for people.
        value: None: it is not known, which the model takes into account.
        contribution: > 0 raises the risk.
        at_us: when the item was last measured; None: not within the window, or it is not a measurement.
    """

    feature: str
    label: str
    value: float | None
    unit: str
    contribution: float
    at_us: int | None = None


class ScoreRecord(msgspec.Struct, frozen=True):
    """A score; every page and every answer shows such a record.

    Attributes:
        id: a digest of patient, stay, moment, task, model, rules and features: the same input has the same id.
        patient, encounter: pseudonyms.
        as_of_us: the moment the score describes; see Task.moment.
        computed_us: when it was computed.
        task: its name.
        model: name/version; empty: no model.
        policy: version of the masking rules when it was computed.
        probability: None: see ``abstained``.
        abstained: why there is no probability; empty: there is one.
        news2: the early warning score, in any case.
        reasons: strongest first.
        newest_us: when the newest vital sign was measured (laboratory values do not count); None: none is known.
        unconfirmed: parts of NEWS2 whose latest reading is far from all earlier ones; see models.spikes.
    """

    id: str
    patient: str
    encounter: str | None
    as_of_us: int
    computed_us: int
    task: str
    model: str
    policy: str
    probability: float | None
    abstained: Abstained
    news2: News2
    reasons: list[Reason]
    newest_us: int | None
    unconfirmed: list[str] = []


def score(
    history: History,
    stay: Stay | None,
    *,
    patient: str,
    as_of_us: int,
    model: Model | None,
    task: Task,
    policy: str,
    situation: Situation | None = None,
) -> ScoreRecord:
    """Return the score of a patient as of a moment.

    Args:
        history: the patient's values; what came later than the moment does not count.
        stay: the stay the patient is in; without it the age is not known, and there is no learnt score.
        patient: the pseudonym.
        as_of_us: the moment, see Task.moment.
        model: the champion; None: no model is registered.
        task: the model's task.
        policy: version of the masking rules in force.
        situation: how NEWS2 is read; None: by the age of the stay.
    """
    return score_with_features(
        history, stay, patient=patient, as_of_us=as_of_us, model=model, task=task, policy=policy, situation=situation
    )[0]


def score_with_features(
    history: History,
    stay: Stay | None,
    *,
    patient: str,
    as_of_us: int,
    model: Model | None,
    task: Task,
    policy: str,
    situation: Situation | None = None,
) -> tuple[ScoreRecord, Floats]:
    """Return the score and its feature vector, which callers must store sealed; see ``score``."""
    known = task.read_of(history.known_at(as_of_us))
    cap = model.manifest.age_cap if model else None
    evidence_us = task.newest_known(known, by_us=as_of_us)  # as in training: features end at the newest known value
    row = task.vector(known, stay, as_of_us=as_of_us if evidence_us is None else evidence_us, age_cap=cap)
    abstained = _abstained(row, model, task, policy, fresh=task.is_fresh(known, as_of_us=as_of_us))
    usable = model if model is not None and not abstained else None
    read_as = Situation(age_years=stay.age_years if stay else None) if situation is None else situation
    recent = known.where(known.effective_us > as_of_us - RECENT_US)
    early = news2(recent, as_of_us=as_of_us, situation=read_as)
    vital = vital_times(recent)
    record = ScoreRecord(
        id=_identify(patient, stay, as_of_us, model, task, policy, row, early),
        patient=patient,
        encounter=stay.encounter if stay else None,
        as_of_us=as_of_us,
        computed_us=clock.now_us(),
        task=task.name,
        model=model.label if model else "",
        policy=policy,
        probability=usable.probability(row) if usable else None,
        abstained=abstained,
        news2=early,
        reasons=reasons(usable.contributions(row), row, task, recent) if usable else [],
        newest_us=int(vital.max()) if len(vital) else None,
        unconfirmed=unconfirmed(recent, early),
    )
    return record, row


def reasons(contributions: Floats, row: Floats, task: Task, known: History, *, count: int = REASONS) -> list[Reason]:
    """Return the strongest reasons, one for each item."""
    names, labels, units = task.features.names, task.features.labels, task.features.units
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name.partition(".")[0], []).append(i)
    found = []
    for columns in groups.values():
        total = float(contributions[columns].sum())
        shown = max(columns, key=lambda i: float(contributions[i]) * np.sign(total))
        value = None if np.isnan(row[shown]) else float(row[shown])
        found.append(Reason(names[shown], labels[shown], value, units[shown], total))
    found.sort(key=lambda reason: (-abs(reason.contribution), reason.feature))
    chosen = [reason for reason in found[:count] if reason.contribution != 0]
    return [msgspec.structs.replace(reason, at_us=_measured_us(reason.feature, task, known)) for reason in chosen]


def _measured_us(feature: str, task: Task, known: History) -> int | None:
    """Return when the item behind a column was last measured."""
    item = next((item for item in task.features.items if item.name == feature.partition(".")[0]), None)
    if item is None:  # age, sex or hours observed, or a ratio
        return None
    times = known.effective_us[np.isin(known.code, [code_number(code) for code in item.every_code])]
    return int(times.max()) if len(times) else None


def _abstained(row: Floats, model: Model | None, task: Task, policy: str, *, fresh: bool) -> Abstained:
    hours = row[task.features.names.index("hours_observed")]
    if np.isnan(hours):
        return "no-data"
    if not task.admits(row):
        return "outside-cohort"
    if not fresh:
        return "stale"
    if model is None or model.manifest.task_digest != task.digest:
        return "no-model"
    return "policy-changed" if model.policy_version != policy else ""


def _identify(
    patient: str,
    stay: Stay | None,
    as_of_us: int,
    model: Model | None,
    task: Task,
    policy: str,
    row: Floats,
    early: News2,
) -> str:
    numbers = np.where(
        np.isnan(row), np.nan, row + 0.0
    )  # one form of NaN and of zero, so that equal rows have equal bytes
    encounter, digest = stay.encounter if stay else None, model.digest if model else ""
    parts = [patient, encounter, as_of_us, task.digest, digest, policy, early]
    return hashlib.sha256(msgspec.json.encode(parts) + numbers.tobytes()).hexdigest()[:32]
