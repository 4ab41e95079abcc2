"""The generated pages of who may do what, of the server's addresses, and of errors and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getdoc
from typing import Any, get_args

from fastapi.routing import APIRoute

from docs.tables import table
from governance.access.principal import PERMISSION_MEANINGS, PERMISSIONS, ROLE_MEANINGS, ROLES, Permission
from models.serving import api, pages, problems, staff
from vitalake.errors import VitaLakeError

_OFFICER = """
## The privacy officer

Privacy officers look into complaints, breaches and wrong associations, where masked rows are not enough. They ask
rows as they came with `vitalake sql --identified --purpose …`, and have devices and patients named by `vitalake
devices … --identified`.

- Nobody is a privacy officer by default. The configuration names accounts in `privacy_officers`, and counts only
  where the account that it names cannot write it: [how to set it
  up](../how-to/accounts-and-files.md#name-a-privacy-officer).
- They state a purpose. It is kept for ever, and one that names a patient is refused.
- Every patient whose rows the answer rests on is recorded before a value is opened. An officer finds that by
  `vitalake audit who-saw`; the privacy officer reads no audit on the server.
- What may be asked, and what is refused: [identified rows](../how-to/versions-and-schema.md#identified-rows).
- The server has no page for them.

## At the machine

The operating system's account says who runs a command. Commands act in a role of their own, which the audit keeps
beside the account: `vitalake audit`, `patient`, `keys` and `dead-letters discard` as officer; `vitalake stream`,
`train`, `devices` and `dead-letters replay` as engineer; `vitalake models approve` as clinician; `vitalake sql` as
officer, or as privacy officer where the configuration names the account. Whether an account may do that at all, the
permissions of the home's files decide: [accounts and files](../how-to/accounts-and-files.md).

## On the server

A token names the role. Today only the development issuer makes tokens, without a password: the server takes no
address that other machines reach. Sign-in with a hospital's identity provider does not exist yet.
"""


def roles_page() -> str:
    """Return the page of roles and what each may do."""
    may = [
        [f"`{permission}`", PERMISSION_MEANINGS[permission]]
        + ["yes" if permission in PERMISSIONS[role] else "" for role in ROLES]
        for permission in get_args(Permission)
    ]
    return (
        "# Roles and permissions\n\nNo role has all permissions; what is not listed is refused.\n\n"
        + table(["role", "who"], [[f"`{role}`", ROLE_MEANINGS[role]] for role in ROLES])
        + "\n"
        + table(["permission", "lets somebody", *ROLES], may)
        + _OFFICER
    )


def http_page() -> str:
    """Return the page of the server's addresses."""
    statuses = [[str(status), title] for status, title in problems.TITLES.items()]
    return (
        "# HTTP\n\n`vitalake serve` answers these. Programs send `Authorization: Bearer <token>`; browsers have a "
        "session after the sign-in. `/v1/openapi.json` describes the endpoints for programs, with their parameters. "
        "How fast and how much may be asked: [what the server refuses](../how-to/serve-a-ward.md#what-it-refuses)."
        "\n\n## For programs\n\n"
        + table(["request", "answer"], list(_routes(api.router)))
        + "\n## Pages\n\n"
        + table(["request", "what it does"], [*_routes(pages.router), *_routes(staff.router)])
        + "\nWhich permission a page or endpoint needs: [roles](roles.md).\n\n## Refusals\n\n"
        "A problem is `application/problem+json` (RFC 9457) for programs, and a page for browsers. It never "
        "repeats what was sent.\n\n" + table(["status", "title"], statuses)
    )


def _routes(router: Any) -> Iterator[list[str]]:
    """Yield a router's requests, with the first sentence of what each does."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            method = ", ".join(sorted(route.methods or ()))
            yield [f"`{method} {route.path}`", _first(route.endpoint)]


def _first(documented: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((getdoc(documented) or "").partition("\n\n")[0].split())


def errors_page() -> str:
    """Return the page of exit codes, and of the errors that end a command with each."""
    kinds = sorted(VitaLakeError.__subclasses__(), key=lambda kind: kind.exit_code)
    rows = [["0", "", "All is well.", ""]]
    rows += [["1", "", "A bug: the type and the frames, without texts that may hold a value.", "report it"]]
    rows += [["2", "", "The command line does not fit.", "`--help`"]]
    rows += [[str(kind.exit_code), f"`{kind.__name__}`", _first(kind), _what_to_do(kind)] for kind in kinds]
    rows += [["130", "", "Ctrl-C.", ""]]
    return (
        "# Errors and exit codes\n\nAn expected error is one line: what happened, where, and what to do. It never "
        "holds a value, a message key or an identifier of a patient. Codes keep their meaning between releases.\n\n"
        + table(["code", "error", "meaning", "what to do"], rows)
        + "\nA stream goes on by itself after what may pass, and waits for what a person can correct while it waits. "
        "Where it cannot go on it ends with the code of its workers' error.\n"
    )


def _what_to_do(kind: type[VitaLakeError]) -> str:
    if kind.transient:
        return "run it again; streams try again by themselves"
    return "correct what the message names; streams wait for that" if kind.correctable else "do what the message says"
