"""The model card: what the model is for, its figures, and what they can and cannot prove."""

from __future__ import annotations

from models.evaluation import Estimate, Group
from models.training.report import Report, Result

FEW_EVENTS = 100
"""With fewer events the figures of a risk model are mostly chance; validations usually demand this many."""

_FIGURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
}


def write_card(report: Report) -> str:
    """Return the card as Markdown, with the numbers of this training."""
    chosen = report.result(report.chosen)
    parts = [
        f"# {report.task}: {report.title.lower()}",
        _intended(report),
        "## Training data",
        _learned(report),
        "## Performance",
        _worth(report, chosen),
        _table(report.results, held_out=False),
        "### On held-out patients",
        _held_out(report, chosen),
        "### At other moments of a stay",
        _hours(chosen),
        "### Calibration",
        _calibration(report, chosen),
        "### By sex and age",
        _groups(report.groups),
    ]
    if few(report):
        parts += [
            f"## What {_events(report)} can and cannot prove",
            _few_events(report, chosen),
        ]
    parts += ["## How it was made", _made(report)]
    return "\n\n".join(parts) + "\n"


def few(report: Report) -> bool:
    """Return whether there are too few events for the figures to mean much."""
    return report.trained.events < FEW_EVENTS


def better_than_news2(report: Report) -> bool:
    """Return whether the whole interval of the difference to partial NEWS2 is above zero."""
    against = report.result(report.chosen).against_news2
    return against is not None and against.low is not None and against.low > 0


def verdict(report: Report) -> str:
    """Return a sentence that compares the model with partial NEWS2."""
    chosen, news2 = report.result(report.chosen), report.result("news2-partial")
    both = f"AUROC {shown(chosen.figures['auroc'])} against {shown(news2.figures['auroc'])} for partial NEWS2"
    difference = f"difference {shown(chosen.against_news2, signed=True)}"
    one, other = chosen.figures["auroc"], news2.figures["auroc"]
    overlap = one.low is None or other.high is None or one.low <= other.high
    if not better_than_news2(report):
        return (
            f"{both}; {difference}. **The intervals overlap and the difference may be nothing: "
            "it is not shown to be better than partial NEWS2.**"
        )
    if overlap:
        return f"{both}. The two intervals overlap; over the same resamples the {difference} lies above zero."
    return f"{both}; {difference}. The intervals do not overlap."


def shown(estimate: Estimate | None, *, signed: bool = False) -> str:
    """Return a figure with its interval, as text."""
    if estimate is None or estimate.value is None:
        return "–"
    form = "+.3f" if signed else ".3f"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}} (no interval)"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def _intended(report: Report) -> str:
    return (
        f"Estimates the probability of this event: {report.title.lower()}, from at most the latest "
        f"{report.primary_hours} hours of a patient's values, age and sex. The event may come: {report.horizon}.\n\n"
        "**Intended use:** research, and running in the shadow beside NEWS2 until a site has validated and approved "
        "it. **Not a medical device. Not approved.** It must not decide about treatment or its withdrawal, or triage. "
        f"It does not apply to patients younger than {report.min_age} years or with too few values: serving abstains "
        "for them. Nor does it apply to patients of other units than those in its training data."
    )


def _learned(report: Report) -> str:
    t, h = report.trained, report.held_out
    return (
        f"{', '.join(report.sources)}: {t.stays:,} stays of {t.patients:,} patients, {t.events:,} with the event "
        f"({t.events / max(t.stays, 1):.1%}), each looked at at several moments ({t.rows:,} rows; the rows of a stay "
        f"weigh 1 together). {h.stays:,} stays of {h.patients:,} patients ({h.events:,} with the event) were held "
        "out of all training, by a hash of the patient's pseudonym. Only published, masked rows were read, under "
        f"the rules of version `{report.policy_version}`; under other rules serving abstains.{_going_on(report)}"
        f"{_unknown(report)}"
    )


def _going_on(report: Report) -> str:
    """Return a note on stays that have not ended: they are not a random selection."""
    if not report.going_on:
        return ""
    return (
        f"\n\n{report.going_on:,} stays have not ended and are not included. Patients who are still in hospital differ "
        "from those who have left or died, so that the share of events and the probabilities may be wrong."
    )


