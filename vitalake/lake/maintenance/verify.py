"""Whether the lake is what its logs say: files, footers, schema, and the spans against the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vitalake.lake.commits.format import FORMAT, NAME, UPGRADE
from vitalake.lake.commits.lake import Lake, published_name, restricted_name
from vitalake.lake.commits.ledger import AGAIN, Ledger
from vitalake.lake.commits.spans import SEEN, Span, is_added
from vitalake.lake.maintenance.rewrite import is_held, rows_app
from vitalake.lake.tables.digests import Damaged, Record, digest_in, read_digest, recorded
from vitalake.lake.tables.log import LOG, examine
from vitalake.lake.tables.schema import fits
from vitalake.lake.tables.table import Snapshot, StagedFile, Table

Kind = Literal[
    "file-missing", "file-unreadable", "size-differs", "digest-differs", "no-digest", "log-damaged",
    "rows-differ", "schema-differs",
    "not-added", "staged-file-missing", "span-contradicts-files", "rows-contradict-spans",
    "spans-unreadable", "positions-behind", "positions-missing", "ledger-contradicts",
    "table-missing", "database-damaged",
    "held", "older-format", "another-home", "put-back", "erasures-damaged",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        kind: what, from the closed list.
        where: table and file, or the span.
        detail: numbers; never a value.
        severity: a note is normal while a lane runs (a span is decided and about to be added), or a republish (its
            tables are held: not compacted until it has ended, or is gone on with, or given up), or of a lake that an
            earlier release has made and that was not upgraded yet.
    """

    kind: Kind
    where: str
    detail: str
    severity: Literal["error", "note"] = "error"


def verify(lake: Lake, *, content: bool = True, progress: Callable[[str], None] | None = None) -> list[Finding]:
    """Return everything that is wrong with the lake; an empty list means that its parts agree.

    Every file of each snapshot is there with the digest, size and rows its action says and the dataset's columns; every
    decided span is added, or will be (a note) and has its staged files; files of a span hold the rows it counts; and
    the tables hold what the spans added to them. Dead letters are one a message, while the ledger counts the *rows*
    of a rejected message, so the quarantine is held against the rows of the spans' own staged files, and those
    against the counts as bounds: undecodable ≤ dead letters ≤ undecodable + rejected.

    Args:
        lake: opened afresh; not used by anything else meanwhile.
        content: whether to read every file for its digest; else only whether it is there, with its size and footer.
        progress: told each table and day before it is read.
    """
    tell = progress or (lambda _: None)
    found: list[Finding] = []
    snapshots = {}
    tables: dict[str, Table] = {}
    if lake.format.format < FORMAT:
        said = f"format {lake.format.format}, this release's is {FORMAT}: run '{UPGRADE}'"
        found.append(Finding("older-format", NAME, said, severity="note"))
    here = lake.here()
    for name, form in here.items():
        tell(name)
        problems = examine(lake.storage.child(name))
        found += [Finding("log-damaged", f"{name}/{LOG}/{problem.name}", problem.how) for problem in problems]
        try:
            table = tables[name] = Table(form, lake.storage, zone=name.rpartition("/")[0])
        except Damaged:
            continue
        snapshots[name] = table.snapshot()
        try:
            found += list(check_files(table, snapshots[name], content=content))
        except Damaged as error:  # the record of digests: nothing can be held against it
            found.append(Finding("file-unreadable", error.where, f"{error.what}. {error.remedy}"))
        if is_held(table):
            found.append(Finding("held", name, "a republish is under way, or was killed", severity="note"))
    if tables.pop("spans", None) is None:
        return found
    found += list(_check_spans(lake, list(tables.values()), snapshots, set(here), tell))
    return found


def check_files(table: Table, snapshot: Snapshot, *, content: bool = True) -> Iterator[Finding]:
    """Yield what is wrong with the files of a snapshot; with ``content`` each is read and its digest taken."""
    records, undigested = recorded(table.storage), 0
    problems: list[tuple[StagedFile, Finding]] = []
    for file in snapshot.files.values():
        where = f"{table.name}/{file.path}"
        info = table.storage.fs.get_file_info(f"{table.storage.root}/{file.path}")
        if info.size is None:
            problems.append((file, Finding("file-missing", where, f"{file.rows} rows are lost")))
            continue
        if info.size != file.size:
            problems.append((file, Finding("size-differs", where, f"{info.size} bytes, the log says {file.size}")))
        expected = digest_in(file.path) or records.get(file.path, Record()).digest
        if not expected:
            undigested += 1
        try:
            if content and expected and read_digest(table.storage, file.path) != expected:
                said = f"{file.rows} rows of {file.day or 'no day'} cannot be trusted"
                problems.append((file, Finding("digest-differs", where, said)))
                continue
            with pq.ParquetFile(table.storage.fs.open_input_file(f"{table.storage.root}/{file.path}")) as reader:
                rows, schema = reader.metadata.num_rows, reader.schema_arrow
        except (OSError, pa.ArrowException, Damaged):
            said = f"{file.rows} rows of {file.day or 'no day'} cannot be read"
            problems.append((file, Finding("file-unreadable", where, said)))
            continue
        if rows != file.rows:
            problems.append((file, Finding("rows-differ", where, f"{rows} rows, the log says {file.rows}")))
        if not fits(table.state, schema):
            problems.append((file, Finding("schema-differs", where, "columns are not the dataset's")))
    # What was replaced while we read is of an older version by now, and nobody reads it any more.
    there = table.newest().snapshot().files if problems else {}
    yield from (finding for file, finding in problems if file.path in there)
    if undigested:
        yield Finding("no-digest", table.name, f"{undigested} files of before, to be recorded by the scrub", "note")


