"""Erased patients are gone from every byte of the store, and nothing of theirs is taken any more."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipelines.online_store.facts import Admission
from tests.unit.pipelines.online_store.store_samples import MINUTE, attributed, open_store, take, values_of
from vitalake import clock


@pytest.mark.parametrize("by_digest", [False, True])
def test_who_is_forgotten_is_in_no_note_and_comes_back_by_no_backup(tmp_path: Path, by_digest: bool) -> None:
    store = open_store(tmp_path)
    take(store, attributed("v1.p", attribution=3, position=5))
    take(store, attributed("v1.q", attribution=3, position=6))
    store.put_facts([("v1.p", "v1.e", 1, Admission(clock.now_us(), None, 70))])
    digest = hashlib.sha256(b"v1.p").hexdigest()
    assert (store.erasure.forget_digests([digest]) if by_digest else store.erasure.forget(["v1.p"])) == 3
    store.put_facts([("v1.p", "v1.e", 1, Admission(clock.now_us(), None, 70))])
    take(store, attributed("v1.p", attribution=3, position=7))
    assert store.all_patients() == ["v1.q"]
    found = [patient for values in store._tables.undecided.undecided("t/0", 0) for patient in values.patients]
    assert found == ["v1.q"]
    assert b"v1.p" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_who_is_forgotten_is_gone_from_every_byte_and_is_not_taken_any_more(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    begin = clock.now_us() - 1000 * MINUTE
    for patient, part in (("v1.gone", "t/0"), ("v1.stays", "t/1")):
        take(store, values_of(300, patient=patient, part=part, begin_us=begin))
        store.put_facts([(patient, "stay", 1, Admission(begin, None, 70))])
    assert store.erasure.forget(["v1.gone"]) == 4, "three blocks and a stay"
    assert list(store.patients.revisions()) == ["v1.stays"]
    assert take(store, values_of(10, first=300, patient="v1.gone", begin_us=begin)) == 0
    store.put_facts([("v1.gone", "stay", 2, Admission(begin, None, 70))])
    assert len(store.history("v1.gone")) == 0
    assert store.facts.stay("v1.gone", as_of_us=begin + 1) is None
    assert len(store.history("v1.stays")) == 300
    assert not [path for path in tmp_path.iterdir() if b"v1.gone" in path.read_bytes()]
