"""``vitalake ledger``: shows what became of every message and row, and whether the counts add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output

if TYPE_CHECKING:
    from rich.console import Console

_COLUMNS = (
    "messages", "decoded", "undecodable", "tombstones", "lost_upstream",
    "rows", "published", "rejected", "duplicate", "filtered", "held", "late",
)  # fmt: skip
"""The same as spans.COUNT_NAMES, written out so that --help need not load Arrow; a test compares them."""

_LATER = ("recovered", "attributed")
"""Rows that were made later of rejected or held messages, see ledger.AGAIN; shown if there are any."""

_EQUATIONS = (
    "messages = decoded + undecodable + tombstones + lost_upstream",
    "rows = published + rejected + duplicate + filtered + held        (late rows are counted here too)",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ledger")(ledger)


def ledger(
    home: HomeOption = None,
    job: Annotated[str | None, typer.Option(help="One job; default: all of them.")] = None,
    by: Annotated[
        Literal["partition", "hour", "job"] | None, typer.Option(help="Break the totals down.", show_default=False)
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Also recount from the Parquet files and the broker, and compare.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Print what became of every message and row; ends with 13 if the counts do not add up."""
    import vitalake
    from vitalake.errors import LakeError

    opened = vitalake.open(home)
    out = Output(json)
    summary = opened.ledger(job, progress=lambda day: out.tell(f"Reading spans of {day}"))
    agrees = True
    if audit:
        from pipelines.live.recount import recount

        summary["audit"] = recount(opened.settings, job, progress=out.tell)
        agrees = summary["audit"]["agrees"]
    out.answer(summary, lambda: print_ledger(summary, by=by))
    if audit:
        out.show(lambda: print_audit(summary["audit"]))
    if not (summary["balanced"] and agrees):
        raise typer.Exit(LakeError.exit_code)


def print_ledger(summary: dict[str, Any], by: str | None = None) -> None:
    """Print a summary for people: the equations with their numbers, and the breakdown that was asked for."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    verdict = "[bold green]balanced[/]" if summary["balanced"] else "[bold red]DOES NOT BALANCE[/]"
    latency = summary["latency_ms"]
    console.print(
        f"Ledger: {verdict}, {summary['spans']:,} spans, last commit {summary['last_commit_at'] or 'never'}, "
        f"latency p50 {_ms(latency['p50'])}, p99 {_ms(latency['p99'])}"
    )
    groups = {"all": summary} | (summary[f"by_{by}"] if by else {})
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column(by or "")
    columns = (*_COLUMNS, *(name for name in _LATER if summary[name]))
    for name in columns:
        table.add_column(name, justify="right")
    for name, entry in groups.items():
        table.add_row(name, *(f"{entry[column]:,}" for column in columns))
    # Numbers must not be cut where the output is not a terminal.
    Console(highlight=False, width=None if console.is_terminal else 200).print(table)
    for equation in _EQUATIONS:
        console.print(equation, style="dim")
    if len(columns) > len(_COLUMNS):
        console.print(f"in the lake = {' + '.join(('published', *columns[len(_COLUMNS) :]))}", style="dim")
    for column, count in summary["unfit"].items():
        console.print(f"published without the text sent in {column}: {count:,} rows, see docs/how-to/closed-text.md")
    _print_local(console, summary)
    for part in summary["lost_upstream_unknown"]:
        console.print(
            f"lost upstream, number not known: {part} (the topic was deleted and created again)", style="yellow"
        )
    for problem in summary["problems"]:
        console.print(problem, style="red")


def _print_local(console: Console, summary: dict[str, Any]) -> None:
    """Print the mapped local codes, and those that are not mapped; the most frequent first."""
    for name, count in sorted(summary["mapped"].items(), key=lambda item: (-item[1], item[0])):
        console.print(f"local code {name or 'of others'}: {count:,} rows", markup=False, soft_wrap=True)
    for name, count in sorted(summary["unmapped"].items(), key=lambda item: (-item[1], item[0])):
        console.print(
            f"local code {name or 'of others'} is not mapped: {count:,} rows, see docs/how-to/declare-codes.md",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip


def print_audit(document: dict[str, Any]) -> None:
    """Print the results of the recount."""
    from rich.console import Console

    console = Console(highlight=False)
    verdict = "[bold green]agrees[/]" if document["agrees"] else "[bold red]DISAGREES[/]"
    console.print(f"Audit: the recount {verdict} with the ledger")
    for check in document["checks"]:
        mark = "[green]✓[/]" if check["agrees"] else "[red]✗[/]"
        console.print(f" {mark} {check['what']}: ledger {check['ledger']:,}, recounted {check['recounted']:,}")
    for sentence in document["not_recounted"]:
        console.print(f" – not recounted: {sentence}", style="yellow")


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} ms"
