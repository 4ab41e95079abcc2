"""What ``vitalake patient`` prints for people: certificates, and what is held of a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from governance.erasure.certificate import Certificate
    from pipelines.erasure.patient_removal import Holdings


def print_holdings(numbers: Sequence[Holdings]) -> None:
    """Print what is held of a patient, under each of the patient's numbers; it shows no value."""
    for i, found in enumerate(numbers):
        if len(numbers) > 1:
            typer.echo(f"{'The number that was given' if i == 0 else 'Another number of the patient'}:")
        for table, rows in found.tables.items():
            if rows:
                typer.echo(f"{table}: {rows:,} {'messages' if table.startswith('quarantine/') else 'rows'}")
        for store, kinds in found.elsewhere.items():
            if kinds:
                typer.echo(f"{store}: {', '.join(f'{count:,} {kind}' for kind, count in sorted(kinds.items()))}")
        if not any(found.tables.values()) and not any(found.elsewhere.values()):
            typer.echo("Nothing is held of this patient.")
        if found.unreadable:
            typer.echo(f"{found.unreadable:,} messages cannot be opened; it is not known whether they name the patient")
        if found.nameless:
            typer.echo(f"{found.nameless:,} messages name nobody whom the vault knows; some may be the patient's")


def print_certificate(done: Certificate) -> None:
    """Print what an erasure removed, and which places it does not reach."""
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"Certificate {done.id}: begun {done.begun_at}, finished {done.finished_at}, by {done.actor}")
    typer.echo(f"Reason: {done.reason}")
    if done.resumed:
        typer.echo("The erasure was interrupted and continued: the counts cover the last run only.")
    if done.together:
        typer.echo(f"Certificates of the patient's other numbers: {', '.join(done.together)}")
    grid = Table(box=None, padding=(0, 2), header_style="bold")
    for name in ("table", "rows removed", "files searched", "bytes searched", "files rewritten", "bytes rewritten",
                 "older files deleted"):  # fmt: skip
        grid.add_column(name, justify="left" if name == "table" else "right", overflow="fold")
    for entry in done.tables:
        grid.add_row(entry.table, *(f"{n:,}" for n in (entry.rows, entry.files_searched, entry.bytes_searched,
                     entry.files_rewritten, entry.bytes_rewritten, entry.files_deleted)))  # fmt: skip
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 170).print(grid)
    for name, count in done.elsewhere.items():
        typer.echo(f"{name}: {count:,} entries removed")
    for entry in done.tables:
        if entry.unreadable:
            typer.echo(
                f"{entry.table}: {entry.unreadable:,} messages remain that nobody can open; "
                "it is not known whether they name the patient"
            )
        if entry.nameless:
            typer.echo(
                f"{entry.table}: {entry.nameless:,} messages remain that name nobody whom the vault knows for certain; "
                "some may be the patient's"
            )
    typer.echo("Not reached by this erasure:")
    for place in done.outside:
        typer.echo(f"  {place.place}: {place.what}{f'; expires by {place.until}' if place.until else ''}")
