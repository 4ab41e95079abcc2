"""Values that are corrected or taken back: they leave the patient whom they were taken from."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.pipelines.online_store.store_samples import open_store, stated, take


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("versions", [(1, 2), (0, 0)])
@pytest.mark.parametrize("status", ["corrected", "entered-in-error"])
@pytest.mark.parametrize("attribution", [0, 3])
def test_a_value_that_is_corrected_to_another_patient_leaves_the_first_one_whatever_comes_first(
    tmp_path: Path, order: tuple[int, int], versions: tuple[int, int], status: str, attribution: int
) -> None:
    store, reader = open_store(tmp_path), open_store(tmp_path)
    said = [
        stated("v1.p", version=versions[0], status="final", position=0, attribution=attribution),
        stated("v1.q", version=versions[1], status=status, position=1, attribution=attribution),
    ]
    for number in order:
        take(store, replace(said[number], parts=[f"t/{number}"]))
        assert len(reader.history("v1.p")) <= 1
    for one in (store, reader, open_store(tmp_path)):
        assert len(one.history("v1.p")) == 0
        assert len(one.history("v1.q")) == (status == "corrected")
    back = stated("v1.p", version=versions[1] + 1, status="corrected", position=2)
    take(store, back)
    assert [len(reader.history(patient)) for patient in ("v1.p", "v1.q")] == [1, 0]


def test_whom_a_value_went_to_is_forgotten_with_them_and_when_it_is_too_old(tmp_path: Path) -> None:
    store = open_store(tmp_path, hours=1.0)
    take(store, stated("v1.q", version=2, status="corrected", position=1))
    store.erasure.forget(["v1.q"])
    with sqlite3.connect(tmp_path / "care.db") as db:
        assert db.execute("SELECT count(*) FROM corrected").fetchone() == (0,)
        take(store, stated("v1.r", version=2, status="corrected", position=2))
        assert db.execute("SELECT count(*) FROM corrected").fetchone() == (1,)
        db.execute("UPDATE corrected SET noted_us = noted_us - 3600000001")
        db.commit()
        store.prune()
        assert db.execute("SELECT count(*) FROM corrected").fetchone() == (0,)
