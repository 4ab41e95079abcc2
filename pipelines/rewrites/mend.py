"""Making damaged files again: published ones of the restricted zone, file by file, or the dataset as a whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from governance.keyuse import open_vault
from governance.masking import compile_masks
from governance.rules import load_policy
from pipelines.live.errors import BrokerUnreachable, TopicMissing, UpstreamLoss
from pipelines.rewrites.republish import converter, open_restricted, republish
from pipelines.rewrites.reread import PLACE, places
from pipelines.steps import make_sealer
from vitalake.errors import InputError, LakeError
from vitalake.keys import load_keys
from vitalake.lake.compaction import sort_keys
from vitalake.lake.dataset import published_datasets
from vitalake.lake.lake import Lake, restricted_name
from vitalake.lake.replaced import Replacement, replacements
from vitalake.lake.rewrite import Rows, read_file, rewrite, rewrite_number
from vitalake.lake.sorting import no_order, sort_by
from vitalake.lake.spans import Span
from vitalake.lake.staging import Piece
from vitalake.lake.table import NO_DAY, Snapshot, StagedFile, Table
from vitalake.lake.vacuum import kept_files, span_id_of
from vitalake.settings import Settings
from vitalake.vault import Vault

_ONLY_DROPPED = {"spans", *map(restricted_name, published_datasets())} - {restricted_name("device_association")}
"""Tables of which a commit that changes rows changes their number too: it is known without the commit's own entry.
A republish may keep the number, and so does an erasure where a device stays with nobody."""


@dataclass(slots=True)
class Mended:
    """What became of the damaged files of one table.

    Attributes:
        table: its name.
        files, rows: that were damaged.
        how: ``replaced`` of the files that they had replaced, ``rows`` of the restricted zone, ``republish`` the whole
            dataset was published again, ``broker`` its messages were read once more; empty: they were not made again.
        why: why not, in words.
        days: of the files.
        spans: whose rows were in them, as far as their names say.
    """

    table: str
    files: int
    rows: int
    how: str = ""
    why: str = ""
    days: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)


class _Uneven(Exception):
    """The rows that can be made are not those that are missing: rules have changed, or days are shifted."""


def mend(settings: Settings, table: Table, damaged: Sequence[StagedFile], *, whole: bool = True) -> Mended:
    """Make the damaged files of a table again, as far as there is anything to make them of; return what was done.

    Args:
        settings: of the home.
        table: not to be used by anything else meanwhile.
        damaged: files of its newest version.
        whole: publish the dataset again, or read from the broker, where nothing less would do.

    Raises:
        KeyRevoked: patients' keys cannot be had.
        ServiceUnavailable: lake, vault or key service cannot be reached; try again.
    """
    done = Mended(table.name, len(damaged), sum(file.rows for file in damaged))
    done.days = sorted({str(file.day or "none") for file in damaged})
    done.spans = sorted({span_id_of(file.path) for file in damaged} - {""})
    zone, _, dataset = table.name.rpartition("/")
    try:
        rest = _mend_from_replaced(table, damaged)
        done.files, done.rows = len(rest or damaged), sum(file.rows for file in rest or damaged)
        if not rest:
            done.how = "replaced"
        elif zone == "published":
            done.how = _mend_published(settings, dataset, [file.path for file in rest], whole=whole)
        elif zone == "restricted" and whole:
            _mend_restricted(settings, dataset, [file.path for file in rest])
            done.how = "broker"
        else:
            done.why = "the lake has no second copy of them"
    except (LakeError, InputError, BrokerUnreachable, TopicMissing, UpstreamLoss) as error:
        done.why = f"{error.what} ({error.where})"
    except _Uneven:
        done.why = "rules have changed since they were published"
    return done


def _mend_from_replaced(table: Table, damaged: Sequence[StagedFile]) -> list[StagedFile]:
    """Make files again of those that the very commit replaced which added them; return the files it could not make.

    Only of a commit that kept rows as they were. No other file that lies there counts: a killed worker's was never
    decided, and an older version's may hold what a stricter rule hides by now.
    """
    known = replacements(table.storage, checkpoints=table.name in _ONLY_DROPPED)
    for commit in known:
        mine = {file.path for file in damaged if file.path in commit.added}
        if mine:
            with suppress(_Uneven):
                rewrite(table, partial(_among, mine), partial(_what_it_replaced, table, commit))
    table.refresh()
    here = table.snapshot().files
    return [file for file in damaged if file.path in here]


def _among(paths: Collection[str], snapshot: Snapshot) -> list[StagedFile]:
    return [file for path, file in sorted(snapshot.files.items()) if path in paths]


def _what_it_replaced(table: Table, commit: Replacement, rows: Rows) -> Iterator[Piece]:
    """Yield the rows a commit replaced that its other files do not have: those of the damaged ones, to the row.

    Raises:
        _Uneven: a file of the commit cannot be read any more, or the rows are not as many as are missing.
    """
    days, gone = {file.day for file in rows.files}, {file.path for file in rows.files}
    others = [path for path in commit.added if path not in gone]
    old = _plain(_whole(table, [path for path in commit.removed if day_of(path) in days]), table)
    there = _plain(_whole(table, [path for path in others if day_of(path) in days]), table)
    missing = _difference(old, there)
    if missing.num_rows != rows.count or old.num_rows != there.num_rows + rows.count:
        raise _Uneven
    yield Piece(_sorted(missing, table))


def _whole(table: Table, paths: Sequence[str]) -> list[pa.Table]:
    """Return the rows of files that may have been replaced; all of them, or none at all.

    Raises:
        _Uneven: one is damaged too, or gone by now.
    """
    try:
        return [part for path in paths for part in read_file(table, StagedFile(table.name, path, 0, 0, None))]
    except (LakeError, OSError, pa.ArrowException):
        raise _Uneven from None


def _mend_published(settings: Settings, dataset: str, damaged: Sequence[str], *, whole: bool) -> str:
    lake = open_restricted(settings, dataset)
    try:
        _mend_files(settings, lake, damaged)
    except _Uneven:
        if not whole:
            raise
        republish(settings, dataset)
        return "republish"
    return "rows"


def _mend_restricted(settings: Settings, dataset: str, damaged: Sequence[str]) -> None:
    from pipelines.rewrites.reread import missing_rows, reread

    lake = open_restricted(settings, dataset)
    table = lake.restricted

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        return [file for path, file in sorted(snapshot.files.items()) if path in damaged]

    def transform(rows: Rows) -> Iterator[Piece]:
        made = missing_rows(lake, reread(settings, dataset, [file.day for file in rows.files]), rows.files)
        yield Piece(_sorted(made, table))

    rewrite(table, plan, transform)


def _mend_files(settings: Settings, lake: Lake, damaged: Sequence[str]) -> None:
    keys = load_keys(settings.path(settings.keys))
    masks = compile_masks(load_policy(settings.path(settings.governance)), lake.dataset, keys)
    table = lake.published

    def plan(day: str | None, snapshot: Snapshot) -> list[StagedFile]:
        return [file for path, file in sorted(snapshot.files.items()) if path in damaged and file.day == day]

    def transform(day: str | None, vault: Vault, rows: Rows) -> Iterator[Piece]:
        convert = converter(make_sealer(lake.dataset, vault, keys), masks)
        lake.restricted.refresh()
        sources = [file for file in lake.restricted.snapshot().files.values() if file.day == day]
        made = [convert(batch).rows for file in sources for batch in read_file(lake.restricted, file)]
        intact = [file for file in table.snapshot().files.values() if file.day == day and file not in rows.files]
        there = [batch for file in intact for batch in read_file(table, file)]
        today, sound = _of_day(made, table, day), _plain(there, table)
        missing = _difference(today, sound)
        # As many rows could also be some that a rule changed and some fewer that it leaves out.
        if missing.num_rows != rows.count or today.num_rows != sound.num_rows + rows.count:
            raise _Uneven
        yield Piece(_sorted(missing, table))

    table.refresh()
    days = {file.day for path, file in table.snapshot().files.items() if path in damaged}
    with closing(open_vault(settings, keys, purpose="repair")) as vault:
        for day in sorted(days, key=str):
            rewrite(table, partial(plan, day), partial(transform, day, vault))


def _sorted(rows: pa.Table, table: Table) -> pa.Table:
    """Return the rows as a compaction has them: where times are equal their order says nothing."""
    last = no_order(rows, table.dataset) if table.name.startswith("published/") else None
    return sort_by(rows, sort_keys(table.dataset), last=last)


def _plain(parts: Sequence[pa.Table], table: Table) -> pa.Table:
    """Return parts as one table of the table's own columns."""
    schema = pa.schema([table.state.columns.field(name) for name in table.dataset.schema.names])
    return pa.concat_tables([part.select(schema.names).cast(schema) for part in parts] or [schema.empty_table()])


