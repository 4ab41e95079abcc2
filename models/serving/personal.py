"""The book of scores as a store of personal data, for erasure and checks."""

from __future__ import annotations

from contextlib import closing

from governance.erasure.forgotten import advance
from governance.erasure.stores import Forgetting
from models.serving.scores import FILE, REPAIR, ScoreBook
from pipelines.intake.online_feed import store_sealer
from vitalake.settings import Settings
from vitalake.sqlite import check_integrity


class ScoresOfPatients:
    """See governance.erasure.stores.PersonalStore."""

    def forget(self, whom: Forgetting) -> int:
        """Delete the records of patients by digest, because the book stores no pseudonyms in clear; return how many."""
        path = whom.settings.path(FILE)
        if not path.exists():
            return 0
        with closing(ScoreBook(path, store_sealer(whom.settings, whom.keys, "scores", purpose="erasure"))) as book:
            gone = book.forget_digests(whom.forgotten.digests, known=whom.forgotten)
            advance(book, whom.settings, whom.keys)
            return gone

    def look(self, settings: Settings) -> None:
        """Return if the book's file is intact, else raise."""
        check_integrity(settings.path(FILE), "Book of scores", repair=REPAIR)
