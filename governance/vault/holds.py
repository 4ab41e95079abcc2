"""Legal holds: which patients must not be erased, why, and until when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.vault.lease import Lease
from governance.vault.patients import Patients
from governance.vault.records import Hold, moment
from governance.vault.seals import seal, unseal
from governance.vault.store import Row, Store, Transaction
from vitalake import clock
from vitalake.errors import InputError, PrivacyError

_DAY_US = 86_400_000_000


class _Kept(msgspec.Struct):
    """One hold as it is sealed; ``until_us`` None: it has no end."""

    reason: str
    until_us: int | None


class Holds:
    """The table of holds: one row for each patient with a list of holds, sealed with the patient's own key.

    The row's own end, in clear, is that of the hold that ends last: so whom retention spares is known without a key.
    """

    def __init__(self, store: Store, patients: Patients) -> None:
        self._store, self._patients = store, patients

    def put(self, lease: Lease, subject: bytes, reason: str, until: datetime | None) -> Hold | None:
        """Hold a patient; see Vault.hold."""
        if until is not None and until <= clock.now():
            raise InputError(
                "Legal hold would be over already",
                where="until",
                remedy="Give a day that has not passed. Nothing is set.",
            )
        new = _Kept(reason, None if until is None else round(until.timestamp() * 1_000_000))
        secret = self._patients.secrets(lease, [subject]).get(subject)
        if secret is None:
            raise _unknown()
        with self._store.transaction() as transaction:
            transaction.lock_exclusively()  # two who add a hold at once must not lose one of them
            # A patient erased meanwhile must not get a hold that nobody can open or release.
            if not transaction.run("SELECT 1 FROM patient WHERE subject = ? AND erased_us IS NULL", (subject,)):
                raise _unknown()
            before = _opened(secret, transaction.run(_HOLD, (subject,)), subject)
            _write(transaction, secret, subject, [*(kept for kept in before if kept.reason != reason), new])
        replaced = [kept for kept in before if kept.reason == reason]
        return _hold(subject, replaced[0]) if replaced else None

    def release(self, lease: Lease, subject: bytes, reason: str | None) -> list[Hold]:
        """End one of a patient's holds; see Vault.release."""
        secret = self._patients.secrets(lease, [subject]).get(subject)
        with self._store.transaction() as transaction:
            transaction.lock_exclusively()
            standing = [] if secret is None else _opened(secret, transaction.run(_HOLD, (subject,)), subject)
            named = [kept for kept in standing if reason in (None, kept.reason)]
            if secret is None or not standing:
                raise InputError("Patient is under no legal hold", where="vault", remedy="There is nothing to release.")
            if len(named) != 1:
                what = "Patient has several legal holds" if named else "Patient has no legal hold with this reason"
                raise InputError(
                    f"{what}: {_listed(standing)}",
                    where="vault",
                    remedy="Give the reason of the one to release: vitalake patient release --reason. Nothing changed.",
                )
            left = [kept for kept in standing if kept.reason != named[0].reason]
            _write(transaction, secret, subject, left)
        return [_hold(subject, kept) for kept in left]

    def get(self, lease: Lease, subject: bytes) -> list[Hold]:
        """Return a patient's holds that have not ended, in the order in which they were set."""
        return [_hold(subject, kept) for kept in self._standing(lease, self._store.read(_HOLD, (subject,)), subject)]

    def all(self) -> list[bytes]:
        """Return the subjects with a hold that has not ended; needs no key."""
        rows = self._store.read(_ALL)
        return [bytes(subject) for subject, until_us in rows if not _is_over(until_us)]

    def refuse(self, lease: Lease, transaction: Transaction, subject: bytes) -> None:
        """Refuse to erase a patient who is under a hold.

        Raises:
            PrivacyError: gives the reason of each hold.
        """
        if standing := self._standing(lease, transaction.run(_HOLD, (subject,)), subject):
            raise PrivacyError(
                f"Patient is under {_count(standing)} {_listed(standing)}",
                where="vault",
                remedy="Release each hold first, if the law allows it: vitalake patient release.",
            )

    def _standing(self, lease: Lease, rows: Sequence[Row], subject: bytes) -> list[_Kept]:
        if all(_is_over(until_us) for _, until_us in rows):
            return []
        secret = self._patients.secrets(lease, [subject]).get(subject)
        # None: erased meanwhile, by an earlier release without this check.
        return [] if secret is None else _opened(secret, rows, subject)


def _opened(secret: bytes, rows: Sequence[Row], subject: bytes) -> list[_Kept]:
    """Return the holds of a patient's row that have not ended.

    Earlier releases kept one hold: its reason was sealed alone, in another context.
    """
    cipher = AESGCM(secret)
    found: list[_Kept] = []
    for sealed, until_us in rows:
        try:
            found += msgspec.json.decode(unseal(cipher, bytes(sealed), b"holds", subject), type=list[_Kept])
        except PrivacyError:
            found.append(_Kept(unseal(cipher, bytes(sealed), b"hold", subject).decode(), until_us))
    return [kept for kept in found if not _is_over(kept.until_us)]


def _write(transaction: Transaction, secret: bytes, subject: bytes, holds: Sequence[_Kept]) -> None:
    """Replace a patient's row by these holds; without any there is no row."""
    transaction.run("DELETE FROM hold WHERE subject = ?", (subject,))
    if holds:
        last = max((kept.until_us for kept in holds), key=_end)
        sealed = seal(AESGCM(secret), msgspec.json.encode(holds), b"holds", subject)
        transaction.run("INSERT INTO hold (subject, reason, until_us) VALUES (?, ?, ?)", (subject, sealed, last))


def _hold(subject: bytes, kept: _Kept) -> Hold:
    return Hold(subject, kept.reason, None if kept.until_us is None else moment(kept.until_us))


def _count(holds: Sequence[_Kept]) -> str:
    return "a legal hold" if len(holds) == 1 else f"{len(holds)} legal holds:"


def _listed(holds: Sequence[_Kept]) -> str:
    return ", ".join(f"{_hold(b'', kept).lasts} ({kept.reason})" for kept in holds)


def _end(until_us: int | None) -> float:
    """Return when a hold ends.

    Earlier releases stored the midnight at which the last day begins, and not its end; that day counts.
    """
    if until_us is None:
        return math.inf
    return until_us + (_DAY_US if until_us % _DAY_US == 0 else 0)


def _is_over(until_us: int | None) -> bool:
    return _end(until_us) <= clock.now_us()


def _unknown() -> InputError:
    return InputError(
        "Patient is not in the vault, or is erased", where="vault", remedy="Give a patient whom the vault knows."
    )


_HOLD = "SELECT reason, until_us FROM hold WHERE subject = ?"
_ALL = "SELECT hold.subject, until_us FROM hold JOIN patient ON patient.subject = hold.subject WHERE erased_us IS NULL"
