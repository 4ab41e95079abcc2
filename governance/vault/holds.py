"""Legal holds: which patients must not be erased, why, and until when."""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.vault.lease import Lease
from governance.vault.patients import Patients
from governance.vault.records import Hold, moment
from governance.vault.seals import seal, unseal
from governance.vault.store import Store, Transaction
from vitalake import clock
from vitalake.errors import InputError, PrivacyError

_DAY_US = 86_400_000_000


class Holds:
    """The table of holds; each reason is sealed with the patient's own key."""

    def __init__(self, store: Store, patients: Patients) -> None:
        self._store, self._patients = store, patients

    def put(self, lease: Lease, subject: bytes, reason: str, until: datetime | None) -> None:
        """Hold a patient; see Vault.hold."""
        if until is not None and until <= clock.now():
            raise InputError(
                "Legal hold would be over already",
                where="until",
                remedy="Give a day that has not passed. Nothing is set.",
            )
        secret = self._patients.secrets(lease, [subject]).get(subject)
        if secret is None:
            raise _unknown()
        sealed = seal(AESGCM(secret), reason.encode(), b"hold", subject)
        with self._store.transaction() as transaction:
            transaction.lock_shared()  # a patient erased meanwhile must not get a hold that nobody can open or release
            if not transaction.run("SELECT 1 FROM patient WHERE subject = ? AND erased_us IS NULL", (subject,)):
                raise _unknown()
            transaction.run(
                "INSERT INTO hold (subject, reason, until_us) VALUES (?, ?, ?) "
                "ON CONFLICT (subject) DO UPDATE SET reason = excluded.reason, until_us = excluded.until_us",
                (subject, sealed, None if until is None else round(until.timestamp() * 1_000_000)),
            )

    def release(self, subject: bytes) -> None:
        """End a patient's hold, so that the patient can be erased."""
        with self._store.transaction() as transaction:
            transaction.run("DELETE FROM hold WHERE subject = ?", (subject,))

    def get(self, lease: Lease, subject: bytes) -> Hold | None:
        """Return a patient's hold if it has not ended; None: there is none."""
        return self._current(lease, self._store.read(_HOLD, (subject,)), subject)

    def all(self) -> list[bytes]:
        """Return the subjects whose hold has not ended; needs no key."""
        rows = self._store.read(_ALL)
        return [bytes(subject) for subject, until_us in rows if not _is_over(until_us)]

    def refuse(self, lease: Lease, transaction: Transaction, subject: bytes) -> None:
        """Refuse to erase a patient who is under a hold.

        Raises:
            PrivacyError: gives the reason of the hold.
        """
        if (hold := self._current(lease, transaction.run(_HOLD, (subject,)), subject)) is not None:
            until = f"until {hold.until:%Y-%m-%d}" if hold.until else "until it is released"
            raise PrivacyError(
                f"Patient is under a legal hold {until} ({hold.reason})",
                where="vault",
                remedy="Release the hold first, if the law allows it: vitalake patient release.",
            )

    def _current(self, lease: Lease, rows: list[tuple[bytes, int | None]], subject: bytes) -> Hold | None:
        for reason, until_us in rows:
            if not _is_over(until_us):
                secret = self._patients.secrets(lease, [subject]).get(subject)
                if secret is None:  # erased meanwhile, by an earlier release without this check
                    return None
                opened = unseal(AESGCM(secret), bytes(reason), b"hold", subject).decode()
                return Hold(subject, opened, None if until_us is None else moment(until_us))
        return None


def _is_over(until_us: int | None) -> bool:
    """Return whether a hold has ended; None: it has no end.

    Earlier releases stored the midnight at which the last day begins, and not its end; that day counts.
    """
    if until_us is None:
        return False
    return until_us + (_DAY_US if until_us % _DAY_US == 0 else 0) <= clock.now_us()


def _unknown() -> InputError:
    return InputError(
        "Patient is not in the vault, or is erased", where="vault", remedy="Give a patient whom the vault knows."
    )


_HOLD = "SELECT reason, until_us FROM hold WHERE subject = ?"
_ALL = "SELECT hold.subject, until_us FROM hold JOIN patient ON patient.subject = hold.subject WHERE erased_us IS NULL"
