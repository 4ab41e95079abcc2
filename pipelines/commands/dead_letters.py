"""``vitalake dead-letters``: lists rejected messages with place and reason, replays or discards them.

It never shows what a message contains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output, note

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from pipelines.core.open_letters import Choice, Places
    from pipelines.reprocess.dead_letters import Report
    from vitalake.lake.commits.lake import Lake
    from vitalake.settings import Settings

WRITER = "cli"

_SHOWN = ("source", "position", "rejected_at", "reason", "path", "decoder", "payload_bytes")
_METADATA = (*_SHOWN, "topic_id", "key_id", "expires_at", "dataset")
"""The columns of vitalake/datasets/dead_letter.yaml without the envelope: nonce and payload are never read here."""

ReasonOption = Annotated[str | None, typer.Option("--reason", help="Only this reason code.")]
SourceOption = Annotated[
    str | None, typer.Option("--source", metavar="TOPIC[PARTITION]", help="Only this partition; or a topic, all of it.")
]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Rejected messages: list them with place and reason, replay or discard them.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("replay")(replay)
    group.command("discard")(discard)
    app.add_typer(group, name="dead-letters", no_args_is_help=True)


# -- looking -----------------------------------------------------------------------------------------------------


def list_(
    home: HomeOption = None,
    reason: ReasonOption = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are neither recovered nor discarded.")] = (
        False
    ),
    limit: Annotated[int, typer.Option(min=1, help="Most dead letters to list, newest days first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List dead letters with their state, and count them by reason."""
    lake = _lake(home)
    reasons: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for table in _days(lake, ["reason"]):
        for entry in table["reason"].value_counts().to_pylist():
            reasons[entry["values"]] = reasons.get(entry["values"], 0) + entry["counts"]
    states = _states(lake)
    for table in _days(lake, list(_METADATA)):
        if len(rows) >= limit:
            break
        chosen = [row for row in _newest_first(table, states) if reason in (None, row["reason"])]
        rows += [row for row in chosen if row["state"] == "open" or not only_open][: limit - len(rows)]
    document = {
        "total": sum(reasons.values()),
        **_counts(lake),
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        "dead_letters": rows,
    }
    Output(json).answer(document, lambda: _print(document))


