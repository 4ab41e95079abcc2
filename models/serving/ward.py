"""The ward as it is now: each patient's chart from the care store, with the one score record that all screens show."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from governance.erasure.forgotten import catch_up
from governance.keyuse import open_vault
from models.artefact import Model
from models.lateness import Lag, behind
from models.news2 import (
    MAX_AGE_HOURS,
    OXYGEN,
    PARTS,
    News2,
    Situation,
    is_vital,
    last_of_parts,
    news2,
    numbers_of_parts,
    parts_in,
    vital_times,
)
from models.scoring import ScoreRecord, score_with_features
from models.serving.health import (
    REFILL,
    Trouble,
    filled,
    gone,
    lane_troubles,
    missing_troubles,
    of_model,
    replaced,
    undecided,
)
from models.serving.inputs import Inputs, Rules
from models.serving.risk import STALE_SECONDS, old_after_seconds
from models.serving.scores import FILE, ScoreBook
from models.serving.shadow import Shadow, Trial, without_learnt
from models.tasks import Task, load_task
from pipelines.intake.online_feed import TAKEN, open_online_store, store_sealer
from pipelines.online_store.facts import Decision
from pipelines.online_store.playback import Replay
from pipelines.online_store.values import CLOCK_AHEAD, REFUSED, REFUSED_UNKNOWN_CODE
from vitalake import clock
from vitalake.clinical.records import History, Stay
from vitalake.errors import PrivacyError, SettingsError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

log = logging.getLogger(__name__)

SCORING = 8
"""Counts up when the same evidence gives another record: those of before stay in the book, and are not given out."""

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
        due_us: when the next value expires, or one that lies ahead (in a replay) becomes known; NEVER_US: none does.
        decisions: what clinicians have decided for this stay, by kind.
        trial: as what the learnt score is shown; None: it is not shown to who acts.
        last: what NEWS2 was before parts of it expired or were ended, where that is more than is known now.
        last_us: when the newest reading of that was measured.
        refused: how many messages of the patient were refused in whose place nothing has come, and when the last one
            was; None: none.
        ahead: how many seconds the clock that told the newest vital signs is ahead; 0: it is not.
        behind: of parts whose values come steadily late by how many seconds.
        hidden: some of these count for nothing beside others of their part, which come in time.
        age_years: completed years, with a stay those at admission; None: not known.
        pregnant: a diagnosis of the stay says so, or of the patient.
        measured_since: the stay has ended, and vital signs were measured since, or refused, that are not stale.
        died: the patient is recorded as dead, see pipelines.online_store.facts.Person; empty: not.
    """

    patient: str
    revision: int
    now_us: int
    record: ScoreRecord
    history: History
    stay: Stay | None
    trend: tuple[News2, ...]
    due_us: int
    decisions: dict[str, Decision] = field(default_factory=dict)
    trial: Trial | None = None
    last: News2 | None = None
    last_us: int = 0
    refused: tuple[int, int] | None = None
    ahead: float = 0.0
    behind: dict[str, float] = field(default_factory=dict)
    hidden: bool = False
    age_years: float | None = None
    pregnant: bool = False
    measured_since: bool = False
    died: str = ""

    @property
    def gone(self) -> bool:
        """Return whether the patient is on no board: no stay is open, and nothing was measured since."""
        return self.stay is not None and self.stay.discharged_us is not None and not self.measured_since


@dataclass(slots=True)
class _Held:
    """What is remembered of a patient between two looks."""

    revision: int
    history: History
    due_us: int = NEVER_US
    place: str = ""
    record: ScoreRecord | None = None
    trend: dict[int, tuple[int, News2]] = field(default_factory=dict)
    situation: Situation | None = None
    changes: tuple[int, ...] | None = None
    ahead: bool = False


