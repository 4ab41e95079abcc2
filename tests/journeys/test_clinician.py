"""A clinician sees a patient get worse, from the bedside device to the board, and opens the reasons."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.fhir import message
from tests.journeys.browser import visiting
from tests.services.lane import LaneUnderTest
from tests.services.serving import ILL, STABLE, WardUnderTest, serving
from tests.services.waiting import until
from vitalake import clock
from vitalake.vocabulary import load_vocabulary

NAME = "Beispiel, Greta"
_numbers = itertools.count(1)


def _bedside(lane: LaneUnderTest, source_id: str, values: Mapping[str, float]) -> None:
    """Send values of a monitor with the current time."""
    vocabulary = load_vocabulary()
    now = clock.now().isoformat(timespec="milliseconds")
    lane.send(
        message(
            next(_numbers),
            patient=source_id,
            code={"coding": [{"system": "http://loinc.org", "code": loinc}]},
            effectiveDateTime=now,
            valueQuantity={
                "value": value,
                "system": "http://unitsofmeasure.org",
                "code": vocabulary.unit_of[vocabulary.codes[loinc]],
            },
        )
        for loinc, value in values.items()
    )


def _patients(page: Page) -> list[str]:
    """Return the board's patients from top to bottom."""
    return page.locator("tr[data-patient]").evaluate_all("rows => rows.map(row => row.dataset.patient)")


def test_a_clinician_sees_a_patient_deteriorate_and_opens_the_reasons(
    home: Path, tmp_path: Path, embedded_broker: str, topic_name: str, chromium: Browser
) -> None:
    lane = LaneUnderTest(home, embedded_broker, topic_name)
    lane.configure(span_seconds=0.2)
    lane.create_topic()
    ward = WardUnderTest(home)
    ward.register_model(tmp_path / "model")
    ward.approve()
    worst = ward.admit("p-worst", bed="Bed 1")
    ward.chart(worst, STABLE | {"9279-1": 22, "59408-5": 94, "8867-4": 104, "3151-8": 2})
    others = [ward.admit(f"p-{n}", bed=f"Bed {n}") for n in (2, 3, 4)]
    for patient in others:
        ward.chart(patient, STABLE)
    greta = ward.admit("p-greta", bed="Bed 5", name=NAME, mrn="M-5")
    ward.chart(greta, STABLE)
    with lane.start(idle=None) as worker, serving(ward.settings) as served:
        try:
            until(lambda: lane.status(worker).state == "running", process=worker)
            with visiting(chromium, served.address) as visit:
                page = visit.page
                visit.sign_in("clinician")
                expect(page).to_have_url(f"{served.address}/board")
                row = page.locator(f'tr[data-patient="{greta}"]')
                expect(row).to_be_visible()
                expect(page.get_by_text("Live", exact=True)).to_be_visible()
                assert _patients(page)[0] == worst
                assert int(str(row.get_attribute("data-total"))) < 5
                expect(page.locator("thead")).to_contain_text("approved units only")
                expect(page.locator("footer")).to_contain_text("NEWS2 ranks")
                expect(row.get_by_text(NAME)).to_be_visible()
                expect(row.get_by_text("Bed 5")).to_be_visible()
                visit.look(tmp_path, "board-before")

                _bedside(lane, "p-greta", ILL)

                expect(row).to_have_attribute("data-total", re.compile(r"^1\d$"))
                expect(row).to_have_class(re.compile(r"\bhigh\b"))
                expect(row.locator(".moved.up")).to_contain_text("in 1 h")
                expect(page.locator("tr[data-patient]").first).to_have_attribute("data-patient", greta)
                expect(row.get_by_text(NAME)).to_be_visible()
                visit.look(tmp_path, "board-after")

                row.get_by_role("link").focus()
                page.keyboard.press("Enter")
                expect(page).to_have_url(f"{served.address}/patients/{greta}")
                expect(page.get_by_role("heading", name=NAME)).to_be_visible()
                reasons = page.locator("table.bars tbody tr")
                expect(reasons.first).to_be_visible()
                expect(page.get_by_role("img", name=re.compile("raises the risk by"))).not_to_have_count(0)
                expect(page.locator("table.parts tr", has_text="Respiratory rate").locator(".points")).to_have_text("3")
                expect(page.locator("svg.trend")).to_have_count(8)
                summary = page.get_by_text("Reasons, compared with the average patient")
                summary.click()
                expect(reasons.first).to_be_hidden()
                summary.click()
                expect(reasons.first).to_be_visible()
                visit.look(tmp_path, "patient")

                score = page.locator("[data-score]").first
                before = str(score.get_attribute("data-score"))
                _bedside(lane, "p-greta", {"8867-4": 141})
                expect(page.locator("figure", has_text="Heart rate").locator(".now b")).to_have_text("141")
                expect(score).not_to_have_attribute("data-score", before)
                _bedside(lane, "p-greta", {"8867-4": 0})
                expect(page.get_by_role("alert")).to_contain_text("HR 0: no beat detected, or probe off")
                expect(page.get_by_role("heading", name=NAME)).to_be_visible()

                page.get_by_role("button", name="Sign out").click()
                page.goto("/board")
                expect(page).to_have_url(f"{served.address}/sign-in")
        finally:
            worker.terminate()
            worker.communicate(timeout=60)
    until(lambda: lane.ledger()["balanced"])


def test_stale_data_say_so_in_words(home: Path, tmp_path: Path, chromium: Browser) -> None:
    ward = WardUnderTest(home)
    patient = ward.admit("p-1", bed="Bed 1")
    ward.measure(patient, STABLE, at_us=clock.now_us() - 190 * 60_000_000)
    with serving(ward.settings) as served, visiting(chromium, served.address) as visit:
        visit.sign_in("clinician")
        cell = visit.page.locator(f'tr[data-patient="{patient}"] .newest')
        expect(cell).to_contain_text("3 h 10 min")
        expect(cell.get_by_text("stale")).to_be_visible()
        visit.look(tmp_path, "stale")
        visit.page.get_by_role("link", name="Bed 1").click()
        expect(visit.page.get_by_text("Stale: no vital sign for more than 2 h")).to_be_visible()
        expect(visit.page.get_by_text("No name is recorded for this patient")).to_have_count(0)


def test_a_replay_says_so_on_every_page(home: Path, tmp_path: Path, chromium: Browser) -> None:
    from pipelines.online_store.playback import Replay

    ward = WardUnderTest(home)
    now = clock.now_us()
    ward.store.time.set_replay(Replay(start_us=now - 3_600_000_000, wall_us=now, speed=60.0, end_us=now))
    patient = ward.admit("p-1", bed="Bed 1")
    ward.measure(patient, STABLE, at_us=now - 7_200_000_000)
    with serving(ward.settings) as served, visiting(chromium, served.address) as visit:
        visit.sign_in("clinician")
        banner = visit.page.get_by_role("complementary")
        expect(banner).to_contain_text("60 × real time")
        expect(banner.locator(".ward-clock")).to_have_text(re.compile(r"^\d+ \w+ \d\d:\d\d [A-Z]+$"))
        visit.look(tmp_path, "replay")
        visit.page.goto(f"/patients/{patient}")
        expect(banner).to_contain_text("ward time")
        visit.look(tmp_path, "replay-patient")
