"""An engineer sees the ledger balance after faulty devices and a killed worker."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from pipelines.simulator.replay import Simulation, simulate
from tests.journeys.browser import visiting
from tests.services.lane import LaneUnderTest
from tests.services.serving import WardUnderTest, serving
from tests.services.waiting import until

MESSAGES = 3_000


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A lane whose devices, half of them faulty, have sent messages already."""
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_rows=200, poll_messages=100, span_seconds=0.2)
    devices = Simulation(source="synthetic", topic=topic_name, rate=0, faults=0.5, count=MESSAGES, partitions=2)
    lane.sent = simulate(devices, bootstrap=embedded_broker, home=home).messages
    return lane


def test_an_engineer_sees_the_ledger_balance_after_a_fault(
    lane: LaneUnderTest, tmp_path: Path, chromium: Browser
) -> None:
    ward = WardUnderTest(lane.home)
    with serving(ward.settings) as served, visiting(chromium, served.address) as visit:
        page = visit.page
        visit.sign_in("engineer")
        expect(page).to_have_url(f"{served.address}/ledger")
        expect(page.get_by_text("There is no lake yet")).to_be_visible()
        visit.look(tmp_path, "ledger-empty")

        with lane.start(idle=None) as worker:
            until(lambda: lane.lake.storage.holds_table("spans") and lane.ledger()["spans"], process=worker)
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
        assert worker.returncode == -signal.SIGKILL
        page.reload()
        expect(page.locator(".verdict")).to_contain_text("balanced")
        lane.run()
        page.reload()
        verdict = page.locator(".verdict")
        expect(verdict).to_contain_text("balanced")
        expect(verdict).not_to_contain_text("does not")
        total = page.locator("tr.sum")
        expect(total.locator("td").first).to_have_text(f"{lane.sent:,}")
        expect(page.get_by_role("row", name=f"{lane.topic}[0]")).to_be_visible()
        expect(page.get_by_role("row", name="vitals").first).to_contain_text("✓ yes")
        assert lane.ledger()["rejected"], "the faults were real"
        visit.look(tmp_path, "ledger")

        expect(page.get_by_role("link", name="Ward board")).to_have_count(0)
        expect(page.get_by_role("link", name="Audit")).to_have_count(0)
        for path, permission in (("/board", "risk:read"), ("/audit", "audit:read")):
            page.goto(path)
            expect(page.get_by_role("heading", name="Permission missing")).to_be_visible()
            expect(page.locator("code")).to_have_text(permission)
        visit.look(tmp_path, "refused")
