"""Draws what people see as it really looks: runs the demo, keeps the terminal's view as an SVG and the board as a PNG.

``python -m docs.picture`` writes docs/pictures/live-view.svg and docs/pictures/ward-board.png (Debian's Chromium).
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from governance.samples import copy_samples
from pipelines.broker import EmbeddedBroker
from pipelines.live.supervisor import Supervisor
from vitalake.cli.demo import Demo
from vitalake.cli.view import LaneView
from vitalake.home import init_home

FOLDER = Path(__file__).parent / "pictures"
SECONDS = 60.0
BOARD_AFTER_SECONDS = 50.0
"""Of the devices' speaking: by then a model is there and patients have moved."""

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    """Run the demo and write the pictures."""
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
                threading.Thread(target=photograph, args=(demo.note().split()[2],)).start()

        demo.watch = watch
        demo.run(view=False)
    console = Console(record=True, width=112, file=open(os.devnull, "w"))
    console.print(drawn[-8])  # while the devices still speak
    # The default stylesheet fetches a font from the net; the reader's own monospace does.
    svg = console.export_svg(title="vitalake demo")
    start, end = svg.index("@font-face"), svg.rindex("@font-face")
    end = svg.index("}", end) + 1
    (FOLDER / "live-view.svg").write_text(svg[:start] + svg[end:])


def photograph(address: str) -> None:
    """Write what a clinician sees of the ward now."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, base_url=address)
        page.goto("/")
        page.get_by_role("button", name="Clinician (development)").click()
        page.locator("[data-patient]").first.wait_for()
        page.screenshot(path=FOLDER / "ward-board.png")
        browser.close()


if __name__ == "__main__":
    main()
