"""What a message that was refused may have measured: read leniently, for it may be half broken.

A refused vital sign ends what was known of its part on the ward. What was measured is not looked at, only which codes
are named and of when they are; and whether what has no code that is known could be a vital sign at all: a smoking
status, a medication or an admission on the same topic says nothing of anybody's pulse.
"""

from __future__ import annotations

from pipelines.formats.fhir.unread import about_observation, about_resource
from pipelines.formats.hl7.lenient import plain
from pipelines.formats.hl7.unread import about as about_hl7
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.shared.about import ANYTHING, About, joined
from pipelines.formats.shared.documents import keyed_values, parse_document


def about(payload: bytes, format_name: str, naming: Naming) -> About:
    """Return what a message may have measured.

    Args:
        payload: the message.
        format_name: of its topic.
        naming: knows the formats and their profiles.
    """
    told = naming.reader_of(format_name).about(payload)
    if told is not None:
        return told
    message = parse_document(payload)
    if isinstance(message, bytes):
        return about_hl7(message, plain())
    if isinstance(message, dict) and isinstance(message.get("resourceType"), str):
        return about_resource(message)
    inner = [
        about(value.encode(errors="replace"), format_name, naming)
        for _, value in keyed_values(message)
        if isinstance(value, str) and value.lstrip()[:3].startswith(("MSH", "{"))
    ]
    return joined(inner or [about_observation(message) if isinstance(message, dict) else ANYTHING])
