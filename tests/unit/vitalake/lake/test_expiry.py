"""Dead letters are deleted when they expire: exactly those, beside the stream, and the books know."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from tests.unit.vitalake.lake.span_samples import begin, open_lake, staged_span
from vitalake import clock
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.expiry import expire
from vitalake.lake.maintenance.run import maintain
from vitalake.lake.maintenance.verify import verify

SIZE = 4


def write(lake: Lake, *, days: list[int]) -> None:
    """Decide and add spans whose dead letters were put aside so many days ago, to be kept for three."""
    begin(lake)
    for i, age in enumerate(days):
        span = staged_span(lake, i * SIZE, (i + 1) * SIZE, bad=2)
        dead = [file for file in span.files if file.table == lake.quarantine.name]
        rows = pa.concat_tables([lake.quarantine.storage.read_parquet(file.path) for file in dead])
        at = clock.now() - timedelta(days=age)
        for name, moment in (("rejected_at", at), ("expires_at", at + timedelta(days=3))):
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, name, pa.repeat(pa.scalar(moment, pa.timestamp("us", "UTC")), len(rows)))
        span.files = [file for file in span.files if file not in dead]
        span.files += lake.quarantine.stage(rows.cast(lake.quarantine.dataset.schema), stem=span.span_id)
        lake.spans.decide(span)
        lake.add(span)


def left(lake: Lake) -> list[int]:
    """Return the positions of the dead letters that are there."""
    lake.quarantine.refresh()
    return sorted(lake.quarantine.scan(columns=["position"])["position"].to_pylist())


@pytest.mark.parametrize("days", [[0, 1, 2], [4, 9, 30], [0, 4, 0, 4, 9]])
def test_exactly_those_that_have_expired_go(tmp_path: Path, days: list[int]) -> None:
    lake = open_lake(tmp_path)
    write(lake, days=days)
    kept = [i * SIZE + j for i, age in enumerate(days) if age < 3 for j in (2, 3)]
    assert expire(lake.quarantine) == 2 * len(days) - len(kept)
    assert left(lake) == kept
    assert expire(lake.quarantine) == 0
    assert [finding for finding in verify(open_lake(tmp_path)) if finding.severity == "error"] == []


def test_a_day_that_is_half_over_keeps_its_other_half(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    write(lake, days=[4])
    lake.quarantine.refresh()
    mixed = lake.quarantine.scan()
    later = mixed["expires_at"].to_pylist()
    later[0] += timedelta(days=90)
    mixed = mixed.set_column(
        mixed.schema.get_field_index("expires_at"), "expires_at", pa.array(later, pa.timestamp("us", "UTC"))
    )
    old = list(lake.quarantine.snapshot().files.values())
    new = lake.quarantine.stage(mixed, stem="by-hand")
    lake.quarantine.commit(add=new, remove=old, transactions={})
    lake.quarantine.refresh()
    assert expire(lake.quarantine) == 1
    assert left(lake) == [2]
    assert left(open_lake(tmp_path)) == [2]


def test_maintenance_counts_what_has_expired_and_leaves_other_tables_alone(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    write(lake, days=[9, 0])
    done = {entry["table"]: entry for entry in maintain(lake, lake.present().values(), vacuum=False)}
    assert done["quarantine/dead_letter"]["expired"] == 2
    assert "expired" not in done["published/observation"]
    assert left(open_lake(tmp_path)) == [6, 7]
