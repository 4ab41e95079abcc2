"""The audit: records who has seen which patient's data, in tamper-evident chains."""

from governance.audit.ending import recording_stop
from governance.audit.events import ACTIONS, Action, AuditEvent, AuditSink, BatchAuditSink, is_code
from governance.audit.lake_mark import beginning_mismatch, forget_beginning
from governance.audit.listing import Seen, latest, who_saw
from governance.audit.records import AuditBroken
from governance.audit.sink import FileAuditSink, anchor_folder, open_audit, set_audit_aside
from governance.audit.verification import ChainReport, Report, verify_chain

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
    "beginning_mismatch",
    "forget_beginning",
    "is_code",
    "latest",
    "open_audit",
    "recording_stop",
    "set_audit_aside",
    "verify_chain",
    "who_saw",
]
