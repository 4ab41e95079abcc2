"""Reads MSH: the type of a message, its time, and its time zone."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.hl7.text import Segment
from pipelines.formats.hl7.times import Moment, in_order, instant, read_time
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.reasons import Reason


class Header(NamedTuple):
    """The fields of MSH that are used.

    Attributes:
        kind: ORU, ADT …
        event: R01, A01 …
        sender: facility and application; they qualify numbers without an assigning authority.
        offset_minutes: offset of MSH-7, which applies to every time in the message without an offset.
        order_us: MSH-7 for ordering versions; None without it.
        sent: MSH-7 as an instant; None without it, or if its zone is not known or its local time is ambiguous.
    """

    kind: str
    event: str
    sender: str
    offset_minutes: int | None
    order_us: int | None
    sent: Moment | None


def header_of(msh: Segment, profile: Hl7Profile) -> Header:
    """Read MSH.

    Raises:
        Refused: MSH-7 is not a time, or MSH-11 marks a test that the profile does not take.
    """
    if not profile.takes(msh.dialect.components(msh.raw(11))[0]):
        raise Refused(Reason.WRONG_RESOURCE, "MSH-11")
    kind, event = (*msh.dialect.components(msh.raw(9)), "")[:2]
    sender = f"{msh.first(4)}|{msh.first(3)}"
    text = msh.first(7)
    if not text:
        return Header(kind, event, sender, None, None, None)
    try:
        written = read_time(text)
    except Refused as refused:
        raise Refused(refused.reason, "MSH-7") from None
    try:
        sent = instant(written, offset_minutes=None, clock=profile.clock)
    except Refused:
        sent = None
    return Header(kind, event, sender, written.offset_minutes, in_order(written, profile.clock), sent)
