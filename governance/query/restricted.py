"""The query service for identified rows: records each query's purpose, and every patient whose rows the answer uses."""

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
from governance.query.relations import SUBJECT, as_bytes, quoted, text, versions_name
from governance.query.service import ROWS, SECONDS, Answer, QueryService
from governance.query.tracked_run import TrackedFailure, run_tracked
from governance.vault import Vault
from governance.vault.sealed_rows import SUBJECT_BYTES
from vitalake.errors import InputError, VitaLakeError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

if TYPE_CHECKING:
    from governance.query.naming import Columns
    from governance.query.sql import Query

MOST_IDENTIFIED = 10_000
"""The most rows of an answer over identified data: people read it, and each patient in it is recorded."""

PATIENTS_A_RECORD = 1_000
"""The patients that one audit record names; an answer about more of them has several records."""

_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,:/-]{2,79}")
_PSEUDONYM = re.compile(r"v\d+\.[a-z2-7]{32}")


NamedBy = Callable[[str, Vault], tuple[str, frozenset[str]] | None]


class RestrictedQueryService(QueryService):
    """Also answers queries over identified rows; not to be shared between threads."""

    def __init__(
        self, settings: Settings, keys: KeyRing | None = None, *, audit: AuditSink | None = None, named_by: NamedBy
    ) -> None:
        """Open the query service with the rules as they are now.

        Args:
            settings: the home's settings.
            keys: default: the home's keys.
            audit: where queries are recorded; default: the audit chain ``door``.
            named_by: says in which way a text names patients (such as by an id), and returns their pseudonyms; None: it
                names none.
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
        """Return the answer of a query over identified rows, with its cells opened: null where a patient is forgotten.

        The query runs over sealed cells in the sandbox, as any other. Before a cell is opened, the audit records by
        pseudonym every patient whose rows the answer uses, the patient asked for, and each patient whom a constant
        names, even if no row is found. If a query fails while it reads rows, all patients whose rows it could read are
        recorded.

        Args:
            sql: one SELECT; besides the relations of ``query`` it can read ``restricted_<dataset>``,
                ``restricted_<dataset>_versions`` and ``restricted_<dataset>_as_known_at``.
            principal: who asks; needs ``identified:query``.
            purpose: why, for the record: a code, or words that name no patient.
            patient: reads only this patient's rows; a pseudonym, the record number, or the id of the source.
            rows: the most rows of the answer; never more than MOST_IDENTIFIED.
            seconds: how long the query may run.

        Raises:
            MissingPermission: the role does not allow it.
            InputError: the purpose cannot be recorded or names a patient; or no patient is known by ``patient``.
            KeyRevoked: the patients' keys are not available; nothing is answered.
            QueryRefused: as ``query``; or it cannot be told which patients' rows the answer would use.
            QueryFailed, VitaLakeError: as ``query``; or the answer uses rows of too many patients.
        """
        from governance.query.naming import constants
        from governance.query.sql import check
        from governance.query.tracking import track, with_side_queries

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
            literals = constants(query.sql, self._columns_of(query))
        except QueryRefused:
            self._record("denied", principal, {"permission": "identified:query", "reason": "query"})
            raise
        detail = {"purpose": purpose} | ({"patient": "one"} if patient else {})
        with self._unlocked(query, principal) as vault:
            self._refuse_names(purpose, vault, principal)
            subject, named = (
                (None, ()) if patient is None else self._find_patient(vault, patient, query, principal, detail)
            )
            named = (*named, *self._named_patients(vault, literals))
            names = [name for name in query.datasets if name in self.catalogue.identified_names]
            tracked = with_side_queries(tracked, self._record_queries(names, literals))
            with self._sandbox(query, principal, seconds=seconds, identified=True, subject=subject) as run:
                result = run_tracked(run, tracked, names, rows=min(rows, MOST_IDENTIFIED))
            if isinstance(result, TrackedFailure):
                subjects = result.subjects or set()
                unnamed = self._count_without_pseudonym(vault, subjects)
                detail |= {"patients": "not all"} if result.subjects is None else unnamed
                patients = self._pseudonyms(vault, subjects, named)
                self._record_patients(query, principal, 0, result.outcome, detail, patients)
                by_name = result.unread and result.outcome == "names"
                raise failure("names", remedy=self._available(query)) if by_name else result.error
            cells = Cells(result.rows, self._sealed_columns(query))
            subjects = result.subjects | cells.owners
            detail |= self._count_without_pseudonym(vault, subjects)
            patients = self._pseudonyms(vault, subjects, named)
            self._record_patients(query, principal, result.rows.num_rows, "answered", detail, patients)
            return Answer(cells.opened(cells.secrets(vault)), not result.more, query.datasets)

    def _columns_of(self, query: Query) -> Columns:
        """Return the columns that a query may read, and which of them identify patients."""
        from governance.query.naming import Columns

        types = [(name, *item) for name in query.datasets for item in self.catalogue.columns(name).items()]
        identifying = [(name, *item) for name in query.datasets for item in self.catalogue.identifying(name).items()]
        blobs = {(name, column) for name, column, kind in types if kind == "BLOB"}
        others = {column for _, column, person in identifying if not person}
        restricted = [name for name in query.datasets if name in self.catalogue.identified_names]
        return Columns(
            {column for _, column, _ in types},
            identifying={column for _, column, _ in identifying},
            people={column for _, column, person in identifying if person} - others,
            texts={column for name, column, _ in identifying if (name, column) not in blobs},
            sealed={column for name in restricted for column in self.catalogue.sealed(name)},
            randomised={column for name in restricted for column in self.catalogue.randomised(name)},
            remedy=self._available(query),
        )

    def _record_queries(self, names: Iterable[str], literals: Iterable[str]) -> list[str]:
        """Return side queries for the patients of the rows that constants name by a record's id."""
        found = sorted({value.hex().upper() for literal in literals for value in _as_ids(literal)})
        if not found:
            return []
        columns = [(name, column) for name in names for column in self.catalogue.record_ids(name)]
        ids = ", ".join(map(text, found))
        return [
            f"SELECT {SUBJECT} FROM {quoted(versions_name(name))} WHERE hex({quoted(column)}) IN ({ids})"  # noqa: S608
            for name, column in columns
        ]

    @staticmethod
    def _named_patients(vault: Vault, literals: Iterable[str]) -> set[str]:
        """Return the pseudonyms of the patients that constants name.

        A constant may be a pseudonym, a subject, the id of a source, or a record number.
        """
        found, pseudonyms = set[str](), vault.tokens() if literals else {}
        for literal in {*literals, *map(str.lower, literals)}:  # a query may apply upper() or lower() to a pseudonym
            subjects = {vault.subject_of(literal), vault.subject_of_token(literal), *_as_ids(literal)}
            named = {pseudonyms.get(subject) for subject in subjects if subject} | {vault.token_of_mrn(literal)}
            # A pseudonym that the vault does not have may be an erased patient's: it is recorded, as with --patient.
            found |= {token for token in named if token} | ({literal} if _PSEUDONYM.fullmatch(literal) else set())
        return found

    def _sealed_columns(self, query: Query) -> dict[str, pa.DataType]:
        """Return ``<dataset>.<column>`` → type of the readable columns that hold, or may hold, sealed values."""
        return {
            f"{self.catalogue.dataset_of(name)}.{column}": kind
            for name in query.datasets
            if name in self.catalogue.identified_names
            for column, kind in (self.catalogue.sealed(name) | self.catalogue.partly_sealed(name)).items()
        }

    def _find_patient(
        self, vault: Vault, patient: str, query: Query, principal: Principal, detail: dict[str, str]
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return the subject for a pseudonym, record number or source's id, and the pseudonym to record.

        Raises:
            InputError: no patient is known by it; that is recorded too.
        """
        if _PSEUDONYM.fullmatch(patient):
            pseudonym, subject = patient, vault.subject_of_token(patient)
        else:
            pseudonym = Pseudonyms(self._keys, "patient-identifier")(pa.array([patient]))[0].as_py()
            subject = vault.subject_of(patient)
            if subject not in vault.tokens() and vault.tombstone(subject) is None:
                token = vault.token_of_mrn(patient)
                pseudonym, subject = token or pseudonym, vault.subject_of_token(token) if token else None
        if subject is None:
            self._record_query(query, principal, rows=0, outcome="nobody", detail=detail, patients=(pseudonym,))
            raise InputError(
                "No patient is known by this value",
                where="--patient",
                remedy="Give a pseudonym, a record number, or the id as the source writes it.",
            )
        return subject, (pseudonym,)

    def _refuse_names(self, purpose: str, vault: Vault, principal: Principal) -> None:
        """Refuse a purpose that names a patient, for it is kept in clear; the refusal is recorded without the purpose.

        Raises:
            InputError: it names one.
        """
        if (match := self._named_by(purpose, vault)) is not None:
            what, patients = match
            detail = {"permission": "identified:query", "reason": "names"}
            self._record("denied", principal, detail, tuple(sorted(patients)))
            raise InputError(
                f"Purpose holds {what}",
                where="--purpose",
                remedy="The audit keeps it in clear: give a number instead, such as the complaint's.",
            )

    @staticmethod
    def _count_without_pseudonym(vault: Vault, subjects: Collection[bytes | None]) -> dict[str, str]:
        """Return how many subjects have no pseudonym: rows of an erased patient may still be in a table."""
        pseudonyms = vault.tokens() if subjects else {}
        count = sum(subject not in pseudonyms for subject in subjects)
        return {"without_pseudonym": str(count)} if count else {}

    @staticmethod
    def _pseudonyms(vault: Vault, subjects: Collection[bytes | None], named: tuple[str, ...]) -> tuple[str, ...]:
        tokens = vault.tokens() if subjects else {}
        return tuple(sorted({*named, *(tokens[subject] for subject in subjects if subject in tokens)}))

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
            batch = patients[begin : begin + PATIENTS_A_RECORD]
            self._record_query(query, principal, rows=rows, outcome=outcome, detail=detail, patients=batch)

    @contextmanager
    def _unlocked(self, query: Query, principal: Principal) -> Iterator[Vault]:
        """Open the vault; record it if its keys are not available.

        That record has no purpose: without the vault nobody can check whether the purpose names a patient.
        """
        with closing(open_vault(self._settings, self._keys, purpose="identified-query")) as vault:
            try:
                vault.check()
            except VitaLakeError:
                self._record_query(query, principal, rows=0, outcome="locked", detail={})
                raise
            yield vault


def _as_ids(literal: str) -> Iterator[bytes]:
    """Yield the subjects or record ids that a constant may stand for, read as hex digits or as a DuckDB blob."""
    readings = [as_bytes(literal)]
    with suppress(ValueError):
        readings.append(bytes.fromhex(literal))
    yield from (value for value in readings if len(value) == SUBJECT_BYTES)
