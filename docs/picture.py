"""Makes the pictures of the documentation: runs the demo, and saves the terminal's view as SVG and the board as PNG.

``python -m docs.picture`` writes docs/pictures/live-view.svg and docs/pictures/ward-board.png. It needs Chromium.
``python -m docs.picture --sizes FOLDER`` writes the board and a patient's page into the folder at six sizes, in light
and dark colours and as printed, for review; with ``--address http://…`` it uses a server that already runs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from governance.home import init_home
from governance.samples import copy_samples
from models.commands.demo import Demo
from pipelines.commands.view import LaneView
from pipelines.live.supervisor import Supervisor
from pipelines.simulator.broker import EmbeddedBroker

FOLDER = Path(__file__).parent / "pictures"
SECONDS = 60.0
BOARD_AFTER_SECONDS = 50.0
"""When the board is photographed after the devices begin: a model is trained by then, and patients have moved."""

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


SIZES: dict[str, tuple[int, int]] = {
    "phone": (360, 740),
    "tablet": (820, 1180),
    "tablet-across": (1180, 820),
    "zoomed-200": (640, 400),
    "desk": (1280, 800),
    "wall": (3840, 2160),
}
PAPER = (718, 1046)
"""A4 upright without margins of 10 mm, in CSS pixels."""


def main() -> None:
    """Run the demo and write the pictures; with --sizes and --address only photograph a running server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=Path, help="Folder for pictures in all sizes.")
    parser.add_argument("--address", help="Address of a server that runs; only with --sizes.")
    given = parser.parse_args()
    if given.address and given.sizes:
        photograph_sizes(given.address, given.sizes)
        return
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        home = Path(folder) / "home"
        init_home(home, copy_samples)
        os.environ["VITALAKE_KAFKA__BOOTSTRAP_SERVERS"] = broker.bootstrap_servers
        os.environ["VITALAKE_OBSERVABILITY__PORT"] = "0"
        demo = Demo(home, seconds=SECONDS, workers=1, faults=0.1, seed=0)
        picture = LaneView("vitalake · vitals")
        drawn: list[Panel] = []
        began: list[float] = []
        photographed = threading.Event()

        def watch(supervisor: Supervisor) -> None:
            view = supervisor.view()
            if view.state == "running" and view.counts.messages:
                began.append(time.monotonic())
                drawn.append(picture.render(view, demo.note()))
            if began and time.monotonic() - began[0] > BOARD_AFTER_SECONDS and not photographed.is_set():
                photographed.set()
                address = demo.note().split()[2]
                if given.sizes:
                    threading.Thread(target=photograph_sizes, args=(address, given.sizes)).start()
                else:
                    threading.Thread(target=photograph, args=(address,)).start()

        demo.watch = watch
        demo.run(view=False)
    console = Console(record=True, width=112, file=open(os.devnull, "w"))
    console.print(drawn[-8])  # while the devices still send
    # The default stylesheet loads a font from the internet; remove it, so that the reader's monospace font is used.
    svg = console.export_svg(title="vitalake demo")
    start, end = svg.index("@font-face"), svg.rindex("@font-face")
    end = svg.index("}", end) + 1
    (FOLDER / "live-view.svg").write_text(svg[:start] + svg[end:])


def photograph(address: str) -> None:
    """Save a picture of the board as a clinician sees it now."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, base_url=address)
        page.goto("/")
        page.get_by_role("button", name="Clinician (development)").click()
        page.locator("[data-patient]").first.wait_for()
        page.screenshot(path=FOLDER / "ward-board.png")
        browser.close()


def photograph_sizes(address: str, folder: Path) -> None:
    """Save pictures of the board and the first patient's page: all sizes, light and dark colours, and as printed."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(base_url=address)
        page.goto("/")
        page.get_by_role("button", name="Clinician (development)").click()
        page.locator("[data-patient]").first.wait_for()
        pages = {"board": "/board", "patient": str(page.locator("[data-patient] a").first.get_attribute("href"))}
        for name, path in pages.items():
            page.goto(path)
            for size, (width, height) in SIZES.items():
                page.set_viewport_size({"width": width, "height": height})
                for scheme in ("light", "dark"):
                    page.emulate_media(media="screen", color_scheme=scheme)  # type: ignore[arg-type]
                    page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)
            page.set_viewport_size({"width": PAPER[0], "height": PAPER[1]})
            page.emulate_media(media="print", color_scheme="dark")
            page.screenshot(path=folder / f"{name}-print.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
