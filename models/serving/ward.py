"""The ward as it is now: each patient's chart from the care store, with the one score record that all screens show."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field

import msgspec
import numpy as np

from models.artefact import Model
from models.news2 import News2, news2
from models.scoring import ScoreRecord, score_with_features
from models.serving.health import Trouble
from models.serving.inputs import Inputs, Rules
from models.serving.scores import FILE, ScoreBook
from models.tasks import load_task
from pipelines.care import open_care
from vitalake.care.records import History, Stay
from vitalake.care.replay import Replay
from vitalake.keys import KeyRing
from vitalake.sealing import Sealer
from vitalake.settings import Settings

TASK = "mortality"

MARK_US = 1_800_000_000
"""Half an hour: the marks at which the board's trend looks back."""

MARKS = 24
"""Twelve hours of them."""

NEVER_US = np.iinfo(np.int64).max
RECOUNT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Chart:
    """What is known of a patient now.

    Attributes:
        patient: the pseudonym.
        revision: the care store's; grows with each change of the patient.
        now_us: the ward's time.
        record: the score.
        history: what the score rests on; nothing ahead of the ward's time.
        stay: None: no stay is known.
        trend: NEWS2 at each mark of the last twelve hours, as it was known then, oldest first.
        due_us: when a value that lies ahead (in a replay) becomes known; NEVER_US: none does.
    """

    patient: str
    revision: int
    now_us: int
    record: ScoreRecord
    history: History
    stay: Stay | None
    trend: tuple[News2, ...]
    due_us: int


@dataclass(slots=True)
class _Held:
    """What is remembered of a patient between two looks."""

    revision: int
    history: History
    due_us: int = NEVER_US
    place: str = ""
    record: ScoreRecord | None = None
    trend: dict[int, tuple[int, News2]] = field(default_factory=dict)


class Ward:
    """Charts of all patients; used by one thread."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        """Open what charts are made from.

        Raises:
            VitaLakeError: care store or book cannot be opened, or the rules do not hold.
        """
        self.task = load_task(TASK)
        self._inputs = Inputs(settings, keys, self.task)
        self._care = open_care(settings, keys)
        self._book = ScoreBook(settings.path(FILE), Sealer(keys.current("care")))
        self._held: dict[str, _Held] = {}
        self._revisions: dict[str, int] = {}
        self._version, self._newest, self._recounted = -1, -1, 0.0

    def close(self) -> None:
        """Close what was opened."""
        self._care.close()
        self._book.close()

    def now_us(self) -> int:
        """Return the ward's time."""
        return self._care.now_us()

    def replay(self) -> Replay | None:
        """Return the replay that is under way; None: the ward's time is the wall clock's."""
        return self._care.replay()

    def troubles(self) -> list[Trouble]:
        """Return what is wrong beside the patients; to be asked once a second."""
        return []

    def inputs(self) -> tuple[str, str]:
        """Return what decides scores besides patients; when it changes, all are computed anew."""
        model = self._inputs.model()
        return self._inputs.rules().version, model.digest if model else ""

    def changed(self) -> set[str]:
        """Return the patients that have changed since this was asked last; a microsecond or two when none has."""
        version = self._care.version()
        if version == self._version and time.monotonic() - self._recounted < RECOUNT_SECONDS:
            return set()
        if time.monotonic() - self._recounted >= RECOUNT_SECONDS:  # also finds who is gone
            found, self._recounted = self._care.patients(), time.monotonic()
            for gone in self._revisions.keys() - found.keys():
                self._held.pop(gone, None)
            changed = {p for p in found.keys() | self._revisions.keys() if found.get(p) != self._revisions.get(p)}
            self._revisions = found
        else:
            found = self._care.changed_since(self._newest)
            changed = set(found)
            self._revisions.update(found)
        self._newest, self._version = max(self._revisions.values(), default=-1), version
        return changed

    def patients(self) -> set[str]:
        """Return all patients of whom there are values, also those that lie ahead."""
        return set(self._revisions)

    def chart(self, patient: str) -> Chart | None:
        """Return a patient's chart; None: nobody known, or all values lie ahead of the ward's time.

        The score is computed at first sight of new evidence and written to the book before it is returned.

        Raises:
            VitaLakeError: the store or the book refuses, or the rules do not hold.
        """
        revision = self._revisions.get(patient, -1)
        held = self._held.get(patient)
        if held is None or held.revision != revision:
            history = self._care.history(patient)
            if not len(history):
                self._held.pop(patient, None)
                return None
            held = _Held(revision, history, trend=held.trend if held else {})
            self._held[patient] = held
        now_us = self._care.now_us()
        ahead = np.maximum(held.history.available_us, held.history.effective_us)
        ahead = ahead[ahead > now_us]
        held.due_us = int(ahead.min()) if len(ahead) else NEVER_US
        moment = self.task.newest_known(held.history, by_us=now_us)
        if moment is None:
            return None
        stay = self._care.stay(patient, as_of_us=now_us)
        record = self._record(held, stay, patient, moment)
        known = held.history.known_at(moment)  # what is shown is what was scored
        return Chart(
            patient=patient,
            revision=revision,
            now_us=now_us,
            record=record,
            history=known,
            stay=stay,
            trend=_trend(held, known, now_us),
            due_us=held.due_us,
        )

    def due_us(self, patient: str) -> int:
        """Return when the next value of a patient becomes known that lies ahead; NEVER_US: there is none."""
        held = self._held.get(patient)
        return held.due_us if held else NEVER_US

    def _record(self, held: _Held, stay: Stay | None, patient: str, moment: int) -> ScoreRecord:
        rules, model = self._inputs.rules(), self._inputs.model()
        place = self._place(patient, held.revision, moment, model, rules)
        if held.record is None or held.place != place:
            held.record = self._book.find(place) or self._compute(held, stay, patient, moment, model, rules, place)
            held.place = place
        return held.record

    def _compute(
        self, held: _Held, stay: Stay | None, patient: str, moment: int, model: Model | None, rules: Rules, place: str
    ) -> ScoreRecord:
        record, vector = score_with_features(
            held.history.known_at(moment),
            rules.as_published(stay),
            patient=patient,
            as_of_us=moment,
            model=model,
            task=self.task,
            policy=rules.version,
        )
        return self._book.keep(place, record, vector)

    def _place(self, patient: str, revision: int, moment: int, model: Model | None, rules: Rules) -> str:
        parts = (patient, revision, moment, self.task.digest, model.digest if model else "", rules.version)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _trend(held: _Held, known: History, now_us: int) -> tuple[News2, ...]:
    """Return NEWS2 at the marks; computed again only where more is known of a mark than before (history came late)."""
    last = now_us // MARK_US * MARK_US
    marks = range(last - (MARKS - 1) * MARK_US, last + 1, MARK_US)
    counts = np.searchsorted(np.sort(np.maximum(known.available_us, known.effective_us)), list(marks), side="right")
    fresh: dict[int, tuple[int, News2]] = {}
    for mark, count in zip(marks, counts.tolist(), strict=True):
        held_then = held.trend.get(mark)
        if held_then is None or held_then[0] != count:
            held_then = (count, news2(known.known_at(mark), as_of_us=mark))
        fresh[mark] = held_then
    held.trend = fresh
    return tuple(score for _, score in fresh.values())
