"""Finds what a refused message may have measured, even if it is damaged.

On the ward a refused vital sign ends the value from before. This module reads codes and times, not the measured values.
If a result has no known code, it decides whether the result could be a vital sign at all: a smoking status, a
medication or an admission on the same topic says nothing about a pulse.
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
        format_name: its topic's format.
        naming: has the readers of formats.
    """
    by_format = naming.reader_of(format_name).about(payload)
    if by_format is not None:
        return by_format
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
