"""Writes audit records of many requests with one disk sync; records that come during a sync wait for the next one.

A sync takes milliseconds. With one sync for each record, sixty boards that showed a new patient delayed a score for
seconds.
"""

from __future__ import annotations

import asyncio

from governance.audit import AuditEvent, BatchAuditSink
from models.serving.threads import OneThread

MOST_EVENTS = 500
"""Events written with one sync; about ten milliseconds of processor time."""

Waiting = tuple[AuditEvent, "asyncio.Future[None]"]


class Recorder:
    """Records events, each durably before its call returns; used by one event loop."""

    def __init__(self, sink: BatchAuditSink, thread: OneThread) -> None:
        """Prepare.

        Args:
            sink: writes the events.
            thread: waits for the disk.
        """
        self._sink, self._thread = sink, thread
        self._waiting: list[Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, event: AuditEvent) -> None:
        """Record an event, and return when it is durable.

        Raises:
            VitaLakeError: it cannot be recorded; then the request must not be answered.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST_EVENTS], self._waiting[MOST_EVENTS:]
                await self._write_batch(batch)
        finally:
            self._writing = None

    async def _write_batch(self, batch: list[Waiting]) -> None:
        failed: BaseException | None = None
        try:
            await self._thread(self._sink.record_all, [event for event, _ in batch])
        except BaseException as error:
            failed = error
        for _, done in batch:
            if done.cancelled():  # the client has left; its access is recorded nevertheless
                continue
            if failed is None:
                done.set_result(None)
            else:
                done.set_exception(failed if isinstance(failed, Exception) else asyncio.CancelledError())
        if failed is not None and not isinstance(failed, Exception):
            raise failed