def _of_day(parts: Sequence[pa.Table], table: Table, day: str | None) -> pa.Table:
    rows = _plain(parts, table)
    if table.dataset.day_of is None:
        return rows
    days = pc.cast(pc.cast(rows[table.dataset.day_of], pa.date32()), pa.string())
    return rows.filter(pc.is_null(days) if day is None else pc.fill_null(pc.equal(days, day), False))


def _difference(made: pa.Table, there: pa.Table) -> pa.Table:
    """Return the rows of one table that the other one lacks; of equal rows each counts."""
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


def day_of(path: str) -> str | None:
    """Return the day of a file, by its folder."""
    day = path.partition("/")[0].removeprefix("day=") if "/" in path else NO_DAY
    return None if day == NO_DAY else day


# -- what cannot be mended ---------------------------------------------------------------------------------------


def leave_out(table: Table, damaged: Sequence[StagedFile]) -> int:
    """Take files that cannot be made again out of their table; return how many rows that are. They lie on for a week.

    A log that was cut may have lost a rewrite that replaced them, such as an erasure's, whose files lie there: what of
    their rows no file of the table has stays, in their place.

    The loss is written down where rewrites write down what they drop, so that the rest can be held against the spans.

    Raises:
        LakeError, ServiceUnavailable: as ``rewrite``.
    """
    paths = {file.path for file in damaged}

    def plan(snapshot: Snapshot) -> list[StagedFile]:
        return [file for path, file in sorted(snapshot.files.items()) if path in paths]

    def transform(rows: Rows) -> Iterator[Piece]:
        found = _survivors(table, rows)
        if found.num_rows:
            yield Piece(_sorted(found, table))

    done = rewrite(table, plan, transform, data_change=True, lost=True)
    return done.rows_before - done.rows if done else 0


