"""The online store as a store of personal data."""

from __future__ import annotations

from contextlib import closing

from governance.erasure.forgotten import advance
from governance.erasure.stores import Forgetting
from pipelines.intake.online_feed import open_online_store
from pipelines.online_store.store import REPAIR
from vitalake.settings import Settings
from vitalake.sqlite import check_integrity


class OnlineStoreOfPatients:
    """See governance.erasure.stores.PersonalStore."""

    def forget(self, whom: Forgetting) -> int:
        """Delete what it holds of patients."""
        with closing(open_online_store(whom.settings, whom.keys, vault=whom.vault, catch_up=False)) as care:
            if whom.patients is None:
                return care.forget_digests(whom.forgotten.digests, known=whom.forgotten)
            gone = care.forget(whom.patients)
            advance(care, whom.settings, whom.keys)
            return gone

    def look(self, settings: Settings) -> None:
        """Return if its file is whole."""
        check_integrity(settings.path(settings.care.path), "Care store", repair=REPAIR)