class Ward:
    """Charts of all patients; used by one thread."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        """Open what charts are made from.

        Raises:
            VitaLakeError: care store or book cannot be opened, or the rules do not hold.
        """
        self.task = _task(settings)
        self._inputs = Inputs(settings, keys, self.task)
        self._settings, self._keys = settings, keys
        self._shadow = Shadow(settings, keys)
        self._vault = open_vault(settings, keys, purpose="scores")  # of this thread
        self._care = open_online_store(settings, keys, vault=self._vault)
        self._store, self._replaced_us = self._care.name(), 0
        sealer = store_sealer(settings, keys, "scores", vault=self._vault, purpose="scores")
        self._book = ScoreBook(settings.path(FILE), sealer)
        catch_up(self._book, settings, keys)
        self._held: dict[str, _Held] = {}
        self._revisions: dict[str, int] = {}
        self._version, self._newest, self._recounted = -1, -1, 0.0
        self._generation = ""

    def close(self) -> None:
        """Close what was opened."""
        self._care.close()
        self._book.close()
        self._shadow.close()
        self._vault.close()

    def hold(self) -> None:
        """Make sure that patients' values may be read and shown now.

        Raises:
            KeyRevoked: they may not; nothing of them stays here.
            ServiceUnavailable: nobody can say.
        """
        try:
            self._vault.hold_keys()
        except PrivacyError:
            self._held, self._revisions = {}, {}
            self._version, self._newest, self._recounted = -1, -1, 0.0
            raise

    def now_us(self) -> int:
        """Return the ward's time."""
        return self._care.now_us()

    def replay(self) -> Replay | None:
        """Return the replay that is under way; None: the ward's time is the wall clock's."""
        return self._care.replay()

    def troubles(self) -> list[Trouble]:
        """Return what is wrong beside the patients; to be asked once a second."""
        lanes = self._care.lanes()
        expected = self._expected() if self._care.replay() is None else set()  # of a replay there need be no streams
        found = lane_troubles(lanes, now_us=clock.now_us(), expected=expected)
        found += missing_troubles(expected, lanes, made_us=self._care.made_us())
        if self._replaced_us and not self._care.is_filled_since(self._replaced_us):
            found.append(replaced(self._replaced_us))
        elif lacking_us := self._care.incomplete_since_us():
            found.append(replaced(lacking_us))
        if clock.now_us() - (filled_us := self._care.filled_us()) < MAX_AGE_HOURS * 3_600e6:
            found.append(filled(filled_us))
        if self._care.lacks_decisions():
            found.append(undecided(filled_us))
        if self._inputs.refused is not None:
            found.append(of_model(self._inputs.refused))
        return found

    def _expected(self) -> set[str]:
        """Return the jobs that must report: those that are configured, else, after a loss, whichever there were."""
        if "jobs" in self._settings.model_fields_set:
            return {job for job, one in self._settings.jobs.items() if one.care and one.dataset in TAKEN}
        lost = max(self._care.filled_us(), self._care.incomplete_since_us())
        return {""} if not self._care.lanes() and clock.now_us() - lost < MAX_AGE_HOURS * 3_600e6 else set()

    def _look_at_file(self) -> set[str]:
        """Open the store again if its file is another one; return who was known in the one of before.

        Raises:
            CareStoreGone: there is no file any more. One is not made here: whoever writes makes it.
        """
        if not self._care.moved():
            return set()
        if not self._settings.path(self._settings.care.path).exists():
            raise gone()
        before = set(self._revisions)
        self._care.close()
        self._care = open_online_store(self._settings, self._keys, vault=self._vault)
        self._store, self._replaced_us = self._care.name(), clock.now_us()
        self._held.clear()
        self._revisions.clear()
        self._version, self._newest, self._recounted = -1, -1, 0.0
        log.error("care-store-replaced", extra={"where": "settings.care.path", "remedy": REFILL})
        return before

    def inputs(self) -> tuple[str, str, int]:
        """Return what decides scores, or whether they are shown, besides patients; when it changes, all are anew."""
        model = self._inputs.model()
        return self._inputs.rules().version, model.digest if model else "", self._shadow.revision()

    def changed(self) -> set[str]:
        """Return the patients that have changed since this was asked last; a few microseconds when none has.

        Raises:
            KeyRevoked, ServiceUnavailable: see ``hold``.
            CareStoreGone: its file was deleted.
        """
        self.hold()
        before = self._look_at_file()
        if before:
            return before | self.changed()
        version = self._care.version()
        if version == self._version and time.monotonic() - self._recounted < RECOUNT_SECONDS:
            return set()
        generation = self._care.generation()
        # Also finds who is gone, and who is there under another number now.
        if time.monotonic() - self._recounted >= RECOUNT_SECONDS or generation != self._generation:
            self._generation = generation
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
        """Return all patients who are on the ward, or of whom there are values, also those that lie ahead."""
        return set(self._revisions)

    def chart(self, patient: str) -> Chart | None:
        """Return a patient's chart; None: nobody known, or stay and values lie ahead of the ward's time.

        The score is computed at first sight of new evidence and written to the book before it is returned.

        Raises:
            VitaLakeError: the store or the book refuses, or the rules do not hold.
        """
        self.hold()
        revision = self._revisions.get(patient, -1)
        if revision < 0:
            return None
        held = self._held.get(patient)
        if held is None or held.revision != revision:
            before = held
            held = _Held(revision, self._care.history(patient))
            if before is not None:
                held.trend, held.situation = before.trend, before.situation
            self._held[patient] = held
        now_us = self._care.now_us()
        moment = self._times(held, now_us)
        stay = self._care.stay(patient, as_of_us=now_us)
        if moment is None:
            if stay is None:
                return None
            moment = stay.admitted_us
        decisions = self._care.decisions(patient, encounter=stay.encounter if stay else "")
        age = stay.age_years if stay else self._care.age(patient, as_of_us=now_us)
        pregnant = stay.pregnant if stay else self._care.pregnant(patient, as_of_us=now_us)
        situation = situation_of(decisions, age_years=age, pregnant=pregnant)
        record = self._record(held, stay, patient, moment, situation)
        known = held.history.known_at(moment)  # what is shown is what was scored
        held.due_us = min([held.due_us, *_olds_us(record.news2, now_us)])
        if stay is not None and stay.moves_us is not None:
            held.due_us = min(held.due_us, stay.moves_us)
        last, last_us = _last(known, record, situation)
        if last is not None and last_us + STALE_SECONDS * 1_000_000 >= now_us:  # until then it ranks as it did
            held.due_us = min(held.due_us, last_us + STALE_SECONDS * 1_000_000 + 1)
        refused = _refused(held.history.known_at(now_us), now_us)
        held.due_us = min(held.due_us, refused[2] if refused else NEVER_US)
        lags = behind(known, numbers_of_parts(), since_us=now_us - int(MAX_AGE_HOURS * 3_600e6))
        since_us = _since_the_end(held.history.known_at(now_us), stay, record.news2, lags, now_us)
        if since_us is not None:
            held.due_us = min(held.due_us, since_us + STALE_SECONDS * 1_000_000 + 1)
        trial = self._shadow.shown(self._inputs.model(), stay.unit if stay else "", replay=self._care.replay())
        return Chart(
            patient=patient,
            revision=revision,
            now_us=now_us,
            record=record if trial else without_learnt(record),
            history=known,
            stay=stay,
            trend=_trend(held, known, now_us, situation),
            due_us=held.due_us,
            decisions=decisions,
            trial=trial,
            last=last,
            last_us=last_us,
            refused=refused[:2] if refused else None,
            ahead=_ahead(held.history.known_at(now_us)),
            behind={part: lag.us / 1e6 for part, lag in lags.items()},
            hidden=any(lag.hidden for lag in lags.values()),
            age_years=age,
            pregnant=pregnant,
            measured_since=since_us is not None,
            died=stay.died if stay else self._care.died(patient),
        )

    def _times(self, held: _Held, now_us: int) -> int | None:
        """Note when the chart changes next by the clock alone; return the moment its score is of, None: none is."""
        ahead = np.maximum(held.history.available_us, held.history.effective_us)
        ahead = ahead[ahead > now_us]
        if held.changes is None or len(ahead) or held.ahead:  # what is known changes with the revision, or in a replay
            held.changes, held.ahead = self.task.changes(held.history, by_us=now_us), bool(len(ahead))
        due = [int(ahead.min())] if len(ahead) else []
        held.due_us = min([*due, *(us for us in held.changes if us > now_us)], default=NEVER_US)
        return max((us for us in held.changes if us <= now_us), default=None)

    def decide(self, patient: str, decision: Decision) -> None:
        """Store what a clinician has decided of a patient; the next chart is read by it.

        Raises:
            ServiceUnavailable: the care store cannot be written.
        """
        self._care.put_facts([(patient, decision.kind, decision.at_us, decision)])

    def shows_learnt(self) -> str:
        """Return what the learnt score is worth, if it is shown to anybody; empty: it is not.

        It is shown as a trial on old data, or because it is approved for some unit.
        """
        model = self._inputs.model()
        if model is None or (self._care.replay() is None and not self._shadow.anywhere(model)):
            return ""
        return self._shadow.worth(model)

    def due_us(self, patient: str) -> int:
        """Return when the next value of a patient becomes known that lies ahead; NEVER_US: there is none."""
        held = self._held.get(patient)
        return held.due_us if held else NEVER_US

    def _record(self, held: _Held, stay: Stay | None, patient: str, moment: int, situation: Situation) -> ScoreRecord:
        rules, model = self._inputs.rules(), self._inputs.model()
        place = self._place(patient, held.revision, moment, model, rules, situation)
        if held.record is None or held.place != place:
            found = self._book.find(place)
            held.record = found or self._compute(held, stay, patient, moment, model, rules, place, situation)
            held.place = place
        return held.record

    def _compute(
        self,
        held: _Held,
        stay: Stay | None,
        patient: str,
        moment: int,
        model: Model | None,
        rules: Rules,
        place: str,
        situation: Situation,
    ) -> ScoreRecord:
        record, vector = score_with_features(
            held.history.known_at(moment),
            rules.as_published(stay),
            patient=patient,
            as_of_us=moment,
            model=model,
            task=self.task,
            policy=rules.version,
            situation=situation,
        )
        return self._book.keep(place, record, vector)

    def _place(
        self, patient: str, revision: int, moment: int, model: Model | None, rules: Rules, situation: Situation
    ) -> str:
        digest = model.digest if model else ""
        parts = [SCORING, patient, revision, moment, self.task.digest, digest, rules.version, situation]
        if self._store:  # revisions begin anew in another store
            parts.append(self._store)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _task(settings: Settings) -> Task:
    """Return the task whose learnt score is served.

    Raises:
        SettingsError: it is not declared, or looks back further than the care store does.
    """
    task, hours = load_task(settings.serving.task), settings.care.hours
    if task.window_hours + task.as_of.fresh_hours > hours:
        raise SettingsError(
            f"Task looks back further than the care store keeps values ({hours:g} h)",
            where=f"care.hours, task {task.name}",
            remedy=f"Keep {task.window_hours + task.as_of.fresh_hours:g} hours, or serve another task.",
        )
    return task


