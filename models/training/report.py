"""The report of a training: everything that is printed, tracked and written on the model card."""

from __future__ import annotations

import msgspec

from models.evaluation import Bin, Estimate, Figures, Group


class Sample(msgspec.Struct, frozen=True):
    """The size of a data set.

    Attributes:
        rows: of the matrix; a stay has a row for each moment.
        events: stays with the event.
    """

    patients: int
    stays: int
    events: int
    rows: int


class Result(msgspec.Struct, frozen=True):
    """A candidate's figures.

    Attributes:
        figures: from cross-validation, at each stay's primary moment.
        calibration_error: expected calibration error over groups of equal size.
        at_hours: AUROC at each moment of a stay, from cross-validation.
        held_out: on patients never trained on, by the model of all training patients.
        against_news2: difference in AUROC to partial NEWS2, over the same resamples; None: it is NEWS2.
    """

    name: str
    registrable: bool
    figures: Figures
    calibration_error: float | None
    at_hours: dict[str, Estimate]
    held_out: Figures
    against_news2: Estimate | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one training.

    Attributes:
        sources: where the stays come from.
        trained, held_out: sizes of the training data and of the held-out data.
        going_on: stays that have not ended, and so cannot be used for training.
        unknown: stays that have ended, but whose label does not tell whether the event came.
        horizon, min_age: as the task declares them.
        chosen: the registered candidate: the one of the two models with the lower log loss.
        chosen_parameters: its parameters.
        reliability: of the chosen candidate, from cross-validation.
        groups: figures by sex and age, of the same.
        model, version, champion: as registered.
        data_versions: versions of the published tables.
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
