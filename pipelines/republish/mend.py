"""Writes damaged files again, from the files they had replaced, from the restricted zone, or from the broker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from governance.keyuse import open_vault
from governance.policy.masking import compile_masks
from governance.policy.rules import load_policy
from pipelines.intake.steps import make_sealer
from pipelines.republish.matching import PLACE, Recoverable, day_of, match_to_files, of_day, places
from pipelines.republish.republish import converter, open_restricted, republish
from vitalake.errors import InputError, LakeError, ServiceUnavailable
from vitalake.home import Home
from vitalake.lake.commits.lake import Lake, restricted_name
from vitalake.lake.commits.span import Span
from vitalake.lake.datasets.declared import published_datasets
from vitalake.lake.maintenance.compaction import sort_keys
from vitalake.lake.maintenance.replaced import Replacement, replacements
from vitalake.lake.maintenance.replacement import Converted
from vitalake.lake.maintenance.rewrite import Rows, read_file, rewrite, rewrite_number
from vitalake.lake.maintenance.vacuum import kept_files, span_id_of
from vitalake.lake.tables.sorting import no_order, sort_by
from vitalake.lake.tables.staging import Piece
from vitalake.lake.tables.table import Snapshot, StagedFile, Table
from vitalake.settings import Settings

_ONLY_DROPPED = {"spans", *map(restricted_name, published_datasets())} - {restricted_name("device_association")}
"""Tables in which a commit that changes rows also changes their number, so that a checkpoint alone tells whether a
commit has changed rows. In others a republish can keep the number, and so does an erasure of a device's association."""


NAMED = 10
"""How many spans and files a message names at most."""

Fate = tuple[str, str]
"""How a file was written again, or why it was not. See Mended."""


@dataclass(slots=True)
class Mended:
    """What became of damaged files of one table: those written again in one way, or not written for one reason.

    Attributes:
        table: its name.
        files, rows: how many were damaged.
        how: ``replaced``: from the files that they had replaced; ``rows``: from the restricted zone; ``republish``: the
            whole dataset was published again; ``broker``: its messages were read again; empty: not written again.
        why: why not, in words.
        days: of the files.
        spans: the spans whose rows were in them; for merged files the spans that have added to their days.
        paths: of the files, in the table's folder.
    """

    table: str
    files: int
    rows: int
    how: str = ""
    why: str = ""
    days: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


class _OtherRows(Exception):
    """The rows that can be made are not the missing ones: rules have changed, or days are shifted."""


def mend(settings: Settings, table: Table, damaged: Sequence[StagedFile], *, whole: bool = True) -> list[Mended]:
    """Write the damaged files of a table again where their rows can be found elsewhere; return what was done.

    Args:
        settings: of the home.
        table: nothing else may use it meanwhile.
        damaged: files of its newest version.
        whole: whether to publish the whole dataset again, or read from the broker, where nothing less helps.

    Raises:
        KeyRevoked: patients' keys are not available.
        ServiceUnavailable: lake, vault or key service cannot be reached; try again.
    """
    spans = Home(settings).lake().spans if table.name != "spans" else None
    decided = list(spans.all_spans()) if spans is not None else []
    zone, _, dataset = table.name.rpartition("/")
    rest = _mend_from_replaced(table, damaged)
    fates = {file.path: ("replaced", "") for file in damaged if file not in rest}
    if rest and zone == "published":
        fates |= _mend_published(settings, dataset, rest, whole=whole)
    elif rest and zone == "restricted" and whole:
        fates |= _mend_restricted(settings, dataset, rest, decided)
    else:
        fates |= {file.path: ("", "the lake has no second copy of them") for file in rest}
    return [
        _report(table, [file for file in damaged if fates[file.path] == fate], fate, decided)
        for fate in sorted(set(fates.values()))
    ]


def _report(table: Table, files: Sequence[StagedFile], fate: Fate, decided: Sequence[Span]) -> Mended:
    done = Mended(table.name, len(files), sum(file.rows for file in files), *fate)
    done.days = sorted({str(file.day or "none") for file in files})
    done.spans = sorted({span.span_id for file in files for span in spans_of(table, file, decided)})
    done.spans = done.spans or sorted({span_id_of(file.path) for file in files} - {""})
    done.paths = sorted(file.path for file in files)
    return done


def spans_of(table: Table, file: StagedFile, decided: Sequence[Span]) -> list[Span]:
    """Return the spans whose rows can be in a file: the one that has staged it, or all that added to its day."""
    own = span_id_of(file.path)
    if own:
        return [span for span in decided if span.span_id == own]
    return [span for span in decided if any(file.day == other.day for other in span.files_of(table.name))]