def _olds_us(score: News2, now_us: int) -> list[int]:
    """Return when each of the shown readings begins to be called old: the row says so then, and stale."""
    ends = [one.at_us + old_after_seconds(part) * 1_000_000 + 1 for part, one in score.latest.items()]
    newest = max((one.at_us for part, one in score.latest.items() if part != OXYGEN), default=None)
    ends += [] if newest is None else [newest + STALE_SECONDS * 1_000_000 + 1]
    return [end for end in ends if end > now_us]


def situation_of(decisions: Mapping[str, Decision], *, age_years: float | None, pregnant: bool) -> Situation:
    """Return how NEWS2 is read: by the true age, and by what clinicians have decided for this stay.

    Args:
        decisions: by kind.
        age_years: the patient's, which may be known without a stay.
        pregnant: as diagnoses say; what a clinician has decided counts first.
    """
    scale, pregnancy = decisions.get("spo2-scale-2"), decisions.get("pregnancy")
    return Situation(
        age_years=age_years,
        pregnant=pregnancy.holds if pregnancy else pregnant,
        scale_2=bool(scale and scale.holds),
    )


def _last(known: History, record: ScoreRecord, situation: Situation) -> tuple[News2 | None, int]:
    """Return the score of before parts of it expired or were ended, and when it was, if it was more than is known now.

    Of several such moments the highest. Each is read as what is known now says of it, also by what came late.
    """
    score = record.news2
    expired = [one.at_us for part, one in score.latest.items() if score.parts[part] is None]
    moments = {end.at_us - 1 for end in score.ended.values()} | ({max(expired)} if expired else set())
    if score.withheld:
        return None, 0
    most = -1 if score.total is None else score.total
    found: tuple[News2 | None, int] = None, 0
    for by_us in sorted(moments):
        then = known.where(known.effective_us <= by_us)
        seen = History(then.code, then.value, then.effective_us, then.effective_us, then.comparator)
        was = news2(seen, as_of_us=by_us, situation=situation)
        if was.total is not None and (was.total > most or (found[0] is not None and was.total == most)):
            most, found = was.total, (was, max(one.at_us for one in was.latest.values()))
    return found


