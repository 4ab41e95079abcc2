"""``vitalake lake``: shows, verifies, compacts, rewrites and repairs the lake's tables; it never shows a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.repair import repair
from pipelines.commands.rewrite import rebuild, rewrite
from pipelines.commands.upgrade import upgrade
from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from governance.belonging import Belonging
    from vitalake.lake.commits.lake import Lake
    from vitalake.lake.tables.table import Table

TableOption = Annotated[str | None, typer.Option("--table", help="One table; default: all of them.")]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    from pipelines.commands.schema import schema

    group = typer.Typer(help="Show, verify, compact, rewrite and repair the lake's tables; it never shows a row.")
    group.command("tables")(tables)
    group.command("show")(show)
    group.command("view")(view)
    group.command("verify")(verify)
    group.command("compact")(compact)
    group.command("schema")(schema)
    group.command("rewrite")(rewrite)
    group.command("rebuild")(rebuild)
    group.command("repair")(repair)
    group.command("upgrade")(upgrade)
    group.command("permissions")(permissions)
    app.add_typer(group, name="lake", no_args_is_help=True)


def tables(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the tables with their version, and the number and size of their files and rows."""
    documents = [_facts(table) for table in _open(home).present().values()]
    Output(json).answer({"tables": documents}, lambda: _print_tables(documents))


def permissions(home: HomeOption = None, json: JsonOption = False) -> None:
    """Close home and lake to other accounts, and let the group that lake.readers names read published data."""
    from vitalake.modes import apply, group_id
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    readers = None if settings.lake.readers is None else group_id(settings.lake.readers)
    changed = apply(settings.home, settings.lake_folder, readers=readers)
    who = f"the group {settings.lake.readers}" if settings.lake.readers else "no group"
    Output(json).answer(
        {"changed": changed, "readers": settings.lake.readers},
        f"{changed:,} files and folders changed; besides their owner {who} can read published data.",
    )