def _unknown(report: Report) -> str:
    """Return a note on stays with an unknown outcome."""
    if not report.unknown:
        return ""
    return (
        f"\n\n{report.unknown:,} stays have ended with an unknown outcome: the column that the label reads is missing, "
        "has an unknown code, or a code that leaves the outcome open. They are left out. If events are missing "
        "more often than other outcomes, the probabilities are too low."
    )


def _worth(report: Report, chosen: Result) -> str:
    return (
        f"Figures of each stay's latest moment up to {report.primary_hours} h, from {report.folds}-fold "
        "cross-validation: no model is tested on a patient it was trained on. In brackets: 95 % intervals from "
        f"{report.resamples:,} resamples of the patients. Of the two models the one with the lower log loss was "
        f"registered: **{chosen.name}**. {verdict(report)}"
    )


def _table(results: list[Result], *, held_out: bool) -> str:
    head = ["", *_FIGURES.values()]
    rows = [[r.name, *(shown((r.held_out if held_out else r.figures).get(name)) for name in _FIGURES)] for r in results]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _held_out(report: Report, chosen: Result) -> str:
    h = report.held_out
    if not chosen.held_out:
        return "No patient was held out."
    return (
        f"Fitted to all training patients, tested on the {h.patients:,} held-out ones. These figures were not used for "
        f"any choice.\n\n{_table(report.results, held_out=True)}"
    )


def _hours(chosen: Result) -> str:
    lines = ["| hours after the first value | AUROC |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {hours} | {shown(e)} |" for hours, e in chosen.at_hours.items())])


def _calibration(report: Report, chosen: Result) -> str:
    slope, ratio = chosen.figures["calibration_slope"], chosen.figures["observed_to_expected"]
    error = "–" if chosen.calibration_error is None else f"{chosen.calibration_error:.3f}"
    text = (
        f"Slope {shown(slope)} (1 is ideal; below 1 too extreme, above 1 too cautious), {shown(ratio)} observed events "
        f"for each predicted one, expected calibration error {error}."
    )
    if not report.reliability:
        return text
    rows = [f"| {b.predicted:.1%} | {b.observed:.1%} | {b.rows} |" for b in report.reliability]
    return "\n".join([text, "", "| predicted | observed | stays |", "| --- | --- | --- |", *rows])


def _groups(found: list[Group]) -> str:
    lines = [
        "| group | stays | events | AUROC | observed events for each predicted |",
        "| --- | --- | --- | --- | --- |",
    ]
    for group in found:
        rows = "fewer than 11" if group.rows is None else f"{group.rows:,}"
        events = "too few" if group.events is None else f"{group.events:,}"
        lines.append(
            f"| {group.name} | {rows} | {events} | {shown(group.auroc)} | {shown(group.observed_to_expected)} |"
        )
    lines += [
        "",
        "No figures are given for groups with fewer than 11 stays with or without the event: they would be chance.",
    ]
    return "\n".join(lines)


def _events(report: Report) -> str:
    return f"{report.trained.events + report.held_out.events} events"


def _few_events(report: Report, chosen: Result) -> str:
    auroc = chosen.figures["auroc"]
    width = "unknown" if auroc.low is None or auroc.high is None else f"{auroc.high - auroc.low:.2f} wide"
    return (
        f"{_events(report)} in the cohort, {report.trained.events} of them in the training data; the interval of the "
        f"AUROC is {width}.\n\n"
        "- They **can** prove that the pipeline works end to end: masked rows in, one kernel for training and serving, "
        "patients held out, figures with intervals, an artefact that loads and gives the same score.\n"
        "- They **cannot** prove that this model predicts the event, that it is better than NEWS2 or than the other "
        "candidate, that its probabilities are right, or that it is fair to any group. Another sample of so few "
        "patients could reverse every one of these figures.\n"
        "- A validation needs at least a hundred events, better two hundred, and patients of another hospital."
    )


def _made(report: Report) -> str:
    parameters = ", ".join(f"{name} {value}" for name, value in report.chosen_parameters.items())
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.data_versions.items()))
    return (
        f"Task `{report.task}` version {report.task_version} (`{report.task_digest}`), trained {report.trained_at}. "
        f"{report.chosen}: {parameters}. The parameters are fixed; they were chosen among a few settings by "
        "cross-validation on training patients of PhysioNet/CinC 2012 sets A and B, so that figures on those data "
        "are slightly too good: only other data test this choice independently. "
        f"Versions of the published tables: {versions}. Artefact: plain numbers, no pickle."
    )
