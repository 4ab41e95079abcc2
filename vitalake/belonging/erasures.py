"""Copies of the erasure log, in the lake and on other storage: a home that was put back learns whom it has to forget.

A copy is the log, line by line: keyed hashes, chained. Beside it lies, for each certificate, by which published
pseudonyms the patient's rows are found, as keyed hashes too: an older home has no certificate that could tell.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path

import msgspec

from vitalake.belonging.fingerprints import may_write
from vitalake.errors import PrivacyError
from vitalake.keys import KeyRing
from vitalake.lake.storage import Storage, open_storage
from vitalake.settings import Settings
from vitalake.vault import Vault
from vitalake.vault.erasure_log import Entry, ErasureLog

FILE = "erasures.jsonl"
MARKS = "erasures"
"""The folder of what pseudonyms are found by."""


class _Marks(msgspec.Struct, frozen=True):
    pseudonyms: list[str]


class _Certified(msgspec.Struct, frozen=True):
    """What is read of a certificate."""

    id: str
    tokens: list[str]


class ErasureCopies:
    """The copies of one home's log."""

    def __init__(self, settings: Settings, keys: KeyRing, storage: Storage, *, upgrading: bool = False) -> None:
        """Prepare.

        Args:
            settings: of the home.
            keys: its key file's.
            storage: of its lake.
            upgrading: also write into a lake of another format.

        Raises:
            LakeError: the lake's format cannot be read.
            OSError: the lake cannot be reached.
        """
        self._has_lake = storage.holds_table("spans") and (upgrading or may_write(storage))
        self._secret, self._lake = keys.current("vault").secret, storage
        self._certificates = settings.path(settings.certificates)
        self.log = ErasureLog(settings.path(settings.erasures), self._secret)
        outside = None if settings.anchors is None else settings.path(settings.anchors)
        self._outside = open_storage(str(outside), {}) if outside is not None and outside.is_dir() else None

    @property
    def _places(self) -> dict[str, Storage]:
        """Where copies lie; a lake that is not there yet, or of another format, has none, nor an unmounted disk."""
        found = {"lake": self._lake} if self._has_lake else {}
        return found | ({"settings.anchors": self._outside} if self._outside else {})

    def level(self) -> int:
        """Give the home's log what a copy has more; return how many entries.

        Raises:
            PrivacyError: log and copies are not of one history.
            ServiceUnavailable: the log cannot be written.
            OSError: a copy cannot be read.
        """
        found = [copy for name, place in self._places.items() if (copy := self._copy(name, place)) is not None]
        ours = self.log.entries()
        longest = max((ours, *found), key=len)
        for entries in (ours, *found):
            if entries and longest[len(entries) - 1].hash != entries[-1].hash:
                raise PrivacyError(
                    "Erasure log and its copies tell different histories",
                    where=f"{self.log.name}, entry {len(entries)}",
                    remedy="Two homes have erased apart from each other: keep all of them, and restore the one of this "
                    "home (settings.erasures), or the lake's.",
                )
        return self.log.take(longest)

    def keep(self, vault: Vault, *, put_back: bool = False, introducing: bool = False) -> None:
        """Bring the copies to the log.

        Args:
            vault: opened, and brought to the log.
            put_back: also of a lake that was put back.
            introducing: the lake does not know its home yet, so that it can have no copy.

        Raises:
            PrivacyError: the lake lacks what is not under way: it was put back to a day before these erasures.
            OSError: a copy cannot be written.
        """
        entries, pending = self.log.entries(), vault.certificates_pending()  # before the copies: see _lacked
        for name, place in self._places.items():
            copy = self._copy(name, place)
            if copy is None and not entries and place is not self._lake:
                continue
            if copy is not None and len(copy) >= len(entries):  # more: somebody erases right now
                continue
            if place is self._lake and not put_back and not (copy is None and introducing):
                if lacking := {entry.certificate for entry in entries[len(copy or ()) :]} - pending:
                    raise _lake_put_back(lacking)
            if copy is None:
                self._mark_certified(place, {entry.certificate for entry in entries})
            place.write_small(FILE, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))

    def refuse_put_back(self, pending: Callable[[], Set[str]]) -> None:
        """Stop where the lake, which knows its home, was put back; for who only reads: changes nothing.

        Args:
            pending: returns the certificates of the erasures under way.

        Raises:
            PrivacyError: it was; or log or copy does not hold together.
            OSError: the copy cannot be read.
        """
        if self._has_lake and (lacking := self._lacked(pending)):
            raise _lake_put_back(lacking)

    def _lacked(self, pending: Callable[[], Set[str]]) -> set[str]:
        # In this order: what is in the log and not pending any more is in the copy.
        entries, under_way = self.log.entries(), pending()
        copy = self._copy("lake", self._lake) or []
        return {entry.certificate for entry in entries[len(copy) :]} - under_way

    def refuse_unknown(self, pending: Callable[[], Set[str]]) -> None:
        """Stop where a copy's folder tells of an erasure that neither the log nor any copy has.

        Args:
            pending: returns the certificates of the erasures under way.

        Raises:
            PrivacyError: copies were emptied or deleted, and the home was put back.
            OSError: a copy cannot be read.
        """
        # An erasure is pending in the vault, then marked, then logged; so marks are read first and the log last.
        marked = {Path(name).stem for place in self._places.values() for name in place.child(MARKS).files(".json")}
        if not marked:
            return
        unknown = marked - pending()
        copies = [copy for name, place in self._places.items() if (copy := self._copy(name, place)) is not None]
        unknown -= {entry.certificate for entries in (*copies, self.log.entries()) for entry in entries}
        if unknown:
            raise PrivacyError(
                f"{len(unknown)} erasures are marked that neither the erasure log nor a copy of it has",
                where=", ".join(sorted(unknown)),
                remedy="Restore the log (settings.erasures), or erasures.jsonl in the lake or in settings.anchors, "
                f"from a back-up of after {max(unknown)}; without it the erased could return.",
            )

    def _copy(self, name: str, place: Storage) -> list[Entry] | None:
        content = place.read_small(FILE)
        return None if content is None else self.log.parsed(content, where=f"{FILE} ({name})")

    def _mark_certified(self, place: Storage, logged: Set[str]) -> None:
        """Keep of erasures before there was a copy by which pseudonyms they are found, as their certificates say."""
        for path in sorted(self._certificates.glob("erasure-*.json")):
            try:
                done = msgspec.json.decode(path.read_bytes(), type=_Certified)
            except msgspec.MsgspecError:
                continue
            if done.id in logged:
                place.write_small(f"{MARKS}/{done.id}.json", self._marks_of(done.tokens))

    # -- by which pseudonyms -------------------------------------------------------------------------------------

    def mark(self, certificate: str, digests: Iterable[str]) -> None:
        """Keep by which pseudonyms the rows of an erasure are found, before its key is destroyed.

        Args:
            certificate: the id of its certificate.
            digests: SHA-256 of the pseudonyms, hex.

        Raises:
            OSError: a copy cannot be written.
        """
        for place in self._places.values():
            place.write_small(f"{MARKS}/{certificate}.json", self._marks_of(digests))

    def unmark(self, certificate: str) -> None:
        """Drop that again, of an erasure that is not done.

        Raises:
            OSError: a copy cannot be written.
        """
        for place in self._places.values():
            place.delete(f"{MARKS}/{certificate}.json")

    def _marks_of(self, digests: Iterable[str]) -> bytes:
        return msgspec.json.encode(_Marks(sorted(map(self.keyed, digests))))

    def marks(self, certificates: Sequence[str]) -> dict[str, set[str]]:
        """Return by which pseudonyms the rows of erasures are found, as ``keyed`` writes them; those that are known.

        Raises:
            OSError: a copy cannot be read.
        """
        found: dict[str, set[str]] = {}
        for certificate in certificates:
            for place in self._places.values():
                content = place.read_small(f"{MARKS}/{Path(certificate).name}.json")
                if content is not None:
                    found[certificate] = set(msgspec.json.decode(content, type=_Marks).pseudonyms)
        return found

    def keyed(self, digest: str) -> str:
        """Return the keyed hash of a pseudonym's SHA-256, both in hex."""
        return hmac.digest(self._secret, b"erased pseudonym\0" + digest.encode(), hashlib.sha256).hex()


def _lake_put_back(lacking: Set[str]) -> PrivacyError:
    """Return the error of a lake that holds rows again which were erased.

    Args:
        lacking: certificates of the erasures that it lacks.
    """
    return PrivacyError(
        f"The lake is older than {len(lacking)} erasures, whose rows it holds again",
        where=", ".join(sorted(lacking)),
        remedy="Erase them in it again before it is used: vitalake patient reapply",
    )
