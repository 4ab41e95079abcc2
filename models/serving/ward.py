"""The ward now: each patient's chart from the online store, with the one score record that all screens show."""

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
from models.clock_lag import Lag, steady_lags
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
    decisions_missing,
    lane_troubles,
    missing_troubles,
    model_trouble,
    store_gone,
    store_refilled,
    store_replaced,
)
from models.serving.inputs import Inputs, Rules
from models.serving.risk import STALE_SECONDS, old_after_seconds
from models.serving.scores import FILE, ScoreBook
from models.serving.shadow import Shadow, Trial, without_learnt
from models.tasks import Task, load_task
from pipelines.intake.online_feed.feed import TAKEN
from pipelines.online_store.facts import Decision
from pipelines.online_store.opening import open_online_store, store_sealer
from pipelines.online_store.playback import Replay
from pipelines.online_store.values import CLOCK_AHEAD, REFUSED, REFUSED_UNKNOWN_CODE
from vitalake import clock
from vitalake.clinical.records import History, Stay
from vitalake.errors import PrivacyError, SettingsError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

log = logging.getLogger(__name__)

SCORING = 8
"""Increase it when the same evidence gives another record. Older records stay in the book and are not used any more."""

MARK_US = 1_800_000_000
"""Half an hour: the distance between two points of the board's trend."""

MARKS = 24
"""Points of the trend: twelve hours."""

