"""Whether a learnt score leaves the shadow: by two people's approval for the unit, or as a demonstration's trial."""

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
    """As what a learnt score is shown, and what it is worth.

    Attributes:
        status: approved for the unit; or a trial: old data are replayed, nobody is treated by what is shown.
        auroc, low, high: in cross-validation, with its interval; None: not known.
        stays, events: how many it learned from.
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
    """Decides it, and looks again when somebody has approved or withdrawn; used by one thread."""

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
        """Return as what a model's score is shown in a unit; None: it stays in the shadow.

        Raises:
            PrivacyError: an approval is not whole: then none counts.
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
        """Return, in a sentence, what a model is worth and how much it rests on."""
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
    """Return, in a sentence, what a model is worth and how much it rests on."""
    n = f"from {trial.stays} stays with {trial.events} events"
    if trial.auroc is None:
        return f"Learnt {n}; its worth is not known."
    interval = "no interval" if trial.low is None or trial.high is None else f"{trial.low:.2f} to {trial.high:.2f}"
    return f"AUROC {trial.auroc:.2f} ({interval}) in cross-validation, {n}."


def without_learnt(record: ScoreRecord) -> ScoreRecord:
    """Return a record as who acts may see it where the learnt score is not approved: NEWS2 alone."""
    if record.abstained:
        return msgspec.structs.replace(record, probability=None, reasons=[])
    return msgspec.structs.replace(record, probability=None, reasons=[], abstained="not-approved")
