"""The steps that both lanes take with decoded rows: conform, recognise repeats, mask."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.keyservice import KeyRevoked
from governance.keyuse import open_vault
from governance.policy.closing import make_unfit
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
from pipelines.formats.shared.refused import Refused, Unread, joined, refused_of_conformed, with_patients, with_unread
from pipelines.formats.shared.result import Reject
from pipelines.intake.online_feed import OnlineFeed
from pipelines.people.arriving import ErasedPatientFilter
from vitalake import clock
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.commits.lake import restricted_name
from vitalake.lake.commits.spans import PartId
from vitalake.lake.datasets.dataset import ASSOCIATION, Dataset, holds_codes
from vitalake.lake.datasets.derived import derive
from vitalake.settings import Settings, StreamSettings
from vitalake.vocabulary import load_vocabulary

_MOST_NOBODYS = 10_000
"""Rows remembered of refused messages of devices that are nobody's yet, 2 MB."""

NO_LISTS: Mapping[str, frozenset[str]] = {}


class Steps:
    """What is needed to make publishable rows of decoded ones; used by one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        stream: StreamSettings,
        dataset: Dataset,
        *,
        not_to_care: frozenset[str] = frozenset(),
        care_admits: Callable[[str], bool] | None = None,
        purpose: str = "stream",
    ) -> None:
        """Read keys, rules and vocabulary.

        Args:
            settings: of the home.
            stream: how far rows may lie ahead or back, and how long repeats are recognised.
            dataset: where the rows go.
            not_to_care: LOINC codes that do not go to the care store.
            care_admits: see pipelines.intake.online_feed.OnlineFeed.
            purpose: what patients' keys are used for; stands in the audit.

        Raises:
            PrivacyError: keys or rules do not hold.
        """
        self._dataset = dataset
        self._max_future_seconds = stream.max_future_seconds
        self.older_until = float("-inf")
        """Until when, by the monotonic clock, the look-back may hold fingerprints of an earlier release."""
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
        self.feed = (
            OnlineFeed(settings, dataset, keys, self.vault, left_out=not_to_care, admits=care_admits)
            if stream.care
            else None
        )
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
        self._nobodys: Refused | None = None
        self._serial, self._looked = 1, 0
        self._key_of = partial(device_key, keys.current("vault").secret)
        self._salts: dict[PartId, tuple[int, int]] = {}
        self.ingested_us: int | None = None
        """When rows came, microseconds since 1970 UTC; None: at the moment when they are masked."""
        self.at_us: int | None = None
        """The moment as of which everything is done, microseconds since 1970 UTC; None: now."""

    def conform(self, item: DecodedPoll) -> Outcome:
        """Return rows in the vocabulary's units that are plausible."""
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
        """Take out the rows that were seen before and remember the others; return which are left.

        It is done once: an outcome that is masked again is left as it is.

        Args:
            outcome: conformed, and not masked yet.
            waiting: rows that are neither looked up nor remembered.
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
        """Return rows of another dataset that have their key: in them nothing is measured."""
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
            told=self.records.told(decoded.told),
        )

    def _now_us(self) -> int:
        return clock.now_us() if self.at_us is None else self.at_us

    def _seconds(self) -> float:
        return time.monotonic() if self.at_us is None else self.at_us / 1e6

    def close(self) -> None:
        """Close what was opened."""
        if self.feed is not None:
            self.feed.close()
        self.vault.close()

    def _salt(self, part: PartId) -> tuple[int, int]:
        """Return a partition's own 128 bits: duplicates are recognised within their partition only."""
        if part not in self._salts:
            digest = hashlib.blake2b(part.app_id("salt").encode(), digest_size=16).digest()
            self._salts[part] = (int.from_bytes(digest[:8]), int.from_bytes(digest[8:]))
        return self._salts[part]

    def mask(self, outcome: Outcome) -> Outcome:
        """Return the rows that are new as they may be published.

        As they are they go to the restricted zone, sealed, to the care store and the vault. Rows of patients who were
        forgotten go nowhere.

        Raises:
            KeyRevoked: patients' keys cannot be had; nothing was handed over, the same poll can be masked later.
            ServiceUnavailable: care store or vault cannot be reached; so it can then.
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
            if self.feed is not None:
                self._tell_refused(outcome)
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
        if self.feed is not None:
            self._erased_filter.leave_out_online_facts(outcome)
            self.feed.take(outcome)
        masked = self.plan.apply(rows, encoded=True)
        _count(outcome, masked.kept)
        outcome.rows = masked.rows
        outcome.unfit = {name: outcome.message[bad] for name, bad in masked.unfit.items()}
        return outcome

    def tell_rejected(self, outcome: Outcome, *, part: PartId, first: int) -> None:
        """Tell the care store what rejected messages were about that were read before, and nothing else.

        Args:
            outcome: of letters, conformed.
            part: in the place of the messages' own partitions, which the store has long taken.
            first: position of the first message there.

        Raises:
            KeyRevoked: patients' keys cannot be had.
            ServiceUnavailable: care store or vault cannot be reached.
        """
        if self.feed is None:
            return
        is_result = self.attributor is not None
        if is_result and outcome.rows.num_rows:  # a message that would hold today was refused all the same
            every = np.ones(outcome.rows.num_rows, np.bool_)
            outcome.refused = refused_of_conformed(outcome.rows, outcome.message, every, outcome.refused)
            held = np.unique(outcome.message).tolist()
            outcome.rejects = outcome.rejects + [Reject(i, Reason.WRONG_SHAPE, "", rows=1) for i in held]
        self._erased_filter.leave_out_rejected(outcome)
        if is_result:
            self._tell_refused(outcome)
        poll, count = outcome.poll, len(outcome.poll.values)
        placed = replace(
            poll,
            parts=(part,),
            part=np.zeros(count, np.int32),
            offset=np.arange(first, first + count, dtype=np.int64),
            origin=poll,
        )
        none = np.zeros(0, np.int32)
        self._erased_filter.leave_out_online_facts(outcome)
        self.feed.take(replace(outcome, poll=placed, rows=outcome.rows.slice(0, 0), message=none), rejected=True)

    def _tell_refused(self, outcome: Outcome) -> None:
        """Find out whose the rejected messages are, as far as it can be told, for the care store."""
        refused = outcome.refused
        unread = {reject.message for reject in outcome.rejects if not reject.rows}
        unread -= set() if refused is None else set(refused.message.tolist())
        here = set(pc.unique(outcome.rows["patient_id"].cast(pa.string())).to_pylist()) if unread else set()
        told = [one for i in sorted(unread) for one in self._unread(outcome, i, here)]
        if refused is not None:
            refused, named = self._without_others(refused, outcome)
            told += named
        refused = with_unread(refused, told, outcome.poll.broker_ms)
        if refused is not None and refused.rows["patient_id"].null_count:
            assert self.attributor is not None
            refused = with_patients(refused, self.attributor.whose(refused.rows))
        outcome.late = self._somebodys_now()
        if refused is not None:
            self._remember_nobodys(refused, outcome)
        outcome.refused = refused

    def _unread(self, outcome: Outcome, message: int, here: set[str | None]) -> Iterator[Unread]:
        """Yield what a message that was not decoded may have measured; nothing of one that is of something else."""
        poll = outcome.poll
        found = about(poll.values[message] or b"", poll.format, self._naming)
        codes: dict[str, int | None] = dict(found.codes) | ({"": None} if found.unnamed else {})
        if not codes:
            return
        for patient, device in self._subjects_of(outcome, message, here):
            yield from _each(poll, message, patient, device, codes)

    def _without_others(self, refused: Refused, outcome: Outcome) -> tuple[Refused | None, list[Unread]]:
        """Return the rows without those of a code that is not known and can be no vital sign's; None: none is left.

        A message may name a code all the same, under a system that is missing or wrong: such are returned beside, of
        whom the rows without a known code are, as of a message that was not decoded.
        """
        codes, poll = refused.rows["code"].to_pylist(), outcome.poll
        known = np.array([text in self._codes for text in codes], np.bool_)
        others, named = list[int](), list[Unread]()
        for i in np.unique(refused.message[~known]).tolist():
            found = about(poll.values[i] or b"", poll.format, self._naming)
            others += [] if found.unnamed else [i]
            mine = refused.message == i
            read = {codes[row] for row in np.flatnonzero(mine & known)}
            left = {code: at_us for code, at_us in found.codes.items() if code not in read}
            whose = refused.where(mine & ~known).rows
            pairs = zip(whose["patient_id"].to_pylist(), whose["device_id"].to_pylist(), strict=True)
            for patient, device in dict.fromkeys(pairs) if left else ():
                named += _each(poll, i, patient, None if patient else device, left)
        kept = refused.where(known | ~np.isin(refused.message, others))
        return kept if len(kept.message) else None, named

    def _remember_nobodys(self, refused: Refused, outcome: Outcome) -> None:
        """Remember what is of devices that are nobody's yet: who turns out to be there is told of it, see Refused.

        Good values of such devices are held in the lake; of bad ones this lane knows alone, and a lane that is started
        again has forgotten them.
        """
        rows = refused.rows
        mine = pc.and_(rows["patient_id"].is_null(), rows["device_id"].is_valid()).to_numpy(zero_copy_only=False)
        if not mine.any():
            return
        nobodys = refused.where(mine)
        rejected = np.isin(nobodys.message, [reject.message for reject in outcome.rejects])
        serial = nobodys.message + self._serial
        self._serial += len(outcome.poll.values)
        nobodys = Refused(nobodys.rows, np.where(rejected, serial, -serial))
        self._nobodys = joined(self._nobodys, nobodys).newest(_MOST_NOBODYS)

    def _somebodys_now(self) -> Refused | None:
        """Return what was remembered and has turned out to be somebody's; it is not remembered any more."""
        assert self.attributor is not None
        if self._nobodys is None or self.attributor.associations.look() == self._looked:
            return None
        self._looked = self.attributor.associations.version
        told = with_patients(self._nobodys, self.attributor.whose(self._nobodys.rows))
        known = told.rows["patient_id"].is_valid().to_numpy(zero_copy_only=False)
        left = self._nobodys.where(~known)
        self._nobodys = left if len(left.message) else None
        return told.where(known) if known.any() else None

    def _subjects_of(
        self, outcome: Outcome, message: int, here: set[str | None]
    ) -> list[tuple[str | None, str | None]]:
        """Return patients and devices, each one or the other, that a message names which was not decoded.

        Patients are those whom the care store knows or the same poll tells of; devices those of a message that names
        nobody.
        """
        assert self.feed is not None
        payload, name = outcome.poll.values[message] or b"", outcome.poll.format
        named = self._naming.whose(payload, name) or Named()
        patients = [*self.feed.known(sorted(named.all - here)), *sorted(named.all & here)]
        if not patients and not named.somebody:
            return [(None, device) for device in sorted(self._naming.devices_in(payload, name))]
        return [(patient, None) for patient in patients]

    def _with_vacated(self, sealed: pa.RecordBatch, forgotten: pa.RecordBatch) -> pa.RecordBatch:
        """Return sealed associations, and what is kept of those of patients who were forgotten."""
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
    """Yield that a message names these codes of a patient or device."""
    place = f"{poll.parts[poll.part[message]]} {poll.offset[message]}"
    for code, at_us in codes.items():
        name = hashlib.blake2b(f"{place} {code}".encode(), digest_size=16).digest()
        yield Unread(message, patient, device, code, at_us, name)