NEVER_US = np.iinfo(np.int64).max
RECOUNT_SECONDS = 30.0
"""How often all patients are listed again: changes alone do not show who is gone."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What is known of a patient now.

    Attributes:
        patient: the pseudonym.
        revision: of the patient in the online store; grows with each change.
        now_us: the ward's time.
        record: the score.
        history: the values behind the score; none of them is ahead of the ward's time.
        stay: None: no stay is known.
        trend: NEWS2 at each mark of the last twelve hours, as it was known then, oldest first.
        due_us: when the chart changes next by the clock alone: a value expires, or in a replay a later one becomes
            known; NEVER_US: never.
        decisions: what clinicians have decided for this stay, by kind.
        trial: how the learnt score is shown; None: it is not shown to clinicians.
        last: NEWS2 before parts of it expired or were ended, if that total is higher than the current one.
        last_us: when the newest reading of that score was measured.
        refused: the number of refused messages that no later value replaces, and the time of the last one; None: none.
        ahead: by how many seconds the clock of the newest vital signs' sender is ahead; 0: it is not.
        behind: by how many seconds the values of a part come steadily late, by part.
        hidden: some of those late values are hidden by values of the same part that come in time.
        age_years: completed years, at admission if there is a stay; None: not known.
        pregnant: a diagnosis of the stay or of the patient says so.
        measured_since: the stay has ended, and there are later vital signs, or refused ones, that are not stale.
        died: the recorded time of death, or "yes" without one; see pipelines.online_store.facts.Person; empty: none.
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
        """Return whether the patient leaves the board: the stay has ended, and no vital sign came after it."""
        return self.stay is not None and self.stay.discharged_us is not None and not self.measured_since


@dataclass(slots=True)
class _CachedPatient:
    """What is cached of a patient between two looks at the store."""

    revision: int
    history: History
    due_us: int = NEVER_US
    book_key: str = ""
    record: ScoreRecord | None = None
    trend: dict[int, tuple[int, News2]] = field(default_factory=dict)
    situation: Situation | None = None
    changes: tuple[int, ...] | None = None
    ahead: bool = False


class Ward:
    """The charts of all patients; used by one thread."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        """Open the online store, the book of scores, the rules and the model.

        Raises:
            VitaLakeError: the online store or the book cannot be opened, or the rules are not valid.
        """
        self.task = _task(settings)
        self._inputs = Inputs(settings, keys, self.task)
        self._settings, self._keys = settings, keys
        self._shadow = Shadow(settings, keys)
        self._vault = open_vault(settings, keys, purpose="scores")  # a vault's connection belongs to one thread
        self._care = open_online_store(settings, keys, vault=self._vault)
        self._store, self._replaced_us = self._care.completeness.name(), 0
        sealer = store_sealer(settings, keys, "scores", vault=self._vault, purpose="scores")
        self._book = ScoreBook(settings.path(FILE), sealer)
        catch_up(self._book, settings, keys)
        self._cached: dict[str, _CachedPatient] = {}
        self._revisions: dict[str, int] = {}
        self._version, self._newest, self._recounted = -1, -1, 0.0
        self._generation = ""

    def close(self) -> None:
        """Close the stores and the vault."""
        self._care.close()
        self._book.close()
        self._shadow.close()
        self._vault.close()

    def check_keys(self) -> None:
        """Check that the keys still allow patients' values to be read and shown.

        Raises:
            KeyRevoked: they do not; all cached values are dropped.
            ServiceUnavailable: the state of the keys cannot be read.
        """
        try:
            self._vault.hold_keys()
        except PrivacyError:
            self._cached, self._revisions = {}, {}
            self._version, self._newest, self._recounted = -1, -1, 0.0
            raise

    def now_us(self) -> int:
        """Return the ward's time."""
        return self._care.time.now_us()

    def replay(self) -> Replay | None:
        """Return the running replay; None: the ward's time is the wall clock's."""
        return self._care.time.replay()

    def troubles(self) -> list[Trouble]:
        """Return what is wrong with streams, stores and model; call it once a second."""
        lanes = self._care.lanes.beats()
        expected = self._expected() if self._care.time.replay() is None else set()  # a replay needs no streams
        found = lane_troubles(lanes, now_us=clock.now_us(), expected=expected)
        found += missing_troubles(expected, lanes, made_us=self._care.completeness.made_us())
        if self._replaced_us and not self._care.completeness.is_filled_since(self._replaced_us):
            found.append(store_replaced(self._replaced_us))
        elif lacking_us := self._care.completeness.incomplete_since_us():
            found.append(store_replaced(lacking_us))
        if clock.now_us() - (filled_us := self._care.completeness.filled_us()) < MAX_AGE_HOURS * 3_600e6:
            found.append(store_refilled(filled_us))
        if self._care.completeness.lacks_decisions():
            found.append(decisions_missing(filled_us))
        if self._inputs.model_error is not None:
            found.append(model_trouble(self._inputs.model_error))
        return found

    def _expected(self) -> set[str]:
        """Return the jobs that must report: the configured ones, or after a loss of the store any (``""``)."""
        if "jobs" in self._settings.model_fields_set:
            return {job for job, one in self._settings.jobs.items() if one.care and one.dataset in TAKEN}
        lost = max(self._care.completeness.filled_us(), self._care.completeness.incomplete_since_us())
        return {""} if not self._care.lanes.beats() and clock.now_us() - lost < MAX_AGE_HOURS * 3_600e6 else set()

    def _look_at_file(self) -> set[str]:
        """Open the store again if its file was replaced; return the patients who were known before that.

        Raises:
            CareStoreGone: the file was deleted. Only writers create it again, never the server.
        """
        if not self._care.moved():
            return set()
        if not self._settings.path(self._settings.care.path).exists():
            raise store_gone()
        before = set(self._revisions)
        self._care.close()
        self._care = open_online_store(self._settings, self._keys, vault=self._vault)
        self._store, self._replaced_us = self._care.completeness.name(), clock.now_us()
        self._cached.clear()
        self._revisions.clear()
        self._version, self._newest, self._recounted = -1, -1, 0.0
        log.error("care-store-replaced", extra={"where": "settings.care.path", "remedy": REFILL})
        return before

    def inputs(self) -> tuple[str, str, int]:
        """Return the versions of rules, model and approvals; when one changes, all charts are made again."""
        model = self._inputs.model()
        return self._inputs.rules().version, model.digest if model else "", self._shadow.revision()

    def changed(self) -> set[str]:
        """Return the patients who have changed since the last call; takes a few microseconds when none has.

        Raises:
            KeyRevoked, ServiceUnavailable: see ``check_keys``.
            CareStoreGone: the store's file was deleted.
        """
        self.check_keys()
        before = self._look_at_file()
        if before:
            return before | self.changed()
        version = self._care.version()
        if version == self._version and time.monotonic() - self._recounted < RECOUNT_SECONDS:
            return set()
        generation = self._care.generation()
        # The full list also shows who is gone, and who has another revision after a merge or a rewrite.
        if time.monotonic() - self._recounted >= RECOUNT_SECONDS or generation != self._generation:
            self._generation = generation
            found, self._recounted = self._care.patients.revisions(), time.monotonic()
            for gone in self._revisions.keys() - found.keys():
                self._cached.pop(gone, None)
            changed = {p for p in found.keys() | self._revisions.keys() if found.get(p) != self._revisions.get(p)}
            self._revisions = found
        else:
            found = self._care.patients.changed_since(self._newest)
            changed = set(found)
            self._revisions.update(found)
        self._newest, self._version = max(self._revisions.values(), default=-1), version
        return changed

    def patients(self) -> set[str]:
        """Return all patients with a stay or values, including those that are ahead of the ward's time."""
        return set(self._revisions)

    def chart(self, patient: str) -> Chart | None:
        """Return a patient's chart; None: the patient is unknown, or stay and values are ahead of the ward's time.

        A new score is written to the book before it is returned.

        Raises:
            VitaLakeError: the store or the book cannot be used, or the rules are not valid.
        """
        self.check_keys()
        revision = self._revisions.get(patient, -1)
        if revision < 0:
            return None
        cached = self._cached.get(patient)
        if cached is None or cached.revision != revision:
            before = cached
            cached = _CachedPatient(revision, self._care.history(patient))
            if before is not None:
                cached.trend, cached.situation = before.trend, before.situation
            self._cached[patient] = cached
        now_us = self._care.time.now_us()
        moment = self._times(cached, now_us)
        stay = self._care.facts.stay(patient, as_of_us=now_us)
        if moment is None:
            if stay is None:
                return None
            moment = stay.admitted_us
        decisions = self._care.facts.decisions(patient, encounter=stay.encounter if stay else "")
        age = stay.age_years if stay else self._care.facts.age(patient, as_of_us=now_us)
        pregnant = stay.pregnant if stay else self._care.facts.pregnant(patient, as_of_us=now_us)
        situation = situation_of(decisions, age_years=age, pregnant=pregnant)
        record = self._record(cached, stay, patient, moment, situation)
        known = cached.history.known_at(moment)  # the chart shows exactly what was scored
        cached.due_us = min([cached.due_us, *_becomes_old_us(record.news2, now_us)])
        if stay is not None and stay.moves_us is not None:
            cached.due_us = min(cached.due_us, stay.moves_us)
        last, last_us = _lost_score(known, record, situation)
        if last is not None and last_us + STALE_SECONDS * 1_000_000 >= now_us:  # until then it keeps its rank
            cached.due_us = min(cached.due_us, last_us + STALE_SECONDS * 1_000_000 + 1)
        refused = _refused(cached.history.known_at(now_us), now_us)
        cached.due_us = min(cached.due_us, refused[2] if refused else NEVER_US)
        lags = steady_lags(known, numbers_of_parts(), since_us=now_us - int(MAX_AGE_HOURS * 3_600e6))
        since_us = _measured_after_end_us(cached.history.known_at(now_us), stay, record.news2, lags, now_us)
        if since_us is not None:
            cached.due_us = min(cached.due_us, since_us + STALE_SECONDS * 1_000_000 + 1)
        trial = self._shadow.shown(self._inputs.model(), stay.unit if stay else "", replay=self._care.time.replay())
        return Chart(
            patient=patient,
            revision=revision,
            now_us=now_us,
            record=record if trial else without_learnt(record),
            history=known,
            stay=stay,
            trend=_trend(cached, known, now_us, situation),
            due_us=cached.due_us,
            decisions=decisions,
            trial=trial,
            last=last,
            last_us=last_us,
            refused=refused[:2] if refused else None,
            ahead=_clock_ahead_seconds(cached.history.known_at(now_us)),
            behind={part: lag.us / 1e6 for part, lag in lags.items()},
            hidden=any(lag.hidden for lag in lags.values()),
            age_years=age,
            pregnant=pregnant,
            measured_since=since_us is not None,
            died=stay.died if stay else self._care.facts.died(patient),
        )

    def _times(self, cached: _CachedPatient, now_us: int) -> int | None:
        """Set when the chart changes next by the clock alone; return the moment of its score, None without values."""
        ahead = np.maximum(cached.history.available_us, cached.history.effective_us)
        ahead = ahead[ahead > now_us]
        if (
            cached.changes is None or len(ahead) or cached.ahead
        ):  # the known values change with the revision only, or in a replay
            cached.changes, cached.ahead = self.task.changes(cached.history, by_us=now_us), bool(len(ahead))
        due = [int(ahead.min())] if len(ahead) else []
        cached.due_us = min([*due, *(us for us in cached.changes if us > now_us)], default=NEVER_US)
        return max((us for us in cached.changes if us <= now_us), default=None)

    def decide(self, patient: str, decision: Decision) -> None:
        """Store what a clinician has decided for a patient; the next chart uses it.

        Raises:
            ServiceUnavailable: the online store cannot be written.
        """
        self._care.put_facts([(patient, decision.kind, decision.at_us, decision)])

    def shows_learnt(self) -> str:
        """Return a sentence on the model's performance if the learnt score is shown to anybody; empty: it is not.

        It is shown as a trial in a replay, or because it is approved for some unit.
        """
        model = self._inputs.model()
        if model is None or (self._care.time.replay() is None and not self._shadow.anywhere(model)):
            return ""
        return self._shadow.worth(model)

    def due_us(self, patient: str) -> int:
        """Return when a patient's chart changes next by the clock alone; NEVER_US: never."""
        cached = self._cached.get(patient)
        return cached.due_us if cached else NEVER_US

    def _record(
        self, cached: _CachedPatient, stay: Stay | None, patient: str, moment: int, situation: Situation
    ) -> ScoreRecord:
        rules, model = self._inputs.rules(), self._inputs.model()
        key = self._book_key(patient, cached.revision, moment, model, rules, situation)
        if cached.record is None or cached.book_key != key:
            found = self._book.find(key)
            cached.record = found or self._compute(cached, stay, patient, moment, model, rules, key, situation)
            cached.book_key = key
        return cached.record

    def _compute(
        self,
        cached: _CachedPatient,
        stay: Stay | None,
        patient: str,
        moment: int,
        model: Model | None,
        rules: Rules,
        key: str,
        situation: Situation,
    ) -> ScoreRecord:
        record, vector = score_with_features(
            cached.history.known_at(moment),
            rules.as_published(stay),
            patient=patient,
            as_of_us=moment,
            model=model,
            task=self.task,
            policy=rules.version,
            situation=situation,
        )
        return self._book.keep(key, record, vector)

    def _book_key(
        self, patient: str, revision: int, moment: int, model: Model | None, rules: Rules, situation: Situation
    ) -> str:
        digest = model.digest if model else ""
        parts = [SCORING, patient, revision, moment, self.task.digest, digest, rules.version, situation]
        if self._store:  # another store counts its revisions from the start
            parts.append(self._store)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _task(settings: Settings) -> Task:
    """Return the task whose learnt score is served.

    Raises:
        SettingsError: it is not declared, or looks back further than the online store keeps values.
    """
    task, hours = load_task(settings.serving.task), settings.care.hours
    if task.window_hours + task.as_of.fresh_hours > hours:
        raise SettingsError(
            f"Task looks back further than the online store keeps values ({hours:g} h)",
            where=f"care.hours, task {task.name}",
            remedy=f"Set care.hours to {task.window_hours + task.as_of.fresh_hours:g} or more, or serve another task.",
        )
    return task


