"""Draws the terminal view as it really looks: runs the demo and keeps its last moment as an SVG.

``python -m docs.picture`` writes docs/pictures/live-view.svg.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from governance.samples import copy_samples
from pipelines.broker import EmbeddedBroker
from pipelines.live.supervisor import Supervisor
from vitalake.cli.demo import Demo
from vitalake.cli.view import LaneView
from vitalake.home import init_home

PICTURE = Path(__file__).parent / "pictures" / "live-view.svg"
SECONDS = 25.0


def main() -> None:
    """Run the demo and write the picture."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        home = Path(folder) / "home"
        init_home(home, copy_samples)
        os.environ["VITALAKE_KAFKA__BOOTSTRAP_SERVERS"] = broker.bootstrap_servers
        os.environ["VITALAKE_OBSERVABILITY__PORT"] = "0"
        demo = Demo(home, seconds=SECONDS, workers=1, faults=0.1, seed=0)
        picture = LaneView("vitalake · vitals")
        drawn: list[Panel] = []

        def watch(supervisor: Supervisor) -> None:
            view = supervisor.view()
            if view.state == "running" and view.lag:
                drawn.append(picture.render(view, demo.note()))

        demo.watch = watch
        demo.run(view=False)
    console = Console(record=True, width=112, file=open(os.devnull, "w"))
    console.print(drawn[-8])  # while the devices still speak
    PICTURE.parent.mkdir(exist_ok=True)
    # The default stylesheet fetches a font from the net; the reader's own monospace does.
    svg = console.export_svg(title="vitalake demo")
    start, end = svg.index("@font-face"), svg.rindex("@font-face")
    end = svg.index("}", end) + 1
    PICTURE.write_text(svg[:start] + svg[end:])


if __name__ == "__main__":
    main()
