"""What the fast decoder accepts fhir.resources accepts too."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.observation import Observation
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.decoding import take
from tests.fhir import observation
from tests.hostile import ACCEPTED, CORPUS
from tests.services.requirements import missing_service

SYNTHEA = Path(__file__).parents[3] / "shared" / "data" / "synthea"

KNOWN_DIFFERENCES = {
    "bad utf-8 in what is not read": "unread text is not looked at",
    "bundle": "the model is that of a single Observation",
    "bundle with another resource": "the model is that of a single Observation",
}
"""Corpus messages that we accept and fhir.resources does not, with the reason."""

_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 400), st.floats(-10, 400), st.sampled_from(["", "x", "final", "/min"]),
    st.just([]), st.just({}), st.just([{}]), st.just({"coding": []}), st.just({"reference": "Patient/9"}),
)  # fmt: skip
_PATHS = st.sampled_from(
    [
        ("status",), ("code",), ("subject",), ("identifier",), ("meta",), ("device",), ("encounter",), ("issued",),
        ("effectiveDateTime",), ("valueQuantity",), ("valueQuantity", "value"), ("valueQuantity", "code"),
        ("valueQuantity", "system"), ("valueQuantity", "comparator"), ("subject", "reference"),
        ("code", "coding"), ("meta", "versionId"), ("component",), ("dataAbsentReason",), ("resourceType",),
    ]
)  # fmt: skip


def _mutated(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    resource = observation(1)
    target = resource
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return resource


def _oracle(payload: bytes) -> bool:
    """Whether the model takes it; we skip elements that FHIR does not know, as its rules for readers allow."""
    try:
        Observation.model_validate_json(payload)
    except ValidationError as error:
        return all(detail["type"] == "extra_forbidden" for detail in error.errors())
    return True


@given(path=_PATHS, value=_VALUES)
def test_what_we_accept_the_oracle_accepts(path: tuple[str, ...], value: Any) -> None:
    resource = _mutated(path, value)
    payload = json.dumps(resource).encode()
    if 0 in take([payload])[2]:
        return
    # Two stated differences: JSON null and empty lists or objects, which FHIR's JSON forbids, count as absent here.
    if value is None or value in ([], {}, [{}], {"coding": []}, ""):
        return
    assert _oracle(payload), (path, value)


@pytest.mark.parametrize("name", [name for name, (_, reason) in CORPUS.items() if reason is ACCEPTED])
def test_the_corpus_against_the_oracle(name: str) -> None:
    assert _oracle(CORPUS[name][0]) == (name not in KNOWN_DIFFERENCES)


def _observations() -> Iterator[bytes]:
    for path in sorted(SYNTHEA.glob("*.json.gz")):
        for entry in json.loads(gzip.decompress(path.read_bytes()))["entry"]:  # noqa: TID251
            if entry["resource"]["resourceType"] == "Observation":
                yield json.dumps(entry["resource"]).encode()


def test_synthea_observations_are_decoded_or_rejected_for_a_vocabulary_reason() -> None:
    payloads = list(_observations())
    if not payloads:
        missing_service("synthea", "put its bundles into ../shared/data/synthea")
    _, conformed, rejects = take(payloads)
    reasons = {str(r.reason) for r in rejects.values()}
    assert reasons <= {"unknown-code", "unknown-unit", "implausible-value"}, "all of them are good FHIR"
    assert len(conformed.rows) > 100
