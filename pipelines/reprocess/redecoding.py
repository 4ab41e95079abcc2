"""Turns envelopes into outcomes: decrypts, decodes, conforms and masks their messages as if they arrived today."""

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
from vitalake.lake.commits.span import PartId
from vitalake.lake.datasets.declared import load_dataset
from vitalake.settings import Settings

RESOLUTION_SCHEMA = load_dataset("resolution").schema


@dataclass(slots=True)
class Attempt:
    """Envelopes of one format, and what became of their messages; envelope i has message i.

    Attributes:
        letters: the envelopes.
        outcome: of their messages.
        table: the quarantine table of the envelopes.
    """

    letters: pa.Table
    outcome: Outcome
    table: str

    def __post_init__(self) -> None:
        """Leave out new envelopes of messages that have one in the same table already."""
        self.outcome.extra.pop(self.table, None)

    @property
    def staying(self) -> npt.NDArray[np.bool_]:
        """Return which messages stay in the table: those rejected again, and held ones that are held again."""
        staying = np.zeros(self.letters.num_rows, np.bool_)
        staying[[reject.message for reject in self.outcome.rejects]] = True
        if self.table == HELD:
            staying[np.unique(self.outcome.held)] = True
        return staying

    @property
    def reasons(self) -> npt.NDArray[np.object_]:
        """Return what became of each message: the best outcome that any of its rows had."""
        reasons = np.full(self.letters.num_rows, "empty", np.object_)
        for name in ("duplicate", "filtered", "held"):
            reasons[np.unique(getattr(self.outcome, name))] = name
        reasons[np.unique(self.outcome.message)] = "published"
        return reasons

    def without(self, stays: npt.NDArray[np.bool_]) -> Attempt:
        """Return the attempt without some messages, as if they had not been tried; before it is attributed."""
        outcome, poll = self.outcome, self.outcome.poll
        number = (np.cumsum(~stays) - 1).astype(np.int32)
        going_rows = ~stays[outcome.message]
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
            rows=outcome.rows.filter(pa.array(going_rows)),
            message=number[outcome.message[going_rows]],
            row_message=number[outcome.row_message[~stays[outcome.row_message]]],
            filtered=number[outcome.filtered[~stays[outcome.filtered]]],
            rejects=[replace(r, message=int(number[r.message])) for r in outcome.rejects if not stays[r.message]],
            tombstones=number[[i for i in outcome.tombstones if not stays[i]]].tolist(),
            empty=number[[i for i in outcome.empty if not stays[i]]].tolist(),
            fingerprints=outcome.fingerprints[going_rows],
            older=outcome.older[going_rows] if outcome.older is not None else None,
            effective_us=outcome.effective_us[going_rows],
        )
        return Attempt(self.letters.filter(pa.array(~stays)), going, self.table)

    def resolutions(self, *, actor: str) -> pa.Table:
        """Return the rows of the table of resolutions that mark the messages as recovered which do not stay."""
        done = ~self.staying
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
    """Decrypts envelopes and makes outcomes of their messages; used by one thread at a time."""

    def __init__(self, settings: Settings, lineage: Lineage, steps: Steps, *, job: str) -> None:
        """Prepare.

        Args:
            settings: of the home.
            lineage: the job that reads the messages' topics.
            steps: of that job's dataset; their feed takes rows under positions of its own: see ReprocessFeed.
            job: the writer's name in the online store.

        Raises:
            PrivacyError: the key file is not valid.
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
        """Yield what becomes of envelopes today; those that cannot be decrypted are counted and left out.

        Args:
            letters: envelopes, in memory.
            table: their quarantine table.
            mask: whether to make publishable rows and hand them to online store and vault; otherwise rows are only
                judged, and duplicates are still among them.

        Raises:
            PrivacyError: keys or rules are not valid.
            KeyRevoked: messages may not be decrypted any more.
            ServiceUnavailable: online store or vault cannot be written.
        """
        # Envelopes are encrypted with a key of the key file. Somebody who revokes the vault's key means them too.
        self.steps.vault.hold_keys()
        opened = [self._open(row) for row in letters.to_pylist()]
        formats = [self._lineage.formats[topic_of(source)] for source in letters["source"].to_pylist()]
        self.unopened += opened.count(None)
        for name in sorted(set(formats)):
            index = [i for i, message in enumerate(opened) if message is not None and formats[i] == name]
            if index:
                messages = [message for i in index if (message := opened[i]) is not None]
                of_format = letters.take(pa.array(index))
                decoded = self._decoded(self._poll(of_format, messages, name))
                if table == HELD:
                    decoded.decoded = _held_rows(decoded.decoded, of_format["rows"].fill_null(0).to_numpy())
                outcome = self.steps.conform(decoded)
                yield Attempt(of_format, self.steps.mask(outcome) if mask else outcome, table)

    def _open(self, row: dict[str, object]) -> Message | None:
        try:
            message = open_message(row, self._keys)
        except PrivacyError:
            return None
        if message.broker_ms is not None and message.broker_ms >= EARLIEST_MS:
            return message
        # Without a broker's time, or sealed by an earlier release: it was rejected shortly after it arrived.
        rejected = row["rejected_at"]
        assert isinstance(rejected, datetime)
        return replace(message, broker_ms=int(rejected.timestamp() * 1000))

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


def _held_rows(decoded: Decoded, held: npt.NDArray[np.int64]) -> Decoded:
    """Return the rows that are held: those that name no patient, because the others were published at once.

    Earlier releases held a whole message. Such a message has more held rows than rows that name no patient, and all of
    its rows are taken.

    Args:
        decoded: of held messages.
        held: how many rows of each message are held.
    """
    unnamed = decoded.rows["patient_id"].is_null().to_numpy(zero_copy_only=False)
    whole = held > np.bincount(decoded.message[unnamed], minlength=len(held))
    is_held = unnamed | whole[decoded.message]
    return replace(
        decoded,
        rows=decoded.rows.filter(pa.array(is_held)),
        identities=[name for name, chosen in zip(decoded.identities, is_held.tolist(), strict=True) if chosen],
        message=decoded.message[is_held],
    )


def _partition(source: str) -> int:
    return int(source.rpartition("[")[2].rstrip("]"))
