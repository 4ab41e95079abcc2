"""``vitalake patient``: shows what is held of a patient, erases a patient, and sets and ends legal holds."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipelines.commands.patient_texts import print_certificate, print_holdings
from vitalake.cli.output import HomeOption, JsonOption, Output, note
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from governance.erasure.certificate import Certificate
    from governance.vault import Hold, Vault
    from pipelines.erasure.request import Eraser
    from vitalake.errors import VitaLakeError
    from vitalake.keys import KeyRing
    from vitalake.settings import Settings

PatientArgument = Annotated[
    str,
    typer.Argument(help="The pseudonym, or the id as the source writes it; '-' reads it from standard input."),
]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, such as the number of the request; it must not name anybody.")
]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(
        help="Show what is held of a patient; erase a patient, show certificates; set or end a legal hold."
    )
    group.command("show")(show)
    group.command("erase")(erase)
    group.command("certificate")(certificate)
    group.command("reapply")(reapply)
    group.command("hold")(hold)
    group.command("release")(release)
    app.add_typer(group, name="patient", no_args_is_help=True)


def show(patient: PatientArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Show how much every table, store and rejected or held message has of a patient; it shows no value."""
    out = Output(json)
    with _opened(home, purpose="show") as (eraser, settings, keys, _):
        given = _given(patient)
        eraser.subject_of(given)
        _record(settings, keys, "patient.show", patients=eraser.tokens_of(given, all_numbers=True), outcome="asked")
        numbers = eraser.find(given)
    document = {"numbers": len(numbers), "held": _plain(numbers)}
    out.answer(document, lambda: print_holdings(numbers))