def _survivors(table: Table, rows: Rows) -> pa.Table:
    """Return the rows of damaged files that lie in files of rewrites which the log does not know (any more).

    Raises:
        LakeError: they are more than the damaged files held.
    """
    key = [name for name in (*PLACE, "position", "topic_id", "dataset") if name in table.dataset.schema.names]
    days, kept = {file.day for file in rows.files}, kept_files(table)
    loose = [path for path in table.storage.files() if path not in kept and day_of(path) in days]
    numbered = sorted(((number, path) for path in loose if (number := rewrite_number(path))), reverse=True)
    intact = [file for file in table.snapshot().files.values() if file.day in days and file not in rows.files]
    seen = {place for file in intact for part in read_file(table, file, columns=key) for place in places(part, key)}
    parts: list[pa.Table] = []
    for _, path in numbered if "source" in key else ():  # the newest first: it has rows as they were left
        with suppress(_Uneven):
            part = _plain(_whole(table, [path]), table)
            there = places(part, key)
            parts.append(part.filter(pa.array([place not in seen for place in there], pa.bool_())))
            seen.update(there)
    made = _plain(parts, table)
    if made.num_rows > rows.count:
        raise LakeError(
            f"Files of lost rewrites hold {made.num_rows:,} rows, and the damaged ones held {rows.count:,}",
            where=table.name,
            remedy="Nothing was left out. Restore the table's folder from a back-up; see docs/how-to/damage.md.",
        )
    return made


def spans_of(lake: Lake, table: Table, damaged: Sequence[StagedFile]) -> list[Span]:
    """Return the spans whose rows may be in damaged files: those that added to the same days."""
    days = {file.day for file in damaged}
    return [span for span in lake.spans.all_spans() if days & {file.day for file in span.files_of(table.name)}]
