"""Decides whether a learnt score is shown: if two people have approved it for the unit, or as a trial in a replay."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from models.approvals import Approval, Approvals, is_approved
from models.artefact import Model
from models.registry import discrimination
from models.scoring import ScoreRecord
from pipelines.online_store.playback import Replay
from vitalake.errors import ModelError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

log = logging.getLogger(__name__)

Status = Literal["approved", "trial"]


class Trial(msgspec.Struct, frozen=True):
    """How a learnt score is shown, and how good the model is.

    Attributes:
        status: approved for the unit; or a trial: past data are replayed, and nobody is treated by them.
        auroc, low, high: from cross-validation, with its interval; None: not known.
        stays, events: how many the model was trained on.
        source: where they come from.
    """

    status: Status
    auroc: float | None
    low: float | None
    high: float | None
    stays: int
    events: int
    source: str


class Shadow:
    """Decides whether learnt scores are shown, and reads the approvals again when they change; used by one thread."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        """Open the approvals.

        Raises:
            ServiceUnavailable: their file cannot be opened.
        """
        self._settings = settings
        self._approvals = Approvals(settings.home, keys)
        self._entries: list[Approval] = []
        self._read = 0
        self._worth: dict[str, Trial] = {}

    def close(self) -> None:
        """Close what was opened."""
        self._approvals.close()

    def revision(self) -> int:
        """Return a number that grows with every approval or withdrawal."""
        return self._approvals.revision()

    def shown(self, model: Model | None, unit: str, *, replay: Replay | None) -> Trial | None:
        """Return how a model's score is shown in a unit; None: it is not shown.

        Raises:
            PrivacyError: an approval was changed or cannot be decrypted; then no approval counts.
        """
        if model is None:
            return None
        if is_approved(self._current(), task=model.task, digest=model.digest, unit=unit):
            return msgspec.structs.replace(self._of(model), status="approved")
        return self._of(model) if replay is not None else None

    def anywhere(self, model: Model | None) -> bool:
        """Return whether a model is approved for any unit."""
        if model is None:
            return False
        units = {entry.unit for entry in self._current()}
        return any(is_approved(self._entries, task=model.task, digest=model.digest, unit=unit) for unit in units)

    def worth(self, model: Model) -> str:
        """Return a sentence with a model's performance and the size of its training data."""
        return worth(self._of(model))

    def _current(self) -> list[Approval]:
        revision = self._approvals.revision()
        if revision != self._read:
            self._entries, self._read = self._approvals.entries(), revision
        return self._entries

    def _of(self, model: Model) -> Trial:
        found = self._worth.get(model.digest)
        if found is None:
            found = self._worth[model.digest] = _trial(self._settings, model)
        return found


def _trial(settings: Settings, model: Model) -> Trial:
    manifest, worth = model.manifest, None
    try:
        worth = discrimination(settings, model)
    except ModelError as error:
        log.error("no-figures", extra={"what": error.what, "where": error.where, "remedy": error.remedy})
    return Trial(
        status="trial",
        auroc=worth.auroc if worth else None,
        low=worth.low if worth else None,
        high=worth.high if worth else None,
        stays=manifest.stays,
        events=manifest.events,
        source=manifest.source,
    )


def worth(trial: Trial) -> str:
    """Return a sentence with a model's performance and the size of its training data."""
    data = f"trained on {trial.stays} stays with {trial.events} events"
    if trial.auroc is None:
        return f"Performance not known; {data}."
    interval = "no interval" if trial.low is None or trial.high is None else f"{trial.low:.2f} to {trial.high:.2f}"
    return f"AUROC {trial.auroc:.2f} ({interval}) in cross-validation, {data}."


def without_learnt(record: ScoreRecord) -> ScoreRecord:
    """Return a record without its learnt score, as clinicians see it where the score is not approved."""
    if record.abstained:
        return msgspec.structs.replace(record, probability=None, reasons=[])
    return msgspec.structs.replace(record, probability=None, reasons=[], abstained="not-approved")
