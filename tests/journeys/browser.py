"""A browser for the journeys: Chromium, driven by Playwright, which connects to this machine only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from tests.services.requirements import missing_service

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZE: ViewportSize = {"width": 1280, "height": 800}

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a module's tests, not for the session: while it is open no other test can run an event loop."""
    if not CHROMIUM.exists():
        missing_service("browser", f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A user's browser window.

    Attributes:
        page: the page shown.
        address: of the server.
        complaints: errors of the console.
        forgive: the test stops the server, so that failed connections are expected.
    """

    page: Page
    context: BrowserContext
    address: str
    complaints: list[str] = field(default_factory=list)
    forgive: bool = False

    def hear(self, kind: str, text: str) -> None:
        """Keep console errors and warnings; a refused page can be what a test expects, and is not kept."""
        if self.forgive and ("Failed to load resource" in text or "net::ERR" in text):
            return
        if kind == "error" and "status of 403" not in text:
            self.complaints.append(text)

    def sign_in(self, role: str) -> None:
        """Sign in as one of the development issuer's users."""
        self.page.goto("/")
        expect(self.page).to_have_url(f"{self.address}/sign-in")
        self.page.get_by_role("button", name=f"{role.capitalize()} (development)").click()
        expect(self.page.get_by_role("button", name="Sign out")).to_be_visible()
        self.page.wait_for_load_state()  # the page's scripts run after its buttons are there

    def look_at_sign_in(self, folder: Path) -> None:
        """Check the sign-in page, the only one before signing in."""
        self.page.goto("/sign-in")
        self.look(folder, "sign-in")

    def look(self, folder: Path, name: str) -> None:
        """Take a screenshot, and check the accessibility of the page."""
        self.page.screenshot(path=folder / f"{name}.png")
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()


@contextmanager
def visiting(browser: Browser, address: str) -> Iterator[Visit]:
    """Open a window; when it closes, its console must have no errors or warnings."""
    context = browser.new_context(viewport=SIZE, base_url=address)
    visit = Visit(context.new_page(), context, address)
    visit.page.on("console", lambda said: visit.hear(said.type, said.text))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    try:
        yield visit
    finally:
        context.close()
    assert visit.complaints == []


@contextmanager
def browser_page(address: str, *, user: str) -> Iterator[Page]:
    """Open a browser with a signed-in user, for benchmarks and for looking."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            with visiting(browser, address) as visit:
                visit.sign_in(user)
                yield visit.page
        finally:
            browser.close()
