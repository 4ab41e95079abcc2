"""Looks up the name behind a pseudonym, for people who treat the patient; records each look-up before it is made."""

from __future__ import annotations

from governance.access.principal import MissingPermission, Principal, require
from governance.audit.events import AuditEvent, AuditSink
from governance.vault import Identity, Vault


class IdentityLookup:
    """Looks up identities for users; no other code reads names from the vault for them."""

    def __init__(self, vault: Vault, audit: AuditSink) -> None:
        self._vault, self._audit = vault, audit

    def identity(self, principal: Principal, patient: str) -> Identity | None:
        """Return a patient's identity; None: the vault does not know the patient.

        The look-up is recorded before it is made, whether or not it finds somebody.

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
        """Return a patient's name; empty: the vault does not know it. The caller must have recorded the read already.

        Raises:
            VitaLakeError: the vault cannot be read.
        """
        found = self._vault.look_up(patient)
        return found.name or "" if found else ""
