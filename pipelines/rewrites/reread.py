"""Making damaged restricted files again of what the broker still has: the same messages, read and sealed once more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.decoding.formats import make_decoder
from pipelines.live.errors import BrokerUnreachable, UpstreamLoss
from pipelines.live.kafka import Share, ShareConsumer
from pipelines.poll import DecodedPoll, Poll
from pipelines.steps import Steps
from vitalake.errors import InputError, LakeError
from vitalake.lake.lake import Lake, restricted_name
from vitalake.lake.rewrite import read_file
from vitalake.lake.seen import read_seen
from vitalake.lake.spans import PartId, Span
from vitalake.lake.table import StagedFile
from vitalake.settings import Settings

SILENT_SECONDS = 30.0
"""A broker that gives nothing for so long, of messages that it should have, does not have them."""

PLACE = ("source", "source_position", "observation_id", "version", "status", "code")
"""What tells the restricted rows of a dataset apart without opening them, as far as it has these columns."""

Stretches = dict[PartId, list[tuple[int, int]]]


def reread(settings: Settings, dataset: str, days: Sequence[str | None]) -> pa.Table:
    """Return the restricted rows of some days, made again of the messages of the spans that added to these days.

    What was a duplicate then is one now, as far as the look-back files of before are still there. When a row came to
    us is when it is read again.

    Args:
        settings: of the home.
        dataset: which.
        days: of the damaged files.

    Raises:
        InputError: no job reads the dataset from a broker.
        LakeError: the broker does not have the messages any more.
        KeyRevoked: patients' keys cannot be had.
        ServiceUnavailable: broker, lake or vault cannot be reached.
    """
    lake = Lake(settings.lake_uri, settings.storage_options, dataset=dataset)
    table = restricted_name(dataset)
    spans = [s for s in lake.spans.all_spans() if s.dataset == dataset and s.kind == "stream"]
    wanted = [s for s in spans if set(days) & {file.day for file in s.files_of(table)}]
    parts = [batch for job in sorted({s.job for s in wanted}) for batch in _of_job(settings, lake, job, spans, wanted)]
    schema = pa.schema([lake.restricted.state.columns.field(n) for n in lake.restricted.dataset.schema.names])
    made = [pa.Table.from_batches([part]).select(schema.names).cast(schema) for part in parts]
    return pa.concat_tables(made or [schema.empty_table()])


def _of_job(
    settings: Settings, lake: Lake, job: str, spans: Sequence[Span], wanted: Sequence[Span]
) -> Iterator[pa.RecordBatch]:
    if job not in settings.jobs:
        raise InputError("No job reads these rows any more", where=job, remedy="Put it back into the configuration.")
    mine = [span for span in wanted if span.job == job]
    stretches: Stretches = {}
    for part in chain.from_iterable(span.parts for span in mine):
        stretches.setdefault(part.id, []).append((part.first, part.end))
    stream = settings.jobs[job].model_copy(update={"care": False})
    steps = Steps(settings, stream, lake.dataset)
    decoders = {
        name: make_decoder(name, dataset=stream.dataset, stream=stream, settings=settings)
        for name in sorted(set(stream.topics.values()))
    }
    first = min(span.decided_us for span in mine)
    before = [s for s in spans if s.job == job and first - stream.lookback_seconds * 1e6 <= s.decided_us < first]
    for seen in read_seen(lake.storage, before, entries=steps.lookback.entries):
        steps.lookback.admit(seen.prints, now=time.monotonic())
        if seen.older:
            steps.older_until = float("inf")
    with closing(steps):
        for poll in _polls(settings, job, stretches):
            outcome = steps.mask(steps.conform(DecodedPoll(poll, decoders[poll.format].decode(poll.values))))
            sealed = outcome.extra[restricted_name(lake.dataset.name)]
            yield sealed.filter(_within(sealed, stretches))


def _polls(settings: Settings, job: str, stretches: Stretches) -> Iterator[Poll]:
    """Yield the messages of some stretches, and others that come between."""
    with closing(ShareConsumer(settings, job, Share(0, 1))) as consumer:
        there = set(consumer.list_parts())
        ends = {part: max(end for _, end in some) for part, some in stretches.items()}
        starts = {part: min(begin for begin, _ in some) for part, some in stretches.items()}
        for part in stretches:
            if part not in there or consumer.bounds(part)[0] > starts[part]:
                raise UpstreamLoss("The broker's log does not hold it any more", where=str(part), remedy="")
        consumer.start(starts)
        came = time.monotonic()
        while any(consumer.next[part] < end for part, end in ends.items()):
            for poll in consumer.poll():
                came = time.monotonic()
                yield poll
            if time.monotonic() - came > SILENT_SECONDS:
                raise BrokerUnreachable("Broker does not give the messages", where=job, remedy="Try again later.")


def _within(rows: pa.RecordBatch, stretches: Stretches) -> pa.BooleanArray:
    """Return which rows are of a message within the stretches."""
    bounds = {str(part): some for part, some in stretches.items()}
    places = zip(rows["source"].to_pylist(), rows["source_position"].to_pylist(), strict=True)
    return pa.array([any(b <= at < e for b, e in bounds[source]) for source, at in places], pa.bool_())


def missing_rows(lake: Lake, made: pa.Table, damaged: Sequence[StagedFile]) -> pa.Table:
    """Return those of the rows made again that stood in the damaged files: no sound file of these days has them.

    Raises:
        LakeError: they are not as many as are missing.
    """
    table = lake.restricted
    days = {file.day for file in damaged}
    names = [name for name in PLACE if name in table.dataset.schema.names]
    mine = [file for file in table.snapshot().files.values() if file.day in days and file not in damaged]
    there = [batch.cast(pa.schema([made.schema.field(n) for n in names])) for batch in _places(lake, mine, names)]
    known = set(map(tuple, places(pa.concat_tables(there), names))) if there else set()
    kept = [place not in known for place in places(made, names)]
    of_days = _of_days(made, table.dataset.day_of, days)
    found = made.filter(pc.and_(pa.array(kept, pa.bool_()), of_days))
    if found.num_rows != sum(file.rows for file in damaged):
        raise LakeError(
            f"The broker's messages give {found.num_rows:,} rows of {sum(file.rows for file in damaged):,}",
            where=table.name,
            remedy="Rules, associations or decoders have changed since, or duplicates were left out by a look-back.",
        )
    return found


def _places(lake: Lake, files: Sequence[StagedFile], names: list[str]) -> Iterator[pa.Table]:
    return (batch for file in files for batch in read_file(lake.restricted, file, columns=names))


def places(rows: pa.Table, names: Sequence[str]) -> list[tuple[object, ...]]:
    """Return of each row what tells it apart from others."""
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def _of_days(rows: pa.Table, column: str | None, days: set[str | None]) -> pa.Array:
    if column is None:
        return pa.array([True] * rows.num_rows, pa.bool_())
    dates = pc.cast(pc.cast(rows[column], pa.date32()), pa.string()).to_pylist()
    return pa.array([date in days for date in dates], pa.bool_())
