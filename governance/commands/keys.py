"""``vitalake keys``: the keys that wrap patients' keys: make, show, rotate, revoke and restore them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output, note
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from pathlib import Path

    from governance.belonging import Belonging
    from governance.vault.status import VaultStatus
    from vitalake.errors import VitaLakeError
    from vitalake.keys import KeyRing
    from vitalake.settings import Settings

_SHOW_EVERY = 50_000
"""A rotation reports its progress each time it has wrapped so many keys."""


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="The keys of the vault: make, show, rotate, revoke and restore them.")
    group.command("init")(init)
    group.command("status")(status)
    group.command("rotate")(rotate)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys", no_args_is_help=True)


def init(home: HomeOption = None, json: JsonOption = False) -> None:
    """Make whatever is missing of key file, key service and vault, and test them; what exists stays as it is."""
    from governance.keyuse import open_vault
    from vitalake.keys import add_missing_keys, create_key_file, load_keys
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    path, made = settings.path(settings.keys), []
    if path.exists():
        made += [f"{path.name}: {name}" for name in add_missing_keys(path)]
    else:
        create_key_file(path)
        made.append(path.name)
    made += _make_service(settings)
    before = _look(settings)
    vault = open_vault(settings, load_keys(path), purpose="init")
    try:
        vault.check()
        if before is None or not before.keys:
            made.append("vault key v1")
    finally:
        vault.close()
    fit = "Key file, key service and vault fit together."
    fit = fit if made else f"Nothing was missing. {fit}"
    Output(json).answer({"made": made}, *(f"made  {name}" for name in made), fit)


def _make_service(settings: Settings) -> list[str]:
    """Make the file of a local key service, unless the vault still needs the keys of a file that is lost.

    Raises:
        PrivacyError: the vault needs the keys of a file that is lost.
    """
    from governance.keyservice.local import create_local_service
    from vitalake.errors import PrivacyError

    path = settings.path(settings.key_service.path)
    if settings.key_service.kind != "local" or path.exists():
        return []
    if (found := _look(settings)) is not None and found.keys:
        raise PrivacyError(
            "Key service's file is gone, and the vault needs it",
            where=path.name,
            remedy=f"Restore the file with {found.keys[-1].key_id}; with a new file no patient's value could be read.",
        )
    create_local_service(path)
    return [path.name]


def status(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show versions, states, ages and counts of keys; never a secret. Ends with the exit code of the first problem."""
    from governance.keyservice import open_key_service
    from vitalake.errors import VitaLakeError

    settings, keys = _open(home)
    service, found, refused = open_key_service(settings), _look(settings), None
    try:
        versions = [_plain(version) for version in service.status()]
    except VitaLakeError as error:
        versions, refused = [], error
    erasures, gap = _look_at_log(settings, keys, found)
    belonging = _look_at_lake(settings, keys)
    document = {
        "key_file": {name: [key.version for key in ring] for name, ring in keys.keys.items()},
        "key_service": {"kind": service.kind, "error": str(refused) if refused else None, "versions": versions},
        "vault": None if found is None else _plain(found),
        "erasure_log": {"entries": erasures, "error": str(gap) if gap else None},
        "lake": {
            "known": belonging.known,
            "keys": belonging.keys,
            "errors": [str(error) for error in (*belonging.problems, *belonging.damaged)],
        },
    }
    Output(json).answer(document, lambda: _print_status(document, found, refused))
    if trouble := next((error for error in (*belonging.problems, *belonging.damaged, refused, gap) if error), None):
        raise typer.Exit(trouble.exit_code)


def _look_at_lake(settings: Settings, keys: KeyRing) -> Belonging:
    """Return whether this home's keys and vault are those that the lake was written with."""
    from governance.belonging import Belonging, examine_belonging
    from vitalake.errors import ServiceUnavailable

    try:
        return examine_belonging(settings, keys)
    except OSError as error:
        where, remedy = "settings.lake", "Check its address and disk."
        trouble = ServiceUnavailable(f"Lake cannot be reached ({type(error).__name__})", where=where, remedy=remedy)
        return Belonging(False, [], [trouble])


def _look_at_log(
    settings: Settings, keys: KeyRing, found: VaultStatus | None
) -> tuple[int | None, VitaLakeError | None]:
    """Return how many erasures the log that is kept apart has; and what is wrong with it."""
    from governance.vault.erasure_log import ErasureLog, missing_entries
    from vitalake.errors import VitaLakeError

    log = ErasureLog(settings.path(settings.erasures), keys.current("vault").secret)
    try:
        entries = len(log.entries())
    except VitaLakeError as error:
        return None, error
    known = 0 if found is None else found.erased
    return entries, missing_entries(log.name, entries=entries, known=known) if entries < known else None


