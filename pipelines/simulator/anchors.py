"""Anchors: how far each stay of the demo is moved in time. Decided once for a home, and then read by both lanes.

All stays of a patient move by the same amount, so the intervals between them stay true and no patient is in two beds at
once. A patient's last vital sign is moved to at most six hours before the time of the decision, the *reference*. If the
stay ended within a day after that vital sign, its end is moved there instead, so that it is known how the stay ended.
Rows that would lie after now (a later ward, a later stay) have not happened yet, and are left out by all readers.
"""

from __future__ import annotations

import os
import secrets
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from pipelines.simulator import demo_data
from vitalake import clock
from vitalake.errors import InputError

FILE_NAME = "anchors.json"
_FORMAT = 1
_KNOWN_END = timedelta(hours=24)
_STAGGER_MINUTES = (2, 360)  # at least two, so that what follows a value by seconds also lies before now


@dataclass(frozen=True, slots=True)
class Anchors:
    """The shifts of a home's stays.

    Attributes:
        reference: when they were decided, UTC.
        shift_seconds: a stay's id (``hospitalization_id``) → the seconds to add to every time of the stay.
        format: of the file.
    """

    reference: datetime
    shift_seconds: dict[str, int]
    format: int = _FORMAT


def load_or_create(home: Path, *, now: datetime | None = None) -> Anchors:
    """Return the anchors of a home; the first call decides and writes them, to a file that only its owner can read.

    Args:
        home: an existing folder.
        now: the reference if there is no file yet; default: the present moment.

    Raises:
        InputError: the file cannot be read or written, or is not a file of anchors.
    """
    path = home / FILE_NAME
    try:
        if not path.exists():
            _write_once(path, _decide((now or clock.now()).replace(second=0, microsecond=0)))
        anchors = msgspec.json.decode(path.read_bytes(), type=Anchors)
    except OSError as error:
        raise InputError(
            f"Anchors cannot be read or written ({error.strerror})",
            where=str(path),
            remedy="Run 'vitalake init', and make sure that the home is writable.",
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _not_anchors(path) from None
    if anchors.format != _FORMAT:
        raise _not_anchors(path)
    return anchors


def _not_anchors(path: Path) -> InputError:
    return InputError(
        "File of anchors is not one that this version reads",
        where=str(path),
        remedy="Move it away: the next run writes a new one, which moves the demo to today.",
    )


def _write_once(path: Path, anchors: Anchors) -> None:
    """Write the file atomically; of two writers the first one wins, and both then read the same file."""
    staged = path.with_name(f".{FILE_NAME}.{secrets.token_hex(4)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(anchors), indent=1))
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(staged)
    finally:
        staged.unlink()


def _decide(reference: datetime) -> Anchors:
    """Return the shift of every stay."""
    stays = demo_data.read("hospitalization", ["patient_id", "hospitalization_id", "discharge_dttm"]).to_pylist()
    vitals = demo_data.read("vitals", ["hospitalization_id", "recorded_dttm"])
    latest = vitals.group_by("hospitalization_id").aggregate([("recorded_dttm", "max")]).to_pydict()
    last_vital = dict(zip(latest["hospitalization_id"], latest["recorded_dttm_max"], strict=True))
    ends: dict[str, datetime] = {}
    for stay in stays:
        if end := _end(last_vital.get(stay["hospitalization_id"]), stay["discharge_dttm"]):
            ends[stay["patient_id"]] = max(end, ends.get(stay["patient_id"], end))
    shifts = {patient: reference - _stagger(patient) - end for patient, end in ends.items()}
    return Anchors(
        reference,
        {
            stay["hospitalization_id"]: int(shifts[stay["patient_id"]].total_seconds())
            for stay in stays
            if stay["patient_id"] in shifts
        },
    )


def _end(last_vital: datetime | None, discharge: datetime | None) -> datetime | None:
    """Return the time of a stay that is moved to just before the reference; None without vital signs."""
    if last_vital and discharge and last_vital < discharge <= last_vital + _KNOWN_END:
        return discharge
    return last_vital


def _stagger(patient: str) -> timedelta:
    first, last = _STAGGER_MINUTES
    return timedelta(minutes=first + zlib.crc32(patient.encode()) % (last - first))
