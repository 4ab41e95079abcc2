"""A privacy officer finds who saw a patient, and that the audit is intact."""

from __future__ import annotations

from pathlib import Path

import httpx
from playwright.sync_api import Browser, expect

from tests.journeys.browser import visiting
from tests.services.serving import STABLE, WardUnderTest, serving

NAME, MRN = "Beispiel, Greta", "M-70021"


def test_an_officer_finds_who_saw_that_patient(home: Path, tmp_path: Path, chromium: Browser) -> None:
    ward = WardUnderTest(home)
    patient, other = ward.admit("p-1", bed="Bed 1", name=NAME, mrn=MRN), ward.admit("p-2", bed="Bed 2", mrn="M-2")
    ward.chart(patient, STABLE)
    with serving(ward.settings) as served:
        with visiting(chromium, served.address) as visit:
            visit.sign_in("clinician")
            visit.page.get_by_role("link", name="Bed 1").click()
            expect(visit.page.get_by_role("heading", name=NAME)).to_be_visible()
        refused = httpx.get(f"{served.address}/v1/patients/{patient}/risk", headers=ward.bearer("engineer"))
        assert refused.status_code == 403
        with visiting(chromium, served.address) as visit:
            page = visit.page
            visit.look_at_sign_in(tmp_path)
            visit.sign_in("officer")
            page.get_by_role("link", name="Audit").click()
            expect(page.locator(".verdict")).to_contain_text("the audit's chains are intact")
            page.get_by_label("Number or pseudonym").fill(MRN)
            page.get_by_role("button", name="Show accesses").click()
            seen = page.locator("table.seen tbody tr")
            expect(seen.filter(has_text="saw the name").filter(has_text="clinician")).to_have_count(2)  # board, page
            expect(seen.filter(has_text="saw the ward board").first).to_contain_text("clinician")
            expect(seen.filter(has_text="was refused")).to_contain_text("engineer")
            expect(seen.filter(has_text="checked who saw the patient")).to_contain_text("officer")
            expect(page).to_have_url(f"{served.address}/audit")
            assert MRN not in page.content()
            assert NAME not in page.content()
            visit.look(tmp_path, "audit")

            page.get_by_label("pseudonym", exact=True).check()
            page.get_by_label("Number or pseudonym").fill(other)
            page.get_by_role("button", name="Show accesses").click()
            # Nothing was measured of that patient, who is on the board all the same; nobody opened a page of theirs.
            expect(seen.filter(has_text="saw the ward board")).to_have_count(2)  # the page, and what came after
            expect(seen.filter(has_text="saw the name")).to_have_count(1)
            expect(seen.filter(has_text="checked who saw the patient")).to_have_count(1)
            expect(seen).to_have_count(4)
            expect(page.get_by_role("link", name="Ward board")).to_have_count(0)
            page.get_by_role("link", name="Ledger").click()
            expect(page.get_by_role("heading", name="Ledger")).to_be_visible()

            chain = ward.settings.path(ward.settings.audit) / "serving.jsonl"
            chain.write_bytes(chain.read_bytes().replace(b"clinician", b"physician"))
            page.get_by_role("link", name="Audit").click()
            expect(page.get_by_role("heading")).to_be_visible()
            visit.look(tmp_path, "audit-broken")
