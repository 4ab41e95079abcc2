"""``vitalake models``: approves a learnt score for the clinicians of a unit, withdraws it, and lists approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitalake.accounts import Account, account
from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.errors import PrivacyError
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from governance.audit import Action
    from models.approvals import Approval
    from vitalake.keys import KeyRing
    from vitalake.settings import Settings

TaskArgument = Annotated[str, typer.Argument(help="A task of the project or of the home, such as mortality.")]
UnitOption = Annotated[str, typer.Option("--unit", help="The ward, by the name that stays have.")]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Approve a learnt score for the clinicians of a unit, withdraw it, and list approvals.")
    group.command("approve")(approve)
    group.command("withdraw")(withdraw)
    group.command("approvals")(approvals)
    app.add_typer(group, name="models", no_args_is_help=True)


def approve(
    task: TaskArgument,
    unit: UnitOption,
    events: Annotated[int, typer.Option(min=0, help="Events in the site's validation; below 100 give a --reason.")],
    report: Annotated[str, typer.Option(help="Where to read that validation, such as the number of a document.")],
    reason: Annotated[str, typer.Option(help="Why fewer than 100 events are enough; name no patient in it.")] = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Approve the served model with your account; clinicians see its score when two accounts have approved it."""
    from models.approvals import NEEDED, approval, standing_approvals
    from models.registry import champion
    from models.tasks import load_task
    from vitalake.errors import ModelError

    who, by = _who()
    if who.mapped:  # by nested user namespaces one person could act as any number of accounts
        raise PrivacyError(
            "Only accounts of this machine can approve, and this process is in a user namespace",
            where="vitalake models approve",
            remedy="Run the command outside of the container.",
        )
    settings, keys = _opened(home)
    model = champion(settings, load_task(task))
    if model is None:
        raise ModelError("No model is registered", where=f"task {task}", remedy=f"Run 'vitalake train {task}' first.")
    entry = approval(
        task=task,
        model=model.label,
        digest=model.digest,
        unit=unit,
        account=who.number,
        by=by,
        events=events,
        report=report,
        reason=reason,
    )
    _refuse_naming(f"{reason} {report}", settings, keys, where="--reason, --report", wanted="models.approve")
    entries = _add(settings, keys, entry)
    standing = standing_approvals(entries, task=task, digest=model.digest, unit=entry.unit)
    rest = NEEDED - len(standing)
    Output(json).answer(
        {"model": model.label, "unit": entry.unit, "approvals": len(standing), "needed": NEEDED},
        f"{model.label} in {entry.unit}: approved by {' and '.join(one.by for one in standing)}."
        + (
            " It stays in shadow mode until another account approves it too." if rest > 0 else " Clinicians see it now."
        ),
    )


def withdraw(
    task: TaskArgument,
    unit: UnitOption,
    reason: Annotated[str, typer.Option(help="Why; name no patient in it.")],
    home: HomeOption = None,
) -> None:
    """End all approvals of a task for a unit; screens hide its score within a second. One account is enough."""
    from models.approvals import withdrawal

    settings, keys = _opened(home)
    who, by = _who()
    entry = withdrawal(task=task, unit=unit, account=who.number, by=by, reason=reason)
    _refuse_naming(reason, settings, keys, where="--reason", wanted="models.withdraw")
    _add(settings, keys, entry)
    typer.echo(f"{task} in {unit}: withdrawn. It is in shadow mode.")


def approvals(home: HomeOption = None, json: JsonOption = False) -> None:
    """List all approvals and withdrawals, oldest first."""
    from datetime import UTC, datetime

    from models.approvals import Approvals

    settings, keys = _opened(home)
    book = Approvals(settings.home, keys)
    try:
        entries = book.entries()
    finally:
        book.close()
    found = [
        {
            "at": datetime.fromtimestamp(entry.at_us / 1e6, UTC).isoformat(timespec="seconds"),
            "step": entry.step,
            "model": entry.model or entry.task,
            "unit": entry.unit,
            "by": entry.by,
            "account": entry.account,
            "events": entry.events,
            "report": entry.report,
            "reason": entry.reason,
        }
        for entry in entries
    ]
    Output(json).answer({"approvals": found}, *map(_line, found), f"{len(found)} entries.")


def _line(one: dict[str, Any]) -> str:
    why = f", {one['reason']}" if one["reason"] else ""
    based = f", {one['events']} events, {one['report']}" if one["step"] == "approve" else ""
    return f"{one['at']}  {one['step']:8}  {one['model']} in {one['unit']}, by {one['by']}{based}{why}"


def _opened(home: HomeOption) -> tuple[Settings, KeyRing]:
    from vitalake.home import Home
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    return settings, Home(settings).keys


def _who() -> tuple[Account, str]:
    """Return the account that runs this, and its name in the audit; both come from the kernel, not the environment."""
    from governance.access.principal import local_principal

    return account(), local_principal("clinician").subject


def _refuse_naming(text: str, settings: Settings, keys: KeyRing, *, where: str, wanted: Action) -> None:
    """Stop if a text names a patient; the refusal is recorded first."""
    from governance.access.principal import local_principal
    from governance.audit import open_audit
    from governance.erasure.reasons import refuse_naming_if_known

    audit = open_audit(settings, keys, writer="models")
    by = local_principal("clinician")
    refuse_naming_if_known(text, settings, keys, where=where, wanted=wanted, by=by, record=audit.record)


def _add(settings: Settings, keys: KeyRing, entry: Approval) -> list[Approval]:
    """Record an entry in the audit, write it to the book, and return all entries of the book."""
    from governance.audit import AuditEvent, open_audit
    from models.approvals import Approvals

    detail = {"task": entry.task, "unit": _code(entry.unit), "account": str(entry.account)}
    if entry.step == "approve":
        detail |= {"model": entry.model, "digest": entry.digest, "events": str(entry.events)}
    audit = open_audit(settings, keys, writer="models")
    action: Action = "models.approve" if entry.step == "approve" else "models.withdraw"
    audit.record(AuditEvent(action, entry.by, "clinician", (), detail))
    book = Approvals(settings.home, keys)
    try:
        book.add(entry)
        return book.entries()
    finally:
        book.close()


def _code(text: str) -> str:
    """Return a text with all characters that the audit does not allow replaced by ?."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in " _.,:+/()-") else "?" for letter in text
    )
