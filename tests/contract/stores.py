"""The contract of a store of personal data: derive a class from ``StoreContract`` for each, as of MaskContract.

The derived class writes something of a patient into the store of a home, as the store's users do::

    from tests.contract.stores import StoreContract

    class TestNotes(StoreContract):
        kind = NotesOfPatients

        def write(self, home, patient):
            add_note(home.settings, patient, "seen")
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from governance.belonging import open_vault
from governance.erasure.forgotten import Forgotten
from governance.erasure.stores import Forgetting, PersonalStore
from governance.home import init_home
from governance.policy.masks import Pseudonyms
from governance.samples import copy_samples
from governance.vault import Vault
from vitalake.errors import VitaLakeError
from vitalake.keys import KeyRing, load_keys
from vitalake.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class EmptyHome:
    """A home without data, and what a store needs of it.

    Attributes:
        settings: of the home.
        keys: the home's.
        vault: opened.
        erased: pseudonyms of two patients who are erased …
        stays: … and of one who stays.
    """

    settings: Settings
    keys: KeyRing
    vault: Vault
    erased: tuple[str, str]
    stays: str

    def whom(self, *patients: str, known: bool = True) -> Forgetting:
        """Return these patients, as an erasure gives them; without ``known`` as the next one after a restore does."""
        digests = frozenset(hashlib.sha256(patient.encode()).hexdigest() for patient in patients)
        forgotten = Forgotten(digests) if known else Forgotten(frozenset(), frozenset({"e"}), digests)
        return Forgetting(self.settings, self.keys, self.vault, forgotten, patients if known else None)

    def files(self, *patients: str) -> set[Path]:
        """Return the files of the home that have one of these pseudonyms in clear."""
        found = (path for path in self.settings.home.rglob("*") if path.is_file())
        return {path for path in found if any(patient.encode() in path.read_bytes() for patient in patients)}


class StoreContract:
    """What every store of personal data must hold to.

    Attributes:
        kind: the class that is registered.
        file: of the home, which ``look`` checks; empty: the store is no file.
    """

    kind: ClassVar[type[PersonalStore]]
    file: ClassVar[str] = ""

    def write(self, home: EmptyHome, patient: str) -> None:
        """Write something of a patient into the home's store; each call writes something new."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[EmptyHome]:
        init_home(tmp_path / "home", copy_samples)
        settings = load_settings(tmp_path / "home")
        keys = load_keys(settings.path(settings.keys))
        first, second, other = map(Pseudonyms(keys, "patient-identifier").token, ("Zz-1", "Zz-2", "Zz-3"))
        vault = open_vault(settings, keys)
        try:
            yield EmptyHome(settings, keys, vault, (first, second), other)
        finally:
            vault.close()

    def test_a_home_without_the_store_holds_nothing_and_none_is_made_by_looking(self, opened: EmptyHome) -> None:
        before = set(opened.settings.home.rglob("*"))
        store = self.kind()
        assert store.held(opened.whom(*opened.erased)) == {}
        store.look(opened.settings)
        assert set(opened.settings.home.rglob("*")) == before
        assert store.forget(opened.whom(*opened.erased)) == 0

    @pytest.mark.parametrize("known", [True, False], ids=["by pseudonym", "by digest"])
    def test_who_is_forgotten_has_nothing_left_and_gets_nothing_new(self, opened: EmptyHome, *, known: bool) -> None:
        for patient in (*opened.erased, opened.stays):
            self.write(opened, patient)
        store, erased = self.kind(), opened.whom(*opened.erased, known=known)
        held, others = store.held(erased), store.held(opened.whom(opened.stays))
        assert held and all(held.values())
        assert store.forget(erased) > 0
        assert store.held(erased) == {}
        assert store.held(opened.whom(opened.stays)) == others, "nobody else lost anything"
        assert not opened.files(*opened.erased), "the pseudonym is in no byte of the home"
        for patient in (*opened.erased, opened.stays):
            self.write(opened, patient)
        assert store.held(erased) == {}, "what comes late is not taken"
        assert sum(store.held(opened.whom(opened.stays)).values()) > sum(others.values())

    def test_it_is_safe_to_repeat(self, opened: EmptyHome) -> None:
        self.write(opened, opened.erased[0])
        store, erased = self.kind(), opened.whom(opened.erased[0])
        assert store.forget(erased) > 0
        assert store.forget(erased) == 0
        assert store.held(erased) == {}

    def test_each_patient_is_counted_apart(self, opened: EmptyHome) -> None:
        store, (one, other) = self.kind(), opened.erased
        self.write(opened, one)
        alone = dict(store.held(opened.whom(one)))
        self.write(opened, other)
        self.write(opened, other)
        assert store.held(opened.whom(one)) == alone
        assert sum(store.held(opened.whom(one, other)).values()) > sum(store.held(opened.whom(other)).values())

    def test_kinds_are_words_for_people_and_name_nobody(self, opened: EmptyHome) -> None:
        self.write(opened, opened.stays)
        for kind in self.kind().held(opened.whom(opened.stays)):
            assert kind and kind.replace(" ", "").isalpha() and kind == kind.lower()

    def test_a_damaged_file_is_named_and_no_value_is_shown(self, opened: EmptyHome) -> None:
        self.write(opened, opened.stays)
        self.kind().look(opened.settings)
        if self.file:
            path = opened.settings.home / self.file
            path.write_bytes(b"damaged" * 1_000)
            for rest in path.parent.glob(f"{path.name}-*"):
                rest.unlink()
            with pytest.raises(VitaLakeError) as found:
                self.kind().look(opened.settings)
            assert path.name in str(found.value) and opened.stays not in str(found.value)
