"""The audit: who saw what of whom, in chains that show when somebody has been at them."""

from governance.audit.events import ACTIONS, Action, AuditEvent, AuditSink, BatchAuditSink
from governance.audit.lake_mark import forget_beginning, missed
from governance.audit.reading import ChainReport, Report, Seen, latest, verify_chain, who_saw
from governance.audit.records import AuditBroken
from governance.audit.sink import FileAuditSink, anchor_folder, begin_anew, open_audit

__all__ = [
    "ACTIONS",
    "Action",
    "AuditBroken",
    "AuditEvent",
    "AuditSink",
    "BatchAuditSink",
    "ChainReport",
    "FileAuditSink",
    "Report",
    "Seen",
    "anchor_folder",
    "begin_anew",
    "forget_beginning",
    "latest",
    "missed",
    "open_audit",
    "verify_chain",
    "who_saw",
]
