"""``vitalake score``: scores all patients at once from published rows, for a spreadsheet or a program."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.durations import parse_start
from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from models.scoring import ScoreRecord

COLUMNS = ("patient", "encounter", "as_of", "news2", "news2_missing", "probability", "abstained", "model", "id")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("score")(score)


def score(
    task: Annotated[str, typer.Argument(help="A task of the project or of the home, such as mortality.")],
    home: HomeOption = None,
    at: Annotated[str | None, typer.Option(help="Time of the scores, with its zone; default: now.")] = None,
    json: JsonOption = False,
) -> None:
    """Score every patient who is in hospital and print CSV with pseudonyms; the learnt score is not approved."""
    from models.batch import score_published
    from vitalake.settings import load_settings

    moment = parse_start(at) if at else None
    if moment is not None and not moment.isdigit():
        message = "write a time with its zone: 2026-11-23T19:00:00Z"
        raise typer.BadParameter(message, param_hint="--at")
    now_us = int(moment) * 1000 if moment is not None else None
    records = score_published(load_settings(resolve_home(home)), task, now_us=now_us)
    documents = [_document(record) for record in records]
    Output(json).answer(documents, lambda: _write(documents))


def _write(documents: list[dict[str, Any]]) -> None:
    import csv

    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(documents)


def _document(record: ScoreRecord) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "patient": record.patient,
        "encounter": record.encounter,
        "as_of": datetime.fromtimestamp(record.as_of_us / 1e6, tz=UTC).isoformat(),
        "news2": record.news2.total,
        "news2_missing": " ".join(record.news2.missing),
        "probability": record.probability,
        "abstained": record.abstained,
        "model": record.model,
        "id": record.id,
    }
