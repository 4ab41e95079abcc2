"""Properties of made-up patients: valid and plausible for any seed, and the seed decides every byte."""

from __future__ import annotations

import itertools

import msgspec
from fhir.resources.R4B.observation import Observation
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.simulator.faults import inject
from pipelines.simulator.synthetic import messages, walk

SEEDS = st.integers(0, 2**32 - 1)
START_US = st.integers(0, 4_000_000_000_000_000)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


@FEW
@given(seed=SEEDS, start_us=START_US, patients=st.integers(1, 8), panels=st.booleans())
def test_any_message_is_accepted_and_its_identifier_unique(
    seed: int, start_us: int, patients: int, panels: bool
) -> None:
    found = list(messages(60, patients=patients, seed=seed, start_us=start_us, panels=panels))
    identifiers = set()
    for key, value in found:
        observation = Observation.model_validate_json(value)
        assert observation.subject.reference == f"Patient/{key.decode()}"
        identifiers.add(observation.identifier[0].value)
    assert len(identifiers) == len(found) == 60


@FEW
@given(seed=SEEDS, start_us=START_US, bad_share=st.floats(0, 1))
def test_seed_and_start_decide_every_byte(seed: int, start_us: int, bad_share: float) -> None:
    once, again = (list(messages(300, patients=7, seed=seed, start_us=start_us, bad_share=bad_share)) for _ in range(2))
    assert once == again


@FEW
@given(seed=SEEDS)
def test_bad_share_is_the_share_of_bad_messages(seed: int) -> None:
    good = list(messages(4000, patients=20, seed=seed, start_us=0))
    bad = list(messages(4000, patients=20, seed=seed, start_us=0, bad_share=0.25))
    assert [key for key, _ in good] == [key for key, _ in bad]
    assert 0.2 < sum(a != b for a, b in zip(good, bad, strict=True)) / 4000 < 0.3
    assert all(
        a != b for a, b in zip(good, messages(4000, patients=20, seed=seed, start_us=0, bad_share=1), strict=True)
    )


@FEW
@given(seed=SEEDS, rounds=st.integers(1, 400))
def test_walks_stay_within_their_bounds(seed: int, rounds: int) -> None:
    last = list(itertools.islice(walk(2, seed=seed, now_us=itertools.count().__next__), rounds * 10))[-10:]
    for message in last:
        resource = msgspec.json.decode(message.value or b"")
        if resource["code"]["coding"][0]["code"] == "2708-6":
            assert 75 <= resource["valueQuantity"]["value"] <= 100


@FEW
@given(seed=SEEDS, share=st.floats(0, 1), count=st.integers(0, 400))
def test_faults_lose_no_message_whenever_the_source_ends(seed: int, share: float, count: int) -> None:
    clean = list(itertools.islice(walk(6, seed=seed, now_us=itertools.count().__next__), count))
    faulty = list(inject(clean, share=share, seed=seed))
    assert len(faulty) - sum(message.fault == "duplicate" for message in faulty) == count
    well = [message for message in faulty if not message.fault]
    assert set(well) <= set(clean)
