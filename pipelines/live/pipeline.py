"""The Beam pipeline: one fused stage, whose element is a whole poll.

The lake is the checkpoint: the pipeline has no state, timers or grouping, and does not use the runner's checkpoints.
The source is a splittable DoFn over shards. It ends its bundle itself, because only one runner would ask it to.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.coders import Coder, registry
from apache_beam.io.iobase import RestrictionTracker
from apache_beam.transforms.core import RestrictionProvider

from pipelines.core.poll import DecodedPoll, Outcome, Poll
from pipelines.live.lane import Lane
from pipelines.live.lanes import STOP, LaneSpec, failures, lane_named, lane_of

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

OPEN, DONE = "open", "done"


@dataclass(frozen=True, slots=True)
class Tick:
    """Takes the place of a poll when nothing arrived in a shard for a while, so that the writer can cut spans."""

    shard: str


class FlowCoder(Coder):
    """Pickles elements if a runner sends them to another process; estimates their size without pickling."""

    def encode(self, value: Any) -> bytes:
        """Return the pickled element."""
        return pickle.dumps(value)

    def decode(self, encoded: bytes) -> Any:
        """Return the element."""
        return pickle.loads(encoded)  # noqa: S301 - written by our own workers

    def estimate_size(self, value: Any) -> int:
        """Return roughly the bytes of an element; runners sample this."""
        return value.nbytes if isinstance(value, Poll) else 1_000

    def is_deterministic(self) -> bool:
        """Return False: two pickles of one value can differ."""
        return False


for _kind in (Poll, DecodedPoll, Outcome, Tick):
    registry.register_coder(_kind, FlowCoder)


class ShardTracker(RestrictionTracker):
    """The restriction of a shard: open until the source claims the end. It can only be deferred as a whole."""

    def __init__(self, restriction: str) -> None:
        self._restriction = restriction
        self._ended = restriction == DONE

    def current_restriction(self) -> str:
        """Return the restriction."""
        return self._restriction

    def try_claim(self, position: str) -> bool:
        """Claim a position, which always succeeds; DONE also ends the restriction."""
        self._ended = self._ended or position == DONE
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[str, str] | None:
        """Defer the whole shard when asked for fraction 0; a shard cannot be divided."""
        if fraction_of_remainder != 0 or self._ended:
            return None
        self._restriction, self._ended = DONE, True
        return DONE, OPEN

    def check_done(self) -> None:
        """Raise if the source returned without deferring or claiming the end."""
        if not self._ended:
            message = "The source returned without deferring the shard or claiming its end"
            raise ValueError(message)

    def is_bounded(self) -> bool:
        """Return False: a shard has no end of its own."""
        return False


class ShardProvider(RestrictionProvider):
    """Gives every shard one restriction, which is never divided."""

    def initial_restriction(self, element: LaneSpec) -> str:
        """Return the open restriction."""
        return OPEN

    def create_tracker(self, restriction: str) -> ShardTracker:
        """Return the tracker of a restriction."""
        return ShardTracker(restriction)

    def restriction_size(self, element: LaneSpec, restriction: str) -> int:
        """Return 1 while open."""
        return int(restriction == OPEN)

    def split(self, element: LaneSpec, restriction: str) -> Iterator[str]:
        """Yield the restriction undivided."""
        yield restriction


def _guarded(lane: Lane, step: Callable[[], _Item]) -> _Item:
    """Run a step; on failure discard what the lane has not committed, so that the next bundle starts from the lake."""
    try:
        return step()
    except BaseException as error:
        failures.append(error)
        lane.reset()
        raise


class ReadShard(beam.DoFn):
    """Reads a shard's partitions for the length of a bundle, from the positions in the lake."""

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        spec: LaneSpec,
        tracker: Any = beam.DoFn.RestrictionParam(ShardProvider()),  # noqa: B008 - how Beam asks for it
    ) -> Iterator[Poll | Tick]:
        """Yield polls, and ticks when there are none."""
        lane = lane_of(spec)
        _guarded(lane, lane.begin)
        polls = lane.read(lane.stream.bundle_seconds)
        while True:
            poll = _guarded(lane, lambda: next(polls, DONE))
            if poll == DONE:
                break
            yield poll if isinstance(poll, Poll) else Tick(spec.name)
        if STOP.is_set() or lane.status.idle:
            lane.leave()
            tracker.try_claim(DONE)
        else:
            tracker.defer_remainder()


class DecodeMessages(beam.DoFn):
    """Poll → DecodedPoll."""

    def process(self, item: Poll | Tick) -> Iterator[DecodedPoll | Tick]:
        """Yield the poll with its decoded rows."""
        if isinstance(item, Tick):
            yield item
        else:
            lane = lane_named(item.shard)
            yield _guarded(lane, lambda: lane.decode(item))


class ConformRows(beam.DoFn):
    """DecodedPoll → Outcome with plausible rows in the vocabulary's units."""

    def process(self, item: DecodedPoll | Tick) -> Iterator[Outcome | Tick]:
        """Yield the outcome."""
        if isinstance(item, Tick):
            yield item
        else:
            lane = lane_named(item.poll.shard)
            yield _guarded(lane, lambda: lane.conform(item))


class MaskIdentifiers(beam.DoFn):
    """Outcome → Outcome without duplicates, whose rows may be published."""

    def process(self, item: Outcome | Tick) -> Iterator[Outcome | Tick]:
        """Yield the masked outcome."""
        if isinstance(item, Tick):
            yield item
        else:
            lane = lane_named(item.poll.shard)
            yield _guarded(lane, lambda: lane.mask(item))


class WriteSpans(beam.DoFn):
    """Collects outcomes in spans; the end of a bundle cuts the open span and waits until it is committed."""

    def __init__(self) -> None:
        self._shards: set[str] = set()

    def start_bundle(self) -> None:
        """Forget the shards of the bundle before."""
        self._shards = set()

    def process(self, item: Outcome | Tick) -> None:
        """Hand the outcome to the writer of its shard."""
        shard = item.shard if isinstance(item, Tick) else item.poll.shard
        self._shards.add(shard)
        lane = lane_named(shard)
        _guarded(lane, lambda: lane.write(None if isinstance(item, Tick) else item))

    def finish_bundle(self) -> None:
        """Cut the open spans and wait until they are committed."""
        for shard in self._shards:
            lane = lane_named(shard)
            _guarded(lane, lane.finish)


def build(root: beam.Pipeline, specs: list[LaneSpec]) -> None:
    """Add the steps of the live lane to a pipeline; they are the same for every runner."""
    (
        root
        | "Shards" >> beam.Create(specs)
        | "Read" >> beam.ParDo(ReadShard()).with_output_types(Poll)
        | "Decode" >> beam.ParDo(DecodeMessages()).with_output_types(DecodedPoll)
        | "Conform" >> beam.ParDo(ConformRows()).with_output_types(Outcome)
        | "Mask" >> beam.ParDo(MaskIdentifiers()).with_output_types(Outcome)
        | "Write" >> beam.ParDo(WriteSpans())
    )
