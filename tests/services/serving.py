"""A ward to serve: a home whose online store, vault and registry hold made-up patients, and a server in a thread."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from fastapi import FastAPI

from governance.access import Role, open_issuer
from governance.belonging import open_vault
from governance.policy.masks import Pseudonyms
from governance.policy.rules import load_policy
from governance.vault import Identity
from models.approvals import Approvals, approval
from models.artefact import save
from models.registry import champion
from models.registry.tracking import Run
from models.serving.app import make_app
from models.serving.server import Server, listen
from models.tasks import load_task
from pipelines.online_store.facts import Admission, Fact, Movement, Person
from pipelines.online_store.opening import open_online_store
from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import ROW, Values
from tests.services.waiting import until
from tests.unit.models.model_samples import fields, fit, make_matrix, tracking
from vitalake import clock
from vitalake.clinical.records import code_number
from vitalake.keys import load_keys
from vitalake.settings import Settings, load_settings

MINUTE = 60_000_000
HOUR = 60 * MINUTE

# LOINC codes with what a stable patient shows.
STABLE: dict[str, float] = {
    "9279-1": 16, "59408-5": 97, "8480-6": 124, "8462-4": 71, "8867-4": 78, "8310-5": 36.8, "9269-2": 15, "3151-8": 0,
}  # fmt: skip
ILL = STABLE | {"9279-1": 27, "59408-5": 91, "8480-6": 92, "8462-4": 48, "8867-4": 128, "8310-5": 38.6, "3151-8": 6}
LABS: dict[str, float] = {"2160-0": 1.4, "2524-7": 2.6, "2823-3": 4.4, "6690-2": 13.2, "777-3": 188, "3094-0": 28}


@dataclass
class WardUnderTest:
    """A home with patients.

    Attributes:
        writes: how many polls were written; they are the positions of the next.
    """

    home: Path
    writes: int = 0
    store: OnlineStore = field(init=False)

    def __post_init__(self) -> None:
        self.keys = load_keys(self.settings.path(self.settings.keys))
        self.store = open_online_store(self.settings, self.keys)

    @property
    def settings(self) -> Settings:
        """The home's settings; the server takes a free port."""
        found = load_settings(self.home)
        return found.model_copy(update={"serving": found.serving.model_copy(update={"port": 0})})

    def token(self, source_id: str) -> str:
        """Return a patient's pseudonym."""
        return Pseudonyms(self.keys, "patient-identifier").token(source_id)

    def bearer(self, user: Role = "clinician") -> dict[str, str]:
        """Return the header with which a user's program asks."""
        return {"authorization": f"Bearer {open_issuer(self.settings, self.keys).sign_in(user)}"}

    def admit(self, source_id: str, *, bed: str = "", name: str = "", mrn: str = "", age: float = 67) -> str:
        """Let a patient come to the ward; return the pseudonym."""
        patient, now = self.token(source_id), clock.now_us()
        facts: list[tuple[str, str, int, Fact]] = [
            (patient, "stay-" + source_id, 1, Admission(now - 40 * HOUR, None, age)),
            (patient, "move-" + source_id, 1, Movement("stay-" + source_id, now - 30 * HOUR, None, "medical_icu", bed)),
        ]
        self.store.put_facts(facts)
        self.store.put_facts([(patient, "", 1, Person("female"))])  # after the stay: of strangers nothing is kept
        vault = open_vault(self.settings, self.keys)
        vault.put([(patient, 1, Identity(source_id, name or None, mrn or None, "1958-03-09", "1 Test Road"))])
        vault.close()
        return patient

    def measure(
        self, patient: str, values: Mapping[str, float], *, at_us: int | None = None, known_us: int | None = None
    ) -> int:
        """Write values of one moment; return that moment."""
        moment = clock.now_us() if at_us is None else at_us
        rows = np.zeros(len(values), ROW)
        rows["code"] = [code_number(code) for code in values]
        rows["value"] = list(values.values())
        rows["effective_us"] = moment
        rows["available_us"] = moment if known_us is None else known_us
        self.write(patient, rows)
        return moment

    def write(self, patient: str, rows: Any) -> None:
        """Write rows of one patient as a poll."""
        self.writes += 1
        rows["id"] = np.arange(len(rows)) + self.writes * 1_000_000
        nothing = np.zeros(len(rows), np.int32)
        position = np.full(len(rows), self.writes, np.int64)
        self.store.take(
            Values(rows, nothing, [patient], position, nothing, ["t/0"]), writer="test", ends={"t/0": self.writes + 1}
        )

    def chart(self, patient: str, values: Mapping[str, float], *, hours: int = 24, every_minutes: int = 30) -> None:
        """Write what a patient showed over the last hours, with a little noise, and the laboratory's values."""
        random, now = np.random.default_rng(len(patient) + self.writes), clock.now_us()
        times = now - np.arange(hours * 60, 0, -every_minutes) * MINUTE
        rows = np.zeros(len(times) * len(values), ROW)
        rows["code"] = np.tile([code_number(code) for code in values], len(times))
        spread = np.array(
            [0.0 if code in ("9269-2", "3151-8") else 0.004 if code == "8310-5" else 0.03 for code in values]
        )
        noise = 1 + random.normal(size=(len(times), len(values))) * spread
        shown = np.array(list(values.values())) * noise
        most = np.array([100.0 if code == "59408-5" else np.inf for code in values])
        rows["value"] = np.minimum(shown, most).round(1).ravel()
        rows["effective_us"] = np.repeat(times, len(values))
        rows["available_us"] = rows["effective_us"] + 2_000_000
        self.write(patient, rows)
        for hours_ago, factor in ((20, 1.0), (6, 1.15)):
            labs = {code: value * factor for code, value in LABS.items()}
            self.measure(patient, labs, at_us=now - hours_ago * HOUR, known_us=now - hours_ago * HOUR + 30 * MINUTE)

    def register_model(self, folder: Path, *, seed: int = 3) -> None:
        """Train a model on made-up patients under this home's rules, and let it be the champion."""
        task = load_task("mortality")
        policy = load_policy(self.settings.path(self.settings.governance)).version
        save(folder, fit("xgboost", make_matrix(task, seed=seed), task), **fields(task, policy_version=policy))
        registry = tracking(self.settings.path(self.settings.models))
        run = Run("xgboost", {}, {}, {}, {}, folder)
        run_id = registry.record("mortality", run)
        registry.register("mortality", run_id, experiment="mortality", description="made-up", champion=True)

    def approve(self, *, unit: str = "medical_icu", accounts: tuple[int, ...] = (1001, 1002)) -> None:
        """Let accounts approve the model in force for a unit."""
        model = champion(self.settings, load_task("mortality"))
        assert model is not None
        book = Approvals(self.home, self.keys)
        for account in accounts:
            named = {"task": model.task, "model": model.label, "digest": model.digest, "unit": unit}
            book.add(approval(**named, account=account, by=f"local:{account}", events=120, report="V-1", reason=""))
        book.close()


@dataclass
class Served:
    """A running server.

    Attributes:
        address: of its first page.
        app: what it serves.
    """

    address: str
    app: FastAPI


@contextmanager
def serving(settings: Settings, **arguments: Any) -> Iterator[Served]:
    """Serve a home in a thread until the block ends."""
    app = make_app(settings, **arguments)
    ready: list[str] = []
    with listen(settings.serving.host, settings.serving.port) as listening:
        server = Server(app, on_ready=ready.append)
        thread = threading.Thread(target=lambda: server.run([listening]), name="server", daemon=True)
        thread.start()
        try:
            until(lambda: ready)
            yield Served(ready[0], app)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def as_json(response: Any) -> Any:
    """Return the document of an answer."""
    return msgspec.json.decode(response.content)


def copied(home: Path, to: Path) -> Path:
    """Copy a home whose databases this process has open, by another process; return the copy.

    A process that reads such a file itself gives up SQLite's locks with closing it: the next one to come cuts the
    index of the write-ahead log short, and whoever has it mapped ends by a bus error.
    """
    subprocess.run(["cp", "-a", str(home), str(to)], check=True)
    return to