def _becomes_old_us(score: News2, now_us: int) -> list[int]:
    """Return the future times at which a shown reading becomes old, or the patient stale."""
    ends = [one.at_us + old_after_seconds(part) * 1_000_000 + 1 for part, one in score.latest.items()]
    newest = max((one.at_us for part, one in score.latest.items() if part != OXYGEN), default=None)
    ends += [] if newest is None else [newest + STALE_SECONDS * 1_000_000 + 1]
    return [end for end in ends if end > now_us]


def situation_of(decisions: Mapping[str, Decision], *, age_years: float | None, pregnant: bool) -> Situation:
    """Return how NEWS2 is read: by the true age, and by clinicians' decisions for this stay.

    Args:
        decisions: by kind.
        age_years: the patient's; it can be known without a stay.
        pregnant: as diagnoses say; a clinician's decision overrides it.
    """
    scale, pregnancy = decisions.get("spo2-scale-2"), decisions.get("pregnancy")
    return Situation(
        age_years=age_years,
        pregnant=pregnancy.holds if pregnancy else pregnant,
        scale_2=bool(scale and scale.holds),
    )


def _lost_score(known: History, record: ScoreRecord, situation: Situation) -> tuple[News2 | None, int]:
    """Return the score before parts of it expired or were ended, and its time, if its total was higher than now.

    Of several such scores the highest is returned. Each is computed from all that is known now, late values included.
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


def _clock_ahead_seconds(known: History) -> float:
    """Return by how many seconds a sender's clock is ahead, if that mark is not older than the newest vital sign."""
    marks = known.where(known.code == CLOCK_AHEAD)
    newest = vital_times(known).max(initial=-NEVER_US)
    return float(marks.value[-1]) if len(marks) and marks.effective_us[-1] >= newest else 0.0


