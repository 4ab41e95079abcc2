"""From envelopes to outcomes: opened, decoded, conformed and masked as if their messages came today."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.attribution.held import HELD
from pipelines.dead_letters import Message, open_message
from pipelines.decoding.result import Decoder
from pipelines.poll import DecodedPoll, Outcome, Poll
from pipelines.replay.letters import topic_of
from pipelines.replay.origins import Lineage
from pipelines.steps import Steps
from vitalake import clock
from vitalake.crashpoints import passing
from vitalake.errors import PrivacyError
from vitalake.keys import load_keys
from vitalake.lake.dataset import load_dataset
from vitalake.lake.spans import PartId
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
            steps: of that job's dataset; its feed takes rows under positions of their own: see CareAgain.
            job: names the writer of the care store's blocks.

        Raises:
            PrivacyError: the key file does not hold.
        """
        self._settings, self._lineage, self.steps, self._job = settings, lineage, steps, job
        self._keys = load_keys(settings.path(settings.keys))
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
            mask: whether to make publishable rows, which care store and vault hear of; else only see what holds.

        Raises:
            PrivacyError: keys or rules do not hold.
            ServiceUnavailable: care store or vault cannot be written.
        """
        opened = [self._open(row) for row in letters.to_pylist()]
        formats = [self._lineage.formats[topic_of(source)] for source in letters["source"].to_pylist()]
        self.unopened += opened.count(None)
        for name in sorted(set(formats)):
            index = [i for i, message in enumerate(opened) if message is not None and formats[i] == name]
            if index:
                messages = [message for i in index if (message := opened[i]) is not None]
                mine = letters.take(pa.array(index))
                yield Attempt(mine, self._outcome(self._poll(mine, messages, name), mask=mask), table)

    def _open(self, row: dict[str, object]) -> Message | None:
        try:
            message = open_message(row, self._keys)
        except PrivacyError:
            return None
        if message.broker_ms is not None:
            return message
        since = row["rejected_at"]  # of an earlier release: it was read shortly before
        assert isinstance(since, datetime)
        return replace(message, broker_ms=int(since.timestamp() * 1000))

    def _poll(self, letters: pa.Table, messages: list[Message], name: str) -> Poll:
        places = list(zip(letters["source"].to_pylist(), letters["topic_id"].to_pylist(), strict=True))
        numbers = {place: i for i, place in enumerate(dict.fromkeys(places))}
        return Poll(
            share=self._job,
            format=name,
            values=[message.payload for message in messages],
            parts=tuple(PartId(topic_of(source), topic_id, _partition(source)) for source, topic_id in numbers),
            part=np.array([numbers[place] for place in places], np.int32),
            offset=letters["position"].to_numpy().astype(np.int64),
            broker_ms=np.array([message.broker_ms for message in messages], np.int64),
        )

    def _outcome(self, poll: Poll, *, mask: bool) -> Outcome:
        passing("decode")
        if poll.format not in self._decoders:
            self._decoders[poll.format] = self._lineage.decoder(poll.format, self._settings)
        decoded = self._decoders[poll.format].decode(poll.values)
        outcome = self.steps.conform(DecodedPoll(poll, decoded))
        return self.steps.mask(outcome) if mask else outcome


def _partition(source: str) -> int:
    return int(source.rpartition("[")[2].rstrip("]"))
