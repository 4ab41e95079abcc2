"""MSH: which message it is, when it was sent, and by which clock."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.formats.hl7.profile import Hl7Profile
from pipelines.formats.hl7.text import Segment
from pipelines.formats.hl7.times import Moment, in_order, instant, read_time
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.reasons import Reason


class Header(NamedTuple):
    """What MSH says.

    Attributes:
        kind: ORU, ADT …
        event: R01, A01 …
        sender: facility and application, for numbers that no authority assigned.
        offset_minutes: of MSH-7; that of every time in the message that has none.
        order_us: MSH-7, for telling versions apart; None without it.
        sent: MSH-7 as an instant; None without it, or where its clock does not tell.
    """

    kind: str
    event: str
    sender: str
    offset_minutes: int | None
    order_us: int | None
    sent: Moment | None


def header_of(msh: Segment, profile: Hl7Profile) -> Header:
    """Return what MSH says.

    Raises:
        Refused: MSH-7 is no time; MSH-11 says that it is a test.
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