def erase(
    patient: Annotated[
        str | None,
        typer.Argument(
            help="The pseudonym, or the id as the source writes it; '-' reads it from standard input. Without it, only "
            "interrupted erasures are finished."
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Why, such as the number of the request; it must not name anybody.")
    ] = "",
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask for confirmation. An erasure cannot be undone.")
    ] = False,
    all_numbers: Annotated[
        bool,
        typer.Option("--all-numbers", help="Also erase the patient's other numbers, as merged by admission messages."),
    ] = False,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Accept an id that the vault does not know: rejected messages may name it."),
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Erase a patient: destroy the key, remove the rows from every zone and version, and write a certificate."""
    out = Output(json)
    with _opened(home, tell=out.tell) as (eraser, settings, keys, _):
        finished = _finish(eraser, settings, keys)
        if patient is None:
            for done in finished.done:
                _show(done, out)
            if finished.errors:
                raise finished.errors[0]
            return
        given = _given(patient)
        if not reason.strip():
            raise typer.BadParameter("give a reason, such as the number of the request", param_hint="--reason")
        eraser.subject_of(given, unknown=unknown)
        if (known := eraser.forgotten(given)) is not None:
            _remove_arrivals(eraser, settings, keys, given, known, out)
            return
        if not yes and not typer.confirm("This patient will be erased. This cannot be undone. Continue?", err=True):
            raise typer.Exit(1)
        from governance.access.principal import local_principal
        from governance.audit import recording_stop

        tokens = eraser.tokens_of(given, all_numbers=all_numbers)
        _record(settings, keys, "patient.erase", outcome="begun", patients=tokens)
        with recording_stop(
            lambda error: _record(settings, keys, "patient.erase", outcome="stopped", error=error, patients=tokens)
        ):
            done = eraser.erase(
                given,
                reason=reason.strip(),
                actor=local_principal("officer").subject,
                all_numbers=all_numbers,
                unknown=unknown,
            )
        _record(settings, keys, "patient.erase", certificate=done.id, outcome="finished")
        _show(done, out)
        for other in done.together:
            _record(settings, keys, "patient.erase", certificate=other, outcome="finished")
            out.show(partial(_print_stored, settings.path(settings.certificates), other))


def certificate(
    id_: Annotated[
        str | None, typer.Argument(metavar="ID", help="Of the certificate; without it, all certificates are listed.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an erasure deleted, and which places it does not reach; or list all certificates."""
    from governance.erasure.certificate import load, readable, refuse_damaged
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    folder, out = settings.path(settings.certificates), Output(json)
    if id_ is not None:
        _show(load(folder, id_), out)
        return
    found, damaged = readable(folder)
    out.answer(
        {"certificates": [{"id": c.id, "begun_at": c.begun_at, "reason": c.reason} for c in found]},
        *(f"{done.id}  {done.begun_at}  {done.reason}" for done in found),
        f"{len(found)} certificates in {folder.name}/",
    )
    refuse_damaged(folder, damaged)


def reapply(home: HomeOption = None, json: JsonOption = False) -> None:
    """After a restore, erase again every patient who was erased since the back-up: in lake, online store and scores."""
    from governance.erasure.certificate import readable, refuse_damaged
    from vitalake.errors import PrivacyError

    out = Output(json)
    with _opened(home, tell=out.tell, allow_restored_lake=True) as (eraser, settings, keys, _):
        unfinished = _finish(eraser, settings, keys).errors
        folder = settings.path(settings.certificates)
        found, damaged = readable(folder)  # one damaged file must not keep the other erasures from being applied
        done = eraser.reapply(found)
        _record(settings, keys, "patient.erase", outcome="incomplete" if done.uncertified else "reapplied")
    in_force = done.erasures - len(done.uncertified)
    again = " again" if done.tables or any(done.elsewhere.values()) else ""
    out.answer(
        _plain(done),
        *(f"{t.table}: {t.rows:,} rows removed again, {t.files_deleted:,} older files deleted" for t in done.tables),
        *(f"{name}: {count:,} entries removed again" for name, count in done.elsewhere.items()),
        f"{in_force} {'erasure is' if in_force == 1 else 'erasures are'} in force{again}.",
    )
    if unfinished:
        raise unfinished[0]
    if done.uncertified:
        raise PrivacyError(
            f"{len(done.uncertified)} erasures lack their certificate, so published rows of these patients may remain",
            where=", ".join(done.uncertified),
            remedy="Restore the certificates and run 'vitalake patient reapply' again; if they are lost, run 'vitalake "
            "patient erase' with the id of each patient.",
        )
    refuse_damaged(folder, damaged)


def hold(
    patient: PatientArgument,
    reason: ReasonOption,
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="The last day of the hold, in UTC; without it, it lasts until released."
        ),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Set a legal hold: the patient cannot be erased, and retention keeps the patient's rows.

    A patient can have several, each with its own reason; setting one again with the same reason changes its end.
    """
    from datetime import UTC, timedelta

    from governance.erasure.alone import erasures_locked

    with _opened(home) as (eraser, settings, keys, vault):
        given = _given(patient)
        subject = eraser.subject_of(given)
        end = until.replace(tzinfo=UTC) + timedelta(days=1, microseconds=-1) if until else None  # that day counts
        with _recording_hold(eraser, settings, keys, given, outcome="held"):
            eraser.refuse_words(given, reason)
            with erasures_locked(settings):  # retention deletes by the holds that it has read, a dataset at a time
                before = vault.hold(subject, reason, end)
        standing = vault.holds(subject)
    changed = f", instead of {before.lasts}" if before else ""
    typer.echo(f"Legal hold set {f'until {until:%Y-%m-%d}' if until else 'until it is released'}{changed}.")
    _print_holds(standing)


def release(
    patient: PatientArgument,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Of the hold to end; needed if the patient has several.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """End a patient's legal hold; the others of the patient remain."""
    with _opened(home) as (eraser, settings, keys, vault):
        given = _given(patient)
        subject = eraser.subject_of(given)
        with _recording_hold(eraser, settings, keys, given, outcome="released"):
            standing = vault.release(subject, reason)
    typer.echo("Legal hold released.")
    _print_holds(standing)


def _print_holds(standing: Sequence[Hold]) -> None:
    for one in standing:
        typer.echo(f"The patient is on legal hold {one.lasts} ({one.reason}).")


@contextmanager
def _recording_hold(eraser: Eraser, settings: Settings, keys: KeyRing, given: str, *, outcome: str) -> Iterator[None]:
    """Record in the audit what becomes of a request about holds: the outcome, or that it was refused."""
    from vitalake.errors import InputError

    record = partial(_record, settings, keys, "patient.hold", patients=eraser.tokens_of(given))
    try:
        yield
    except InputError:  # such as a reason that names a patient, or a day that has passed
        record(outcome="refused")
        raise
    record(outcome=outcome)


# -- what they share ---------------------------------------------------------------------------------------------


def _opened(
    home: Path | None,
    *,
    tell: Callable[[str], None] = note,
    allow_restored_lake: bool = False,
    purpose: str = "erasure",
) -> Any:
    @contextmanager
    def opened() -> Iterator[tuple[Eraser, Settings, KeyRing, Vault]]:
        from governance.keyuse import open_vault
        from pipelines.erasure.request import Eraser
        from vitalake.home import Home
        from vitalake.settings import load_settings

        settings = load_settings(resolve_home(home))
        keys = Home(settings).keys
        vault = open_vault(settings, keys, purpose=purpose, allow_restored_lake=allow_restored_lake)
        try:
            yield (
                Eraser(settings, keys, vault, progress=tell),
                settings,
                keys,
                vault,
            )
        finally:
            vault.close()

    return opened()


class _Finished(NamedTuple):
    done: list[Certificate]
    errors: list[VitaLakeError]


def _finish(eraser: Eraser, settings: Settings, keys: KeyRing) -> _Finished:
    """Finish interrupted erasures and report each; a failure does not stop the erasure that was asked for."""
    done, unfinished = eraser.finish()
    for finished in done:
        _record(settings, keys, "patient.erase", certificate=finished.id, outcome="finished")
        note(f"Finished the interrupted erasure {finished.id}, begun {finished.begun_at}")
    for certificate, error in unfinished:
        stop = {"certificate": certificate, "outcome": "stopped", "error": type(error).__name__}
        _record(settings, keys, "patient.erase", **stop)
        note(f"Could not finish the interrupted erasure {certificate}: {error}")
    return _Finished(done, [error for _, error in unfinished])


def _remove_arrivals(eraser: Eraser, settings: Settings, keys: KeyRing, given: str, known: str, out: Output) -> None:
    """Remove what arrived of an erased patient since the erasure, such as messages read again and rejected."""
    tables, elsewhere = eraser.erase_late_arrivals(given)
    _record(settings, keys, "patient.erase", certificate=known, outcome="searched again")
    out.answer(
        {"certificate": known, "tables": [_plain(table) for table in tables], "elsewhere": elsewhere},
        *(
            f"{table.table}: {table.rows:,} rows removed, {table.files_deleted:,} older files deleted"
            for table in tables
        ),
        f"Already erased: see certificate {known}. "
        f"{sum(table.rows for table in tables):,} rows had arrived since then, and were removed.",
    )


def _given(patient: str) -> str:
    return sys.stdin.readline().strip() if patient == "-" else patient


def _record(
    settings: Settings,
    keys: KeyRing,
    action: Any,
    *,
    outcome: str,
    certificate: str = "",
    error: str = "",
    patients: Sequence[str] = (),
) -> None:
    from governance.access.principal import local_principal
    from governance.audit import AuditEvent, open_audit

    who = local_principal("officer")
    more = {"certificate": certificate, "error": error}
    detail = {"outcome": outcome} | {name: text for name, text in more.items() if text}
    event = AuditEvent(action, actor=who.subject, role=who.role, patients=tuple(patients), detail=detail)
    open_audit(settings, keys, writer="patient").record(event)


def _plain(document: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(document)


def _show(done: Certificate, out: Output) -> None:
    out.answer(_plain(done), lambda: print_certificate(done))


def _print_stored(folder: Path, certificate: str) -> None:
    from governance.erasure.certificate import load

    print_certificate(load(folder, certificate))
