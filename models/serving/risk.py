"""A score record as an answer: with its age, whether that is too old, and what it must not be taken for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from models.scoring import ABSTAINED, ScoreRecord

STALE_SECONDS = 7200
"""Two hours: vital signs that are charted hourly were then missed twice. A monitor sends every minute."""

STATUS = "shadow"
"""No site has approved the learnt score: NEWS2 ranks."""


def moment(us: int) -> datetime:
    """Return microseconds since 1970 as a moment, in UTC."""
    return datetime.fromtimestamp(us / 1e6, tz=UTC)


def iso(us: int | None) -> str | None:
    """Return a moment as RFC 3339 text, in UTC; None: none."""
    return None if us is None else moment(us).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age_seconds(record: ScoreRecord, now_us: int) -> float | None:
    """Return the age of the newest evidence; None: there is none."""
    return None if record.newest_us is None else max(0.0, (now_us - record.newest_us) / 1e6)


def is_stale(record: ScoreRecord, now_us: int) -> bool:
    """Return whether the newest evidence is too old to speak of now."""
    age = age_seconds(record, now_us)
    return age is None or age > STALE_SECONDS


def risk_document(record: ScoreRecord, now_us: int) -> dict[str, Any]:
    """Return what the API answers: the record, field by field, and what depends on the moment of asking."""
    return msgspec.to_builtins(record) | {
        "as_of": iso(record.as_of_us),
        "newest_at": iso(record.newest_us),
        "newest_age_seconds": age_seconds(record, now_us),
        "stale": is_stale(record, now_us),
        "stale_after_seconds": STALE_SECONDS,
        "abstained_because": ABSTAINED[record.abstained] if record.abstained else "",
        "status": STATUS,
        "approved": False,
    }
