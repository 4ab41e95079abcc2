"""Verifies the lake: files, footers and schema against the logs, and the spans against the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vitalake.lake.commits.adding import is_added
from vitalake.lake.commits.format import FORMAT, NAME, UPGRADE
from vitalake.lake.commits.lake import Lake, published_name, restricted_name
from vitalake.lake.commits.ledger import AGAIN, Ledger
from vitalake.lake.commits.span import SEEN, Span
from vitalake.lake.commits.transactions import rows_app
from vitalake.lake.maintenance.rewrite import is_locked
from vitalake.lake.tables.digests import Damaged, Record, digest_in, read_digest, recorded
from vitalake.lake.tables.log import examine
from vitalake.lake.tables.log_files import LOG, has_lost_entries
from vitalake.lake.tables.schema import fits
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

Kind = Literal[
    "file-missing", "file-unreadable", "size-differs", "digest-differs", "no-digest", "log-damaged",
    "not-made-again",
    "rows-differ", "schema-differs",
    "not-added", "staged-file-missing", "span-contradicts-files", "rows-contradict-spans",
    "spans-unreadable", "positions-behind", "positions-missing", "ledger-contradicts",
    "table-missing", "database-damaged",
    "held", "older-format", "another-home", "put-back", "erasures-damaged",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that the verification found.

    Attributes:
        kind: the kind of problem, from a closed list.
        where: table and file, or the span.
        detail: numbers; never a value of a patient.
        severity: a note is normal while a lane runs (a span is decided and will be added), during a republish (its
            tables are locked and not compacted until it has ended, was resumed or was given up), and for a lake of an
            earlier release that was not upgraded yet.
    """

    kind: Kind
    where: str
    detail: str
    severity: Literal["error", "note"] = "error"


def verify(lake: Lake, *, content: bool = True, progress: Callable[[str], None] | None = None) -> list[Finding]:
    """Return everything that is wrong with the lake; an empty list means that it is consistent.

    Checks that every file of each snapshot exists with the digest, size and rows that its action says, and with the
    dataset's columns; that every decided span is added, or has its staged files and can be added (a note); that the
    files of a span hold as many rows as it counts; and that the tables hold the rows that spans added. There is one
    dead letter for each message, while the ledger counts the *rows* of a rejected message. So the quarantine is
    compared with the rows of the spans' own staged files, and those with the counts as bounds:
    undecodable ≤ dead letters ≤ undecodable + rejected.

    Args:
        lake: just opened; nothing else may use the object during the call.
        content: whether to read every file for its digest; if not, only existence, size and footer are checked.
        progress: called with each table and day before it is read.
    """
    report = progress or (lambda _: None)
    findings: list[Finding] = []
    snapshots = {}
    tables: dict[str, Table] = {}
    if lake.format.format < FORMAT:
        detail = f"format {lake.format.format}, this release's is {FORMAT}: run '{UPGRADE}'"
        findings.append(Finding("older-format", NAME, detail, severity="note"))
    here = lake.here()
    for name, form in here.items():
        report(name)
        problems = examine(lake.storage.child(name))
        findings += [Finding("log-damaged", f"{name}/{LOG}/{problem.name}", problem.how) for problem in problems]
        if name.startswith("published/") and form.restricted and has_lost_entries(lake.storage.child(name)):
            detail = "its log has lost entries; when no rebuild is under way, run 'vitalake lake repair'"
            findings.append(Finding("not-made-again", name, detail))
        try:
            table = tables[name] = Table(form, lake.storage, zone=name.rpartition("/")[0])
        except Damaged:
            continue
        snapshots[name] = table.snapshot()
        try:
            findings += list(check_files(table, snapshots[name], content=content))
        except Damaged as error:  # the record of digests is damaged: nothing can be compared with it
            findings.append(Finding("file-unreadable", error.where, f"{error.what}. {error.remedy}"))
        if is_locked(table):
            findings.append(Finding("held", name, "a republish is under way, or was killed", severity="note"))
    if tables.pop("spans", None) is None:
        return findings
    findings += list(_check_spans(lake, list(tables.values()), snapshots, set(here), report))
    return findings


def check_files(table: Table, snapshot: Snapshot, *, content: bool = True) -> Iterator[Finding]:
    """Yield what is wrong with the files of a snapshot; with ``content`` each file is read and its digest checked."""
    records, undigested = recorded(table.storage), 0
    problems: list[tuple[StagedFile, Finding]] = []
    for file in snapshot.files.values():
        where = f"{table.name}/{file.path}"
        info = table.storage.fs.get_file_info(f"{table.storage.root}/{file.path}")
        if info.size is None:
            problems.append((file, Finding("file-missing", where, f"{file.rows} rows are lost")))
            continue
        if info.size != file.size:
            problems.append((file, Finding("size-differs", where, f"{info.size} bytes; the log says {file.size}")))
        expected = digest_in(file.path) or records.get(file.path, Record()).digest
        if not expected:
            undigested += 1
        try:
            if content and expected and read_digest(table.storage, file.path) != expected:
                detail = f"{file.rows} rows of {file.day or 'no day'} cannot be trusted"
                problems.append((file, Finding("digest-differs", where, detail)))
                continue
            with pq.ParquetFile(table.storage.fs.open_input_file(f"{table.storage.root}/{file.path}")) as reader:
                rows, schema = reader.metadata.num_rows, reader.schema_arrow
        except (OSError, pa.ArrowException, Damaged):
            detail = f"{file.rows} rows of {file.day or 'no day'} cannot be read"
            problems.append((file, Finding("file-unreadable", where, detail)))
            continue
        if rows != file.rows:
            problems.append((file, Finding("rows-differ", where, f"{rows} rows; the log says {file.rows}")))
        if not fits(table.state, schema):
            problems.append((file, Finding("schema-differs", where, "columns are not the dataset's")))
    # A file that was replaced during the check is not part of the newest version, so its problems do not count.
    newest = table.newest().snapshot().files if problems else {}
    yield from (finding for file, finding in problems if file.path in newest)
    if undigested:
        yield Finding(
            "no-digest",
            table.name,
            f"{undigested} files of an earlier release; the scrub will record their digests",
            "note",
        )


