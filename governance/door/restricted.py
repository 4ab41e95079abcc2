"""The door to identified rows: closed by default, on record with its purpose, and whom an answer was about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from governance.access.principal import Principal
from governance.door.door import ROWS, SECONDS, Answer, Door
from governance.door.errors import QueryRefused, failure
from governance.door.identified import Cells
from vitalake.errors import InputError, VitaLakeError
from vitalake.vault import Vault, open_vault

if TYPE_CHECKING:
    from governance.door.sql import Query

MOST_IDENTIFIED = 10_000
"""Rows of an answer over identified data: it is read by people, and each patient in it is on record."""

PATIENTS_A_RECORD = 1_000
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

        The query itself runs over sealed cells, as every other one does. Whom the answer is about is recorded, by
        pseudonym, before a cell is opened.

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
            QueryRefused, QueryFailed, VitaLakeError: as ``query``.
        """
        from governance.door.sql import check

        self._require(principal, "identified:query")
        if not _PURPOSE.fullmatch(purpose):
            raise InputError(
                "Purpose cannot be recorded",
                where="--purpose",
                remedy="Say why in 3 to 80 letters, digits, blanks and _.,:/- without naming a patient.",
            )
        try:
            query = check(sql, [*self.catalogue.names, *self.catalogue.identified_names])
        except QueryRefused:
            self._record("denied", principal, {"permission": "identified:query", "reason": "query"})
            raise
        detail = {"purpose": purpose} | ({"patient": "one"} if patient else {})
        with self._unlocked(query, principal, detail) as vault:
            subject = None if patient is None else _subject(vault, patient)
            head, table = self._run(
                query, principal, rows=min(rows, MOST_IDENTIFIED), seconds=seconds, subject=subject, detail=detail
            )
            if table is None:
                self._record_query(query, principal, rows=0, outcome=head.failed or "failed", detail=detail)
                raise failure(head.failed or "failed", remedy=self._known(query) if head.failed == "names" else "")
            return Answer(self._open(query, principal, table, vault, detail), not head.more, query.datasets)

    def _open(
        self, query: Query, principal: Principal, table: pa.Table, vault: Vault, detail: dict[str, str]
    ) -> pa.Table:
        """Record whom an answer is about, then open its cells."""
        names = set(query.datasets) & set(self.catalogue.identified_names)
        places = {
            f"{self.catalogue.dataset(name)}.{column}": kind
            for name in sorted(names)
            for column, kind in self.catalogue.sealed(name).items()
        }
        cells = Cells(table, places)
        secrets, patients = cells.secrets(vault), cells.patients(vault)
        for begin in range(0, max(len(patients), 1), PATIENTS_A_RECORD):
            some = tuple(patients[begin : begin + PATIENTS_A_RECORD])
            self._record_query(query, principal, rows=table.num_rows, outcome="answered", detail=detail, patients=some)
        return cells.opened(secrets)

    @contextmanager
    def _unlocked(self, query: Query, principal: Principal, detail: dict[str, str]) -> Iterator[Vault]:
        """Open the vault; that its keys cannot be had is recorded, and nothing was answered."""
        with closing(open_vault(self._settings, self._keys)) as vault:
            try:
                vault.check()
            except VitaLakeError:
                self._record_query(query, principal, rows=0, outcome="locked", detail=detail)
                raise
            yield vault


def _subject(vault: Vault, patient: str) -> bytes:
    """Return the subject of a pseudonym or of a source's id.

    Raises:
        InputError: nobody has this pseudonym.
    """
    subject = vault.subject_of_token(patient) if _PSEUDONYM.fullmatch(patient) else vault.subject_of(patient)
    if subject is None:
        raise InputError("Nobody has this pseudonym", where="--patient", remedy="Check it; it may be of an older key.")
    return subject
