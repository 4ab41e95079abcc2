"""``vitalake audit``: checks the audit, and lists who saw a patient's data. Each of these queries is recorded too."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output, note
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from governance.audit import Report, Seen
    from pipelines.people.patients import Person
    from vitalake.keys import KeyRing
    from vitalake.settings import Settings

WRITER = "cli"
NOT_WHOLE = 12

ONLY_THIS = (
    "The vault does not know a patient by this pseudonym (any more): only accesses under this one pseudonym are "
    "listed. Ask again with each other pseudonym of the patient that you know."
)


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="The audit: whether its chains are intact, and who saw a patient's data.")
    group.command("verify")(verify)
    group.command("who-saw")(who_saw)
    group.command("list")(list_)
    group.command("begin")(begin)
    app.add_typer(group, name="audit", no_args_is_help=True)


def verify(
    home: HomeOption = None,
    known: Annotated[
        Path | None,
        typer.Option(help="An earlier output of 'audit verify --json': check that no record since then was removed."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check every record of every chain; ends with 12 if the audit is not intact."""
    from governance.audit import anchor_folder, beginning_mismatch, verify_chain
    from vitalake.errors import VitaLakeError

    settings, keys = _open(home)
    earlier = _read_report(known) if known else None
    report = verify_chain(settings.path(settings.audit), keys, known=earlier, outside=anchor_folder(settings))
    if wrong := beginning_mismatch(settings):
        report.problems.append(wrong)
    try:
        _record(settings, keys, "verify")
    except VitaLakeError as error:  # a broken chain accepts no record, and must be reported all the same
        note(f"This check could not be recorded. {error}")
    document = {"whole": report.whole, "problems": report.problems, "chains": [asdict(c) for c in report.chains]}
    document |= {"anchored_at": report.anchored_at.isoformat() if report.anchored_at else None}
    Output(json).answer(document, lambda: _print_report(report))
    if not report.whole:
        raise typer.Exit(NOT_WHOLE)


