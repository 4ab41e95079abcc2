"""Recognises the pseudonyms of erased patients, from certificates and from the hashes in lake and other storage."""

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
    """A store beside the lake: the online store, or the book of scores.

    Attributes:
        erasures: how many entries of the erasure log were applied to it.
    """

    erasures: int

    def forget_digests(self, digests: Iterable[str], *, known: Container[str] = ()) -> int:
        """Delete the entries whose pseudonym has one of these SHA-256; return how many were deleted."""
        ...


@dataclass(frozen=True)
class Forgotten:
    """The pseudonyms of erased patients; a pseudonym is looked up by its SHA-256.

    Attributes:
        digests: SHA-256 of pseudonyms, hex, from certificates.
        marked: ids of the erasures whose pseudonyms lake or other storage keep as keyed hashes.
        keyed: those keyed hashes.
        hashed: makes the keyed hash of a SHA-256.
    """

    digests: frozenset[str]
    marked: frozenset[str] = frozenset()
    keyed: frozenset[str] = frozenset()
    hashed: Callable[[str], str] = field(default=str, repr=False)

    def __contains__(self, digest: object) -> bool:
        """Return whether the SHA-256 is of an erased patient's pseudonym."""
        return digest in self.digests or (bool(self.keyed) and self.hashed(str(digest)) in self.keyed)


def forgotten_of(copies: ErasureCopies, certificates: Iterable[Certificate]) -> Forgotten:
    """Return the pseudonyms of every patient in the erasure log.

    Args:
        copies: of the log.
        certificates: the certificates that exist.
    """
    marks = copies.marks([entry.certificate for entry in copies.log.entries()])
    return Forgotten(
        frozenset(token for certificate in certificates for token in certificate.tokens),
        frozenset(marks),
        frozenset().union(*marks.values()),
        copies.keyed,
    )


def open_forgotten(settings: Settings, keys: KeyRing) -> Forgotten:
    """Return the pseudonyms of every patient that a home has erased, for the stores beside its lake.

    Raises:
        OSError: lake or other storage cannot be read.
    """
    copies = ErasureCopies(settings, keys, open_storage(settings.lake_uri, settings.storage_options))
    return forgotten_of(copies, all_of(settings.path(settings.certificates)))


def catch_up(store: Store, settings: Settings, keys: KeyRing) -> int:
    """Apply the erasures that a store lacks because it was restored from a back-up; return how many entries went.

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
            remedy="Check its address and disk. Without the lake, a restored store cannot find the erased patients.",
        ) from None
    removed = store.forget_digests(forgotten.digests, known=forgotten)
    store.erasures = count
    return removed


def advance(store: Store, settings: Settings, keys: KeyRing) -> None:
    """Record that the newest erasure was applied to a store, if all earlier ones had been applied to it."""
    if store.erasures == (count := len(_log(settings, keys).entries())) - 1:
        store.erasures = count


def _log(settings: Settings, keys: KeyRing) -> ErasureLog:
    return ErasureLog(settings.path(settings.erasures), keys.current("vault").secret)
