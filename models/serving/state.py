"""The state of the server: the ward, the board feed, authorisation, and the threads that they run in."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from governance.access import IdentityLookup, Principal, TokenVerifier, open_issuer, open_verifier
from governance.audit import BatchAuditSink, open_audit
from governance.keyuse import open_vault
from governance.vault import Identity
from models.serving.auditing import AuditReader
from models.serving.authorisation import Authoriser
from models.serving.board_feed import BoardFeed
from models.serving.recorder import Recorder
from models.serving.scores import FILE, tidy
from models.serving.threads import OneThread
from models.serving.ward import Chart, Ward
from models.serving.zone import use_zone
from pipelines.online_store.facts import Decision
from pipelines.online_store.playback import Replay
from vitalake.errors import PrivacyError, ServiceUnavailable
from vitalake.home import Home
from vitalake.settings import Settings

WRITER = "serving"

MOST_SCORES_WAITING = 400
"""About two seconds of work; further requests are refused at once."""

NAME_SECONDS = 1.0
"""How long boards share a name that was read: names must disappear about a second after the key is revoked."""

TIDY_SECONDS = 20.0
"""How often the book of scores is tidied; its write-ahead log grows in between."""


class ServerState:
    """Everything the routes need.

    Attributes:
        settings, keys: of the home.
        ward: used in its own thread only.
        board_feed: sends changes to the boards.
        authoriser: authenticates and authorises requests, and records them.
        issuer: of development tokens.
        drawing: the thread that renders patients' pages, so that scores do not wait for them.
        auditing: reads the audit.
    """

    def __init__(
        self, settings: Settings, *, audit: BatchAuditSink | None = None, verifier: TokenVerifier | None = None
    ) -> None:
        """Open all stores.

        Raises:
            VitaLakeError: a store cannot be opened.
        """
        use_zone(settings.serving.time_zone)
        self.settings, self.keys = settings, Home(settings).keys
        self._ward_thread, self._audit_thread = OneThread("ward", most=MOST_SCORES_WAITING), OneThread("audit")
        self.drawing, self._tidying = OneThread("drawing"), OneThread("tidying")
        self.auditing = AuditReader(settings, self.keys)
        self.ward = Ward(settings, self.keys)
        self._audit = audit or open_audit(settings, self.keys, writer=WRITER)
        self._vault = open_vault(settings, self.keys, purpose="names")
        self._lookup = IdentityLookup(self._vault, self._audit)
        self.issuer = open_issuer(settings, self.keys)
        self.authoriser = Authoriser(
            verifier or open_verifier(settings, self.keys), Recorder(self._audit, self._audit_thread), settings.serving
        )
        self.board_feed = BoardFeed(self.ward, self._ward_thread)
        self._named: dict[str, str] = {}
        self._named_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def audit_folder(self) -> Path:
        """The folder of the audit's chains."""
        return self.settings.path(self.settings.audit)

    def start(self) -> None:
        """Start to follow the ward and to tidy the book of scores."""
        self._tasks = [asyncio.create_task(run()) for run in (self.board_feed.run, self._tidy)]

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            with suppress(ServiceUnavailable):  # it is tried again next time
                await self._tidying(tidy, self.settings.path(FILE))

    async def stop(self) -> None:
        """Stop these tasks, and close all stores."""
        self.board_feed.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for thread in (self._ward_thread, self._audit_thread, self.drawing, self._tidying):
            thread.close()
        self.auditing.close()
        self.ward.close()
        self._vault.close()

    async def chart(self, patient: str) -> Chart | None:
        """Return a patient's chart; see Ward.chart."""
        return await self._ward_thread.request(self._fresh_chart, patient)

    def _fresh_chart(self, patient: str) -> Chart | None:
        self.board_feed.note(self.ward.changed())
        return self.ward.chart(patient)

    async def time(self) -> tuple[int, float, Replay | None]:
        """Return the ward's time, how fast it runs, and the running replay."""
        return await self._ward_thread(self._time)

    def _time(self) -> tuple[int, float, Replay | None]:
        now_us, replay = self.ward.now_us(), self.ward.replay()
        speed = 1.0 if replay is None else replay.speed if now_us < replay.end_us else 0.0
        return now_us, speed, replay

    async def identity(self, principal: Principal, patient: str) -> Identity | None:
        """Return a patient's identity; the access is recorded before the vault is read.

        Raises:
            VitaLakeError: the role does not allow it, or the access cannot be recorded.
        """
        return await self._audit_thread(self._lookup.identity, principal, patient)

    async def names(self, principal: Principal, patients: tuple[str, ...]) -> dict[str, str]:
        """Return the known names of patients, for a board; empty for a user who may not see them.

        The access is recorded before the names are read.

        Raises:
            VitaLakeError: the access cannot be recorded.
        """
        if not principal.may("identity:read") or not patients:
            return {}
        await self.authoriser.record(principal, "identity.read", patients=patients, stage="board")
        found = await self._audit_thread(self._names, patients)
        return {patient: name for patient, name in found.items() if name}

    def _names(self, patients: tuple[str, ...]) -> dict[str, str]:
        moment = time.monotonic()
        if moment - self._named_at >= NAME_SECONDS:
            self._named, self._named_at = {}, moment
        try:
            for patient in patients:
                if patient not in self._named:
                    self._named[patient] = self._lookup.name(patient)
        except PrivacyError:  # the key is revoked: rows are shown without names
            self._named = {}
            return {}
        return {patient: self._named[patient] for patient in patients}

    async def shows_learnt(self) -> str:
        """Return a sentence on the model's performance, if its score is shown to anybody; see Ward.shows_learnt."""
        return await self._ward_thread(self.ward.shows_learnt)

    async def decide(self, patient: str, decision: Decision) -> None:
        """Store a clinician's decision; the caller has recorded it before.

        Raises:
            ServiceUnavailable: the online store cannot be written.
        """
        await self._ward_thread(self.ward.decide, patient, decision)
