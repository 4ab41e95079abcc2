"""Look-back files of an earlier release are told from today's: for a while repeats are looked up in both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from pipelines.core.poll import Poll
from tests.fhir import message
from tests.services.polls import LaneWithoutKafka
from vitalake.lake.commits.seen import FOLDER, read_seen
from vitalake.lake.commits.span import SEEN, Span
from vitalake.lake.tables.table import StagedFile

PAYLOADS = [message(1), message(2, issued="2025-06-01T10:05:00+02:00")]


def test_an_exact_repeat_of_before_the_upgrade_is_recognised(home: Path) -> None:
    """An earlier release gave a row without ``issued`` another fingerprint beside one that has it."""
    lane = LaneWithoutKafka(home)
    steps = lane.lane.steps
    lane.send([(0, payload) for payload in PAYLOADS], cut=True)
    (span,) = lane.lane.lake.spans.all_spans()
    lane.lane._fill_lookback([span])
    assert steps.older_until < 0, "today's files are known by their mark"
    before = _as_before(lane, span)
    (seen,) = read_seen(lane.lane.lake.storage, [before], entries=10)
    assert seen.older
    lane.lane._fill_lookback([before])
    assert steps.older_until > 0
    lane.send([(0, PAYLOADS[0])], cut=True)
    lane.send([(0, PAYLOADS[1])], cut=True)
    assert len(lane.rows()) == 2


def _as_before(lane: LaneWithoutKafka, span: Span) -> Span:
    """Return the span with a look-back file as the release before wrote it: the older form, and no mark."""
    steps = lane.lane.steps
    steps.older_until = float("inf")
    part, offset = np.zeros(2, np.int32), np.arange(2)
    poll = Poll("vitals/0of1", "fhir", list(PAYLOADS), lane.parts, part, offset, np.full(2, 1_795_000_000_000))
    prints = lane.lane.conform(lane.lane.decode(poll)).older
    steps.older_until = float("-inf")
    assert prints is not None
    path = Path(lane.lane.lake.storage.root, FOLDER, "before.parquet")
    pq.write_table(pa.table({"high": prints[:, 0], "low": prints[:, 1]}), path)
    others = [file for file in span.files if file.table != SEEN]
    return replace(span, files=[*others, StagedFile(SEEN, path.name, path.stat().st_size, 2, None)])
