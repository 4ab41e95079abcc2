"""Records in the spans table which associations and spans the attributor has processed, and finds spans to process."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

from vitalake import clock
from vitalake.lake.commits.adding import is_added
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.span import PartId, Span, from_row
from vitalake.lake.commits.transactions import attribution_apps
from vitalake.lake.tables.table import Table

MARGIN = timedelta(hours=1)
"""How much later than its own time a decided span can become visible; a restart looks at such spans again."""

KEPT_DAYS = 2
"""How many days back spans are looked for; only a worker that was paused for days decides an older one."""

FREQUENT_LOOKS_SECONDS = 60.0
"""How long after a change of the associations every pass looks at new spans. Streams learn of the change within
seconds, so later spans are attributed by the new version."""

RARE_LOOK_SECONDS = 15.0
"""How often new spans are looked at otherwise, in case a worker was suspended meanwhile. For each look delta-rs
starts threads that then wait ten seconds for more: at one look a second there were a hundred."""

RECORD_SECONDS = 60.0
"""How often it is recorded that nothing had to be done."""


class SpanWatch:
    """Looks for spans that were attributed by an older version of the associations; used by one thread at a time."""

    def __init__(self, lake: Lake) -> None:
        """Prepare.

        Args:
            lake: of the dataset.
        """
        self._lake = lake
        self._apps = attribution_apps(lake.dataset.name)
        self._paths: set[str] | None = None
        self._seen: dict[str, set[str]] = defaultdict(set)
        self._newest: dict[PartId, Span] = {}
        lake.spans.table.refresh()
        self.associations = self._recorded(0)
        self._begun_us = clock.now_us()
        self._version, self._changed, self._looked = 0, -math.inf, -math.inf

    def _recorded(self, which: int) -> int:
        return self._lake.spans.table.transaction(self._apps[which]) or 0

    def late(self, version: int) -> int | None:
        """Return the oldest version of the associations by which new spans were attributed; None: all by the current.

        Args:
            version: the current version of the associations.
        """
        now = time.monotonic()
        if version != self._version:
            self._version, self._changed = version, now
        if now - self._changed > FREQUENT_LOOKS_SECONDS and now - self._looked < RARE_LOOK_SECONDS:
            return None
        self._looked, self._begun_us = now, clock.now_us()
        older = [span.associations for span in self._new_spans() if 0 < span.associations < version]
        return min(older, default=None)

    def _new_spans(self) -> Iterator[Span]:
        table = self._lake.spans.table
        table.refresh()
        files = table.snapshot().files
        since = str((clock.now() - timedelta(days=KEPT_DAYS)).date())
        if self._paths is None and (looked := self._recorded(1)):  # without a record all rows are looked at anyway
            since = min(since, str((datetime.fromtimestamp(looked / 1e6, tz=UTC) - MARGIN).date()))
        for path in files.keys() - (self._paths or set()):
            if (files[path].day or "") >= since:
                yield from self._spans(table, path, self._seen[str(files[path].day)])
        self._paths = set(files)
        for day in [day for day in self._seen if day < since]:
            del self._seen[day]

    def _spans(self, table: Table, path: str, seen: set[str]) -> Iterator[Span]:
        for row in table.storage.read_parquet(path, columns=table.dataset.schema.names).to_pylist():
            if row["dataset"] != self._lake.dataset.name or row["span_id"] in seen:
                continue
            seen.add(row["span_id"])
            span = from_row(row)
            if span.associations:
                for part in span.parts:
                    newest = self._newest.get(part.id)
                    if newest is None or newest.decided_us <= span.decided_us:
                        self._newest[part.id] = span
                yield span

    def settle(self) -> None:
        """Add whatever was decided and not added yet, so that the rows to look at are in their tables.

        Raises:
            ServiceUnavailable: storage cannot be reached.
        """
        tables: dict[str, Table] = {}
        for part, span in self._newest.items():
            for name in sorted({file.table for file in span.files if "/" in file.table}):
                if name not in tables:
                    tables[name] = self._lake.table(name)
                    tables[name].refresh()
                if not is_added(span, tables[name]):
                    self._lake.roll_forward([part], since_us=span.decided_us)
                    break

    def record(self, version: int) -> None:
        """Record that all rows are attributed by a version, if it is new or the last record is old.

        Several attributors can record this: the numbers only grow.
        """
        fresh = self._begun_us - self._recorded(1) < RECORD_SECONDS * 1e6
        if version == self.associations and fresh:
            return
        targets = {self._apps[0]: version, self._apps[1]: self._begun_us}
        table = self._lake.spans.table

        def ready() -> Literal["commit", "done"]:
            recorded = (table.transaction(app) or 0 for app in self._apps)
            return "commit" if any(old < new for old, new in zip(recorded, targets.values(), strict=True)) else "done"

        table.commit_when(ready, transactions=targets)
        self.associations = version
