"""Approvals of learnt scores for the clinicians of a unit, and their withdrawals; sealed and never overwritten.

Clinicians see a model's score only after two accounts of the operating system have approved exactly this model for
their unit. Another version of the model, or another unit, starts without any approval.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from vitalake import clock
from vitalake.errors import SettingsError
from vitalake.keys import KeyRing
from vitalake.sealing import Sealer
from vitalake.sqlite import Database

FILE = "approvals.db"

NEEDED = 2
"""The number of approvals, by different accounts."""

ENOUGH_EVENTS = 100
"""A validation with fewer events proves little (Vergouwe 2005, Collins 2016), so that a reason must be recorded."""

LONGEST = 500
"""The most characters of a unit, a reason or a report's name."""

_TABLES = "CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY AUTOINCREMENT, sealed BLOB NOT NULL);"

Step = Literal["approve", "withdraw"]


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the book of approvals.

    Attributes:
        step: approve or withdraw; a withdrawal ends all approvals of the task for the unit.
        task: its name.
        model: name/version, as registered.
        digest: of that model; the approval is for this digest only.
        unit: the ward, as the stays name it.
        account: the id of the operating system's account.
        by: the account, as the audit names it.
        at_us: when it was written.
        events: how many events the site's validation counted.
        report: where that validation can be read.
        reason: why fewer events are enough, or why the approval is withdrawn.
    """

    step: Step
    task: str
    model: str
    digest: str
    unit: str
    account: int
    by: str
    at_us: int
    events: int = 0
    report: str = ""
    reason: str = ""


class Approvals:
    """The open book of approvals; used by one thread at a time, by any number of processes."""

    def __init__(self, folder: Path, keys: KeyRing) -> None:
        """Open the book, or create it.

        Raises:
            ServiceUnavailable: the file cannot be opened.
        """
        self._database = Database(
            folder / FILE,
            tables=_TABLES,
            name="Book of approvals",
            repair="Restore it from a back-up, or move it away and approve the scores again.",
        )
        self._db = self._database.connection
        self._sealer = Sealer(keys.current("care"))

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def revision(self) -> int:
        """Return a number that grows with every entry."""
        return int(self._db.execute("SELECT coalesce(max(number), 0) FROM entry").fetchone()[0])

    def entries(self) -> list[Approval]:
        """Return all entries, oldest first.

        Raises:
            PrivacyError: an entry was not written with the home's keys, or was moved to another number.
        """
        rows = self._db.execute("SELECT number, sealed FROM entry ORDER BY number").fetchall()
        opened = [self._sealer.open(sealed, context=_context(number)) for number, sealed in rows]
        return [msgspec.json.decode(plain, type=Approval) for plain in opened]

    def add(self, entry: Approval) -> None:
        """Write an entry.

        Raises:
            ServiceUnavailable: it cannot be written.
        """
        with self._database.transaction():
            number = int(self._db.execute("INSERT INTO entry (sealed) VALUES (x'') RETURNING number").fetchone()[0])
            sealed = self._sealer.seal(msgspec.json.encode(entry), context=_context(number))
            self._db.execute("UPDATE entry SET sealed = ? WHERE number = ?", (sealed, number))


def standing_approvals(entries: Sequence[Approval], *, task: str, digest: str, unit: str) -> list[Approval]:
    """Return the valid approvals of a model for a unit, one for each account."""
    found: dict[int, Approval] = {}
    for entry in entries:
        if (entry.task, entry.unit) != (task, unit):
            continue
        if entry.step == "withdraw":
            found = {}
        elif entry.digest == digest:
            found[entry.account] = entry
    return list(found.values())


def is_approved(entries: Sequence[Approval], *, task: str, digest: str, unit: str) -> bool:
    """Return whether a model's score is shown to the clinicians of a unit; an unknown unit has no approval."""
    return bool(unit) and len(standing_approvals(entries, task=task, digest=digest, unit=unit)) >= NEEDED


def approval(
    *,
    task: str,
    model: str,
    digest: str,
    unit: str,
    account: int,
    by: str,
    events: int,
    report: str,
    reason: str,
) -> Approval:
    """Return an approval with all that it must contain.

    Raises:
        SettingsError: unit or report is missing, or there are too few events and no reason is given.
    """
    if not unit.strip() or not report.strip():
        raise SettingsError(
            "Approval has no unit or no validation report",
            where="models approve",
            remedy="Give --unit, as the stays name it, and --report: where the site's validation can be read.",
        )
    if events < ENOUGH_EVENTS and not reason.strip():
        raise SettingsError(
            f"Validation has {events} events, fewer than {ENOUGH_EVENTS}, and no reason is given",
            where="models approve",
            remedy="Validate on more stays, or give with --reason why fewer events are enough.",
        )
    if max(map(len, (unit, report, reason))) > LONGEST:
        raise SettingsError(f"A text is longer than {LONGEST} characters", where="models approve", remedy="Shorten it.")
    return Approval(
        step="approve",
        task=task,
        model=model,
        digest=digest,
        unit=unit.strip(),
        account=account,
        by=by,
        at_us=clock.now_us(),
        events=events,
        report=report.strip(),
        reason=reason.strip(),
    )


def withdrawal(*, task: str, unit: str, account: int, by: str, reason: str) -> Approval:
    """Return a withdrawal with its reason.

    Raises:
        SettingsError: no reason is given.
    """
    if not reason.strip() or len(reason) > LONGEST:
        raise SettingsError(
            f"Withdrawal has no reason, or one longer than {LONGEST} characters",
            where="models withdraw",
            remedy="Give a reason with --reason.",
        )
    return Approval(
        step="withdraw",
        task=task,
        model="",
        digest="",
        unit=unit.strip(),
        account=account,
        by=by,
        at_us=clock.now_us(),
        reason=reason.strip(),
    )


def _context(number: int) -> bytes:
    return f"approval\n{number}".encode()
