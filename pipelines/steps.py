"""The steps that both lanes take with decoded rows: conform, recognise repeats, mask."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from governance.masking import MaskPlan, compile_masks
from governance.rules import load_policy
from pipelines.care import CareFeed
from pipelines.dead_letters import DeadLetters
from pipelines.decoding.conform import Conformer
from pipelines.lookback import LookBack
from pipelines.poll import DecodedPoll, Outcome
from vitalake import clock
from vitalake.keys import load_keys
from vitalake.lake.dataset import Dataset
from vitalake.lake.derived import derive
from vitalake.lake.spans import PartId
from vitalake.settings import Settings, StreamSettings
from vitalake.vocabulary import load_vocabulary


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
    ) -> None:
        """Read keys, rules and vocabulary.

        Args:
            settings: of the home.
            stream: how far rows may lie ahead or back, and how long repeats are recognised.
            dataset: where the rows go.
            not_to_care: LOINC codes that do not go to the care store.
            care_admits: see pipelines.care.CareFeed.

        Raises:
            PrivacyError: keys or rules do not hold.
        """
        self._dataset = dataset
        keys = load_keys(settings.path(settings.keys))
        self.plan: MaskPlan = compile_masks(load_policy(settings.path(settings.governance)), dataset, keys)
        self.conformer = Conformer(
            load_vocabulary(),
            observation_key=keys.current("observation").secret,
            max_future_seconds=stream.max_future_seconds,
            min_effective_year=stream.min_effective_year,
        )
        self.dead_letters = DeadLetters(keys.current("quarantine"), days=stream.dead_letter_days)
        self.lookback = LookBack(entries=stream.lookback_entries, seconds=stream.lookback_seconds)
        self.feed = CareFeed(settings, dataset, keys, left_out=not_to_care, admits=care_admits) if stream.care else None
        self._salts: dict[PartId, tuple[int, int]] = {}

    def conform(self, item: DecodedPoll) -> Outcome:
        """Return rows in the vocabulary's units that are plausible and new."""
        poll, decoded = item.poll, item.decoded
        conformed = self.conformer.conform(decoded, broker_ms=poll.broker_ms)
        salts = np.array([self._salt(part) for part in poll.parts], np.uint64).reshape(-1, 2)
        prints = conformed.fingerprint ^ salts[poll.part[conformed.message]]
        new = self.lookback.admit(prints, now=time.monotonic())
        rows, message, duplicate = conformed.rows, conformed.message, np.zeros(0, np.int32)
        if not new.all():
            duplicate = message[~new]
            rows, message, prints = rows.filter(pa.array(new)), message[new], prints[new]
        return Outcome(
            poll=poll,
            rows=rows,
            message=message,
            row_message=decoded.message,
            rejects=decoded.rejects + conformed.rejects,
            tombstones=decoded.tombstones,
            fingerprints=prints,
            effective_us=pc.cast(rows["effective_at"], pa.int64()).to_numpy(zero_copy_only=False),
            duplicate=duplicate,
        )

    def close(self) -> None:
        """Close what was opened."""
        if self.feed is not None:
            self.feed.close()

    def _salt(self, part: PartId) -> tuple[int, int]:
        """Return a partition's own 128 bits: duplicates are recognised within their partition only."""
        if part not in self._salts:
            digest = hashlib.blake2b(part.app_id("salt").encode(), digest_size=16).digest()
            self._salts[part] = (int.from_bytes(digest[:8]), int.from_bytes(digest[8:]))
        return self._salts[part]

    def mask(self, outcome: Outcome) -> Outcome:
        """Return the rows as they may be published; hand them over as they are to the care store and the vault.

        Raises:
            ServiceUnavailable: care store or vault cannot be written.
        """
        outcome.rows = derive(outcome.rows, self._dataset)
        if self.feed is not None:
            self.feed.take(outcome)
        poll = outcome.poll
        part = poll.part[outcome.message]
        sources = pa.DictionaryArray.from_arrays(pa.array(part), pa.array([str(p) for p in poll.parts]))
        count = len(outcome.message)
        identified = outcome.rows
        columns = dict(zip(identified.schema.names, identified.columns, strict=True)) | {
            "ingested_at": pa.array(np.full(count, clock.now_us()), pa.timestamp("us", "UTC")),
            "source": sources,
            "source_position": pa.array(poll.offset[outcome.message]),
        }
        rows, keep = self.plan.apply(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))
        outcome.rows = rows
        if keep is not None:
            outcome.filtered = outcome.message[~keep]
            outcome.message = outcome.message[keep]
            outcome.effective_us = outcome.effective_us[keep]
        return outcome