def show(
    source: Annotated[str, typer.Argument(help="topic[partition]")],
    position: Annotated[int, typer.Argument(help="Offset.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show all that is stored about one dead letter, without its encrypted payload."""
    from vitalake.errors import InputError

    lake = _lake(home)
    states, found = _states(lake), []
    for table in _days(lake, list(_METADATA)):
        found += [r for r in _newest_first(table, states) if (r["source"], r["position"]) == (source, position)]
    if not found:
        raise InputError(
            "No such dead letter", where=f"{source}@{position}", remedy="See 'vitalake dead-letters list'."
        )
    # Several if a topic was deleted and created again, or is read into several datasets.
    lines = (f"{name:14} {value}" for row in found for name, value in row.items())
    Output(json).answer({"dead_letters": found}, *lines)


def _lake(home: Any) -> Lake:
    import vitalake

    return vitalake.open(home).lake()


def _days(lake: Lake, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the dead letters of each day, newest day first."""
    if not lake.storage.holds_table("quarantine/dead_letter"):
        return
    days = {str(file.day) for file in lake.quarantine.snapshot().files.values()}
    for day in sorted(days, reverse=True):
        yield lake.quarantine.scan(days=[day], columns=columns)


def _states(lake: Lake) -> dict[str, Places]:
    """Return the places of the dead letters that are resolved, by outcome."""
    from pipelines.core.open_letters import DEAD_LETTER, resolved

    return {name: resolved(lake, DEAD_LETTER, outcome=name) for name in ("recovered", "discarded")}


def _counts(lake: Lake) -> dict[str, int]:
    """Return how many dead letters are open, recovered and discarded; resolved ones are counted after they expired."""
    from pipelines.core.open_letters import DEAD_LETTER, census, outcomes

    done = outcomes(lake, DEAD_LETTER)
    return {"open": census(lake, DEAD_LETTER).open} | {name: done[name] for name in ("recovered", "discarded")}


def _newest_first(table: pa.Table, states: dict[str, Places]) -> list[dict[str, Any]]:
    """Return the rows of a day with their state, newest first."""
    import numpy as np

    state = np.full(table.num_rows, "open", object)
    for name, places in states.items():
        state[places.hold(table)] = name
    table = table.append_column("state", [state.tolist()])
    rows: list[dict[str, Any]] = table.sort_by([("rejected_at", "descending"), ("position", "descending")]).to_pylist()
    return rows


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"[bold]{document['total']:,} dead letters[/]: {document['open']:,} open, "
        f"{document['recovered']:,} recovered, {document['discarded']:,} discarded"
    )
    for reason, count in document["reasons"].items():
        console.print(f"  {count:>9,}  {reason}")
    if not document["dead_letters"]:
        return
    names = (*_SHOWN, "state")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right" if name in ("position", "payload_bytes") else "left")
    for row in document["dead_letters"]:
        table.add_row(*(str(row[name]) for name in names))
    Console(highlight=False, width=None if console.is_terminal else 200).print(table)


# -- replaying and discarding ------------------------------------------------------------------------------------


def replay(
    home: HomeOption = None,
    reason: ReasonOption = None,
    source: SourceOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most dead letters to replay, oldest first.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what a replay would recover; change nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Process open dead letters again with today's decoders, vocabulary and rules.

    Messages that are rejected again stay open.
    """
    from governance.belonging import admit
    from pipelines.reprocess.dead_letters import replay as run
    from pipelines.reprocess.dead_letters import unknown_topics

    settings, choice = _settings(home), _choice(reason, source)
    admit(settings, identified=True)
    actor = "" if dry_run else _record(settings, choice)
    out = Output(json)
    report = run(
        settings,
        actor=actor,
        choice=choice,
        limit=limit,
        dry_run=dry_run,
        progress=lambda so_far: out.tell(f"{so_far.tried:,} of {so_far.open:,}"),
    )
    out.answer(report.to_json(), lambda: _print_report(report))
    if error := unknown_topics(report):
        raise error


def discard(
    reason_text: Annotated[
        str, typer.Option("--reason-text", help="Why, in your words. They are kept unencrypted: name no patient.")
    ],
    home: HomeOption = None,
    reason: ReasonOption = None,
    source: SourceOption = None,
    position: Annotated[
        int | None, typer.Option(min=0, help="Only the message at this offset; with --source topic[partition].")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All open dead letters.")] = False,
    json: JsonOption = False,
) -> None:
    """Discard open dead letters: they are never replayed; who did it and why is recorded."""
    from governance.access import local_principal
    from governance.audit import open_audit
    from governance.belonging import admit
    from pipelines.reprocess.discarding import checked_words
    from pipelines.reprocess.discarding import discard as give_up
    from vitalake.home import Home

    one = source is not None and source.endswith("]") and position is not None
    if sum((every, reason is not None, one)) != 1 or (position is not None) != one or (source is not None) != one:
        message = "give one of: --all; --reason CODE; --source TOPIC[PARTITION] with --position OFFSET"
        raise typer.BadParameter(message)
    words = checked_words(reason_text)
    settings = _settings(home)
    admit(settings)
    note("Your words are kept unencrypted with these dead letters. Do not name a patient in them.")
    audit = open_audit(settings, Home(settings).keys, writer=WRITER)
    choice = _choice(reason, source, position)
    count = give_up(settings, choice, words=words, principal=local_principal("officer"), audit=audit)
    Output(json).answer(
        {"discarded": count},
        f"{count:,} dead letters are discarded." if count else "No open dead letter matches: nothing was discarded.",
    )


def _settings(home: Any) -> Settings:
    import vitalake

    opened = vitalake.open(home)
    opened.refuse_no_lake()
    return opened.settings


def _choice(reason: str | None, source: str | None, position: int | None = None) -> Choice:
    from pipelines.core.open_letters import Choice
    from pipelines.formats.shared.reasons import Reason

    if reason is not None and reason not in list(Reason):
        message = f"use one of: {', '.join(Reason)}"
        raise typer.BadParameter(message, param_hint="--reason")
    return Choice(reason=reason, source=source, position=position)


def _record(settings: Settings, choice: Choice) -> str:
    """Record the replay before messages are opened; return the account that runs it."""
    from governance.access import local_principal
    from governance.audit import AuditEvent, open_audit
    from vitalake.home import Home

    engineer = local_principal("engineer")
    detail = {"reason": choice.reason} if choice.reason else {}
    event = AuditEvent("dead-letters.replay", engineer.subject, engineer.role, (), detail)
    open_audit(settings, Home(settings).keys, writer=WRITER).record(event)
    return engineer.subject


def _print_report(report: Report) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    rows = report.to_json()["rows"]
    would = "would be " if report.dry_run else ""
    console.print(f"[bold]{report.recovered:,} of {report.open:,} open dead letters {would}recovered[/]")
    if report.recovered:
        console.print(f"  their rows: {', '.join(f'{count:,} {name}' for name, count in rows.items() if count)}")
    if report.rejected_again:
        console.print(f"  {report.rejected_again:,} rejected again, still open:")
        for reason, count in report.reasons.most_common():
            console.print(f"  {count:>9,}  {reason}")
    if report.unopened:
        console.print(
            f"  {report.unopened:,} cannot be decrypted, and stay open: their key is gone, or they were changed"
        )
    left = report.open - report.tried - report.unknown_topics.total()
    if left > 0:
        console.print(f"  {left:,} not tried")
