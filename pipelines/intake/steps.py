"""The steps that both lanes apply to decoded rows: conform, attribute, drop repeats, seal, feed the store, mask."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.keyservice import KeyRevoked
from governance.keyuse import open_vault
from governance.policy.closed_text import make_unfit
from governance.policy.masking import MaskPlan, writing_plan
from governance.policy.masks import Pseudonyms
from governance.policy.rules import load_policy
from governance.vault import Vault
from governance.vault.sealed_rows import RowSealer, device_key
from pipelines.attribution.attributor import make_attributor
from pipelines.attribution.vacant import vacated_of
from pipelines.core.arrival import with_arrival
from pipelines.core.dead_letters import DeadLetters
from pipelines.core.lookback import LookBack
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.lenient.unread import about
from pipelines.formats.shared.conform import Conformer
from pipelines.formats.shared.keyed import with_key
from pipelines.formats.shared.named import Named
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.records import Records
from pipelines.formats.shared.refused import (
    RefusedRows,
    Unread,
    joined,
    refused_of_conformed,
    with_patients,
    with_unread,
)
from pipelines.formats.shared.result import Reject
from pipelines.intake.online_feed.feed import OnlineFeed
from pipelines.people.arriving import ErasedPatientFilter
from vitalake import clock
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.commits.lake import restricted_name
from vitalake.lake.commits.span import EVERYTHING, OnlineShare, PartId
from vitalake.lake.datasets.dataset import ASSOCIATION, Dataset, holds_codes
from vitalake.lake.datasets.derived import derive
from vitalake.settings import Settings, StreamSettings
from vitalake.vocabulary import load_vocabulary

_MAX_UNOWNED = 10_000
"""How many rows of refused measurements are remembered for devices without a patient yet, 2 MB."""

NO_LISTS: Mapping[str, frozenset[str]] = {}


class Feed(Protocol):
    """Takes rows for the online store: OnlineFeed, or ReprocessFeed for rows that were read before."""

    def take(self, outcome: Outcome) -> None:
        """Take a poll's identified rows."""
        ...

    def known_patients(self, patients: list[str]) -> list[str]:
        """Return those of some patients whom the store has."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...


class Steps:
    """Turns decoded rows into publishable ones; used by one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        stream: StreamSettings,
        dataset: Dataset,
        *,
        online: OnlineShare = EVERYTHING,
        purpose: str = "stream",
    ) -> None:
        """Read keys, rules and vocabulary.

        Args:
            settings: of the home.
            stream: how far the times of rows may lie in the future or past, and how long repeats are recognised.
            dataset: where the rows go.
            online: which rows go to the online store too, if ``stream.care`` says that any do.
            purpose: what patients' keys are used for; it is recorded in the audit.

        Raises:
            PrivacyError: keys or rules are not valid.
        """
        self._dataset = dataset
        self._max_future_seconds = stream.max_future_seconds
        self.older_until = float("-inf")
        """Until when, by the monotonic clock, the look-back can contain fingerprints of an earlier release."""
        self.keys = keys = Home(settings).keys
        policy = load_policy(settings.path(settings.governance))
        self.plan: MaskPlan = writing_plan(policy, dataset, keys)
        self.conformer = Conformer(
            load_vocabulary(),
            observation_key=keys.current("observation").secret,
            max_future_seconds=stream.max_future_seconds,
            min_effective_year=stream.min_effective_year,
            max_past_days=stream.max_past_days,
            publish_arrival=stream.publish_arrival,
            unset_clock_days=stream.unset_clock_days,
        )
        self.records = Records(
            dataset,
            key=keys.current("observation").secret,
            max_future_seconds=stream.max_future_seconds,
            min_effective_year=stream.min_effective_year,
        )
        self.dead_letters = DeadLetters(keys.current("quarantine"), days=stream.dead_letter_days)
        self.lookback = LookBack(entries=stream.lookback_entries, seconds=stream.lookback_seconds)
        self.vault = open_vault(settings, keys, purpose=purpose)
        self.online_feed = OnlineFeed(settings, dataset, keys, self.vault, share=online) if stream.care else None
        self._feed: Feed | None = self.online_feed
        self.sealer = make_sealer(dataset, self.vault, keys, policy.lists) if dataset.restricted else None
        self.attributor = (
            make_attributor(
                settings,
                dataset=dataset.name,
                keys=keys,
                vault=self.vault,
                envelopes=self.dead_letters,
                days=stream.dead_letter_days,
            )
            if dataset.measures
            else None
        )
        self._naming, self._codes = Naming(settings), load_vocabulary().codes.keys()
        self._erased_filter = ErasedPatientFilter(self.vault, self._naming)
        self._unowned: RefusedRows | None = None
        self._serial, self._looked = 1, 0
        self._key_of = partial(device_key, keys.current("vault").secret)
        self._salts: dict[PartId, tuple[int, int]] = {}
        self.ingested_us: int | None = None
        """When rows came, microseconds since 1970 UTC; None: at the moment when they are masked."""
        self.at_us: int | None = None
        """The time that counts as now, microseconds since 1970 UTC; None: the clock's."""

    def conform(self, item: DecodedPoll) -> Outcome:
        """Return the plausible rows, in the units of the vocabulary."""
        now_us = self._now_us()
        item = with_arrival(
            item, day_of=self._dataset.day_of, max_future_seconds=self._max_future_seconds, now_us=now_us
        )
        poll, decoded = item.poll, item.decoded
        if not self._dataset.measures:
            return self._records(item)
        older = time.monotonic() < self.older_until
        conformed = self.conformer.conform(decoded, broker_ms=poll.broker_ms, now_us=now_us, older=older)
        salts = np.array([self._salt(part) for part in poll.parts], np.uint64).reshape(-1, 2)
        rows, message = conformed.rows, conformed.message
        undecodable = {reject.message for reject in conformed.rejects if not reject.rows}
        left_out = np.array([i for i in decoded.of_others if i not in undecodable], np.int32)
        decoded_rows = decoded.message[~np.isin(decoded.message, [*undecodable])] if undecodable else decoded.message
        return Outcome(
            poll=poll,
            rows=rows,
            message=message,
            row_message=np.concatenate([decoded_rows, left_out]) if len(left_out) else decoded_rows,
            filtered=left_out,
            rejects=decoded.rejects + conformed.rejects,
            tombstones=decoded.tombstones,
            empty=decoded.empty,
            fingerprints=conformed.fingerprint ^ salts[poll.part[message]],
            older=None if conformed.older is None else conformed.older ^ salts[poll.part[message]],
            effective_us=pc.cast(rows["effective_at"], pa.int64()).to_numpy(zero_copy_only=False),
            refused=conformed.refused,
            people=decoded.people,
            mapped=conformed.local.mapped,
            unmapped=conformed.local.unmapped,
        )

    def recognise(self, outcome: Outcome, waiting: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
        """Remove the rows that were seen before and remember the others; return which rows are left.

        This is done once: an outcome that is masked again after a failure is left as it is.

        Args:
            outcome: conformed, and not masked yet.
            waiting: rows that are neither looked up nor remembered, because they wait for a patient.
        """
        new = np.ones(outcome.rows.num_rows, np.bool_)
        if outcome.recognised or not len(outcome.fingerprints):
            return new
        if waiting is None:
            new = self.lookback.admit(outcome.fingerprints, now=self._seconds(), older=outcome.older)
        else:
            older = None if outcome.older is None else outcome.older[~waiting]
            new[~waiting] = self.lookback.admit(outcome.fingerprints[~waiting], now=self._seconds(), older=older)
        if not new.all():
            outcome.keep(new)
        if waiting is not None:
            outcome.fingerprints = outcome.fingerprints[~waiting[new]]
        outcome.recognised = True
        return new

    def _records(self, item: DecodedPoll) -> Outcome:
        """Return the rows of a dataset without measurements, each with its key."""
        decoded = item.decoded
        if decoded.unfinished:
            rows, message, rejects = self.records.finish(decoded, broker_ms=item.poll.broker_ms, now_us=self._now_us())
        else:
            rows, message, rejects = with_key(decoded.rows, decoded.message, self._dataset)
        return Outcome(
            poll=item.poll,
            rows=rows,
            message=message,
            row_message=decoded.message,
            rejects=decoded.rejects + rejects,
            tombstones=decoded.tombstones,
            empty=decoded.empty,
            fingerprints=np.zeros((0, 2), np.uint64),
            effective_us=np.zeros(len(message), np.int64),
            told=self.records.online_rows(decoded.online_only),
        )

    def _now_us(self) -> int:
        return clock.now_us() if self.at_us is None else self.at_us

    def _seconds(self) -> float:
        return time.monotonic() if self.at_us is None else self.at_us / 1e6

    def feed_through(self, feed: Feed) -> None:
        """Hand rows to the online store through another feed, which also closes the store."""
        self._feed = feed

    def close(self) -> None:
        """Close what was opened."""
        if self._feed is not None:
            self._feed.close()
        self.vault.close()

    def _salt(self, part: PartId) -> tuple[int, int]:
        """Return 128 bits that differ by partition, so that duplicates are recognised only within their partition."""
        if part not in self._salts:
            digest = hashlib.blake2b(part.app_id("salt").encode(), digest_size=16).digest()
            self._salts[part] = (int.from_bytes(digest[:8]), int.from_bytes(digest[8:]))
        return self._salts[part]

    def mask(self, outcome: Outcome) -> Outcome:
        """Return the new rows masked, as they can be published.

        Before masking, the rows go sealed to the restricted zone, and to the online store and the vault. Rows of
        patients who were forgotten are dropped.

        Raises:
            KeyRevoked: patients' keys are not available. Nothing was written, and the same poll can be masked later.
            ServiceUnavailable: online store or vault cannot be reached. The same poll can be masked later.
        """
        try:
            return self._mask(outcome)
        except KeyRevoked:
            if self.attributor is not None:
                self.attributor.associations.forget()
            raise

    def _mask(self, outcome: Outcome) -> Outcome:
        self._erased_filter.leave_out_rejected(outcome)
        if self.attributor is not None:
            if self._feed is not None:
                self._find_refused(outcome)
            outcome = self.attributor.attribute(outcome, self.recognise)
        rows = self._with_provenance(derive(outcome.rows, self._dataset), outcome)
        if self._dataset.kind == ASSOCIATION:
            rows = _keep(outcome, rows, self._erased_filter.merges_nobody(rows))
        if self.sealer is not None:
            sealed, known = self.sealer.seal(rows)
            if known is not None and self._dataset.kind == ASSOCIATION:
                sealed = self._with_vacated(sealed, rows.filter(pa.array(~known)))
            outcome.extra[restricted_name(self._dataset.name)] = sealed
            rows = _keep(outcome, rows, known)
        outcome.rows = rows
        if self._feed is not None:
            self._erased_filter.leave_out_online_facts(outcome)
            self._feed.take(outcome)
        masked = self.plan.apply(rows, encoded=True)
        _count(outcome, masked.kept)
        outcome.rows = masked.rows
        outcome.unfit = {name: outcome.message[bad] for name, bad in masked.unfit.items()}
        return outcome

    def tell_rejected(self, outcome: Outcome, *, part: PartId, first: int) -> None:
        """Write to the online store, and nowhere else, what dead letters were about, when the store is filled again.

        Args:
            outcome: of dead letters, conformed.
            part: a partition that replaces the messages' own ones, whose positions the store has already taken.
            first: position of the first message in it.

        Raises:
            KeyRevoked: patients' keys are not available.
            ServiceUnavailable: online store or vault cannot be reached.
        """
        if self.online_feed is None:
            return
        is_result = self.attributor is not None
        if is_result and outcome.rows.num_rows:  # a message that today's rules accept was rejected when it came
            every = np.ones(outcome.rows.num_rows, np.bool_)
            outcome.refused = refused_of_conformed(outcome.rows, outcome.message, every, outcome.refused)
            accepted = np.unique(outcome.message).tolist()
            outcome.rejects = outcome.rejects + [Reject(i, Reason.WRONG_SHAPE, "", rows=1) for i in accepted]
        self._erased_filter.leave_out_rejected(outcome)
        if is_result:
            self._find_refused(outcome)
        poll, count = outcome.poll, len(outcome.poll.values)
        placed = replace(
            poll,
            parts=(part,),
            part=np.zeros(count, np.int32),
            offset=np.arange(first, first + count, dtype=np.int64),
            origin=poll,
        )
        no_rows = np.zeros(0, np.int32)
        self._erased_filter.leave_out_online_facts(outcome)
        rejected = replace(outcome, poll=placed, rows=outcome.rows.slice(0, 0), message=no_rows)
        self.online_feed.take(rejected, rejected=True)

    def _find_refused(self, outcome: Outcome) -> None:
        """Find what rejected messages measured and of which patients, as far as possible, for the online store."""
        refused = outcome.refused
        undecoded = {reject.message for reject in outcome.rejects if not reject.rows}
        undecoded -= set() if refused is None else set(refused.message.tolist())
        in_poll = set(pc.unique(outcome.rows["patient_id"].cast(pa.string())).to_pylist()) if undecoded else set()
        unread = [one for i in sorted(undecoded) for one in self._unread(outcome, i, in_poll)]
        if refused is not None:
            refused, by_name = self._without_non_vitals(refused, outcome)
            unread += by_name
        refused = with_unread(refused, unread, outcome.poll.broker_ms)
        if refused is not None and refused.rows["patient_id"].null_count:
            assert self.attributor is not None
            refused = with_patients(refused, self.attributor.patients_of(refused.rows))
        outcome.newly_owned = self._owned_by_now()
        if refused is not None:
            self._remember_unowned(refused, outcome)
        outcome.refused = refused

    def _unread(self, outcome: Outcome, message: int, in_poll: set[str | None]) -> Iterator[Unread]:
        """Yield what a message that was not decoded could have measured; nothing if it is not of vital signs."""
        poll = outcome.poll
        found = about(poll.values[message] or b"", poll.format, self._naming)
        codes: dict[str, int | None] = dict(found.codes) | ({"": None} if found.unnamed else {})
        if not codes:
            return
        for patient, device in self._subjects_of(outcome, message, in_poll):
            yield from _each(poll, message, patient, device, codes)

    def _without_non_vitals(self, refused: RefusedRows, outcome: Outcome) -> tuple[RefusedRows | None, list[Unread]]:
        """Return the rows without those of unknown codes that cannot be vital signs; None: none is left.

        A message can name a known code under a coding system that is missing or wrong. Such codes are returned second,
        for the patients of the message's rows with unknown codes, as for a message that was not decoded.
        """
        codes, poll = refused.rows["code"].to_pylist(), outcome.poll
        known = np.array([text in self._codes for text in codes], np.bool_)
        non_vitals, by_name = list[int](), list[Unread]()
        for i in np.unique(refused.message[~known]).tolist():
            found = about(poll.values[i] or b"", poll.format, self._naming)
            non_vitals += [] if found.unnamed else [i]
            of_message = refused.message == i
            read = {codes[row] for row in np.flatnonzero(of_message & known)}
            left = {code: at_us for code, at_us in found.codes.items() if code not in read}
            unknown = refused.where(of_message & ~known).rows
            pairs = zip(unknown["patient_id"].to_pylist(), unknown["device_id"].to_pylist(), strict=True)
            for patient, device in dict.fromkeys(pairs) if left else ():
                by_name += _each(poll, i, patient, None if patient else device, left)
        kept = refused.where(known | ~np.isin(refused.message, non_vitals))
        return kept if len(kept.message) else None, by_name

    def _remember_unowned(self, refused: RefusedRows, outcome: Outcome) -> None:
        """Remember refused measurements of devices without a patient yet, to store them once the patient is known.

        Valid values of such devices are held in the lake. Refused ones are only in this lane's memory: a lane that is
        started again has lost them.
        """
        rows = refused.rows
        without_patient = pc.and_(rows["patient_id"].is_null(), rows["device_id"].is_valid())
        mask = without_patient.to_numpy(zero_copy_only=False)
        if not mask.any():
            return
        unowned = refused.where(mask)
        rejected = np.isin(unowned.message, [reject.message for reject in outcome.rejects])
        serial = unowned.message + self._serial
        self._serial += len(outcome.poll.values)
        unowned = RefusedRows(unowned.rows, np.where(rejected, serial, -serial))
        self._unowned = joined(self._unowned, unowned).newest(_MAX_UNOWNED)

    def _owned_by_now(self) -> RefusedRows | None:
        """Return remembered refused measurements whose patient has become known, and forget them."""
        assert self.attributor is not None
        if self._unowned is None or self.attributor.associations.look() == self._looked:
            return None
        self._looked = self.attributor.associations.version
        remembered = with_patients(self._unowned, self.attributor.patients_of(self._unowned.rows))
        known = remembered.rows["patient_id"].is_valid().to_numpy(zero_copy_only=False)
        left = self._unowned.where(~known)
        self._unowned = left if len(left.message) else None
        return remembered.where(known) if known.any() else None

    def _subjects_of(
        self, outcome: Outcome, message: int, in_poll: set[str | None]
    ) -> list[tuple[str | None, str | None]]:
        """Return the patients, or else the devices, that an undecoded message names, as pairs of patient and device.

        Only patients in the online store or in the same poll are returned; devices only if the message names nobody.
        """
        assert self._feed is not None
        payload, name = outcome.poll.values[message] or b"", outcome.poll.format
        named = self._naming.whose(payload, name) or Named()
        patients = [*self._feed.known_patients(sorted(named.all - in_poll)), *sorted(named.all & in_poll)]
        if not patients and not named.likely_ids:
            return [(None, device) for device in sorted(self._naming.devices_in(payload, name))]
        return [(patient, None) for patient in patients]

    def _with_vacated(self, sealed: pa.RecordBatch, forgotten: pa.RecordBatch) -> pa.RecordBatch:
        """Return sealed associations, with those of forgotten patients appended without the patient."""
        keys = pa.array([self._key_of(device) for device in forgotten["device_id"].to_pylist()], pa.binary())
        both = [sealed, vacated_of(forgotten, sealed.schema, keys)]
        return pa.Table.from_batches(both).unify_dictionaries().combine_chunks().to_batches()[0]

    def _with_provenance(self, rows: pa.RecordBatch, outcome: Outcome) -> pa.RecordBatch:
        poll = outcome.poll
        came = self._now_us() if self.ingested_us is None else self.ingested_us
        part = poll.part[outcome.message]
        sources = pa.DictionaryArray.from_arrays(pa.array(part), pa.array([str(p) for p in poll.parts]))
        count = len(outcome.message)
        columns = dict(zip(rows.schema.names, rows.columns, strict=True)) | {
            "ingested_at": pa.array(np.full(count, came), pa.timestamp("us", "UTC")),
            "source": sources,
            "source_position": pa.array(poll.offset[outcome.message]),
        }
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _each(
    poll: Poll, message: int, patient: str | None, device: str | None, codes: Mapping[str, int | None]
) -> Iterator[Unread]:
    """Yield one Unread for each code that a message names of a patient or device."""
    place = f"{poll.parts[poll.part[message]]} {poll.offset[message]}"
    for code, at_us in codes.items():
        name = hashlib.blake2b(f"{place} {code}".encode(), digest_size=16).digest()
        yield Unread(message, patient, device, code, at_us, name)


def _keep(outcome: Outcome, rows: pa.RecordBatch, kept: npt.NDArray[np.bool_] | None) -> pa.RecordBatch:
    """Return the rows that are kept, and count the others as filtered; None: all are kept."""
    _count(outcome, kept)
    return rows if kept is None else rows.filter(pa.array(kept))


def _count(outcome: Outcome, kept: npt.NDArray[np.bool_] | None) -> None:
    """Count the rows that are not kept as filtered, and remove them from the outcome's arrays."""
    if kept is not None:
        outcome.filtered = np.concatenate([outcome.filtered, outcome.message[~kept]])
        outcome.message = outcome.message[kept]
        outcome.effective_us = outcome.effective_us[kept]


def make_sealer(
    dataset: Dataset, vault: Vault, keys: KeyRing, lists: Mapping[str, frozenset[str]] = NO_LISTS
) -> RowSealer:
    """Return the sealer of a dataset's rows, with the home's vault and keys.

    Args:
        dataset: of the rows.
        vault: has the patients' keys.
        keys: of the home.
        lists: of the home's rules, which decide which words are sealed; not needed for opening.
    """
    return RowSealer(
        dataset,
        vault,
        secret=keys.current("vault").secret,
        tokens_of=Pseudonyms(keys, "patient-identifier"),
        unfit={column.name: make_unfit(column, lists) for column in dataset.columns if holds_codes(dataset, column)},
    )
