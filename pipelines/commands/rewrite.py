"""``vitalake lake rewrite`` and ``rebuild``: rewrite existing rows, in long jobs that can be interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output, note
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from vitalake.lake.maintenance.replacement import TableReplaced
    from vitalake.settings import Settings

REPORT_SECONDS = 2.0


class Meter:
    """Counts the rows that a job has made, and reports them with their rate every two seconds."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._rows = tell, 0
        self._began = self._reported = time.monotonic()

    def __call__(self, rows: int) -> None:
        """Count rows."""
        self._rows += rows
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            self._tell(f"{self._rows:,} rows, {self._rows / (now - self._began):,.0f} rows/s")

    def summary(self) -> dict[str, Any]:
        """Return rows, seconds, and rows a second."""
        seconds = time.monotonic() - self._began
        return {"rows_made": self._rows, "seconds": round(seconds, 2), "rows_per_second": round(self._rows / seconds)}


def rewrite(
    home: HomeOption = None,
    bucket: Annotated[
        int | None, typer.Option("--bucket", help="Sort the rows of closed days by patient into this many files a day.")
    ] = None,
    republish: Annotated[
        str | None,
        typer.Option("--republish", metavar="DATASET", help="Publish a dataset again by today's rules and keys."),
    ] = None,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="Make a new pseudonym key, and publish every dataset again with it.")
    ] = False,
    retire_key: Annotated[
        str | None,
        typer.Option("--retire-key", metavar="VERSION", help="Destroy an old version of the pseudonym key."),
    ] = None,
    retention: Annotated[
        bool, typer.Option("--retention", help="Delete days that are older than the retention of their dataset.")
    ] = False,
    give_up: Annotated[
        str | None,
        typer.Option("--give-up", metavar="DATASET", help="End an interrupted republish that shall not continue."),
    ] = None,
    table: Annotated[str | None, typer.Option("--table", help="With --bucket: one table; default: all.")] = None,
    closed_before: Annotated[
        str | None,
        typer.Option("--closed-before", metavar="DAY", help="With --bucket: only days before this; default: today."),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option("--days", min=1, help="With --retention: days to keep; default: as datasets declare."),
    ] = None,
    keep_replaced: Annotated[
        bool,
        typer.Option("--keep-replaced", help="With --republish: keep the old files until a vacuum after a week."),
    ] = False,
    without_lost: Annotated[
        bool,
        typer.Option("--without-lost", help="With --republish: go on although 'lake repair' has removed lost rows."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Rewrite existing rows: sort them by patient, publish them by new rules or keys, or delete what is too old.

    Streams, readers and other maintenance can go on meanwhile. If it was interrupted, run it again: it continues.
    """
    from governance.belonging import admit
    from vitalake.errors import InputError
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    asked = [bucket is not None, republish is not None, rekey, retire_key is not None, retention, give_up is not None]
    if sum(asked) != 1:
        raise InputError(
            "A rewrite does one thing at a time",
            where="vitalake lake rewrite",
            remedy="Give one of --bucket, --republish, --rekey, --retire-key, --retention and --give-up.",
        )
    admit(settings, identified=rekey or retire_key is not None or republish is not None)
    out = Output(json)
    if bucket is not None:
        _bucket(settings, bucket, out, table=table, closed_before=closed_before)
    elif republish is not None:
        _republish(settings, [republish], out, keep_replaced=keep_replaced, without_lost=without_lost)
    elif rekey:
        _rekey(settings, out)
    elif retire_key is not None:
        _retire(settings, retire_key, out)
    elif retention:
        _retention(settings, out, days=days)
    else:
        _give_up(settings, str(give_up), out)


def rebuild(
    what: Annotated[str, typer.Argument(help="What to rebuild: published or care.")],
    home: HomeOption = None,
    source: Annotated[str, typer.Option("--from", help="The zone to rebuild it from: restricted.")] = "restricted",
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="One dataset; default: all that the restricted zone has.")
    ] = None,
    without_lost: Annotated[
        bool, typer.Option("--without-lost", help="Go on although 'lake repair' has removed lost identified rows.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Rebuild the published zone or the online store from the restricted zone, also if it was lost."""
    from governance.belonging import admit
    from pipelines.republish.online_store import rebuild_online_store
    from pipelines.republish.repair import open_published
    from pipelines.republish.republish import open_restricted, refuse_loss, restricted_datasets
    from vitalake.errors import InputError
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    if source != "restricted" or what not in ("published", "care"):
        raise InputError(
            "Only published and care can be rebuilt, and only from restricted",
            where="vitalake lake rebuild",
            remedy="Run: vitalake lake rebuild published --from restricted",
        )
    admit(settings, identified=True)
    out = Output(json)
    if what == "published":
        datasets = [dataset] if dataset else restricted_datasets(settings)
        for name in datasets:
            refuse_loss(open_restricted(settings, name), without_lost=without_lost)
        for name in datasets:
            open_published(settings, name)
        _republish(settings, datasets, out, keep_replaced=False, without_lost=without_lost)
        return
    meter = Meter(out.tell)
    rows = rebuild_online_store(settings, counted=meter)
    out.answer({"care_rows": rows} | meter.summary(), f"care: {rows:,} rows offered to the online store")


# -- the single rewrites -----------------------------------------------------------------------------------------


def _bucket(settings: Settings, count: int, out: Output, *, table: str | None, closed_before: str | None) -> None:
    from dataclasses import asdict

    from governance.opened import OpenedHome
    from vitalake import clock
    from vitalake.errors import InputError
    from vitalake.lake.maintenance.compaction import put_into_buckets
    from vitalake.lake.maintenance.rewrite import is_locked
    from vitalake.lake.tables.buckets import patient_column

    present = OpenedHome(settings).lake().present()
    if table is not None and table not in present:
        raise InputError("Unknown table", where=table, remedy=f"The lake has: {', '.join(present)}.")
    able = [name for name, one in present.items() if one.dataset.day_of and patient_column(one.dataset)]
    before, documents, meter = closed_before or str(clock.now().date()), [], Meter(out.tell)
    for name in [table] if table else able:
        if is_locked(present[name]):
            note(f"{name}: a republish has locked it; run this again when the republish has ended")

        def tell(day: str, name: str = name) -> None:
            out.tell(f"{name} {day}")

        done = put_into_buckets(present[name], count, closed_before=_day(before), progress=tell, counted=meter)
        documents.append(asdict(done))
        out.show(
            f"{name}: {done.rows:,} rows of {done.days} days went into {count} buckets, "
            f"{done.files_before:,} files became {done.files_after:,}"
        )
    _finish({"tables": documents}, meter, out)


def _day(text: str) -> str:
    from datetime import date

    from vitalake.errors import InputError

    try:
        return str(date.fromisoformat(text))
    except ValueError:
        raise InputError("Day is not a date", where="--closed-before", remedy="Write a day as 2026-03-01.") from None


def _republish(
    settings: Settings, datasets: list[str], out: Output, *, keep_replaced: bool, without_lost: bool
) -> None:
    from dataclasses import asdict

    from pipelines.republish.republish import republish

    documents, meter = [], Meter(out.tell)
    for dataset in datasets:
        out.tell(dataset)
        done = republish(settings, dataset, keep_replaced=keep_replaced, without_lost=without_lost, counted=meter)
        documents.append(asdict(done))
        out.show(*_lines(done))
    _finish({"datasets": documents}, meter, out)


def _lines(done: TableReplaced) -> Iterator[str]:
    yield (
        f"{done.dataset}: {done.rows_before:,} published rows became {done.rows_after:,}, of "
        f"{done.rows_restricted:,} restricted ones: {done.filtered:,} filtered by a rule, "
        f"{done.forgotten:,} of patients who were erased"
    )
    for name, count in sorted(done.unfit.items()):
        yield f"{done.dataset}.{name}: {count:,} rows are published without the text that was sent there"


def _rekey(settings: Settings, out: Output) -> None:
    from dataclasses import asdict

    from pipelines.republish.rekey import rekey

    meter = Meter(out.tell)
    done = rekey(settings, counted=meter, progress=out.tell)
    out.show(
        *(line for swapped in done.datasets for line in _lines(swapped)),
        f"pseudonym key {done.version}: {done.patients:,} pseudonyms changed in the vault. Restart 'vitalake serve', "
        "which reads the key file only once. When nobody needs old pseudonyms any more (audit, exports), destroy the "
        "old key: vitalake lake rewrite --retire-key VERSION",
    )
    _finish(asdict(done), meter, out)


def _retire(settings: Settings, version: str, out: Output) -> None:
    from pipelines.republish.rekey import retire

    retire(settings, version)
    out.answer(
        {"retired": version},
        f"pseudonym key {version} is deleted from the key file; back-ups of that file may still have it",
    )


def _retention(settings: Settings, out: Output, *, days: int | None) -> None:
    from dataclasses import asdict

    from pipelines.republish.retention import retain

    documents = []
    for done in retain(settings, days=days, progress=out.tell):
        documents.append(asdict(done))
        held = f", {done.held:,} rows stay on legal hold" if done.held else ""
        out.show(f"{done.table}: {done.rows:,} rows of {done.days} days before {done.before} deleted{held}")
    out.answer({"tables": documents})
    if not documents:
        out.show("No dataset declares how long it is kept (retention_days); give --days.")


def _give_up(settings: Settings, dataset: str, out: Output) -> None:
    from pipelines.republish.republish import give_up

    found = give_up(settings, dataset)
    out.answer(
        {"given_up": found},
        f"{dataset}: {'given up; the sweeper deletes the staged files' if found else 'no republish is under way'}",
    )


def _finish(document: dict[str, Any], meter: Meter, out: Output) -> None:
    summary = meter.summary()
    out.answer(document | summary)
    out.tell(f"{summary['rows_made']:,} rows in {summary['seconds']} s, {summary['rows_per_second']:,} rows/s")
