"""``vitalake dead-letters``: which messages were rejected, where and why; never what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, print_json, resolve_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

_SHOWN = ("source", "position", "rejected_at", "reason", "path", "decoder", "payload_bytes")
_METADATA = (*_SHOWN, "topic_id", "key_id", "expires_at")
"""The columns of vitalake/datasets/dead_letter.yaml without the envelope: nonce and payload are never read here."""


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Rejected messages: where they are and why they were rejected; never what they hold.")
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="dead-letters", no_args_is_help=True)


def list_(
    home: HomeOption = None,
    reason: Annotated[str | None, typer.Option(help="Only this reason code.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest days first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List dead letters and how many there are of each reason."""
    reasons: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for table in _days(home, ["reason"]):
        for entry in table["reason"].value_counts().to_pylist():
            reasons[entry["values"]] = reasons.get(entry["values"], 0) + entry["counts"]
    for table in _days(home, list(_METADATA)):
        if len(rows) >= limit:
            break
        chosen = [row for row in _newest_first(table) if reason in (None, row["reason"])]
        rows += chosen[: limit - len(rows)]
    document = {
        "total": sum(reasons.values()),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "dead_letters": rows,
    }
    if json:
        print_json(document)
    else:
        _print(document)


def show(
    source: Annotated[str, typer.Argument(help="topic[partition]")],
    position: Annotated[int, typer.Argument(help="Offset.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is known of one dead letter, its encrypted payload aside."""
    from vitalake.errors import InputError

    found = []
    for table in _days(home, list(_METADATA)):
        mask = [s == source and p == position for s, p in zip(*(table[n].to_pylist() for n in _SHOWN[:2]), strict=True)]
        found += table.filter(mask).to_pylist()
    if not found:
        raise InputError(
            "No such dead letter", where=f"{source}@{position}", remedy="See 'vitalake dead-letters list'."
        )
    if json:
        print_json({"dead_letters": found})
        return
    for row in found:  # more than one when a topic was made again, or a message replayed
        for name, value in row.items():
            typer.echo(f"{name:14} {value}")


def _days(home: Any, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the quarantine a day at a time, the newest first."""
    from vitalake.cli.ledger import open_lake
    from vitalake.settings import load_settings

    lake = open_lake(load_settings(resolve_home(home)))
    if not lake.storage.holds_table("quarantine/dead_letter"):
        return
    days = {str(file.day) for file in lake.quarantine.snapshot().files.values()}
    for day in sorted(days, reverse=True):
        yield lake.quarantine.scan(days=[day], columns=columns)


def _newest_first(table: pa.Table) -> list[dict[str, Any]]:
    return table.sort_by([("rejected_at", "descending"), ("position", "descending")]).to_pylist()


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{document['total']:,} dead letters[/]")
    for reason, count in document["reasons"].items():
        console.print(f"  {count:>9,}  {reason}")
    if not document["dead_letters"]:
        return
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in _SHOWN:
        table.add_column(name.replace("_", " "), justify="right" if name in ("position", "payload_bytes") else "left")
    for row in document["dead_letters"]:
        table.add_row(*(str(row[name]) for name in _SHOWN))
    Console(highlight=False, width=None if console.is_terminal else 200).print(table)
