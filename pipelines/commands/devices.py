"""``vitalake devices``: lists devices and their associations with patients, and enters or corrects them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from governance.access import Principal
    from pipelines.reconcile.overview import Device, Version
    from vitalake.settings import Settings

WRITER = "cli"

IdentifiedOption = Annotated[
    bool, typer.Option("--identified", help="Show the ids of devices and patients; for privacy officers, recorded.")
]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Devices whose messages name no patient: which patient each device was with, and when.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("associate")(associate)
    group.command("attribute")(attribute)
    app.add_typer(group, name="devices", no_args_is_help=True)


# -- looking -----------------------------------------------------------------------------------------------------


def list_(
    home: HomeOption = None,
    identified: IdentifiedOption = False,
    limit: Annotated[int, typer.Option(min=1, help="Most devices to list; most held messages first.")] = 50,
    json: JsonOption = False,
) -> None:
    """List devices by pseudonym, with the number of their associations and of the messages that wait for one."""
    from pipelines.reconcile.overview import Overview

    settings = _settings(home)
    if identified:
        _require_identified(settings, {"what": "devices"}, ())
    overview = Overview(settings)
    try:
        found = overview.devices()
    finally:
        overview.close()
    rows = [_row(device, identified=identified) for device in found]
    document = {
        "devices": rows[:limit],
        "total": len(rows),
        "held": sum(device.held for device in found),
    }
    Output(json).answer(
        document,
        f"{document['total']:,} devices; {document['held']:,} messages are held",
        lambda: _print(["device", "associations", "held"], rows[:limit]),
    )


def show(
    device: Annotated[str, typer.Argument(help="The device's pseudonym or id.")],
    home: HomeOption = None,
    identified: IdentifiedOption = False,
    json: JsonOption = False,
) -> None:
    """Show every version of every association of one device."""
    from pipelines.reconcile.overview import Overview
    from vitalake.errors import InputError

    settings = _settings(home)
    overview = Overview(settings)
    try:
        found = overview.find(device)
        if found is None:
            raise InputError("No such device", where="devices show", remedy="See 'vitalake devices list'.")
        versions = overview.versions(found)
        if identified:  # recorded before it is read
            patients = sorted({row.patient for row in versions if row.patient})
            _require_identified(settings, {"what": "device"}, patients)
            versions = overview.versions(found, identified=True)
    finally:
        overview.close()
    rows = [_version(row) for row in versions]
    out = Output(json)
    out.answer(
        _row(found, identified=identified) | {"versions": rows},
        f"{_name(found, identified=identified)}: {found.held:,} messages are held",
    )
    if rows:
        out.show(lambda: _print(list(rows[0]), rows))


def _row(device: Device, *, identified: bool) -> dict[str, Any]:
    return {
        "device": _name(device, identified=identified),
        "associations": device.associations,
        "held": device.held,
    }


def _name(device: Device, *, identified: bool) -> str:
    """Return the id or pseudonym of a device; a word in brackets for several devices, or if it cannot be opened."""
    if not device.key:
        return "(several at once)"
    return (device.name if identified else device.token) or "(cannot be opened)"


def _version(row: Version) -> dict[str, Any]:
    return {
        "from": row.valid_from.isoformat(),
        "until": row.valid_to.isoformat() if row.valid_to else None,
        "status": row.status,
        "patient": row.patient,
        "encounter": row.encounter,
        "known": row.available_at.isoformat(),
        "version": row.version,
    }


def _print(names: list[str], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in ("associations", "held") else "left")
    for row in rows:
        cells = ("" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell for cell in row.values())
        table.add_row(*map(Text, cells))
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 220).print(table)


# -- entering associations ---------------------------------------------------------------------------------------


def associate(
    device: Annotated[str, typer.Option(help="The device's id, as its messages have it; a bed: bed:UNIT/ROOM/BED.")],
    patient: Annotated[str, typer.Option(help="The patient's id at its source.")],
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="Begin of the association, with its time zone.")],
    encounter: Annotated[str | None, typer.Option(help="The id of the stay.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="End of the association, exclusive; default: it goes on.")
    ] = None,
    entered_in_error: Annotated[
        bool,
        typer.Option("--entered-in-error", help="Withdraw the association, as an error. Its values are held again."),
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Enter that a device was with a patient. An entry for the same device and begin replaces the earlier entry."""
    from governance.access import local_principal
    from governance.audit import AuditEvent, open_audit
    from governance.belonging import admit
    from governance.policy.masks import Pseudonyms
    from pipelines.reconcile.entering import Entry, checked, enter
    from vitalake.home import Home

    settings = _settings(home)
    entry = checked(
        Entry(device, patient, encounter, _moment(since, "--from"), _moment(until, "--until"), entered_in_error)
    )
    admit(settings, identified=True)
    keys = Home(settings).keys
    who = local_principal("engineer")
    detail = {"device": _digest(Pseudonyms(keys, "device-identifier").token(device))}
    token = Pseudonyms(keys, "patient-identifier").token(patient)
    audit = open_audit(settings, keys, writer=WRITER)
    audit.record(AuditEvent("devices.associate", who.subject, who.role, (token,), detail))
    enter(settings, [entry])
    out = Output(json)
    out.answer({"associated": 1})
    out.tell("Entered. A running stream now gives held and wrongly attributed values to the patient;")
    out.tell("'vitalake devices attribute' does it at once.")


def attribute(home: HomeOption = None, json: JsonOption = False) -> None:
    """Attribute held messages, and values whose association has changed, to their patients, as running streams do."""
    from pipelines.reconcile.reconciler import attribute_once

    settings = _settings(home)
    report = attribute_once(settings, actor=_local().subject)
    document = {
        "devices": report.devices,
        "released": report.released,
        "rows": report.rows,
        "moved": report.moved,
        "spans": report.spans,
    }
    Output(json).answer(
        document,
        f"{report.released:,} held messages have a patient now ({report.rows:,} rows); "
        f"{report.moved:,} rows written because a value belongs to another patient",
    )


def _moment(text: str | None, option: str) -> Any:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        message = "write a time with its zone: 2026-11-23T19:00:00Z"
        raise typer.BadParameter(message, param_hint=option)
    return moment


def _digest(token: str) -> str:
    """Return a digest that stands for a device in the audit, which must not contain pseudonyms of the lake."""
    import hashlib

    return hashlib.sha256(token.encode()).hexdigest()[:16]


def _settings(home: Any) -> Settings:
    from vitalake.settings import load_settings

    return load_settings(resolve_home(home))


def _local() -> Principal:
    from governance.access import local_principal

    return local_principal("engineer")


def _require_identified(settings: Settings, detail: dict[str, str], patients: Any) -> None:
    """Require the permission to see ids, and record the access; a refusal is recorded, too.

    Raises:
        MissingPermission: the account has no such permission.
    """
    from governance.access import MissingPermission, local_privacy_officer, require
    from governance.audit import AuditEvent, open_audit
    from vitalake.home import Home

    who = local_privacy_officer(settings)
    audit = open_audit(settings, Home(settings).keys, writer=WRITER)
    try:
        require(who, "identified:query")
    except MissingPermission as error:
        audit.record(AuditEvent("denied", who.subject, who.role, tuple(patients), {"permission": error.permission}))
        raise
    audit.record(AuditEvent("devices.identify", who.subject, who.role, tuple(patients), detail))