def _keep(outcome: Outcome, rows: pa.RecordBatch, kept: npt.NDArray[np.bool_] | None) -> pa.RecordBatch:
    """Count the rows that are not kept as filtered; return those that are."""
    _count(outcome, kept)
    return rows if kept is None else rows.filter(pa.array(kept))


def _count(outcome: Outcome, kept: npt.NDArray[np.bool_] | None) -> None:
    """Count the rows that were not kept as filtered."""
    if kept is not None:
        outcome.filtered = np.concatenate([outcome.filtered, outcome.message[~kept]])
        outcome.message = outcome.message[kept]
        outcome.effective_us = outcome.effective_us[kept]


def make_sealer(
    dataset: Dataset, vault: Vault, keys: KeyRing, lists: Mapping[str, frozenset[str]] = NO_LISTS
) -> RowSealer:
    """Return what seals and opens a dataset's rows, by the home's vault and keys.

    Args:
        dataset: whose rows.
        vault: has the patients' keys.
        keys: of the home.
        lists: of its rules, by which words are sealed; who opens only needs none.
    """
    return RowSealer(
        dataset,
        vault,
        secret=keys.current("vault").secret,
        tokens_of=Pseudonyms(keys, "patient-identifier"),
        unfit={column.name: make_unfit(column, lists) for column in dataset.columns if holds_codes(column)},
    )
