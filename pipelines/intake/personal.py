"""The online store as a store of personal data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from governance.erasure.forgotten import Forgotten, advance
from governance.vault import Vault
from pipelines.intake.online_feed import open_care
from pipelines.online_store.store import REPAIR
from vitalake.keys import KeyRing
from vitalake.settings import Settings
from vitalake.sqlite import look_at


class CareOfPatients:
    """See governance.erasure.stores.PersonalStore."""

    def forget(
        self,
        settings: Settings,
        keys: KeyRing,
        vault: Vault,
        forgotten: Forgotten,
        *,
        patients: Sequence[str] | None = None,
    ) -> int:
        """Delete what it holds of patients."""
        with closing(open_care(settings, keys, vault=vault, catch_up=False)) as care:
            if patients is None:
                return care.forget_digests(forgotten.digests, known=forgotten)
            gone = care.forget(patients)
            advance(care, settings, keys)
            return gone

    def look(self, settings: Settings) -> None:
        """Return if its file is whole."""
        look_at(settings.path(settings.care.path), "Care store", repair=REPAIR)