def _check_spans(
    lake: Lake, tables: list[Table], snapshots: dict[str, Snapshot], here: set[str], report: Callable[[str], None]
) -> Iterator[Finding]:
    # The spans are read after the tables' snapshots, so everything in the snapshots was decided before.
    known = here | {SEEN}  # with tables whose log cannot be read: those are reported already
    # Rewrites that drop or add rows record the difference in a transaction: it counts as added here.
    added, complete = {table.name: table.transaction(rows_app(table.name)) or 0 for table in tables}, True
    ends: dict[str, str] = {}
    fences: dict[str, int] = {}
    ledger, lost = Ledger(), dict[str, int]()
    for day in reversed(lake.spans.days()):
        report(f"spans of {day}")
        try:
            spans = lake.spans.spans_of(day)
        except (Damaged, FileNotFoundError):
            yield Finding(
                "spans-unreadable", f"spans of {day}", "what was decided that day is not compared with the tables"
            )
            complete = False
            continue
        for span in spans:
            ends |= {part.id.app_id(span.dataset): str(part.id) for part in span.parts}
            fences[span.dataset] = max(fences.get(span.dataset, 0), span.fence)
            ledger.add(span)
            for file in span.files:
                if file.table not in known:
                    lost[file.table] = lost.get(file.table, 0) + file.rows
            for table in tables:
                yield from _check_counts(span, table)
                if is_added(span, table):
                    added[table.name] += sum(file.rows for file in span.files_of(table.name))
                else:
                    yield from _check_pending(span, table)
    for dataset, fence in sorted(fences.items()):
        if fence > lake.spans.fence(dataset):
            yield Finding("positions-behind", f"spans, fence of {dataset}", "spans are ahead: an entry is lost")
    for name, rows in sorted(lost.items()):
        yield Finding("table-missing", name, f"{rows:,} rows were added to it by spans, and its folder is gone")
    for problem in ledger.problems if complete else ():
        yield Finding("positions-missing" if "gap" in problem else "ledger-contradicts", "spans", problem)
    for app, end in sorted(ledger.ends.items()) if complete else ():
        position = lake.spans.table.transaction(app) or 0
        if position > end:
            detail = f"positions have a gap: {ends[app]}@{end}-{position}"
            yield Finding("positions-missing", "spans", detail)
    for app, partition in sorted(ends.items()):
        for table in tables:
            if (table.transaction(app) or 0) > (lake.spans.table.transaction(app) or 0):
                yield Finding("positions-behind", f"spans, {partition}", f"{table.name} is ahead: an entry is lost")
    for table in tables if complete else ():
        rows = sum(file.rows for file in snapshots[table.name].files.values())
        if rows != added[table.name]:
            detail = f"{rows} rows; spans and rewrites say {added[table.name]}"
            yield Finding("rows-contradict-spans", table.name, detail)


def _check_counts(span: Span, table: Table) -> Iterator[Finding]:
    """Yield a finding if a span's files for a table hold another number of rows than the span counts."""
    rows = sum(file.rows for file in span.files_of(table.name))
    counts = [part.counts for part in span.parts]
    if table.dataset.name == "dead_letter" and span.kind in AGAIN:
        low = high = 0  # its messages are dead letters already
    elif table.dataset.name == "dead_letter":
        low = sum(c.undecodable + (c.rejected > 0) for c in counts)
        high = sum(c.undecodable + c.rejected for c in counts)
    elif table.name == published_name(span.dataset):
        low = high = sum(c.published for c in counts)
    elif table.name == restricted_name(span.dataset) and rows:
        # A rule's filter leaves rows out of the published table only; rows of erased patients are left out of both.
        low, high = sum(c.published for c in counts), sum(c.published + c.filtered for c in counts)
    else:
        return
    if not low <= rows <= high:
        where = f"{table.name}, span {span.span_id}"
        yield Finding("span-contradicts-files", where, f"{rows} rows in its files, {low} to {high} in its counts")


def _check_pending(span: Span, table: Table) -> Iterator[Finding]:
    """Yield that a span is not added yet, and which of its staged files are missing."""
    files = span.files_of(table.name)
    if files:
        rows = sum(file.rows for file in files)
        yield Finding("not-added", f"{table.name}, span {span.span_id}", f"{rows} rows decided", severity="note")
    missing = [file for file in files if not table.storage.exists(file.path)]
    if missing and not is_added(span, table.newest()):  # else it was added and rewritten during the check
        for file in missing:
            yield Finding("staged-file-missing", f"{table.name}/{file.path}", f"{file.rows} rows are lost")
