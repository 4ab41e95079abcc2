"""The server process: one address, no access log, event streams that end with it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from models.serving.addresses import require_loopback
from models.serving.app import make_app
from models.serving.connections import GuardedProtocol, raise_descriptors
from vitalake.errors import SettingsError
from vitalake.settings import Settings

GRACE_SECONDS = 3
"""Time for running responses when the process is asked to stop."""

SWITCH_SECONDS = 0.0005
"""The thread switch interval. At Python's default of 5 ms the event loop would wait behind every score."""


class Server(uvicorn.Server):
    """A uvicorn server that reports its address, and ends event streams before it waits for other responses."""

    def __init__(self, app: FastAPI, *, on_ready: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            app: the application.
            on_ready: called with the address once the server answers.
        """
        self._application, self._on_ready = app, on_ready
        super().__init__(
            uvicorn.Config(
                app,
                http=GuardedProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop cleanly at SIGINT and SIGTERM; uvicorn would raise them again afterwards."""
        if threading.current_thread() is not threading.main_thread():  # in tests
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report the address."""
        await super().startup(sockets)
        if sockets and not self.should_exit:
            self._on_ready(address_of(sockets[0]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; event streams first."""
        self._application.state.server.board_feed.close()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address of this machine only.

    Raises:
        SettingsError: the address cannot be bound.
        PrivacyError: other machines could reach it.
    """
    family, address = require_loopback(host, port)
    # The protocol number matters: asyncio disables Nagle's algorithm (a delay of 40 ms) only if it sees that a socket
    # is TCP.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise SettingsError(
            f"Address cannot be used ({error.strerror})",
            where=f"serving.host, serving.port: {host}:{port}",
            remedy="Stop the process that uses it, or choose another port with --port; 0 takes a free one.",
        ) from None
    return found


def address_of(listening: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        VitaLakeError: a store cannot be opened, or the address cannot be bound.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    raise_descriptors()
    app = make_app(settings)
    with listen(settings.serving.host, settings.serving.port) as listening:
        asyncio.run(Server(app, on_ready=on_ready).serve(sockets=[listening]))
