"""``vitalake broker``: runs the embedded broker in the foreground."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from vitalake.cli.output import JsonOption, Output

_WAIT_SECONDS = 0.5  # how soon a signal is seen


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="The embedded broker: Kafka's protocol in memory, for one machine.", no_args_is_help=True)
    group.callback()(_group)  # keeps "start" a subcommand although it is the only one
    group.command("start")(start)
    app.add_typer(group, name="broker")


def _group() -> None:
    """Run the embedded broker: Kafka's protocol in memory, for one machine."""


def start(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 19092,
    json: JsonOption = False,
) -> None:
    """Run the broker until Ctrl-C; all topics are lost then, because they are in memory."""
    from pipelines.simulator.broker import EmbeddedBroker
    from vitalake.errors import ServiceUnavailable

    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with EmbeddedBroker(port) as broker:
        Output(json).answer(
            {"bootstrap_servers": broker.bootstrap_servers, "pid": broker.pid},
            f"Broker at {broker.bootstrap_servers}, in memory. Ctrl-C ends it.",
        )
        while not stopped:
            code = broker.wait(_WAIT_SECONDS)
            if code is not None:
                raise ServiceUnavailable(
                    f"Embedded broker ended by itself (exit code {code})",
                    where=broker.bootstrap_servers,
                    remedy="Start it again; its topics are lost.",
                )
