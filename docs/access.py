"""Generates the pages of roles and permissions, of the server's HTTP requests, and of errors and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getdoc
from typing import Any, get_args

from fastapi.routing import APIRoute

from docs.tables import table
from governance.access.principal import PERMISSION_MEANINGS, PERMISSIONS, ROLE_MEANINGS, ROLES, Permission
from models.serving import api, problems
from models.serving.pages import session
from models.serving.pages.base import Page, RoutedPage
from models.serving.pages.registry import OURS, registered_pages
from vitalake.errors import VitaLakeError

_OFFICER = """
## The privacy officer

Privacy officers investigate complaints, breaches and wrong associations, where masked rows are not enough. They query
unmasked rows with `vitalake sql --identified --purpose …`, and see the ids of devices and patients with
`vitalake devices … --identified`.

- By default nobody is a privacy officer. The configuration names accounts in `privacy_officers`. It counts only for
  an account that cannot write the configuration: [how to set it
  up](../how-to/accounts-and-files.md#name-a-privacy-officer).
- They state a purpose. It is kept for ever; a purpose that names a patient is refused.
- Every patient whose rows the answer rests on is recorded before a value is opened. An officer finds these records by
  `vitalake audit who-saw`; the privacy officer cannot read the audit on the server.
- Which queries are allowed, and which are refused: [identified rows](../how-to/versions-and-schema.md#identified-rows).
- The server has no page for privacy officers.

## On the command line

The account of the operating system says who runs a command. Each command acts in a role, which the audit records with
the account: `vitalake audit`, `patient`, `keys` and `dead-letters discard` as officer; `vitalake stream`,
`train`, `devices` and `dead-letters replay` as engineer; `vitalake models approve` as clinician. Whoever asks published
rows, with `vitalake sql` or from Python, asks as engineer; `vitalake sql --identified` acts as privacy officer if the
configuration names the account, and is refused to others. The permissions of the home's files decide whether an account
can run a command at all: [accounts and files](../how-to/accounts-and-files.md).

## On the server

A token names the role. Today only the development issuer makes tokens, without a password. The server therefore
listens only on addresses that other machines cannot reach. Sign-in with a hospital's identity provider does not exist
yet.
"""


def roles_page() -> str:
    """Return the page of roles, and what each may do."""
    rights = [
        [f"`{permission}`", PERMISSION_MEANINGS[permission]]
        + ["yes" if permission in PERMISSIONS[role] else "" for role in ROLES]
        for permission in get_args(Permission)
    ]
    return (
        "# Roles and permissions\n\nNo role has all permissions. What is not listed is refused.\n\n"
        + table(["role", "who"], [[f"`{role}`", ROLE_MEANINGS[role]] for role in ROLES])
        + "\n"
        + table(["permission", "allows to", *ROLES], rights)
        + _OFFICER
    )


def http_page() -> str:
    """Return the page of the server's requests."""
    statuses = [[str(status), title] for status, title in problems.TITLES.items()]
    return (
        "# HTTP\n\n`vitalake serve` answers these requests. Programs send `Authorization: Bearer <token>`; browsers "
        "have a session after the sign-in. `/v1/openapi.json` describes the endpoints for programs, with their "
        "parameters. Limits: [what the server refuses](../how-to/serve-a-ward.md#what-it-refuses)."
        "\n\n## For programs\n\n"
        + table(["request", "answer"], list(_routes(api.router)))
        + "\n## Pages\n\n"
        + table(["request", "what it does"], [*_routes(session.router), *_pages()])
        + "\nInstalled packages can register [further pages](../how-to/write-a-page.md). Which permission a page or "
        "endpoint needs: [roles](roles.md).\n\n## Refusals\n\n"
        "A refusal is `application/problem+json` (RFC 9457) for programs, and a page for browsers. It never "
        "repeats what was sent.\n\n" + table(["status", "title"], statuses)
    )


def _routes(router: Any) -> Iterator[list[str]]:
    """Yield the requests of a router, with the first paragraph of their docstring."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            method = ", ".join(sorted(route.methods or ()))
            yield [f"`{method} {route.path}`", _first(route.endpoint)]


def _pages() -> Iterator[list[str]]:
    """Yield the requests of the project's pages."""
    for page in registered_pages():
        if isinstance(page, RoutedPage):
            yield from _routes(page.router())
        elif isinstance(page, Page) and page.name in OURS:
            yield [f"`GET {page.path}`", page.description]


def _first(documented: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((getdoc(documented) or "").partition("\n\n")[0].split())


def errors_page() -> str:
    """Return the page of exit codes, and of the errors that end a command with each."""
    kinds = sorted(VitaLakeError.__subclasses__(), key=lambda kind: kind.exit_code)
    rows = [["0", "", "Success.", ""]]
    rows += [
        ["1", "", "A bug; the command prints its type and frames, but no text that may hold a value.", "report it"]
    ]
    rows += [["2", "", "The command line is not valid.", "run it with `--help`"]]
    rows += [[str(kind.exit_code), f"`{kind.__name__}`", _first(kind), _what_to_do(kind)] for kind in kinds]
    rows += [["130", "", "Ctrl-C.", ""]]
    return (
        "# Errors and exit codes\n\nAn expected error is one line: what happened, where, and what to do. It never "
        "shows a value, a message key or an identifier of a patient. Codes keep their meaning between releases.\n\n"
        + table(["code", "error", "meaning", "what to do"], rows)
        + "\nAfter an error that can pass, a stream tries again by itself. If a person can correct the cause, it waits "
        "for that. After any other error it ends, with the exit code of its workers' error.\n"
    )


def _what_to_do(kind: type[VitaLakeError]) -> str:
    if kind.transient:
        return "run it again; streams try again by themselves"
    return "correct what the message names; streams wait for that" if kind.correctable else "do what the message says"
