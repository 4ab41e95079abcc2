"""A board that is not live shows a clear alarm by itself, and reconnects by itself."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.journeys.browser import Visit, visiting
from tests.services.serving import STABLE, WardUnderTest
from tests.services.waiting import until


@contextmanager
def _serving(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server in its own process, which the test can stop."""
    command = [sys.executable, "-m", "vitalake", "serve", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def free_port() -> int:
    """A free port, to be used twice."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _not_live(visit: Visit) -> None:
    alarm = visit.page.get_by_role("alert")
    expect(alarm).to_be_visible(timeout=40_000)
    expect(alarm).to_contain_text(re.compile(r"NOT UPDATED since \d\d:\d\d:\d\d"))
    expect(visit.page.locator("#line")).to_have_text("Not live")


def test_a_stopped_and_a_restarted_server_are_told(home: Path, chromium: Browser, free_port: int) -> None:
    """The page stayed "Live" in green for ever."""
    ward = WardUnderTest(home)
    gone = ward.admit("p-0", bed="Bed 1")
    ward.measure(gone, STABLE)
    address = f"http://127.0.0.1:{free_port}"
    with visiting(chromium, address) as visit:
        visit.forgive = True  # a browser complains of a server that is not there
        live = visit.page.locator("#line")
        with _serving(home, free_port) as process:
            visit.sign_in("clinician")
            expect(live).to_have_text("Live")
            expect(visit.page.get_by_role("alert")).to_be_hidden()
            os.kill(process.pid, signal.SIGSTOP)
            _not_live(visit)
            os.kill(process.pid, signal.SIGCONT)
            expect(live).to_have_text("Live", timeout=40_000)
            expect(visit.page.get_by_role("alert")).to_be_hidden()
        _not_live(visit)
        ward.store.drop(patients=[gone])
        new = ward.admit("p-1", bed="Bed 2")
        ward.measure(new, STABLE)
        with _serving(home, free_port):
            until(lambda: httpx.get(f"{address}/healthz").status_code == 200)
            sign_in = visit.page.get_by_role("alert").get_by_role("link", name="Sign in")
            expect(sign_in).to_be_visible(timeout=60_000)
            with visit.context.new_page() as other:  # somebody signs in, in another window of the same browser
                other.goto("/sign-in")
                other.get_by_role("button", name="Clinician (development)").click()
                expect(other.locator(f'tr[data-patient="{new}"]')).to_be_visible()
            expect(live).to_have_text("Live", timeout=40_000)
            expect(visit.page.locator(f'tr[data-patient="{new}"]')).to_be_visible()
            expect(visit.page.locator(f'tr[data-patient="{gone}"]')).to_have_count(0)
