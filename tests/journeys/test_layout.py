"""Nothing is cut off on phone, tablet, desktop, at 200 % zoom or on paper; everything is readable by day and night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, expect

from governance.home import init_home
from governance.samples import copy_samples
from tests.journeys.browser import Visit, visiting
from tests.services.serving import ILL, MINUTE, STABLE, Served, WardUnderTest, serving
from vitalake import clock

SIZES: dict[str, ViewportSize] = {
    "phone": {"width": 360, "height": 740},
    "tablet": {"width": 820, "height": 1180},
    "tablet-across": {"width": 1180, "height": 820},
    "zoomed-200": {"width": 640, "height": 400},
    "low": {"width": 1280, "height": 480},  # the patients scroll
    "desk": {"width": 1280, "height": 800},
    "wall": {"width": 3840, "height": 2160},
}
PAPER: ViewportSize = {"width": 718, "height": 1046}
"""A4 portrait without margins of 10 mm, in CSS pixels."""

LONG_AGO = {"1742-6": 38.0, "3173-2": 88.2, "2951-2": 139.0, "1995-0": 5.04, "14979-9": 43.1, "2019-8": 37.0}
"""Laboratory values with long names, units and decimals, hours and minutes old."""

LONG = "Wolfeschlegelsteinhausenbergerdorff-Ångström, Maria Magdalena"

_CUT = """() => {
  const found = [];
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) found.push(`the page is ${wide} px too wide`);
  const end = document.querySelector("footer").getBoundingClientRect().bottom + scrollY;
  const below = document.documentElement.scrollHeight - Math.max(end, innerHeight);
  if (below > 1) found.push(`${below} px of nothing below the footer`);
  for (const element of document.querySelectorAll("body *")) {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (!box.width || style.visibility === "hidden" || element.closest("svg, .visually-hidden, .skip, thead")) continue;
    const cuts = style.overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1;
    const clamps = style.overflowY === "hidden" && element.scrollHeight > element.clientHeight + 1;
    const outside = box.right > document.documentElement.clientWidth + 1 || box.left < -1;
    if (cuts || clamps || outside) {
      found.push(`${element.tagName}.${element.className}: ${cuts ? "cut" : clamps ? "clamped" : "outside"}`);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> WardUnderTest:
    folder = tmp_path_factory.mktemp("ward")
    init_home(folder / "home", copy_samples)
    found = WardUnderTest(folder / "home")
    values = [ILL, STABLE | {"9279-1": 22, "59408-5": 94, "8867-4": 104, "3151-8": 2}, STABLE]
    for number in range(9):
        name = (
            "Wolfeschlegelsteinhausenbergerdorff-Ångström, Maria Magdalena"
            if number % 3 == 1
            else f"Test, Person {number}"
        )
        bed = "Intermediate Care 12 Window" if number % 4 == 1 else f"Bed {number + 1}"
        patient = found.admit(f"p-{number}", bed=bed, name=name, mrn=f"M-{number}")
        found.chart(patient, values[number % 3] if number < 8 else {"8867-4": 91.0})
    now = clock.now_us()
    for minutes, factor in ((1_481, 0.9), (1_221, 1.0)):
        at_us = now - minutes * MINUTE
        labs = {code: value * factor for code, value in LONG_AGO.items()}
        found.measure(found.token("p-1"), labs, at_us=at_us, known_us=at_us)
    return found


@pytest.fixture(scope="module")
def served(ward: WardUnderTest) -> Iterator[Served]:
    settings = ward.settings
    in_berlin = settings.serving.model_copy(update={"time_zone": "Europe/Berlin"})
    with serving(settings.model_copy(update={"serving": in_berlin})) as found:
        yield found


def _pages(ward: WardUnderTest) -> dict[str, str]:
    return {"board": "/board", "patient": f"/patients/{ward.token('p-1')}"}


def _check(page: Page, what: str) -> None:
    assert page.evaluate(_CUT) == [], what


def _readable(page: Page, what: str) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, f"{what}\n{found.generate_report()}"


def _open(visit: Visit, path: str) -> None:
    visit.page.goto(path)
    expect(visit.page.locator("#line")).to_have_text("Live")


def test_nothing_is_cut_at_any_size_by_day_and_by_night(
    ward: WardUnderTest, served: Served, chromium: Browser, tmp_path: Path
) -> None:
    with visiting(chromium, served.address) as visit:
        visit.sign_in("clinician")
        for name, path in _pages(ward).items():
            for size, viewport in SIZES.items():
                visit.page.set_viewport_size(viewport)
                _open(visit, path)
                visit.page.screenshot(path=tmp_path / f"{name}-{size}.png", full_page=True)
                _check(visit.page, f"{name}, {size}")
                if size in ("phone", "desk"):  # contrast does not depend on the sizes between
                    for scheme in ("light", "dark"):
                        visit.page.emulate_media(color_scheme=scheme)
                        visit.page.screenshot(path=tmp_path / f"{name}-{size}-{scheme}.png", full_page=True)
                        _readable(visit.page, f"{name}, {size}, {scheme}")
                    visit.page.emulate_media(color_scheme="light")


def test_paper_has_everything_and_is_white_also_at_night(
    ward: WardUnderTest, served: Served, chromium: Browser, tmp_path: Path
) -> None:
    with visiting(chromium, served.address) as visit:
        visit.sign_in("clinician")
        visit.page.set_viewport_size(PAPER)
        for name, path in _pages(ward).items():
            _open(visit, path)
            visit.page.emulate_media(media="print", color_scheme="dark")
            visit.page.screenshot(path=tmp_path / f"{name}-print.png", full_page=True)
            _check(visit.page, f"{name}, print")
            ink = visit.page.evaluate("() => getComputedStyle(document.body).color")
            assert ink == "rgb(20, 33, 43)", "dark ink"
            expect(visit.page.get_by_text("Printed at ward time")).to_be_visible()
            if name == "board":
                expect(visit.page.locator("tr[data-patient]")).to_have_count(9)
            visit.page.emulate_media(media="screen", color_scheme="light")


def test_night_is_chosen_by_a_button_and_stays(ward: WardUnderTest, served: Served, chromium: Browser) -> None:
    dark = "() => getComputedStyle(document.body).colorScheme"
    with visiting(chromium, served.address) as visit:
        visit.sign_in("clinician")
        assert visit.page.evaluate(dark) == "light"
        visit.page.get_by_role("button", name="Night").click()
        assert visit.page.evaluate(dark) == "dark"
        _open(visit, f"/patients/{ward.token('p-1')}")
        assert visit.page.evaluate(dark) == "dark"
        visit.page.get_by_role("button", name="Day").click()
        assert visit.page.evaluate(dark) == "light"


def test_times_are_the_wards_and_say_summer_or_winter(ward: WardUnderTest, served: Served, chromium: Browser) -> None:
    with visiting(chromium, served.address) as visit:
        visit.sign_in("clinician")
        _open(visit, "/board")
        clock = visit.page.locator("main .ward-clock")
        expect(clock).to_contain_text(" CE")  # CET or CEST
        _open(visit, f"/patients/{ward.token('p-1')}")
        expect(visit.page.locator(".origin time")).to_contain_text(" CE")
        expect(visit.page.locator("body")).not_to_contain_text("UTC")


def test_on_a_wall_a_board_is_read_from_the_bed(served: Served, chromium: Browser) -> None:
    """At 3840 pixels letters were 13 pixels high, and the important texts stood in a column of 190."""
    with visiting(chromium, served.address) as visit:
        visit.sign_in("clinician")
        heights = {}
        for size in ("desk", "wall"):
            visit.page.set_viewport_size(SIZES[size])
            _open(visit, "/board")
            box = visit.page.locator(".board .place").first.bounding_box()
            assert box is not None
            heights[size] = box["height"]
            expect(visit.page.locator("footer")).to_be_in_viewport()
        assert heights["wall"] > 1.9 * heights["desk"]
