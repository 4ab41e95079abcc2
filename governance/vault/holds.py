"""Legal holds: who must not be erased, why, and until when."""

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


class Holds:
    """The table of holds; a reason is sealed with the patient's own key."""

    def __init__(self, store: Store, patients: Patients) -> None:
        self._store, self._patients = store, patients

    def put(self, lease: Lease, subject: bytes, reason: str, until: datetime | None) -> None:
        """Hold a patient; see Vault.hold."""
        secret = self._patients.secrets(lease, [subject]).get(subject)
        if secret is None:
            raise _unknown()
        sealed = seal(AESGCM(secret), reason.encode(), b"hold", subject)
        with self._store.transaction() as transaction:
            transaction.share()  # who is erased meanwhile must not get a hold that nobody can open or release
            if not transaction.run("SELECT 1 FROM patient WHERE subject = ? AND erased_us IS NULL", (subject,)):
                raise _unknown()
            transaction.run(
                "INSERT INTO hold (subject, reason, until_us) VALUES (?, ?, ?) "
                "ON CONFLICT (subject) DO UPDATE SET reason = excluded.reason, until_us = excluded.until_us",
                (subject, sealed, None if until is None else round(until.timestamp() * 1_000_000)),
            )

    def release(self, subject: bytes) -> None:
        """Let a patient be erased again."""
        with self._store.transaction() as transaction:
            transaction.run("DELETE FROM hold WHERE subject = ?", (subject,))

    def get(self, lease: Lease, subject: bytes) -> Hold | None:
        """Return the hold that is on a patient now; None: none is."""
        return self._now(lease, self._store.read(_HOLD, (subject,)), subject)

    def all(self) -> list[bytes]:
        """Return the subjects on whom a hold is now; needs no key."""
        rows = self._store.read(_ALL)
        return [bytes(subject) for subject, until_us in rows if until_us is None or until_us > clock.now_us()]

    def refuse(self, lease: Lease, transaction: Transaction, subject: bytes) -> None:
        """Stop an erasure that a hold stands against.

        Raises:
            PrivacyError: with the reason.
        """
        if (hold := self._now(lease, transaction.run(_HOLD, (subject,)), subject)) is not None:
            until = f"until {hold.until:%Y-%m-%d}" if hold.until else "until it is released"
            raise PrivacyError(
                f"Patient is on hold {until} ({hold.reason})",
                where="vault",
                remedy="Release the hold first, if that is lawful.",
            )

    def _now(self, lease: Lease, rows: list[tuple[bytes, int | None]], subject: bytes) -> Hold | None:
        for reason, until_us in rows:
            if until_us is None or until_us > clock.now_us():
                secret = self._patients.secrets(lease, [subject]).get(subject)
                if secret is None:  # of who was erased meanwhile, by a release that did not look
                    return None
                opened = unseal(AESGCM(secret), bytes(reason), b"hold", subject).decode()
                return Hold(subject, opened, None if until_us is None else moment(until_us))
        return None


def _unknown() -> InputError:
    return InputError("Patient is not in the vault", where="vault", remedy="Only who is known can be held.")


_HOLD = "SELECT reason, until_us FROM hold WHERE subject = ?"
_ALL = "SELECT hold.subject, until_us FROM hold JOIN patient ON patient.subject = hold.subject WHERE erased_us IS NULL"
