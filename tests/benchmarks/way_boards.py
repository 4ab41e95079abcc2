"""Many open boards beside many scores: what a board costs a score, and how soon a change is on every board.

The boards are connections of one process that read what a browser would read, without drawing it; Chromium draws in
the part ``board``. Requests are sent by the clock, whether or not the one before was answered, and their time counts
from when they were due: a server that falls behind shows.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec

from pipelines.online_store.opening import open_online_store
from pipelines.online_store.store import OnlineStore
from tests.benchmarks.way_serving import PATIENTS, append, pseudonyms, seed, serving, token
from vitalake import clock
from vitalake.keys import load_keys
from vitalake.settings import load_settings

if TYPE_CHECKING:
    from tests.benchmarks.way import Bench

BOARDS = (0, 60, 500)
SCORES_A_SECOND = 100
SECONDS = 20.0
OPENING_SECONDS = 60.0
LISTENED = 20
"""Every so manieth board's events are read; of the others only the bytes are counted, as the machine has two cores."""

SENDERS = 64


@dataclass
class Boards:
    """Open boards.

    Attributes:
        late: milliseconds from a value's moment to the board, of those that are listened to.
        read: bytes of all.
        open: how many have had their first event.
        lost: connections that ended.
    """

    address: str
    bearer: str
    count: int
    late: list[float] = field(default_factory=list)
    read: int = 0
    open: int = 0
    lost: int = 0
    measuring: bool = False
    over: bool = False

    async def _board(self, number: int) -> None:
        host, _, port = self.address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 22)
        head = f"GET /board/events HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {self.bearer}\r\n"
        writer.write(f"{head}accept: text/event-stream\r\naccept-encoding: gzip\r\n\r\n".encode())
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.open += 1
            if number % LISTENED:
                while data := await reader.read(1 << 20):
                    self.read += len(data)
            else:
                await self._listen(reader)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.lost += not self.over
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Read chunks as HTTP frames them, and what is compressed in them."""
        unpacker, rest = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
        while size := int(await reader.readline() or b"0", 16):
            self.read += size
            chunk = await reader.readexactly(size + 2)
            *lines, rest = (rest + unpacker.decompress(chunk[:-2])).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        if not self.measuring or not line.startswith(b"data: "):
            return
        event = msgspec.json.decode(line[6:])
        now = clock.now_us()
        self.late += [(now - row["newest_us"]) / 1000 for row in event.get("rows", ())]

    async def run(self) -> None:
        """Keep them open until it is over."""
        boards = [asyncio.create_task(self._board(number)) for number in range(self.count)]
        while not self.over:
            await asyncio.sleep(0.05)
        for board in boards:
            board.cancel()
        await asyncio.gather(*boards, return_exceptions=True)


def _score(client: httpx.Client, patient: str, due: float, took: list[float], failed: list[int]) -> None:
    try:
        answer = client.post("/v1/score", json={"patient": patient})
        status = answer.status_code
    except httpx.HTTPError:
        status = 0
    if status == httpx.codes.OK:
        took.append((time.perf_counter() - due) * 1000)
    else:
        failed.append(status)


def _scores(
    address: str, bearer: str, store: OnlineStore, patients: list[str], position: int
) -> tuple[list[float], int, int]:
    """Ask for scores by the clock, each of a value that has just come; return their times, failures and the place."""
    took: list[float] = []
    failed: list[int] = []
    limits = httpx.Limits(max_connections=SENDERS)
    headers = {"authorization": f"Bearer {bearer}"}
    with (
        httpx.Client(base_url=address, headers=headers, limits=limits, timeout=120) as client,
        ThreadPoolExecutor(SENDERS) as senders,
    ):
        begun = time.perf_counter()
        for i in range(int(SCORES_A_SECOND * SECONDS)):
            due = begun + i / SCORES_A_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            position = append(store, patients[i % len(patients)], position)
            senders.submit(_score, client, patients[i % len(patients)], due, took, failed)
    return sorted(took), len(failed), position


def boards(bench: Bench) -> None:
    """No board, sixty and five hundred, beside a hundred scores a second."""
    home = bench.home("boards")
    settings = load_settings(home)
    store = open_online_store(settings, load_keys(settings.path(settings.keys)))
    patients = pseudonyms(PATIENTS)
    position = seed(store, patients)
    alone = 0.0
    for count in BOARDS:
        with serving(home) as address:
            p99, position = _beside(bench, count, address, home, store, patients, position, alone)
            alone = alone or p99


def _beside(
    bench: Bench,
    count: int,
    address: str,
    home: Path,
    store: OnlineStore,
    patients: list[str],
    position: int,
    alone: float,
) -> tuple[float, int]:
    bearer = token(home)
    opened = Boards(address, bearer, count)
    thread = threading.Thread(target=lambda: asyncio.run(opened.run()))
    thread.start()
    try:
        begun = time.monotonic()
        while opened.open < count and time.monotonic() - begun < OPENING_SECONDS:
            time.sleep(0.02)
        opening, there = time.monotonic() - begun, opened.open
        opened.measuring = True
        took, failed, position = _scores(address, bearer, store, patients, position)
    finally:
        opened.over = True
        thread.join()
    p50, p99 = (took[int(len(took) * q)] if took else float("inf") for q in (0.5, 0.99))
    ratio = f", {p99 / alone:.1f} × without" if alone else ""
    bench.say(
        f"score beside {count} boards, {SCORES_A_SECOND}/s",
        f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms{ratio}, {failed} failed",
        "p99 250 ms, none failed",
    )
    if count:
        late = sorted(opened.late)
        p50, p99 = (late[int(len(late) * q)] if late else float("inf") for q in (0.5, 0.99))
        bench.say(
            f"  value to each of {there} boards",
            f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms, {len(late):,} rows, {opened.read / SECONDS / 1e6:,.0f} MB/s, "
            f"opened in {opening:.1f} s, {opened.lost} lost",
            "p99 1,500 ms, none lost",
        )
    return p99, position


if __name__ == "__main__":
    sys.exit("Run it by 'python -m tests.benchmarks.way --only boards'.")
