"""``vitalake lake repair``: what is damaged is made again, and what cannot be is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output

if TYPE_CHECKING:
    from pipelines.republish.repair import Repair


def repair(
    home: HomeOption = None,
    leave: Annotated[
        bool, typer.Option("--leave-out", help="Take files that cannot be made again out of their tables.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Read every file and log of the lake and make what is damaged again; ends with 13 when something is left."""
    import vitalake
    from governance.belonging import admit, examine_belonging, repair_erasure_records
    from pipelines.republish.repair import repair as mend_all
    from vitalake.errors import LakeError
    from vitalake.home import Home

    opened = vitalake.open(home)
    opened.refuse_no_lake()
    settings = opened.settings
    keys = Home(settings).keys
    again = repair_erasure_records(settings, keys)
    admit(settings, any_format=True)
    out = Output(json)
    done = mend_all(settings, leave=leave, progress=out.tell)
    done.notes[:0] = again
    done.left += [str(error) for error in examine_belonging(settings, keys).damaged]
    out.answer(done.to_json(), lambda: _tell(done))
    if done.left:
        raise typer.Exit(LakeError.exit_code)


def _tell(done: Repair) -> None:
    for log in done.logs:
        typer.echo(
            f"{log.table}: {len(log.set_aside)} files of its log were set aside, {log.spans} spans with {log.rows:,} "
            "rows added again"
        )
    for dataset in done.republished:
        typer.echo(f"{dataset}: published again")
    for files in done.files:
        if files.how:
            typer.echo(f"{files.table}: {files.rows:,} rows of {files.files} damaged files were made again")
    if done.lookbacks:
        typer.echo(f"{done.lookbacks} damaged look-back files were deleted; an exact repeat may be published once more")
    for table, rows in done.left_out.items():
        typer.echo(f"{table}: {rows:,} rows were taken out with their files")
    for line in done.notes:
        typer.echo(f"note: {line}")
    for line in done.left:
        typer.echo(f"left: {line}")
    typer.echo(
        "The lake is NOT whole."
        if done.left
        else "The lake is whole: its logs, files and spans agree. Databases are not looked at: run 'vitalake doctor'."
    )
