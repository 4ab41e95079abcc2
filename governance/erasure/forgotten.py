"""By which pseudonyms those are found who are forgotten: of certificates, and of what lake and other storage keep."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from governance.belonging.erasures import ErasureCopies
from governance.erasure.certificate import Certificate, all_of
from governance.vault.erasure_log import ErasureLog
from vitalake.errors import ServiceUnavailable
from vitalake.keys import KeyRing
from vitalake.lake.tables.storage import open_storage
from vitalake.settings import Settings


class Store(Protocol):
    """A store beside the lake: care store, book of scores.

    Attributes:
        erasures: how many of the erasure log were carried out in it.
    """

    erasures: int

    def forget_digests(self, digests: Iterable[str], *, known: Container[str] = ()) -> int:
        """Delete what there is of those who have these SHA-256 of a pseudonym; return how many entries."""
        ...


@dataclass(frozen=True)
class Forgotten:
    """Recognises pseudonyms by their SHA-256.

    Attributes:
        digests: of certificates, hex.
        marked: ids of certificates of which the pseudonyms are known by keyed hashes.
        keyed: those hashes.
        hashed: makes them of a digest.
    """

    digests: frozenset[str]
    marked: frozenset[str] = frozenset()
    keyed: frozenset[str] = frozenset()
    hashed: Callable[[str], str] = field(default=str, repr=False)

    def __contains__(self, digest: object) -> bool:
        """Return whether a pseudonym's SHA-256 is of somebody who is forgotten."""
        return digest in self.digests or (bool(self.keyed) and self.hashed(str(digest)) in self.keyed)


def forgotten_of(copies: ErasureCopies, certificates: Iterable[Certificate]) -> Forgotten:
    """Return what is known of everybody in the erasure log.

    Args:
        copies: of the log.
        certificates: those that are there.
    """
    marks = copies.marks([entry.certificate for entry in copies.log.entries()])
    return Forgotten(
        frozenset(token for certificate in certificates for token in certificate.tokens),
        frozenset(marks),
        frozenset().union(*marks.values()),
        copies.keyed,
    )


def open_forgotten(settings: Settings, keys: KeyRing) -> Forgotten:
    """Return the same of a home, for the stores beside its lake.

    Raises:
        OSError: lake or other storage cannot be read.
    """
    copies = ErasureCopies(settings, keys, open_storage(settings.lake_uri, settings.storage_options))
    return forgotten_of(copies, all_of(settings.path(settings.certificates)))


def catch_up(store: Store, settings: Settings, keys: KeyRing) -> int:
    """Carry out in a store what the erasure log has more than it: it was put back; return how many entries went.

    Raises:
        ServiceUnavailable: the store cannot be written, or lake or log cannot be read.
    """
    count = len(_log(settings, keys).entries())
    if store.erasures >= count:
        return 0
    try:
        forgotten = open_forgotten(settings, keys)
    except OSError as error:
        raise ServiceUnavailable(
            f"Lake cannot be reached ({type(error).__name__})",
            where="settings.lake",
            remedy="Check address and disk; whom to forget in a store that was put back cannot be told without it.",
        ) from None
    gone = store.forget_digests(forgotten.digests, known=forgotten)
    store.erasures = count
    return gone


def advance(store: Store, settings: Settings, keys: KeyRing) -> None:
    """Take note that the newest erasure of the log was carried out in a store that had all before."""
    if store.erasures == (count := len(_log(settings, keys).entries())) - 1:
        store.erasures = count


def _log(settings: Settings, keys: KeyRing) -> ErasureLog:
    return ErasureLog(settings.path(settings.erasures), keys.current("vault").secret)
