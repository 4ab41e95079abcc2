"""The online store as a store of personal data, from which an erasure deletes patients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from governance.erasure.forgotten import advance
from governance.erasure.stores import Forgetting
from pipelines.online_store.opening import open_online_store
from pipelines.online_store.store import REPAIR
from vitalake.settings import Settings
from vitalake.sqlite import check_integrity


class OnlineStoreOfPatients:
    """See governance.erasure.stores.PersonalStore."""

    def forget(self, whom: Forgetting) -> int:
        """Delete everything that the store has of patients; return how many blocks, facts and undecided values."""
        with closing(open_online_store(whom.settings, whom.keys, vault=whom.vault, catch_up=False)) as store:
            if whom.patients is None:
                return store.erasure.forget_digests(whom.forgotten.digests, known=whom.forgotten)
            deleted = store.erasure.forget(whom.patients)
            advance(store.erasure, whom.settings, whom.keys)
            return deleted

    def held(self, whom: Forgetting) -> Mapping[str, int]:
        """Return how many values, facts and notes the store has of patients, by kind."""
        if not whom.settings.path(whom.settings.care.path).exists():
            return {}
        with closing(open_online_store(whom.settings, whom.keys, vault=whom.vault, catch_up=False)) as store:
            return store.erasure.held(whom.has)

    def look(self, settings: Settings) -> None:
        """Check that the store's file is not damaged."""
        check_integrity(settings.path(settings.care.path), "Online store", repair=REPAIR)
