"""``vitalake sql``: queries published data, and identified data for privacy officers."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output

if TYPE_CHECKING:
    import pyarrow as pa

    from governance.query.service import Answer
    from vitalake.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sql")(sql)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the published datasets.")],
    home: HomeOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most rows to return.")] = 1_000,
    seconds: Annotated[int, typer.Option(min=1, max=3_600, help="Most seconds that the query may run.")] = 60,
    identified: Annotated[
        bool, typer.Option("--identified", help="Query identified rows, restricted_<dataset>; for privacy officers.")
    ] = False,
    purpose: Annotated[
        str, typer.Option(help="With --identified: why you ask. It is recorded; name no patient in it.")
    ] = "",
    patient: Annotated[
        str | None,
        typer.Option(
            help="With --identified: only rows of this patient; a pseudonym, a record number, or the id at the source."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Answer a query over published data; ends with 12 if the query is not allowed. Every query is recorded.

    The name of a dataset stands for its current rows, <dataset>_versions for all rows, and
    <dataset>_as_known_at(TIMESTAMP '2026-03-01 12:00') for the rows that were current by what could be known then.
    """
    import vitalake

    opened = vitalake.open(home)
    if identified:
        answer = _identify(opened.settings, query, purpose, patient, rows=limit, seconds=seconds)
    elif purpose or patient is not None:
        raise typer.BadParameter("--purpose and --patient are only valid with --identified.")
    else:
        answer = opened.sql(query, rows=limit, seconds=seconds)
    rows = [list(map(_plain, row)) for row in zip(*(column.to_pylist() for column in answer.rows.columns), strict=True)]
    names = answer.rows.schema.names
    out = Output(json)
    out.answer(
        {"columns": names, "rows": rows, "complete": answer.complete, "datasets": answer.datasets},
        lambda: _print(answer.rows.schema, rows),
    )
    if not answer.complete:
        out.tell(f"Only the first {len(rows)} rows are shown, there are more. Narrow the query, or raise --limit.")


def _identify(settings: Settings, query: str, purpose: str, patient: str | None, *, rows: int, seconds: int) -> Answer:
    from governance.access import local_privacy_officer
    from governance.erasure.reasons import named_by
    from governance.query.restricted import RestrictedQueryService

    principal = local_privacy_officer(settings)
    query_service = RestrictedQueryService(settings, named_by=named_by)
    return query_service.identify(
        query, principal=principal, purpose=purpose, patient=patient, rows=rows, seconds=seconds
    )


def _plain(value: Any) -> Any:
    """Return a value for JSON and for people: bytes in hex, times in ISO 8601, sums of integers as integers."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if hasattr(value, "isoformat") else value


def _print(schema: pa.Schema, rows: list[list[Any]]) -> None:
    """Print rows as a grid; if a grid would be wider than the terminal, print each row as a list of its values."""
    import pyarrow as pa
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [["" if value is None else str(value) for value in row] for row in rows]
    terminal = Console(highlight=False)
    console = Console(highlight=False, width=None if terminal.is_terminal else 160)
    widths = [max(map(len, column)) + 4 for column in zip(schema.names, *cells, strict=True)]
    grid = Table(box=None, padding=(0, 2), header_style="bold")
    if sum(widths) <= console.width:
        for field in schema:
            numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            grid.add_column(Text(field.name), justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            grid.add_row(*map(Text, row))
    else:
        grid.show_header = False
        for row in cells:
            for name, cell in zip(schema.names, row, strict=True):
                grid.add_row(Text(name, style="bold"), Text(cell))
            grid.add_row()
    console.print(grid)
