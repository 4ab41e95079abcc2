"""The served end of the way: scores by request, the board in a real browser, and how soon the demo shows somebody."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np

from governance.access import open_issuer
from pipelines.online_store.facts import Admission, Person
from pipelines.online_store.opening import open_online_store
from pipelines.online_store.store import OnlineStore
from pipelines.online_store.values import ROW, Values
from pipelines.simulator.broker import EmbeddedBroker
from tests.journeys.browser import browser_page
from vitalake import clock
from vitalake.clinical.records import code_number
from vitalake.keys import load_keys
from vitalake.settings import load_settings

if TYPE_CHECKING:
    from tests.benchmarks.way import Bench

PATIENTS = 50
REQUESTS_A_SECOND = 100
SECONDS = 20
CODES = ("8867-4", "9279-1", "2708-6", "8480-6", "8462-4", "8310-5")
NORMAL = (80.0, 16.0, 97.0, 120.0, 70.0, 36.9)
MESSAGES_A_SECOND = 1_000
BOARD_SECONDS = 30

_WATCH = """() => {
  window.seen = [];
  const note = (row) => {
    const newest = Number(row.dataset.newestUs);
    if (newest && newest !== row.noted) {
      row.noted = newest;
      requestAnimationFrame(() => window.seen.push(Date.now() - newest / 1000));
    }
  };
  new MutationObserver((changes) => {
    document.querySelectorAll("[data-patient][data-newest-us]").forEach(note);
  }).observe(document.body, {childList: true, subtree: true, attributes: true});
}"""


def token(home: Path, user: str = "clinician") -> str:
    """Return a development token."""
    settings = load_settings(home)
    return open_issuer(settings, load_keys(settings.path(settings.keys))).sign_in(user)


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Run ``vitalake serve``; give its address."""
    command = [sys.executable, "-m", "vitalake", "serve", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        yield "http://" + line.partition("http://")[2].split()[0].rstrip("/")
    finally:
        process.terminate()
        process.wait(20)


def scores(bench: Bench) -> None:
    """One score with reasons, of a patient with a day of vital signs and a value that has just come."""
    home = bench.home("scores")
    for command in (["history", "load", "mimic-demo"], ["train", "mortality"]):
        subprocess.run(
            [sys.executable, "-m", "vitalake", *command, "--home", str(home), "--json"], check=True, capture_output=True
        )
    settings = load_settings(home)
    store = open_online_store(settings, load_keys(settings.path(settings.keys)))
    patients = pseudonyms(PATIENTS)
    positions = seed(store, patients)
    with serving(home) as address:
        client = http.client.HTTPConnection(address.removeprefix("http://"))
        headers = {"Authorization": f"Bearer {token(home)}", "Content-Type": "application/json"}
        took: list[float] = []
        scored = 0
        begun = time.perf_counter()
        for i in range(REQUESTS_A_SECOND * SECONDS):
            patient = patients[i % PATIENTS]
            positions = append(store, patient, positions)
            wait = begun + i / REQUESTS_A_SECOND - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            sent = time.perf_counter()
            client.request("POST", "/v1/score", body=msgspec.json.encode({"patient": patient}), headers=headers)
            response = client.getresponse()
            body = response.read()
            took.append((time.perf_counter() - sent) * 1000)
            assert response.status == http.client.OK, body
            scored += msgspec.json.decode(body).get("probability") is not None
    took.sort()
    figure = (
        f"p50 {statistics.median(took):.1f} ms, p99 {took[int(len(took) * 0.99)]:.1f} ms, {scored:,} with probability"
    )
    bench.say(f"one score with reasons, {REQUESTS_A_SECOND} requests/s, all new", figure, "p99 15 ms")


_BASE32 = str.maketrans("0189", "abcd")


def pseudonyms(count: int) -> list[str]:
    """Return pseudonyms of made-up patients."""
    return [f"v1.{f'{i:032d}'.translate(_BASE32)}" for i in range(count)]


def seed(store: OnlineStore, patients: list[str]) -> int:
    """Write a day of minute vital signs of each; return the next position."""
    now, position = clock.now_us(), 0
    for patient in patients:
        store.put_facts([(patient, "v1.e", 1, Admission(now - 90_000_000_000, None, 67))])
        store.put_facts([(patient, "", 1, Person("female"))])
        for begin in range(0, 1440, 240):
            at = now - 86_400_000_000 + np.repeat(np.arange(begin, begin + 240), len(CODES)) * 60_000_000
            position = _take(store, patient, position, np.tile(np.arange(len(CODES)), 240), at)
    return position


def append(store: OnlineStore, patient: str, position: int) -> int:
    """Write one value of now; return the next position."""
    return _take(store, patient, position, np.array([position % len(CODES)]), np.array([clock.now_us()]))


def _take(store: OnlineStore, patient: str, position: int, which: Any, at: Any) -> int:
    rows = np.zeros(len(which), ROW)
    rows["code"] = np.array([code_number(code) for code in CODES], np.uint32)[which]
    rows["value"] = np.array(NORMAL)[which] + np.random.default_rng(position).normal(0, 1, len(which))
    rows["effective_us"] = rows["available_us"] = at
    place = np.arange(position, position + len(which))
    rows["id"] = place + 1
    nothing = np.zeros(len(which), np.int32)
    store.take(Values(rows, nothing, [patient], place, nothing, ["b/0"]), writer="b", ends={"b/0": int(place[-1]) + 1})
    return position + len(which)


def board(bench: Bench) -> None:
    """A device's timestamp until its row is painted in Chromium, at a thousand messages a second."""
    home = bench.home("board")
    with EmbeddedBroker() as broker:
        environment = os.environ | {
            "VITALAKE_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "VITALAKE_OBSERVABILITY__PORT": "0",
        }
        simulate = ["simulate", "--source", "synthetic", "--rate", str(MESSAGES_A_SECOND), "--faults", "0"]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "vitalake", *command, "--home", str(home)],
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for command in (simulate, ["stream", "--no-view"])
        ]  # fmt: skip
        try:
            with serving(home) as address, browser_page(address, user="clinician") as page:
                page.goto(f"{address}/board")
                page.locator("[data-patient]").first.wait_for(timeout=60_000)
                page.wait_for_timeout(8_000)  # the start's backlog
                page.evaluate(_WATCH)
                page.wait_for_timeout(BOARD_SECONDS * 1000)
                seen = sorted(page.evaluate("() => window.seen"))
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGINT)
            for process in started:
                process.wait(30)
    assert len(seen) > 100
    p50, p99 = (seen[int(len(seen) * q)] for q in (0.5, 0.99))
    figure = f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms, {len(seen):,} changes"
    bench.say(f"device to board in Chromium, {MESSAGES_A_SECOND:,} messages/s", figure, "p99 1,500 ms")


def demo_start(bench: Bench) -> None:
    """``make demo`` to the first ranked patient, set-up done."""
    home = bench.folder / "demo"
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "vitalake", "demo", "--home", str(home), "--json"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        lines: queue.Queue[str] = queue.Queue()
        assert process.stderr is not None
        threading.Thread(target=_follow, args=(process.stderr, lines), daemon=True).start()
        address = ""
        while "Ward board: http://" not in address:
            address = lines.get(timeout=120)
        client = http.client.HTTPConnection(address.partition("http://")[2].split()[0], timeout=120)
        client.request("GET", "/board/events", headers={"Authorization": f"Bearer {token(home)}"})
        for line in client.getresponse():
            event = msgspec.json.decode(line[6:]) if line.startswith(b"data: ") else {}
            if (
                event.get("rows") and event["speed"] > 0
            ):  # before the devices speak there are the warehouse's values only
                break
        seconds = time.monotonic() - begun
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    bench.say("vitalake demo to the first ranked patient", f"{seconds:.1f} s", "45 s")


def _follow(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
