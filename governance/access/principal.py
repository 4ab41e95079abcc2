"""Principals and what their role lets them do; what is not listed is not allowed."""

from __future__ import annotations

import getpass
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from vitalake.errors import PrivacyError

Role = Literal["engineer", "officer", "clinician", "privacy-officer"]
ROLES: tuple[Role, ...] = get_args(Role)

Permission = Literal[
    "risk:read", "score:write", "identity:read", "audit:read", "ledger:read", "sql:query", "identified:query"
]

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    "clinician": frozenset({"risk:read", "score:write", "identity:read"}),
    "officer": frozenset({"audit:read", "sql:query", "ledger:read"}),
    "engineer": frozenset({"ledger:read", "sql:query"}),
    "privacy-officer": frozenset({"sql:query", "identified:query"}),
}
"""Nobody has all: who reads names does not read the audit, who keeps the machines sees no risk of a person."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks for something.

    Attributes:
        subject: who, as the issuer of the token or the operating system calls them.
        role: what they are; decides what they may do.
        name: to show on a page; staff, never a patient.
    """

    subject: str
    role: Role
    name: str

    def may(self, permission: Permission) -> bool:
        """Return whether the role has the permission."""
        return permission in PERMISSIONS[self.role]


class MissingPermission(PrivacyError):
    """The role does not allow it."""

    @property
    def permission(self) -> str:
        """Return the permission that is missing."""
        return self.where


def require(principal: Principal, permission: Permission) -> None:
    """Return if the principal has the permission.

    Raises:
        MissingPermission: the role does not have it.
    """
    if not principal.may(permission):
        holders = " or ".join(sorted(role for role, held in PERMISSIONS.items() if permission in held))
        raise MissingPermission(
            f"Role '{principal.role}' does not allow this",
            where=permission,
            remedy=f"Ask somebody with role {holders}.",
        )


def local_principal(role: Role = "engineer") -> Principal:
    """Return who sits at this machine; they reach published data and the audit by its files, no names.

    Args:
        role: what they act as; the audit keeps it beside the account's name.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without an entry, as in some containers
        user = "unknown"
    return Principal(f"local:{user}", role, f"{user} (this machine)")


def local_privacy_officer(accounts: Collection[str]) -> Principal:
    """Return who sits at this machine, as a privacy officer if the configuration says that they are one.

    Args:
        accounts: of privacy officers; nobody is one by default.
    """
    somebody = local_principal("officer")
    account = somebody.subject.removeprefix("local:")
    return local_principal("privacy-officer") if account in accounts else somebody
