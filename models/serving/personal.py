"""The book of scores as a store of personal data, for erasure and checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from governance.erasure.forgotten import advance
from governance.erasure.stores import Forgetting
from models.serving.scores import FILE, REPAIR, ScoreBook
from pipelines.online_store.opening import store_sealer
from vitalake.settings import Settings
from vitalake.sqlite import check_integrity


class ScoresOfPatients:
    """See governance.erasure.stores.PersonalStore."""

    def forget(self, whom: Forgetting) -> int:
        """Delete the records of patients by digest, because the book stores no pseudonyms in clear; return how many."""
        with _opened(whom) as book:
            if book is None:
                return 0
            gone = book.forget_digests(whom.forgotten.digests, known=whom.forgotten)
            advance(book, whom.settings, whom.keys)
            return gone

    def held(self, whom: Forgetting) -> Mapping[str, int]:
        """Return how many scores of patients are recorded; all records are opened to find them."""
        with _opened(whom) as book:
            count = book.held(whom.has) if book else 0
            return {"scores": count} if count else {}

    def look(self, settings: Settings) -> None:
        """Return if the book's file is intact, else raise."""
        check_integrity(settings.path(FILE), "Book of scores", repair=REPAIR)


@contextmanager
def _opened(whom: Forgetting) -> Iterator[ScoreBook | None]:
    """Open the home's book; None: it has none, and none is made."""
    path = whom.settings.path(FILE)
    if not path.exists():
        yield None
        return
    sealer = store_sealer(whom.settings, whom.keys, "scores", vault=whom.vault, purpose="erasure")
    with closing(ScoreBook(path, sealer)) as book:
        yield book
