"""Principals, and the permissions of each role; what is not listed is not allowed.

Each page names the permission that it needs; ``models/serving/authorisation.py`` asks for it at each request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from vitalake.accounts import account
from vitalake.errors import PrivacyError
from vitalake.settings import Settings

Role = Literal["engineer", "officer", "clinician", "privacy-officer"]
ROLES: tuple[Role, ...] = get_args(Role)

Permission = Literal[
    "risk:read",
    "score:write",
    "identity:read",
    "decision:write",
    "audit:read",
    "ledger:read",
    "sql:query",
    "identified:query",
]

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    "clinician": frozenset({"risk:read", "score:write", "identity:read", "decision:write"}),
    "officer": frozenset({"audit:read", "sql:query", "ledger:read"}),
    "engineer": frozenset({"ledger:read", "sql:query"}),
    "privacy-officer": frozenset({"sql:query", "identified:query"}),
}
"""No role has all permissions (separation of duties): a clinician, who reads names, does not read the audit; an
engineer, who maintains the machines, sees no patient's risk."""

ROLE_MEANINGS: dict[Role, str] = {
    "clinician": "treats patients: sees the ward board, and names",
    "officer": "answers for compliance: reads the audit and who saw a patient, erases patients, sees no name",
    "engineer": "keeps the lake and its streams: sees masked rows and the ledger",
    "privacy-officer": "looks into complaints and breaches: asks identified rows, for a purpose that is recorded",
}

PERMISSION_MEANINGS: dict[Permission, str] = {
    "risk:read": "see the ward board, a patient's page and risk",
    "score:write": "have a patient scored now",
    "identity:read": "see the name behind a pseudonym; each look is recorded",
    "decision:write": "decide how NEWS2 is read for a stay: SpO2 scale 2, pregnancy",
    "audit:read": "see on the page Audit who saw a patient",
    "ledger:read": "see on the page Ledger what became of every message and row",
    "sql:query": "ask published rows, by SQL or from Python",
    "identified:query": "ask rows as they came, and have a patient's ids opened; each patient in an answer is recorded",
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or account that asks for something.

    Attributes:
        subject: the name that the issuer of the token or the operating system gives them.
        role: decides what they may do.
        name: shown on pages; always of staff, never of a patient.
        doubt: why they do not get the role that the configuration gives them; empty: they do.
    """

    subject: str
    role: Role
    name: str
    doubt: str = ""

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
    """Raise an error unless the principal has the permission.

    Raises:
        MissingPermission: the role does not have it.
    """
    if principal.may(permission):
        return
    if principal.doubt:
        raise MissingPermission(
            f"The configuration names you, but you could have written it yourself, so it is ignored: {principal.doubt}",
            where=permission,
            remedy="Give it, and all folders above, to another account: see docs/how-to/accounts-and-files.md.",
        )
    holders = " or ".join(sorted(role for role, held in PERMISSIONS.items() if permission in held))
    raise MissingPermission(
        f"Role '{principal.role}' does not allow this", where=permission, remedy=f"Ask somebody with role {holders}."
    )


def local_principal(role: Role = "engineer") -> Principal:
    """Return the principal who runs this process, by the operating system's user id.

    File permissions limit what they can read. Environment variables are not used, for anybody can set them; see
    ``vitalake.accounts`` for user namespaces.

    Args:
        role: the role they act in; the audit records it with the account's name.
    """
    user = account().name
    return Principal(f"local:{user}", role, f"{user} (this machine)")


def local_privacy_officer(settings: Settings) -> Principal:
    """Return the principal who runs this process: a privacy officer if a configuration that they cannot write says so.

    Args:
        settings: with the names of the privacy officers; by default there are none.
    """
    officer = local_principal("officer")
    if officer.subject.removeprefix("local:") not in settings.privacy_officers:
        return officer
    return replace(officer, doubt=settings.doubt) if settings.doubt else local_principal("privacy-officer")
