"""Reads the audit for pages: whether it is intact, and who saw a patient; in threads of its own, since it is slow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from governance.audit import Report, Seen, anchor_folder, verify_chain, who_saw
from governance.keyuse import open_vault
from governance.vault import Vault
from models.serving.threads import OneThread
from pipelines.people.patients import Patients, Person
from vitalake import clock
from vitalake.keys import KeyRing
from vitalake.settings import Settings

AGAIN_SECONDS = 60.0
"""A report younger than this is not renewed for a page …"""

SHARE = 20
"""… nor one younger than twenty times the verification's duration: a long audit then uses at most a twentieth of a
processor."""

FIRST_SECONDS = 5.0
"""How long a page waits for the first report; after that it says that the audit is being checked."""

MOST_WAITING = 8
"""Searches that may wait; each reads all chains."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A report, and when it was made.

    Attributes:
        report: of all chains.
        at_us: when the verification started; later records are not in it.
    """

    report: Report
    at_us: int


class AuditReader:
    """Reads the audit; used by one event loop."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        """Prepare.

        Args:
            settings: of the home.
            keys: the home's.
        """
        self._settings, self._keys = settings, keys
        self._folder, self._outside = settings.path(settings.audit), anchor_folder(settings)
        self._vault: Vault | None = None  # used by the reading thread only
        self._verifying, self._reading = OneThread("verifying"), OneThread("auditing", most=MOST_WAITING)
        self._checked: Checked | None = None
        self._again = 0.0
        self._task: asyncio.Task[None] | None = None

    async def checked(self) -> Checked | None:
        """Return the last report, and start a new one if it is due; None: the first one is not finished.

        Raises:
            VitaLakeError: the audit cannot be read.
        """
        if self._task is None and time.monotonic() >= self._again:
            self._task = asyncio.create_task(self._verify())
        if self._checked is None and self._task is not None:
            await asyncio.wait([self._task], timeout=FIRST_SECONDS)
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            task.result()
        return self._checked

    async def _verify(self) -> None:
        begun, at_us = time.monotonic(), clock.now_us()
        report = await self._verifying(verify_chain, self._folder, self._keys, outside=self._outside)
        self._checked = Checked(report, at_us)
        took = time.monotonic() - begun
        self._again = time.monotonic() + max(AGAIN_SECONDS, SHARE * took)

    async def person(self, key: str, *, by_number: bool) -> Person | None:
        """Return the patient who has or had a record number or pseudonym; None: the vault knows no such patient.

        Raises:
            VitaLakeError: the vault cannot be opened, or too many searches are waiting.
        """
        return await self._reading.request(self._person, key, by_number)

    def _person(self, key: str, by_number: bool) -> Person | None:
        if self._vault is None:
            self._vault = open_vault(self._settings, self._keys, purpose="who-saw")
        patients = Patients(self._settings, self._keys, self._vault)
        return patients.by_number(key) if by_number else patients.by_pseudonym(key)

    async def who_saw(self, pseudonyms: Iterable[str]) -> list[Seen]:
        """Return who saw a patient, oldest first.

        Args:
            pseudonyms: all current and former ones of the patient.

        Raises:
            ServiceUnavailable: too many searches are waiting.
        """
        return await self._reading.request(who_saw, self._folder, self._keys, *pseudonyms)

    def close(self) -> None:
        """Wait for running reads, and close the vault."""
        self._verifying.close()
        self._reading.close()
        if self._vault is not None:
            self._vault.close()
