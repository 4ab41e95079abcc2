"""Copies of the erasure log, in the lake and on other storage: they tell a restored home which patients it must erase.

A copy is the log, line by line: keyed hashes, chained. Beside the copy lies one file of marks for each certificate:
keyed hashes of the published pseudonyms by which the patient's rows are found. A restored home needs them, because it
may lack the certificate.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from governance.belonging.fingerprints import may_write
from governance.vault import Vault
from governance.vault.erasure_log import Entry, ErasureLog
from vitalake.errors import PrivacyError
from vitalake.keys import KeyRing
from vitalake.lake.tables.storage import Storage, open_storage
from vitalake.settings import Settings

FILE = "erasures.jsonl"
MARKS = "erasures"
"""The folder of the marks, one file for each certificate."""


class _Marks(msgspec.Struct, frozen=True, omit_defaults=True):
    """The marks of one erasure: the pseudonyms by which its rows are found.

    Attributes:
        pseudonyms: keyed hashes of their SHA-256.
        mac: HMAC of the hashes and the certificate's id; empty: an earlier release wrote the marks.
    """

    pseudonyms: list[str]
    mac: str = ""


class _Certified(msgspec.Struct, frozen=True):
    """The fields of a certificate that are read here."""

    id: str
    tokens: list[str]


class ErasureCopies:
    """The copies of one home's erasure log, and the marks beside them."""

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
        """The storages of the copies, by name: those that exist, and the lake only in this release's format."""
        found = {"lake": self._lake} if self._has_lake else {}
        return found | ({"settings.anchors": self._outside} if self._outside else {})

    def extend_log(self) -> int:
        """Append to the home's log the entries that only a copy has; return how many.

        Raises:
            PrivacyError: log and copies contradict each other.
            ServiceUnavailable: the log cannot be written.
            OSError: a copy cannot be read.
        """
        found = [copy for name, place in self._places.items() if (copy := self._copy(name, place)) is not None]
        ours = self.log.entries()
        longest = max((ours, *found), key=len)
        for entries in (ours, *found):
            if entries and longest[len(entries) - 1].hash != entries[-1].hash:
                raise PrivacyError(
                    "Erasure log and its copies contradict each other",
                    where=f"{self.log.name}, entry {len(entries)}",
                    remedy="Two homes have erased patients independently of each other. Keep all files, and restore "
                    "this home's log (settings.erasures), or the lake's copy.",
                )
        return self.log.extend(longest)

    def update(self, vault: Vault, *, allow_restored_lake: bool = False, introducing: bool = False) -> None:
        """Write the entries of the log into the copies that lack some.

        Args:
            vault: opened, with all entries of the log applied.
            allow_restored_lake: also update the copy of a lake that was restored from a back-up.
            introducing: whether the lake does not know its home yet, and so can have no copy.

        Raises:
            PrivacyError: the lake lacks an erasure that is not under way: it was restored from before that erasure.
            OSError: a copy cannot be written.
        """
        # Read before the copies: see _missing_in_lake.
        entries, pending = self.log.entries(), vault.certificates_pending()
        for name, place in self._places.items():
            copy = self._copy(name, place)
            if copy is None and not entries and place is not self._lake:
                continue
            if copy is not None and len(copy) >= len(entries):  # more: another process is erasing now
                continue
            if place is self._lake and not allow_restored_lake and not (copy is None and introducing):
                if lacking := {entry.certificate for entry in entries[len(copy or ()) :]} - pending:
                    raise _restored_lake_error(lacking)
            self._mark_certified(place, {entry.certificate for entry in entries[len(copy or ()) :]})
            place.write_small(FILE, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))

    def refuse_restored_lake(self, pending: Callable[[], Set[str]]) -> None:
        """Refuse a lake that was restored from before an erasure; for readers: changes nothing.

        Args:
            pending: returns the certificates of the erasures under way.

        Raises:
            PrivacyError: the lake was restored; or log or copy is damaged.
            OSError: the copy cannot be read.
        """
        if self._has_lake and (lacking := self._missing_in_lake(pending)):
            raise _restored_lake_error(lacking)

    def _missing_in_lake(self, pending: Callable[[], Set[str]]) -> set[str]:
        # In this order: an erasure that is in the log and no longer pending is also in the copy.
        entries, under_way = self.log.entries(), pending()
        copy = self._copy("lake", self._lake) or []
        return {entry.certificate for entry in entries[len(copy) :]} - under_way

    def refuse_unknown(self, pending: Callable[[], Set[str]]) -> None:
        """Refuse if there are marks of an erasure that neither the log nor any copy has.

        Args:
            pending: returns the certificates of the erasures under way.

        Raises:
            PrivacyError: copies were emptied or deleted, and the home was restored from a back-up.
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
                f"Erasure log and its copies lack {len(unknown)} erasures that are marked in {MARKS}/",
                where=", ".join(sorted(unknown)),
                remedy="Restore the log (settings.erasures), or erasures.jsonl in the lake or in settings.anchors, "
                f"from a back-up made after {max(unknown)}. Without them, erased patients could come back.",
            )

    def _copy(self, name: str, place: Storage) -> list[Entry] | None:
        content = place.read_small(FILE)
        return None if content is None else self._parsed(name, content)

    def _parsed(self, name: str, content: bytes) -> list[Entry]:
        where = f"{FILE} ({name})"
        try:
            entries = self.log.parsed(content, where=where)
            # A copy is always written as a whole, so a line without its end is damage, not an interrupted write.
            if content and not content.endswith(b"\n"):
                raise PrivacyError("", where=f"{where}, line {len(entries) + 1}", remedy="")
            return entries
        except PrivacyError as error:
            raise PrivacyError(
                "A copy of the erasure log is damaged",
                where=error.where,
                remedy="A line was changed, or the copy belongs to another home. Run 'vitalake lake repair': it writes "
                "the copy again if the home's log is complete. Otherwise restore the copy from a back-up.",
            ) from None

    def _mark_certified(self, place: Storage, logged: Set[str]) -> None:
        """Write the marks that a storage lacks for these erasures, from their certificates."""
        for done in self._certified():
            if done.id in logged:
                place.write_small(f"{MARKS}/{done.id}.json", self._marks_of(done.id, done.tokens))

    def _certified(self) -> Iterator[_Certified]:
        """Yield the certificates that can be read."""
        for path in self._certificate_files():
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, OSError):
                yield msgspec.json.decode(path.read_bytes(), type=_Certified)

    def _certificate_files(self) -> list[Path]:
        return sorted(self._certificates.glob("erasure-*.json"))

    # -- marks ----------------------------------------------------------------------------------------------------

    def mark(self, certificate: str, digests: Iterable[str]) -> None:
        """Write the marks of an erasure, before its key is destroyed.

        Args:
            certificate: its id.
            digests: SHA-256 of the pseudonyms, hex.

        Raises:
            OSError: a copy cannot be written.
        """
        for place in self._places.values():
            place.write_small(f"{MARKS}/{certificate}.json", self._marks_of(certificate, digests))

    def unmark(self, certificate: str) -> None:
        """Delete the marks of an erasure that is cancelled.

        Raises:
            OSError: a copy cannot be written.
        """
        for place in self._places.values():
            place.delete(f"{MARKS}/{certificate}.json")

    def _marks_of(self, certificate: str, digests: Iterable[str]) -> bytes:
        pseudonyms = sorted(map(self.keyed, digests))
        return msgspec.json.encode(_Marks(pseudonyms, self._mac(certificate, pseudonyms)))

    def _mac(self, certificate: str, pseudonyms: Iterable[str]) -> str:
        plain = "\0".join(("erasure marks", certificate, *pseudonyms)).encode()
        return hmac.digest(self._secret, plain, hashlib.sha256).hex()

    def marks(self, certificates: Sequence[str]) -> dict[str, set[str]]:
        """Return the keyed hashes of the pseudonyms of each erasure, as ``keyed`` makes them, as far as they are known.

        Raises:
            PrivacyError: the marks of an erasure are damaged in every storage, and its certificate is missing.
            OSError: a copy cannot be read.
        """
        found: dict[str, set[str]] = {}
        there = {done.id for done in self._certified()}
        for certificate in certificates:
            held = self._held(certificate)
            good = [set(marks.pseudonyms) for marks in held.values() if isinstance(marks, _Marks)]
            if good:
                found[certificate] = set().union(*good)
            elif "damaged" in held.values() and certificate not in there:
                raise damaged_marks(certificate, next(iter(held)))
        return found

    def _held(self, certificate: str) -> dict[str, _Marks | Literal["damaged", "missing"]]:
        """Return the marks of an erasure in each storage."""
        name = Path(certificate).name
        found: dict[str, _Marks | Literal["damaged", "missing"]] = {}
        for where, place in self._places.items():
            content = place.read_small(f"{MARKS}/{name}.json")
            try:
                found[where] = "missing" if content is None else msgspec.json.decode(content, type=_Marks)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                found[where] = "damaged"
            marks = found[where]
            if isinstance(marks, _Marks) and marks.mac and not self._is_ours(name, marks):
                found[where] = "damaged"
        return found

    def _is_ours(self, certificate: str, marks: _Marks) -> bool:
        return hmac.compare_digest(marks.mac.encode(), self._mac(certificate, marks.pseudonyms).encode())

    def keyed(self, digest: str) -> str:
        """Return the keyed hash of a pseudonym's SHA-256, both in hex."""
        return hmac.digest(self._secret, b"erased pseudonym\0" + digest.encode(), hashlib.sha256).hex()

    # -- damage ------------------------------------------------------------------------------------------------------

    def restored_home(self) -> PrivacyError | None:
        """Return the error of a home that lacks erasures which a copy has; None: it lacks none."""
        copies = [copy for name, place in self._places.items() if (copy := self._copy(name, place))]
        lacking = max(copies, key=len, default=[])[len(self.log.entries()) :]  # the log is written before its copies
        return _restored_home_error({entry.certificate for entry in lacking}) if lacking else None

    def damaged_logs(self) -> list[PrivacyError]:
        """Return the error of each damaged log or copy.

        Raises:
            OSError: a copy cannot be read.
            ServiceUnavailable: the log cannot be read.
        """
        return [error for error in self._look().values() if isinstance(error, PrivacyError)]

    def damaged_records(self) -> list[PrivacyError]:
        """Return the errors of damaged or lost certificates and marks; call it only if log and copies are undamaged.

        Raises:
            OSError: a place cannot be read.
            ServiceUnavailable: the log cannot be read.
        """
        whole = {done.id for done in self._certified()}
        found = [_damaged_certificate(path.stem) for path in self._certificate_files() if path.stem not in whole]
        for certificate in (entry.certificate for entry in self.log.entries()):
            if self._contradicted(certificate):
                found.append(_damaged_certificate(certificate))
        return found + [damaged_marks(certificate, name) for certificate, name, _ in self._marks_to_repair()]

    def _contradicted(self, certificate: str) -> bool:
        """Return whether undamaged marks lack a pseudonym of the certificate, so that the certificate was changed."""
        trusted, certified = self._trusted(certificate), self._of_certificate(certificate)
        return trusted is not None and certified is not None and not certified <= trusted

    def _trusted(self, certificate: str) -> set[str] | None:
        held = self._held(certificate).values()
        return next((set(marks.pseudonyms) for marks in held if isinstance(marks, _Marks) and marks.mac), None)

    def _of_certificate(self, certificate: str) -> set[str] | None:
        return next((set(map(self.keyed, done.tokens)) for done in self._certified() if done.id == certificate), None)

    def _look(self) -> dict[str, list[Entry] | PrivacyError | None]:
        """Return the entries of the log (under the empty name) and of each copy, or the error of a damaged one."""
        found: dict[str, list[Entry] | PrivacyError | None] = {}
        reads: dict[str, Callable[[], list[Entry] | None]] = {"": self.log.entries}
        for name, place in self._places.items():
            reads[name] = partial(self._copy, name, place)
        for name, read in reads.items():
            try:
                found[name] = read()
            except PrivacyError as error:
                found[name] = error
        return found

    def _marks_to_repair(self) -> Iterator[tuple[str, str, bytes | None]]:
        """Yield damaged or lost marks: the certificate, the storage's name, and the right content if it is known.

        Marks of an earlier release have no MAC. For them the union of the certificate and all storages is right: a hash
        too many finds no rows. An erasure that none of them knows may never have had marks.
        """
        for certificate in (entry.certificate for entry in self.log.entries()):
            held, wanted = self._held(certificate), self._trusted(certificate)
            if wanted is None:
                listed = [set(marks.pseudonyms) for marks in held.values() if isinstance(marks, _Marks)]
                wanted = set().union(self._of_certificate(certificate) or (), *listed)
            pseudonyms = sorted(wanted)
            right = msgspec.json.encode(_Marks(pseudonyms, self._mac(certificate, pseudonyms))) if wanted else None
            for name, marks in held.items():
                if marks == "damaged" or (
                    wanted and not (isinstance(marks, _Marks) and set(marks.pseudonyms) == wanted)
                ):
                    yield certificate, name, right

    def repair(self, *, known: int, pending: Set[str]) -> list[str]:
        """Write damaged logs, copies and marks again from undamaged ones; return a sentence for each.

        A damaged log or copy is kept as ``….damaged``. Nothing is written if the undamaged ones may lack an erasure: if
        they have fewer entries than the damaged one has lines, or than vault and marks know of.

        Args:
            known: how many erasures the vault has applied.
            pending: certificates of the erasures under way.

        Raises:
            OSError, ServiceUnavailable: log or a copy cannot be read or written.
        """
        looked, done = self._look(), list[str]()
        best = max((entries for entries in looked.values() if isinstance(entries, list)), key=len, default=[])
        marked = {Path(name).stem for place in self._places.values() for name in place.child(MARKS).files(".json")}
        if len(best) < known or marked - pending - {entry.certificate for entry in best}:
            return done
        for name, found in looked.items():
            if not isinstance(found, PrivacyError):
                continue
            if name and self._repair_copy(self._places[name], best):
                done.append(f"{FILE} ({name}) was written again from the erasure log")
            elif not name and self.log.rewrite(best):
                done.append(f"{self.log.name} was written again from its copy")
        if not any(isinstance(found, PrivacyError) for found in self._look().values()):
            for certificate, name, right in list(self._marks_to_repair()):
                if right is not None:
                    self._places[name].write_small(f"{MARKS}/{certificate}.json", right)
                    done.append(f"{MARKS}/{certificate}.json ({name}) was written again")
        return done

    @staticmethod
    def _repair_copy(place: Storage, entries: Sequence[Entry]) -> bool:
        content = place.read_small(FILE) or b""
        if content.count(b"\n") > len(entries):
            return False
        place.write_small(f"{FILE}.damaged", content)
        place.write_small(FILE, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        return True


def damaged_marks(certificate: str, place: str) -> PrivacyError:
    """Return the error of marks that are damaged or lost.

    Args:
        certificate: of the erasure.
        place: the name of their storage.
    """
    return PrivacyError(
        "The marks that find the rows of an erased patient are damaged or lost",
        where=f"{MARKS}/{Path(certificate).name}.json ({place})",
        remedy="Run 'vitalake lake repair': it writes them again from the certificate or another copy. If both are "
        "missing, restore the file from a back-up.",
    )


def _damaged_certificate(certificate: str) -> PrivacyError:
    return PrivacyError(
        "A certificate is damaged",
        where=f"{Path(certificate).name}.json (settings.certificates)",
        remedy="Restore it from a back-up: vitalake cannot make the record of an erasure again.",
    )


def _restored_home_error(lacking: Set[str]) -> PrivacyError:
    """Return the error of a home that was restored from before erasures which a copy of the log has.

    Args:
        lacking: certificates of the erasures that it lacks.
    """
    return PrivacyError(
        f"This home was restored from a back-up: it lacks {len(lacking)} erasures that the lake has",
        where=", ".join(sorted(lacking)),
        remedy="Vault, online store and scores may hold erased patients again. Run 'vitalake patient reapply' to erase "
        "them again; the next program that opens the vault does the same.",
    )


def _restored_lake_error(lacking: Set[str]) -> PrivacyError:
    """Return the error of a lake that was restored from before erasures, and holds the erased rows again.

    Args:
        lacking: certificates of the erasures that it lacks.
    """
    return PrivacyError(
        f"The lake is older than {len(lacking)} erasures and holds the erased rows again",
        where=", ".join(sorted(lacking)),
        remedy="Run 'vitalake patient reapply' before you use the lake: it erases them again.",
    )
