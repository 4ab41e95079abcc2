"""The audit: who saw what of whom, in chains that show when somebody has been at them."""

from governance.audit.events import ACTIONS, Action, AuditEvent, AuditSink

__all__ = ["ACTIONS", "Action", "AuditEvent", "AuditSink"]
