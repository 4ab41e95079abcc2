"""Writes identified rows to the online store and the vault, before the rows are masked."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import compress
from operator import or_
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace as replace_in

from governance.belonging.stores import StoreSealer
from governance.erasure.forgotten import catch_up as forget_again
from governance.keyuse import open_vault
from governance.policy.masks import Pseudonyms
from governance.vault import Identity, Vault
from pipelines.core.open_letters import topic_of
from pipelines.core.poll import Outcome, Poll
from pipelines.formats.base import WAREHOUSE
from pipelines.formats.fhir.places import AND_THEN
from pipelines.formats.shared.records import (
    BORN_IN,
    CLASS_TOLD,
    DIED_TOLD,
    GOES_ON,
    ID_TOLD,
    MERGED,
    OUTPATIENT,
    OVER_TOLD,
    PLACE_TOLD,
    SEX_TOLD,
    record_batch,
)
from pipelines.formats.shared.refused import RefusedRows
from pipelines.online_store.facts import (
    DELETED,
    FROM_ADMISSIONS,
    FROM_RESULTS,
    NOT_STATED,
    Admission,
    Fact,
    Movement,
    Person,
    Placement,
    Pregnancy,
)
from pipelines.online_store.placing import BED
from pipelines.online_store.stays import bed_key
from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import (
    AHEAD_US,
    COMPARATORS,
    MAX_ATTRIBUTION,
    NO_VALUE,
    REFUSED,
    REFUSED_UNKNOWN_CODE,
    ROW,
    UNUSABLE,
    Values,
    clamped_time,
    stage_of,
)
from vitalake import clock
from vitalake.clinical.records import code_number
from vitalake.clinical.statuses import WITHDRAWN, WITHOUT_RESULT
from vitalake.clinical.vitals import vital_numbers
from vitalake.errors import ServiceUnavailable
from vitalake.keys import KeyRing
from vitalake.lake.commits.spans import PartId, Span
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings
from vitalake.vocabulary import load_vocabulary
from vitalake.vocabulary.pregnancy import says_pregnant

_log = logging.getLogger(__name__)


TAKEN = frozenset({"observation", "encounter", "patient", "ward_movement", "device_association", "condition"})
"""The datasets whose rows go to the online store or the vault; their lanes write their heartbeat into the store."""

_BEFORE_ALL = -1
"""The version of an identity that only an admission message has given; every version of the own record is higher."""

CAME_AT = "came_at"
"""A column added to rows in this module only: when the message came, by the broker."""

_SAID_SECONDS, _MOST_SAID = 600.0, 100_000
"""For how long a Person from result messages is not stored again, and for how many patients that is remembered."""


class OnlineFeed:
    """Feeds the online store and the vault with one dataset's rows; used by one thread at a time.

    Both are updated poll by poll. They can be ahead of the lake, never behind it: rows that a killed lane reads again
    are recognised by their position or version.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        keys: KeyRing,
        vault: Vault,
        *,
        left_out: frozenset[str] = frozenset(),
        admits: Callable[[str], bool] | None = None,
        again: bool = False,
    ) -> None:
        """Prepare; files are opened when the first rows come.

        Args:
            settings: of the home.
            dataset: of the rows.
            keys: for pseudonyms and sealing.
            vault: the patients' identities; the caller closes it.
            left_out: LOINC codes that do not go to the online store.
            admits: whether a patient, by pseudonym, goes to the online store; None: all patients do.
            again: the rows are read from the lake to fill the store again (pipelines.republish.online_store). They do
                not contain everything that the messages said.
        """
        self._settings, self._dataset, self._keys = settings, dataset, keys
        self._again, self._rejected = again, False
        self._left_out, self._admits = left_out, admits
        self._pseudonyms = {
            column.name: Pseudonyms(keys, str(column.data_class))
            for column in dataset.columns
            if column.name in ("patient_id", "encounter_id")
        }
        self._store: OnlineStore | None = None
        self._vault = vault
        self._numbers = {loinc: code_number(loinc) for loinc in load_vocabulary().codes}
        takers: dict[str, Callable[[Outcome], None]] = {
            "observation": self._observations,
            "encounter": self._encounters,
            "patient": self._patients,
            "ward_movement": self._movements,
            "device_association": self._placements,
            "condition": self._conditions,
        }
        self.older_merges: list[tuple[int, str, str]] = []
        """Collected while the store is filled again: merges from before the hours that it keeps, as version, pseudonym
        of the old number and pseudonym of the new one."""
        self._said: dict[str, Person] = {}
        self._said_since = time.monotonic()
        self._taker = takers.get(dataset.name)
        """None: rows of the dataset go neither to the store nor to the vault."""

    def take(self, outcome: Outcome, *, rejected: bool = False) -> None:
        """Write a poll's identified rows to the store and the vault.

        Args:
            outcome: of the poll.
            rejected: the messages were rejected before and are read again; see OnlineStore.put_facts.

        Raises:
            ServiceUnavailable: online store or vault cannot be written.
        """
        has_content = (
            outcome.rows.num_rows or outcome.refused is not None or outcome.newly_owned is not None or outcome.told
        )
        if has_content and self._taker is not None:
            self._rejected = rejected
            self._taker(outcome)

    def report_incomplete(self, writer: str, spans: Iterable[Span]) -> None:
        """Report in the log and on the ward if the online store is new, or an older copy, and lacks rows of the lake.

        Args:
            writer: the lane, ``<job>/<i>of<n>``, whose heartbeats in the store are compared with its spans.
            spans: of its partitions, at least those of the hours that the store keeps.
        """
        since = clock.now_us() - int(self._settings.care.hours * 3_600e6)
        recent = [span for span in spans if span.decided_us >= since]
        if self._taker is None or not recent:
            return
        own = (span.decided_us for span in recent if span.kind == "stream" and f"{span.job}/{span.shard}" == writer)
        is_new = self.store.completeness.is_new()
        if is_new or self.store.completeness.is_older(writer, max(own, default=0)):
            self.store.completeness.note_incomplete()
            which = "new" if is_new else "an older copy"
            _log.error(
                f"online store is {which}, and lacks rows that the lake has",
                extra={"where": "settings.care.path", "remedy": "Fill it: vitalake lake rebuild care."},
            )

    def settle(self, ends: Mapping[PartId, int]) -> None:
        """Note how far the lake has decided partitions; can be called from any thread."""
        if self._store is not None:
            self._store.settle({part.app_id(self._dataset.name): end for part, end in ends.items()})

    def has_undecided(self, part: PartId) -> bool:
        """Return whether values of a partition are stored that were perhaps never decided; see OnlineStore."""
        return self.store.has_undecided(part.app_id(self._dataset.name))

    def known_patients(self, patients: list[str]) -> list[str]:
        """Return those of the patients, by their source ids, who are in the online store.

        Raises:
            ServiceUnavailable: it cannot be opened.
        """
        tokens = self._tokens("patient_id", pa.array(patients, pa.string()))
        survivors = map(self.store.survivor, tokens)
        return [patient for patient, token in zip(patients, survivors, strict=True) if self.store.patients.has(token)]

    def rewind(self, positions: Mapping[PartId, int], *, others: bool = False) -> int:
        """Delete undecided values that could belong to another patient when they are read again; see OnlineStore."""
        names = {part.app_id(self._dataset.name): position for part, position in positions.items()}
        return self.store.rewind(names, others=others)

    @property
    def store(self) -> OnlineStore:
        """The online store, opened at first use, and again when its file was deleted or replaced."""
        if self._store is not None and self._store.moved():
            _log.error(
                "online store was deleted or replaced",
                extra={"where": "settings.care.path", "remedy": "Fill the new one: vitalake lake rebuild care."},
            )
            self.close()
        if self._store is None:
            self._store = open_online_store(self._settings, self._keys, vault=self._vault)
        return self._store

    def _write(self, write: Callable[[OnlineStore], object]) -> None:
        """Write to the store; write again if its file was deleted or replaced meanwhile."""
        while True:
            store = self.store
            write(store)
            if not store.moved():
                return

    def beat(self, writer: str, *, ended: bool = False) -> None:
        """Record that a lane is running, or has ended by itself, if its rows go to the store.

        If the store cannot be written the lane goes on: the missing heartbeat is shown on the ward.
        """
        if self._taker is not None:
            with suppress(ServiceUnavailable):
                self._write(lambda store: store.lanes.beat(writer, ended=ended))

    def close(self) -> None:
        """Close what was opened."""
        if self._store is not None:
            self._store.close()
        self._store, self._said = None, {}

    # -- observations --------------------------------------------------------------------------------------------

    def _observations(self, outcome: Outcome) -> None:
        taken = self._values(outcome.rows, outcome.message, outcome.poll)
        if outcome.refused is not None:
            rejected = [reject.message for reject in outcome.rejects]
            taken = taken.and_also(self._refused(outcome.refused, rejected, outcome.poll))
        if outcome.newly_owned is not None:
            taken = taken.and_also(self._newly_owned(outcome.newly_owned, outcome.poll))
        ends = _ends(outcome, self._dataset.name)
        ours = _is_ours(outcome.poll)
        self._write(lambda store: store.take(taken, writer=outcome.poll.shard, ends=ends, ours=ours))
        if outcome.people:
            self._people_of_results(outcome.people)

    def _people_of_results(self, given: Sequence[tuple[str, int, Person]]) -> None:
        """Store what result messages say of their patients, once in a while for each: monitors send it every minute."""
        if time.monotonic() - self._said_since > _SAID_SECONDS or len(self._said) > _MOST_SAID:
            self._said, self._said_since = {}, time.monotonic()
        new = {(patient, person): version for patient, version, person in given if self._said.get(patient) != person}
        if not new:
            return
        tokens = self._tokens("patient_id", pa.array([patient for patient, _ in new], pa.string()))
        people = [(*one, version, token) for (one, version), token in zip(new.items(), tokens, strict=True)]
        self._keep_births(
            (token, _BEFORE_ALL - 1, patient, person.born)
            for patient, person, _, token in people
            if person.born not in (*NOT_STATED, DELETED)
        )
        taken = [one for one in people if self._is_taken(one[3])]
        self._people([(token, FROM_RESULTS, version, person) for _, person, version, token in taken])
        self._said |= {patient: person for patient, person, _, token in taken if self._is_taken(token)}

    def _is_taken(self, token: str) -> bool:
        """Return whether a Person need not be offered again: the store has the patient, or does not admit them."""
        return self.store.patients.has(self.store.survivor(token)) or not (self._admits is None or self._admits(token))

    def _refused(self, refused: RefusedRows, rejected: Sequence[int], poll: Poll) -> Values:
        """Return rows that end the earlier values of refused measurements, and one row for each rejected message."""
        refused = refused.where(refused.rows["patient_id"].is_valid().to_numpy(zero_copy_only=False))
        was_rejected = np.isin(refused.message, rejected)
        without_value, refused = refused.where(~was_rejected), refused.where(was_rejected)
        values = self._values(refused.rows, refused.message, poll)
        values.rows["stage"] |= UNUSABLE << 8
        values = values.and_also(self._values(without_value.rows, without_value.message, poll))
        markers = self._rejection_markers(refused, refused.message, poll)
        markers.rows["id"] = _numbers_of(markers, poll)
        return values.and_also(markers)

    def _newly_owned(self, owned: RefusedRows, poll: Poll) -> Values:
        """Return the same rows for messages of earlier polls, at the position of this poll's last message."""
        was_rejected = owned.message > 0
        refused, without_value = owned.where(was_rejected), owned.where(~was_rejected)
        values = [self._values(part.rows, _at_the_end(poll, part), poll) for part in (refused, without_value)]
        values[0].rows["stage"] |= UNUSABLE << 8
        markers = self._rejection_markers(refused, _at_the_end(poll, refused), poll)
        times = markers.rows["effective_us"].tolist()
        markers.rows["id"] = [_number_of(poll.parts[0], -time - i) for i, time in enumerate(times)]
        return values[0].and_also(values[1]).and_also(markers)

    def _rejection_markers(self, refused: RefusedRows, message: npt.NDArray[np.int32], poll: Poll) -> Values:
        """Return rows that say that messages were rejected, one for each message and patient; their ids are not set.

        Messages that cannot have held a vital sign get none.

        Args:
            refused: rows of rejected messages.
            message: for each row the message of the poll at whose position it is stored.
            poll: the messages.
        """
        code = self._code_numbers(_texts(refused.rows["code"]))
        vital = np.isin(code, (0, *vital_numbers()))
        refused, message, code = refused.where(vital), message[vital], code[vital]
        patient = _texts(refused.rows["patient_id"]).indices.to_numpy(zero_copy_only=False)
        order = np.lexsort((code, patient, refused.message))  # rows with an unknown code (0) come first
        _, first = np.unique(np.stack([refused.message, patient])[:, order], axis=1, return_index=True)
        first = order[first]
        markers = self._values(refused.rows.take(pa.array(first)), message[first], poll, any_code=True)
        markers.rows["code"] = np.where(markers.rows["code"] == 0, REFUSED_UNKNOWN_CODE, REFUSED)
        markers.rows["value"], markers.rows["stage"] = NO_VALUE, stage_of("final")
        return markers

    def _values(
        self, rows: pa.RecordBatch, messages: npt.NDArray[np.int32], poll: Poll, *, any_code: bool = False
    ) -> Values:
        status, code = _texts(rows["status"]), _texts(rows["code"])
        number = self._with_answers(rows, pc.fill_null(rows["value"], np.nan).to_numpy(zero_copy_only=False))
        empty = np.isnan(number)
        numbers = self._code_numbers(code)  # a known measurement without a number is kept: it ends the value before it
        chosen = (~empty | (numbers > 0) | _is_among(status, WITHDRAWN)) & ~_is_among(status, WITHOUT_RESULT)
        if any_code:
            chosen[:] = True
        elif self._left_out:
            chosen &= ~_is_among(code, tuple(self._left_out))
        patients = _texts(rows["patient_id"])
        tokens = self._tokens("patient_id", patients.dictionary)
        owner = patients.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        if self._admits is not None:
            chosen &= np.array([self._admits(token) for token in tokens], np.bool_)[owner]
        which = np.flatnonzero(chosen)
        values = np.zeros(len(which), ROW)
        values["code"] = numbers[which]
        values["stage"] = _stages(status)[which]
        if "comparator" in rows.schema.names and rows["comparator"].null_count < len(rows):
            values["stage"] |= _comparators(_texts(rows["comparator"]))[which] << 8
        if "data_absent_reason" in rows.schema.names and empty.any():
            values["stage"][_is_not_to_be_had(rows, status, empty)[which]] &= ~np.uint16(1)
            came = rows["data_absent_reason"].is_null().to_numpy(zero_copy_only=False) & empty
            values["stage"][came[which]] |= UNUSABLE << 8
        values["value"] = number[which]
        for name in ("effective_at", "available_at"):
            values[name.replace("_at", "_us")] = rows[name].cast(pa.int64()).to_numpy(zero_copy_only=False)[which]
        if poll.format != WAREHOUSE:  # the warehouse gives the times of storage; the time of this load means nothing
            values["came_us"] = poll.broker_ms[messages[which]] * 1000
        values["attribution"] = _attribution(rows)[which]
        values["id"] = _first_halves(rows["observation_id"])[which]
        values["version"] = pc.fill_null(rows["version"], 0).to_numpy(zero_copy_only=False)[which]
        message = messages[which]
        return Values(
            rows=values,
            patient=owner[which],
            patients=tokens,
            position=poll.offset[message],
            part=poll.part[message],
            parts=[part.app_id(self._dataset.name) for part in poll.parts],
        )

    def _with_answers(self, rows: pa.RecordBatch, number: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the numbers, and for an answer on a scale its place, the best answer 0: see Vocabulary.answers."""
        coded = rows["value_code"]
        if coded.null_count == len(coded):
            return number
        answers, number = load_vocabulary().answers, number.copy()
        given = coded.to_pylist()
        for i, code in enumerate(rows["code"].to_pylist()):
            if code in answers and given[i] is not None and np.isnan(number[i]):
                number[i] = answers[code].score.get(given[i], np.nan)
        return number

    def _code_numbers(self, codes: pa.DictionaryArray) -> npt.NDArray[np.uint32]:
        # The dictionary also holds the codes of rejected rows, which can be any text.
        numbers = np.array([self._numbers.get(text, 0) for text in codes.dictionary.to_pylist()], np.uint32)
        found: npt.NDArray[np.uint32] = numbers[codes.indices.to_numpy(zero_copy_only=False)]
        return found

    def _tokens(self, column: str, values: pa.Array) -> list[str]:
        tokens: list[str] = self._pseudonyms[column](values).to_pylist()
        return tokens

    # -- stays and people ----------------------------------------------------------------------------------------

    def _encounters(self, outcome: Outcome) -> None:
        rows, begins = self._with_came(outcome), partial(self._clamped, ours=_is_ours(outcome.poll))
        columns = (
            _numbers(rows, name)
            for name in ("admitted_at", "discharged_at", "available_at", "age_at_admission", CAME_AT)
        )
        over = _values_of(rows, OVER_TOLD)  # a stay that is over without a time ended when that became known
        facts = [
            Admission(
                begun := begins(admitted or 0, came),
                _end(begins, begun, discharged, known, came, ended, again=self._again),
                age,
                said_us=admitted if admitted and begun != admitted else 0,
                known_us=begins(known or 0, came),
                outpatient=kind == OUTPATIENT,
            )
            for admitted, discharged, known, age, came, ended, kind in zip(
                *columns, over, _values_of(rows, CLASS_TOLD), strict=True
            )
        ]
        encounters = self._encounter_tokens(rows)
        beds = [
            _bed_of(encounter, place, stay, begins, came)
            for encounter, place, stay, came in zip(
                encounters, _values_of(rows, PLACE_TOLD), facts, _numbers(rows, CAME_AT), strict=True
            )
        ]
        self._put(rows, encounters, facts, beside=[(bed_key(bed.encounter), bed) if bed else None for bed in beds])
        if outcome.poll.format != WAREHOUSE:
            new = [stay.age_years is None and stay.ended_us is None for stay in facts]
            self._look_up(self._tokens("patient_id", rows["patient_id"].filter(pa.array(new))))

    def _with_came(self, outcome: Outcome) -> pa.RecordBatch:
        """Return rows with the time at which each message came, by the broker.

        It is null for rows of a warehouse and in a replay: their times are not compared with our clock.
        """
        came = pa.array(outcome.poll.broker_ms[outcome.message] * 1000, pa.int64())
        if outcome.poll.format == WAREHOUSE or self.store.time.replay() is not None:
            came = pa.nulls(outcome.rows.num_rows, pa.int64())
        elif self._again:
            sources = outcome.rows["source"].to_pylist()
            came = pc.if_else(pa.array([self._is_warehouse(source) for source in sources], pa.bool_()), None, came)
        return outcome.rows.append_column(CAME_AT, came)

    def _is_warehouse(self, source: str) -> bool:
        """Return whether rows in the lake were loaded from a warehouse, by the name that a load gives its source."""
        topic = topic_of(source)
        live = any(topic in job.topics for job in self._settings.jobs.values())
        return topic.endswith(f".{self._dataset.name}") and not live

    def _clamped(self, stated_us: int, came_us: int | None, *, ours: bool) -> int:
        """Return the stated beginning, clamped to our clock where the sender's is ahead: see clamped_time."""
        return stated_us if came_us is None else clamped_time(stated_us, came_us, self.store.time.now_us(), ours=ours)

    def _look_up(self, tokens: list[str]) -> None:
        """Store the dates of birth from the vault of those of the patients whose date the online store does not know.

        A date that was given for a merged number does not count as the surviving number's own.
        """
        people: list[tuple[str, str, int, Fact]] = []
        for token in dict.fromkeys(tokens):
            survivor = self.store.survivor(token)
            known = self.store.facts.person(survivor, own=True)
            if known is None or not known.born:
                people += self._born_by_vault(survivor, known)
                people += self._born_by_vault(token, known) if token != survivor else []
        self._people(people)

    def _born_by_vault(self, token: str, known: Person | None) -> list[tuple[str, str, int, Fact]]:
        identity = self._vault.look_up(token)
        if identity is None or not identity.birth_date:
            return []
        return [(token, FROM_ADMISSIONS, 0, Person(known.sex if known else "unknown", identity.birth_date))]

    def look_up_all(self) -> None:
        """Store the dates of birth from the vault of all patients in the online store whose date it does not know.

        Raises:
            ServiceUnavailable: online store or vault cannot be used.
        """
        self._look_up(self.store.all_patients())

    def _keep_births(self, given: Iterable[tuple[str, int, str, str]]) -> None:
        """Write dates of birth from admission and result messages to the vault, if the patient's record gives none.

        Args:
            given: pseudonym, _BEFORE_ALL or a version before it, source id, the date or DELETED.
        """
        rows = []
        for token, version, source_id, day in given:
            stored, stored_version = self._vault.look_up(token) or Identity(source_id), self._vault.version(token)
            born, by = (None, None) if day == DELETED else (day, version)
            new = replace_in(stored, birth_date=born, born_by=by)
            not_by_record = stored.birth_date is None or (stored.born_by is not None and version >= stored.born_by)
            if new != stored and (not_by_record or stored_version is None or version >= stored_version):
                rows.append((token, version if stored_version is None else max(version, stored_version), new))
        if rows:
            self._vault.put(rows)

    def _people(self, people: Sequence[tuple[str, str, int, Fact]]) -> None:
        admitted = [person for person in people if self._admits is None or self._admits(person[0])]
        if admitted:
            self._write(lambda store: store.put_facts(admitted))

    def _movements(self, outcome: Outcome) -> None:
        rows = outcome.rows
        encounters = self._encounter_tokens(rows)
        facts: list[Fact] = [
            Movement(encounter, since or 0, until, unit or "", bed or "")
            for encounter, since, until, unit, bed in zip(
                encounters,
                _numbers(rows, "in_at"),
                _numbers(rows, "out_at"),
                _strings(rows, "unit"),
                _strings(rows, "bed"),
                strict=True,
            )
        ]
        self._put(rows, [f"{fact.encounter}/{fact.since_us}" for fact in facts if isinstance(fact, Movement)], facts)

    def _placements(self, outcome: Outcome) -> None:
        """Store the beds, and the merges of patient numbers, that admissions report; other devices are left out."""
        rows, clamped = self._with_came(outcome), partial(self._clamped, ours=_is_ours(outcome.poll))
        rows = rows.filter(outcome.rows["patient_id"].is_valid())
        of = rows["device_id"].cast(pa.string())
        self._beds(rows.filter(pc.fill_null(pc.starts_with(of, BED), False)), clamped)
        self._beds(self._told_only(outcome), clamped)
        self._merges(rows.filter(pc.fill_null(pc.starts_with(of, MERGED), False)))

    def _told_only(self, outcome: Outcome) -> pa.RecordBatch:
        """Return the beds that rejected messages report; without a time of their own they are known since they came."""
        beds = record_batch("device_association", [row for _, row in outcome.told])
        came = outcome.poll.broker_ms[np.array([i for i, _ in outcome.told], np.int32)] * 1000
        ids = pa.array([row["association_id"] for _, row in outcome.told], pa.binary())
        return beds.append_column("association_id", ids).append_column(CAME_AT, pa.array(came, pa.int64()))

    def _merges(self, rows: pa.RecordBatch) -> None:
        """Merge numbers that were given up into the surviving numbers.

        A filling from the lake reads the merges of all times. Merges from before the hours of the store are collected,
        until it is known which patients are in the store.
        """
        if not rows.num_rows:
            return
        given_up = pc.utf8_slice_codeunits(rows["device_id"].cast(pa.string()), len(MERGED))
        old, new = self._tokens("patient_id", given_up), self._tokens("patient_id", rows["patient_id"])
        versions, statuses = rows["version"].to_pylist(), _strings(rows, "status")
        begins, horizon = _numbers(rows, "valid_from"), self.store.time.horizon_us()
        for number, into, version, status, at in zip(old, new, versions, statuses, begins, strict=True):
            if status != "active" or not (self._admits is None or self._admits(into)):
                continue
            if self._again and (at or 0) < horizon:
                self.older_merges.append((version, number, into))
            else:
                self._write(partial(OnlineStore.merge, patient=number, into=into, version=version))
        self._people_of_admissions(rows)

    def _beds(self, rows: pa.RecordBatch, clamped: Callable[[int, int | None], int]) -> None:
        if not rows.num_rows:
            return
        encounters = self._encounter_tokens(rows)
        columns = (_numbers(rows, name) for name in ("valid_from", "valid_to", "available_at", CAME_AT))
        texts = (_strings(rows, "device_id"), _strings(rows, "status"), _values_of(rows, OVER_TOLD))
        facts: list[Fact] = []
        for encounter, told, until, known, came, bed, status, over in zip(encounters, *columns, *texts, strict=True):
            since, known_us = clamped(told or 0, came), clamped(known or came or 0, came)
            said = told if told and since != told else 0
            if over == GOES_ON:
                facts.append(
                    Placement(encounter or "", since, None, "", "active", True, said_us=said, known_us=known_us)
                )
            else:
                state = status or "active"
                is_over = bool(over)
                facts.append(
                    Placement(encounter or "", since, until, bed or "", state, is_over, said_us=said, known_us=known_us)
                )
        self._put(rows, [identity.hex() for identity in rows["association_id"].to_pylist()], facts)
        self._people_of_admissions(rows)

    def _people_of_admissions(self, rows: pa.RecordBatch) -> None:
        """Store what admission messages say of their patients; a date of birth also goes to the vault.

        The lake has no column for it, and a store that is filled again must know who is a child. In the vault it has a
        lower version than every record of the patient's own.
        """
        born, sexes, deaths = (_values_of(rows, name) for name in (BORN_IN, SEX_TOLD, DIED_TOLD))
        tokens, versions = self._tokens("patient_id", rows["patient_id"]), rows["version"].to_pylist()
        given = [*zip(tokens, rows["patient_id"].to_pylist(), versions, born, sexes, deaths, strict=True)]
        days = {one[0]: one for one in sorted(given, key=lambda one: one[2]) if one[3]}
        self._keep_births((token, _BEFORE_ALL, source_id, day) for token, source_id, _, day, *_ in days.values())
        self._people(
            [
                (token, FROM_ADMISSIONS, version, Person(sex or "unknown", day or "", died=died or ""))
                for token, _, version, day, sex, died in given
                if day or sex or died
            ]
        )
        self._look_up(tokens)

    def _conditions(self, outcome: Outcome) -> None:
        """Store diagnoses of pregnancy, in which NEWS2 does not apply; also those that the lake does not take."""
        store_only = record_batch("condition", [row for _, row in outcome.told])
        message = np.array([i for i, _ in outcome.told], np.int32)
        self._pregnancies(outcome.rows, outcome.message, outcome.poll)
        self._pregnancies(store_only, message, outcome.poll)

    def _pregnancies(self, rows: pa.RecordBatch, message: npt.NDArray[np.int32], poll: Poll) -> None:
        ids = _strings(rows, ID_TOLD)
        relevant = np.array([*map(or_, _diagnosed(rows), [id_ is not None for id_ in ids])], np.bool_)
        rows, message = rows.filter(pa.array(relevant)), message[relevant]
        if not rows.num_rows:
            return
        keys, names = self._names_of_diagnoses(rows)
        chosen = np.array([name is not None for name in names], np.bool_)
        if not chosen.any():
            return
        rows, message = rows.filter(pa.array(chosen)), message[chosen]
        columns = zip(
            [token or "" for token in self._encounter_tokens(rows)],
            _numbers(rows, "available_at"),
            _numbers(rows, "recorded_at"),
            _values_of(rows, OVER_TOLD),
            (poll.broker_ms[message] * 1000).tolist(),
            _diagnosed(rows),
            compress(names, chosen),
            strict=True,
        )
        facts: list[Fact] = [
            Pregnancy(
                stay,
                known or came,
                not pregnant or _is_over(over, recorded if not stay else None, came),
                tuple(has or ()),
            )
            for stay, known, recorded, over, came, pregnant, has in columns
        ]
        # The lake does not store that a diagnosis is over. So a row read from it has a lower version here than the same
        # version of a message.
        live = [poll.values[i] is not None for i in message.tolist()]
        versions = [2 * v + is_live for v, is_live in zip(rows["version"].to_pylist(), live, strict=True)]
        index = rows.schema.get_field_index("version")
        rows = rows.set_column(index, "version", pa.array(versions, pa.int64()))
        self._put(rows, [*compress(keys, chosen)], facts, wait=poll.format != WAREHOUSE)

    def _names_of_diagnoses(self, rows: pa.RecordBatch) -> tuple[list[str], list[list[str] | None]]:
        """Return the keys of diagnoses, and for each the further names; None: it is no pregnancy, and never was one.

        The key is the diagnosis' id. So two diagnoses of one code are two, and a diagnosis whose code or stay changes
        stays the same. Without an id, as in the lake, the key is made of stay and code, which is a further name of a
        diagnosis with an id. A diagnosis that is no longer one of pregnancy ends the earlier one. So does a diagnosis
        without a readable code, if it is over.
        """
        of = zip(*(_strings(rows, name) for name in ("encounter_id", "code_system", "code")), strict=True)
        stay_and_code = self._tokens("encounter_id", pa.array(["|".join(part or "" for part in name) for name in of]))
        ids = _strings(rows, ID_TOLD)
        called = self._tokens("encounter_id", pa.array([id_ and f"condition.id|{id_}" for id_ in ids], pa.string()))
        patients = self._tokens("patient_id", rows["patient_id"])
        known: dict[tuple[str, str], list[str]] = {}
        names: list[list[str] | None] = []
        unread = zip(_strings(rows, "code"), _values_of(rows, OVER_TOLD), strict=True)
        says = zip(patients, called, stay_and_code, _diagnosed(rows), unread, strict=True)
        for patient, key, name, pregnant, (code, over) in says:
            if key and (patient, key) not in known:
                before = self.store.facts.pregnancies(self.store.survivor(patient)).get(key)
                known |= {(patient, key): [*before.names]} if before else {}
            has = known.get((patient, key)) if key else None
            if pregnant:
                has = [*dict.fromkeys([*(has or []), name])] if key else []
                known |= {(patient, key): has} if key else {}
            names.append(has if pregnant or code or over == "yes" else None)
        return [key or name for key, name in zip(called, stay_and_code, strict=True)], names

    def _patients(self, outcome: Outcome) -> None:
        rows = outcome.rows
        given = {name: rows[name].to_pylist() for name in ("name", "mrn", "address") if name in rows.schema.names}
        days, parts = (_values_of(rows, name) for name in ("birth_date", BORN_IN))
        born = [str(day or part or "") for day, part in zip(days, parts, strict=True)]
        died = _values_of(rows, DIED_TOLD)
        facts: list[Fact] = [
            Person(sex or "unknown", day, died=end or "")
            for sex, day, end in zip(rows["sex"].to_pylist(), born, died, strict=True)
        ]
        self._put(rows, [""] * rows.num_rows, facts, wait=outcome.poll.format != WAREHOUSE)
        tokens = self._tokens("patient_id", rows["patient_id"])
        looked_up = outcome.poll.format != WAREHOUSE
        births = [
            self._born(token) if looked_up and not day else (day or None, None)
            for token, day in zip(tokens, born, strict=True)
        ]
        identities = [
            Identity(source_id, birth_date=day, born_by=by, **{name: given[name][i] for name in given})
            for i, (source_id, (day, by)) in enumerate(zip(rows["patient_id"].to_pylist(), births, strict=True))
        ]
        self._vault.put(zip(tokens, rows["version"].to_pylist(), identities, strict=True))

    def _born(self, token: str) -> tuple[str | None, int | None]:
        """Return the date of birth in the vault, and the version that gave it (Identity), if the record has no date."""
        identity = self._vault.look_up(token)
        return (identity.birth_date, identity.born_by) if identity is not None else (None, None)

    def _encounter_tokens(self, rows: pa.RecordBatch) -> list[str]:
        return self._tokens("encounter_id", rows["encounter_id"])

    def _put(
        self,
        rows: pa.RecordBatch,
        keys: list[str],
        facts: Sequence[Fact],
        *,
        beside: Sequence[tuple[str, Fact] | None] = (),
        wait: bool = False,
    ) -> None:
        """Store a fact of each row, and in the same transaction a second fact of some rows, each with its key."""
        patients, versions = self._tokens("patient_id", rows["patient_id"]), rows["version"].to_pylist()
        given = [*zip(patients, keys, versions, facts, strict=True)]
        given += [(patients[i], one[0], versions[i], one[1]) for i, one in enumerate(beside) if one is not None]
        admitted = [fact for fact in given if self._admits is None or self._admits(fact[0])]
        self._write(lambda store: store.put_facts(admitted, wait=wait, again=self._again, rejected=self._rejected))


def open_online_store(
    settings: Settings, keys: KeyRing, *, vault: Vault | None = None, purpose: str = "care", catch_up: bool = True
) -> OnlineStore:
    """Open the home's online store.

    Args:
        settings: of the home.
        keys: of the home's key file.
        vault: under whose lease the store's key is used, of the same thread; None: opens one, and closes it with the
            store.
        purpose: for which that vault is opened.
        catch_up: first forget the patients who were erased since the store was backed up.

    Raises:
        ServiceUnavailable: its file cannot be opened.
        PrivacyError: the vault is not the lake's.
    """
    sealer = store_sealer(settings, keys, "care", vault=vault, purpose=purpose)
    try:
        store = OnlineStore(settings.path(settings.care.path), sealer, hours=settings.care.hours)
    except BaseException:
        sealer.close()
        raise
    if catch_up:
        try:
            forget_again(store.erasure, settings, keys)
        except BaseException:
            store.close()
            raise
    return store


def store_sealer(
    settings: Settings, keys: KeyRing, name: str, *, vault: Vault | None = None, purpose: str
) -> StoreSealer:
    """Return the sealer of a store beside the lake, which works under the vault's lease; see open_online_store.

    Raises:
        VitaLakeError: as governance.keyuse.open_vault.
    """
    owned = open_vault(settings, keys, purpose=purpose) if vault is None else None
    return StoreSealer(owned or cast(Vault, vault), name, keys.current("care"), owned=owned is not None)


def _is_ours(poll: Poll) -> bool:
    """Return whether the times at which a poll's messages came are all by our own clock."""
    return poll.ours is not None and bool(poll.ours.all())


def _end(
    clamped: Callable[[int, int | None], int],
    begun: int,
    discharged: int | None,
    known: int | None,
    came: int | None,
    over: str | None,
    *,
    again: bool,
) -> int | None:
    """Return when a stay ended; None: it goes on, even if its planned end has passed.

    The lake does not store whether a stay was over. For its rows an end that was in the future when the row came counts
    as planned.
    """
    if over == GOES_ON:
        return None
    if over and discharged is None:
        return max(clamped(known or 0, came), begun)
    if again and discharged is not None and came is not None:
        return discharged if discharged <= came + AHEAD_US else None
    return clamped(discharged, came) if over and discharged is not None else discharged


def _bed_of(
    encounter: str,
    told: str | None,
    stay: Admission,
    clamped: Callable[[int, int | None], int],
    came: int | None,
) -> Placement | None:
    """Return the bed that a stay's own record gives, or that the stay has none; None: the record does not say.

    The bed begins at the end of the stay at the latest.
    """
    if told is None:
        return None
    place, *later = told.split(AND_THEN)
    since, _, bed = place.partition(" ")
    since_us = begun_us = clamped(int(since), came) if bed else stay.admitted_us
    since_us = since_us if stay.ended_us is None else min(since_us, stay.ended_us)
    said_us = int(since) if bed and begun_us != int(since) else 0
    parts = [one.partition(" ") for one in later if stay.ended_us is None]
    then = tuple((int(at), bed) for at, _, bed in parts)
    return Placement(encounter, since_us, None, bed, "active" if bed else "ended", said_us=said_us, then=then)


_PREGNANT_US = 300 * 86_400_000_000
"""How long a diagnosis without a stay is valid after it was recorded: longer than any pregnancy lasts."""


def _diagnosed(rows: pa.RecordBatch) -> list[bool]:
    """Return which diagnoses are of a pregnancy."""
    of = zip(_strings(rows, "code_system"), _strings(rows, "code"), strict=True)
    return [says_pregnant(system, code) for system, code in of]


def _is_over(told: str | None, recorded_us: int | None, now_us: int) -> bool:
    """Return whether a diagnosis is over: it says so, or gives an end before today, or was recorded too long ago."""
    if recorded_us is not None and recorded_us < now_us - _PREGNANT_US:
        return True
    today = datetime.fromtimestamp(now_us / 1e6, UTC).date().isoformat()
    return told == "yes" or (told is not None and told[:10] < today[: len(told)])


def _numbers(rows: pa.RecordBatch, name: str) -> list[int | None]:
    """Return a column as integers, times as microseconds; nulls where the query gives none."""
    if name not in rows.schema.names:
        return [None] * rows.num_rows
    numbers: list[int | None] = rows[name].cast(pa.int64()).to_pylist()
    return numbers


def _values_of(rows: pa.RecordBatch, name: str) -> list[Any]:
    """Return a column as Python has its values; nulls where the query gives none."""
    values: list[Any] = rows[name].to_pylist() if name in rows.schema.names else [None] * rows.num_rows
    return values


def _strings(rows: pa.RecordBatch, name: str) -> list[str | None]:
    """Return a column's texts; nulls where the query gives none."""
    if name not in rows.schema.names:
        return [None] * rows.num_rows
    texts: list[str | None] = rows[name].to_pylist()
    return texts


def _attribution(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Return the attribution of each row, limited to what fits; 0: the message named the patient.

    Odd stays odd, because an even number marks a row that withdraws.
    """
    if "attribution" not in rows.schema.names:
        return np.zeros(rows.num_rows, np.int64)
    known = pc.fill_null(rows["attribution"], 0).to_numpy(zero_copy_only=False)
    return np.where(known > MAX_ATTRIBUTION, MAX_ATTRIBUTION + known % 2, known)


def _texts(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _is_among(column: pa.DictionaryArray, texts: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    hit = np.array([text in texts for text in column.dictionary.to_pylist()], np.bool_)
    found: npt.NDArray[np.bool_] = hit[column.indices.to_numpy(zero_copy_only=False)]
    return found


def _stages(status: pa.DictionaryArray) -> npt.NDArray[np.uint16]:
    stages = np.array([stage_of(text) for text in [*status.dictionary.to_pylist(), None]], np.uint16)
    found: npt.NDArray[np.uint16] = stages[pc.fill_null(status.indices, -1).to_numpy(zero_copy_only=False)]
    return found


def _comparators(column: pa.DictionaryArray) -> npt.NDArray[np.uint16]:
    known = [COMPARATORS.index(text) if text in COMPARATORS else 0 for text in column.dictionary.to_pylist()]
    found: npt.NDArray[np.uint16] = np.array([*known, 0], np.uint16)[pc.fill_null(column.indices, -1).to_numpy()]
    return found


def _is_not_to_be_had(
    rows: pa.RecordBatch, status: pa.DictionaryArray, empty: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return the results that were started and could not be obtained, as HL7's status X; each ends the value before it.

    A cancelled result that was never started ends nothing.
    """
    cancelled = _is_among(status, ("cancelled",)) & empty
    if not cancelled.any():
        return cancelled
    found: npt.NDArray[np.bool_] = cancelled & np.array(
        [reason == "unknown" for reason in rows["data_absent_reason"].to_pylist()], np.bool_
    )
    return found


def _first_halves(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each observation_id, which are enough to tell one patient's values apart."""
    whole = ids.cast(pa.binary(16))
    return np.frombuffer(whole.buffers()[1], np.uint64).reshape(-1, 2)[whole.offset : whole.offset + len(whole), 0]


def _numbers_of(markers: Values, poll: Poll) -> list[int]:
    """Return an id for the message of each value, by its original position even if the poll gives it another one."""
    origin, part, position = poll.origin or poll, markers.part, markers.position
    if poll.origin is not None:
        which = markers.position - poll.offset[0]  # positions without gaps, see Steps.tell_rejected
        part, position = origin.part[which], origin.offset[which]
    of = zip(part.tolist(), position.tolist(), strict=True)
    return [_number_of(origin.parts[i], offset) for i, offset in of]


def _number_of(part: PartId, offset: int) -> int:
    """Return an id for a message, the same whenever it is read again."""
    return int.from_bytes(hashlib.blake2b(f"{part} {offset}".encode(), digest_size=8).digest(), "little")


def _at_the_end(poll: Poll, late: RefusedRows) -> npt.NDArray[np.int32]:
    return np.full(len(late.message), len(poll.values) - 1, np.int32)


def _ends(outcome: Outcome, dataset: str) -> dict[str, int]:
    poll = outcome.poll
    ends = {}
    for i, part in enumerate(poll.parts):
        offsets = poll.offset[poll.part == i]
        if len(offsets):
            ends[part.app_id(dataset)] = int(offsets[-1]) + 1
    return ends