def who_saw(
    patient: Annotated[
        str,
        typer.Argument(
            help="A pseudonym, current or former; the record number; or the id at the source. '-' reads standard input."
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List every access to a patient's data, under all current and former pseudonyms and numbers of the patient."""
    from governance.audit import who_saw as find

    settings, keys = _open(home)
    given = sys.stdin.readline().strip() if patient == "-" else patient
    person = _find_person(settings, keys, given)
    _record(settings, keys, "who-saw", person.pseudonym)
    found = find(settings.path(settings.audit), keys, *person.pseudonyms)
    out = Output(json)
    if person.numbers == 0:
        note(ONLY_THIS)
    else:
        out.tell(f"Searched for {len(person.pseudonyms)} pseudonyms of {person.numbers} numbers of this patient.")
    out.answer(_seen(found) | {"all_pseudonyms": person.numbers > 0}, lambda: _print_seen(found))


def list_(
    home: HomeOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Most accesses to list.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the newest accesses to patients' data; it does not show which patients."""
    from governance.audit import latest

    settings, keys = _open(home)
    _record(settings, keys, "list")
    found = latest(settings.path(settings.audit), keys, limit=limit)
    Output(json).answer(_seen(found), lambda: _print_seen(found))


def begin(
    reason: Annotated[str, typer.Option("--reason", help="Why, as a code, such as the number of the incident.")],
    home: HomeOption = None,
) -> None:
    """Begin a new audit in the place of a damaged or lost one; the old files are kept under another name."""
    from contextlib import suppress

    from governance.access import local_principal
    from governance.audit import AuditEvent, anchor_folder, forget_beginning, open_audit, set_audit_aside
    from governance.erasure.reasons import refuse_naming_if_known
    from vitalake.errors import VitaLakeError

    settings, keys = _open(home)
    officer = local_principal("officer")
    detail = {"reason": reason}
    try:
        AuditEvent("audit.begin", officer.subject, officer.role, (), detail)
    except ValueError:
        raise typer.BadParameter("use letters, digits and . , : + / ( ) - only", param_hint="--reason") from None

    def record(event: AuditEvent) -> None:
        with suppress(VitaLakeError):  # a damaged audit may accept no record
            open_audit(settings, keys, writer=WRITER).record(event)

    refuse_naming_if_known(
        reason, settings, keys, where="--reason", wanted="audit.begin", by=officer, record=record, unaudited=True
    )
    before = set_audit_aside(settings.path(settings.audit), anchor_folder(settings))
    forget_beginning(settings)
    event = AuditEvent("audit.begin", officer.subject, officer.role, (), detail | {"before": before})
    open_audit(settings, keys, writer=WRITER).record(event)
    typer.echo(f"A new audit has begun; the old one is kept as {before}.")


def _open(home: Path | None) -> tuple[Settings, KeyRing]:
    from vitalake.home import Home
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    return settings, Home(settings).keys


def _find_person(settings: Settings, keys: KeyRing, given: str) -> Person:
    """Return the patient with all pseudonyms; of a pseudonym that the vault does not know, only itself and no number.

    Raises:
        InputError: a number or id that no patient has.
        VitaLakeError: the vault cannot be opened, and a number or id was given.
    """
    from contextlib import closing

    from governance.keyuse import open_vault
    from pipelines.people.patients import Patients, Person
    from vitalake.errors import InputError, VitaLakeError
    from vitalake.pseudonyms import looks_like_token

    is_token = looks_like_token(given)
    found = None
    try:
        with closing(open_vault(settings, keys, purpose="who-saw")) as vault:
            patients = Patients(settings, keys, vault)
            found = patients.by_pseudonym(given) if is_token else patients.by_number(given)
    except VitaLakeError as error:
        if not is_token:
            raise
        note(f"The vault cannot be asked for the patient's other pseudonyms. {error}")
    if found is None and not is_token:
        raise InputError(
            "No patient has this number or id",
            where="patient",
            remedy="Give a pseudonym, a record number, or the id as the source writes it.",
        )
    return found or Person(given, frozenset((given,)), 0)


def _record(settings: Settings, keys: KeyRing, command: str, *patients: str) -> None:
    """Record a query before it is answered; whoever can read the key file acts as an officer."""
    from governance.access import local_principal
    from governance.audit import AuditEvent, open_audit

    officer = local_principal("officer")
    event = AuditEvent("audit.read", officer.subject, officer.role, patients, {"command": command})
    open_audit(settings, keys, writer=WRITER).record(event)


def _read_report(path: Path) -> dict[str, tuple[int, str]]:
    import msgspec

    from vitalake.errors import InputError

    try:
        document = msgspec.json.decode(path.read_bytes())
        return {chain["writer"]: (int(chain["records"]), str(chain["mac"])) for chain in document["chains"]}
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        raise InputError(
            "File is not a report of the audit",
            where=str(path),
            remedy="Give a file with the output of 'vitalake audit verify --json'.",
        ) from None


def _print_report(report: Report) -> None:
    rows = []
    for chain in report.chains:
        states = [f"NOT INTACT: {chain.problem}"] if chain.problem else ["intact"]
        states += [f"{chain.torn} records torn by crashes, sealed off"] if chain.torn else []
        states += ["end not sealed yet, because of a crash"] if chain.unsealed and not chain.problem else []
        rows.append([chain.writer, str(chain.records), "; ".join(states)])
    _print_grid(["chain", "records", "state"], rows)
    for problem in report.problems:
        typer.echo(f"NOT INTACT: {problem}")
    if report.anchored_at:
        typer.echo(f"The heads were last copied to settings.anchors at {report.anchored_at:%Y-%m-%d %H:%M:%S} UTC.")
    typer.echo("The audit is intact." if report.whole else "The audit is NOT intact.")


def _seen(found: Sequence[Seen]) -> dict[str, Any]:
    return {"records": [{**asdict(seen), "at": seen.at.isoformat()} for seen in found]}


def _print_seen(found: Sequence[Seen]) -> None:
    rows = []
    for seen in found:
        detail: dict[str, Any] = seen.detail
        codes = " ".join(f"{name}={text}" for name, text in sorted(detail.items()))
        at = seen.at.strftime("%Y-%m-%d %H:%M:%S")
        rows.append([at, seen.actor, seen.role, seen.action, str(seen.patients or ""), seen.writer, codes])
    _print_grid(["at (UTC)", "who", "role", "what", "patients", "by", "detail"], rows)
    if not found:
        typer.echo("No access is recorded.")


def _print_grid(names: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, padding=(0, 2), header_style="bold")
    for name in names:
        grid.add_column(name)
    for row in rows:
        grid.add_row(*map(Text, row))
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 160).print(grid)
