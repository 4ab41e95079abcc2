"""Notifications: one when a lane waits, one when it goes on, and nothing but our own words."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest

from vitalake.errors import SettingsError
from vitalake.notifications import PauseWatch, sender


def test_a_pause_is_told_once_and_so_is_its_end() -> None:
    told: list[str] = []
    watch = PauseWatch(lambda title, _: told.append(title), job="vitals", patience_seconds=10)
    for now, paused in [(0, False), (1, True), (5, True), (6, False), (7, True), (16, True), (17, True), (90, True)]:
        watch.observe(paused=paused, reasons=["Disk is full"], now=now)
    assert told == ["vitalake: vitals waits"]
    watch.observe(paused=False, reasons=[], now=91)
    watch.observe(paused=False, reasons=[], now=92)
    assert told == ["vitalake: vitals waits", "vitalake: vitals goes on"]


def test_it_reaches_a_real_address_given_by_reference(tmp_path: Path) -> None:
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        (tmp_path / "address").write_text(f"json://127.0.0.1:{server.server_address[1]}\n")
        sender(["file:address"], home=tmp_path)("title", "text")
    document = msgspec.json.decode(received[0])
    assert (document["title"], document["message"]) == ("title", "text")


def test_an_address_that_is_none_is_refused_and_not_echoed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        sender(["no-such-scheme://token"], home=tmp_path)
    assert "token" not in str(caught.value)
    sender([], home=tmp_path)("nobody", "hears")
