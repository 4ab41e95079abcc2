"""Splits: by patient, for ever, and evenly."""

from __future__ import annotations

import hashlib

import numpy as np

from vitalake.clinical.held_out import folds, held_out


def test_about_three_in_ten_are_held_out_by_their_hash_alone() -> None:
    tokens = [f"v1.{hashlib.sha256(str(i).encode()).hexdigest()[:22]}" for i in range(5_000)]
    away = [token for token in tokens if held_out(token)]
    assert 0.27 < len(away) / len(tokens) < 0.33
    assert all((hashlib.sha256(token.encode()).digest()[0] < 77) == held_out(token) for token in tokens)


def test_folds_keep_patients_together_and_spread_the_events() -> None:
    random = np.random.default_rng(5)
    patients = [f"p{i}" for i in random.integers(0, 200, 700)]
    ill = {f"p{i}" for i in range(0, 200, 9)}
    event = np.array([patient in ill and random.random() < 0.8 for patient in patients])
    fold = folds(patients, event, count=5)
    of: dict[str, int] = {}
    for patient, number in zip(patients, fold.tolist(), strict=True):
        assert of.setdefault(patient, number) == number
    with_event = {p for p, e in zip(patients, event.tolist(), strict=True) if e}
    for chosen in (with_event, set(patients)):
        sizes = [sum(of[p] == k for p in chosen) for k in range(5)]
        assert max(sizes) - min(sizes) <= 1


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    patients = [f"p{i % 40}" for i in range(120)]
    event = np.array([i % 40 % 7 == 0 for i in range(120)])
    fold = folds(patients, event, count=4)
    order = np.random.default_rng(2).permutation(120)
    again = folds([patients[i] for i in order], event[order], count=4)
    np.testing.assert_array_equal(again, fold[order])
