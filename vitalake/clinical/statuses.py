"""How the status decides which version of a record is current; the statuses of FHIR Observation and of associations."""

from __future__ import annotations

CORRECTED = ("amended", "corrected")
STAGES = (
    ("registered",),
    ("preliminary",),
    ("final", "unknown", "active"),
    (*CORRECTED, "ended"),
    ("cancelled",),
    ("entered-in-error",),
)
"""Stages of a result, for senders that do not number versions: within one version a later stage replaces an earlier."""

LAST_REPORT_COUNTS = (*CORRECTED, "active", "ended")
"""Statuses where, of several records of one version, the last one reported counts; for other statuses the first."""

WITHDRAWN = ("entered-in-error", "cancelled")
"""Statuses of a value that was withdrawn: it is not current, but ``<dataset>_versions`` still shows it."""

WITHOUT_RESULT = ("registered",)
"""Statuses of what is not measured yet: neither training nor the online store uses it."""