def _mend_from_replaced(table: Table, damaged: Sequence[StagedFile]) -> list[StagedFile]:
    """Write files again from the files that their own commit has replaced; return the files for which that failed.

    Only commits that kept rows as they were count. Other files in the folder are not used: a file of a killed worker
    was never decided, and a file of an older version can contain what a stricter rule hides now.
    """
    for commit in replacements(table.storage, checkpoints=table.name in _ONLY_DROPPED):
        added_by_commit = {file.path for file in damaged if file.path in commit.added}
        if added_by_commit:
            with suppress(_OtherRows):
                rewrite(table, partial(_among, added_by_commit), partial(_what_it_replaced, table, commit))
    table.refresh()
    here = table.snapshot().files
    return [file for file in damaged if file.path in here]


def _among(paths: Collection[str], snapshot: Snapshot) -> list[StagedFile]:
    return [file for path, file in sorted(snapshot.files.items()) if path in paths]


def _what_it_replaced(table: Table, commit: Replacement, rows: Rows) -> Iterator[Piece]:
    """Yield the rows that a commit replaced and that its other files lack: exactly the rows of the damaged files.

    Raises:
        _OtherRows: a file of the commit cannot be read any more, or the number of rows is not that of the missing ones.
    """
    days, gone = {file.day for file in rows.files}, {file.path for file in rows.files}
    others = [path for path in commit.added if path not in gone]
    old = _plain(_whole(table, [path for path in commit.removed if day_of(path) in days]), table)
    there = _plain(_whole(table, [path for path in others if day_of(path) in days]), table)
    missing = _difference(old, there)
    if missing.num_rows != rows.count or old.num_rows != there.num_rows + rows.count:
        raise _OtherRows
    yield Piece(_sorted(missing, table))


def _whole(table: Table, paths: Sequence[str]) -> list[pa.Table]:
    """Return all rows of files, which can have been replaced since.

    Raises:
        _OtherRows: one of the files is damaged too, or was deleted.
    """
    try:
        return [part for path in paths for part in read_file(table, StagedFile(table.name, path, 0, 0, None))]
    except (LakeError, OSError, pa.ArrowException):
        raise _OtherRows from None


def _mend_published(settings: Settings, dataset: str, damaged: Sequence[StagedFile], *, whole: bool) -> dict[str, Fate]:
    """Write published files again, day by day; return what became of each."""
    fates: dict[str, Fate] = {}
    other_rows: list[str] = []
    lake = open_restricted(settings, dataset)
    keys = Home(settings).keys
    masks = compile_masks(load_policy(settings.path(settings.governance)), lake.dataset, keys)
    with closing(open_vault(settings, keys, purpose="repair")) as vault:
        convert = converter(make_sealer(lake.dataset, vault, keys), masks)
        for day in sorted({file.day for file in damaged}, key=str):
            of_day_paths = [file.path for file in damaged if file.day == day]
            try:
                _mend_day(lake, day, of_day_paths, convert)
                fates |= dict.fromkeys(of_day_paths, ("rows", ""))
            except (LakeError, InputError) as error:
                fates |= dict.fromkeys(of_day_paths, ("", f"{error.what} ({error.where})"))
            except _OtherRows:
                other_rows += of_day_paths
    if not other_rows:
        return fates
    if not whole:
        return fates | dict.fromkeys(other_rows, ("", "rules have changed since they were published"))
    try:
        republish(settings, dataset)
    except (LakeError, InputError, ServiceUnavailable) as error:
        return fates | dict.fromkeys(other_rows, ("", f"{error.what} ({error.where})"))
    return fates | dict.fromkeys((file.path for file in damaged if file.path not in fates or not fates[file.path][0]),
                                 ("republish", ""))  # fmt: skip


def _mend_day(lake: Lake, day: str | None, damaged: Sequence[str], convert: Callable[[pa.Table], Converted]) -> None:
    """Write the damaged published files of a day again, from the restricted zone.

    Raises:
        _OtherRows: the restricted zone gives other rows than the missing ones.
        LakeError: restricted files of the day are damaged too.
    """
    table = lake.published

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        return [file for path, file in sorted(snapshot.files.items()) if path in damaged]

    def transform(rows: Rows) -> Iterator[Piece]:
        lake.restricted.refresh()
        sources = [file for file in lake.restricted.snapshot().files.values() if file.day == day]
        made = [convert(batch).rows for file in sources for batch in read_file(lake.restricted, file)]
        intact = [file for file in table.snapshot().files.values() if file.day == day and file not in rows.files]
        there = [batch for file in intact for batch in read_file(table, file)]
        today, sound = of_day(_plain(made, table), table.dataset, day), _plain(there, table)
        missing = _difference(today, sound)
        # Both counts: the number of missing rows can also be right because a rule changed some and filtered others.
        if missing.num_rows != rows.count or today.num_rows != sound.num_rows + rows.count:
            raise _OtherRows
        yield Piece(_sorted(missing, table))

    rewrite(table, plan, transform)


