"""Scores: the same number as from the training matrix, its reasons, and why a model abstains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from models.artefact import Model
from models.news2 import news2
from models.scoring import ABSTAINED, REASONS, ScoreRecord, score, score_with_features
from models.tasks import load_task
from tests.unit.models.model_samples import AS_OF, HOUR, POLICY, make_history, make_model, make_stay
from vitalake.clinical.records import History

TASK = load_task("mortality")


@pytest.fixture(scope="module", params=["logistic-regression", "xgboost"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("models") / "model", request.param)


def _random() -> np.random.Generator:
    return np.random.default_rng(11)


def _score(model: Model | None, history: History | None = None, **changes: Any) -> ScoreRecord:
    arguments: dict[str, Any] = {
        "patient": "v1.token",
        "as_of_us": AS_OF,
        "model": model,
        "task": TASK,
        "policy": POLICY,
        "stay": make_stay(_random(), 1),
    } | changes
    given = make_history(_random()) if history is None else history
    return score(given, arguments.pop("stay"), **arguments)


def test_a_score_has_a_probability_reasons_and_the_early_warning_score(model: Model) -> None:
    found = _score(model)
    assert found.abstained == ""
    assert found.probability is not None and 0 < found.probability < 1
    assert found.model == "mortality/1"
    assert 1 <= len(found.reasons) <= REASONS
    strengths = [abs(reason.contribution) for reason in found.reasons]
    assert strengths == sorted(strengths, reverse=True)
    assert found.news2 == news2(make_history(_random()), as_of_us=AS_OF)
    assert found.newest_us == AS_OF - HOUR
    assert found.encounter == "stay-1"


def test_reasons_have_labels_units_and_one_for_each_item(model: Model) -> None:
    found = _score(model).reasons
    items = [reason.feature.partition(".")[0] for reason in found]
    assert len(set(items)) == len(items)
    for reason in found:
        column = TASK.features.names.index(reason.feature)
        assert (reason.label, reason.unit) == (TASK.features.labels[column], TASK.features.units[column])
        assert "_" not in reason.label


def test_the_score_is_the_one_of_the_vector_that_is_kept_beside_it(model: Model) -> None:
    found, row = score_with_features(
        make_history(_random()),
        make_stay(_random(), 1),
        patient="p",
        as_of_us=AS_OF,
        model=model,
        task=TASK,
        policy=POLICY,
    )
    assert found.probability == model.probabilities(np.vstack([row, row]))[1]


def test_the_same_input_has_the_same_id_and_another_has_another(model: Model) -> None:
    first = _score(model)
    assert msgspec.structs.replace(_score(model), computed_us=first.computed_us) == first
    others = [
        _score(model, patient="v1.other"),
        _score(model, as_of_us=AS_OF + 1),
        _score(None),
        _score(model, policy="another"),
        _score(model, make_history(np.random.default_rng(12))),
        _score(model, stay=None),
    ]
    ids = {other.id for other in others} | {first.id}
    assert len(ids) == len(others) + 1


def test_what_came_later_changes_nothing(model: Model) -> None:
    history = make_history(_random())
    late = replace(history, available_us=np.where(np.arange(len(history)) % 5 == 0, AS_OF + 1, history.available_us))
    known = late.where(late.available_us <= AS_OF)
    assert _score(model, late).id == _score(model, known).id


def test_ages_count_as_they_are_published(model: Model) -> None:
    stay = make_stay(_random(), 1)
    old, capped = replace(stay, age_years=97.0), replace(stay, age_years=90.0)
    assert _score(model, stay=old).probability == _score(model, stay=capped).probability
    assert _score(model, stay=old).id == _score(model, stay=capped).id


def test_no_score_without_a_model() -> None:
    found = _score(None)
    assert (found.abstained, found.probability, found.reasons, found.model) == ("no-model", None, [], "")
    assert found.news2.total is not None, "the early warning score needs no model"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stay": replace(make_stay(_random(), 1), age_years=12.0)}, "outside-cohort"),
        ({"stay": replace(make_stay(_random(), 1), age_years=None)}, "outside-cohort"),
        ({"stay": None}, "outside-cohort"),
        ({"policy": "000000000000"}, "policy-changed"),
        ({"task": replace(TASK, digest="another")}, "no-model"),
    ],
)
def test_it_abstains_and_says_why(model: Model, changes: dict[str, Any], expected: str) -> None:
    found = _score(model, **changes)
    assert found.abstained == expected
    assert found.probability is None
    assert found.reasons == []
    assert expected in ABSTAINED


def test_it_abstains_where_too_little_was_measured(model: Model) -> None:
    assert _score(model, make_history(_random(), hours=3)).abstained == "outside-cohort"
    history = make_history(_random())
    assert _score(model, history.where(history.code != 88674)).abstained == "outside-cohort", "no heart rate"


def test_it_abstains_without_data(model: Model) -> None:
    empty = make_history(_random()).where(np.zeros(len(make_history(_random())), np.bool_))
    found = _score(model, empty)
    assert (found.abstained, found.newest_us, found.news2.total) == ("no-data", None, None)


def test_the_moment_is_that_of_the_newest_known_value() -> None:
    history = make_history(_random())
    assert TASK.newest_known(history, by_us=AS_OF) == AS_OF - HOUR + 60_000_000
    assert TASK.newest_known(history, by_us=AS_OF - HOUR) == AS_OF - 2 * HOUR + 60_000_000
    assert TASK.newest_known(history, by_us=0) is None


def test_a_record_goes_through_json(model: Model) -> None:
    found = _score(model)
    assert msgspec.json.decode(msgspec.json.encode(found), type=ScoreRecord) == found
