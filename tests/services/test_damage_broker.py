"""Restricted rows that have rotted are made again of the broker's messages, while its log has them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.fhir import message
from tests.services.lane import LaneUnderTest
from vitalake.cli.app import main
from vitalake.lake.compaction import compact
from vitalake.lake.vacuum import vacuum
from vitalake.lake.verify import verify


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane on an empty topic."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_rows=10, poll_messages=20, span_seconds=0.05, bundle_seconds=0.5)
    lane.create_topic()
    return lane


@pytest.mark.parametrize("merged", [False, True])
def test_restricted_file_is_made_again_of_the_broker_while_its_log_has_it(
    lane: LaneUnderTest, capfd: pytest.CaptureFixture[str], *, merged: bool
) -> None:
    for wave in range(2):
        lane.send(message(wave * 20 + i) for i in range(20))
        lane.send([message(0)])  # a duplicate: it was left out, and is again
        lane.run()
    table = lane.lake.restricted
    if merged:
        assert compact(table, min_files=2).days
        vacuum(lane.lake, table, retention_hours=0)
    before, ledger = lane.positions("restricted"), lane.ledger()
    table.refresh()
    chosen = Path(table.storage.root, sorted(table.snapshot().files)[0])
    chosen.write_bytes(chosen.read_bytes()[:-1] + b"\x00")
    assert main(["lake", "repair", "--home", str(lane.home), "--json"]) == 0
    done = msgspec.json.decode(capfd.readouterr().out)
    assert [files["how"] for files in done["files"]] == ["broker"]
    assert lane.positions("restricted") == before
    assert lane.ledger() == ledger
    assert [finding for finding in verify(lane.lake) if finding.severity == "error"] == []
    assert main(["lake", "rewrite", "--republish", "observation", "--home", str(lane.home)]) == 0, "its cells open"
    lane.delete_topic()
    table.refresh()
    chosen = Path(table.storage.root, sorted(table.snapshot().files)[0])
    chosen.unlink()
    capfd.readouterr()
    assert main(["lake", "repair", "--home", str(lane.home), "--json"]) == 13
    assert "cannot be made again" in msgspec.json.decode(capfd.readouterr().out)["left"][0]
