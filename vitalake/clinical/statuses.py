"""What the status of a record says of which of its versions counts; of FHIR's observation and of associations."""

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
"""How far a result has come, for senders who count no versions: of one version the later stage replaces the earlier."""

TOLD_ANEW = (*CORRECTED, "active", "ended")
"""Of several of these of one version the one told last counts: of results that are none, the one told first."""

TAKEN_BACK = ("entered-in-error", "cancelled")
"""What was withdrawn is no current value; ``<dataset>_versions`` still shows it."""

WITHOUT_RESULT = ("registered",)
"""What was not measured yet: neither training nor the care store takes it."""
