"""The query service to identified rows: closed by default, on record with its purpose, and whom an answer was about."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from governance.access.principal import Principal
from governance.audit import AuditSink
from governance.keyuse import open_vault
from governance.policy.masks import Pseudonyms
from governance.query.errors import QueryRefused, failure
from governance.query.identified import Cells
from governance.query.looking import Failed, look
from governance.query.relations import SUBJECT, as_bytes, quoted, text, versions_name
from governance.query.service import ROWS, SECONDS, Answer, QueryService
from governance.vault import Vault
from governance.vault.sealed_rows import SUBJECT_BYTES
from vitalake.errors import InputError, VitaLakeError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

if TYPE_CHECKING:
    from governance.query.naming import Columns
    from governance.query.sql import Query

MOST_IDENTIFIED = 10_000
"""Rows of an answer over identified data: it is read by people, and each patient in it is on record."""

PATIENTS_A_RECORD = 1_000

_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,:/-]{2,79}")
_PSEUDONYM = re.compile(r"v\d+\.[a-z2-7]{32}")


NamedBy = Callable[[str, Vault], tuple[str, frozenset[str]] | None]


class RestrictedQueryService(QueryService):
    """Hands out identified rows too; not to be shared between threads."""

    def __init__(
        self, settings: Settings, keys: KeyRing | None = None, *, audit: AuditSink | None = None, named_by: NamedBy
    ) -> None:
        """Open the query service by the rules as they are now.

        Args:
            settings: of the home.
            keys: default: the home's.
            audit: default: the chain ``door``.
            named_by: by what some words name patients, and their pseudonyms; None: they name nobody.
        """
        super().__init__(settings, keys, audit=audit)
        self._named_by = named_by

    def identify(
        self,
        sql: str,
        *,
        principal: Principal,
        purpose: str,
        patient: str | None = None,
        rows: int = ROWS,
        seconds: int = SECONDS,
    ) -> Answer:
        """Return the answer of a query over identified rows, their cells opened; those of forgotten patients are null.

        The query itself runs over sealed cells, as every other one does. Everybody whose rows the answer rests on is
        recorded, by pseudonym, before a cell is opened; also the patients asked for and those whom a constant in it
        names, though nothing is found, and with a failure that depends on values everybody whose rows could be read.

        Args:
            sql: one SELECT; besides what ``query`` knows, ``restricted_<dataset>`` and its ``_versions`` and
                ``_as_known_at``.
            principal: who asks; needs ``identified:query``.
            purpose: why, in codes or in words without a patient, for the record.
            patient: only rows of this one; a pseudonym, the record number, or the id of the source.
            rows: at most so many, and at most MOST_IDENTIFIED.
            seconds: it may run.

        Raises:
            MissingPermission: the role does not allow it.
            InputError: the purpose cannot be recorded, or names a patient; or nobody is known by what was given.
            KeyRevoked: the patients' keys cannot be had; nothing is answered.
            QueryRefused: as ``query``; or it cannot be known whose rows the answer would rest on.
            QueryFailed, VitaLakeError: as ``query``; or it rests on too many patients' rows.
        """
        from governance.query.naming import constants
        from governance.query.sql import check
        from governance.query.tracking import also, track

        self._require(principal, "identified:query")
        if not _PURPOSE.fullmatch(purpose):
            raise InputError(
                "Purpose cannot be recorded",
                where="--purpose",
                remedy="Say why in 3 to 80 letters, digits, blanks and _.,:/- without naming a patient.",
            )
        try:
            query = check(sql, [*self.catalogue.names, *self.catalogue.identified_names])
            tracked = track(query.sql, self.catalogue.identified_names)
            said = constants(query.sql, self._columns_of(query))
        except QueryRefused:
            self._record("denied", principal, {"permission": "identified:query", "reason": "query"})
            raise
        detail = {"purpose": purpose} | ({"patient": "one"} if patient else {})
        with self._unlocked(query, principal) as vault:
            self._refuse_names(purpose, vault, principal)
            subject, about = (None, ()) if patient is None else self._asked(vault, patient, query, principal, detail)
            about = (*about, *self._named(vault, said))
            names = [name for name in query.datasets if name in self.catalogue.identified_names]
            tracked = also(tracked, self._of_records(names, said))
            with self._sandbox(query, principal, seconds=seconds, subject=subject) as run:
                seen = look(run, tracked, names, rows=min(rows, MOST_IDENTIFIED))
            if isinstance(seen, Failed):
                subjects = seen.subjects or set()
                detail |= {"patients": "not all"} if seen.subjects is None else self._nameless(vault, subjects)
                patients = self._tokens(vault, subjects, about)
                self._record_patients(query, principal, 0, seen.outcome, detail, patients)
                by_name = seen.unread and seen.outcome == "names"
                raise failure("names", remedy=self._known(query)) if by_name else seen.error
            cells = Cells(seen.rows, self._places(query))
            subjects = seen.subjects | cells.owners
            detail |= self._nameless(vault, subjects)
            patients = self._tokens(vault, subjects, about)
            self._record_patients(query, principal, seen.rows.num_rows, "answered", detail, patients)
            return Answer(cells.opened(cells.secrets(vault)), not seen.more, query.datasets)

    def _columns_of(self, query: Query) -> Columns:
        """Return which columns a query may read, and what they say of whom."""
        from governance.query.naming import Columns

        types = [(name, *item) for name in query.datasets for item in self.catalogue.columns(name).items()]
        found = [(name, *item) for name in query.datasets for item in self.catalogue.identifying(name).items()]
        blobs = {(name, column) for name, column, kind in types if kind == "BLOB"}
        others = {column for _, column, person in found if not person}
        restricted = [name for name in query.datasets if name in self.catalogue.identified_names]
        return Columns(
            {column for _, column, _ in types},
            identifying={column for _, column, _ in found},
            people={column for _, column, person in found if person} - others,
            texts={column for name, column, _ in found if (name, column) not in blobs},
            sealed={column for name in restricted for column in self.catalogue.sealed(name)},
            varying={column for name in restricted for column in self.catalogue.varying(name)},
            remedy=self._known(query),
        )

    def _of_records(self, names: Iterable[str], said: Iterable[str]) -> list[str]:
        """Return queries for the patients of the rows that constants name by a record's id."""
        ids = sorted({found.hex().upper() for constant in said for found in _bytes(constant)})
        if not ids:
            return []
        columns = [(name, column) for name in names for column in self.catalogue.records(name)]
        those = ", ".join(map(text, ids))
        return [
            f"SELECT {SUBJECT} FROM {quoted(versions_name(name))} WHERE hex({quoted(column)}) IN ({those})"  # noqa: S608
            for name, column in columns
        ]

    @staticmethod
    def _named(vault: Vault, said: Iterable[str]) -> set[str]:
        """Return the pseudonyms of those whom constants name: by a pseudonym, a subject, a source's id or a number."""
        found, known = set[str](), vault.tokens() if said else {}
        for constant in {*said, *map(str.lower, said)}:  # upper() and lower() of a pseudonym are the same one
            subjects = {vault.subject_of(constant), vault.subject_of_token(constant), *_bytes(constant)}
            named = {known.get(subject) for subject in subjects if subject} | {vault.token_of_mrn(constant)}
            # One that nobody has may be of an erased patient, as one that is asked for.
            found |= {token for token in named if token} | ({constant} if _PSEUDONYM.fullmatch(constant) else set())
        return found

    def _places(self, query: Query) -> dict[str, pa.DataType]:
        """Return ``<dataset>.<column>`` of what a query could read that is or may be sealed, with their types."""
        return {
            f"{self.catalogue.dataset(name)}.{column}": kind
            for name in query.datasets
            if name in self.catalogue.identified_names
            for column, kind in (self.catalogue.sealed(name) | self.catalogue.coded(name)).items()
        }

    def _asked(
        self, vault: Vault, patient: str, query: Query, principal: Principal, detail: dict[str, str]
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return the subject of a pseudonym, record number or source's id, and the pseudonym, which is recorded.

        Raises:
            InputError: nobody is known by it, which is recorded too.
        """
        if _PSEUDONYM.fullmatch(patient):
            made, subject = patient, vault.subject_of_token(patient)
        else:
            made = Pseudonyms(self._keys, "patient-identifier")(pa.array([patient]))[0].as_py()
            subject = vault.subject_of(patient)
            if subject not in vault.tokens() and vault.tombstone(subject) is None:
                token = vault.token_of_mrn(patient)
                made, subject = token or made, vault.subject_of_token(token) if token else None
        if subject is None:
            self._record_query(query, principal, rows=0, outcome="nobody", detail=detail, patients=(made,))
            raise InputError(
                "Nobody is known by this",
                where="--patient",
                remedy="Give a pseudonym, a record number, or the id as the source writes it.",
            )
        return subject, (made,)

    def _refuse_names(self, purpose: str, vault: Vault, principal: Principal) -> None:
        """Stop where a purpose, which is kept in clear, names a patient; the refusal is recorded without it.

        Raises:
            InputError: it does.
        """
        if (found := self._named_by(purpose, vault)) is not None:
            what, patients = found
            detail = {"permission": "identified:query", "reason": "names"}
            self._record("denied", principal, detail, tuple(sorted(patients)))
            raise InputError(
                f"Purpose holds {what}",
                where="--purpose",
                remedy="It is kept in clear: give a number, such as the complaint's.",
            )

    @staticmethod
    def _nameless(vault: Vault, subjects: Collection[bytes | None]) -> dict[str, str]:
        """Return how many have no pseudonym any more: rows of who was erased may still lie in a table."""
        known = vault.tokens() if subjects else {}
        count = sum(subject not in known for subject in subjects)
        return {"without_pseudonym": str(count)} if count else {}

    @staticmethod
    def _tokens(vault: Vault, subjects: Collection[bytes | None], about: tuple[str, ...]) -> tuple[str, ...]:
        tokens = vault.tokens() if subjects else {}
        return tuple(sorted({*about, *(tokens[subject] for subject in subjects if subject in tokens)}))

    def _record_patients(
        self,
        query: Query,
        principal: Principal,
        rows: int,
        outcome: str,
        detail: dict[str, str],
        patients: tuple[str, ...],
    ) -> None:
        for begin in range(0, max(len(patients), 1), PATIENTS_A_RECORD):
            some = patients[begin : begin + PATIENTS_A_RECORD]
            self._record_query(query, principal, rows=rows, outcome=outcome, detail=detail, patients=some)

    @contextmanager
    def _unlocked(self, query: Query, principal: Principal) -> Iterator[Vault]:
        """Open the vault; that its keys cannot be had is recorded, and nothing was answered.

        The purpose is not in that record: whether it names a patient cannot be known.
        """
        with closing(open_vault(self._settings, self._keys, purpose="identified-query")) as vault:
            try:
                vault.check()
            except VitaLakeError:
                self._record_query(query, principal, rows=0, outcome="locked", detail={})
                raise
            yield vault


def _bytes(constant: str) -> Iterator[bytes]:
    """Yield the subjects and ids of records that a constant may be: hexadecimal digits, or bytes as DuckDB has them."""
    found = [as_bytes(constant)]
    with suppress(ValueError):
        found.append(bytes.fromhex(constant))
    yield from (one for one in found if len(one) == SUBJECT_BYTES)
