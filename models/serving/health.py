"""What is wrong with a ward, in words for who stands before a board, and as codes for who looks after the server."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from models.serving.zone import clock_second, clock_second_near, clock_time
from vitalake.errors import ModelError, PrivacyError, ServiceUnavailable, VitaLakeError

SILENT_SECONDS = 20.0
"""A lane says that it lives every five seconds; it was missed three times then."""

ENDED_SECONDS = 15.0
"""A lane that reads its rules again ends and begins within a second or two."""

ENDED_TOLD_HOURS = 54.0
"""A lane that has ended by itself, and is not expected, is spoken of as long: the care store keeps none of its values
after that."""

REFILL = "Fill it with what the lake has: vitalake lake rebuild care."


class CareStoreGone(ServiceUnavailable):
    """The care store's file was deleted while it was open."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong.

    Attributes:
        code: for programs.
        text: a sentence or two; of no patient.
        failing: what is shown is not what is known, or may be old; otherwise something is missing beside it.
    """

    code: str
    text: str
    failing: bool = True


def of_error(error: VitaLakeError | sqlite3.Error) -> Trouble:
    """Return the trouble that an error of the watcher is; where and remedy are for the log."""
    if isinstance(error, PrivacyError):
        return Trouble("locked", f"{error.what}. Nothing of any patient is shown until that is put right.")
    if isinstance(error, VitaLakeError):
        code = "".join(f"-{c.lower()}" if c.isupper() else c for c in type(error).__name__).strip("-")
        return Trouble(code, f"{error.what}. What is shown is not updated.")
    return Trouble("store-refuses", f"The care store cannot be read ({type(error).__name__}). What is shown is old.")


def gone() -> CareStoreGone:
    """Return the error of a care store whose file is not there any more."""
    return CareStoreGone(
        "The care store's file is gone", where="settings.care.path", remedy=f"A stream makes it anew. {REFILL}"
    )


def replaced(at_us: int) -> Trouble:
    """Return the trouble of a care store that is another one than before."""
    text = (
        f"The care store was replaced at {clock_second(at_us)}. "
        "Values from before, and what clinicians have decided, may be missing."
    )
    return Trouble("care-store-replaced", text, failing=False)


def filled(at_us: int) -> Trouble:
    """Return the trouble of a care store that was filled again from the lake, which does not know all that it knew."""
    text = (
        f"The values were filled again from the lake at {clock_second(at_us)}. From before then are missing: beds that "
        "FHIR told, deaths, discharges by admission messages, sex that only results told, and signs of a sensor that "
        "it has no value. Where a row says that the age is not known the patient may be a child. What was decided in a "
        "former stay may hold again, where a visit to a clinic goes on since then."
    )
    return Trouble("care-store-filled", text, failing=False)


def undecided(at_us: int) -> Trouble:
    """Return the trouble of a care store that was filled again where the audit could not tell what was decided."""
    text = (
        f"Decisions of clinicians (SpO₂ scale 2, pregnancy) from before {clock_second(at_us)} may be missing: "
        "look at each patient, and decide again."
    )
    return Trouble("decisions-missing", text, failing=False)


def of_model(error: ModelError) -> Trouble:
    """Return the trouble of a model that is not there, or only from before."""
    return Trouble("no-registry", f"{error.what}. NEWS2 does not depend on it.", failing=False)


def missing_troubles(expected: Collection[str], lanes: Mapping[str, object], *, made_us: int) -> list[Trouble]:
    """Return what is wrong with streams of which the store has never heard: they may have died with the one before.

    Args:
        expected: the jobs that bring the ward its rows.
        lanes: by writer, those that have reported to this store.
        made_us: when the store was made.
    """
    reported = {writer.rpartition("/")[0] for writer in lanes}
    since = f"since the care store was made, {clock_time(made_us)}: new values may be missing."
    if expected and not reported:
        return [Trouble("no-stream", f"No stream has reported {since}", failing=False)]
    return [
        Trouble("stream-silent", f"The stream '{job}' has not reported {since}", failing=False)
        for job in sorted(set(expected) - reported)
    ]


def lane_troubles(
    lanes: Mapping[str, tuple[int, bool]], *, now_us: int, expected: Collection[str] = ()
) -> list[Trouble]:
    """Return what is wrong with the streams that have written to the ward, a line for each job.

    Args:
        lanes: when each last said that it lives, and whether it ended by itself.
        now_us: by the wall clock.
        expected: the jobs that bring the ward its rows: that one has ended is said until it begins again.
    """
    jobs: dict[str, list[tuple[int, bool]]] = {}
    for writer, last in lanes.items():
        jobs.setdefault(writer.rpartition("/")[0], []).append(last)
    found = []
    for job, shares in sorted(jobs.items()):
        oldest_us, ended = min(shares)
        silent = (now_us - oldest_us) / 1e6
        if not ended and silent > SILENT_SECONDS:
            at = clock_second_near(oldest_us, now_us)
            text = f"The stream '{job}' has not reported since {at}: new values may be missing."
            found.append(Trouble("stream-silent", text, failing=False))
        elif all(over for _, over in shares) and _is_told(silent, is_expected=job in expected):
            at = clock_second_near(max(shares)[0], now_us)
            text = f"The stream '{job}' ended at {at}: it brings no new values."
            found.append(Trouble("stream-ended", text, failing=False))
    return found


def _is_told(ended_seconds: float, *, is_expected: bool) -> bool:
    """Return whether it is said of a job that it ended so long ago."""
    return ended_seconds > ENDED_SECONDS and (is_expected or ended_seconds < ENDED_TOLD_HOURS * 3600)
