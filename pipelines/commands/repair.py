"""``vitalake lake repair``: makes damaged files and logs again, and names what cannot be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output

if TYPE_CHECKING:
    from pipelines.republish.repair import Repair


def repair(
    home: HomeOption = None,
    leave: Annotated[
        bool, typer.Option("--leave-out", help="Remove files that cannot be made again from their tables.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Read every file and log of the lake, and make damaged ones again; ends with 13 if damage is left."""
    import vitalake
    from governance.belonging import admit, examine_belonging, repair_erasure_records
    from pipelines.republish.repair import repair as repair_all
    from vitalake.errors import LakeError
    from vitalake.home import Home

    opened = vitalake.open(home)
    opened.refuse_no_lake()
    settings = opened.settings
    keys = Home(settings).keys
    erasure_notes = repair_erasure_records(settings, keys)
    admit(settings, any_format=True)
    out = Output(json)
    done = repair_all(settings, leave=leave, progress=out.tell)
    done.notes[:0] = erasure_notes
    done.left += [str(error) for error in examine_belonging(settings, keys).damaged]
    out.answer(done.to_json(), lambda: _print(done))
    if done.left:
        raise typer.Exit(LakeError.exit_code)


def _print(done: Repair) -> None:
    for log in done.logs:
        typer.echo(
            f"{log.table}: {len(log.set_aside)} files of its log were set aside, {log.spans} spans with {log.rows:,} "
            f"rows added again{'; its newest entry was written again, from its checkpoint' if log.restored else ''}"
        )
    for dataset in done.republished:
        typer.echo(f"{dataset}: published again")
    for files in done.files:
        if files.how:
            typer.echo(f"{files.table}: {files.rows:,} rows of {files.files} damaged files were made again")
    if done.lookbacks:
        typer.echo(f"{done.lookbacks} damaged look-back files were deleted; an exact duplicate may be published again")
    for table, rows in done.left_out.items():
        typer.echo(f"{table}: {rows:,} rows were removed with their damaged files")
    for line in done.notes:
        typer.echo(f"note: {line}")
    for line in done.left:
        typer.echo(f"not repaired: {line}")
    typer.echo(
        "The lake is NOT whole."
        if done.left
        else "The lake is whole: its logs, files and spans agree. To check databases, run 'vitalake doctor'."
    )