def show(
    table: Annotated[str, typer.Argument(help="As 'vitalake lake tables' names it.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show one table's columns with type and data class, and its files per day."""
    chosen = _choose(_open(home), table)
    document = _facts(chosen) | {"columns": _columns(chosen), "days": _days(chosen)}
    Output(json).answer(document, lambda: _print_table(document))


def view(
    dataset: Annotated[str, typer.Argument(help="A published dataset.")],
    engine: Annotated[str, typer.Option(help="Whose SQL to print: duckdb or spark.")] = "duckdb",
    home: HomeOption = None,
) -> None:
    """Print a view of a dataset's current rows for other engines, which see every version of every row."""
    import sqlglot

    from governance.query.catalogue import Catalogue
    from governance.query.relations import portable_sql, versions_name
    from vitalake.home import Home
    from vitalake.settings import load_settings

    if engine not in _TABLES:
        raise typer.BadParameter(f"use one of: {', '.join(_TABLES)}", param_hint="--engine")
    settings = load_settings(resolve_home(home))
    relation = Catalogue(settings, Home(settings).keys).definition(dataset)
    (sql,) = sqlglot.transpile(portable_sql(relation), read="duckdb", write=engine, pretty=True)
    versions, folder = versions_name(dataset), f"{settings.lake_uri}/published/{dataset}"
    typer.echo(f"-- The current rows of {dataset}. First create {versions} over the Delta table, such as:")
    source = _TABLES[engine].format(folder)
    typer.echo(f"-- CREATE VIEW {versions} AS SELECT * FROM {source};")  # noqa: S608 - a comment for people
    typer.echo(f"CREATE VIEW {dataset} AS\n{sql};")


_TABLES = {"duckdb": "delta_scan('{}')", "spark": "delta.`{}`"}
"""How each engine's SQL names a Delta table by its folder."""


def verify(home: HomeOption = None, json: JsonOption = False) -> None:
    """Read every file, and compare digests, logs, spans and counts; ends with 13 if the lake is not sound."""
    from dataclasses import asdict

    from pipelines.commands.databases import damaged_databases
    from vitalake.errors import LakeError
    from vitalake.lake.maintenance.verify import Finding, Kind
    from vitalake.lake.maintenance.verify import verify as find
    from vitalake.settings import load_settings
    from vitalake.sqlite import DatabaseDamaged

    out = Output(json)
    findings = find(_open(home), progress=out.tell)
    broken = damaged_databases(load_settings(resolve_home(home)))
    findings += [Finding("database-damaged", error.where, f"{error.what}. {error.remedy}") for error in broken]
    try:
        belonging = _belonging(home)
    except DatabaseDamaged:  # the vault: damaged_databases has reported it
        belonging = None
    if belonging is not None:
        kind: Kind = "put-back" if belonging.put_back else "another-home"
        findings += [Finding(kind, error.where, f"{error.what}. {error.remedy}") for error in belonging.problems]
        findings += [
            Finding("erasures-damaged", error.where, f"{error.what}. {error.remedy}") for error in belonging.damaged
        ]
    errors = [finding for finding in findings if finding.severity == "error"]
    out.answer(
        {"sound": not errors, "findings": [asdict(finding) for finding in findings]},
        *(f"{finding.severity}: {finding.kind}: {finding.where}: {finding.detail}" for finding in findings),
        f"The lake is {'NOT sound' if errors else 'sound'}: {len(errors)} errors, {len(findings)} findings.",
    )
    if errors:
        raise typer.Exit(LakeError.exit_code)


def compact(
    home: HomeOption = None,
    table: TableOption = None,
    min_files: Annotated[int, typer.Option(min=2, help="Days with fewer small files are left as they are.")] = 8,
    vacuum: Annotated[
        bool,
        typer.Option(
            "--vacuum", help="Also delete files replaced over a week ago, and those that killed writers left."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Merge small files into few; with --vacuum delete replaced files. Streams and readers can go on meanwhile."""
    from vitalake.lake.maintenance.run import maintain

    lake = _open(home)
    _admit(home)
    chosen = [_choose(lake, table)] if table else list(lake.present().values())
    out, documents = Output(json), []
    for done in maintain(
        lake, chosen, min_files=min_files, vacuum=vacuum, progress=lambda day: out.tell(f"Merging {day}")
    ):
        documents.append(done)
        deleted = f", {done['deleted']:,} files deleted" if vacuum else ""
        merged = (
            f"{done['files_before']:,} files of {done['days']} days became {done['files_after']:,}, "
            f"{done['rows']:,} rows"
            if done["days"]
            else "no day has many small files, none merged"
        )
        expired = f", {done['expired']:,} rows had expired" if done.get("expired") else ""
        out.show(f"{done['table']}: {merged}{deleted}{expired}")
    swept = _sweep(home) if vacuum and not table else {}
    if swept:
        out.show(f"swept: {sum(swept.values()):,} files of killed writers and of old look-backs deleted")
    out.answer({"tables": documents, "swept": swept})


def _sweep(home: Any) -> dict[str, int]:
    """Delete the files that killed writers of all jobs staged and no log names; return the number for each table."""
    from vitalake.lake.commits.ledger import AGAIN
    from vitalake.lake.maintenance.sweep import sweep
    from vitalake.settings import load_settings

    settings, deleted = load_settings(resolve_home(home)), dict[str, int]()
    lookbacks = {job: stream.lookback_seconds for job, stream in settings.jobs.items()}
    for job, seconds in (lookbacks | dict.fromkeys(AGAIN, 3600.0)).items():
        done = sweep(_open(home), job, lookback_seconds=seconds)
        for name, count in done.deleted.items():
            deleted[name] = deleted.get(name, 0) + count
    return deleted


# -- opening and describing tables -------------------------------------------------------------------------------


def _open(home: Any, dataset: str | None = None) -> Lake:
    import vitalake
    from vitalake.home import Home

    opened = vitalake.open(home)
    return Home(opened.settings).lake(dataset) if dataset else opened.lake()


def _admit(home: Any) -> None:
    """Stop if the lake belongs to another home."""
    from governance.belonging import admit
    from vitalake.settings import load_settings

    admit(load_settings(resolve_home(home)))


def _belonging(home: Any) -> Belonging:
    """Return whether the lake was written with the keys and the vault of this home."""
    from governance.belonging import examine_belonging
    from vitalake.home import Home
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    return examine_belonging(settings, Home(settings).keys)


def _choose(lake: Lake, name: str) -> Table:
    from vitalake.errors import InputError

    known = lake.present()
    if name not in known:
        raise InputError("Unknown table", where=name, remedy=f"The lake has: {', '.join(known)}.")
    return known[name]


def _facts(table: Table) -> dict[str, Any]:
    files = table.snapshot().files.values()
    return {
        "table": table.name,
        "version": table.delta.version(),
        "files": len(files),
        "rows": sum(file.rows for file in files),
        "bytes": sum(file.size for file in files),
        "days": len({file.day for file in files}),
    }


def _columns(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "type": str(column.type),
            "data_class": column.data_class,
            "description": column.description,
        }
        for column in table.dataset.columns
    ]


def _days(table: Table) -> list[dict[str, Any]]:
    days: dict[str | None, dict[str, Any]] = {}
    for file in table.snapshot().files.values():
        entry = days.setdefault(file.day, {"day": file.day, "files": 0, "rows": 0, "bytes": 0})
        for name, value in (("files", 1), ("rows", file.rows), ("bytes", file.size)):
            entry[name] += value
    return [days[day] for day in sorted(days, key=str)]


def _print_tables(documents: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid(box=None, padding=(0, 2), header_style="bold")
    for name in documents[0]:
        grid.add_column(name.replace("_", " "), justify="left" if name == "table" else "right")
    for document in documents:
        grid.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in document.values()))
    Console(highlight=False).print(grid)


def _print_table(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console(highlight=False)
    console.print(
        f"[bold]{document['table']}[/] version {document['version']}: {document['files']:,} files, "
        f"{document['rows']:,} rows, {document['bytes']:,} bytes"
    )
    for rows in (document["columns"], document["days"]):
        if not rows:
            continue
        grid = Grid(box=None, padding=(0, 2), header_style="bold")
        for name in rows[0]:
            grid.add_column(name.replace("_", " "), justify="right" if isinstance(rows[0][name], int) else "left")
        for row in rows:
            grid.add_row(*(f"{v:,}" if isinstance(v, int) else v or "–" for v in row.values()))
        console.print(grid)