def _measured_after_end_us(
    known: History, stay: Stay | None, score: News2, lags: Mapping[str, Lag], now_us: int
) -> int | None:
    """Return the time of the last vital sign after the stay's end; None: there is none, or it is stale.

    Such a vital sign means that the discharge was recorded too early, or that the next stay is not reported yet. A
    refused value counts as well if its code is known; a message without codes is more often a laboratory's. Late events
    and values of a clock that is behind count by the time they came, because by their own times they would lie before
    the end.
    """
    if stay is None or stay.discharged_us is None:
        return None
    measured_us = known.effective_us[is_vital(known) | (known.code == REFUSED)].max(initial=-NEVER_US)
    came = [event.came_us for event in score.events if event.came_us]
    came += [int(lag.came_us[-1]) for lag in lags.values() if lag.goes_on_after(stay.discharged_us)]
    last = max(int(measured_us), *came, -NEVER_US)
    return last if last > max(stay.discharged_us, now_us - STALE_SECONDS * 1_000_000 - 1) else None


def _refused(known: History, now_us: int) -> tuple[int, int, int] | None:
    """Return the number of refused messages still shown, the time of the last, and when the first expires; None: none.

    A message that named its codes is shown until each of their parts is measured again. A message without codes is
    shown until all known parts are measured after it, or until a vital sign of its time would be stale. The whole array
    is processed at once, because a feed without codes can leave marks for two days and all patients wait for one chart.
    """
    is_mark = (known.code == REFUSED) | (known.code == REFUSED_UNKNOWN_CODE)
    if not is_mark.any():
        return None
    last = last_of_parts(known)
    named = parts_in(known.code)
    named_times = np.unique(known.effective_us[named >= 0])
    unmeasured = (named >= 0) & ~np.isfinite(known.value)
    unmeasured &= known.effective_us > np.array([*(last.get(part, -NEVER_US) for part in PARTS), NEVER_US])[named]
    times = known.effective_us[is_mark]
    has_names = (known.code[is_mark] == REFUSED) & np.isin(times, named_times)
    nameless = times[~has_names & (times > now_us - STALE_SECONDS * 1_000_000 - 1)]
    if last:
        nameless = nameless[nameless >= min(last.values())]
    standing = np.append(times[has_names & np.isin(times, known.effective_us[unmeasured])], nameless)
    if not len(standing):
        return None
    until = int(nameless.min()) + STALE_SECONDS * 1_000_000 + 1 if len(nameless) else NEVER_US
    return len(standing), int(standing.max()), until


def _trend(cached: _CachedPatient, known: History, now_us: int, situation: Situation) -> tuple[News2, ...]:
    """Return NEWS2 at the marks; a mark is computed again only if more values of it are known now (they came late).

    All marks use the patient's current situation, so that a change of scale does not look like a change of the patient.
    """
    if cached.situation != situation:
        cached.trend, cached.situation = {}, situation
    last = now_us // MARK_US * MARK_US
    marks = range(last - (MARKS - 1) * MARK_US, last + 1, MARK_US)
    counts = np.searchsorted(np.sort(np.maximum(known.available_us, known.effective_us)), list(marks), side="right")
    fresh: dict[int, tuple[int, News2]] = {}
    for mark, count in zip(marks, counts.tolist(), strict=True):
        cached_then = cached.trend.get(mark)
        if cached_then is None or cached_then[0] != count:
            cached_then = (count, news2(known.known_at(mark), as_of_us=mark, situation=situation))
        fresh[mark] = cached_then
    cached.trend = fresh
    return tuple(score for _, score in fresh.values())
