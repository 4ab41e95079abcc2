"""The vital signs of the MIMIC-IV demo as messages of bedside devices; values are not cleaned."""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pipelines.simulator import demo_data
from pipelines.simulator.anchors import Anchors, load_or_create
from pipelines.simulator.observation import EPOCH, ISSUED_AFTER_US, PRESSURES, Message, instant, number, template

SYSTEM = "urn:vitalake:simulator:mimic-iv-demo"
_MICROSECOND = timedelta(microseconds=1)
_PRESSURE_PART = re.compile(r" ?(systolic|diastolic|mean)", re.IGNORECASE)


class _Group(NamedTuple):
    """Values that go into one message: those of a stay, a time (as in the demo) and a kind of measurement."""

    stay: str
    recorded: datetime
    kind: str  # part of the identifier: arterial and cuff pressures of one time are two panels


def messages(
    home: Path, *, patients: int | None = None, only: Collection[str] | None = None, hours: float | None = None
) -> Iterator[Message]:
    """Return the demo's vital signs, moved in time by the home's anchors, in the order in which they were measured.

    Every replay of the same home gives the same bytes.

    Args:
        home: where the anchors are read, or written.
        patients: only the first so many patients; default: all 100.
        only: ids of patients; default: all.
        hours: only values of so many hours before the anchors' reference; default: all.
    """
    anchors = load_or_create(home)
    patient_of = {stay: p for stay, p in _patients(patients).items() if only is None or p in only}
    groups = _groups(patient_of.keys() & anchors.shift_seconds.keys())
    due = {group: _rebased(group, anchors) for group in groups}
    since = 0 if hours is None else _microseconds(anchors.reference - timedelta(hours=hours))
    beds = _Beds()
    templates: dict[tuple[str, str, tuple[str, ...]], bytes] = {}
    for group in sorted((g for g in groups if due[g] >= since), key=lambda g: (due[g], g)):
        device = beds.device(group.stay, group.recorded)
        patient, values = patient_of[group.stay], groups[group]
        shape = tuple(sorted(values, key=(*PRESSURES, *values).index))
        key = (group.stay, device, shape)
        if key not in templates:
            templates[key] = template(shape, system=SYSTEM, patient=patient, encounter=group.stay, device=device)
        ident = f"{group.stay}-{group.kind}-{_microseconds(group.recorded) // 60_000_000:x}".encode()
        at, issued = instant(due[group]), instant(due[group] + ISSUED_AFTER_US)
        value = templates[key] % (ident, at, issued, *(number(values[name]) for name in shape))
        yield Message(due[group], device, patient.encode(), value)


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // _MICROSECOND


def _rebased(group: _Group, anchors: Anchors) -> int:
    return _microseconds(group.recorded) + anchors.shift_seconds[group.stay] * 1_000_000


def _patients(limit: int | None) -> dict[str, str]:
    """Return the patient of each stay, of the first ``limit`` patients."""
    stays = demo_data.read("hospitalization", ["patient_id", "hospitalization_id"]).to_pylist()
    chosen = set(sorted({stay["patient_id"] for stay in stays})[:limit])
    return {stay["hospitalization_id"]: stay["patient_id"] for stay in stays if stay["patient_id"] in chosen}


def _groups(stays: set[str]) -> dict[_Group, dict[str, float]]:
    """Return the values of each message, by vital sign."""
    columns = ["hospitalization_id", "recorded_dttm", "vital_name", "vital_category", "vital_value"]
    table = demo_data.read("vitals", columns).to_pydict()
    groups: dict[_Group, dict[str, float]] = defaultdict(dict)
    kinds: dict[str, str] = {}
    for stay, recorded, name, vital, value in zip(*(table[column] for column in columns), strict=True):
        if stay in stays:
            if name not in kinds:
                kinds[name] = _slug(_PRESSURE_PART.sub("", name) if vital in PRESSURES else name)
            groups[_Group(stay, recorded, kinds[name])][vital] = value
    return groups


class _Beds:
    """Finds the device at a patient's bed at a time: one monitor per bed, and one bed per stay in a unit."""

    def __init__(self) -> None:
        moves: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
        beds: dict[str, dict[str, int]] = defaultdict(dict)
        columns = ["hospitalization_id", "in_dttm", "location_name"]
        rows = demo_data.read("adt", columns).to_pylist()
        for row in sorted(rows, key=lambda row: (row["hospitalization_id"], row["in_dttm"])):
            stay, unit = row["hospitalization_id"], _slug(_short(row["location_name"] or "ward"))
            bed = beds[unit].setdefault(stay, len(beds[unit]) + 1)
            moves[stay].append((row["in_dttm"], f"{unit}-{bed:02d}"))
        self._moves = moves

    def device(self, stay: str, moment: datetime) -> str:
        """Return the device's id; for a time before the first known bed, that of the first bed."""
        moves = self._moves.get(stay)
        if not moves:
            return "transport-01"
        return moves[max(bisect.bisect_right(moves, moment, key=lambda move: move[0]) - 1, 0)][1]


def _short(unit: str) -> str:
    """Return the abbreviation in parentheses in a unit's name, or the whole name."""
    found = re.search(r"\(([^)]+)\)", unit)
    return found[1] if found else unit


def _slug(text: str) -> str:
    """Return lower-case letters and digits with single hyphens: fit for a FHIR id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
