"""From envelopes to outcomes: opened, decoded, conformed and masked as if their messages came today."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.attribution.held import HELD
from pipelines.core.arrival import EARLIEST_MS
from pipelines.core.dead_letters import Message, open_message
from pipelines.core.open_letters import topic_of
from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.formats.shared.result import Decoded, Decoder
from pipelines.intake.steps import Steps
from pipelines.reprocess.origins import Lineage
from vitalake import clock
from vitalake.errors import PrivacyError
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.lake.commits.spans import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings

RESOLUTION_SCHEMA = load_dataset("resolution").schema


@dataclass(slots=True)
class Attempt:
    """Envelopes of one format, and what became of their messages: one letter a message, in one order.

    Attributes:
        letters: the envelopes.
        outcome: of their messages.
        table: where the envelopes lie.
    """

    letters: pa.Table
    outcome: Outcome
    table: str

    def __post_init__(self) -> None:
        """Leave out second envelopes of messages that are held already."""
        self.outcome.extra.pop(self.table, None)

    @property
    def left(self) -> npt.NDArray[np.bool_]:
        """Return which messages stay where they are: rejected again, or held that are held again."""
        left = np.zeros(self.letters.num_rows, np.bool_)
        left[[reject.message for reject in self.outcome.rejects]] = True
        if self.table == HELD:
            left[np.unique(self.outcome.held)] = True
        return left

    @property
    def reasons(self) -> npt.NDArray[np.object_]:
        """Return what became of the rows of each message, by the best that became of any."""
        reasons = np.full(self.letters.num_rows, "empty", np.object_)
        for name in ("duplicate", "filtered", "held"):
            reasons[np.unique(getattr(self.outcome, name))] = name
        reasons[np.unique(self.outcome.message)] = "published"
        return reasons

    def without(self, stays: npt.NDArray[np.bool_]) -> Attempt:
        """Return it without some messages, as if they had not been taken up; it is not attributed yet."""
        outcome, poll = self.outcome, self.outcome.poll
        number = (np.cumsum(~stays) - 1).astype(np.int32)
        mine = ~stays[outcome.message]
        going = replace(
            outcome,
            poll=replace(
                poll,
                values=[value for value, stay in zip(poll.values, stays.tolist(), strict=True) if not stay],
                part=poll.part[~stays],
                offset=poll.offset[~stays],
                broker_ms=poll.broker_ms[~stays],
                ours=None if poll.ours is None else poll.ours[~stays],
            ),
            rows=outcome.rows.filter(pa.array(mine)),
            message=number[outcome.message[mine]],
            row_message=number[outcome.row_message[~stays[outcome.row_message]]],
            filtered=number[outcome.filtered[~stays[outcome.filtered]]],
            rejects=[replace(r, message=int(number[r.message])) for r in outcome.rejects if not stays[r.message]],
            tombstones=number[[i for i in outcome.tombstones if not stays[i]]].tolist(),
            empty=number[[i for i in outcome.empty if not stays[i]]].tolist(),
            fingerprints=outcome.fingerprints[mine],
            older=outcome.older[mine] if outcome.older is not None else None,
            effective_us=outcome.effective_us[mine],
        )
        return Attempt(self.letters.filter(pa.array(~stays)), going, self.table)

    def resolutions(self, *, actor: str) -> pa.Table:
        """Return the rows that say that the messages which do not stay are recovered."""
        done = ~self.left
        places = self.letters.filter(pa.array(done))
        return resolution_rows(places, table=self.table, outcome="recovered", reasons=self.reasons[done], actor=actor)


def resolution_rows(
    places: pa.Table, *, table: str, outcome: str, reasons: str | npt.NDArray[np.object_], actor: str
) -> pa.Table:
    """Return rows of the dataset ``resolution``; the span is named when it is written.

    Args:
        places: columns source, topic_id, position and, where there is one, dataset.
        table: where the messages were put aside.
        outcome: recovered or discarded.
        reasons: one for all, or one each.
        actor: who ran the command.
    """
    count = places.num_rows
    dataset = places["dataset"] if "dataset" in places.schema.names else pa.nulls(count, pa.string())
    columns = {
        "table": [table.rpartition("/")[2]] * count,
        "dataset": dataset.cast(pa.string()).fill_null(""),
        "source": places["source"].cast(pa.string()),
        "topic_id": places["topic_id"].cast(pa.string()),
        "position": places["position"],
        "resolved_at": pa.array([clock.now_us()] * count, pa.int64()).cast(pa.timestamp("us", "UTC")),
        "outcome": [outcome] * count,
        "reason": [reasons] * count if isinstance(reasons, str) else reasons.tolist(),
        "actor": [actor] * count,
        "span": pa.nulls(count, pa.string()),
    }
    return pa.table(columns, schema=RESOLUTION_SCHEMA)


class Redecoder:
    """Makes outcomes of envelopes; used by one thread at a time."""

    def __init__(self, settings: Settings, lineage: Lineage, steps: Steps, *, job: str) -> None:
        """Prepare.

        Args:
            settings: of the home.
            lineage: the job that knows the messages' topics.
            steps: of that job's dataset; its feed takes rows under positions of their own: see ReprocessFeed.
            job: names the writer of the care store's blocks.

        Raises:
            PrivacyError: the key file does not hold.
        """
        self._settings, self._lineage, self.steps, self._job = settings, lineage, steps, job
        self._keys = Home(settings).keys
        self._decoders: dict[str, Decoder] = {}
        self.unopened = 0

    @property
    def decoder(self) -> str:
        """Return the decoders that were used, with their versions."""
        return ",".join(f"{d.name}/{d.version}" for d in self._decoders.values())

    def attempts(self, letters: pa.Table, *, table: str, mask: bool = True) -> Iterator[Attempt]:
        """Yield what becomes of envelopes today; those that cannot be opened are counted and left out.

        Args:
            letters: envelopes, in memory.
            table: where they lie.
            mask: whether to make publishable rows, which care store and vault hear of; else only see what holds:
                then what was seen before is among it.

        Raises:
            PrivacyError: keys or rules do not hold.
            KeyRevoked: messages may not be opened any more.
            ServiceUnavailable: care store or vault cannot be written.
        """
        self.steps.vault.hold_keys()  # their key is the key file's: who revokes the vault's means these too
        opened = [self._open(row) for row in letters.to_pylist()]
        formats = [self._lineage.formats[topic_of(source)] for source in letters["source"].to_pylist()]
        self.unopened += opened.count(None)
        for name in sorted(set(formats)):
            index = [i for i, message in enumerate(opened) if message is not None and formats[i] == name]
            if index:
                messages = [message for i in index if (message := opened[i]) is not None]
                mine = letters.take(pa.array(index))
                decoded = self._decoded(self._poll(mine, messages, name))
                if table == HELD:
                    decoded.decoded = _waiting(decoded.decoded, mine["rows"].fill_null(0).to_numpy())
                outcome = self.steps.conform(decoded)
                yield Attempt(mine, self.steps.mask(outcome) if mask else outcome, table)

    def _open(self, row: dict[str, object]) -> Message | None:
        try:
            message = open_message(row, self._keys)
        except PrivacyError:
            return None
        if message.broker_ms is not None and message.broker_ms >= EARLIEST_MS:
            return message
        since = row["rejected_at"]  # no broker's time, or of an earlier release: it was read shortly before
        assert isinstance(since, datetime)
        return replace(message, broker_ms=int(since.timestamp() * 1000))

    def _poll(self, letters: pa.Table, messages: list[Message], name: str) -> Poll:
        places = list(zip(letters["source"].to_pylist(), letters["topic_id"].to_pylist(), strict=True))
        numbers = {place: i for i, place in enumerate(dict.fromkeys(places))}
        return Poll(
            shard=self._job,
            format=name,
            values=[message.payload for message in messages],
            parts=tuple(PartId(topic_of(source), topic_id, _partition(source)) for source, topic_id in numbers),
            part=np.array([numbers[place] for place in places], np.int32),
            offset=letters["position"].to_numpy().astype(np.int64),
            broker_ms=np.array([message.broker_ms for message in messages], np.int64),
        )

    def _decoded(self, poll: Poll) -> DecodedPoll:
        failpoint("decode")
        if poll.format not in self._decoders:
            self._decoders[poll.format] = self._lineage.decoder(poll.format, self._settings)
        return DecodedPoll(poll, self._decoders[poll.format].decode(poll.values))


def _waiting(decoded: Decoded, held: npt.NDArray[np.int64]) -> Decoded:
    """Return the rows that wait of held messages: those that name no patient, for the others went on at once.

    Of a message that was held whole, as all were once, more rows wait than name no patient: all are taken.
    """
    unnamed = decoded.rows["patient_id"].is_null().to_numpy(zero_copy_only=False)
    whole = held > np.bincount(decoded.message[unnamed], minlength=len(held))
    kept = unnamed | whole[decoded.message]
    return replace(
        decoded,
        rows=decoded.rows.filter(pa.array(kept)),
        identities=[identity for identity, mine in zip(decoded.identities, kept.tolist(), strict=True) if mine],
        message=decoded.message[kept],
    )


def _partition(source: str) -> int:
    return int(source.rpartition("[")[2].rstrip("]"))
