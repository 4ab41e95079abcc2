"""A job is taken over from the process that ran it: what that one has decided is added, and it decides no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.takeover import refuse_taken, take_over
from tests.unit.vitalake.lake.span_samples import JOB, begin, open_lake, part, positions, staged_span
from vitalake.errors import InputError, SettingsError
from vitalake.lake.commits.span_log import Superseded


def test_the_successor_adds_what_was_decided_and_the_process_before_decides_nothing_more(tmp_path: Path) -> None:
    before = open_lake(tmp_path)
    epoch = begin(before)
    before.spans.decide(staged_span(before, 0, 5, epoch=epoch))
    lake = open_lake(tmp_path)
    assert positions(lake) == []
    assert take_over(lake, job=JOB, parts=[part()]) == epoch + 1
    assert positions(lake) == [0, 1, 2, 3]
    with pytest.raises(Superseded):
        before.spans.decide(staged_span(before, 5, 9, epoch=epoch))
    lake.spans.decide(staged_span(lake, 5, 9, epoch=epoch + 1))


def test_a_partition_that_another_job_reads_is_not_taken_over(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    take_over(lake, job=JOB, parts=[part(), part(1)])
    with pytest.raises(InputError, match="Another job"):
        take_over(open_lake(tmp_path), job="replay", parts=[part(topic_id="uuid-2"), part()])
    assert take_over(open_lake(tmp_path), job="replay", parts=[part(topic_id="uuid-2")]) == 1
    assert take_over(lake, job=JOB, parts=[part()]) == 2


@pytest.mark.parametrize("job", ["replay", "attribution", "devices", "history-city"])
def test_a_stream_cannot_have_the_name_of_another_kind_of_job(tmp_path: Path, job: str) -> None:
    """Each entry by hand took over the shard of a stream called devices, and ended it."""
    lake = open_lake(tmp_path)
    with pytest.raises(SettingsError, match="another name"):
        refuse_taken(lake, job)
    refuse_taken(lake, f"{job.partition('-')[0]}s-of-ward-5")
    take_over(lake, job=job, parts=[part()])
    refuse_taken(open_lake(tmp_path), job)  # of a lake in which an earlier release let it begin
