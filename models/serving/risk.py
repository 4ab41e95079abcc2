"""A score record as the API returns it: with its age, whether it is stale, and its band now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from models.news2 import PARTS, WITHHELD
from models.scoring import ABSTAINED, Reason, ScoreRecord
from models.serving.formatting import Band, band

if TYPE_CHECKING:
    from models.serving.ward import Chart

Direction = Literal["raises", "lowers", "not-known"]

STALE_SECONDS = 7200
"""Two hours: hourly charting has then missed two rounds. A monitor sends every minute."""

OLD_SECONDS = {"temperature": 14_400, "consciousness": 14_400}
"""The age from which a reading is marked old, where it is not STALE_SECONDS: these are taken every four hours."""

SHADOW = "shadow"
"""The learnt score is not shown to clinicians, because it is not approved for the unit."""


def moment(us: int) -> datetime:
    """Return microseconds since 1970 as a datetime in UTC."""
    return datetime.fromtimestamp(us / 1e6, tz=UTC)


def iso(us: int | None) -> str | None:
    """Return microseconds since 1970 as RFC 3339 text in UTC; None for None."""
    return None if us is None else moment(us).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age_seconds(record: ScoreRecord, now_us: int) -> float | None:
    """Return the age of the newest vital sign; None: there is none."""
    return None if record.newest_us is None else max(0.0, (now_us - record.newest_us) / 1e6)


def is_stale(record: ScoreRecord, now_us: int) -> bool:
    """Return whether the newest vital sign is too old for the score to be current; laboratory values do not count."""
    age = age_seconds(record, now_us)
    return age is None or age > STALE_SECONDS


def old_parts(record: ScoreRecord, now_us: int) -> list[str]:
    """Return the parts that are scored by a reading that is marked old."""
    score = record.news2
    return [
        part
        for part in PARTS
        if score.parts[part] is not None and now_us - score.latest[part].at_us > old_after_seconds(part) * 1e6
    ]


def band_of(chart: Chart) -> Band:
    """Return the band of a score now; a fresh part among old ones does not make the score a current one.

    A patient is ``unsure`` instead of low after a refused message, if recorded as dead, or while late values of one
    sensor are hidden by another's. A patient whose score was lost to an unusable value is ``unsure`` as well.
    """
    record, now_us = chart.record, chart.now_us
    found = band(record.news2, stale=is_stale(record, now_us) or bool(old_parts(record, now_us)))
    lost = found == "none" and bool(record.news2.ended) and chart.last is not None
    return "unsure" if lost or (found == "low" and (chart.refused or chart.died or chart.hidden)) else found


def recent_band(chart: Chart) -> Band:
    """Return the band of a score that was lost recently; ``none``: no score was, or too long ago."""
    recent = chart.last is not None and chart.now_us - chart.last_us <= STALE_SECONDS * 1_000_000
    return band(chart.last) if chart.last is not None and recent else "none"


def old_after_seconds(part: str) -> int:
    """Return the age from which a part's reading is marked old."""
    return OLD_SECONDS.get(part, STALE_SECONDS)


def risk_document(chart: Chart) -> dict[str, Any]:
    """Return the JSON document of the API: the record's fields, and what the board shows beside them now."""
    record, now_us, trial = chart.record, chart.now_us, chart.trial
    stale = is_stale(record, now_us)
    return msgspec.to_builtins(record) | {
        "as_of": iso(record.as_of_us),
        "newest_at": iso(record.newest_us),
        "newest_age_seconds": age_seconds(record, now_us),
        "stale": stale,
        "stale_after_seconds": STALE_SECONDS,
        "band": band_of(chart),
        "refused": {"count": chart.refused[0], "last_at": iso(chart.refused[1])} if chart.refused else None,
        "clock_ahead_seconds": chart.ahead,
        "late_by_seconds": chart.behind,
        "was": {"total": chart.last.total, "at": iso(chart.last_us)} if chart.last else None,
        "age_known": chart.age_years is not None,
        "discharged_at": iso(chart.stay.discharged_us) if chart.stay else None,
        "died": bool(chart.died),
        "reasons": [reason_document(reason, now_us) for reason in record.reasons],
        "abstained_because": ABSTAINED[record.abstained] if record.abstained else "",
        "withheld_because": WITHHELD[record.news2.withheld] if record.news2.withheld else "",
        "status": trial.status if trial else SHADOW,
        "approved": trial is not None and trial.status == "approved",
        "trial": msgspec.to_builtins(trial),
    }


def reason_document(reason: Reason, now_us: int) -> dict[str, Any]:
    """Return a reason with its direction and the age of its measurement."""
    return msgspec.to_builtins(reason) | {
        "direction": direction(reason),
        "age_seconds": None if reason.at_us is None else max(0.0, (now_us - reason.at_us) / 1e6),
    }


def direction(reason: Reason) -> Direction:
    """Return the direction of a reason; a missing value can move the probability but says nothing about the patient."""
    if reason.value is None:
        return "not-known"
    return "raises" if reason.contribution > 0 else "lowers"
