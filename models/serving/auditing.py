"""Whether the audit holds, and who saw a patient: read beside everything else, however long the chains are."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from governance.audit import Report, Seen, verify_chain, who_saw
from models.serving.threads import OneThread
from vitalake import clock
from vitalake.keys import KeyRing

AGAIN_SECONDS = 60.0
"""What was verified less than this ago is not verified again for a page …"""

SHARE = 20
"""… nor within twenty times as long as it takes: a long audit takes no more than a twentieth of a processor."""

FIRST_SECONDS = 5.0
"""A page waits so long for the first report; then it says that there is none yet."""

MOST_WAITING = 8
"""Who ask who saw a patient; each reads all chains."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A report, and when it was made.

    Attributes:
        report: of all chains.
        at_us: when it was begun; what was recorded since is not in it.
    """

    report: Report
    at_us: int


class AuditReader:
    """Reads the audit; of one event loop."""

    def __init__(self, folder: Path, keys: KeyRing, *, outside: Path | None) -> None:
        """Prepare.

        Args:
            folder: of the chains.
            keys: with the key ``audit``.
            outside: where heads are kept on other storage; None: nowhere.
        """
        self._folder, self._keys, self._outside = folder, keys, outside
        self._verifying, self._reading = OneThread("verifying"), OneThread("auditing", most=MOST_WAITING)
        self._checked: Checked | None = None
        self._again = 0.0
        self._task: asyncio.Task[None] | None = None

    async def checked(self) -> Checked | None:
        """Return the last report, and see that it is renewed; None: the first one is still being made.

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

    async def who_saw(self, patient: str) -> list[Seen]:
        """Return who saw a patient, oldest first.

        Raises:
            ServiceUnavailable: too many ask.
        """
        return await self._reading.request(who_saw, self._folder, self._keys, patient)

    def close(self) -> None:
        """Wait for what is read."""
        self._verifying.close()
        self._reading.close()
