"""What a training found out: everything that is printed, tracked and written on the card."""

from __future__ import annotations

import msgspec

from models.evaluation import Bin, Estimate, Figures, Group


class Sample(msgspec.Struct, frozen=True):
    """How many there are.

    Attributes:
        rows: of the matrix, a stay looked at several times.
        events: stays with the event.
    """

    patients: int
    stays: int
    events: int
    rows: int


class Result(msgspec.Struct, frozen=True):
    """A candidate's figures.

    Attributes:
        figures: in cross-validation, of each stay's primary moment.
        calibration_error: expected calibration error over equally large groups.
        at_hours: AUROC at each moment of a stay, in cross-validation.
        held_out: figures of the model of all training patients, on patients never trained on.
        against_news2: AUROC above partial NEWS2's, over the same resamples; None: it is NEWS2.
    """

    name: str
    registrable: bool
    figures: Figures
    calibration_error: float | None
    at_hours: dict[str, Estimate]
    held_out: Figures
    against_news2: Estimate | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A training.

    Attributes:
        sources: where the stays come from.
        trained, held_out: who was learnt from, and who was kept away.
        going_on: stays that have not ended, and so could not be learnt from.
        unknown: stays that have ended, and of which the label does not say whether the event came.
        horizon, min_age: as the task declares them.
        chosen: the candidate that was registered: of the two models the one with the lower log loss.
        chosen_parameters: of it.
        reliability: of the chosen one, in cross-validation.
        groups: the same.
        model, version, champion: as registered.
        data_versions: of the published tables.
        seconds: how long each step took.
    """

    task: str
    title: str
    task_version: int
    task_digest: str
    policy_version: str
    sources: list[str]
    primary_hours: int
    folds: int
    resamples: int
    trained: Sample
    held_out: Sample
    going_on: int
    results: list[Result]
    chosen: str
    chosen_parameters: dict[str, str]
    reliability: list[Bin]
    groups: list[Group]
    trained_at: str
    data_versions: dict[str, int]
    model: str = ""
    version: str = ""
    champion: bool = False
    seconds: dict[str, float] = {}
    unknown: int = 0
    horizon: str = ""
    min_age: int = 0

    def result(self, name: str) -> Result:
        """Return a candidate's figures."""
        return next(result for result in self.results if result.name == name)