def rotate(home: HomeOption = None, json: JsonOption = False) -> None:
    """Wrap every patient's key with a new vault key and destroy the old ones; only the vault changes.

    If it was interrupted, run it again.
    """
    from governance.audit import recording_stop
    from governance.keyuse import open_vault

    settings, keys = _open(home)
    _record(settings, keys, "keys.rotate", outcome="begun")
    reported = [0]

    def progress(wrapped: int) -> None:
        if wrapped - reported[0] >= _SHOW_EVERY:
            reported[0] = wrapped
            note(f"{wrapped:,} patients' keys wrapped …")

    with recording_stop(lambda error: _record(settings, keys, "keys.rotate", outcome="stopped", error=error)):
        vault = open_vault(settings, keys, purpose="rotate")
        try:
            wrapped = vault.rotate(progress)
            found = vault.status()
        finally:
            vault.close()
    current = found.keys[-1]
    _record(settings, keys, "keys.rotate", outcome="finished", version=f"v{current.version}")
    out = Output(json)
    out.answer(
        {"wrapped": wrapped, "patients": found.patients, "version": current.version, "key_id": current.key_id},
        f"Vault key v{current.version}, wrapped by {current.key_id}, holds the keys of {found.patients:,} patients "
        f"({wrapped:,} were wrapped now); the older vault keys are destroyed.",
    )
    if settings.key_service.kind == "local":
        out.tell("Back up vault and key service now: earlier back-ups of the vault need a key that no longer exists.")


def revoke(
    undo: Annotated[bool, typer.Option("--undo", help="Make the key usable again.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke the wrapping key: within a second no process can read or write identified data; streams pause."""
    from governance.keyservice import open_key_service

    settings, keys = _open(home)
    service, found = open_key_service(settings), _look(settings)
    used = [] if found is None else [key.key_id for key in found.keys]
    if undo:
        _record(settings, keys, "keys.restore")
        service.restore(used)
    else:
        service.revoke(used)  # before the record: an audit that cannot be written must not delay it
        _record(settings, keys, "keys.revoke")
    Output(json).answer(
        {"kind": service.kind, "state": "enabled" if undo else "revoked"},
        "The key can be used again; paused streams go on by themselves."
        if undo
        else "Revoked. Within a second nobody can use a patient's key. To undo this: vitalake keys revoke --undo",
    )


def _open(home: Path | None) -> tuple[Settings, KeyRing]:
    from vitalake.home import Home
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    return settings, Home(settings).keys


def _look(settings: Settings) -> VaultStatus | None:
    from governance.vault.opening import look_at_vault

    return look_at_vault(settings)


def _record(settings: Settings, keys: KeyRing, action: Any, **detail: str) -> None:
    from governance.access import local_principal
    from governance.audit import AuditEvent, open_audit

    who = local_principal("officer")
    open_audit(settings, keys, writer="keys").record(AuditEvent(action, who.subject, who.role, (), detail))


def _plain(found: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(found)


def _print_status(document: dict[str, Any], found: VaultStatus | None, refused: VitaLakeError | None) -> None:
    service = document["key_service"]
    typer.echo(f"Key service ({service['kind']})")
    for version in service["versions"]:
        current = ", in use" if version["current"] else ""
        typer.echo(f"  {version['key_id']}: {version['state']}{current}; made {_ago(version['made_at'])}")
    if refused is not None:
        typer.echo(f"  {refused}")
    typer.echo("Vault")
    if found is None:
        typer.echo("  there is none yet")
    else:
        for key in document["vault"]["keys"]:
            wrapped = f"wrapped by {key['key_id']}; made {_ago(key['made_at'])}"
            typer.echo(f"  v{key['version']}: keys of {key['patients']:,} patients; {wrapped}")
        typer.echo(
            f"  {found.patients:,} patients, {found.identities:,} with a name; {found.erased:,} erased, "
            f"{found.pending:,} of them not completely; {found.held:,} on legal hold"
        )
        if found.rotating:
            typer.echo("  A rotation is not finished: run 'vitalake keys rotate'.")
    log = document["erasure_log"]
    typer.echo(log["error"] or f"Erasure log: {log['entries']:,} entries")
    lake = document["lake"]
    belongs = f"written with this vault and {', '.join(lake['keys'])}" if lake["known"] else "does not know a home yet"
    typer.echo("Lake: " + ("; ".join(lake["errors"]) or belongs))
    typer.echo("Key file: " + ", ".join(f"{name}/{versions[-1]}" for name, versions in document["key_file"].items()))


def _ago(moment: str) -> str:
    from datetime import datetime

    from vitalake import clock

    made = datetime.fromisoformat(moment)
    days = (clock.now() - made).days
    return f"{made:%Y-%m-%d} ({'today' if days < 1 else f'{days} days ago'})"
