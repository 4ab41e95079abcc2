"""Troubles of a ward: a sentence for the people in front of a board, and a code for those who run the server."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from models.serving.zone import clock_second, clock_second_near, clock_time
from vitalake.errors import ModelError, PrivacyError, ServiceUnavailable, VitaLakeError

SILENT_SECONDS = 20.0
"""A lane reports every five seconds; after this long three reports are missing."""

ENDED_SECONDS = 15.0
"""A lane that reads its rules again ends and starts within a second or two; that is not reported."""

ENDED_SHOWN_HOURS = 54.0
"""For this long a lane that ended by itself, and is not expected, is reported. After that the online store has none of
its values any more (``care.hours``, 54 by default)."""

REFILL = "Refill it from the lake: vitalake lake rebuild care."


class CareStoreGone(ServiceUnavailable):
    """The online store's file was deleted while it was open. ``GET /healthz`` makes its code from this class name."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong with the ward's data or with the server.

    Attributes:
        code: for programs.
        text: a sentence or two for people, without any patient's data.
        failing: what is shown may be old; False: it is current, but something else is missing.
    """

    code: str
    text: str
    failing: bool = True


def trouble_of(error: VitaLakeError | sqlite3.Error) -> Trouble:
    """Return the trouble for an error of the board feed; the error's place and remedy go to the log only."""
    if isinstance(error, PrivacyError):
        return Trouble("locked", f"{error.what}. No patient data are shown until this is fixed.")
    if isinstance(error, VitaLakeError):
        code = "".join(f"-{c.lower()}" if c.isupper() else c for c in type(error).__name__).strip("-")
        return Trouble(code, f"{error.what}. The values shown are not updated.")
    return Trouble(
        "store-refuses", f"The online store cannot be read ({type(error).__name__}). The values shown are old."
    )


def store_gone() -> CareStoreGone:
    """Return the error for an online store whose file was deleted."""
    return CareStoreGone(
        "The online store's file is gone",
        where="settings.care.path",
        remedy=f"Start a stream, which creates it again. {REFILL}",
    )


def store_replaced(at_us: int) -> Trouble:
    """Return the trouble for an online store whose file was replaced by another one."""
    text = (
        f"The online store was replaced at {clock_second(at_us)}. "
        "Earlier values and clinicians' decisions may be missing."
    )
    return Trouble("care-store-replaced", text, failing=False)


def store_refilled(at_us: int) -> Trouble:
    """Return the trouble for an online store that was refilled from the lake, which does not hold everything."""
    text = (
        f"Values were refilled from the lake at {clock_second(at_us)}. Missing from before that time: beds from FHIR, "
        "deaths, discharges from admission messages, sex known only from results, and sensors' reports of no value. "
        "If a row says 'age unknown', the patient may be a child. A decision from an earlier stay may apply again "
        "if a clinic visit has continued since then."
    )
    return Trouble("care-store-filled", text, failing=False)


def decisions_missing(at_us: int) -> Trouble:
    """Return the trouble for a refilled online store whose decisions could not be restored from the audit."""
    text = (
        f"Decisions of clinicians (SpO₂ scale 2, pregnancy) from before {clock_second(at_us)} may be missing: "
        "check each patient, and record them again."
    )
    return Trouble("decisions-missing", text, failing=False)


def model_trouble(error: ModelError) -> Trouble:
    """Return the trouble for a model that is missing, or of which only an earlier one is left."""
    return Trouble("no-registry", f"{error.what}. NEWS2 is not affected.", failing=False)


def missing_troubles(expected: Collection[str], lanes: Mapping[str, object], *, made_us: int) -> list[Trouble]:
    """Return the troubles of streams that have never reported to this store: they may have died with the one before.

    Args:
        expected: the jobs that bring the ward its rows.
        lanes: the lanes that have reported to this store, by writer.
        made_us: when the store was created.
    """
    reported = {writer.rpartition("/")[0] for writer in lanes}
    since = f"since the online store was created, {clock_time(made_us)}: new values may be missing."
    if expected and not reported:
        return [Trouble("no-stream", f"No stream has reported {since}", failing=False)]
    return [
        Trouble("stream-silent", f"The stream '{job}' has not reported {since}", failing=False)
        for job in sorted(set(expected) - reported)
    ]


def lane_troubles(
    lanes: Mapping[str, tuple[int, bool]], *, now_us: int, expected: Collection[str] = ()
) -> list[Trouble]:
    """Return the troubles of the streams that have written to the ward, one for each job.

    Args:
        lanes: when each lane last reported, and whether it ended by itself, by writer.
        now_us: by the wall clock.
        expected: the jobs that bring the ward its rows; if one has ended, that is reported until it starts again.
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
        elif all(over for _, over in shares) and _is_end_shown(silent, is_expected=job in expected):
            at = clock_second_near(max(shares)[0], now_us)
            text = f"The stream '{job}' ended at {at}: no new values from it."
            found.append(Trouble("stream-ended", text, failing=False))
    return found


def _is_end_shown(ended_seconds: float, *, is_expected: bool) -> bool:
    """Return whether a job's end, so long ago, is still reported."""
    return ended_seconds > ENDED_SECONDS and (is_expected or ended_seconds < ENDED_SHOWN_HOURS * 3600)
