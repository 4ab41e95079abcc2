"""The book of scores as a store of personal data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from governance.erasure.forgotten import Forgotten, advance
from governance.vault import Vault
from models.serving.scores import FILE, REPAIR, ScoreBook
from pipelines.intake.online_feed import store_sealer
from vitalake.keys import KeyRing
from vitalake.settings import Settings
from vitalake.sqlite import look_at


class ScoresOfPatients:
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
        """Delete the records of patients; by their digests, for the book knows no pseudonyms in clear."""
        path = settings.path(FILE)
        if not path.exists():
            return 0
        with closing(ScoreBook(path, store_sealer(settings, keys, "scores", purpose="erasure"))) as book:
            gone = book.forget_digests(forgotten.digests, known=forgotten)
            advance(book, settings, keys)
            return gone

    def look(self, settings: Settings) -> None:
        """Return if its file is whole."""
        look_at(settings.path(FILE), "Book of scores", repair=REPAIR)
