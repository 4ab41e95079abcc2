"""Copies of the erasure log, in the lake and on other storage: a home that was put back learns whom it has to forget.

A copy is the log, line by line: keyed hashes, chained. Beside it lies, for each certificate, by which published
pseudonyms the patient's rows are found, as keyed hashes too: an older home has no certificate that could tell.
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
"""The folder of what pseudonyms are found by."""


class _Marks(msgspec.Struct, frozen=True, omit_defaults=True):
    """By which pseudonyms an erasure's rows are found.

    Attributes:
        pseudonyms: keyed hashes of their SHA-256.
        mac: over them and the certificate's id; empty: an earlier release wrote it.
    """

    pseudonyms: list[str]
    mac: str = ""


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
            self._mark_certified(place, {entry.certificate for entry in entries[len(copy or ()) :]})
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
        return None if content is None else self._parsed(name, content)

    def _parsed(self, name: str, content: bytes) -> list[Entry]:
        where = f"{FILE} ({name})"
        try:
            entries = self.log.parsed(content, where=where)
            if content and not content.endswith(b"\n"):  # a copy is written whole: nobody was killed within a line
                raise PrivacyError("", where=f"{where}, line {len(entries) + 1}", remedy="")
            return entries
        except PrivacyError as error:
            raise PrivacyError(
                "A copy of the erasure log does not hold together",
                where=error.where,
                remedy="It was changed, or is of another home. Run 'vitalake lake repair': it is written again from "
                "the home's log, if that has all of it; else restore it from a back-up.",
            ) from None

    def _mark_certified(self, place: Storage, logged: Set[str]) -> None:
        """Keep by which pseudonyms erasures are found that a place has missed, as their certificates say."""
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
            place.write_small(f"{MARKS}/{certificate}.json", self._marks_of(certificate, digests))

    def unmark(self, certificate: str) -> None:
        """Drop that again, of an erasure that is not done.

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
        """Return by which pseudonyms the rows of erasures are found, as ``keyed`` writes them; those that are known.

        Raises:
            PrivacyError: those of an erasure are damaged in every place, and its certificate is not there.
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
        """Return what each place holds of an erasure."""
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

    def older(self) -> PrivacyError | None:
        """Return what to say of a home that lacks erasures which a copy has; None: it lacks none."""
        copies = [copy for name, place in self._places.items() if (copy := self._copy(name, place))]
        lacking = max(copies, key=len, default=[])[len(self.log.entries()) :]  # the log is written before its copies
        return _home_put_back({entry.certificate for entry in lacking}) if lacking else None

    def damaged_logs(self) -> list[PrivacyError]:
        """Return what is wrong with log and copies, each by its name.

        Raises:
            OSError: a copy cannot be read.
            ServiceUnavailable: the log cannot be read.
        """
        return [error for error in self._look().values() if isinstance(error, PrivacyError)]

    def damaged_records(self) -> list[PrivacyError]:
        """Return which certificates and marks are damaged or lost; log and copies are whole, and nobody was put back.

        Raises:
            OSError: a place cannot be read.
            ServiceUnavailable: the log cannot be read.
        """
        whole = {done.id for done in self._certified()}
        found = [_damaged_certificate(path.stem) for path in self._certificate_files() if path.stem not in whole]
        for certificate in (entry.certificate for entry in self.log.entries()):
            if self._contradicted(certificate):
                found.append(_damaged_certificate(certificate))
        return found + [damaged_marks(certificate, name) for certificate, name, _ in self._marks_to_mend()]

    def _contradicted(self, certificate: str) -> bool:
        """Return whether marks that are known to be whole lack one of the certificate's."""
        trusted, certified = self._trusted(certificate), self._of_certificate(certificate)
        return trusted is not None and certified is not None and not certified <= trusted

    def _trusted(self, certificate: str) -> set[str] | None:
        held = self._held(certificate).values()
        return next((set(marks.pseudonyms) for marks in held if isinstance(marks, _Marks) and marks.mac), None)

    def _of_certificate(self, certificate: str) -> set[str] | None:
        return next((set(map(self.keyed, done.tokens)) for done in self._certified() if done.id == certificate), None)

    def _look(self) -> dict[str, list[Entry] | PrivacyError | None]:
        """Return the entries of log (under the empty name) and copies; or what is wrong with each."""
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

    def _marks_to_mend(self) -> Iterator[tuple[str, str, bytes | None]]:
        """Yield marks that are damaged or lost: the certificate, the place, and what has to stand there, if known.

        Of those of an earlier release, which have no mac, all that certificate and places say counts: a hash too many
        finds nothing. Of an erasure that none of them knows there may never have been any.
        """
        for certificate in (entry.certificate for entry in self.log.entries()):
            held, wanted = self._held(certificate), self._trusted(certificate)
            if wanted is None:
                told = [set(marks.pseudonyms) for marks in held.values() if isinstance(marks, _Marks)]
                wanted = set().union(self._of_certificate(certificate) or (), *told)
            pseudonyms = sorted(wanted)
            right = msgspec.json.encode(_Marks(pseudonyms, self._mac(certificate, pseudonyms))) if wanted else None
            for name, marks in held.items():
                if marks == "damaged" or (
                    wanted and not (isinstance(marks, _Marks) and set(marks.pseudonyms) == wanted)
                ):
                    yield certificate, name, right

    def mend(self, *, known: int, pending: Set[str]) -> list[str]:
        """Write log, copies and marks again that are damaged, of those that are whole; return which, in words.

        What is damaged is kept beside it, as ``….damaged``. Nothing is done where the whole ones may lack something:
        fewer entries than the damaged one has lines, or than vault and marks know of.

        Args:
            known: erasures that the vault has seen.
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
            if name and self._mend_copy(self._places[name], best):
                done.append(f"{FILE} ({name}) was written again from the erasure log")
            elif not name and self.log.begin_again(best):
                done.append(f"{self.log.name} was written again from its copy")
        if not any(isinstance(found, PrivacyError) for found in self._look().values()):
            for certificate, name, right in list(self._marks_to_mend()):
                if right is not None:
                    self._places[name].write_small(f"{MARKS}/{certificate}.json", right)
                    done.append(f"{MARKS}/{certificate}.json ({name}) was written again")
        return done

    @staticmethod
    def _mend_copy(place: Storage, entries: Sequence[Entry]) -> bool:
        content = place.read_small(FILE) or b""
        if content.count(b"\n") > len(entries):
            return False
        place.write_small(f"{FILE}.damaged", content)
        place.write_small(FILE, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        return True


def damaged_marks(certificate: str, place: str) -> PrivacyError:
    """Return the error of marks by which an erasure's rows could not be found.

    Args:
        certificate: of the erasure.
        place: where they lie.
    """
    return PrivacyError(
        "By which pseudonyms an erasure's rows are found is damaged or lost",
        where=f"{MARKS}/{Path(certificate).name}.json ({place})",
        remedy="Run 'vitalake lake repair': it is written again from the certificate or another copy; without one of "
        "them restore it from a back-up.",
    )


def _damaged_certificate(certificate: str) -> PrivacyError:
    return PrivacyError(
        "A certificate is damaged",
        where=f"{Path(certificate).name}.json (settings.certificates)",
        remedy="Restore it from a back-up: it is the record of what was erased, and is never written again.",
    )


def _home_put_back(lacking: Set[str]) -> PrivacyError:
    """Return the error of a home that is older than the lake's erasures.

    Args:
        lacking: certificates of the erasures that it lacks.
    """
    return PrivacyError(
        f"This home was put back: it is older than {len(lacking)} erasures that the lake knows of",
        where=", ".join(sorted(lacking)),
        remedy="Vault, care store and scores may hold again who was erased. Run 'vitalake patient reapply': it erases "
        "them again, as does whatever opens the vault next.",
    )


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