def _ahead(known: History) -> float:
    """Return how far a sender's clock was ahead, if it was since the newest vital sign of another time."""
    told = known.where(known.code == CLOCK_AHEAD)
    newest = vital_times(known).max(initial=-NEVER_US)
    return float(told.value[-1]) if len(told) and told.effective_us[-1] >= newest else 0.0


def _since_the_end(known: History, stay: Stay | None, score: News2, lags: Mapping[str, Lag], now_us: int) -> int | None:
    """Return when the last vital sign was that was measured after the stay's end, unless it is stale; None: none was.

    One that was refused is one, too, if its code is known; a message that names none is a laboratory's more often. Of
    an event that came late, and of a clock that is behind, when they came counts: by its stamps nothing was since. A
    discharge was recorded too early, or the next stay is not told yet.
    """
    if stay is None or stay.discharged_us is None:
        return None
    told = known.effective_us[is_vital(known) | (known.code == REFUSED)].max(initial=-NEVER_US)
    came = [event.came_us for event in score.events if event.came_us]
    came += [int(lag.came_us[-1]) for lag in lags.values() if lag.goes_on_after(stay.discharged_us)]
    last = max(int(told), *came, -NEVER_US)
    return last if last > max(stay.discharged_us, now_us - STALE_SECONDS * 1_000_000 - 1) else None