def _mend_restricted(
    settings: Settings, dataset: str, damaged: Sequence[StagedFile], decided: Sequence[Span]
) -> dict[str, Fate]:
    """Write restricted files again from the broker's messages where these give all rows; return what became of each."""
    from pipelines.republish.reread import reread

    lake = open_restricted(settings, dataset)
    table, gone = lake.restricted, {file.path for file in damaged}
    spans = {span.span_id: span for file in damaged for span in spans_of(table, file, decided)}
    read = reread(settings, lake, [span for span in spans.values() if span.kind == "stream"])
    found = Recoverable([], read.rows.slice(0, 0), {})

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        nonlocal found
        still_there = [file for file in snapshot.files.values() if file.path in gone]
        found = match_to_files(table, read.rows, still_there, decided)
        return found.files

    rewrite(table, plan, lambda _: iter([Piece(_sorted(found.rows, table))]))
    written = {file.path for file in found.files}
    return {
        file.path: ("broker", "")
        if file.path in written
        else ("", _why(read.lost, spans_of(table, file, decided)) or found.why_not[file.path])
        for file in damaged
    }


def _why(lost: Mapping[str, str], spans: Sequence[Span]) -> str:
    """Return why the broker does not have the messages of a file; an empty text if it has them."""
    others = {span.kind for span in spans} - {"stream"}
    reasons = sorted({lost[span.span_id] for span in spans if span.span_id in lost})
    return "; ".join(reasons) or ("the broker has no messages of replayed and released rows" if others else "")


def _sorted(rows: pa.Table, table: Table) -> pa.Table:
    """Return the rows in the order of a compaction, in which rows of equal times reveal nothing by their order."""
    last = no_order(rows, table.dataset) if table.name.startswith("published/") else None
    return sort_by(rows, sort_keys(table.dataset), last=last)


def _plain(parts: Sequence[pa.Table], table: Table) -> pa.Table:
    """Return the parts as one table with the columns of the lake's table."""
    schema = pa.schema([table.state.columns.field(name) for name in table.dataset.schema.names])
    return pa.concat_tables([part.select(schema.names).cast(schema) for part in parts] or [schema.empty_table()])


def _difference(made: pa.Table, there: pa.Table) -> pa.Table:
    """Return the rows of one table that the other one lacks; equal rows are counted one by one."""
    import duckdb

    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("made", made)
        connection.register("there", there)
        found = connection.sql("SELECT * FROM made EXCEPT ALL SELECT * FROM there").to_arrow_table()
    finally:
        connection.close()
    return found.cast(made.schema)


# -- what cannot be mended ---------------------------------------------------------------------------------------


def leave_out(table: Table, damaged: Sequence[StagedFile]) -> int:
    """Take files that cannot be written again out of their table; return how many rows are lost.

    The files stay in the folder for a week. A log that was cut can have lost a rewrite that had replaced the files,
    such as an erasure's, while the files of the rewrite are still in the folder. Rows of those files that the table
    lacks are added to it.

    The loss is recorded like the rows that a rewrite drops, so that the rest can still be checked against the spans.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``.
    """
    paths = {file.path for file in damaged}

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        return [file for path, file in sorted(snapshot.files.items()) if path in paths]

    def transform(rows: Rows) -> Iterator[Piece]:
        survivors = _survivors(table, rows)
        if survivors.num_rows:
            yield Piece(_sorted(survivors, table))

    done = rewrite(table, plan, transform, data_change=True, lost=True)
    return done.rows_before - done.rows if done else 0


def _survivors(table: Table, rows: Rows) -> pa.Table:
    """Return the rows of damaged files that are in files of rewrites which the log has lost.

    Raises:
        LakeError: they are more than the damaged files had.
    """
    key = [name for name in (*PLACE, "position", "topic_id", "dataset") if name in table.dataset.schema.names]
    days, kept = {file.day for file in rows.files}, kept_files(table)
    loose = [path for path in table.storage.files() if path not in kept and day_of(path) in days]
    numbered = sorted(((number, path) for path in loose if (number := rewrite_number(path))), reverse=True)
    intact = [file for file in table.snapshot().files.values() if file.day in days and file not in rows.files]
    seen = {place for file in intact for part in read_file(table, file, columns=key) for place in places(part, key)}
    parts: list[pa.Table] = []
    for _, path in numbered if "source" in key else ():  # the newest rewrite first: it has the last state of a row
        with suppress(_OtherRows):
            part = _plain(_whole(table, [path]), table)
            there = places(part, key)
            parts.append(part.filter(pa.array([place not in seen for place in there], pa.bool_())))
            seen.update(there)
    survivors = _plain(parts, table)
    if survivors.num_rows > rows.count:
        raise LakeError(
            f"Files of lost rewrites have {survivors.num_rows:,} rows, and the damaged files had {rows.count:,}",
            where=table.name,
            remedy="Nothing was left out. Restore the table's folder from a back-up; see docs/how-to/damage.md.",
        )
    return survivors
