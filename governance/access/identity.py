"""From a pseudonym to a name: for people who treat the patient, and on record before it is read."""

from __future__ import annotations

from governance.access.principal import MissingPermission, Principal, require
from governance.audit.events import AuditEvent, AuditSink
from governance.vault import Identity, Vault


class IdentityLookup:
    """The only reader of the vault on behalf of a user."""

    def __init__(self, vault: Vault, audit: AuditSink) -> None:
        self._vault, self._audit = vault, audit

    def identity(self, principal: Principal, patient: str) -> Identity | None:
        """Return who a patient is; None: the vault does not know. Asking is recorded first, also in vain.

        Args:
            principal: who asks; needs ``identity:read``.
            patient: the published pseudonym.

        Raises:
            MissingPermission: the role does not allow it; that is recorded too.
            VitaLakeError: the audit cannot be written; the vault was not read.
        """
        try:
            require(principal, "identity:read")
        except MissingPermission as error:
            refused = {"permission": error.permission}
            self._audit.record(AuditEvent("denied", principal.subject, principal.role, (patient,), refused))
            raise
        self._audit.record(AuditEvent("identity.read", principal.subject, principal.role, (patient,)))
        return self._vault.look_up(patient)

    def name(self, patient: str) -> str:
        """Return a patient's name, after the caller has recorded who reads it; empty: the vault does not know.

        Raises:
            VitaLakeError: the vault cannot be read.
        """
        found = self._vault.look_up(patient)
        return found.name or "" if found else ""