def _refused(known: History, now_us: int) -> tuple[int, int, int] | None:
    """Return how many refused messages stand, when the last one was, and when the first ceases to; None: none stands.

    One that named its codes stands until each of their parts was measured again. Of one that did not nobody knows what
    it was: it stands until all parts that are known were measured after it, or for as long as a vital sign is not
    stale. What a feed without codes leaves in two days is looked at as a whole: all patients wait for one chart.
    """
    is_mark = (known.code == REFUSED) | (known.code == REFUSED_UNKNOWN_CODE)
    if not is_mark.any():
        return None
    last = last_of_parts(known)
    named = parts_in(known.code)
    beside = np.unique(known.effective_us[named >= 0])
    unmeasured = (named >= 0) & ~np.isfinite(known.value)
    unmeasured &= known.effective_us > np.array([*(last.get(part, -NEVER_US) for part in PARTS), NEVER_US])[named]
    times = known.effective_us[is_mark]
    has_names = (known.code[is_mark] == REFUSED) & np.isin(times, beside)
    nameless = times[~has_names & (times > now_us - STALE_SECONDS * 1_000_000 - 1)]
    if last:
        nameless = nameless[nameless >= min(last.values())]
    standing = np.append(times[has_names & np.isin(times, known.effective_us[unmeasured])], nameless)
    if not len(standing):
        return None
    until = int(nameless.min()) + STALE_SECONDS * 1_000_000 + 1 if len(nameless) else NEVER_US
    return len(standing), int(standing.max()), until


def _trend(held: _Held, known: History, now_us: int, situation: Situation) -> tuple[News2, ...]:
    """Return NEWS2 at the marks; computed again only where more is known of a mark than before (history came late).

    All are read as the patient is read now, so that a change of scale is no change of the patient.
    """
    if held.situation != situation:
        held.trend, held.situation = {}, situation
    last = now_us // MARK_US * MARK_US
    marks = range(last - (MARKS - 1) * MARK_US, last + 1, MARK_US)
    counts = np.searchsorted(np.sort(np.maximum(known.available_us, known.effective_us)), list(marks), side="right")
    fresh: dict[int, tuple[int, News2]] = {}
    for mark, count in zip(marks, counts.tolist(), strict=True):
        held_then = held.trend.get(mark)
        if held_then is None or held_then[0] != count:
            held_then = (count, news2(known.known_at(mark), as_of_us=mark, situation=situation))
        fresh[mark] = held_then
    held.trend = fresh
    return tuple(score for _, score in fresh.values())