def _check_spans(
    lake: Lake, tables: list[Table], snapshots: dict[str, Snapshot], here: set[str], tell: Callable[[str], None]
) -> Iterator[Finding]:
    # The spans are read after the tables' snapshots: whatever those hold was decided before.
    known = here | {SEEN}  # also those whose log cannot be read, which is said of them already
    # Rewrites that drop or add rows say in a transaction of their own commit by how many: they count as added here.
    added, whole = {table.name: table.transaction(rows_app(table)) or 0 for table in tables}, True
    ends: dict[str, str] = {}
    ledger, lost = Ledger(), dict[str, int]()
    for day in reversed(lake.spans.days()):
        tell(f"spans of {day}")
        try:
            spans = lake.spans.spans_of(day)
        except (Damaged, FileNotFoundError):
            yield Finding("spans-unreadable", f"spans of {day}", "what was decided that day is not held against tables")
            whole = False
            continue
        for span in spans:
            ends |= {part.id.app_id(span.dataset): str(part.id) for part in span.parts}
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
    for name, rows in sorted(lost.items()):
        yield Finding("table-missing", name, f"{rows:,} rows were added to it by spans, and its folder is gone")
    for problem in ledger.problems if whole else ():
        yield Finding("positions-missing" if "gap" in problem else "ledger-contradicts", "spans", problem)
    for app, end in sorted(ledger.ends.items()) if whole else ():
        position = lake.spans.table.transaction(app) or 0
        if position > end:
            detail = f"positions have a gap: {ends[app]}@{end}-{position}"
            yield Finding("positions-missing", "spans", detail)
    for app, said in sorted(ends.items()):
        for table in tables:
            if (table.transaction(app) or 0) > (lake.spans.table.transaction(app) or 0):
                yield Finding("positions-behind", f"spans, {said}", f"{table.name} is ahead: an entry is lost")
    for table in tables if whole else ():
        held = sum(file.rows for file in snapshots[table.name].files.values())
        if held != added[table.name]:
            said = f"{held} rows, spans and rewrites say {added[table.name]}"
            yield Finding("rows-contradict-spans", table.name, said)


def _check_counts(span: Span, table: Table) -> Iterator[Finding]:
    """Yield whether a span's files for a table hold another number of rows than it counts."""
    rows = sum(file.rows for file in span.files_of(table.name))
    counts = [part.counts for part in span.parts]
    if table.dataset.name == "dead_letter" and span.kind in AGAIN:
        low = high = 0  # it is open already
    elif table.dataset.name == "dead_letter":
        low = sum(c.undecodable + (c.rejected > 0) for c in counts)
        high = sum(c.undecodable + c.rejected for c in counts)
    elif table.name == published_name(span.dataset):
        low = high = sum(c.published for c in counts)
    elif table.name == restricted_name(span.dataset) and rows:
        # A rule's filter leaves rows out of what is published only; patients who are forgotten are left out of both.
        low, high = sum(c.published for c in counts), sum(c.published + c.filtered for c in counts)
    else:
        return
    if not low <= rows <= high:
        where = f"{table.name}, span {span.span_id}"
        yield Finding("span-contradicts-files", where, f"{rows} rows in its files, {low} to {high} in its counts")


def _check_pending(span: Span, table: Table) -> Iterator[Finding]:
    """Yield that a span is not added yet, and which of its files could not be any more."""
    files = span.files_of(table.name)
    if files:
        rows = sum(file.rows for file in files)
        yield Finding("not-added", f"{table.name}, span {span.span_id}", f"{rows} rows decided", severity="note")
    gone = [file for file in files if not table.storage.exists(file.path)]
    if gone and not is_added(span, table.newest()):  # else it was added, and rewritten, while we read
        for file in gone:
            yield Finding("staged-file-missing", f"{table.name}/{file.path}", f"{file.rows} rows are lost")
