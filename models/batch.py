"""Scores of all patients from published rows: the same records that serving computes one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from governance.access.principal import local_principal
from governance.policy.rules import load_policy
from governance.query.service import QueryService
from models.registry import champion
from models.scoring import ScoreRecord, score
from models.tasks import load_task
from models.training.published import microseconds, read_values
from vitalake import clock
from vitalake.clinical.records import Stay
from vitalake.settings import Settings

PURPOSE = "score"
_STAY = ["encounter_id", "patient_id", "admitted_at", "discharged_at", "age_at_admission"]


def score_published(settings: Settings, task_name: str, *, now_us: int | None = None) -> Iterator[ScoreRecord]:
    """Yield the score record of each patient with an open stay and known values at a moment, ordered by pseudonym.

    Values come from the lake's published rows; the rules and the champion in force apply. The same history gives the
    same record, with the same id, as the scoring endpoint gives from the online store.

    Args:
        settings: of the home.
        task_name: a declared task.
        now_us: the moment, microseconds since 1970 UTC; default: the present one.

    Raises:
        VitaLakeError: nothing is published, the rules are not valid, or the registry cannot be read.
    """
    moment = clock.now_us() if now_us is None else now_us
    task = load_task(task_name)
    query_service = QueryService(settings)
    stays = _stays(query_service, task_name, moment)
    values = read_values(query_service, task, sorted(stays), purpose=PURPOSE)
    model = champion(settings, task)
    policy = load_policy(settings.path(settings.governance)).version
    for patient in sorted(stays):
        history = values.history(patient)
        known_at = task.moment(history, by_us=moment)
        if known_at is not None:
            yield score(
                history, stays[patient], patient=patient, as_of_us=known_at, model=model, task=task, policy=policy
            )


def _stays(query_service: QueryService, task_name: str, moment_us: int) -> dict[str, Stay]:
    """Return each patient's open stay at a moment; if there are several, the latest admission."""
    sexes = {row["patient_id"]: row["sex"] for row in _read(query_service, task_name, "patient", ["patient_id", "sex"])}
    found: dict[str, Stay] = {}
    for row in _read(query_service, task_name, "encounter", _STAY):
        admitted, discharged = microseconds(row["admitted_at"]), microseconds(row["discharged_at"])
        if admitted is None or admitted > moment_us:
            continue
        stay = Stay(
            encounter=row["encounter_id"],
            admitted_us=admitted,
            discharged_us=discharged if discharged is not None and discharged <= moment_us else None,
            age_years=row["age_at_admission"],
            sex=sexes.get(row["patient_id"]) or "unknown",
            unit="",
            bed="",
        )
        before = found.get(row["patient_id"])
        if before is None or (before.admitted_us, before.encounter) < (stay.admitted_us, stay.encounter):
            found[row["patient_id"]] = stay
    return {patient: stay for patient, stay in found.items() if stay.discharged_us is None}


def _read(query_service: QueryService, task_name: str, dataset: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    purpose = f"{PURPOSE}-{task_name}"
    for batch in query_service.read(dataset, columns=columns, principal=local_principal(), purpose=purpose):
        yield from batch.to_pylist()
