"""The door to identified rows: closed by default, on record with its purpose, and whom an answer was about."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from governance.access.principal import Principal
from governance.door.door import ROWS, SECONDS, Answer, Door
from governance.door.errors import QueryFailed, QueryRefused, failure, untold
from governance.door.identified import Cells
from governance.door.relations import SUBJECT, WHO, quoted, versions_name
from governance.door.worker import Head
from governance.keyuse import open_vault
from governance.masks import Pseudonyms
from vitalake.errors import InputError, VitaLakeError
from vitalake.vault import Vault

if TYPE_CHECKING:
    from governance.door.sql import Query

Run = Callable[[str, int], tuple[Head, pa.Table | None]]

MOST_IDENTIFIED = 10_000
"""Rows of an answer over identified data: it is read by people, and each patient in it is on record."""

MOST_PATIENTS = 100_000
"""Whose rows one answer rests on. Each is put on record."""

PATIENTS_A_RECORD = 1_000
_BY_VALUES = frozenset({"cast", "range", "memory", "time", "size", "failed"})
"""Failures that depend on what the rows hold."""

_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,:/-]{2,79}")
_PSEUDONYM = re.compile(r"v\d+\.[a-z2-7]{32}")


class RestrictedDoor(Door):
    """Hands out identified rows too; not to be shared between threads."""

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
        recorded, by pseudonym, before a cell is opened; also the patient asked for, though nothing is found, and with
        a failure that depends on values everybody whose rows could be read.

        Args:
            sql: one SELECT; besides what ``query`` knows, ``restricted_<dataset>`` and its ``_versions`` and
                ``_as_known_at``.
            principal: who asks; needs ``identified:query``.
            purpose: why, in codes or in words without a patient, for the record.
            patient: only rows of this one; a pseudonym, or the id of the source.
            rows: at most so many, and at most MOST_IDENTIFIED.
            seconds: it may run.

        Raises:
            MissingPermission: the role does not allow it.
            InputError: the purpose cannot be recorded, or nobody has this pseudonym.
            KeyRevoked: the patients' keys cannot be had; nothing is answered.
            QueryRefused: as ``query``; or it cannot be known whose rows the answer would rest on.
            QueryFailed, VitaLakeError: as ``query``; or it rests on too many patients' rows.
        """
        from governance.door.sql import check
        from governance.door.tracking import track

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
        except QueryRefused:
            self._record("denied", principal, {"permission": "identified:query", "reason": "query"})
            raise
        detail = {"purpose": purpose} | ({"patient": "one"} if patient else {})
        with self._unlocked(query, principal, detail) as vault:
            subject, about = (None, ()) if patient is None else self._asked(vault, patient, query, principal, detail)
            with self._sandbox(
                query, principal, seconds=seconds, subject=subject, detail=detail, patients=about
            ) as run:
                head, table = run(tracked.sql, min(rows, MOST_IDENTIFIED))
                if table is None:
                    failed = head.failed or "failed"
                    others = self._readable(run, query) if failed in _BY_VALUES else set[bytes]()
                    detail |= {"patients": "not all"} if others is None else self._nameless(vault, others)
                    patients = self._tokens(vault, others or (), about)
                    self._record_patients(query, principal, 0, failed, detail, patients)
                    raise failure(failed, remedy=self._known(query) if failed == "names" else "")
                try:
                    table, others = _without(table) if tracked.carried else (table, set[bytes]())
                    others |= _aside(run, tracked.aside)
                    cells = Cells(table, self._places(query))
                except VitaLakeError:
                    self._record_query(query, principal, rows=0, outcome="untold", detail=detail, patients=about)
                    raise
            secrets, patients = cells.secrets(vault), self._tokens(vault, cells.owners | others, about)
            detail |= self._nameless(vault, cells.owners | others)
            self._record_patients(query, principal, table.num_rows, "answered", detail, patients)
            return Answer(cells.opened(secrets), not head.more, query.datasets)

    def _places(self, query: Query) -> dict[str, pa.DataType]:
        """Return ``<dataset>.<column>`` of what a query could read that is or may be sealed, with their types."""
        return {
            f"{self.catalogue.dataset(name)}.{column}": kind
            for name in query.datasets
            if name in self.catalogue.identified_names
            for column, kind in (self.catalogue.sealed(name) | self.catalogue.coded(name)).items()
        }

    def _readable(self, run: Run, query: Query) -> set[bytes] | None:
        """Return the subjects of all rows a query could read: that it failed says something about one of them.

        None: they are too many, or cannot be had.
        """
        names = [name for name in query.datasets if name in self.catalogue.identified_names]
        tables = [f"SELECT {SUBJECT} FROM {quoted(versions_name(name))}" for name in names]  # noqa: S608
        if not tables:
            return set()
        sql = f"SELECT DISTINCT {SUBJECT} AS {WHO} FROM ({' UNION ALL '.join(tables)})"  # noqa: S608
        head, found = run(sql, MOST_PATIENTS)
        return None if found is None or head.more else set(found.column(WHO).to_pylist())

    def _asked(
        self, vault: Vault, patient: str, query: Query, principal: Principal, detail: dict[str, str]
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return the subject of a pseudonym or of a source's id, and the pseudonym: asking is recorded, also in vain.

        Raises:
            InputError: nobody has this pseudonym.
        """
        known = _PSEUDONYM.fullmatch(patient)
        subject = vault.subject_of_token(patient) if known else vault.subject_of(patient)
        if subject is None:
            self._record_query(query, principal, rows=0, outcome="nobody", detail=detail, patients=(patient,))
            raise InputError(
                "Nobody has this pseudonym", where="--patient", remedy="Check it; it may be of an older key."
            )
        made: str = patient if known else Pseudonyms(self._keys, "patient-identifier")(pa.array([patient]))[0].as_py()
        return subject, (made,)

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
    def _unlocked(self, query: Query, principal: Principal, detail: dict[str, str]) -> Iterator[Vault]:
        """Open the vault; that its keys cannot be had is recorded, and nothing was answered."""
        with closing(open_vault(self._settings, self._keys, purpose="identified-query")) as vault:
            try:
                vault.check()
            except VitaLakeError:
                self._record_query(query, principal, rows=0, outcome="locked", detail=detail)
                raise
            yield vault


def _without(table: pa.Table) -> tuple[pa.Table, set[bytes]]:
    """Return an answer without its last column, ``who__``, and the subjects in that."""
    last = table.num_columns - 1
    return table.remove_column(last), set(pc.list_flatten(table.column(last)).unique().to_pylist())


def _aside(run: Run, sql: str) -> set[bytes]:
    """Return the subjects that the second query finds.

    Raises:
        QueryRefused: it looks outwards, so that it cannot be asked by itself.
        QueryFailed: it has no answer within the limits, or too many.
    """
    if not sql:
        return set()
    head, found = run(sql, MOST_PATIENTS)
    if head.failed == "names":
        raise untold("a subquery that looks outwards")
    if found is None:
        raise failure(head.failed or "failed")
    if head.more:
        raise QueryFailed(
            "Query rests on more patients than are put on record at once",
            where="vitalake sql --identified",
            remedy=f"Ask for fewer: at most {MOST_PATIENTS:,}.",
        )
    return set(found.column(WHO).to_pylist())
